"""One's own account: password and second factor."""

from __future__ import annotations

from engine.errors import PermissionDenied
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.people.second_factor import enrolment_uri
from engine.records import Caller, Enrolment, SecondFactor
from engine.store.audit import Event


class OwnAccount:
    """What everybody does to their own account. A change of a proof ends the other sessions."""

    def __init__(self, context: Context, guard: Guard) -> None:
        self._accounts = context.accounts
        self._audit = context.audit
        self._database = context.database
        self._factors = context.factors
        self._lockout = context.lockout
        self._sessions = context.sessions
        self._guard = guard

    @needs(None, enrolling=True)
    def change_password(self, caller: Caller, old: str, new: str) -> None:
        """Change one's own password; other sessions end.

        Raises:
            PermissionDenied: The old one is wrong.
            InputError: The new one breaks the rules.
        """
        self._ask_password(caller, old, "account.change-password")
        with self._database.write() as tx:
            self._accounts.set_password(tx, caller.username, new)
            ended = self._sessions.end_all(tx, caller.username, keep=caller.session_id)
            self._audit.append(tx, caller, Event("account.change-password"))
        self._guard.forget_sessions(ended)

    @needs(None, enrolling=True)
    def second_factor(self, caller: Caller) -> SecondFactor:
        """State of one's own second factor."""
        return self._factors.state(caller.username, caller.role in self._sessions.factor_roles)

    @needs(None, enrolling=True)
    def begin_second_factor(self, caller: Caller, password: str) -> Enrolment:
        """A secret for an authenticator application; it counts once it is confirmed.

        Raises:
            PermissionDenied: The password is wrong.
            InputError: There is a second factor already.
        """
        self._ask_password(caller, password, "account.second-factor-begin")
        with self._database.write() as tx:
            secret = self._factors.begin(tx, caller.username)
            self._audit.append(tx, caller, Event("account.second-factor-begin"))
        return Enrolment(secret, enrolment_uri(caller.username, secret))

    @needs(None, enrolling=True)
    def confirm_second_factor(self, caller: Caller, code: str) -> tuple[str, ...]:
        """Turn the second factor on with a code that the application shows; other sessions end.

        Returns:
            Ten recovery codes, each good once, if it is the first factor. They are shown here
            and never again.

        Raises:
            InputError: Nothing was begun, or the code is not right.
        """
        with self._database.write() as tx:
            codes = self._factors.confirm(tx, caller.username, code)
            ended = self._sessions.end_all(tx, caller.username, keep=caller.session_id)
            self._audit.append(tx, caller, Event("account.second-factor-on"))
        self._guard.forget_sessions(ended)
        return codes

    @needs(None, enrolling=True)
    def begin_passkey(self, caller: Caller, password: str) -> str:
        """Options with which a browser makes a passkey, as JSON; it counts once it is confirmed.

        Raises:
            PermissionDenied: The password is wrong.
            InputError: Passkeys are turned off, or there are too many.
        """
        self._ask_password(caller, password, "account.passkey-add")
        return self._factors.passkeys.begin(caller.username)

    @needs(None, enrolling=True)
    def confirm_passkey(self, caller: Caller, response: str, name: str) -> tuple[str, ...]:
        """Keep a passkey that the browser has made; other sessions end.

        Args:
            response: The browser's answer as JSON.
            name: By which its owner knows the device.

        Returns:
            Ten recovery codes, if it is the first factor; they are never shown again.

        Raises:
            InputError: Nothing was begun, or it is not what was asked for.
        """
        with self._database.write() as tx:
            codes = self._factors.confirm_passkey(tx, caller.username, response, name)
            ended = self._sessions.end_all(tx, caller.username, keep=caller.session_id)
            self._audit.append(tx, caller, Event("account.passkey-add"))
        self._guard.forget_sessions(ended)
        return codes

    @needs(None, enrolling=True)
    def remove_passkey(self, caller: Caller, credential_id: str, password: str, code: str) -> None:
        """Forget one of one's own passkeys; other sessions end.

        Args:
            code: Of the application, a recovery code, or the answer of any passkey.

        Raises:
            PermissionDenied: Password or code is wrong.
            NotFound: There is no such passkey.
        """
        self._ask_both(caller, password, code, "account.passkey-remove")
        with self._database.write() as tx:
            self._factors.remove_passkey(tx, caller.username, credential_id)
            ended = self._sessions.end_all(tx, caller.username, keep=caller.session_id)
            self._audit.append(tx, caller, Event("account.passkey-remove"))
        self._guard.forget_sessions(ended)

    @needs(None, enrolling=True)
    def renew_recovery_codes(self, caller: Caller, password: str, code: str) -> tuple[str, ...]:
        """Ten fresh recovery codes; the old ones are void.

        Raises:
            PermissionDenied: Password or code is wrong.
        """
        self._ask_both(caller, password, code, "account.recovery-codes")
        with self._database.write() as tx:
            codes = self._factors.renew_codes(tx, caller.username)
            self._audit.append(tx, caller, Event("account.recovery-codes"))
        return codes

    @needs(None, enrolling=True)
    def remove_second_factor(self, caller: Caller, password: str, code: str) -> None:
        """Turn one's own second factor off; other sessions end.

        Where the role wants one, nothing else can be done until a new one is set up.

        Args:
            code: Of the application, or a recovery code.

        Raises:
            PermissionDenied: Password or code is wrong.
        """
        self._ask_both(caller, password, code, "account.second-factor-off")
        with self._database.write() as tx:
            self._factors.remove(tx, caller.username)
            ended = self._sessions.end_all(tx, caller.username, keep=caller.session_id)
            self._audit.append(tx, caller, Event("account.second-factor-off"))
        self._guard.forget_sessions(ended)

    def _ask_both(self, caller: Caller, password: str, code: str, action: str) -> None:
        """A whole proof, before something that would weaken the next ones."""
        self._ask_password(caller, password, action)
        self._lockout.count(caller.username)
        with self._database.write() as tx:
            right = bool(self._factors.spend(tx, caller.username, code))
            if right:
                self._lockout.forgive(tx, caller.username)
            else:
                self._audit.append(tx, caller, Event(action, "refused"))
        if not right:
            raise PermissionDenied(
                "The code is not correct or was already used. Enter the next one."
            )

    def _ask_password(self, caller: Caller, password: str, action: str) -> None:
        if not self._accounts.check_password(caller.username, password):
            self._audit.record(caller, Event(action, "refused"))
            raise PermissionDenied("The current password is not correct.")

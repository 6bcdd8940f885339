"""What everybody does to their own account: password and second factor."""

from __future__ import annotations

from engine.errors import PermissionDenied
from engine.people.second_factor import enrolment_uri
from engine.records import Caller, Enrolment, SecondFactor
from engine.service.guard import needs
from engine.service.signing_in import SigningIn
from engine.store.audit import Event


class OwnAccount(SigningIn):
    """Methods of the Engine. A change of what proves somebody ends their other sessions."""

    @needs(None, enrolling=True)
    def change_password(self, caller: Caller, old: str, new: str) -> None:
        """Change one's own password; other sessions end.

        Raises:
            PermissionDenied: The old one is wrong.
            InputError: The new one breaks the rules.
        """
        self._ask_password(caller, old, "account.change-password")
        with self.database.write() as tx:
            self.accounts_.set_password(tx, caller.username, new)
            ended = self.sessions_.end_all(tx, caller.username, keep=caller.session_id)
            self.audit.append(tx, caller, Event("account.change-password"))
        self._close(ended)

    @needs(None, enrolling=True)
    def second_factor(self, caller: Caller) -> SecondFactor:
        """State of one's own second factor."""
        return self.factors.state(caller.username, caller.role in self.sessions_.factor_roles)

    @needs(None, enrolling=True)
    def begin_second_factor(self, caller: Caller, password: str) -> Enrolment:
        """A secret for an authenticator application; it counts once it is confirmed.

        Raises:
            PermissionDenied: The password is wrong.
            InputError: There is a second factor already.
        """
        self._ask_password(caller, password, "account.second-factor-begin")
        with self.database.write() as tx:
            secret = self.factors.begin(tx, caller.username)
            self.audit.append(tx, caller, Event("account.second-factor-begin"))
        return Enrolment(secret, enrolment_uri(caller.username, secret))

    @needs(None, enrolling=True)
    def confirm_second_factor(self, caller: Caller, code: str) -> tuple[str, ...]:
        """Turn the second factor on with a code that the application shows; other sessions end.

        Returns:
            Ten recovery codes, each good once. They are shown here and never again.

        Raises:
            InputError: Nothing was begun, or the code is not right.
        """
        with self.database.write() as tx:
            codes = self.factors.confirm(tx, caller.username, code)
            ended = self.sessions_.end_all(tx, caller.username, keep=caller.session_id)
            self.audit.append(tx, caller, Event("account.second-factor-on"))
        self._close(ended)
        return codes

    @needs(None, enrolling=True)
    def renew_recovery_codes(self, caller: Caller, password: str, code: str) -> tuple[str, ...]:
        """Ten fresh recovery codes; the old ones are void.

        Raises:
            PermissionDenied: Password or code is wrong.
        """
        self._ask_both(caller, password, code, "account.recovery-codes")
        with self.database.write() as tx:
            codes = self.factors.renew_codes(tx, caller.username)
            self.audit.append(tx, caller, Event("account.recovery-codes"))
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
        with self.database.write() as tx:
            self.factors.remove(tx, caller.username)
            ended = self.sessions_.end_all(tx, caller.username, keep=caller.session_id)
            self.audit.append(tx, caller, Event("account.second-factor-off"))
        self._close(ended)

    def _ask_both(self, caller: Caller, password: str, code: str, action: str) -> None:
        """A whole proof, before something that would weaken the next ones."""
        self._ask_password(caller, password, action)
        self.lockout.count(caller.username)
        with self.database.write() as tx:
            right = bool(self.factors.spend(tx, caller.username, code))
            if right:
                self.lockout.forgive(tx, caller.username)
            else:
                self.audit.append(tx, caller, Event(action, "refused"))
        if not right:
            raise PermissionDenied("The code is not right, or it was used before.")

    def _ask_password(self, caller: Caller, password: str, action: str) -> None:
        if not self.accounts_.check_password(caller.username, password):
            self.audit.record(caller, Event(action, "refused"))
            raise PermissionDenied("The present password is not right.")

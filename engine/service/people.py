"""Accounts of others and requests for one: the administrator's part."""

from __future__ import annotations

import hmac

from engine.errors import InputError, PermissionDenied, TooManyRequests
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.people.accounts import folded
from engine.permissions import Permission, Role
from engine.records import Account, AccountRequest, Caller, OpenSession
from engine.service.sessions import NOBODY, nobody
from engine.store.audit import Event


class People:
    """Accounts, as administrators manage them."""

    def __init__(self, context: Context, guard: Guard) -> None:
        self._access = context.access
        self._accounts = context.accounts
        self._audit = context.audit
        self._database = context.database
        self._factors = context.factors
        self._host = context.host
        self._identities = context.identities
        self._lockout = context.lockout
        self._registrations = context.registrations
        self._sessions = context.sessions
        self._guard = guard
        self._setup_code: str | None = None

    def setup_needed(self) -> bool:
        """Is there no administrator yet?"""
        return not self._accounts.any_administrator()

    def setup_code(self) -> str:
        """The one-time code that makes the first administrator; shown on the console only."""
        if self._setup_code is None:
            text = self._host.random(8).hex()
            self._setup_code = "-".join(text[i : i + 4] for i in range(0, len(text), 4))
        return self._setup_code

    def create_first_administrator(
        self, code: str, username: str, name: str, password: str
    ) -> Account:
        """Make the first account with the console's code, which is then used up.

        Raises:
            PermissionDenied: Wrong code, or there is an administrator already.
            InputError: Bad user name or password.
        """
        founder = Caller(NOBODY, Role.ADMINISTRATOR, "", "setup")
        with self._database.write() as tx:
            if self._accounts.any_administrator():
                raise PermissionDenied("An administrator already exists. Please sign in.")
            right = hmac.compare_digest(code.strip().encode(), self.setup_code().encode())
            if right:
                account = self._accounts.create(tx, username, name, Role.ADMINISTRATOR, password)
            event = Event("account.first-administrator", "ok" if right else "refused")
            self._audit.append(tx, founder, event)
        if not right:
            raise PermissionDenied("The code does not match the setup code on the console.")
        self._setup_code = None
        return account

    def request(self, username: str, name: str, role: Role, password: str, origin: str = "") -> str:
        """Ask for an account. It opens nothing until an administrator approves.

        The answer is the same whether the user name is taken or not.

        Args:
            role: The wished one; the administrator decides.
            origin: Address they come from.

        Returns:
            A reference to tell the administrator.

        Raises:
            InputError: Bad user name, name or role, or the password breaks the rules.
            TooManyRequests: From this origin within an hour, or altogether.
        """
        wished = self._role(role)
        username, name = self._accounts.check_new(username, name, wished, password)
        try:
            self._registrations.check_room(self._database.read(), origin)
            kept = self._accounts.hash(password)  # slow: not while others wait to write
            with self._database.write() as tx:
                request_id = self._registrations.add(tx, username, name, wished, kept, origin)
                self._audit.append(
                    tx,
                    nobody(origin),
                    Event("account.request", detail={"request": request_id, "role": str(wished)}),
                )
        except TooManyRequests:
            self._audit.record(nobody(origin), Event("account.request", "refused"))
            raise
        return request_id

    @needs(Permission.MANAGE_ACCOUNTS)
    def requests(self, caller: Caller) -> list[AccountRequest]:
        """Accounts that were asked for and wait, the oldest first."""
        return self._registrations.list()

    @needs(Permission.MANAGE_ACCOUNTS)
    def approve(self, caller: Caller, request_id: str, role: Role) -> Account:
        """Make the account that was asked for, with the password that came with the request.

        Args:
            role: Chosen by the administrator, whatever was wished for.

        Raises:
            NotFound: No such request.
            InputError: The user name is taken: decline, and let them choose another.
        """
        given = self._role(role)
        with self._database.write() as tx:
            username, name, _, kept = self._registrations.take(tx, request_id)
            account = self._accounts.add(tx, username, name, given, kept)
            self._audit.append(
                tx,
                caller,
                Event(
                    "account.approve",
                    detail={"request": request_id, "username": username, "role": str(given)},
                ),
            )
        return account

    @needs(Permission.MANAGE_ACCOUNTS)
    def decline(self, caller: Caller, request_id: str) -> None:
        """Drop a request. Raises NotFound."""
        with self._database.write() as tx:
            username, *_ = self._registrations.take(tx, request_id)
            self._audit.append(
                tx,
                caller,
                Event("account.decline", detail={"request": request_id, "username": username}),
            )

    @staticmethod
    def _role(role: Role | str) -> Role:
        try:
            return Role(role)
        except ValueError as err:
            raise InputError("Unknown role.") from err

    @needs(Permission.MANAGE_ACCOUNTS)
    def accounts(self, caller: Caller) -> list[Account]:
        """Every account."""
        return self._accounts.list()

    @needs(Permission.MANAGE_ACCOUNTS)
    def create(
        self, caller: Caller, username: str, name: str, role: Role, password: str
    ) -> Account:
        """Add an account. Raises InputError."""
        with self._database.write() as tx:
            account = self._accounts.create(tx, username, name, self._role(role), password)
            self._audit.append(
                tx,
                caller,
                Event("account.create", detail={"username": account.username, "role": str(role)}),
            )
        return account

    @needs(Permission.MANAGE_ACCOUNTS)
    def set_role(self, caller: Caller, username: str, role: Role) -> Account:
        """Give another account another role. Raises PermissionDenied, NotFound."""
        self._refuse_self(caller, username, "account.set-role")
        with self._database.write() as tx:
            before = self._accounts.get(tx, username)
            self._accounts.set_role(tx, caller, username, self._role(role))
            self._access.forget_doctor(tx, before.username)
            ended = self._sessions.end_all(tx, before.username)
            self._audit.append(
                tx,
                caller,
                Event(
                    "account.set-role",
                    detail={"username": before.username, "from": before.role, "to": str(role)},
                ),
            )
            account = self._accounts.get(tx, username)
        self._guard.forget_sessions(ended)
        return account

    @needs(Permission.MANAGE_ACCOUNTS)
    def set_enabled(self, caller: Caller, username: str, enabled: bool) -> Account:
        """Open or close another account. Raises PermissionDenied, NotFound."""
        self._refuse_self(caller, username, "account.enable" if enabled else "account.disable")
        with self._database.write() as tx:
            self._accounts.set_enabled(tx, caller, username, enabled)
            account = self._accounts.get(tx, username)
            ended = [] if enabled else self._sessions.end_all(tx, account.username)
            self._audit.append(
                tx,
                caller,
                Event(
                    "account.enable" if enabled else "account.disable",
                    detail={"username": account.username},
                ),
            )
        self._guard.forget_sessions(ended)
        return account

    @needs(Permission.MANAGE_ACCOUNTS)
    def reset_password(self, caller: Caller, username: str, password: str) -> None:
        """Set another account's password and end its sessions. Raises InputError, NotFound."""
        # Else a stolen session could make itself the account.
        self._refuse_self(caller, username, "account.reset-password")
        with self._database.write() as tx:
            account = self._accounts.get(tx, username)
            self._accounts.set_password(tx, account.username, password)
            self._lockout.forgive(tx, account.username)
            ended = self._sessions.end_all(tx, account.username)
            self._audit.append(
                tx, caller, Event("account.reset-password", detail={"username": account.username})
            )
        self._guard.forget_sessions(ended)

    @needs(Permission.MANAGE_ACCOUNTS)
    def reset_second_factor(self, caller: Caller, username: str) -> None:
        """Take the second factor from another account whose owner lost it; its sessions end.

        Raises:
            PermissionDenied: One's own.
            NotFound: No such account.
        """
        self._refuse_self(caller, username, "account.reset-second-factor")
        with self._database.write() as tx:
            account = self._accounts.get(tx, username)
            self._factors.remove(tx, account.username)
            ended = self._sessions.end_all(tx, account.username)
            self._audit.append(
                tx,
                caller,
                Event("account.reset-second-factor", detail={"username": account.username}),
            )
        self._guard.forget_sessions(ended)

    @needs(Permission.MANAGE_ACCOUNTS)
    def link_identity(self, caller: Caller, username: str, email: str) -> Account:
        """Let an address of the identity provider sign in as another account; empty ends that.

        Raises:
            InputError: Not an address, or linked to another account.
            PermissionDenied: One's own account.
            NotFound: No such account.
        """
        self._refuse_self(caller, username, "account.link-identity")
        with self._database.write() as tx:
            account = self._accounts.get(tx, username)
            self._identities.link(tx, account.username, email)
            self._audit.append(
                tx,
                caller,
                Event(
                    "account.link-identity",
                    detail={"username": account.username, "linked": bool(email)},
                ),
            )
            return self._accounts.get(tx, account.username)

    @needs(Permission.MANAGE_ACCOUNTS)
    def sessions(self, caller: Caller, username: str) -> list[OpenSession]:
        """Open sessions of an account, the last used first. Raises NotFound."""
        account = self._accounts.get(self._database.read(), username)
        return self._sessions.open_of(account.username, caller.session_id)

    @needs(Permission.MANAGE_ACCOUNTS)
    def end_sessions(self, caller: Caller, username: str) -> int:
        """End all sessions of an account; says how many were open. Raises NotFound."""
        with self._database.write() as tx:
            account = self._accounts.get(tx, username)
            ended = self._sessions.end_all(tx, account.username)
            self._audit.append(
                tx,
                caller,
                Event(
                    "account.end-sessions",
                    detail={"username": account.username, "sessions": len(ended)},
                ),
            )
        self._guard.forget_sessions(ended)
        return len(ended)

    def _refuse_self(self, caller: Caller, username: str, action: str) -> None:
        """What nobody does to their own account; the attempt is logged."""
        if folded(username) == caller.username:
            self._audit.record(caller, Event(action, "refused", detail={"username": "own"}))
            raise PermissionDenied(
                "You cannot do this to your own account. Ask another administrator."
            )

"""Signing in, accounts, and the audit log: the part of the Engine about people."""

from __future__ import annotations

import hmac

from engine.audit import Event
from engine.errors import AccountLocked, NotSignedIn, PermissionDenied
from engine.permissions import Permission, Role, allowed
from engine.records import Account, AuditEntry, Caller, Session
from engine.service.guard import Core, needs
from engine.tokens import TokenPair

_NOBODY = "anonymous"


class People(Core):
    """Methods of the Engine."""

    _setup_code: str | None = None

    def setup_needed(self) -> bool:
        """Is there no administrator yet?"""
        return not self.accounts_.any_administrator()

    def setup_code(self) -> str:
        """The one-time code that makes the first administrator; shown on the console only."""
        if self._setup_code is None:
            text = self.host.random(8).hex()
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
        nobody = Caller(_NOBODY, Role.ADMINISTRATOR, "", "setup")
        with self.database.write() as tx:
            if self.accounts_.any_administrator():
                raise PermissionDenied("There is an administrator already: sign in.")
            right = hmac.compare_digest(code.strip().encode(), self.setup_code().encode())
            if right:
                account = self.accounts_.create(tx, username, name, Role.ADMINISTRATOR, password)
            event = Event("account.first-administrator", "ok" if right else "refused")
            self.audit.append(tx, nobody, event)
        if not right:
            raise PermissionDenied("The code is not the one on the console.")
        self._setup_code = None
        return account

    def sign_in(self, username: str, password: str, origin: str = "") -> Session:
        """Open a session.

        Raises:
            NotSignedIn: Name and password do not match.
            AccountLocked: Too many failures.
        """
        who = Caller(username.strip().casefold()[:64], Role.RESEARCHER, "", origin)
        try:
            session = self.accounts_.sign_in(username, password, origin)
        except (NotSignedIn, AccountLocked) as err:
            # The typed name may be a password typed into the wrong box: record known names only.
            known = any(a.username == who.username for a in self.accounts_.list())
            actor = who.username if known else _NOBODY
            self.audit.record(
                Caller(actor, Role.RESEARCHER, "", origin),
                Event("session.sign-in", "refused", detail={"why": err.code}),
            )
            raise
        caller = Caller(session.account.username, session.account.role, "", origin)
        self.audit.record(caller, Event("session.sign-in"))
        return session

    def sign_in_api(self, username: str, password: str, origin: str = "") -> TokenPair:
        """Open a session for a client without a browser.

        Raises:
            NotSignedIn: Name and password do not match.
            AccountLocked: Too many failures.
        """
        session = self.sign_in(username, password, origin)
        caller = self.accounts_.resolve(session.token)
        with self.database.write() as tx:
            return self.tokens.issue(tx, caller.session_id, caller.username)

    def refresh(self, refresh_token: str) -> TokenPair:
        """Trade a refresh token for a new pair; one that was used before ends its session.

        Raises:
            NotSignedIn: Unknown, expired, used before, or of a session that has ended.
        """
        with self.database.write() as tx:
            session_id, used = self.tokens.redeem(tx, refresh_token)
            if used:
                self.accounts_.end_session(tx, session_id)
        caller = self.accounts_.resolve_session(session_id)
        with self.database.write() as tx:
            return self.tokens.issue(tx, caller.session_id, caller.username)

    @needs(None)
    def whoami(self, caller: Caller) -> Account:
        """The account behind a token. Raises NotSignedIn."""
        return self.accounts_.get(self.database.read(), caller.username)

    def may(self, token: str, permission: Permission) -> bool:
        """Would the Engine let this session do that? For menus; the Engine asks again itself."""
        try:
            return allowed(self.caller(token, activity=False).role, permission)
        except NotSignedIn:
            return False

    @needs(None)
    def sign_out(self, caller: Caller) -> None:
        """End the session; its token and its opened pictures are gone."""
        self.viewings.close_session(caller.session_id)
        self.exchanges.close(caller.session_id)
        with self.database.write() as tx:
            self.accounts_.end_session(tx, caller.session_id)
            self.audit.append(tx, caller, Event("session.sign-out"))

    @needs(None)
    def change_password(self, caller: Caller, old: str, new: str) -> None:
        """Change one's own password; other sessions end.

        Raises:
            PermissionDenied: The old one is wrong.
            InputError: The new one breaks the rules.
        """
        if not self.accounts_.check_password(caller.username, old):
            self.audit.record(caller, Event("account.change-password", "refused"))
            raise PermissionDenied("The present password is not right.")
        with self.database.write() as tx:
            self.accounts_.set_password(tx, caller.username, new)
            self.accounts_.end_all_sessions(tx, caller.username, keep=caller.session_id)
            self.audit.append(tx, caller, Event("account.change-password"))

    @needs(Permission.MANAGE_ACCOUNTS)
    def accounts(self, caller: Caller) -> list[Account]:
        """Every account."""
        return self.accounts_.list()

    @needs(Permission.MANAGE_ACCOUNTS)
    def create_account(
        self, caller: Caller, username: str, name: str, role: Role, password: str
    ) -> Account:
        """Add an account. Raises InputError."""
        with self.database.write() as tx:
            account = self.accounts_.create(tx, username, name, Role(role), password)
            self.audit.append(
                tx,
                caller,
                Event("account.create", detail={"username": account.username, "role": str(role)}),
            )
        return account

    @needs(Permission.MANAGE_ACCOUNTS)
    def set_account_role(self, caller: Caller, username: str, role: Role) -> Account:
        """Give another account another role. Raises PermissionDenied, NotFound."""
        self._refuse_self(caller, username, "account.set-role")
        with self.database.write() as tx:
            before = self.accounts_.get(tx, username)
            self.accounts_.set_role(tx, caller, username, Role(role))
            self.audit.append(
                tx,
                caller,
                Event(
                    "account.set-role",
                    detail={"username": before.username, "from": before.role, "to": str(role)},
                ),
            )
            return self.accounts_.get(tx, username)

    @needs(Permission.MANAGE_ACCOUNTS)
    def set_account_enabled(self, caller: Caller, username: str, enabled: bool) -> Account:
        """Open or close another account. Raises PermissionDenied, NotFound."""
        self._refuse_self(caller, username, "account.enable" if enabled else "account.disable")
        with self.database.write() as tx:
            self.accounts_.set_enabled(tx, caller, username, enabled)
            account = self.accounts_.get(tx, username)
            self.audit.append(
                tx,
                caller,
                Event(
                    "account.enable" if enabled else "account.disable",
                    detail={"username": account.username},
                ),
            )
            return account

    @needs(Permission.MANAGE_ACCOUNTS)
    def reset_password(self, caller: Caller, username: str, password: str) -> None:
        """Set another account's password and end its sessions. Raises InputError, NotFound."""
        # Else a stolen session could make itself the account.
        self._refuse_self(caller, username, "account.reset-password")
        with self.database.write() as tx:
            account = self.accounts_.get(tx, username)
            self.accounts_.set_password(tx, account.username, password)
            self.accounts_.end_all_sessions(tx, account.username)
            self.audit.append(
                tx, caller, Event("account.reset-password", detail={"username": account.username})
            )

    def _refuse_self(self, caller: Caller, username: str, action: str) -> None:
        """What nobody does to their own account; the attempt is logged."""
        if username.strip().casefold() == caller.username:
            self.audit.record(caller, Event(action, "refused", detail={"username": "own"}))
            raise PermissionDenied("Not to your own account: ask another administrator.")

    @needs(Permission.READ_AUDIT)
    def audit_entries(
        self, caller: Caller, query: str = "", limit: int = 200, offset: int = 0
    ) -> list[AuditEntry]:
        """The audit log, newest first."""
        return self.audit.entries(query=query, limit=limit, offset=offset)

    @needs(Permission.READ_AUDIT)
    def verify_audit(self, caller: Caller) -> int:
        """Check the whole chain; says how many entries it has. Raises AuditBroken."""
        count = self.audit.verify()
        self.audit.record(caller, Event("audit.verify", detail={"entries": count}))
        return count

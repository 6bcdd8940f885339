"""Accounts of others and requests for one: the administrator's part."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from engine.errors import (
    ConfirmationNeeded,
    InputError,
    NotFound,
    PermissionDenied,
    TooManyRequests,
)
from engine.host import Host
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.people.accounts import folded
from engine.people.proposals import Change, Proposal, Proposals, Said, weighty
from engine.permissions import Permission, Role
from engine.records import Account, AccountRequest, Caller, OpenSession
from engine.service.sessions import NOBODY, nobody
from engine.store.audit import Event
from engine.store.database import Cursor
from engine.store.shared import Hold

#: Changes that make an account: there is none yet whose role would count.
_NEW = ("account.create", "account.approve")
#: The account after a change, and the sessions that the change ended.
Changed = tuple[Account, Sequence[str]]
_SETUP, _SETUP_LASTS = "setup", timedelta(days=3650)


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
        self._live = context.live
        self._lockout = context.lockout
        self._proposals = Proposals(context.host, context.shared, "account")
        self._registrations = context.registrations
        self._sessions = context.sessions
        self._guard = guard
        self._shared = context.shared
        self._changes: Mapping[str, Callable[[Cursor, Caller, Said, Change], Changed]] = {
            "account.approve": self._approve,
            "account.create": self._create,
            "account.set-role": self._set_role,
            "account.enable": self._set_enabled,
            "account.disable": self._set_enabled,
            "account.reset-password": self._reset_password,
            "account.reset-second-factor": self._reset_second_factor,
            "account.link-identity": self._link_identity,
        }

    def setup_needed(self) -> bool:
        """Is there no administrator yet?"""
        return not self._accounts.any_administrator()

    def setup_code(self) -> str:
        """The one-time code that makes the first administrator; shown on the console only."""
        text = self._host.random(16).hex()
        code = "-".join(text[i : i + 4] for i in range(0, len(text), 4))
        return self._shared.hold(Hold(_SETUP, "", Host.token_of(16), code), _SETUP_LASTS) or code

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
        self._shared.take(_SETUP, "")
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
                    Event(
                        "account.request",
                        detail={"account_request": request_id, "role": str(wished)},
                    ),
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
            ConfirmationNeeded: Another administrator has to confirm it.
            NotFound: No such request.
            InputError: The user name is taken: decline, and let them choose another.
        """
        given = self._role(role)
        wanted = next((r for r in self._registrations.list() if r.request_id == request_id), None)
        if wanted is None:
            raise NotFound("This request no longer exists. Reload the page.")
        return self._decided(
            caller, Change("account.approve", wanted.username, given, {"request": request_id})
        )

    def _approve(self, tx: Cursor, by: Caller, said: Said, change: Change) -> Changed:
        request_id, given = change.facts["request"], _new_role(change)
        username, name, _, kept = self._registrations.take(tx, request_id)
        account = self._accounts.add(tx, username, name, given, kept)
        detail = {
            "account_request": request_id,
            "username": username,
            "role": str(given),
            **said,
        }
        self._audit.append(tx, by, Event("account.approve", detail=detail))
        return account, ()

    @needs(Permission.MANAGE_ACCOUNTS)
    def decline(self, caller: Caller, request_id: str) -> None:
        """Drop a request. Raises NotFound."""
        with self._database.write() as tx:
            username, *_ = self._registrations.take(tx, request_id)
            self._audit.append(
                tx,
                caller,
                Event(
                    "account.decline", detail={"account_request": request_id, "username": username}
                ),
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
        """Add an account. Raises ConfirmationNeeded, InputError."""
        given = self._role(role)
        username, name = self._accounts.check_new(username, name, given, password)
        kept = self._accounts.hash(password)
        facts = {"name": name, "password_hash": kept}
        return self._decided(caller, Change("account.create", username, given, facts))

    def _create(self, tx: Cursor, by: Caller, said: Said, change: Change) -> Changed:
        given, facts = _new_role(change), change.facts
        account = self._accounts.add(
            tx, change.username, facts["name"], given, facts["password_hash"]
        )
        detail = {"username": account.username, "role": str(given), **said}
        self._audit.append(tx, by, Event("account.create", detail=detail))
        return account, ()

    @needs(Permission.MANAGE_ACCOUNTS)
    def set_role(self, caller: Caller, username: str, role: Role) -> Account:
        """Give another account another role.

        Raises:
            ConfirmationNeeded, NotFound, PermissionDenied: One's own, or the last administrator's.
        """
        self._refuse_self(caller, username, "account.set-role")
        return self._decided(caller, Change("account.set-role", username, self._role(role)))

    def _set_role(self, tx: Cursor, by: Caller, said: Said, change: Change) -> Changed:
        given = _new_role(change)
        before = self._accounts.get(tx, change.username)
        self._accounts.set_role(tx, by, change.username, given)
        self._access.forget_doctor(tx, before.username)
        detail = {"username": before.username, "from": before.role, "to": str(given), **said}
        return self._ended(tx, by, before.username, Event("account.set-role", detail=detail))

    @needs(Permission.MANAGE_ACCOUNTS)
    def set_enabled(self, caller: Caller, username: str, enabled: bool) -> Account:
        """Open or close another account. Raises ConfirmationNeeded, PermissionDenied, NotFound."""
        action = "account.enable" if enabled else "account.disable"
        self._refuse_self(caller, username, action)
        change = Change(action, username)
        if not enabled:  # closing is never put off
            return self._done(caller, change, {})
        return self._decided(caller, change)

    def _set_enabled(self, tx: Cursor, by: Caller, said: Said, change: Change) -> Changed:
        enabled = change.action == "account.enable"
        self._accounts.set_enabled(tx, by, change.username, enabled)
        account = self._accounts.get(tx, change.username)
        event = Event(change.action, detail={"username": account.username, **said})
        if not enabled:
            return self._ended(tx, by, account.username, event)
        self._audit.append(tx, by, event)
        return account, ()

    @needs(Permission.MANAGE_ACCOUNTS)
    def reset_password(self, caller: Caller, username: str, password: str) -> None:
        """Set another account's password and end its sessions.

        Raises:
            ConfirmationNeeded, InputError, NotFound, PermissionDenied: One's own.
        """
        # Else a stolen session could make itself the account.
        self._refuse_self(caller, username, "account.reset-password")
        owner = self._accounts.get(self._database.read(), username)
        self._accounts.check_new_password(owner.username, password, owner.name)
        kept = self._accounts.hash(password)
        facts = {"password_hash": kept}
        self._decided(caller, Change("account.reset-password", username, facts=facts))

    def _reset_password(self, tx: Cursor, by: Caller, said: Said, change: Change) -> Changed:
        account = self._accounts.get(tx, change.username)
        self._accounts.set_password_hash(tx, account.username, change.facts["password_hash"])
        self._lockout.forgive(tx, account.username)
        detail = {"username": account.username, **said}
        return self._ended(tx, by, account.username, Event(change.action, detail=detail))

    @needs(Permission.MANAGE_ACCOUNTS)
    def reset_second_factor(self, caller: Caller, username: str) -> None:
        """Take the second factor from another account whose owner lost it; its sessions end.

        Raises:
            ConfirmationNeeded: Another administrator has to confirm it.
            PermissionDenied: One's own.
            NotFound: No such account.
        """
        self._refuse_self(caller, username, "account.reset-second-factor")
        self._decided(caller, Change("account.reset-second-factor", username))

    def _reset_second_factor(self, tx: Cursor, by: Caller, said: Said, change: Change) -> Changed:
        account = self._accounts.get(tx, change.username)
        self._factors.remove(tx, account.username)
        detail = {"username": account.username, **said}
        return self._ended(tx, by, account.username, Event(change.action, detail=detail))

    @needs(Permission.MANAGE_ACCOUNTS)
    def link_identity(self, caller: Caller, username: str, email: str) -> Account:
        """Let an address of the identity provider sign in as another account; empty ends that.

        Raises:
            ConfirmationNeeded: Another administrator has to confirm it.
            InputError: Not an address, or linked to another account.
            PermissionDenied: One's own account.
            NotFound: No such account.
        """
        self._refuse_self(caller, username, "account.link-identity")
        change = Change("account.link-identity", username, facts={"email": email})
        return self._decided(caller, change) if email else self._done(caller, change, {})

    def _link_identity(self, tx: Cursor, by: Caller, said: Said, change: Change) -> Changed:
        email = change.facts["email"]
        account = self._accounts.get(tx, change.username)
        self._identities.link(tx, account.username, email)
        detail = {"username": account.username, "linked": bool(email), **said}
        self._audit.append(tx, by, Event("account.link-identity", detail=detail))
        return self._accounts.get(tx, account.username), ()

    @needs(Permission.MANAGE_ACCOUNTS)
    def proposals(self, caller: Caller) -> list[Proposal]:
        """Changes of accounts that wait for a second administrator, the oldest first."""
        return self._proposals.waiting()

    @needs(Permission.MANAGE_ACCOUNTS)
    def confirm(self, caller: Caller, proposal_id: str, code: str = "") -> Account:
        """Make a change that another administrator proposed.

        Args:
            code: From the server's console, where there is no other administrator.

        Raises:
            NotFound: It waits no longer, or there is no such account any more.
            PermissionDenied: One's own proposal or account, or a wrong code.
        """
        try:
            proposal = self._proposals.take(caller, proposal_id, code)
        except PermissionDenied:
            refused = Event("account.confirm", "refused", detail={"proposal": proposal_id})
            self._audit.record(caller, refused)
            raise
        said = {"proposal": proposal_id, "proposed_by": proposal.proposed_by}
        return self._done(caller, proposal.change, said)

    @needs(Permission.MANAGE_ACCOUNTS)
    def drop_proposal(self, caller: Caller, proposal_id: str) -> None:
        """Let a change not be made. Raises NotFound."""
        dropped = self._proposals.drop(proposal_id)
        detail = {"proposal": proposal_id, "change": dropped.action, "username": dropped.username}
        self._audit.record(caller, Event("account.drop-proposal", detail=detail))

    def _decided(self, caller: Caller, change: Change) -> Account:
        """Make a change now, or let it wait for a second administrator.

        Raises:
            ConfirmationNeeded: It waits.
        """
        tx, action, role = self._database.read(), change.action, change.role
        name = folded(change.username)
        held = None if action in _NEW else self._accounts.get(tx, name).role
        asks = self._live.settings.four_eyes and caller.role is not Role.OPERATOR
        if not asks or not weighty(held, role):
            return self._done(caller, change, {})
        alone = not self._accounts.others_administer(tx, caller.username, name)
        proposal = self._proposals.add(caller, replace(change, username=name), alone=alone)
        detail = {
            "proposal": proposal.proposal_id, "change": action, "username": name,
            "role": None if role is None else str(role), "by_console": alone,
        }  # fmt: skip
        self._audit.record(caller, Event("account.propose", detail=detail))
        if alone:
            # For who has the server's console; the log of requests has no such line.
            print(f"\n  Code to confirm {action} of {name}: {proposal.code}\n", flush=True)  # noqa: T201
        raise ConfirmationNeeded(
            "Enter the code that the server's console shows to confirm this change."
            if alone
            else "Another administrator has to confirm this change. It waits for a day.",
            proposal_id=proposal.proposal_id,
        )

    def _done(self, caller: Caller, change: Change, said: Said) -> Account:
        """A change and its entry in the log, in one transaction; ended sessions are forgotten."""
        apply = self._changes[change.action]
        with self._database.write() as tx:
            account, ended = apply(tx, caller, said, change)
        self._guard.forget_sessions(list(ended))
        return account

    def _ended(self, tx: Cursor, by: Caller, username: str, event: Event) -> Changed:
        """End an account's sessions with a change of it."""
        ended = self._sessions.end_all(tx, username)
        self._audit.append(tx, by, event)
        return self._accounts.get(tx, username), ended

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


def _new_role(change: Change) -> Role:
    assert change.role is not None
    return change.role

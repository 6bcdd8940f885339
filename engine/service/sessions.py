"""Signing in and out, in the browser and without one; what a session is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from engine import tracing
from engine.errors import (
    AccessError,
    CodeNeeded,
    InputError,
    NotFound,
    NotSignedIn,
    PermissionDenied,
)
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.people.accounts import folded
from engine.people.tokens import TokenPair
from engine.permissions import Permission, Role, allowed
from engine.records import Account, Caller, OpenSession, Session
from engine.store.audit import Event

#: Who acts before anybody is known; the role is that which may least.
NOBODY = "anonymous"
_SINGLE = "single sign-on"
#: So soon after a proof a session's token may be renewed.
_FRESH = timedelta(minutes=1)


class Sessions:
    """Sessions of people."""

    def __init__(self, context: Context, guard: Guard) -> None:
        self._accounts = context.accounts
        self._audit = context.audit
        self._challenges = context.challenges
        self._database = context.database
        self._factors = context.factors
        self._host = context.host
        self._identities = context.identities
        self._live = context.live
        self._lockout = context.lockout
        self._sessions = context.sessions
        self._tokens = context.tokens
        self._guard = guard

    def sign_in(self, username: str, password: str, origin: str = "", code: str = "") -> Session:
        """Open a session of a browser.

        Args:
            origin: Address they come from, for the log.
            code: Of the second factor, if it is known already; a recovery code does too.

        Raises:
            NotSignedIn: Name and password, or the code, do not match.
            CodeNeeded: The password was right and a code is missing; its ``challenge`` goes
                to :meth:`finish_sign_in`.
            AccountLocked: Too many failures.
        """
        return self._sign_in(username, password, origin, code, "browser")

    def finish_sign_in(self, challenge: str, code: str, origin: str = "") -> Session:
        """The second step of :meth:`sign_in`.

        Args:
            code: Of the application, a recovery code, or a passkey's answer as JSON.

        Raises:
            NotSignedIn: The code is not right, or it took too long.
            AccountLocked: Too many failures.
        """
        waiting = self._challenges.get(challenge)
        username = waiting.username
        try:
            self._lockout.count(username)
            how = self._spend_code(username, code)
            account = self._accounts.get(self._database.read(), username)
            kept = self._accounts.password_hash(self._database.read(), username)
            self._challenges.finish(challenge, kept)
            if not account.enabled:
                raise NotSignedIn("This sign-in has expired. Please begin again.")
        except AccessError as err:
            self._refused(username, origin, err, waiting.first_factor)
            raise
        return self._begin(username, origin, how, "browser", waiting.first_factor)

    def sign_in_identity(self, claims: Mapping[str, Any], issuer: str, origin: str = "") -> Session:
        """Open a session of a browser by what an identity provider says, once.

        It stands for the password only: a second factor is asked for all the same.

        Args:
            claims: Of an ID token whose signature, audience and nonce the caller has checked.
            issuer: Of the provider that the settings name.

        Raises:
            NotSignedIn: Not verified, not linked, stale, used already, or switched off.
            CodeNeeded: As :meth:`sign_in`.
        """
        username = ""
        try:
            if self._live.settings.single_sign_on is None:
                raise NotSignedIn("Single sign-on is turned off. Sign in with a password.")
            with self._database.write() as tx:
                username, first = self._identities.redeem(tx, claims, issuer)
                if first:
                    who = Caller(username, self._accounts.get(tx, username).role, "", origin)
                    self._audit.append(tx, who, Event("account.meet-identity"))
            if not self._accounts.get(self._database.read(), username).enabled:
                raise NotSignedIn("This account is disabled. Ask an administrator.")
            how = self._second_step(username, "", _SINGLE)
        except AccessError as err:
            self._refused(username, origin, err, _SINGLE)
            raise
        return self._begin(username, origin, how, "browser", _SINGLE)

    def sign_in_api(
        self, username: str, password: str, origin: str = "", code: str = ""
    ) -> TokenPair:
        """Open a session for a client without a browser, in one call.

        Raises:
            NotSignedIn: Name and password, or the code, do not match.
            CodeNeeded: The password was right: send it again with the second factor's code.
            AccountLocked: Too many failures.
        """
        session = self._sign_in(username, password, origin, code, "API")
        caller = self._sessions.resolve(session.token)
        with self._database.write() as tx:
            return self._tokens.issue(tx, caller.session_id, caller.username)

    def _sign_in(
        self, username: str, password: str, origin: str, code: str, client: str
    ) -> Session:
        try:
            account, attempt = self._accounts.verify(username, password)
            try:
                how = self._second_step(account.username, code)
            except CodeNeeded:
                self._lockout.take_back(account.username, attempt)
                raise
        except AccessError as err:
            self._refused(folded(username), origin, err)
            raise
        return self._begin(account.username, origin, how, client)

    def _second_step(self, username: str, code: str, by: str = "password") -> str:
        """After the first proof: how the second was given, ``none`` where none is set up."""
        if not self._factors.enabled(username):
            return "none"
        if not code:
            kept = self._accounts.password_hash(self._database.read(), username)
            raise CodeNeeded(
                "Enter the code from your authenticator app.",
                self._challenges.issue(username, by, kept),
                self._factors.passkeys.ask(username),
            )
        return self._spend_code(username, code)

    def _spend_code(self, username: str, code: str) -> str:
        with self._database.write() as tx:
            how = self._factors.spend(tx, username, code)
        if not how:
            raise NotSignedIn("The code is not correct or was already used. Wait for the next one.")
        return how

    def _begin(
        self, username: str, origin: str, how: str, client: str, by: str = "password"
    ) -> Session:
        with self._database.write() as tx:
            account = self._accounts.signed_in(tx, username)
            token, expires_at = self._sessions.begin(tx, username, client, origin)
            self._audit.append(
                tx,
                Caller(username, account.role, "", origin),
                Event(
                    "session.sign-in",
                    detail={"door": client, "first_factor": by, "second_factor": how},
                ),
            )
        return Session(token, account, expires_at)

    def _refused(self, username: str, origin: str, err: AccessError, by: str = "password") -> None:
        # The typed name may be a password typed into the wrong box: record known names only.
        caller = nobody(origin)
        try:
            account = self._accounts.get(self._database.read(), username)
            caller = Caller(account.username, account.role, "", origin)
        except NotFound:
            pass
        outcome = "requested" if isinstance(err, CodeNeeded) else "refused"
        why = {"why": err.code, "first_factor": by}
        self._audit.record(caller, Event("session.sign-in", outcome, detail=why))

    def revoke(self, token: str) -> None:
        """End the session of an access or refresh token; one that is worth nothing is no error.

        Source: RFC 7009, section 2.
        """
        try:
            if token.count(".") == 2:
                caller = self._sessions.resolve_id(*self._tokens.session_of(token))
            else:
                session_id = self._tokens.holder(self._database.read(), token)
                caller = self._sessions.resolve_id(session_id)
        except NotSignedIn:
            return
        with self._database.write() as tx:
            self._sessions.end(tx, caller.session_id)
            self._audit.append(tx, caller, Event("session.revoke"))
        self._guard.forget_sessions([caller.session_id])

    def refresh(self, refresh_token: str) -> TokenPair:
        """Trade a refresh token for a new pair; one that was used before ends its session.

        Raises:
            NotSignedIn: Unknown, expired, used before, or of a session that has ended.
        """
        with self._database.write() as tx:
            session_id, used = self._tokens.redeem(tx, refresh_token)
            if used:
                # Either its owner or a thief has a copy: nobody can tell which of the two asks.
                caller = self._sessions.resolve_id(session_id, activity=False)
                self._sessions.end(tx, session_id)
                twice = Event("session.refresh", "refused", detail={"why": "used-before"})
                self._audit.append(tx, replace(caller, origin=tracing.address()), twice)
        if used:
            self._guard.forget_sessions([session_id])
        caller = self._sessions.resolve_id(session_id)
        with self._database.write() as tx:
            return self._tokens.issue(tx, caller.session_id, caller.username)

    @needs(None, enrolling=True)
    def whoami(self, caller: Caller) -> Account:
        """The account behind a token. Raises NotSignedIn."""
        return self._accounts.get(self._database.read(), caller.username)

    def may(self, token: str, permission: Permission) -> bool:
        """Would the Engine let this session do that? For menus; the Engine asks again itself."""
        try:
            caller = self._guard.caller(token, activity=False)
        except NotSignedIn:
            return False
        return allowed(caller.role, permission) and not caller.factor_due

    @needs(None, enrolling=True)
    def ask_passkey(self, caller: Caller) -> str:
        """Options with which a browser asks one's own passkeys, as JSON; empty without any.

        Their answer stands for a code wherever one is asked for.
        """
        return self._factors.passkeys.ask(caller.username)

    @needs(None, enrolling=True)
    def prove(self, caller: Caller, password: str = "", code: str = "") -> None:
        """Prove again who holds this session, by the password or a code of the second factor.

        A copy of the session's token that somebody made before gains nothing: see :meth:`renew`.

        Raises:
            InputError: Not exactly one of the two.
            PermissionDenied: It is not right.
            AccountLocked: Too many failures.
        """
        if bool(password) == bool(code):
            raise InputError("Enter either the password or a code.")
        if password:
            how, right = "password", self._accounts.check_password(caller.username, password)
        else:
            self._lockout.count(caller.username)
            with self._database.write() as tx:
                how = self._factors.spend(tx, caller.username, code)
                right = bool(how)
                if right:
                    self._lockout.forgive(tx, caller.username)
        if not right:
            self._audit.record(caller, Event("session.prove", "refused"))
            raise PermissionDenied("Password or code is not correct. Try again.")
        with self._database.write() as tx:
            self._sessions.prove(tx, caller.session_id)
            self._audit.append(tx, caller, Event("session.prove", detail={"by": how}))

    @needs(None, enrolling=True)
    def renew(self, caller: Caller) -> str:
        """Another token for a browser's session, after a fresh proof; the one before ends.

        Raises:
            PermissionDenied: Nothing was proven just now.
        """
        now = self._host.now()
        if caller.proven_at is None or now - caller.proven_at > _FRESH:
            raise PermissionDenied("Confirm your identity first.")
        with self._database.write() as tx:
            token = self._sessions.renew(tx, caller.session_id, caller.username)
            self._audit.append(tx, caller, Event("session.renew"))
        return token

    @needs(None, enrolling=True)
    def sign_out(self, caller: Caller) -> None:
        """End the session; its tokens and its opened pictures are gone."""
        with self._database.write() as tx:
            self._sessions.end(tx, caller.session_id)
            self._audit.append(tx, caller, Event("session.sign-out"))
        self._guard.forget_sessions([caller.session_id])

    @needs(None, enrolling=True)
    def mine(self, caller: Caller) -> list[OpenSession]:
        """One's own open sessions, the last used first."""
        return self._sessions.open_of(caller.username, caller.session_id)

    @needs(None, enrolling=True)
    def end(self, caller: Caller, session_id: str) -> None:
        """End one of one's own sessions. Raises NotFound."""
        with self._database.write() as tx:
            self._sessions.end_of(tx, caller.username, session_id)
            self._audit.append(tx, caller, Event("session.end", detail={"session": session_id}))
        self._guard.forget_sessions([session_id])

    @needs(None, enrolling=True)
    def sign_out_everywhere(self, caller: Caller) -> int:
        """End all of one's own sessions, this one too; refresh tokens end with them.

        Returns:
            How many were open.
        """
        with self._database.write() as tx:
            ended = self._sessions.end_all(tx, caller.username)
            self._audit.append(
                tx, caller, Event("session.sign-out-everywhere", detail={"sessions": len(ended)})
            )
        self._guard.forget_sessions(ended)
        return len(ended)


def nobody(origin: str) -> Caller:
    """A stranger, for the log."""
    return Caller(NOBODY, Role.RESEARCHER, "", origin)

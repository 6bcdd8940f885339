"""Who is calling, and may they: every method of a service goes through :func:`needs`."""

from __future__ import annotations

import functools
import hmac
import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from engine import tracing
from engine.errors import (
    NotFound,
    NotSignedIn,
    PermissionDenied,
    SecondFactorNeeded,
    StepUpNeeded,
)
from engine.operations import prometheus
from engine.operations.context import Context
from engine.people import care
from engine.permissions import Permission, Role, allowed
from engine.records import Caller
from engine.store.audit import Event

log = logging.getLogger("medsec")


class Guard:
    """Who is calling, and what they may see. Keeps the log of what was read."""

    def __init__(self, context: Context, *, operator: bool = False) -> None:
        self._access = context.access
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._exchanges = context.exchanges
        self._host = context.host
        self._live = context.live
        self._open_images = context.open_images
        self._patients = context.patients
        self._read_log = context.read_log
        self._sessions = context.sessions
        self._studies = context.studies
        self._tokens = context.tokens
        self._operator_token = context.host.token("operator") if operator else None
        #: Nodes of the network that are associated now, by token.
        self._nodes: dict[str, Caller] = {}
        #: Sessions of work that goes on while nobody is there, by its token.
        self._work: dict[str, str] = {}

    def operator_token(self) -> str:
        """The token of this machine's operator. Raises PermissionDenied in a server."""
        if self._operator_token is None:
            raise PermissionDenied("Only the command line can act as operator.")
        return self._operator_token

    def begin_work(self, caller: Caller) -> str:
        """A token for work that a session leaves behind, such as a batch; it ends with the session.

        An access token would expire while the work waits. It stays within this process, until
        :meth:`end_work`. It is never a sign that somebody is there, and it outlives the session's
        idle time: see :meth:`engine.people.sessions.Sessions.resolve_work`.
        """
        work = self._host.token("work")
        self._work[work] = caller.session_id
        return work

    def end_work(self, work: str) -> None:
        """The work is done: its token is worth nothing from here on."""
        self._work.pop(work, None)

    def begin_node(self, caller: Caller) -> str:
        """A token for a node of the network, as long as it is associated: see :meth:`end_node`."""
        token = self._host.token("node")
        self._nodes[token] = caller
        return token

    def end_node(self, token: str) -> None:
        """The association is over: its token is worth nothing from here on."""
        self._nodes.pop(token, None)

    def caller(self, token: object, *, activity: bool = True) -> Caller:
        """Resolve a token afresh. The log shows where a stolen token is used from.

        Raises:
            NotSignedIn: It is not one of an open session.
        """
        caller = self._resolve(token, activity)
        here = tracing.address()
        return replace(caller, origin=here) if here else caller

    def _resolve(self, token: object, activity: bool) -> Caller:
        if self._operator_token is not None and token == self._operator_token:
            return Caller("operator", Role.OPERATOR, "operator", "command line")
        monitor = self._live.settings.metrics_token
        if (
            monitor
            and isinstance(token, str)
            and hmac.compare_digest(monitor.encode(), token.encode(errors="replace"))
        ):
            return Caller("monitor", Role.MONITOR, "monitor", "monitoring")
        if isinstance(token, str) and token in self._nodes:
            return self._nodes[token]
        if isinstance(token, str) and token in self._work:
            return self._sessions.resolve_work(self._work[token])
        if isinstance(token, str) and token.count(".") == 2:  # a JWT of the API
            return self._sessions.resolve_id(*self._tokens.session_of(token), activity=activity)
        return self._sessions.resolve(token, activity=activity)

    def check(
        self,
        caller: Caller,
        method: str,
        permission: Permission | None,
        *,
        fresh: bool,
        enrolling: bool,
    ) -> None:
        """Refuse what the caller's role, second factor or last proof does not allow; audited.

        Raises:
            PermissionDenied: The role does not hold the permission.
            SecondFactorNeeded: The role wants a second factor and there is none.
            StepUpNeeded: The last proof is too old.
        """
        if permission is not None and not allowed(caller.role, permission):
            refused = Event(str(permission), "refused", detail={"method": method})
            self._audit.record(caller, refused)
            raise PermissionDenied(
                f"The role {caller.role} has no permission for this. Ask an administrator."
            )
        try:
            if caller.factor_due and not enrolling:
                raise SecondFactorNeeded(
                    "Your role requires a second factor. Set it up under My account."
                )
            if fresh:
                self._ask_again(caller)
        except (SecondFactorNeeded, StepUpNeeded) as err:
            what = str(permission) if permission else "session.use"
            why = {"method": method, "why": err.code}
            self._audit.record(caller, Event(what, "refused", detail=why))
            raise

    def _ask_again(self, caller: Caller) -> None:
        """Raises StepUpNeeded where the session's last proof is older than the setting says."""
        minutes = self._live.settings.step_up_minutes
        if not minutes or caller.proven_at is None:
            return
        if self._host.now() - caller.proven_at >= timedelta(minutes=minutes):
            raise StepUpNeeded(
                "Confirm your identity with your password or a code.", minutes=minutes
            )

    def record_read(self, caller: Caller, event: Event) -> None:
        """Log that somebody read something; drawn again within minutes, it is the same read."""
        detail = json.dumps(event.detail or {}, sort_keys=True)
        access = None  # earlier reads are logged again under emergency access
        if event.patient_id and self.bound(caller):
            tx = self._database.read()
            access = self._access.glass_over(tx, caller.username, event.patient_id)
        who = (caller.session_id, caller.origin, access)
        self._read_log.once(
            lambda: self._audit.record(caller, event),
            *who, event.action, event.patient_id, event.image_id, detail,
        )  # fmt: skip

    def bound(self, caller: Caller) -> bool:
        """Does this caller see only patients whom they treat, or have emergency access to?"""
        return care.bound(self._live.settings, caller)

    def sees(self, caller: Caller, patient_id: str) -> bool:
        """Is this patient open to the caller now?"""
        return not self.bound(caller) or self._access.sees(
            self._database.read(), caller.username, patient_id
        )

    def granted(self, caller: Caller) -> Callable[[str], bool]:
        """Says for a region's class whether this account may restore it."""
        classes = self._access.classes(self._database.read(), caller.username)
        return lambda label: classes is None or label in classes

    def open_patients(self, caller: Caller) -> list[str] | None:
        """Keys of the patients whom the caller may know of; None for all of them."""
        if not self.bound(caller):
            return None
        return self._access.visible(self._database.read(), caller.username)

    def refuse_unseen(self, caller: Caller, method: str, kind: str, name: object) -> None:
        """Stop where the caller may not know of a patient or image.

        What is there and what is not answer alike and both leave one row in the log, so that
        neither the words nor the time say which it was.

        Args:
            kind: ``patient``, ``study``, ``image`` or ``region``.
            name: The key, or a patient's hospital number.

        Raises:
            NotFound: As if there were none.
        """
        tx = self._database.read()
        patient_id: str | None
        if kind == "region":
            patient_id = self._catalog.patient_of_region(tx, str(name))
        elif kind == "image":
            patient_id = self._catalog.patient_of(tx, str(name))
        elif kind == "study":
            patient_id = self._studies.patient_of(tx, str(name))
        else:
            patient_id = self._patients.known(tx, str(name))
        if patient_id is None or not self.sees(caller, patient_id):
            self._audit.record(
                caller,
                Event(
                    f"{kind}.access",
                    "refused",
                    patient_id=patient_id or "",
                    detail={"method": method, "why": "no-care-relation"},
                ),
            )
            raise NotFound(f"There is no such {kind}.")

    def forget_sessions(self, session_ids: list[str]) -> None:
        """Forget what ended sessions had open."""
        for session_id in session_ids:
            self._open_images.close_session(session_id)
            self._exchanges.close(session_id)

    def forget_if_ended(self, caller: Caller) -> None:
        """After something was opened: forget it if its session ended while it was being opened.

        Ending the session has closed what was open until then. Nobody can reach the rest any
        more, and it would stay in memory in clear until it expires.
        """
        if caller.role is Role.OPERATOR:  # has no session
            return
        try:
            self._sessions.resolve_id(caller.session_id, activity=False)
        except NotSignedIn:
            self.forget_sessions([caller.session_id])


class Guarded(Protocol):
    """A service whose methods :func:`needs` can guard."""

    @property
    def _guard(self) -> Guard: ...


S = TypeVar("S", bound=Guarded)
P = ParamSpec("P")
R = TypeVar("R")

#: Every guarded method (``drafts.upload``) and what it needs, for the table test and the docs.
GUARDED: dict[str, Permission | None] = {}
#: Those that ask for a fresh proof.
FRESH: set[str] = set()
#: Parameters by which a method names its subject. Whoever takes one of them is asked for a
#: care relation first: the name alone is enough, so that no method can forget it.
SUBJECTS = {
    "patient_id": "patient",
    "study_id": "study",
    "image_id": "image",
    "region_id": "region",
}


def needs(
    permission: Permission | None, *, fresh: bool = False, enrolling: bool = False
) -> Callable[[Callable[Concatenate[S, Caller, P], R]], Callable[Concatenate[S, str, P], R]]:
    """Turn a method that takes a Caller into one that takes a token.

    Args:
        permission: What the caller's role must hold; None for anybody signed in.
        fresh: The caller must have proven who they are within ``step_up_minutes``.
        enrolling: Can also be called while the second factor that the role wants is missing.

    The token is resolved on every call, so that disabling an account works at once.
    A refusal is a row in the audit log. A method that names a patient or an image (see
    ``SUBJECTS``) is refused to a doctor who has no care relation to them.
    """

    def wrap(
        method: Callable[Concatenate[S, Caller, P], R],
    ) -> Callable[Concatenate[S, str, P], R]:
        # The service as callers know it: engine.<module>.<method>.
        called = f"{method.__module__.rpartition('.')[2]}.{method.__name__}"
        GUARDED[called] = permission
        if fresh:
            FRESH.add(called)
        parameters = list(inspect.signature(method).parameters)[2:]
        subjects = [(n, parameters.index(n), k) for n, k in SUBJECTS.items() if n in parameters]

        @functools.wraps(method)
        def guarded(self: S, token: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
            guard = self._guard
            try:
                caller = guard.caller(token)
            except NotSignedIn:
                log.info("refused %s: no session", called)
                raise
            guard.check(caller, called, permission, fresh=fresh, enrolling=enrolling)
            if subjects and guard.bound(caller):
                for name, place, kind in subjects:
                    given = args[place] if place < len(args) else kwargs.get(name)
                    if given is not None:
                        guard.refuse_unseen(caller, called, kind, given)
            return method(self, caller, *args, **kwargs)

        return prometheus.counted(called, guarded)

    return wrap

"""Who asks, and may they: every method of the Engine goes through :func:`needs`."""

from __future__ import annotations

import functools
import hmac
import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Concatenate, ParamSpec, TypeVar

from engine import tracing
from engine.detection import Detector, Guests, Profiles
from engine.errors import (
    NotFound,
    NotSignedIn,
    PermissionDenied,
    SecondFactorNeeded,
    StepUpNeeded,
)
from engine.formats.images import Limits
from engine.host import Host
from engine.people.access_integrity import Roster
from engine.people.accounts import Accounts
from engine.people.care import Access
from engine.people.identities import Identities
from engine.people.lockout import Lockout
from engine.people.registrations import Registrations
from engine.people.second_factor import Challenges, SecondFactors
from engine.people.sessions import Sessions
from engine.people.tokens import Tokens
from engine.permissions import Permission, Role, allowed
from engine.records import Caller
from engine.service import prometheus
from engine.settings import Settings
from engine.store.audit import AuditLog, Event
from engine.store.audited_rows import SealedRows
from engine.store.catalog import Catalog
from engine.store.database import Database
from engine.store.key_hierarchy import Hierarchy
from engine.store.open_images import Viewings
from engine.store.patient_merge import Merging
from engine.store.patients import Patients
from engine.store.read_log import Reads
from engine.store.training_cases import Training
from engine.vault import Exchanges, Keyring

log = logging.getLogger("medsec")


class Core:
    """What every part of the Engine shares. Built by :meth:`Engine.open` alone."""

    settings: Settings
    host: Host
    database: Database
    hierarchy: Hierarchy
    accounts_: Accounts
    sessions_: Sessions
    lockout: Lockout
    factors: SecondFactors
    challenges: Challenges
    registrations: Registrations
    identities: Identities
    tokens: Tokens
    audit: AuditLog
    roster: Roster
    access_: Access
    catalog: Catalog
    patients_: Patients
    merging: Merging
    training: Training
    reads: Reads
    detector: Detector
    profiles_: Profiles
    guests_: Guests
    evaluations_: SealedRows
    viewings: Viewings
    exchanges: Exchanges
    limits: Limits
    keyring: Keyring
    #: Were accounts or rights changed outside MedSec? Then no entry of the log vouches for them.
    _roster_broken: bool
    _operator_token: str | None
    _work: dict[str, str]
    #: Files of batches under way that no row knows of yet, by batch.
    _at_work: dict[str, set[str]]

    def caller(self, token: object, *, activity: bool = True) -> Caller:
        """Resolve a token afresh; who has stolen one asks from an address of their own.

        Raises:
            NotSignedIn: It is not one of an open session.
        """
        caller = self._caller(token, activity)
        here = tracing.address()
        return replace(caller, origin=here) if here else caller

    def _caller(self, token: object, activity: bool) -> Caller:
        if self._operator_token is not None and token == self._operator_token:
            return Caller("operator", Role.OPERATOR, "operator", "command line")
        monitor = self.settings.metrics_token
        if (
            monitor
            and isinstance(token, str)
            and hmac.compare_digest(monitor.encode(), token.encode(errors="replace"))
        ):
            return Caller("monitor", Role.MONITOR, "monitor", "monitoring")
        if isinstance(token, str) and token in self._work:
            return self.sessions_.resolve_id(self._work[token])
        if isinstance(token, str) and token.count(".") == 2:  # a JWT of the API
            return self.sessions_.resolve_id(*self.tokens.session_of(token), activity=activity)
        return self.sessions_.resolve(token, activity=activity)

    def _ask_again(self, caller: Caller) -> None:
        """Raises StepUpNeeded where the session's last proof is older than the setting says."""
        minutes = self.settings.step_up_minutes
        if not minutes or caller.proven_at is None:
            return
        if self.host.now() - caller.proven_at >= timedelta(minutes=minutes):
            raise StepUpNeeded(
                "Prove again who you are: type your password or a code.", minutes=minutes
            )

    def record_read(self, caller: Caller, event: Event) -> None:
        """Log that somebody read something; drawn again within minutes, it is the same read."""
        detail = json.dumps(event.detail or {}, sort_keys=True)
        glass = None  # what was read before the glass was broken is read under it once more
        if event.patient_id and self.bound(caller):
            tx = self.database.read()
            glass = self.access_.glass_over(tx, caller.username, event.patient_id)
        who = (caller.session_id, caller.origin, glass)
        if self.reads.new((who, event.action, event.patient_id, event.image_id, detail)):
            self.audit.record(caller, event)

    def bound(self, caller: Caller) -> bool:
        """Does this caller see only patients whom they treat, or broke the glass for?"""
        return self.settings.care_relation and not allowed(caller.role, Permission.EVERY_PATIENT)

    def sees(self, caller: Caller, patient_id: str) -> bool:
        """Is this patient open to the caller now?"""
        return not self.bound(caller) or self.access_.sees(
            self.database.read(), caller.username, patient_id
        )

    def granted(self, caller: Caller) -> Callable[[str], bool]:
        """Says for a region's class whether this account may restore it."""
        classes = self.access_.classes(self.database.read(), caller.username)
        return lambda label: classes is None or label in classes

    def open_patients(self, caller: Caller) -> list[str] | None:
        """Keys of the patients whom the caller may know of; None for all of them."""
        if not self.bound(caller):
            return None
        return self.access_.visible(self.database.read(), caller.username)

    def refuse_unseen(self, caller: Caller, method: str, kind: str, name: object) -> None:
        """Stop where the caller may not know of a patient or image.

        What is there and what is not answer alike and both leave one row in the log, so that
        neither the words nor the time say which it was.

        Args:
            kind: ``patient``, ``image`` or ``region``.
            name: The key, or a patient's hospital number.

        Raises:
            NotFound: As if there were none.
        """
        tx = self.database.read()
        patient_id: str | None
        if kind == "region":
            patient_id = self.catalog.patient_of_region(tx, str(name))
        elif kind == "image":
            patient_id = self.catalog.patient_of(tx, str(name))
        else:
            patient_id = self.patients_.known(tx, str(name))
        if patient_id is None or not self.sees(caller, patient_id):
            self.audit.record(
                caller,
                Event(
                    f"{kind}.access",
                    "refused",
                    patient_id=patient_id or "",
                    detail={"method": method, "why": "no-care-relation"},
                ),
            )
            raise NotFound(f"There is no such {kind}.")


S = TypeVar("S", bound=Core)
P = ParamSpec("P")
R = TypeVar("R")

#: Every guarded method and what it needs, for the table test and the documentation.
GUARDED: dict[str, Permission | None] = {}
#: Those that ask for a fresh proof.
FRESH: set[str] = set()
#: Parameters by which a method names its subject. Whoever takes one of them is asked for a
#: care relation first: the name alone is enough, so that no method can forget it.
SUBJECTS = {"patient_id": "patient", "image_id": "image", "region_id": "region"}


def needs(
    permission: Permission | None, *, fresh: bool = False, enrolling: bool = False
) -> Callable[[Callable[Concatenate[S, Caller, P], R]], Callable[Concatenate[S, str, P], R]]:
    """Turn a method that takes a Caller into one that takes a token.

    Args:
        permission: What the caller's role must hold; None for anybody signed in.
        fresh: Who calls must have proven who they are within ``step_up_minutes``.
        enrolling: May also be called while the second factor that the role wants is missing.

    The token is resolved on every call, so that disabling an account works at once.
    A refusal is a row in the audit log. A method that names a patient or an image (see
    ``SUBJECTS``) is refused to a doctor who may not know of it.
    """

    def wrap(
        method: Callable[Concatenate[S, Caller, P], R],
    ) -> Callable[Concatenate[S, str, P], R]:
        GUARDED[method.__name__] = permission
        if fresh:
            FRESH.add(method.__name__)
        parameters = list(inspect.signature(method).parameters)[2:]
        subjects = [(n, parameters.index(n), k) for n, k in SUBJECTS.items() if n in parameters]

        @functools.wraps(method)
        def guarded(self: S, token: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                caller = self.caller(token)
            except NotSignedIn:
                log.info("refused %s: no session", method.__name__)
                raise
            if permission is not None and not allowed(caller.role, permission):
                self.audit.record(
                    caller, Event(str(permission), "refused", detail={"method": method.__name__})
                )
                raise PermissionDenied(f"The role {caller.role} may not do this.")
            try:
                if caller.factor_due and not enrolling:
                    raise SecondFactorNeeded("Set up a second factor first, under My account.")
                if fresh:
                    self._ask_again(caller)
            except (SecondFactorNeeded, StepUpNeeded) as err:
                why = {"method": method.__name__, "why": err.code}
                what = str(permission) if permission else "session.use"
                self.audit.record(caller, Event(what, "refused", detail=why))
                raise
            if subjects and self.bound(caller):
                for name, place, kind in subjects:
                    given = args[place] if place < len(args) else kwargs.get(name)
                    if given is not None:
                        self.refuse_unseen(caller, method.__name__, kind, given)
            return method(self, caller, *args, **kwargs)

        return prometheus.counted(method.__name__, guarded)

    return wrap

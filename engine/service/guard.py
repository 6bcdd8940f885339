"""Who asks, and may they: every method of the Engine goes through :func:`needs`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from engine.accounts import Accounts
from engine.audit import AuditLog, Event
from engine.catalog import Catalog
from engine.database import Database
from engine.detection import Detector
from engine.errors import NotSignedIn, PermissionDenied
from engine.exchange import Exchanges
from engine.hierarchy import Hierarchy
from engine.host import Host
from engine.images import Limits
from engine.keys import Keyring
from engine.patients import Patients
from engine.permissions import Permission, Role, allowed
from engine.records import Caller
from engine.settings import Settings
from engine.tokens import Tokens
from engine.viewings import Viewings

log = logging.getLogger("medsec")


class Core:
    """What every part of the Engine shares. Built by :meth:`Engine.open` alone."""

    settings: Settings
    host: Host
    database: Database
    hierarchy: Hierarchy
    accounts_: Accounts
    tokens: Tokens
    audit: AuditLog
    catalog: Catalog
    patients_: Patients
    detector: Detector
    viewings: Viewings
    exchanges: Exchanges
    limits: Limits
    keyring: Keyring
    _operator_token: str | None

    def caller(self, token: object, *, activity: bool = True) -> Caller:
        """Resolve a token afresh.

        Raises:
            NotSignedIn: It is not one of an open session.
        """
        if self._operator_token is not None and token == self._operator_token:
            return Caller("operator", Role.OPERATOR, "operator", "command line")
        if isinstance(token, str) and token.count(".") == 2:  # a JWT of the API
            return self.accounts_.resolve_session(self.tokens.session_of(token))
        return self.accounts_.resolve(token, activity=activity)


S = TypeVar("S", bound=Core)
P = ParamSpec("P")
R = TypeVar("R")

#: Every guarded method and what it needs, for the table test and the documentation.
GUARDED: dict[str, Permission | None] = {}


def needs(
    permission: Permission | None,
) -> Callable[[Callable[Concatenate[S, Caller, P], R]], Callable[Concatenate[S, str, P], R]]:
    """Turn a method that takes a Caller into one that takes a token.

    Args:
        permission: What the caller's role must hold; None for anybody signed in.

    The token is resolved on every call, so that disabling an account works at once.
    A refusal is a row in the audit log.
    """

    def wrap(
        method: Callable[Concatenate[S, Caller, P], R],
    ) -> Callable[Concatenate[S, str, P], R]:
        GUARDED[method.__name__] = permission

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
            return method(self, caller, *args, **kwargs)

        return guarded

    return wrap

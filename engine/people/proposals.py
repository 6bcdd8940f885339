"""Changes that a second administrator has to confirm (four eyes): of accounts, and of the network.

Whoever resets a doctor's password and second factor, or makes a doctor, can sign in as that doctor.
So such a change waits until another administrator confirms it. Where there is no other, the one
who has the server's console confirms: a code is shown there and nowhere else.

Proposals are in the server's memory for a day: none of them is in the catalog, where it could be
written by somebody else, and a restart drops them. A new password waits as a hash.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from engine.errors import InputError, NotFound, PermissionDenied
from engine.host import Host
from engine.permissions import Permission, Role, allowed
from engine.records import Account, Caller
from engine.store.database import Cursor

KEPT = timedelta(days=1)
MOST_WAITING = 100

#: Facts for the log: who proposed a change.
Said = Mapping[str, Any]
#: The account after a change, and the sessions that the change ended.
Changed = tuple[Account, Sequence[str]]
#: What a change gives back once it is made.
Made = TypeVar("Made")
Apply = Callable[[Cursor, Caller, Said], Made]


@dataclass(frozen=True)
class Proposal(Generic[Made]):
    """A change that waits.

    Args:
        action: As in the audit log, such as ``account.reset-password``.
        username: Whose account, or which version of a network.
        role: The new one, where the change gives one.
        proposed_by: Who may not confirm it.
        by_console: There is no third administrator, besides who proposed it and whom it is about:
            the code on the server's console confirms.
    """

    proposal_id: str
    action: str
    username: str
    role: Role | None
    proposed_by: str
    proposed_at: datetime
    expires_at: datetime
    by_console: bool
    code: str = field(default="", repr=False)
    apply: Apply[Made] | None = field(default=None, repr=False, compare=False)


def weighty(*roles: Role | None) -> bool:
    """Can an account of one of these roles open originals, or manage other accounts?"""
    opens = (Permission.RESTORE, Permission.MANAGE_ACCOUNTS)
    return any(role is not None and allowed(role, p) for role in roles for p in opens)


class Proposals(Generic[Made]):
    """What waits in this server."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._waiting: dict[str, Proposal[Made]] = {}

    def add(
        self,
        caller: Caller,
        action: str,
        username: str,
        role: Role | None,
        apply: Apply[Made],
        *,
        alone: bool,
    ) -> Proposal[Made]:
        """Let a change wait; an earlier one of the same kind for the same account is dropped.

        Args:
            apply: Makes the change in a transaction, for who confirmed it.
            alone: There is no other administrator.

        Raises:
            InputError: Too many are waiting.
        """
        now = self._host.now()
        code = self._host.random(16).hex() if alone else ""
        made = Proposal(
            "pp_" + self._host.random(16).hex(), action, username, role, caller.username, now,
            now + KEPT, alone, "-".join(code[i : i + 4] for i in range(0, len(code), 4)), apply,
        )  # fmt: skip
        with self._lock:
            self._drop_old()
            for known in [*self._waiting.values()]:
                if (known.action, known.username) == (action, username):
                    del self._waiting[known.proposal_id]
            if len(self._waiting) >= MOST_WAITING:
                raise InputError("Too many changes wait to be confirmed. Confirm or drop some.")
            self._waiting[made.proposal_id] = made
        return made

    def waiting(self) -> list[Proposal[Made]]:
        """What waits, the oldest first, without codes and without what would make the change."""
        with self._lock:
            self._drop_old()
            found = sorted(self._waiting.values(), key=lambda p: (p.proposed_at, p.proposal_id))
        return [replace(p, code="", apply=None) for p in found]

    def take(self, caller: Caller, proposal_id: str, code: str) -> Proposal[Made]:
        """A proposal that this caller may confirm; it no longer waits.

        Raises:
            NotFound: No such proposal, or too old.
            PermissionDenied: One's own, or about one's own account, or a wrong code.
        """
        with self._lock:
            self._drop_old()
            found = self._waiting.get(proposal_id)
            if found is None:
                raise NotFound("This change no longer waits. Reload the page.")
            if found.username == caller.username:
                raise PermissionDenied("You cannot confirm a change of your own account.")
            shown = found.by_console and hmac.compare_digest(
                found.code.encode(), code.strip().encode()
            )
            if found.by_console and code and not shown:
                del self._waiting[proposal_id]  # one try: the code is for who reads it
                raise PermissionDenied(
                    "The code does not match the one on the server's console. The change was"
                    " dropped: propose it again."
                )
            if found.proposed_by == caller.username and not shown:
                raise PermissionDenied(
                    "You proposed this change. Another administrator has to confirm it."
                )
            return self._waiting.pop(proposal_id)

    def drop(self, proposal_id: str) -> Proposal[Made]:
        """End a proposal. Raises NotFound."""
        with self._lock:
            self._drop_old()
            found = self._waiting.pop(proposal_id, None)
        if found is None:
            raise NotFound("This change no longer waits. Reload the page.")
        return found

    def _drop_old(self) -> None:
        now = self._host.now()
        self._waiting = {i: p for i, p in self._waiting.items() if p.expires_at > now}

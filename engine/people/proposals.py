"""Changes that a second administrator has to confirm (four eyes): of accounts, and of the network.

Whoever resets a doctor's password and second factor, or makes a doctor, can sign in as that doctor.
So such a change waits until another administrator confirms it. Where there is no other, the one
who has the server's console confirms: a code is shown there and nowhere else.

A proposal waits for a day, on all servers; a restart of the only one drops it. Where it is a row,
it is sealed, so that nobody else can write one. A new password waits as a hash.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from engine.errors import InputError, NotFound, PermissionDenied
from engine.host import Host
from engine.permissions import Permission, Role, allowed
from engine.records import Caller
from engine.store.shared import Hold, Shared

KEPT = timedelta(days=1)
MOST_WAITING = 100

#: Facts for the log: who proposed a change.
Said = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """What is to be changed.

    Args:
        action: As in the audit log, such as ``account.reset-password``.
        username: Whose account, or which version of a network.
        role: The new one, where the change gives one.
        facts: What the change needs besides.
    """

    action: str
    username: str
    role: Role | None = None
    facts: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Proposal:
    """A change that waits.

    Args:
        proposed_by: Who may not confirm it.
        by_console: There is no third administrator, besides who proposed it and whom it is about:
            the code on the server's console confirms.
    """

    proposal_id: str
    change: Change
    proposed_by: str
    proposed_at: datetime
    expires_at: datetime
    by_console: bool
    code: str = field(default="", repr=False)

    @property
    def action(self) -> str:
        return self.change.action

    @property
    def username(self) -> str:
        return self.change.username

    @property
    def role(self) -> Role | None:
        return self.change.role

    def to_json(self) -> str:
        """For :meth:`from_json`."""
        times = [self.proposed_at.isoformat(), self.expires_at.isoformat()]
        return json.dumps(
            [self.proposal_id, asdict(self.change), self.proposed_by, times, self.by_console,
             self.code]
        )  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> Proposal:
        proposal_id, change, proposed_by, times, by_console, code = json.loads(text)
        role = None if change["role"] is None else Role(change["role"])
        proposed_at, expires_at = map(datetime.fromisoformat, times)
        return cls(
            proposal_id, Change(**{**change, "role": role}), proposed_by, proposed_at, expires_at,
            by_console, code,
        )  # fmt: skip


def weighty(*roles: Role | None) -> bool:
    """Can an account of one of these roles open originals, or manage other accounts?"""
    opens = (Permission.RESTORE, Permission.MANAGE_ACCOUNTS)
    return any(role is not None and allowed(role, p) for role in roles for p in opens)


class Proposals:
    """What waits.

    Args:
        kind: Of changes, such as ``account``.
    """

    def __init__(self, host: Host, shared: Shared, kind: str) -> None:
        self._host = host
        self._shared = shared
        self._kind = f"proposal of {kind}"

    def add(self, caller: Caller, change: Change, *, alone: bool) -> Proposal:
        """Let a change wait; an earlier one of the same kind for the same account is dropped.

        Args:
            alone: There is no other administrator.

        Raises:
            InputError: Too many are waiting.
        """
        now = self._host.now()
        code = self._host.random(16).hex() if alone else ""
        made = Proposal(
            "pp_" + self._host.random(16).hex(), change, caller.username, now, now + KEPT, alone,
            "-".join(code[i : i + 4] for i in range(0, len(code), 4)),
        )  # fmt: skip
        waiting = 0
        for before in self._all():
            if (before.action, before.username) == (change.action, change.username):
                self._shared.take(self._kind, before.proposal_id)
            else:
                waiting += 1
        if waiting >= MOST_WAITING:
            raise InputError("Too many changes wait to be confirmed. Confirm or drop some.")
        self._shared.hold(
            Hold(self._kind, made.proposal_id, made.proposal_id, made.to_json()), KEPT
        )
        return made

    def waiting(self) -> list[Proposal]:
        """What waits, the oldest first, without codes and without what would make the change."""
        return [
            replace(p, code="", change=replace(p.change, facts={}))
            for p in sorted(self._all(), key=lambda p: (p.proposed_at, p.proposal_id))
        ]

    def take(self, caller: Caller, proposal_id: str, code: str) -> Proposal:
        """A proposal that this caller may confirm; it no longer waits.

        Raises:
            NotFound: No such proposal, or too old.
            PermissionDenied: One's own, or about one's own account, or a wrong code.
        """
        found = self._read(self._shared.get(self._kind, proposal_id))
        if found.username == caller.username:
            raise PermissionDenied("You cannot confirm a change of your own account.")
        shown = found.by_console and hmac.compare_digest(found.code.encode(), code.strip().encode())
        if found.by_console and code and not shown:
            self._shared.take(self._kind, proposal_id)  # one try: the code is for who reads it
            raise PermissionDenied(
                "The code does not match the one on the server's console. The change was"
                " dropped: propose it again."
            )
        if found.proposed_by == caller.username and not shown:
            raise PermissionDenied(
                "You proposed this change. Another administrator has to confirm it."
            )
        return self.drop(proposal_id)

    def drop(self, proposal_id: str) -> Proposal:
        """End a proposal. Raises NotFound."""
        return self._read(self._shared.take(self._kind, proposal_id))

    def _all(self) -> list[Proposal]:
        return [Proposal.from_json(text) for text in self._shared.all(self._kind)]

    @staticmethod
    def _read(text: str | None) -> Proposal:
        if text is None:
            raise NotFound("This change no longer waits. Reload the page.")
        return Proposal.from_json(text)

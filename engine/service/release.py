"""Earned release as administrators see it: streams, their bounds, and the way to suspend one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from engine.errors import InputError
from engine.metrics import Standing
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.release_decisions import ReleaseDecisions
from engine.permissions import Permission
from engine.records import Caller

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class LooksSaved:
    """What nobody had to look at.

    Args:
        images: Released without a person's look.
        bound: The largest upper bound of their streams on the share of images with a miss; None
            where nothing was released.
    """

    images: int
    bound: float | None


class Release:
    """What streams have shown. Nobody can grant trust here."""

    def __init__(self, context: Context, guard: Guard, decisions: ReleaseDecisions) -> None:
        self._database = context.database
        self._decisions = decisions
        self._guard = guard
        self._host = context.host

    @needs(Permission.MANAGE_SETTINGS)
    def streams(self, caller: Caller) -> list[Standing]:
        """Every stream that had an image, those with most images first.

        Raises:
            SealBroken: The ledger was altered; nothing is released without a person.
        """
        return self._decisions.standings(self._database.read())

    @needs(Permission.MANAGE_SETTINGS)
    def curve(self, caller: Caller, stream_id: str) -> list[tuple[int, float]]:
        """The bound of a stream after its looks: number of looks, and bound from 0 to 1.

        Raises:
            NotFound: No such stream.
            SealBroken: The ledger was altered.
        """
        return self._decisions.curve(self._database.read(), stream_id)

    @needs(Permission.MANAGE_SETTINGS)
    def suspend(self, caller: Caller, stream_id: str, reason: str) -> None:
        """Let a person look at every image of a stream until it has earned its release anew.

        Raises:
            InputError: No reason.
            NotFound: No such stream.
            SealBroken: The ledger was altered.
        """
        if not reason.strip():
            raise InputError("Give a reason for suspending the stream.")
        with self._database.write() as tx:
            self._decisions.suspend(tx, caller, stream_id, reason.strip())

    @needs(Permission.STATISTICS)
    def saved_this_week(self, caller: Caller) -> LooksSaved:
        """Looks that were saved in the last seven days. Raises SealBroken."""
        since = self._host.now() - WEEK
        return LooksSaved(*self._decisions.saved(self._database.read(), since))

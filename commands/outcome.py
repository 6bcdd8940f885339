"""How a command ended, and how it reports a file that failed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from engine import errors


class Outcome(IntEnum):
    """The exit status."""

    DONE = 0
    SOME_FAILED = 1  # or need a person
    REFUSED = 2  # wrong usage, or the command could not start

    @classmethod
    def of(cls, failed: int) -> Outcome:
        """Of a command that worked on many things, of which so many failed."""
        return cls.SOME_FAILED if failed else cls.DONE


def described(err: errors.EngineError) -> str:
    """What happened to one file, after its name."""
    if isinstance(err, errors.ReviewNeeded):
        return waiting(err.facts.get("reasons", []))
    return f"failed ({err.code}): {err.message}"


def waiting(reasons: Sequence[str]) -> str:
    """Why an image waits for a person, after its name."""
    return f"needs review ({', '.join(reasons)}): it waits in the review queue"

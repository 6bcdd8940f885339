"""What became of the files of a batch: a line for each, and how fast it goes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.metrics import coarse_times

#: What a line says, in this order.
COLUMNS = (
    "file", "state", "image_id", "regions", "labels", "reasons", "seconds", "error", "error_id",
)  # fmt: skip


@dataclass(frozen=True)
class BatchItem:
    """What became of one file.

    Args:
        place: Of the file in the batch, from 0.
        state: ``sealed``, ``draft`` (taken in, where no more was asked for), ``present`` (was
            here before), ``review`` (a person must look) or ``failed``.
        labels: How many regions of each class are sealed.
        reasons: Why a person must look, or was not asked.
        error: Code and sentence of what went wrong.
        times_ms: Of each stage; kept as powers of two, for a time tells of hidden pixels.
        error_id: Under which the log has it, where nobody expected it.
        notes: What a person has to know of the file, in sentences.
    """

    place: int
    state: str
    image_id: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    reasons: Sequence[str] = ()
    times_ms: Mapping[str, float] = field(default_factory=dict)
    error: tuple[str, str] | None = None
    error_id: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "times_ms", coarse_times(self.times_ms))

    @property
    def bad(self) -> bool:
        """Does somebody have to do something about this file?"""
        return self.state in ("review", "failed")

    @property
    def seconds(self) -> float:
        """Work on this file, in its worker."""
        return round(sum(self.times_ms.values()) / 1000, 3)

    def line(self, file: str) -> dict[str, Any]:
        """A line of the report, by ``COLUMNS``.

        Args:
            file: How its sender calls it.
        """
        values = (
            file, self.state, self.image_id or "", sum(self.labels.values()), dict(self.labels),
            list(self.reasons), self.seconds, self.error[0] if self.error else "",
            self.error_id,
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))

    def json_line(self, file: str) -> str:
        """A line of a ``.jsonl`` report, with the times of its stages besides."""
        return json.dumps(self.line(file) | {"times_ms": dict(self.times_ms)}) + "\n"

    def csv_line(self, file: str) -> str:
        """A line of a ``.csv`` report."""
        line = self.line(file)
        line["file"] = f"'{file}" if file[:1] in ("=", "+", "-", "@", "\t", "\r") else file
        line["labels"] = " ".join(f"{label}={n}" for label, n in sorted(self.labels.items()))
        line["reasons"] = " ".join(self.reasons)
        return _csv(line.values())


CSV_HEAD = ",".join(COLUMNS) + "\r\n"


def _csv(values: Any) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(values)
    return out.getvalue()


class Progress:
    """How far a batch is.

    Args:
        total: How many files it has.
        now_s: Monotonic seconds at its beginning, as in all calls.
    """

    def __init__(self, total: int, now_s: float) -> None:
        self.total, self.done, self.bad = total, 0, 0
        self._worked = 0
        self._began = self._last = now_s

    def add(self, item: BatchItem, now_s: float) -> None:
        self.done += 1
        self.bad += item.bad
        self._worked += item.state != "present"  # these take no time to speak of
        self._last = now_s

    @property
    def per_second(self) -> float:
        """Files that were worked on, a second, up to the last one."""
        spent = self._last - self._began
        return self._worked / spent if spent > 0 else 0.0

    @property
    def left_seconds(self) -> float | None:
        """Until all are done at that rate; None where nobody can say yet."""
        rate = self.per_second
        return (self.total - self.done) / rate if rate > 0 else None

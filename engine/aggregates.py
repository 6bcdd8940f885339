"""Numbers about many images: percentiles, throughput, and what a researcher may see.

Refuses to publish a group of few patients, and what would let a reader subtract one out.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: In place of a value of a key: this dimension is summed up.
ALL = "*"

Key = tuple[Hashable, ...]


class Percentiles(NamedTuple):
    """What 50, 95 and 99 % of the values do not exceed, and of how many that was said."""

    measured: int
    p50: float
    p95: float
    p99: float


def percentiles(values: Sequence[float] | np.ndarray) -> Percentiles:
    """Median, 95th and 99th percentile, interpolated linearly between ranks.

    With under 100 values the 99th is close to the greatest one measured.

    Raises:
        ValueError: No values, or some that are not finite.

    Source: Hyndman and Fan 1996, definition 7 (NumPy's and DuckDB's ``quantile_cont``).
    """
    array = np.asarray(values, np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError("percentiles need at least one value, all of them finite")
    p50, p95, p99 = (float(p) for p in np.percentile(array, [50, 95, 99]))
    return Percentiles(int(array.size), p50, p95, p99)


class Throughput(NamedTuple):
    """Of one worker while it is busy; waiting for people or for uploads is not counted."""

    images_per_second: float
    bytes_per_second: float


def throughput(sizes_bytes: Sequence[float], times_ms: Sequence[float]) -> Throughput:
    """Images and bytes per second of work: totals over total time, not a mean of rates.

    Args:
        sizes_bytes: Size of each file.
        times_ms: Time that each took, all stages together.

    Raises:
        ValueError: Nothing measured, different lengths, or no time at all.
    """
    if len(sizes_bytes) != len(times_ms) or sum(times_ms) <= 0:
        raise ValueError("throughput needs one time above 0 in total, and one per size")
    seconds = sum(times_ms) / 1000
    return Throughput(len(times_ms) / seconds, sum(sizes_bytes) / seconds)


def suppress_small(groups: Mapping[Key, Collection[Hashable]], minimum: int = 5) -> frozenset[Key]:
    """Which groups, and which totals, must not be published.

    Three steps, repeated until nothing changes:

    1. Groups and totals of fewer than ``minimum`` patients are withheld.
    2. What is left of a published total after its published groups are taken away is
       withheld too where it stands for fewer than ``minimum`` patients.
    3. Whatever is withheld must not follow from what is published by adding and
       subtracting, in one line or across several: as long as it does, the smallest
       figure in that sum is withheld as well, groups before totals.

    This holds for sums over one table. It does not stop guesses from ranges ("between 1
    and 4"), nor someone who compares two tables made with different filters: offer
    fixed groupings only. A table of 400 groups takes 0.1 s, one of 300 in three dimensions
    seconds.

    Args:
        groups: Patients by key, and every key a tuple of the same length, such as
            ``("2026-01", "CT")``. A patient may be in several groups.
        minimum: Fewest patients that may be published.

    Returns:
        Keys to withhold: of groups as given, and of totals with :data:`ALL` in the places
        that are summed, such as ``("2026-01", "*")`` or ``("*", "*")``. Empty groups are
        never withheld.

    Raises:
        ValueError: Keys of different lengths or containing :data:`ALL`; minimum under 1.

    Source: k-anonymity, Sweeney 2002; complementary suppression, Cox 1980.
    """
    if minimum < 1:
        raise ValueError(f"minimum {minimum} is under 1")
    if len({len(key) for key in groups}) > 1 or any(ALL in key for key in groups):
        raise ValueError(f"keys must be tuples of one length, without {ALL!r}")
    cells = {key: frozenset(patients) for key, patients in groups.items() if patients}
    spans = _spans(cells)

    def count(span: Collection[Key]) -> int:
        return len({patient for cell in span for patient in cells[cell]})

    sizes = {key: count(span) for key, span in spans.items()}
    withheld = {key for key, size in sizes.items() if size < minimum}
    while True:
        gaps = {
            key: gap
            for key, span in spans.items()
            if (gap := [cell for cell in span if cell in withheld])
        }
        secret = [gap for key, gap in gaps.items() if key in withheld or count(gap) < minimum]
        public = {key: gap for key, gap in gaps.items() if key not in withheld}
        telling = _telling(public, secret)
        if not telling:
            return frozenset(withheld)
        candidates = {cell for key in telling for cell in spans[key]} - withheld

        def cost(key: Key, public: Mapping[Key, Collection[Key]] = public) -> tuple[int, int, str]:
            # A gap of one cell gives that cell away: prefer what leaves the fewest of those.
            alone = sum(
                1 for k in spans if len(public.get(k, ())) + (key in spans[k]) == 1 and k != key
            )
            return alone, sizes[key], str(key)

        withheld.add(min(candidates or set(telling), key=cost))


def _spans(cells: Collection[Key]) -> dict[Key, frozenset[Key]]:
    """Each group and each total, with the groups that it sums."""
    spans: dict[Key, set[Key]] = {}
    for cell in cells:
        for summed in itertools.product([False, True], repeat=len(cell)):
            key = tuple(ALL if s else part for s, part in zip(summed, cell, strict=True))
            spans.setdefault(key, set()).add(cell)
    return {key: frozenset(span) for key, span in spans.items()}


def _telling(public: Mapping[Key, Collection[Key]], secret: Sequence[Collection[Key]]) -> list[Key]:
    """Published totals that, added and subtracted, give the first secret sum away, if any.

    Args:
        public: What each published total sums over the cells that are withheld.
        secret: Sums over such cells that nobody may find.
    """
    if not public or not secret:
        return []
    cells = {cell for gap in (*public.values(), *secret) for cell in gap}
    column = {cell: i for i, cell in enumerate(cells)}

    def sums(gaps: Collection[Collection[Key]]) -> np.ndarray:
        matrix = np.zeros((len(column), len(gaps)))
        for i, gap in enumerate(gaps):
            matrix[[column[cell] for cell in gap], i] = 1.0
        return matrix

    known, wanted = sums(public.values()), sums(secret)
    weights = np.linalg.lstsq(known, wanted, rcond=None)[0]
    solved = np.flatnonzero(np.abs(known @ weights - wanted).max(axis=0) < 1e-9)
    if not solved.size:
        return []
    return [key for key, w in zip(public, weights[:, solved[0]], strict=True) if abs(w) > 1e-9]

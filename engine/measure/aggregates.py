"""Numbers about many images: percentiles and throughput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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

"""Coarse steps: all that a number computed from hidden pixels tells who may not see them (G11).

Who has the masked image and can render guesses of a name can run the shipped detector on each
guess: a confidence in full precision is then met by exactly one of them. The same goes for a
duration, an entropy or a size. So the catalog's columns, the log, packages and the tables for
researchers hold steps only; the exact numbers are sealed with the image.

Every function gives its own results back unchanged, so that what is coarse already stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Steps of a confidence: rounded down to quarters.
CONFIDENCE_STEPS = 4
#: Values of a column of the researchers' tables are rounded to whole multiples of this.
TABLE_STEPS: Mapping[str, float] = {
    "entropy_original_bits": 0.1,
    "entropy_before_bits": 0.5,  # of what is under one box
    "ssim": 0.05,
    "psnr_db": 5.0,
    "histogram_correlation": 0.05,
    "average_hash_distance_bits": 8.0,
    "perceptual_hash_distance_bits": 8.0,
    "masked_share": 0.01,
    # Of pixels and bytes that everybody may have.
    "entropy_masked_bits": 0.01,
    "entropy_sealed_bits": 0.01,
    "entropy_sealed_expected_bits": 0.01,
    "entropy_sealed_low_bits": 0.01,
    "entropy_sealed_high_bits": 0.01,
    "entropy_after_bits": 0.01,
    "expected_bits": 0.01,
    "expected_low_bits": 0.01,
    "expected_high_bits": 0.01,
}


def coarse_confidence(confidence: float) -> float:
    """A confidence, rounded down to quarters: 0, 0.25, 0.5, 0.75, or 1 for a person's own box."""
    return math.floor(confidence * CONFIDENCE_STEPS) / CONFIDENCE_STEPS


def coarse_ms(spent_ms: float) -> float:
    """A duration as the nearest power of two, at least 1 ms; 0 stays 0."""
    if not spent_ms > 0:
        return 0.0
    return float(2 ** max(0, round(math.log2(spent_ms))))


def coarse_times(times_ms: Mapping[str, float]) -> dict[str, float]:
    """Durations of named stages, each as a power of two."""
    return {stage: coarse_ms(spent) for stage, spent in times_ms.items()}


def coarse_bytes(size: int) -> int:
    """A size, rounded up to 1 or 1.5 times a power of two."""
    if size < 2:
        return size
    half = 1 << ((size - 1).bit_length() - 1)  # under the size, by less than a factor of two
    return next(step for step in (half + half // 2, 2 * half) if step >= size)


def coarse_log(detail: Mapping[str, Any]) -> dict[str, Any]:
    """The detail of a log entry: an older release wrote confidences in full."""
    known = dict(detail)
    if isinstance(known.get("confidence"), float):
        known["confidence"] = coarse_confidence(known["confidence"])
    return known


def coarse_column(name: str, value: float) -> float:
    """A value of a column of the researchers' tables.

    Args:
        name: Of the column. One that is not known is a mistake: it could tell anything.

    Raises:
        ValueError: No steps are declared for it.
    """
    if not math.isfinite(value):
        return value
    if name == "confidence":
        return coarse_confidence(value)
    if name.endswith("_ms"):
        return coarse_ms(value)
    if name.endswith("_bytes"):
        above = float(coarse_bytes(round(value)))
        below = above * (3 / 4 if math.log2(max(above, 1)).is_integer() else 2 / 3)
        return min(above, below, key=lambda step: abs(step - value))  # sums stay about right
    step = TABLE_STEPS.get(name)
    if step is None:
        raise ValueError(f"no coarse steps are declared for {name}")
    return round(round(value / step) * step, 6)

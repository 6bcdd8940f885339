"""Drift of the networks: each month compared with the months before.

Figures per month and profile: boxes per image, confidence, corrections by people, and flags after
sealing. Drift is reported if a change is both large (population stability index) and
statistically significant. One alone is not enough: the index of thirty images varies by chance,
and with thousands of images any small change is significant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy  # its parts load when they are first used, which takes a third of a start

#: Above it a population counts as changed. Source: Siddiqi 2006, "Credit Risk Scorecards", ch. 9.
PSI_MOVED = 0.25
P_CHANCE = 0.01  # below it a difference is not taken for chance
FEWEST_IMAGES = 30  # of a month, and of the months before it, from which they are compared
BOX_EDGES = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)  # boxes per image, lower ends
CONFIDENCE_EDGES = tuple(k / 10 for k in range(10))


@dataclass
class Month:
    """What happened to the images of one month and profile.

    Args:
        month: Such as ``2026-03``.
        boxes: Boxes that the networks found, one number per image.
        confidences: Of boxes that were sealed as found.
        added, removed, changed: Corrections by people, counted in boxes.
        corrected: Images with any of them.
        flagged: Images withdrawn because something was missed.
    """

    month: str
    profile: str
    boxes: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    added: int = 0
    removed: int = 0
    changed: int = 0
    corrected: int = 0
    flagged: int = 0

    @property
    def images(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Shift:
    """One comparison with the months before.

    Args:
        what: ``boxes per image``, ``confidence``, ``corrected images`` or ``flagged images``.
        size: Population stability index, or for shares the difference.
        p: Chance of such a difference without a change.
    """

    what: str
    size: float
    p: float
    moved: bool


@dataclass(frozen=True)
class Drift:
    """A month beside the months before it; shifts are empty where there are too few images."""

    month: Month
    shifts: tuple[Shift, ...]

    @property
    def sentence(self) -> str:
        """What an administrator should know."""
        moved = [s for s in self.shifts if s.moved]
        if not self.shifts:
            return f"Fewer than {FEWEST_IMAGES} images, here or before: nothing to compare."
        if not moved:
            return "As in the months before."
        found = "; ".join(
            f"{s.what}: {'stability index' if s.what in _BY_INDEX else 'share up by'}"
            f" {s.size:.2f}, p = {s.p:.1g}"
            for s in moved
        )
        return (
            f"Moved: {found}. Look for a new device, layout or software, evaluate the profile on"
            " images of this month, and train on what was flagged."
        )


_BY_INDEX = ("boxes per image", "confidence")


def stability_index(before: Sequence[float], now: Sequence[float], edges: Sequence[float]) -> float:
    """Population stability index: how far two distributions over the same bins are apart.

    Half a count is added to each bin, so that an empty one gives a finite number.

    Args:
        edges: Lower end of each bin; the last one is open.

    Returns:
        0 for the same shares; above ``PSI_MOVED`` by convention a changed population.

    Raises:
        ValueError: There are no values.

    Source: Siddiqi 2006, "Credit Risk Scorecards", chapter 9.
    """
    if not len(before) or not len(now):
        raise ValueError("no values to compare")
    bounds = [*edges, math.inf]
    a, b = (np.histogram(values, bounds)[0] + 0.5 for values in (before, now))
    p, q = a / a.sum(), b / b.sum()
    return float(((q - p) * np.log(q / p)).sum())


def compared(months: Sequence[Month]) -> list[Drift]:
    """Each month of a profile with all months of that profile before it, newest first."""
    drifts = []
    for month in months:
        before = [m for m in months if m.profile == month.profile and m.month < month.month]
        drifts.append(Drift(month, _shifts(before, month)))
    return sorted(drifts, key=lambda d: (d.month.month, d.month.profile), reverse=True)


def _shifts(before: Sequence[Month], now: Month) -> tuple[Shift, ...]:
    images = sum(m.images for m in before)
    if min(images, now.images) < FEWEST_IMAGES:
        return ()
    shifts = [
        _distribution("boxes per image", [b for m in before for b in m.boxes], now.boxes, BOX_EDGES)
    ]
    sure = [c for m in before for c in m.confidences]
    if sure and now.confidences:
        shifts.append(_distribution("confidence", sure, now.confidences, CONFIDENCE_EDGES))
    for what, then, here in (
        ("corrected images", sum(m.corrected for m in before), now.corrected),
        ("flagged images", sum(m.flagged for m in before), now.flagged),
    ):
        shifts.append(_share(what, then, images, here, now.images))
    return tuple(shifts)


def _distribution(
    what: str, before: Sequence[float], now: Sequence[float], edges: Sequence[float]
) -> Shift:
    """By index and by the two-sample test of Kolmogorov and Smirnov."""
    index = stability_index(before, now, edges)
    p = float(scipy.stats.ks_2samp(before, now).pvalue)
    return Shift(what, index, p, index > PSI_MOVED and p < P_CHANCE)


def _share(what: str, then: int, of_then: int, here: int, of_here: int) -> Shift:
    """Has a share grown? Fisher's exact test, one-sided: fewer corrections are no alarm."""
    table = [[here, of_here - here], [then, of_then - then]]
    p = float(scipy.stats.fisher_exact(table, alternative="greater").pvalue)
    return Shift(what, here / of_here - then / of_then, p, p < P_CHANCE)

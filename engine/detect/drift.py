"""Drift of the networks: each month compared with the months before.

Figures per month and profile: boxes per image, confidence, corrections by people, and flags after
sealing. Drift is reported if a change is both large (population stability index) and
statistically significant. One alone is not enough: the index of thirty images varies by chance,
and with thousands of images any small change is significant.

Samples are counts: few values are different, however many images there are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy  # its parts load when they are first used, which takes a third of a start

#: Above it a population counts as changed. Source: Siddiqi 2006, "Credit Risk Scorecards", ch. 9.
PSI_MOVED = 0.25
P_CHANCE = 0.01  # below it a difference is not taken for chance
FEWEST_IMAGES = 30  # of a month, and of the months before it, from which they are compared
BOX_EDGES = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)  # boxes per image, lower ends
CONFIDENCE_EDGES = tuple(k / 10 for k in range(10))
#: Of larger samples, scipy's ``ks_2samp`` gives the asymptotic chance by itself.
EXACT_AT_MOST = 10_000

#: A sample: its values, each with how often it occurs.
Counts = Counter[float]


@dataclass
class Month:
    """What happened to the images of one month and profile.

    Args:
        month: Such as ``2026-03``.
        boxes: Boxes that the networks found in an image.
        confidences: Of boxes that were sealed as found.
        added, removed, changed: Corrections by people, counted in boxes.
        corrected: Images with any of them.
        flagged: Images withdrawn because something was missed.
    """

    month: str
    profile: str
    boxes: Counts = field(default_factory=Counter)
    confidences: Counts = field(default_factory=Counter)
    added: int = 0
    removed: int = 0
    changed: int = 0
    corrected: int = 0
    flagged: int = 0

    @property
    def images(self) -> int:
        return self.boxes.total()

    @property
    def boxes_per_image(self) -> float:
        """The mean; 0 without images."""
        return sum(value * times for value, times in self.boxes.items()) / max(1, self.images)

    @property
    def median_confidence(self) -> float | None:
        """None without boxes."""
        return median_of(self.confidences) if self.confidences else None


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


def median_of(sample: Counts) -> float:
    """The middle value; of an even number, the mean of the two in the middle.

    Raises:
        ValueError: There are no values.
    """
    if not sample:
        raise ValueError("no values")
    values, times = _columns(sample)
    size = sample.total()
    middle = np.searchsorted(times.cumsum(), [(size - 1) // 2, size // 2], side="right")
    return float(values[middle].mean())


def stability_index(before: Counts, now: Counts, edges: Sequence[float]) -> float:
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
    if not before or not now:
        raise ValueError("no values to compare")
    bounds = [*edges, math.inf]
    columns = map(_columns, (before, now))
    a, b = (np.histogram(values, bounds, weights=times)[0] + 0.5 for values, times in columns)
    p, q = a / a.sum(), b / b.sum()
    return float(((q - p) * np.log(q / p)).sum())


def chance_of_difference(before: Counts, now: Counts) -> float:
    """The p-value of the two-sample test of Kolmogorov and Smirnov, two-sided.

    As ``scipy.stats.ks_2samp`` gives it for the values themselves, one by one: exact up to
    ``EXACT_AT_MOST`` values, asymptotic beyond.

    Source: Hodges 1958, "The significance probability of the Smirnov two-sample test".
    """
    sizes = before.total(), now.total()
    if max(sizes) <= EXACT_AT_MOST:
        samples = (np.repeat(*_columns(sample)) for sample in (before, now))
        return float(scipy.stats.ks_2samp(*samples).pvalue)
    values = sorted(before.keys() | now.keys())
    shares = (
        np.cumsum([sample[value] for value in values]) / size
        for sample, size in zip((before, now), sizes, strict=True)
    )
    apart = np.abs(np.subtract(*shares)).max()
    n, m = sorted(map(float, sizes))
    return float(np.clip(scipy.stats.kstwo.sf(apart, np.round(m * n / (m + n))), 0.0, 1.0))


def _columns(sample: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Values, ascending, and how often each occurs."""
    values = sorted(sample)
    return np.array(values, float), np.array([sample[value] for value in values])


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
    shifts = [_distribution("boxes per image", _sum(m.boxes for m in before), now.boxes, BOX_EDGES)]
    sure = _sum(m.confidences for m in before)
    if sure and now.confidences:
        shifts.append(_distribution("confidence", sure, now.confidences, CONFIDENCE_EDGES))
    for what, then, here in (
        ("corrected images", sum(m.corrected for m in before), now.corrected),
        ("flagged images", sum(m.flagged for m in before), now.flagged),
    ):
        shifts.append(_share(what, then, images, here, now.images))
    return tuple(shifts)


def _sum(samples: Iterable[Counts]) -> Counts:
    together: Counts = Counter()
    for sample in samples:
        together.update(sample)
    return together


def _distribution(what: str, before: Counts, now: Counts, edges: Sequence[float]) -> Shift:
    """By index and by the two-sample test."""
    index, p = stability_index(before, now, edges), chance_of_difference(before, now)
    return Shift(what, index, p, index > PSI_MOVED and p < P_CHANCE)


def _share(what: str, then: int, of_then: int, here: int, of_here: int) -> Shift:
    """Has a share grown? Fisher's exact test, one-sided: fewer corrections are no alarm."""
    # An image can be corrected of whose look the log knows nothing, such as one of release 0.1.
    here, then = min(here, of_here), min(then, of_then)
    table = [[here, of_here - here], [then, of_then - then]]
    p = float(scipy.stats.fisher_exact(table, alternative="greater").pvalue)
    return Shift(what, here / of_here - then / of_then, p, p < P_CHANCE)

"""Each month and profile beside the months before, from the counts of the catalog."""

from __future__ import annotations

from engine.detection import Drift, Month, compared
from engine.store.figures import Figures

#: Fewest patients that a row of the drift table stands for.
SMALLEST_GROUP = 5
_CORRECTIONS = {
    "box.add": "added", "box.remove": "removed", "box.change": "changed",
    "image.withdraw": "flagged",
}  # fmt: skip


def monthly_drift(figures: Figures) -> list[Drift]:
    """Months of at least ``SMALLEST_GROUP`` patients, newest first.

    The database counts, so this needs no memory for single images.
    """
    months = {
        stream: Month(*stream)
        for stream, patients in figures.people().items()
        if patients >= SMALLEST_GROUP
    }
    for entry in figures.corrections():
        month = months.get(entry.stream)
        if month is None:
            continue
        if entry.action == "image.upload":
            month.boxes[entry.found] += entry.times
        else:
            kind = _CORRECTIONS[entry.action]
            setattr(month, kind, getattr(month, kind) + entry.times)
    for stream, images in figures.corrected().items():
        if stream in months:
            months[stream].corrected = images
    for stream, confidence, times in figures.confidences():
        if stream in months:
            months[stream].confidences[confidence] += times
    return compared(list(months.values()))

"""Each month and profile beside the months before, from the counts of the catalog."""

from __future__ import annotations

from collections import defaultdict

from engine.detection import Drift, Month, compared
from engine.store.figures import Figures

#: Fewest patients that a row of the drift table stands for.
SMALLEST_GROUP = 5
_CORRECTIONS = {"box.add": "added", "box.remove": "removed", "box.change": "changed"}


def monthly_drift(figures: Figures) -> list[Drift]:
    """Months of at least ``SMALLEST_GROUP`` patients, newest first."""
    months: dict[tuple[str, str], Month] = {}
    people: dict[tuple[str, str], set[str]] = defaultdict(set)
    of: dict[str, tuple[str, str]] = {}
    for upload in figures.uploads():
        key = (f"{upload.uploaded_at:%Y-%m}", upload.profile)
        of[upload.image_id] = key
        people[key].add(upload.patient_id)
    enough = {key for key, patients in people.items() if len(patients) >= SMALLEST_GROUP}
    for key in enough:
        months[key] = Month(*key)
    corrected: set[str] = set()
    for entry in figures.corrections():
        month = months.get(of.get(entry.image_id, ("", "")))
        if month is None:
            continue
        if entry.action == "image.upload":
            month.boxes.append(entry.found)
        elif entry.action == "image.withdraw":
            month.flagged += 1
        else:
            kind = _CORRECTIONS[entry.action]
            setattr(month, kind, getattr(month, kind) + 1)
            month.corrected += entry.image_id not in corrected
            corrected.add(entry.image_id)
    for image_id, confidence in figures.confidences():
        month = months.get(of.get(image_id, ("", "")))
        if month is not None:
            month.confidences.append(confidence)
    return compared(list(months.values()))

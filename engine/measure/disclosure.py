"""Statistical disclosure control: publish figures about many patients without revealing one.

Suppressing small groups after filtering is not enough, because differences of tables reveal them:
all images minus those of one filter, or this week's table minus last week's. Instead, the images
are partitioned once into *batches*, and a batch is published completely or not at all:

1. Images form streams by the properties that a filter can select (month, modality; for regions
   also the class), each stream in the order in which its images were first released.
2. A batch is closed as soon as it holds images of at least :data:`SMALLEST_GROUP` patients. Only
   closed batches are published; the tail of a stream waits.
3. A batch with an image that was later withdrawn, sealed again or erased is not published again.

Why that holds through every filter, every combination of filters, and over time:

- A filter names streams, so what it shows is a union of whole batches. The difference of two
  such unions is again a union of whole batches, and each of those stands for enough patients.
  Complementary suppression has nothing left to do: no total covers what was withheld, since
  totals are sums over the same published batches.
- The order of first release and the streams never change, so a new image only ever lengthens
  the open tail. What two tables of different days differ in is whole batches too: closed since,
  or taken back whole.
- Images and regions are cut separately (an image has regions of several classes). No quantity
  may be published from both cuts, or their totals could be subtracted: counts and confidences of
  regions belong to the table of regions alone, areas, lengths and times to that of images.

How many images are withheld is told as well (:func:`most_withheld`): of all months and kinds
together, whatever the filter, in tens, at least ten, and counted from a cut of its own. That cut
knows no streams and no withdrawals, so the number is made of two counts of whole batches and
changes with these alone: neither a new image nor one that was withdrawn shows in it by itself.

It does not protect against readers who know all but one patient of a batch, nor against guesses
from a batch in which all values are equal. Source: k-anonymity, Sweeney 2002; differencing, Duncan
and Lambert 1986.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

#: Fewest patients that anything told stands for (G13).
SMALLEST_GROUP = 5

#: Steps in which it is told how many images are withheld; it is never told as less than one step.
WITHHELD_STEP = 10

M = TypeVar("M", bound=Hashable)

#: Kinds of image that a filter may name. The list is fixed: one that followed from how many
#: images there are would change the streams, and what changes can be subtracted.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "CT": ("CT",),
    "MR": ("MR",),
    "ultrasound": ("US", "IVUS"),
    "X-ray": ("CR", "DX", "DR", "RF", "RG", "XA", "IO", "PX"),
    "mammography": ("MG",),
    "nuclear": ("PT", "NM"),
    "endoscopy": ("ES",),
    "eye": ("OP", "OPT"),
    "microscopy": ("SM", "GM"),
}
_KIND_OF = {modality: kind for kind, names in _KINDS.items() for modality in names}


def kind_of_image(modality: str) -> str:
    """The coarse kind of a DICOM modality; ``picture`` for files that have none."""
    return _KIND_OF.get(modality, "other") if modality else "picture"


def published(
    members: Iterable[tuple[Hashable, Hashable, M]],
    unchanged: Iterable[M],
    minimum: int = SMALLEST_GROUP,
) -> set[M]:
    """Which members may be told of.

    Args:
        members: Everything ever released, as (stream, patient, member), in the order of first
            release: also what is gone since, or the batches after it would shift.
        unchanged: Members that are today as they were first released.
        minimum: Fewest patients of a batch.

    Returns:
        Members of closed batches that are whole.

    Raises:
        ValueError: A minimum under 1.
    """
    if minimum < 1:
        raise ValueError(f"minimum {minimum} is under 1")
    whole = set(unchanged)
    open_batches: dict[Hashable, list[M]] = defaultdict(list)
    patients: dict[Hashable, set[Hashable]] = defaultdict(set)
    told: set[M] = set()
    for stream, patient, member in members:
        open_batches[stream].append(member)
        patients[stream].add(patient)
        if len(patients[stream]) >= minimum:
            batch = open_batches.pop(stream)
            del patients[stream]
            if whole.issuperset(batch):
                told.update(batch)
    return told


def most_withheld(
    members: Sequence[tuple[Hashable, M]], shown: int, minimum: int = SMALLEST_GROUP
) -> int:
    """At most so many images are not told of; it tells no more than batches do.

    Args:
        members: Everything ever released, as (patient, member), in the order of first release:
            also what is gone since.
        shown: How many are told of.
        minimum: Fewest patients of a batch.

    Returns:
        A multiple of :data:`WITHHELD_STEP`, never 0: none and a few are told alike. Images of the
        newest patients, whose batch is open, come on top.
    """
    counted = published((("all", patient, member) for patient, member in members),
                        (member for _, member in members), minimum)  # fmt: skip
    steps = -(-(len(counted) - shown) // WITHHELD_STEP)
    return max(steps, 1) * WITHHELD_STEP

"""What a person has to know of a file that is not shown or looked at as others are.

The facts come from a decoder's process, which a hostile file may have taken over: they are numbers
and names of a closed list here, and the sentences are made of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NAMED = 20  # frames by their numbers; of more than that only how many
#: What is sealed whole because it has no picture: see :mod:`engine.formats.dicom_document`.
DOCUMENTS = ("report", "presentation state", "key objects", "encapsulated document")
_WHOLE = {
    "label": (
        "This is the label of a slide, or the whole slide with its label, where the name stands."
        " It is sealed whole."
    ),
    "video": (
        "This video is sealed whole. Some of its frames are shown here; the masked file has neutral"
        " pictures in their place."
    ),
    **{
        kind: (
            f"This is a DICOM document ({kind}) without a picture. It is sealed whole, and comes"
            " back as it was when it is restored; nothing of it is in what leaves masked."
        )
        for kind in DOCUMENTS
    },
    "unreadable video": (
        "This video cannot be shown here. It is sealed whole, and comes back as it was when the"
        " image is restored."
    ),
}
_SURPLUS = (
    "This file holds more frames than its header says. Viewers do not show them, and they are"
    " sealed."
)


def notes_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences for a person.

    Args:
        facts: The properties of an image: ``whole`` (a key of the list above), ``dead_frames``
            (from 0), ``surplus_frames`` (whether there are any), ``looked_at`` (tiles of a slide)
            and ``frames`` (how many there are). All may be missing.
    """
    found = []
    whole = facts.get("whole")
    if isinstance(whole, str) and whole in _WHOLE:
        found.append(_WHOLE[whole])
    dead = facts.get("dead_frames") or ()
    if isinstance(dead, Sequence) and dead and all(isinstance(i, int) for i in dead):
        found.append(_dead(dead))
    looked, frames = facts.get("looked_at") or (), facts.get("frames")
    if isinstance(frames, int) and isinstance(looked, Sequence) and 0 < len(looked) < frames:
        found.append(
            f"{len(looked)} of the {frames} tiles of this slide were looked at, evenly spaced. Look"
            " for writing on the others yourself."
        )
    if facts.get("surplus_frames") is True:
        found.append(_SURPLUS)
    return tuple(found)


def _dead(dead: Sequence[int]) -> str:
    which = f"{len(dead)} frames are"
    if len(dead) == 1:
        which = f"Frame {dead[0] + 1} is"
    elif len(dead) <= _NAMED:
        which = f"Frames {', '.join(str(i + 1) for i in dead)} are"
    return (
        f"{which} damaged and cannot be shown. Damaged frames are sealed whole, and come back as"
        " they were when the image is restored."
    )

"""Apply the boxes of one draft to the other drafts of a series.

A series here is pictures of the same patient, size and kind. Only boxes are copied, never
decisions: each picture opens with its own detected boxes and the copied ones, and a person checks
and seals it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from engine import DraftView, ImageRecord, Region
from ui import state, turned

#: A copied box counts as drawn by the person, whatever it was in the first picture.
OWN = {"found": None, "confidence": 1.0, "proposed": False, "verdict": None}
_SAME = 0.5  # overlap, of the smaller box, at which a copied box duplicates a detected one


def kind(record: ImageRecord) -> tuple[object, ...]:
    """What all pictures of a series have in common."""
    return (
        record.patient_id, record.modality, str(record.format),
        record.width, record.height, record.frames,
    )  # fmt: skip


def offer(token: str, view: DraftView, boxes: Sequence[dict[str, Any]]) -> None:
    """Offer to copy these boxes to the other drafts of the series."""
    # Looked up once an opening: this runs at each change of a box.
    opening = (view.handle, view.record.image_id)
    if state.recall("others", ((), 0))[0] != opening:
        others = [
            d
            for d in state.engine().drafts.waiting(token, limit=3000)
            if kind(d) == kind(view.record) and d.image_id != view.record.image_id
        ]
        state.keep("others", (opening, len(others)))
    count = state.recall("others")[1]
    if not count or not boxes:
        return
    plural = "picture" if count == 1 else "pictures"
    carried = state.recall("series")
    if carried and carried["kind"] == kind(view.record) and carried["from"] == view.record.image_id:
        st.caption(f"These boxes will be added to {count} more {plural} of this series.")
        return
    if st.button(
        f"Apply these boxes to the series ({count} more {plural})",
        icon=":material/content_copy:",
        help="Same patient, size and kind. You still open, check and seal each picture.",
    ):
        state.keep(
            "series",
            {
                "kind": kind(view.record),
                "from": view.record.image_id,
                # In stored pixels: the others may be stored turned otherwise.
                "boxes": [
                    {**turned.box(b, turned.stored, view.record, view.orientation), **OWN}
                    for b in boxes
                ],
            },
        )
        st.rerun()


def added(view: DraftView, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The detected boxes of a draft and the boxes copied to it."""
    carried = state.recall("series")
    if not carried or carried["kind"] != kind(view.record):
        return found
    if carried["from"] == view.record.image_id:
        return found
    own = [turned.box(b, turned.shown, view.record, view.orientation) for b in carried["boxes"]]
    return found + [b for b in own if not any(_same(b, f) for f in found)]


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a["label"] != b["label"] or b.get("removed") is not None:
        return False
    carried, found = Region.from_json(a), Region.from_json(b)
    least = min(carried.area_px, found.area_px)
    return found.lasts_for(carried) and carried.intersection_px(found) > _SAME * least

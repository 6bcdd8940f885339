"""One set of boxes for a series: pictures of one patient, size and kind, as a device makes them.

Boxes are carried over, never decisions: each picture of the series is opened with its own found
boxes and the carried ones on it, a person looks at it and seals it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from engine import DraftView, ImageRecord, Region
from ui import state

#: A carried box is the person's own, whatever it was where it came from.
_OWN = {"found": None, "confidence": 1.0, "proposed": False, "verdict": None}
_SAME = 0.5  # of the smaller box: then a carried box lies where one was found already


def kind(record: ImageRecord) -> tuple[object, ...]:
    """What pictures of a series share."""
    return (
        record.patient_id, record.modality, str(record.format),
        record.width, record.height, record.frames,
    )  # fmt: skip


def offer(token: str, view: DraftView, boxes: Sequence[dict[str, Any]]) -> None:
    """Carry these boxes to the other drafts of the series."""
    others = [
        d
        for d in state.engine().drafts.waiting(token, limit=1000)
        if kind(d) == kind(view.record) and d.image_id != view.record.image_id
    ]
    if not others or not boxes:
        return
    carried = state.recall("series")
    if carried and carried["kind"] == kind(view.record) and carried["from"] == view.record.image_id:
        st.caption(f"These boxes are carried to {len(others)} more pictures of this series.")
        return
    plural = "picture" if len(others) == 1 else "pictures"
    if st.button(
        f"Apply these boxes to the series ({len(others)} more {plural})",
        icon=":material/content_copy:",
        help="Same patient, size and kind. Each picture is still opened, looked at and sealed.",
    ):
        state.keep(
            "series",
            {
                "kind": kind(view.record),
                "from": view.record.image_id,
                "boxes": [{**b, **_OWN} for b in boxes],
            },
        )
        st.rerun()


def added(view: DraftView, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The found boxes of a draft and those carried to it, as a person's own."""
    carried = state.recall("series")
    if not carried or carried["kind"] != kind(view.record):
        return found
    if carried["from"] == view.record.image_id:
        return found
    return found + [b for b in carried["boxes"] if not any(_same(b, f) for f in found)]


def next_of(waiting: Sequence[ImageRecord]) -> ImageRecord:
    """The next draft of the series where one is under way, else the one that waits longest."""
    carried = state.recall("series")
    same = [d for d in waiting if carried and kind(d) == carried["kind"]]
    return (same or list(waiting))[-1]


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a["label"] != b["label"] or b.get("removed") is not None:
        return False
    carried, found = Region.from_json(a), Region.from_json(b)
    least = min(carried.area_px, found.area_px)
    return found.lasts_for(carried) and carried.intersection_px(found) > _SAME * least

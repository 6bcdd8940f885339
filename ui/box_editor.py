"""The box editor of a draft: correct the detected boxes, give reasons, seal the image."""

from __future__ import annotations

from typing import Any

import streamlit as st

from engine import REASONS, Detection, DraftView, ImageRecord, Region, Suggestion, errors
from ui import patient_picker, series, state, turned, widgets
from ui.background_jobs import Job

_CONFIRM = (
    "I checked the whole image: all identifying content is boxed",
    "I checked the whole image: it has no identifying content",
)


def correct(token: str, image_id: str) -> None:
    """The opened draft: why it needs review, its boxes in the editor, and the seal button."""
    _watch_sealing(token, image_id)  # an earlier run of the page may have been interrupted
    try:
        view = state.engine().drafts.open(token, image_id)
    except errors.NotFound:
        state.take("draft")
        state.say(
            "This draft no longer exists: somebody sealed or discarded it. Choose another one."
        )
        st.rerun()
    record = view.record
    st.header("3. Correct the boxes, then seal")
    st.caption(
        f"{view.name} · {record.modality or record.format} {record.width}×{record.height}"
        + (f" · {view.frames} frames" if view.frames > 1 else "")
        + " · opening of this draft was logged"
    )
    for reason in view.reasons:
        st.warning(REASONS.get(reason, reason), icon=":material/visibility:")
    if view.recognizable_head:
        st.warning(
            "A face can be reconstructed from slices of a head, and no box prevents that. Share"
            " these images only with people who are allowed to know the patient's identity.",
            icon=":material/face:",
        )
    for note in view.notes:
        st.warning(note, icon=":material/visibility_off:")
    _hints(token, view)
    _work(token, view)
    _discard(token, image_id)


def _hints(token: str, view: DraftView) -> None:
    """Patient data in the file, to compare with the patient record of the upload."""
    if not view.hints:
        return
    patient = state.engine().patients.get(token, view.record.patient_id)
    named = str(view.hints.get("id", ""))
    if named and named.casefold() != patient.id.casefold():
        st.warning(
            "The patient number in the file differs from the patient you chose. Compare them"
            " before you seal.",
            icon=":material/person_alert:",
        )
    with st.expander("Patient data in the file", icon=":material/badge:"):
        widgets.facts(
            [("Chosen patient", patient_picker.title(patient))]
            + [
                (name.replace("_", " ").capitalize(), str(value))
                for name, value in view.hints.items()
            ]
        )
        age = view.hints.get("age")
        if patient.age is None and isinstance(age, int) and named == patient.id:
            with widgets.banner():
                if st.button(f"Save the age in the patient record: {age} years", key="take-age"):
                    state.engine().patients.update(token, patient.patient_id, age=age)
                    state.say("Age saved. The previous value is in the record's history.")
                    st.rerun()


@st.fragment
def _work(token: str, view: DraftView) -> None:
    with widgets.banner():
        # Fragments run without Home.py, so the session is checked here.
        view = state.engine().drafts.open(token, view.record.image_id)
        turn = state.turn("editor")
        boxes = widgets.editor(
            {
                "id": f"{view.record.image_id}-{turn}",
                "title": "Draft",
                "picture": f"/api/drafts/{view.handle}/frames/{{frame}}",
                **turned.size(view.record, view.orientation),
                "frames": view.frames,
                "window": widgets.windows(view.record),
                "labels": list(view.labels),
                "grid": turned.blocks(view.grid, view.record, view.orientation),
                "boxes": state.recall("boxes") or series.added(view, _boxes(view)),
            },
            key=f"editor-{view.record.image_id}-{turn}",
        )
        kept = [b for b in boxes if b["removed"] is None]
        unexplained = [b for b in boxes if _reason(b) == ""]
        confirm: str | None = ""
        if view.reasons or not kept:
            confirm = st.selectbox(
                "Result of your check (logged with your name)",
                _CONFIRM,
                index=None,
                accept_new_options=True,
                placeholder="Choose or write your own",
                key=f"confirm-{view.record.image_id}-{turn}",
            )
        if unexplained:
            st.info(
                "Give a reason for each box that you removed or moved away.",
                icon=":material/edit_note:",
            )
        if st.button(
            f"Seal {len(kept)} {'region' if len(kept) == 1 else 'regions'}",
            type="primary",
            icon=":material/lock:",
            disabled=bool(unexplained),
        ):
            _seal(token, view, boxes, confirm or "")
        series.offer(token, view, kept)
        _watch_sealing(token, view.record.image_id)


def _seal(token: str, view: DraftView, boxes: list[dict[str, Any]], confirm: str) -> None:
    """Start the sealing job; the page shows its progress."""
    engine, image_id = state.engine(), view.record.image_id
    kept = [_detection(b, view) for b in boxes if b["removed"] is None]
    removed = {b["found"]: reason for b in boxes if (reason := _reason(b)) is not None}
    job = Job(
        image_id,
        lambda tell: engine.drafts.seal(token, image_id, kept, removed, confirm, progress=tell),
    )
    state.keep("sealing", (job, boxes, len(view.detections)))


def _watch_sealing(token: str, image_id: str) -> None:
    """Wait for the sealing job and handle its result."""
    job, boxes, known = state.recall("sealing", (None, [], 0))
    if job is None or job.name != image_id:
        return
    try:
        record: ImageRecord = job.watch()
    except errors.ReviewNeeded as err:
        state.take("sealing")
        if not err.facts.get("found"):
            st.warning(err.message, icon=":material/visibility:")
            return
        # The check after masking found more boxes: add them to the corrected ones.
        again = state.engine().drafts.open(token, image_id)
        state.keep("boxes", boxes + _boxes(again)[known:])
        state.renew("editor")
        st.rerun()
    except errors.EngineError:
        state.take("sealing")
        raise
    state.take("sealing")
    state.take("draft")
    state.take("boxes")
    state.keep("sealed", record.image_id)
    what = "1 region" if record.region_count == 1 else f"{record.region_count} regions"
    state.say(f"Sealed: {what} encrypted, each with its own IV.")
    st.rerun()


def _boxes(view: DraftView) -> list[dict[str, Any]]:
    return [
        {
            "found": index,
            "label": d.label,
            "confidence": d.confidence,
            "proposed": view.suggestions[index] is Suggestion.ASK,
            "verdict": None if d.verdict is None else str(d.verdict),
            **turned.shown(d.region, view.record, view.orientation).to_json(),
            "hides": list(turned.shown(view.masks[index], view.record, view.orientation).xyxy),
            "removed": view.left.get(index),
            "left": "",
            "strayed": False,
        }
        for index, d in enumerate(view.detections)
    ]


def _reason(box: dict[str, Any]) -> str | None:
    """The reason for not sealing a found box; None if no reason is needed."""
    if box["removed"] is not None:
        return str(box["removed"])
    return str(box["left"]) if box["strayed"] else None


def _detection(box: dict[str, Any], view: DraftView) -> Detection:
    """A box for the engine: unchanged boxes stay the network's, changed ones are the person's."""
    region = turned.stored(Region.from_json(box), view.record, view.orientation)
    if box["found"] is not None:
        original = view.detections[box["found"]]
        if (original.region, original.label) == (region, box["label"]):
            return original
    return Detection(region, box["label"], 1.0)


def _discard(token: str, image_id: str) -> None:
    with st.container(horizontal=True):
        if st.button("Back to the queue"):
            state.take("draft")
            st.rerun()
        with st.popover("Discard draft", icon=":material/delete:"), widgets.banner():
            reason = st.text_input("Reason for discarding", key=f"discard-{image_id}")
            st.caption("Its key is destroyed. This cannot be undone.")
            if st.button("Discard permanently"):
                state.engine().drafts.discard(token, image_id, reason)
                state.take("draft")
                state.say("Draft discarded.")
                st.rerun()

"""The box editor of a draft: correct the detected boxes, give reasons, seal the image."""

from __future__ import annotations

from typing import Any

import streamlit as st

import api
from engine import REASONS, Detection, DraftBox, DraftView, Region, Suggestion, errors
from ui import patient_picker, queue, series, state, turned, widgets
from ui.patient_banner import patient_banner

_CONFIRM = (
    "I checked the whole image: all identifying content is boxed",
    "I checked the whole image: it has no identifying content",
)


def correct(token: str, image_id: str) -> None:
    """The opened draft: why it needs review, its boxes in the editor, and the seal button."""
    account = state.engine().sessions.whoami(token).username
    if image_id in api.seals().at_work(account):
        queue.close_draft()
        state.say("This image is being sealed. Choose another one.")
        st.rerun()
    try:
        view = state.engine().drafts.open(token, image_id)
    except errors.NotFound as err:
        queue.close_draft()
        state.say(
            err.message
            if "is working on" in err.message or "is being sealed" in err.message
            else "This draft no longer exists: somebody sealed or discarded it. Choose another one."
        )
        st.rerun()
    record = view.record
    patients = state.engine().patients.search(token, only=[record.patient_id], limit=1)
    for patient in patients:  # always in sight, whatever is corrected
        patient_banner(patient)
    st.caption(
        f"Correct the boxes, then seal · {view.name} · {record.modality or record.format}"
        f" {record.width}×{record.height}"
        + (f" · {view.frames} frames" if view.frames > 1 else "")
        + " · opening of this draft was logged"
    )
    words = [REASONS.get(reason, reason) for reason in view.reasons]
    words += [s.message for s in api.seals().of(account) if s.image_id == image_id and s.message]
    if words:
        st.warning("  \n".join(dict.fromkeys(words)), icon=":material/visibility:")
    if view.recognizable_head:
        st.warning(
            "A face can be reconstructed from slices of a head, and no box prevents that. Share"
            " these images only with people who are allowed to know the patient's identity.",
            icon=":material/face:",
        )
    for note in view.notes:
        st.warning(note, icon=":material/visibility_off:")
    _differs(token, view)
    _work(token, view)
    _hints(token, view)
    _discard(token, image_id)


def _differs(token: str, view: DraftView) -> None:
    """Say where the file names somebody else than the record of the upload."""
    if not view.hints:
        return
    differs = state.engine().intakes.differs(token, view.record.patient_id, view.hints)
    if differs:
        what = "The patient number" if "number" in differs else f"The {' and '.join(differs)}"
        st.warning(
            f"{what} in the file differs from the patient you chose. Compare them before you seal.",
            icon=":material/person_alert:",
        )


def _hints(token: str, view: DraftView) -> None:
    """Patient data in the file, to compare with the patient record of the upload."""
    if not view.hints:
        return
    patient = state.engine().patients.get(token, view.record.patient_id)
    named = str(view.hints.get("id", ""))
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
        given = series.added(view, _kept(token, view))
        boxes, command = widgets.editor(
            {
                "id": f"{view.record.image_id}-{turn}",
                "title": "Draft",
                "picture": f"/api/drafts/{view.handle}/frames/{{frame}}",
                **turned.size(view.record, view.orientation),
                "frames": view.frames,
                "window": widgets.windows(view.record),
                "labels": list(view.labels),
                "grid": turned.blocks(view.grid, view.record, view.orientation),
                "boxes": given,
            },
            key=f"editor-{view.record.image_id}-{turn}",
        )
        _keep(token, view, boxes, given)
        kept = [b for b in boxes if b["removed"] is None]
        unexplained = [b for b in boxes if _reason(b) == ""]
        if unexplained:
            st.info(
                "Give a reason for each box that you removed or moved away.",
                icon=":material/edit_note:",
            )
        with st.container(key="seal-bar", horizontal=True):
            pressed = st.button(
                f"Seal {len(kept)} {'region' if len(kept) == 1 else 'regions'}",
                type="primary",
                icon=":material/lock:",
                disabled=bool(unexplained),
                help="Ctrl Enter. The next image opens at once.",
            )
            series.offer(token, view, kept)
        if command in ("next", "previous"):
            _leave(token, view, back=command == "previous")
        if pressed or (command == "seal" and not unexplained):
            if view.reasons or not kept:
                state.keep("deciding", view.record.image_id)
            else:
                _seal(token, view, boxes, "")
        if state.recall("deciding") == view.record.image_id:
            _decide(token, view, boxes)


def _leave(token: str, view: DraftView, back: bool) -> None:
    """Open the next or previous image; this one waits as it is."""
    following = queue.next_after(token, view.record, back)
    if following:
        state.engine().worklist.leave(token, view.record.image_id)
        queue.open_draft(following)
        st.rerun()
    st.info("There is no other image.")


def _not_decided() -> None:
    state.take("deciding")


@st.dialog("What did your check show?", icon=":material/lock:", on_dismiss=_not_decided)
def _decide(token: str, view: DraftView, boxes: list[dict[str, Any]]) -> None:
    """Ask for the result of the check where the engine wants one, and seal with it."""
    st.write("The image is sealed with your answer, which is logged with your name.")
    kept = any(b["removed"] is None for b in boxes)
    likely, other = _CONFIRM if kept else _CONFIRM[::-1]
    before = view.answer if view.answer not in _CONFIRM else ""
    answer = ""
    if st.button(likely, type="primary", width="stretch", shortcut="Ctrl+Enter"):
        answer = likely
    if st.button(other, width="stretch"):
        answer = other
    own = st.text_input(
        "Or in your own words", before, key=f"confirm-{view.record.image_id}"
    ).strip()
    if st.button("Seal with my own words", disabled=not own):
        answer = own
    if answer:
        with widgets.banner():
            _seal(token, view, boxes, answer)


def _seal(token: str, view: DraftView, boxes: list[dict[str, Any]], confirm: str) -> None:
    """Have the draft sealed beside the page, and open what comes next."""
    record = view.record
    patient = state.engine().patients.get(token, record.patient_id)
    title = f"{patient_picker.title(patient)} · {record.modality or record.format} {view.name}"
    kept = [_detection(b, view) for b in boxes if b["removed"] is None]
    removed = {b["found"]: reason for b in boxes if (reason := _reason(b)) is not None}
    api.seals().add(token, record.image_id, title, kept, removed, confirm)
    following = queue.next_after(token, record)
    if following:
        queue.open_draft(following)
        state.say("The image is being sealed. This is the next one.")
    else:
        queue.close_draft()
        state.say("The image is being sealed. It was the last one that waits for you.")
    st.rerun()


def _kept(token: str, view: DraftView) -> list[dict[str, Any]]:
    """The draft's boxes as they were left, on whatever page or machine."""
    found = _boxes(view)
    boxes = []
    for kept in state.engine().worklist.boxes(token, view.record.image_id):
        region = turned.shown(kept.detection.region, view.record, view.orientation)
        base = series.OWN if kept.found is None else found[kept.found]
        now = {
            **base,
            **region.to_json(),
            "label": kept.detection.label,
            "removed": kept.removed,
            "left": kept.left,
            "strayed": bool(kept.left),
        }
        changed = any(now[name] != base.get(name) for name in (*region.to_json(), "label"))
        boxes.append({**now, "from": base} if kept.found is not None and changed else now)
    return boxes


def _keep(
    token: str, view: DraftView, boxes: list[dict[str, Any]], given: list[dict[str, Any]]
) -> None:
    """Keep the boxes with the draft once a person changed them."""
    if boxes == given:
        return
    kept = [DraftBox(_detection(b, view), b["found"], b["removed"], str(b["left"])) for b in boxes]
    state.engine().worklist.keep_boxes(token, view.record.image_id, kept)


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
    account = state.engine().sessions.whoami(token).username
    with st.container(horizontal=True):
        if st.button("Back to the queue"):
            state.engine().worklist.leave(token, image_id)
            api.seals().seen(account, image_id)
            queue.close_draft()
            st.rerun()
        with st.popover("Discard draft", icon=":material/delete:"), widgets.banner():
            reason = st.text_input("Reason for discarding", key=f"discard-{image_id}")
            st.caption("Its key is destroyed. This cannot be undone.")
            if st.button("Discard permanently"):
                state.engine().drafts.discard(token, image_id, reason)
                api.seals().seen(account, image_id)
                queue.close_draft()
                state.say("Draft discarded.")
                st.rerun()

"""The technician's flow piece by piece; ``pages/1_Upload.py`` puts the pieces in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from engine import REASONS, Detection, DraftView, ImageRecord, Patient, Region, Suggestion, errors
from ui import panes, state
from ui.jobs import Job

_CONFIRM = (
    "I looked at the whole image: everything that identifies is boxed",
    "I looked at the whole image: there is nothing that identifies anybody",
)


# --- patient ----------------------------------------------------------------------------------


def choose_patient(token: str) -> Patient | None:
    """Find a patient or make one; remembered until another is chosen."""
    st.header("1. Patient")
    query = st.text_input("Find a patient", type="search", placeholder="Number or name")
    found = state.engine().patients(token, query)
    by_id = {p.patient_id: p for p in found}
    last = state.recall("patient")
    index = list(by_id).index(last) if last in by_id else None
    chosen = st.selectbox(
        "Patient",
        list(by_id),
        index=index,
        format_func=lambda key: _title(by_id[key]),
        placeholder="Choose a patient" if found else "No patient matches",
        key=f"patient-{state.turn('patient')}",
    )
    left, right = st.columns(2)
    turn = state.turn("patient")
    with left, st.expander("New patient", key=f"new-{turn}", icon=":material/person_add:"):
        _new_patient(token)
    if chosen is None:
        return None
    with right, st.expander("Change the record", key=f"change-{turn}", icon=":material/edit:"):
        _change_patient(token, by_id[chosen])
    state.keep("patient", chosen)
    return by_id[chosen]


def _title(patient: Patient) -> str:
    age = "" if patient.age is None else f", {patient.age} years"
    return f"{patient.id} · {patient.name}{age}"


def _new_patient(token: str) -> None:
    with st.form(f"new-patient-{state.turn('patient')}"), panes.banner():
        number = st.text_input("Patient number", max_chars=50)
        name = st.text_input("Name", max_chars=100)
        age = st.number_input("Age in years", 0, 150, value=None, step=1)
        note = st.text_area("Note for doctors", help="You will not see it again after saving.")
        if st.form_submit_button("Add the patient", type="primary"):
            patient = state.engine().create_patient(token, number, name, age, note)
            state.keep("patient", patient.patient_id)
            state.renew("patient")
            state.say("The patient was added.")
            st.rerun()


def _change_patient(token: str, patient: Patient) -> None:
    with st.form(f"change-{patient.patient_id}-{state.turn('patient')}"), panes.banner():
        number = st.text_input("Patient number", patient.id, max_chars=50)
        name = st.text_input("Name", patient.name, max_chars=100)
        age = st.number_input("Age in years", 0, 150, value=patient.age, step=1)
        if st.form_submit_button("Save the changes"):
            state.engine().update_patient(token, patient.patient_id, id=number, name=name, age=age)
            state.renew("patient")
            state.say("The record was changed; what was before is kept in its history.")
            st.rerun()


# --- files ------------------------------------------------------------------------------------


def take_in(token: str, patient: Patient) -> None:
    """Hand the dropped files to the engine; a bad one does not stop the rest."""
    st.header("2. Images")
    profiles = state.engine().profiles()
    default = state.engine().settings.profile
    profile = st.selectbox(
        "Specialty",
        list(profiles),
        index=list(profiles).index(default) if default in profiles else 0,
        format_func=lambda name: profiles[name].title,
        help="Decides which classes are looked for.",
    )
    files = st.file_uploader(
        "JPEG, PNG or DICOM, several at once",
        accept_multiple_files=True,
        key=f"files-{state.turn('files')}",
    )
    jobs: dict[str, Job[ImageRecord]] = state.recall("jobs", {})
    for file in files or []:
        # Files arrive one by one, each with a run of its own: one job a file, however often.
        if file.file_id not in jobs:
            jobs[file.file_id] = _upload(token, patient.patient_id, file, profile)
    state.keep("jobs", jobs)
    watch_intake()


def _upload(token: str, patient_id: str, file: UploadedFile, profile: str) -> Job[ImageRecord]:
    engine, name, data = state.engine(), file.name, file.getvalue()
    return Job(
        name,
        lambda tell: engine.upload(token, patient_id, name, data, profile=profile, progress=tell),
    )


def watch_intake() -> None:
    """Each file with its stage until all are through, also after the page was left."""
    jobs: dict[str, Job[ImageRecord]] = state.recall("jobs", {})
    if not jobs:
        return
    whole = st.progress(0.0)
    outcomes: list[dict[str, Any]] = []
    for count, job in enumerate(jobs.values()):
        whole.progress(count / len(jobs), f"{count} of {len(jobs)} files taken in")
        outcome: dict[str, Any] = {"file": job.name}
        with st.status(job.name, expanded=not job.done) as status:
            try:
                record = job.watch()
            except errors.EngineError as err:
                outcome |= {"error": err.message, "there": err.facts.get("image_id")}
                status.update(label=f"{job.name}: {err.message}", state="error")
            else:
                outcome |= {"image": record.image_id, "found": record.region_count}
                outcome["reasons"] = list(record.reasons)
                status.update(label=f"{job.name}: {_found(outcome)}", state="complete")
        outcomes.append(outcome)
    state.keep("outcomes", outcomes)
    state.take("jobs")
    state.renew("files")  # drops the files on the server too
    st.rerun()


def _found(outcome: dict[str, Any]) -> str:
    boxes = outcome["found"]
    text = f"{boxes} {'box' if boxes == 1 else 'boxes'} found"
    return text + (", a person must look" if outcome["reasons"] else ", ready to seal")


def outcomes(token: str) -> None:
    """What became of the files of the last batch."""
    last = state.recall("outcomes")
    if not last:
        return
    failed = [o for o in last if "error" in o]
    with st.container(border=True):
        st.markdown(f"**Last batch: {len(last) - len(failed)} taken in, {len(failed)} refused**")
        for outcome in last:
            name = panes.plain(outcome["file"])
            if "error" in outcome:
                st.markdown(f":material/error: {name}: {outcome['error']}")
                if outcome["there"]:
                    _existing(token, outcome["there"])
            else:
                st.markdown(f":material/check: {name}: {_found(outcome)}")
        taken = [o for o in last if "image" in o]
        if taken and st.button("Correct and seal them", type="primary"):
            open_draft(taken[0]["image"])
            st.rerun()


def _existing(token: str, image_id: str) -> None:
    """The way to an image that was there before."""
    waiting = any(d.image_id == image_id for d in state.engine().drafts(token))
    if waiting and st.button("Correct the one that is there", key=f"there-{image_id}"):
        open_draft(image_id)
        st.rerun()
    elif not waiting and st.button("Show the one that is there", key=f"there-{image_id}"):
        state.keep("sealed", image_id)
        st.rerun()


# --- the queue --------------------------------------------------------------------------------


def open_draft(image_id: str) -> None:
    """Make a draft the one that is corrected, with a fresh editor."""
    state.take("sealed")
    state.take("boxes")
    state.renew("editor")
    state.keep("draft", image_id)


def queue(token: str, drafts: Sequence[ImageRecord]) -> None:
    """Drafts of everybody, those that need a look first."""
    names = {p.patient_id: p.id for p in state.engine().patients(token, limit=1000)}
    for draft in drafts[: state.recall("shown", 10)]:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            why = " ".join(REASONS.get(r, r) for r in draft.reasons)
            boxes = "box" if draft.region_count == 1 else "boxes"
            st.markdown(
                f"**{panes.plain(names.get(draft.patient_id, ''))}**"
                f" · {draft.modality or draft.format} {draft.width}×{draft.height}"
                f" · {draft.region_count} {boxes} · {panes.when(draft.uploaded_at)} UTC"
                + (f"  \n:material/visibility: {why}" if why else ""),
                width="stretch",
            )
            if st.button("Correct", key=f"open-{draft.image_id}"):
                open_draft(draft.image_id)
                st.rerun()
    if len(drafts) > state.recall("shown", 10) and st.button("Show more"):
        state.keep("shown", state.recall("shown", 10) + 20)
        st.rerun()


# --- correcting and sealing -------------------------------------------------------------------


def correct(token: str, image_id: str) -> None:
    """The opened draft: its boxes in the editor, why a person must look, and the seal."""
    _watch_sealing(token, image_id)  # a click elsewhere may have cut the page short
    try:
        view = state.engine().open_draft(token, image_id)
    except errors.NotFound:
        state.take("draft")
        state.say("This draft is gone: somebody sealed or discarded it.")
        st.rerun()
    record = view.record
    st.header("3. Correct the boxes, then seal")
    st.caption(
        f"{view.name} · {record.modality or record.format} {record.width}×{record.height}"
        + (f" · {view.frames} frames" if view.frames > 1 else "")
        + " · opening this draft was recorded"
    )
    for reason in view.reasons:
        st.warning(REASONS.get(reason, reason), icon=":material/visibility:")
    _hints(token, view)
    _work(token, view)
    _discard(token, image_id)


def _hints(token: str, view: DraftView) -> None:
    """What the file says of the patient, to compare with the record it was filed under."""
    if not view.hints:
        return
    patient = state.engine().patient(token, view.record.patient_id)
    with st.expander("Patient data in the file, to compare", icon=":material/badge:"):
        panes.facts(
            [("Filed under", _title(patient))]
            + [
                (name.replace("_", " ").capitalize(), str(value))
                for name, value in view.hints.items()
            ]
        )


@st.fragment
def _work(token: str, view: DraftView) -> None:
    with panes.banner():
        # Fragments run without Home.py: the session is asked for here.
        view = state.engine().open_draft(token, view.record.image_id)
        turn = state.turn("editor")
        boxes = panes.editor(
            {
                "id": f"{view.record.image_id}-{turn}",
                "title": "Draft",
                "picture": f"/api/drafts/{view.handle}/frames/{{frame}}",
                "width": view.record.width,
                "height": view.record.height,
                "frames": view.frames,
                "window": panes.windows(view.record),
                "labels": list(view.labels),
                "boxes": state.recall("boxes") or _boxes(view),
            },
            key=f"editor-{view.record.image_id}-{turn}",
        )
        kept = [b for b in boxes if b["removed"] is None]
        unexplained = [b for b in boxes if _reason(b) == ""]
        confirm: str | None = ""
        if view.reasons or not kept:
            confirm = st.selectbox(
                "What did you decide? It is recorded with your name.",
                _CONFIRM,
                index=None,
                accept_new_options=True,
                placeholder="Choose, or write your own words",
                key=f"confirm-{view.record.image_id}-{turn}",
            )
        if unexplained:
            st.info(
                "Say for each box that was removed or moved away why it is not needed there.",
                icon=":material/edit_note:",
            )
        if st.button(
            f"Seal {len(kept)} {'region' if len(kept) == 1 else 'regions'}",
            type="primary",
            icon=":material/lock:",
            disabled=bool(unexplained),
        ):
            _seal(token, view, boxes, confirm or "")
        _watch_sealing(token, view.record.image_id)


def _seal(token: str, view: DraftView, boxes: list[dict[str, Any]], confirm: str) -> None:
    """Hand the boxes to the engine; the page watches."""
    engine, image_id = state.engine(), view.record.image_id
    kept = [_detection(b, view.detections) for b in boxes if b["removed"] is None]
    removed = {b["found"]: reason for b in boxes if (reason := _reason(b)) is not None}
    job = Job(
        image_id,
        lambda tell: engine.seal(token, image_id, kept, removed, confirm, progress=tell),
    )
    state.keep("sealing", (job, boxes, len(view.detections)))


def _watch_sealing(token: str, image_id: str) -> None:
    """Wait for the seal and go on with what comes of it."""
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
        # The second look saw more: it joins the boxes as they were corrected.
        again = state.engine().open_draft(token, image_id)
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
            "x1": d.region.x1,
            "y1": d.region.y1,
            "x2": d.region.x2,
            "y2": d.region.y2,
            "frame": d.region.frame,
            "frame_end": d.region.frame_end,
            "removed": view.left.get(index),
            "left": "",
            "strayed": False,
        }
        for index, d in enumerate(view.detections)
    ]


def _reason(box: dict[str, Any]) -> str | None:
    """Why nothing is sealed where a box was found; None where that needs no reason."""
    if box["removed"] is not None:
        return str(box["removed"])
    return str(box["left"]) if box["strayed"] else None


def _detection(box: dict[str, Any], found: Sequence[Detection]) -> Detection:
    """A box as the engine takes it: untouched ones stay the network's, the rest are a person's."""
    region = Region(box["x1"], box["y1"], box["x2"], box["y2"], box["frame"], box["frame_end"])
    if box["found"] is not None:
        original = found[box["found"]]
        if (original.region, original.label) == (region, box["label"]):
            return original
    return Detection(region, box["label"], 1.0)


def _discard(token: str, image_id: str) -> None:
    with st.container(horizontal=True):
        if st.button("Back to the queue"):
            state.take("draft")
            st.rerun()
        with st.popover("Discard this draft", icon=":material/delete:"), panes.banner():
            reason = st.text_input("Why is it not needed?", key=f"discard-{image_id}")
            st.caption("Its key is destroyed: nobody can get it back.")
            if st.button("Discard for good"):
                state.engine().discard_draft(token, image_id, reason)
                state.take("draft")
                state.say("The draft was discarded.")
                st.rerun()


# --- after sealing ----------------------------------------------------------------------------


def show_sealed(token: str, image_id: str) -> None:
    """What everybody with access sees from now on, the technician included."""
    try:
        record = state.engine().image(token, image_id)
    except errors.NotFound:
        state.take("sealed")
        raise
    st.header("Sealed")
    sealed, grid = st.tabs(["Sealed image", "Grid picture"])
    with sealed:
        panes.viewer(panes.sealed_view(record, state.engine().regions(token, image_id)), "sealed")
    with grid:
        panes.picture(f"/api/images/{image_id}/grid", "Sealed image with numbered boxes")
    with st.container(horizontal=True):
        waiting = state.engine().drafts(token)
        if waiting and st.button("Next in the queue", type="primary"):
            open_draft(waiting[-1].image_id)
            st.rerun()
        st.link_button("Download the sealed file", f"/api/images/{image_id}/file")
        if st.button("Upload more"):
            state.take("sealed")
            state.take("outcomes")
            st.rerun()

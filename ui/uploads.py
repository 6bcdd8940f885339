"""Files come in: dropped, looked at beside the page, and what became of each."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from engine import ImageRecord, Patient, errors
from ui import queue, state, widgets
from ui.background_jobs import Job


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
    folder = st.toggle("A whole folder", key="whole-folder")
    files = st.file_uploader(
        "A folder of JPEG, PNG and DICOM files"
        if folder
        else "JPEG, PNG or DICOM, several at once",
        accept_multiple_files="directory" if folder else True,
        key=f"files-{folder}-{state.turn('files')}",
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
    if any(not job.done for job in jobs.values()) and st.button(
        "Stop: take no more in", icon=":material/cancel:"
    ):
        for job in jobs.values():
            job.cancel()  # what is being looked at comes to its end
    outcomes: list[dict[str, Any]] = []
    for count, job in enumerate(jobs.values()):
        whole.progress(count / len(jobs), f"{count} of {len(jobs)} files taken in")
        outcome: dict[str, Any] = {"file": job.name}
        with st.status(job.name, expanded=not job.done) as status:
            try:
                record = job.watch()
            except CancelledError:
                outcome |= {"error": "not taken in: stopped before its turn", "there": None}
                status.update(label=f"{job.name}: stopped", state="error")
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
            name = widgets.plain(outcome["file"])
            if "error" in outcome:
                st.markdown(f":material/error: {name}: {outcome['error']}")
                if outcome["there"]:
                    _existing(token, outcome["there"])
            else:
                st.markdown(f":material/check: {name}: {_found(outcome)}")
        taken = [o for o in last if "image" in o]
        widgets.download("Summary of the batch, CSV", "medsec-batch.csv", _summary(token, last))
        if taken and st.button("Correct and seal them", type="primary"):
            queue.open_draft(taken[0]["image"])
            st.rerun()


def _existing(token: str, image_id: str) -> None:
    """The way to an image that was there before."""
    waiting = any(d.image_id == image_id for d in state.engine().drafts(token))
    if waiting and st.button("Correct the one that is there", key=f"there-{image_id}"):
        queue.open_draft(image_id)
        st.rerun()
    elif not waiting and st.button("Show the one that is there", key=f"there-{image_id}"):
        state.keep("sealed", image_id)
        st.rerun()


def _summary(token: str, outcomes: Sequence[dict[str, Any]]) -> str:
    """One line a file. Made in the browser's hands alone: file names may name patients."""
    waiting = {d.image_id: str(d.state) for d in state.engine().drafts(token, limit=1000)}
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["file", "outcome", "image", "boxes found", "a person must look", "now"])
    for outcome in outcomes:
        image_id = outcome.get("image", "")
        row = [
            outcome["file"],
            outcome.get("error", "taken in"),
            image_id,
            outcome.get("found", ""),
            " ".join(outcome.get("reasons", ())),
            waiting.get(image_id, "sealed or discarded") if image_id else "",
        ]
        table.writerow([_plain_cell(str(value)) for value in row])
    return out.getvalue()


def _plain_cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text

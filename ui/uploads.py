"""The uploader, the progress of each file, and the outcomes of the last batch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from engine import FORMATS_TAKEN, ImageRecord, ImageState, Patient, errors
from ui import queue, state, upload_room, widgets
from ui.background_jobs import Job, Progress


def upload_files(token: str, patient: Patient) -> None:
    """Upload the dropped files; a file with an error does not stop the others."""
    with st.expander(
        "Does dropping above not work? Send files from here, for this patient",
        icon=":material/attach_file:",
        key="plain-upload",
        expanded=bool(state.recall("jobs")),
    ):
        profiles = state.engine().profiles.by_name()
        default = state.engine().settings.profile
        profile = st.selectbox(
            "Specialty",
            list(profiles),
            index=list(profiles).index(default) if default in profiles else 0,
            format_func=lambda name: profiles[name].title,
            help="Determines which classes are detected.",
        )
        seal = _seal_at_once()
        folder = st.toggle("Upload a folder", key="whole-folder")
        settings = state.engine().settings
        limits = f"up to {settings.picture_limit_mb} MB, DICOM up to {settings.dicom_limit_mb} MB"
        files = st.file_uploader(
            f"A folder of images ({limits})" if folder else f"{FORMATS_TAKEN} files ({limits})",
            accept_multiple_files="directory" if folder else True,
            key=f"files-{folder}-{state.turn('files')}",
        )
        jobs: dict[str, Job[ImageRecord]] = state.recall("jobs", {})
        for file in files or []:
            # Each file that arrives reruns the page; start only one job per file.
            if file.file_id not in jobs:
                jobs[file.file_id] = _upload(token, patient.patient_id, file, profile, seal)
        state.keep("jobs", jobs)
    watch_uploads()


def _seal_at_once() -> bool:
    """Has the person chosen to seal images without doubt at once?"""
    return state.engine().settings.auto_seal and st.toggle(
        "Seal images without doubt at once",
        key="seal-at-once",
        help="Images with uncertain boxes, or in which nothing was found, wait for you; so do all"
        " whose profile says that they must earn their release. The audit log marks each image"
        " that was sealed without a look.",
    )


def _upload(
    token: str, patient_id: str, file: UploadedFile, profile: str, seal: bool
) -> Job[ImageRecord]:
    engine, name, data = state.engine(), file.name, file.getvalue()

    def work(tell: Progress) -> ImageRecord:
        share = 0.5 if seal else 1.0
        record = engine.drafts.upload(
            token, patient_id, name, data, profile, lambda stage, done: tell(stage, done * share)
        )
        # Where nothing was found, the profile's rule may still allow it.
        if not seal or record.reasons not in ((), ("nothing-found",)):
            return record
        return _sealed_or_waiting(token, record, lambda stage, done: tell(stage, 0.5 + done / 2))

    job = Job(name, engine.sessions.whoami(token).username, work, held_bytes=len(data))
    upload_room.forget(file.file_id)
    return job


def _sealed_or_waiting(token: str, record: ImageRecord, tell: Progress) -> ImageRecord:
    """Seal a draft without doubt; where the second look finds something, it waits."""
    try:
        return state.engine().drafts.seal_undoubted(token, record.image_id, tell)
    except errors.ReviewNeeded as err:
        reasons = tuple(err.facts["reasons"])
        return replace(record, state=ImageState.REVIEW, reasons=reasons) if reasons else record


def watch_uploads() -> None:
    """Show the stage of each file until all are done, also after the page was left."""
    jobs: dict[str, Job[ImageRecord]] = state.recall("jobs", {})
    if not jobs:
        return
    whole = st.progress(0.0)
    if any(not job.done for job in jobs.values()) and st.button(
        "Stop after the current files", icon=":material/cancel:"
    ):
        for job in jobs.values():
            job.cancel()  # files already in progress are completed
    outcomes: list[dict[str, Any]] = []
    for count, job in enumerate(jobs.values()):
        whole.progress(count / len(jobs), f"{count} of {len(jobs)} files done")
        outcome: dict[str, Any] = {"file": job.name}
        with st.status(job.name, expanded=not job.done) as status:
            try:
                record = job.watch()
            except CancelledError:
                outcome |= {"error": "not uploaded: stopped by you", "there": None}
                status.update(label=f"{job.name}: stopped", state="error")
            except errors.EngineError as err:
                outcome |= {"error": err.message, "there": err.facts.get("image_id")}
                status.update(label=f"{job.name}: {err.message}", state="error")
            else:
                outcome |= {"image": record.image_id, "found": record.region_count}
                outcome["reasons"] = list(record.reasons)
                outcome["sealed"] = record.state is ImageState.RELEASED
                status.update(label=f"{job.name}: {_found(outcome)}", state="complete")
        outcomes.append(outcome)
    state.keep("outcomes", outcomes)
    state.take("jobs")
    state.renew("files")  # drops the files on the server too
    st.rerun()


def _found(outcome: dict[str, Any]) -> str:
    boxes = outcome["found"]
    text = f"{boxes} {'box' if boxes == 1 else 'boxes'} found"
    if outcome["sealed"]:
        return text + ", sealed"
    return text + (", review needed" if outcome["reasons"] else ", ready to seal")


def outcomes(token: str) -> None:
    """Show the outcome of each file of the last batch."""
    last = state.recall("outcomes")
    if not last:
        return
    failed = [o for o in last if "error" in o]
    with st.container(border=True):
        sealed = sum(bool(o.get("sealed")) for o in last)
        st.markdown(
            f"**Last batch: {len(last) - len(failed)} uploaded, {len(failed)} failed**"
            + (f" · {sealed} sealed" if sealed else "")
        )
        for outcome in last:
            name = widgets.plain(outcome["file"])
            if "error" in outcome:
                st.markdown(f":material/error: {name}: {outcome['error']}")
                if outcome["there"]:
                    _existing(token, outcome["there"])
            else:
                st.markdown(f":material/check: {name}: {_found(outcome)}")
        taken = [o for o in last if "image" in o and not o["sealed"]]
        widgets.download(
            "Download the batch summary, CSV", "medsec-batch.csv", _summary(token, last)
        )
        if taken and st.button("Check and seal", type="primary"):
            queue.open_draft(taken[0]["image"])
            st.rerun()


def _existing(token: str, image_id: str) -> None:
    """A button that opens the existing image."""
    waiting = any(d.image_id == image_id for d in state.engine().drafts.waiting(token, limit=3000))
    if waiting and st.button("Open the existing draft", key=f"there-{image_id}"):
        queue.open_draft(image_id)
        st.rerun()
    elif not waiting and st.button("Show the existing image", key=f"there-{image_id}"):
        state.keep("sealed", image_id)
        st.rerun()


def _summary(token: str, outcomes: Sequence[dict[str, Any]]) -> str:
    """One line per file, sent to the browser only, because file names can contain patient names."""
    waiting = {d.image_id: str(d.state) for d in state.engine().drafts.waiting(token, limit=1000)}
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["file", "outcome", "image", "boxes found", "review needed because", "status"])
    for outcome in outcomes:
        image_id = outcome.get("image", "")
        row = [
            outcome["file"],
            outcome.get("error", "uploaded"),
            image_id,
            outcome.get("found", ""),
            " ".join(outcome.get("reasons", ())),
            waiting.get(image_id, "sealed or discarded") if image_id else "",
        ]
        table.writerow([_plain_cell(str(value)) for value in row])
    return out.getvalue()


def _plain_cell(text: str) -> str:
    """Text escaped so that a spreadsheet does not run it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text

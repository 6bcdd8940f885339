"""The queue of drafts waiting to be sealed; drafts that need review come first."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import CancelledError
from functools import partial

import streamlit as st

from engine import REASONS, ImageRecord, ImageState, errors
from ui import search, state, widgets
from ui.background_jobs import Job


def open_draft(image_id: str) -> None:
    """Open a draft in a fresh editor."""
    state.take("sealed")
    state.renew("editor")
    state.keep("draft", image_id)


def queue(token: str, drafts: Sequence[ImageRecord]) -> None:
    """Show the drafts with a button to open each; show more on request."""
    own = state.engine().sessions.whoami(token).username
    ready = [d for d in drafts if d.state is ImageState.DRAFT and d.uploaded_by == own]
    _seal_undoubted(token, ready)
    shown = drafts[: state.recall("shown", 10)]
    names = search.names(token, [d.patient_id for d in shown])
    for draft in shown:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            why = " ".join(REASONS.get(r, r) for r in draft.reasons)
            boxes = "box" if draft.region_count == 1 else "boxes"
            st.markdown(
                f"**{widgets.plain(names.get(draft.patient_id, ''))}**"
                f" · {draft.modality or draft.format} {draft.width}×{draft.height}"
                f" · {draft.region_count} {boxes} · {widgets.when(draft.uploaded_at)}"
                + (f"  \n:material/visibility: {why}" if why else ""),
                width="stretch",
            )
            if st.button("Correct", key=f"open-{draft.image_id}"):
                open_draft(draft.image_id)
                st.rerun()
    if len(drafts) > state.recall("shown", 10) and st.button("Show more"):
        state.keep("shown", state.recall("shown", 10) + 20)
        st.rerun()


def _seal_undoubted(token: str, ready: Sequence[ImageRecord]) -> None:
    """Seal every draft of one's own without doubt in one step, in the background."""
    jobs: dict[str, Job[ImageRecord]] = state.recall("sealing", {})
    if not jobs and ready and state.engine().settings.auto_seal:
        images = "1 image" if len(ready) == 1 else f"{len(ready)} images"
        if st.button(
            f"Seal {images} without doubt",
            icon=":material/lock:",
            help="All boxes in them are certain. The audit log says that nobody looked.",
        ):
            seal = state.engine().drafts.seal_undoubted
            account = state.engine().sessions.whoami(token).username
            for draft in ready:
                work = partial(seal, token, draft.image_id)
                jobs[draft.image_id] = Job(draft.image_id, account, work)
            state.keep("sealing", jobs)
    if jobs:
        _watch(jobs)


def _watch(jobs: dict[str, Job[ImageRecord]]) -> None:
    """The progress of sealing, also after the page was left; then how many were sealed."""
    whole = st.progress(0.0)
    sealed = 0
    for count, job in enumerate(jobs.values()):
        whole.progress(count / len(jobs), f"{count} of {len(jobs)} images done")
        with contextlib.suppress(errors.EngineError, CancelledError):
            job.watch()
            sealed += 1
    state.take("sealing")
    left = len(jobs) - sealed
    state.say(f"{sealed} sealed." + (f" {left} need a look, or could not be sealed." * bool(left)))
    st.rerun()

"""The queue of drafts waiting to be sealed; drafts that need review come first."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import CancelledError
from datetime import timedelta
from functools import partial

import streamlit as st

import api
from engine import REASONS, ImageRecord, ImageState, WorkGroup, WorkItem, errors
from ui import search, state, widgets
from ui.background_jobs import Job
from ui.query_params import asked, tell

#: Drafts of one person that came in so close together are one upload.
_BATCH = timedelta(hours=12)


def open_draft(image_id: str) -> None:
    """Open a draft in a fresh editor; the address keeps it over a reload."""
    state.take("sealed")
    state.take("deciding")
    state.renew("editor")
    state.keep("draft", image_id)
    tell("draft", image_id)


def opened() -> str:
    """The draft that is open; empty for none."""
    image_id = str(state.recall("draft", "") or asked("draft"))
    if image_id:
        state.keep("draft", image_id)
        tell("draft", image_id)
    return image_id


def close_draft() -> None:
    """Go back to the list."""
    state.take("draft")
    state.take("deciding")
    tell("draft", None)


def next_after(token: str, record: ImageRecord) -> str:
    """What a person looks at after this draft: what comes after it in its series, then its study,
    then their own upload of that time, then what needs a look most. Empty for nothing.
    """
    account = state.engine().sessions.whoami(token).username
    busy = api.seals().at_work(account) | {record.image_id}
    groups = state.engine().worklist.groups(token)
    here = next(
        (g for g in groups if any(i.record.image_id == record.image_id for i in g.items)), None
    )
    study = here.study.study_id if here and here.study else None

    def distance(group: WorkGroup) -> int:
        if here is not None and group.series_id == here.series_id:
            return 0
        if study is not None and group.study is not None and group.study.study_id == study:
            return 1
        return 2

    def near(item: WorkItem) -> bool:
        since = abs(item.record.uploaded_at - record.uploaded_at)
        return item.record.uploaded_by == account and since < _BATCH

    places = [i.record.image_id for i in here.items] if here else []
    at = places.index(record.image_id) if here else 0
    free = [
        ((distance(group), not near(item), group is here and place < at), item.record.image_id)
        for group in groups
        for place, item in enumerate(group.items)
        if not item.worked_on_by and item.record.image_id not in busy
    ]
    return min(free, key=lambda one: one[0])[1] if free else ""


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


def sealed_beside(token: str) -> None:
    """What was sealed beside the page, each with a way to see it sealed."""
    account = state.engine().sessions.whoami(token).username
    done = [seal for seal in api.seals().of(account) if seal.sealed]
    if not done:
        return
    with st.expander(f"Sealed just now: {len(done)}", icon=":material/lock:"):
        for seal in reversed(done):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(widgets.plain(seal.title), width="stretch")
                if st.button("Show", key=f"sealed-{seal.image_id}"):
                    state.keep("sealed", seal.image_id)
                    st.rerun()

"""Which draft is open, which comes next, and what is sealed beside the page."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import timedelta

import streamlit as st

import api
from engine import NEEDS, ImageRecord, WorkGroup, WorkItem, errors
from ui import search, state, widgets
from ui.query_params import asked, tell

#: Drafts of one person that came in so close together are one upload.
_BATCH = timedelta(hours=12)
#: Sealed images that are listed.
_SHOWN = 31


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


def rank(item: WorkItem) -> int:
    """Place of what stops a draft most, among all that may."""
    return (*NEEDS, "").index(item.need)


def next_after(token: str, record: ImageRecord, back: bool = False) -> str:
    """What a person looks at after this draft: what comes after it in its series, then its study,
    then their own upload of that time, then what needs a look most. Empty for nothing.

    Args:
        back: What comes before it in its series instead, if anything does.
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
        (
            (
                distance(group),
                not near(item),
                group is here and place < at,
                0 if distance(group) < 2 else rank(item),
            ),
            item.record.image_id,
        )
        for group in groups
        for place, item in enumerate(group.items)
        if not item.worked_on_by and item.record.image_id not in busy
    ]
    if back and here is not None:
        before = [i for i in places[:at] if any(i == one for _, one in free)]
        return before[-1] if before else ""
    return min(free, key=lambda one: one[0])[1] if free else ""


def seal_undoubted(token: str, ready: Sequence[ImageRecord]) -> None:
    """Seal every draft of one's own without doubt in one step, beside the page."""
    if not ready or not state.engine().settings.auto_seal:
        return
    images = "1 image" if len(ready) == 1 else f"{len(ready)} images"
    if not st.button(
        f"Seal {images} without doubt",
        icon=":material/lock:",
        help="All boxes in them are certain. The audit log says that nobody looked.",
    ):
        return
    names = search.names(token, [draft.patient_id for draft in ready])
    for draft in ready:
        what = f"{draft.modality or draft.format} {draft.width}×{draft.height}"
        title = f"{names.get(draft.patient_id, '')} · {what}"
        with contextlib.suppress(errors.NotFound):  # somebody else has opened or sealed it
            api.seals().add_undoubted(token, draft.image_id, title)
    state.say(f"{images} are being sealed. Those that need a look come back.")
    st.rerun()


def sealed_beside(token: str) -> None:
    """What was sealed beside the page, each with a way to see it sealed."""
    account = state.engine().sessions.whoami(token).username
    done = [seal for seal in api.seals().of(account) if seal.sealed]
    if not done:
        return
    with st.expander(f"Sealed just now: {len(done)}", icon=":material/lock:"):
        shown = done[:-_SHOWN:-1]
        names = search.names(token, [seal.patient_id for seal in shown])
        for seal in shown:
            with st.container(horizontal=True, vertical_alignment="center"):
                title = " · ".join(filter(None, (names.get(seal.patient_id), seal.what)))
                st.markdown(widgets.plain(title), width="stretch")
                if widgets.button_for("Show", title, f"sealed-{seal.image_id}"):
                    state.keep("sealed", seal.image_id)
                    st.rerun()

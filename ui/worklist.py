"""The work list: what waits, with its boxes, by patient, study and series; filters with counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import streamlit as st

import api
from engine import NEEDS, REASONS, ImageState, WorkGroup, WorkItem
from ui import contact_sheet, queue, search, state, widgets
from ui.query_params import asked, tell

#: Pictures on a page of the list, and of one series there.
_PAGE: Final = 48
_OF_SERIES: Final = 6
#: What stops a draft, in few words.
WORDS: Final = {
    "flagged": "Reported",
    "box-questioned": "Box questioned",
    "detector-failed": "No detector ran",
    "still-visible": "Still readable",
    "proposals": "Uncertain boxes",
    "remembered": "As sealed before",
    "nothing-found": "Nothing found",
    "boxes-drawn": "Boxes drawn",
    "": "No doubt",
}

Pair = tuple[WorkGroup, WorkItem]


def worklist(token: str) -> None:
    """The list, its filters, and what can be done with many at once."""
    own = state.engine().sessions.whoami(token).username
    sealing = api.seals().at_work(own)
    groups = [_without(group, sealing) for group in state.engine().worklist.groups(token)]
    pairs = [(group, item) for group in groups for item in group.items]
    st.header(f"Waiting to be sealed: {len(pairs)}")
    _left_over(token)
    if not pairs:
        contact_sheet.offer_undo(token)
        st.info(
            "Nothing waits. Drop a study above; what needs a look appears here.",
            icon=":material/task_alt:",
        )
        return
    look = sum(item.record.state is ImageState.REVIEW for _, item in pairs)
    if look:
        which = "All" if look == len(pairs) > 1 else look
        st.caption(f"{which} of them must be reviewed before they can be sealed.")
    shown = _filtered(token, pairs)
    free = [item for _, item in shown if not item.worked_on_by]
    with st.container(horizontal=True, vertical_alignment="center"):
        contact_sheet.offer_undo(token)
        contact_sheet.offer(_grouped(shown))
        if free and st.button("Correct the next image", icon=":material/edit:"):
            queue.open_draft(min(free, key=queue.rank).record.image_id)
            st.rerun()
        queue.seal_undoubted(
            token,
            [i.record for i in free if not i.need and i.record.state is ImageState.DRAFT
             and i.record.uploaded_by == own],
        )  # fmt: skip
    _page(token, _grouped(shown))


def _left_over(token: str) -> None:
    """What was confirmed and is in no queue, because the server or a session ended meanwhile."""
    confirmed = state.engine().worklist.confirmed(token)
    if not confirmed:
        return
    looking = api.app.state.intakes.looking
    queued = looking.queued()
    left = [r.image_id for r in confirmed if r.image_id not in queued]
    if not left:
        return
    images = "1 image was" if len(left) == 1 else f"{len(left)} images were"
    st.warning(
        f"{images} confirmed on a contact sheet and not sealed yet: the server was stopped, or a"
        " session ended.",
        icon=":material/lock_open:",
    )
    with st.container(horizontal=True):
        if st.button("Seal as confirmed", icon=":material/lock:"):
            looking.add(token, left, again=True)
            state.say(f"Being sealed as confirmed: {widgets.counted(len(left), 'image')}.")
            st.rerun()
        if st.button("Look at them again", icon=":material/undo:"):
            back = state.engine().worklist.take_back(token, left)
            state.say(f"Waiting again: {widgets.counted(len(back), 'image')}.")
            st.rerun()


def _without(group: WorkGroup, ids: frozenset[str]) -> WorkGroup:
    return replace(group, items=tuple(i for i in group.items if i.record.image_id not in ids))


def _grouped(pairs: Sequence[Pair]) -> list[WorkGroup]:
    items: dict[str, list[WorkItem]] = {}
    groups = {}
    for group, item in pairs:
        groups[group.series_id] = group
        items.setdefault(group.series_id, []).append(item)
    return [replace(group, items=tuple(items[key])) for key, group in groups.items()]


# --- filters -----------------------------------------------------------------------------------


def _filtered(token: str, pairs: Sequence[Pair]) -> list[Pair]:
    """What the filters leave. Each says how many it would leave beside the others."""
    titles = search.names(token, [group.patient_id for group, _ in pairs])
    profiles = state.engine().profiles.by_name()
    facets: dict[str, tuple[str, Callable[[Pair], str], Callable[[str], str]]] = {
        "need": ("Need", lambda p: p[1].need or "none", lambda k: WORDS.get(k, WORDS[""])),
        "modality": (
            "Modality", lambda p: p[1].record.modality or str(p[1].record.format), str,
        ),
        "profile": (
            "Specialty", lambda p: p[1].record.profile,
            lambda k: profiles[k].title if k in profiles else k,
        ),
        "by": ("Sent by", lambda p: p[1].record.uploaded_by, str),
        "day": ("Day", lambda p: f"{widgets.local(p[1].record.uploaded_at):%Y-%m-%d}", str),
        "patient": ("Patient", lambda p: p[0].patient_id, lambda k: titles.get(k, k)),
    }  # fmt: skip
    chosen = {name: asked(f"list-{name}") for name in facets}

    def left(but: str = "") -> list[Pair]:
        wanted = [(facets[n][1], v) for n, v in chosen.items() if v and n != but]
        return [p for p in pairs if all(of(p) == value for of, value in wanted)]

    with st.container(horizontal=True):
        for name, (label, of, word) in facets.items():
            counts = Counter(map(of, left(name)))
            order = [need or "none" for need in (*NEEDS, "")] if name == "need" else sorted(counts)
            options = [key for key in order if key in counts]
            if len(options) < 2 and not chosen[name]:
                continue
            picked = st.selectbox(
                label,
                options,
                index=options.index(chosen[name]) if chosen[name] in options else None,
                format_func=lambda key, word=word, counts=counts: f"{word(key)} ({counts[key]})",
                placeholder="All",
                key=f"list-{name}",
                width=210,
            )
            if (picked or "") != chosen[name]:
                tell(f"list-{name}", picked)
                tell("list-page", None)
                st.rerun()
    return left()


# --- one page ----------------------------------------------------------------------------------


def _page(token: str, groups: Sequence[WorkGroup]) -> None:
    whole = str(state.recall("whole-series", ""))
    pages = _pages(groups, whole)
    number = asked("list-page")
    at = min(len(pages), max(1, int(number) if number.isdigit() else 1))
    parts = pages[at - 1] if pages else []
    names = search.names(token, [group.patient_id for group, _ in parts])
    patients: dict[str, dict[str, Any]] = {}
    for group, most in parts:
        title = names.get(group.patient_id, "")
        entry = patients.setdefault(group.patient_id, {"title": title, "groups": []})
        entry["groups"].append(_group(group, most))
    data = {"patients": list(patients.values())}
    said = "".join(f"{i.version}{i.worked_on_by}" for g, most in parts for i in g.items[:most])
    told = widgets.worklist({**data, "id": hashlib.sha256(said.encode()).hexdigest()[:16]})
    if len(pages) > 1:
        _pager(at, len(pages))
    if told.opened:
        queue.open_draft(told.opened)
        st.rerun()
    if told.sheet:
        state.keep("sheet", told.sheet)
        st.rerun()
    if told.all:
        state.keep("whole-series", told.all)
        st.rerun()


def _pages(groups: Sequence[WorkGroup], whole: str) -> list[list[tuple[WorkGroup, int]]]:
    """Series and how many of their pictures are shown, page by page."""
    pages: list[list[tuple[WorkGroup, int]]] = []
    room = 0
    for group in groups:
        every = len(group.items)
        most = every if group.series_id == whole or every < _OF_SERIES + 3 else _OF_SERIES
        takes = min(most, every)
        if takes > room or not pages:
            pages.append([])
            room = _PAGE
        pages[-1].append((group, most))
        room -= takes
    return pages


def _pager(at: int, pages: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if at > 1 and st.button("Previous page", icon=":material/chevron_left:"):
            _turn(at - 1)
        st.caption(f"Page {at} of {pages}")
        if at < pages and st.button("Next page", icon=":material/chevron_right:"):
            _turn(at + 1)


def _turn(page: int) -> None:
    tell("list-page", str(page) if page > 1 else None)
    st.rerun()


def _group(group: WorkGroup, most: int) -> dict[str, Any]:
    needs = Counter(item.need for item in group.items)
    first = sorted(group.items, key=queue.rank)
    return {
        "id": group.series_id,
        "title": contact_sheet.title(group, ""),
        "count": len(group.items),
        "fit": len(contact_sheet.fit(group)),
        "needs": [[WORDS[need], needs[need]] for need in NEEDS if need in needs],
        "items": [_item(item) for item in first[:most]],
    }


def _item(item: WorkItem) -> dict[str, Any]:
    record = item.record
    return {
        "id": record.image_id,
        "version": item.version,
        "name": f"{record.modality or record.format} {record.width}×{record.height}",
        "boxes": record.region_count,
        "need": item.need,
        "why": " ".join(REASONS.get(r, r) for r in record.reasons)
        or REASONS.get(item.need, "Nothing is in doubt."),
        "by": item.worked_on_by,
    }

"""Contact sheets of what waits: many drafts seen at once, confirmed together, study by study."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

import api
from engine import REASONS, Look, WorkGroup, WorkItem
from ui import queue, search, state, widgets

#: Pictures on a sheet.
_MOST = 50


def offer(groups: Sequence[WorkGroup]) -> None:
    """The way to the sheets, where something fits on one."""
    count = sum(len(fit(group)) for group in groups)
    if not count:
        return
    images = "1 image" if count == 1 else f"{count} images"
    if st.button(
        f"Look at {images} on contact sheets",
        type="primary",
        icon=":material/grid_view:",
        help="Many pictures at once with their boxes, study by study. You confirm them together.",
    ):
        state.keep("sheet", "all")
        st.rerun()


def show(token: str) -> None:
    """The next sheet; the one after it comes by itself.

    It begins with the series that was chosen in the list, else with one's own uploads.
    """
    account = state.engine().sessions.whoami(token).username
    first, busy = state.recall("sheet"), api.seals().at_work(account)

    def later(group: WorkGroup) -> tuple[bool, bool]:
        mine = any(item.record.uploaded_by == account for item in group.items)
        return (group.series_id != first, not mine)

    groups = sorted(state.engine().worklist.groups(token), key=later)
    groups = [
        replace(g, items=tuple(i for i in g.items if i.record.image_id not in busy)) for g in groups
    ]
    parts = _next(groups)
    if not parts:
        state.take("sheet")
        state.say_again()
        st.rerun()
    names = search.names(token, [group.patient_id for group, _ in parts])
    shown = [item for _, items in parts for item in items]
    waiting = sum(len(fit(group)) for group in groups)
    versions = "".join(item.version for item in shown)
    answer = widgets.contact_sheet(
        {
            "id": hashlib.sha256(versions.encode()).hexdigest()[:16],
            "left": waiting - len(shown),
            "undo": len(state.recall("confirmed", [])),
            "groups": [
                {
                    "title": title(group, names.get(group.patient_id, "")),
                    "items": [_item(item, n) for n, item in enumerate(items, 1)],
                }
                for group, items in parts
            ],
        }
    )
    with widgets.banner():
        _answered(token, answer)


def _answered(token: str, answer: Any) -> None:
    worklist = state.engine().worklist
    if answer.confirmed:
        looks = [
            Look(look["id"], look["version"], look["seconds"], look["px"], look["enlarged"])
            for look in answer.confirmed
        ]
        confirmed = worklist.confirm(token, looks)
        api.app.state.intakes.looking.add(token, confirmed, again=True)
        state.keep("confirmed", confirmed)
        changed = len(looks) - len(confirmed)
        state.say(
            f"{widgets.counted(len(confirmed), 'image')} confirmed and being sealed."
            + (f" {changed} changed meanwhile and wait for you again." if changed else "")
        )
        st.rerun()
    if answer.carried:
        added = worklist.carry(token, answer.carried["from"], answer.carried["to"])
        state.say(
            f"Boxes added to {widgets.counted(added, 'image')}. Look again before you confirm."
        )
        st.rerun()
    if answer.undone:
        take_back(token)
    if answer.opened:
        queue.open_draft(answer.opened)
        st.rerun()
    if answer.left:
        state.take("sheet")
        st.rerun()


def offer_undo(token: str) -> None:
    """Take the last confirmation back, for what has not been sealed yet."""
    if state.recall("confirmed") and st.button(
        "Undo the last confirmation",
        icon=":material/undo:",
        help="What has been sealed since stays sealed.",
    ):
        take_back(token)


def take_back(token: str) -> None:
    """Let what was confirmed last and is not sealed yet wait again."""
    last = state.take("confirmed", [])
    back = state.engine().worklist.take_back(token, last)
    sealed = len(last) - len(back)
    state.say(
        f"Waiting again: {widgets.counted(len(back), 'image')}."
        + (f" {sealed} had been sealed already." if sealed else "")
    )
    st.rerun()


def fit(group: WorkGroup) -> list[WorkItem]:
    """What of a series can be confirmed on a sheet."""
    return [item for item in group.items if item.on_a_sheet and not item.worked_on_by]


def _next(groups: Sequence[WorkGroup]) -> list[tuple[WorkGroup, list[WorkItem]]]:
    """What comes on the next sheet: whole series as far as they fit, in the order of the list."""
    parts: list[tuple[WorkGroup, list[WorkItem]]] = []
    room = _MOST
    for group in groups:
        items = fit(group)
        if not items:
            continue
        if parts and len(items) > room:
            break
        parts.append((group, items[:room]))
        room -= min(room, len(items))
        if not room:
            break
    return parts


def title(group: WorkGroup, patient: str) -> str:
    """Patient, study and series in one line."""
    study = group.study
    parts = [patient, group.series]
    if study is not None:
        what = study.description or " and ".join(study.modalities)
        parts[1:1] = [f"{study.date} {study.time}".strip(), what]
    return " · ".join(part for part in parts if part)


def _item(item: WorkItem, number: int) -> dict[str, Any]:
    record = item.record
    return {
        "id": record.image_id,
        "version": item.version,
        "name": f"{record.modality or record.format} {number}",
        "boxes": record.region_count,
        "why": " ".join(REASONS.get(r, r) for r in record.reasons)
        or REASONS.get(item.need, "Nothing is in doubt."),
    }

"""The study page: series as tiles, stacks to scroll through, restored under one reason."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any
from urllib.parse import quote

import streamlit as st

from engine import Permission, Series, Study, StudyRestoration, errors
from ui import state, step_up, studies, widgets
from ui.patient_banner import patient_banner

#: Reasons that one press gives; any other is typed.
REASONS = ("Clinical reading", "Comparison", "Tumour board", "Second opinion")


def open_study(study_id: str, series_id: str = "") -> None:
    """Show this study, beginning with this series."""
    # One change of the address: the browser's back button then leads to the list at once.
    st.query_params.update({"study": study_id} | ({"series": series_id} if series_id else {}))


def close(token: str, study_id: str) -> None:
    """Leave the study; what was restored of it is forgotten."""
    if state.engine().sessions.may(token, Permission.RESTORE):
        for opened in state.engine().studies.restorations(token, study_id):
            state.engine().studies.close(token, opened.handle)
    for name in ("study", "series"):
        st.query_params.pop(name, None)


def show(token: str, study_id: str) -> None:
    """Show one study, and others of the patient beside it."""
    engine = state.engine()
    try:
        study = engine.studies.get(token, study_id)
    except errors.NotFound:
        close(token, study_id)
        raise
    patient_banner(engine.patients.get(token, study.patient_id), study)
    every = engine.studies.of_patient(token, study.patient_id)
    every.sort(key=lambda other: other.study_id != study_id)
    restored = _restored(token, every)
    start = _start(study)
    with st.container(horizontal=True, vertical_alignment="center", key="study-bar"):
        if st.button("Back to the list", icon=":material/arrow_back:"):
            close(token, study_id)
            st.rerun()
        if engine.sessions.may(token, Permission.RESTORE):
            _ask(token, study, start, restored)
        if engine.sessions.may(token, Permission.EXPORT):
            _downloads(study, start, restored)
    chosen = widgets.stack(_view(study, every, restored, start), f"study-{study.patient_id}")
    if chosen:
        st.query_params["image"] = chosen
        st.rerun()


def _restored(token: str, every: list[Study]) -> list[StudyRestoration]:
    if not state.engine().sessions.may(token, Permission.RESTORE):
        return []
    return [o for s in every for o in state.engine().studies.restorations(token, s.study_id)]


def _start(study: Study) -> str:
    """The series that the address names, else the first one."""
    wanted = st.query_params.get("series", "")
    ids = [one.series_id for one, _ in studies.sealed(study)]
    return wanted if wanted in ids else ids[0] if ids else ""


# --- restoring ----------------------------------------------------------------------------------


def _ask(token: str, study: Study, start: str, restored: list[StudyRestoration]) -> None:
    """What is restored until when, or buttons that restore."""
    here = [opened for opened in restored if opened.study_id == study.study_id]
    if here:
        newest = here[0]
        what = "Study" if not newest.series_id else "Series"
        st.badge(
            f"{what} restored until {widgets.when(newest.expires_at)}",
            icon=":material/lock_open:",
            color="green",
        )
        if st.button("Close the restoration", icon=":material/lock:"):
            for opened in here:
                state.engine().studies.close(token, opened.handle)
            st.rerun()
        covered = {image.image_id for opened in here for image in opened.images}
        every = [i.image_id for _, images in studies.sealed(study) for i in images]
        if covered.issuperset(every):
            return
    scopes = _scopes(study, start)
    if len(scopes) > 1:
        scope = st.selectbox(
            "Restore",
            list(scopes),
            format_func=scopes.__getitem__,
            label_visibility="collapsed",
            width=230,
        )
    else:
        scope = next(iter(scopes))
    with widgets.banner(), step_up.step_up_prompt():
        reason = _reason()
        if reason is not None:
            state.engine().studies.restore(token, study.study_id, reason, scope)
            st.rerun()


def _reason() -> str | None:
    """The reason that was given in this run, which is logged; None where none was."""
    given = None
    for place, reason in enumerate(REASONS):
        if st.button(
            f"Restore: {reason.lower()}" if place == 0 else reason,
            type="primary" if place == 0 else "secondary",
            icon=":material/lock_open:" if place == 0 else None,
            help="Decrypts and verifies the originals. Logged with your name and this reason.",
            key=f"why-{place}",
        ):
            given = reason
    with st.popover("Other reason"), st.form("restore-study", border=False):
        said = st.text_input("Why do you need to see the originals?", placeholder="Logged")
        if st.form_submit_button("Restore the originals", type="primary"):
            given = said
    return given


def _scopes(study: Study, start: str) -> Mapping[str, str]:
    """Series id, or nothing for the whole study, with how it is called."""
    sealed = studies.sealed(study)
    found = {
        one.series_id: f"{studies.name(one)}: {_count(len(images))}"
        for one, images in sealed
        if one.series_id == start
    }
    if len(sealed) > 1:
        found[""] = f"Whole study: {_count(sum(len(images) for _, images in sealed))}"
    return found


def _downloads(study: Study, start: str, restored: list[StudyRestoration]) -> None:
    """Links to ZIP files for a viewer or a disc: masked, and originals of what is restored."""
    found = {
        f"/api/studies/{study.study_id}/archive/?series_id={quote(series_id)}": f"Masked, {name}"
        for series_id, name in _scopes(study, start).items()
    }
    called = {one.series_id: studies.name(one) for one, _ in studies.sealed(study)}
    for opened in restored:
        if opened.study_id == study.study_id:
            what = called.get(opened.series_id or "", "Whole study")
            found[f"/api/study-restorations/{opened.handle}/archive/"] = (
                f"Originals, {what}: {_count(len(opened.images))}"
            )
    with st.popover("Download", icon=":material/download:"):
        st.caption(
            "A ZIP with a DICOMDIR, for a viewer or a disc. The audit log notes each image. "
            + (
                "Originals name the patient."
                if restored
                else "Restore the study to download its originals."
            )
        )
        for address, name in found.items():
            st.link_button(widgets.plain(name), address, width="stretch")


# --- what the viewer gets -------------------------------------------------------------------------


def _view(
    study: Study, every: list[Study], restored: list[StudyRestoration], start: str
) -> dict[str, Any]:
    """Viewer data, as in ``stack.js``; ids and counts, no picture."""
    handles = {i.image_id: opened.handle for opened in reversed(restored) for i in opened.images}
    ends = [opened.expires_at for opened in restored]
    return {
        "id": study.patient_id,
        "start": start,
        "expires": min(ends).replace(tzinfo=UTC).timestamp() * 1000 if ends else None,
        "presets": widgets.CT_WINDOWS,
        "series": [row for other in every for row in _series(other, handles)],
    }


def _series(study: Study, handles: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "id": one.series_id,
            "study": studies.plain_title(study),
            "name": studies.name(one),
            "about": _about(one, len(images)),
            "modality": one.modality,
            "middle": images[len(images) // 2].image_id,
            "images": [[i.image_id, i.frames, handles.get(i.image_id, "")] for i in images],
        }
        for one, images in studies.sealed(study)
    ]


def _about(series: Series, count: int) -> str:
    return " · ".join(part for part in (series.modality, _count(count)) if part)


def _count(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"

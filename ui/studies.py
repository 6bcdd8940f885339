"""Studies of one patient, with their series; and the way through a series, image by image."""

from __future__ import annotations

import streamlit as st

from engine import ImageRecord, ImageState, Series, Study
from ui import state, widgets

#: Images of a series that are shown before somebody asks for the others.
FIRST = 8


def studies(token: str, patient_id: str) -> str | None:
    """Every study of a patient, newest first.

    Returns:
        The id of the image chosen in this run; empty where none was, None where there is no study.
    """
    found = state.engine().studies.of_patient(token, patient_id)
    sealed = [(study, _sealed(study)) for study in found]
    sealed = [(study, series) for study, series in sealed if series]
    chosen = ""
    for study, series in sealed:
        with st.container(border=True, key=f"study-{study.study_id}"):
            st.subheader(title(study))
            st.caption(_about(study, series))
            for one, images in series:
                chosen = _series(study, one, images, several=len(series) > 1) or chosen
    return chosen if sealed else None


def title(study: Study) -> str:
    """Date and description of a study."""
    at = f"{study.date} {study.time}".strip()
    what = study.description or " and ".join(study.modalities) or "Pictures"
    return f"{at} · {widgets.plain(what)}"


def _sealed(study: Study) -> list[tuple[Series, list[ImageRecord]]]:
    found = [
        (one, [i for i in one.images if i.state is ImageState.RELEASED]) for one in study.series
    ]
    return [(one, images) for one, images in found if images]


def _about(study: Study, series: list[tuple[Series, list[ImageRecord]]]) -> str:
    images = sum(len(images) for _, images in series)
    parts = [
        ", ".join(study.modalities),
        f"accession number {study.accession_number}" if study.accession_number else "",
        f"{len(series)} series" if len(series) > 1 else "",
        "1 image" if images == 1 else f"{images} images",
        "" if study.dated else "date of the upload",
    ]
    return widgets.plain(" · ".join(part for part in parts if part))


def _series(study: Study, series: Series, images: list[ImageRecord], *, several: bool) -> str:
    if several:
        st.markdown(f"**{_name(series)}**")
    every = f"all-{series.series_id}"
    shown = images if state.recall(every) else images[:FIRST]
    chosen = widgets.cards(shown, f"study-{study.study_id}")
    if len(shown) < len(images) and st.button(
        f"Show all {len(images)} images", key=every, icon=":material/expand_more:"
    ):
        state.keep(every, True)
        st.rerun()
    return chosen


def _name(series: Series) -> str:
    number = "" if series.number is None else f"Series {series.number}"
    parts = [number, series.description, series.body_part.lower(), _SIDES.get(series.laterality)]
    return widgets.plain(" · ".join(part for part in parts if part) or "Series")


_SIDES = {"L": "left", "R": "right", "B": "both sides"}


def study_of(token: str, image_id: str) -> Study | None:
    """The study of an image; None where it has none yet."""
    study_id = state.engine().studies.study_of(token, image_id)
    return None if study_id is None else state.engine().studies.get(token, study_id)


def through_series(study: Study | None, record: ImageRecord) -> str:
    """Which image of its series this is, and buttons to the ones before and after it.

    Returns:
        The id of the image chosen in this run, or an empty string.
    """
    for series, images in _sealed(study) if study else ():
        ids = [image.image_id for image in images]
        if record.image_id in ids and len(ids) > 1:
            where = f"{title(study)} · {_name(series)}" if study else ""
            return _steps(ids, ids.index(record.image_id), where)
    return ""


def scopes(study: Study | None, image_id: str) -> dict[str, str]:
    """What can be restored under one reason: ``image``, its series by id, ``study``, with names."""
    found = {"image": "This image"}
    sealed = _sealed(study) if study else []
    for series, images in sealed:
        if len(images) > 1 and image_id in [image.image_id for image in images]:
            found[series.series_id] = f"Series, {len(images)} images"
    if len(sealed) > 1:
        found["study"] = f"Study, {sum(len(images) for _, images in sealed)} images"
    return found


def _steps(ids: list[str], place: int, where: str) -> str:
    chosen = ""
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, step, icon in (("Previous", -1, "chevron_left"), ("Next", 1, "chevron_right")):
            there = 0 <= place + step < len(ids)
            if st.button(name, icon=f":material/{icon}:", disabled=not there, key=f"step-{name}"):
                chosen = ids[place + step]
        st.caption(f"Image {place + 1} of {len(ids)} · {where}")
    return chosen

"""Studies of one patient, with their series; and the way through a series, image by image."""

from __future__ import annotations

import streamlit as st

from engine import ImageRecord, ImageState, Series, Study
from ui import state, widgets


def studies(token: str, patient_id: str) -> tuple[str, str] | None:
    """Every study of a patient, newest first, with its series as tiles.

    Returns:
        Study and series that were chosen in this run; empty where none was, None where the patient
        has no study.
    """
    found = [
        (study, sealed(study)) for study in state.engine().studies.of_patient(token, patient_id)
    ]
    found = [(study, series) for study, series in found if series]
    chosen = ("", "")
    for study, series in found:
        with st.container(border=True, key=f"study-{study.study_id}"):
            st.subheader(title(study))
            st.caption(_about(study, series))
            with st.container(horizontal=True):
                for one, images in series:
                    if _tile(study, one, images):
                        chosen = (study.study_id, one.series_id)
    return chosen if found else None


def title(study: Study) -> str:
    """Date and description of a study, for Markdown."""
    return f"{_at(study)} · {widgets.plain(_what(study))}"


def plain_title(study: Study) -> str:
    """Date and description of a study."""
    return f"{_at(study)} · {_what(study)}"


def _at(study: Study) -> str:
    return f"{study.date} {study.time}".strip()


def _what(study: Study) -> str:
    return study.description or " and ".join(study.modalities) or "Pictures"


def sealed(study: Study) -> list[tuple[Series, list[ImageRecord]]]:
    """Series of which images are sealed, with these, in order."""
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


def _tile(study: Study, series: Series, images: list[ImageRecord]) -> bool:
    """A series by its middle image; was it opened in this run?"""
    whose = f"{name(series)}, {plain_title(study)}"
    middle = images[len(images) // 2]
    count = "1 image" if len(images) == 1 else f"{len(images)} images"
    with st.container(border=True, width=230, key=f"tile-{series.series_id}"):
        widgets.picture(
            f"/api/images/{middle.image_id}/thumbnail", f"Sealed, {name(series)}", small=True
        )
        st.markdown(f"**{widgets.plain(name(series))}**")
        st.caption(" · ".join(p for p in (series.modality or str(middle.format), count) if p))
        return widgets.button_for("View", whose, f"open-{series.series_id}", width="stretch")


def name(series: Series) -> str:
    """Number, description, body part and side of a series, as far as the header says."""
    parts = [series.title, _SIDES.get(series.laterality)]
    named = " · ".join(part for part in parts if part)
    return named or ("Series" if series.modality else "Pictures")


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
    for series, images in sealed(study) if study else ():
        ids = [image.image_id for image in images]
        if record.image_id in ids and len(ids) > 1:
            where = title(study) if study else ""
            if name(series) != (study and _what(study)):
                where += f" · {widgets.plain(name(series))}"
            return _steps(ids, ids.index(record.image_id), where)
    return ""


def scopes(study: Study | None, image_id: str) -> dict[str, str]:
    """What can be restored under one reason: ``image``, its series by id, ``study``, with names."""
    found = {"image": "This image"}
    found_in = sealed(study) if study else []
    for series, images in found_in:
        if len(images) > 1 and image_id in [image.image_id for image in images]:
            found[series.series_id] = f"Series, {len(images)} images"
    if len(found_in) > 1:
        found["study"] = f"Study, {sum(len(images) for _, images in found_in)} images"
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

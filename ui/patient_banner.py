"""Whose pictures these are: a bar that stays in sight while the page scrolls."""

from __future__ import annotations

from html import escape
from unicodedata import bidirectional

import streamlit as st

from engine import Patient, Study

_SEXES = {"F": "female", "M": "male", "O": "other sex"}


def patient_banner(patient: Patient, study: Study | None = None) -> None:
    """Name, number, age, sex and date of the study, as far as they are known."""
    age = "age unknown" if patient.age is None else f"{patient.age} years"
    sex = _SEXES.get(study.sex, "sex unknown") if study else ""
    facts = [f"No. {patient.id}", age, sex, _dated(study)]
    rest = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    with st.container(key="patient-banner"):
        st.html(
            f'<div class="patient" role="region" aria-label="Patient">'
            f"<strong>{escape(person(patient.name))}</strong>{rest}</div>"
        )


def _dated(study: Study | None) -> str:
    if study is None:
        return ""
    at = f"{study.date} {study.time}".strip()
    return f"Study of {at}" if study.dated else f"Uploaded {at}, no date in the files"


def person(name: str) -> str:
    """A name as people write it: that of a DICOM header has carets between its parts.

    PS3.5 6.2.1: family name, given name, middle name, prefix, suffix; ideographs after ``=``. One
    that is written from right to left is isolated: it would turn the date after it around.
    """
    written = _written(name)
    if any(bidirectional(letter) in ("R", "AL") for letter in written):
        return f"\N{FIRST STRONG ISOLATE}{written}\N{POP DIRECTIONAL ISOLATE}"
    return written


def _written(name: str) -> str:
    if "^" not in name:
        return name
    family, given, middle, prefix, suffix = (
        part.strip() for part in (name.split("=")[0].split("^") + [""] * 5)[:5]
    )
    after = " ".join(part for part in (prefix, given, middle) if part)
    return ", ".join(part for part in (family, after, suffix) if part)

"""Choose the patient of an upload, or create and change patient records."""

from __future__ import annotations

import streamlit as st

from engine import Patient
from ui import state, widgets
from ui.patient_banner import person


def choose_patient(token: str) -> Patient | None:
    """Find or create a patient; the choice is kept until another one is made."""
    st.header("For files that name nobody")
    st.caption(
        "Photographs and pictures without a header do not say whose they are. Choose or create the"
        " record here, then drop them above."
    )
    find, choose = st.columns([2, 3])
    query = find.text_input("Find a patient", type="search", placeholder="Number or name")
    found = state.engine().patients.search(token, query)
    by_id = {p.patient_id: p for p in found}
    last = state.recall("patient")
    index = list(by_id).index(last) if last in by_id else None
    chosen = choose.selectbox(
        "Patient of these files",
        list(by_id),
        index=index,
        format_func=lambda key: title(by_id[key]),
        placeholder="Choose a patient" if found else "No patient matches",
        key=f"patient-{state.turn('patient')}",
    )
    left, right = st.columns(2)
    turn = state.turn("patient")
    with left, st.expander("New patient", key=f"new-{turn}", icon=":material/person_add:"):
        _new_patient(token)
    if chosen is None:
        return None
    with right, st.expander("Edit patient record", key=f"change-{turn}", icon=":material/edit:"):
        _change_patient(token, by_id[chosen])
    state.keep("patient", chosen)
    return by_id[chosen]


def title(patient: Patient) -> str:
    """Number, name and age in one line."""
    age = "" if patient.age is None else f", {patient.age} years"
    return f"{patient.id} · {person(patient.name)}{age}"


def _new_patient(token: str) -> None:
    with st.form(f"new-patient-{state.turn('patient')}"), widgets.banner():
        number = st.text_input("Patient number", max_chars=50)
        name = st.text_input("Name", max_chars=100)
        age = st.number_input("Age in years", 0, 150, value=None, step=1)
        note = st.text_area(
            "Note for doctors",
            help="You cannot see it again after saving.",
        )
        if st.form_submit_button("Add patient", type="primary"):
            patient = state.engine().patients.create(token, number, name, age, note)
            state.keep("patient", patient.patient_id)
            state.renew("patient")
            state.say("Patient added.")
            st.rerun()


def _change_patient(token: str, patient: Patient) -> None:
    with st.form(f"change-{patient.patient_id}-{state.turn('patient')}"), widgets.banner():
        number = st.text_input("Patient number", patient.id, max_chars=50)
        name = st.text_input("Name", patient.name, max_chars=100)
        age = st.number_input("Age in years", 0, 150, value=patient.age, step=1)
        if st.form_submit_button("Save changes"):
            state.engine().patients.update(token, patient.patient_id, id=number, name=name, age=age)
            state.renew("patient")
            state.say("Record saved. The previous version is in its history.")
            st.rerun()

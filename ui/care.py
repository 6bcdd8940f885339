"""Who treats a patient, and the door for emergencies: what doctors and technicians see of it."""

from __future__ import annotations

import streamlit as st

from engine import Patient, Permission
from ui import state, step_up, widgets


def broken(token: str) -> None:
    """What this doctor has open by emergency access, and how to end it."""
    engine = state.engine()
    if not engine.settings.care_relation or not engine.may(token, Permission.BREAK_GLASS):
        return
    for glass in engine.my_glass(token):
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.warning(
                f"Emergency access to patient {widgets.plain(glass.number)} until"
                f" {glass.expires_at:%H:%M} UTC. Everything you do with this patient is marked,"
                " and will be reviewed.",
                icon=":material/emergency_home:",
            )
            if st.button("End it now", key=f"end-{glass.glass_id}"):
                engine.end_glass(token, glass.glass_id)
                st.query_params.clear()
                state.say("The emergency access has ended.")
                st.rerun()


def door(token: str, typed: str) -> None:
    """Break the glass over a patient who was looked for and not found among one's own.

    Args:
        typed: What was searched for; the form starts with it.
    """
    engine = state.engine()
    if not engine.settings.care_relation or not engine.may(token, Permission.BREAK_GLASS):
        return
    with (
        st.expander("An emergency with a patient you do not treat", icon=":material/emergency:"),
        st.form("glass", border=False),
        widgets.banner(),
        step_up.asked_again(),
    ):
        st.write(
            "You see the patients you treat. In an emergency you can open another one for an"
            " hour: it is recorded at once, the administrator sees it, and somebody reviews it."
        )
        number = st.text_input("Patient number", typed)
        reason = st.text_area(
            "Why do you need this patient now?",
            placeholder="such as: unconscious in the emergency room, allergies unknown",
            key="glass-reason",
        )
        if st.form_submit_button("Break the glass", icon=":material/emergency:"):
            glass = engine.break_glass(token, number, reason)
            st.query_params["patient"] = glass.patient_id
            st.rerun()


def team(token: str, patient: Patient) -> None:
    """Who treats this patient; technicians add at admission, doctors bring in a colleague."""
    engine = state.engine()
    if not engine.settings.care_relation or not engine.may(token, Permission.ASSIGN_CARE):
        return
    doctors = {a.username: a.name for a in engine.doctors(token)}
    treating = [r.username for r in engine.care_team(token, patient.patient_id)]
    label = ", ".join(doctors.get(u, u) for u in treating) or "nobody yet"
    who = state.account()
    if who is not None and who.username in doctors and who.username not in treating:
        st.caption(f"Treated by {widgets.plain(label)}")  # an emergency brings nobody in
        return
    with (
        st.expander(f"Treated by {label}", icon=":material/stethoscope:"),
        st.form(f"care-{patient.patient_id}-{len(treating)}", border=False),
        widgets.banner(),
    ):
        if not treating:
            st.write("No doctor sees this patient until one is named here.")
        others = [u for u in doctors if u not in treating]
        chosen = st.multiselect(
            "Doctors to add", others, format_func=lambda u: f"{doctors[u]} ({u})"
        )
        if st.form_submit_button("Name them", disabled=not others):
            for username in chosen:
                engine.assign_care(token, patient.patient_id, username)
            st.rerun()


def merge(token: str, patient: Patient) -> None:
    """Two records of one person become this one."""
    with (
        st.expander("Registered twice", icon=":material/merge:"),
        st.form(f"merge-{patient.patient_id}", border=False),
        widgets.banner(),
    ):
        st.write(
            f"Images, notes and history of the other record move to {widgets.plain(patient.id)};"
            " its number goes on naming this patient. **This cannot be undone.**"
        )
        duplicate = st.text_input("Number of the other record")
        reason = st.text_input("How do you know that it is the same person?")
        sure = st.checkbox("Name, age and number were compared with the person's papers")
        if st.form_submit_button("Merge the records"):
            if not sure:
                st.error("Tick the box first.", icon=":material/error:")
            else:
                state.engine().merge_patients(token, patient.patient_id, duplicate, reason)
                state.say("The records are one now.")
                st.rerun()


def record(token: str, patient: Patient) -> None:
    """The clinical note of a record, and what the record said before."""
    if patient.note:
        with st.container(border=True):
            st.caption("Note on the record")
            st.text(patient.note)
    if not state.engine().may(token, Permission.READ_HISTORY):
        return
    with st.expander("Earlier versions of the record", icon=":material/history:"):
        if not st.toggle("Show them", key=f"history-{patient.patient_id}"):
            return  # reading them is an entry in the log
        versions = state.engine().patient_history(token, patient.patient_id)
        st.dataframe(
            {
                "Until (UTC)": [v["changed_at"] for v in versions],
                "Changed by": [v["changed_by"] for v in versions],
                "Changed": [
                    "another record, merged" if v["merged"] else ", ".join(v["changed"])
                    for v in versions
                ],
                "Number": [v["id"] for v in versions],
                "Name": [v["name"] for v in versions],
                "Age": [v["age"] for v in versions],
                "Note": [v["note"] for v in versions],
            },
            hide_index=True,
        )

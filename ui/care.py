"""Care relations and emergency access (break-glass), as doctors and technicians see them."""

from __future__ import annotations

import streamlit as st

from engine import Patient, Permission
from ui import state, step_up, widgets


def open_emergencies(token: str) -> None:
    """This doctor's open emergency accesses, each with a button to end it."""
    engine = state.engine()
    if not engine.settings.care_relation or not engine.sessions.may(token, Permission.BREAK_GLASS):
        return
    for glass in engine.care.my_emergency_access(token):
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.warning(
                f"Emergency access to patient {widgets.plain(glass.number)} until"
                f" {widgets.when(glass.expires_at)}. Everything you do with this patient is logged"
                " as emergency access and will be reviewed.",
                icon=":material/emergency_home:",
            )
            if st.button("End access now", key=f"end-{glass.glass_id}"):
                engine.care.end_emergency_access(token, glass.glass_id)
                st.query_params.clear()
                state.say("Emergency access ended.")
                st.rerun()


def emergency_form(token: str, typed: str) -> None:
    """Request emergency access to a patient whom the doctor does not treat.

    Args:
        typed: The search text; the form starts with it.
    """
    engine = state.engine()
    if not engine.settings.care_relation or not engine.sessions.may(token, Permission.BREAK_GLASS):
        return
    with (
        st.expander("Emergency access to a patient you do not treat", icon=":material/emergency:"),
        st.form("glass", border=False),
        widgets.banner(),
        step_up.step_up_prompt(),
    ):
        st.write(
            "You see only the patients you treat. In an emergency you can open another patient for"
            " one hour. The access is logged immediately, shown to the administrator and reviewed."
        )
        number = st.text_input("Patient number", typed)
        reason = st.text_area(
            "Why do you need this patient now?",
            placeholder="e.g. unconscious in the emergency room, allergies unknown",
            key="glass-reason",
        )
        if st.form_submit_button("Emergency access (break-glass)", icon=":material/emergency:"):
            glass = engine.care.break_glass(token, number, reason)
            st.query_params["patient"] = glass.patient_id
            st.rerun()


def team(token: str, patient: Patient) -> None:
    """The doctors of this patient; technicians add them at admission, doctors add colleagues."""
    engine = state.engine()
    if not engine.settings.care_relation or not engine.sessions.may(token, Permission.ASSIGN_CARE):
        return
    doctors = {a.username: a.name for a in engine.care.doctors(token)}
    treating = [r.username for r in engine.care.team(token, patient.patient_id)]
    label = ", ".join(doctors.get(u, u) for u in treating) or "none yet"
    who = state.account()
    if who is not None and who.username in doctors and who.username not in treating:
        st.caption(
            f"Treating doctors: {widgets.plain(label)}"
        )  # emergency access does not allow adding doctors
        return
    with (
        st.expander(f"Treating doctors: {label}", icon=":material/stethoscope:"),
        st.form(f"care-{patient.patient_id}-{len(treating)}", border=False),
        widgets.banner(),
    ):
        if not treating:
            st.write("No doctor can see this patient until you add one here.")
        others = [u for u in doctors if u not in treating]
        chosen = st.multiselect(
            "Doctors to add", others, format_func=lambda u: f"{doctors[u]} ({u})"
        )
        if st.form_submit_button("Add doctors", disabled=not others):
            for username in chosen:
                engine.care.assign(token, patient.patient_id, username)
            st.rerun()


def merge(token: str, patient: Patient) -> None:
    """Merge a duplicate record of the same person into this one."""
    with (
        st.expander("Merge a duplicate record", icon=":material/merge:"),
        st.form(f"merge-{patient.patient_id}", border=False),
        widgets.banner(),
    ):
        st.write(
            f"Images, notes and history of the duplicate move to {widgets.plain(patient.id)}."
            " The duplicate's number then also finds this patient. **This cannot be undone.**"
        )
        duplicate = st.text_input("Patient number of the duplicate")
        reason = st.text_input("Why are these records of the same person?")
        sure = st.checkbox("I compared name, age and number with the person's documents")
        if st.form_submit_button("Merge records"):
            if not sure:
                st.error("Tick the box to confirm.", icon=":material/error:")
            else:
                state.engine().patients.merge(token, patient.patient_id, duplicate, reason)
                state.say("Records merged.")
                st.rerun()


def record(token: str, patient: Patient) -> None:
    """The clinical note of a patient record, and its earlier versions."""
    if patient.note:
        with st.container(border=True):
            st.caption("Note in the patient record")
            st.text(patient.note)
    if not state.engine().sessions.may(token, Permission.READ_HISTORY):
        return
    with st.expander("Earlier versions of the record", icon=":material/history:"):
        if not st.toggle("Show earlier versions", key=f"history-{patient.patient_id}"):
            return  # reading them is logged
        versions = state.engine().patients.history(token, patient.patient_id)
        st.dataframe(
            {
                **widgets.times("Until", [v["changed_at"] for v in versions]),
                "Changed by": [v["changed_by"] for v in versions],
                "Changed": [
                    "merged from another record" if v["merged"] else ", ".join(v["changed"])
                    for v in versions
                ],
                "Number": [v["id"] for v in versions],
                "Name": [v["name"] for v in versions],
                "Age": [v["age"] for v in versions],
                "Note": [v["note"] for v in versions],
            },
            hide_index=True,
        )

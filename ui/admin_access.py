"""The administrator's tab of access: emergencies to review, who treats whom, classes granted apart.

Patients are numbers here, nothing else.
"""

from __future__ import annotations

import streamlit as st

from engine import BrokenGlass, Role, Verdict
from ui import state, widgets


def access(token: str) -> None:
    """Emergency access, care relations, classes."""
    on = state.engine().settings.care_relation
    if not on:
        st.info(
            "Every doctor sees every patient. Set `MEDSEC_CARE_RELATION=true` to limit doctors to"
            " the patients they treat; name them below before you do.",
            icon=":material/info:",
        )
    _glass(token)
    _relations(token)
    _classes(token)


# --- emergencies ------------------------------------------------------------------------------


def _glass(token: str) -> None:
    every = state.engine().glass(token)
    st.header(f"Emergency access: {sum(g.due for g in every)} to review")
    for glass in every:
        if glass.open or glass.due:
            with st.container(border=True), widgets.banner():
                _told(glass)
                _done(token, glass)
                if glass.open:
                    if st.button("End it now", key=f"revoke-{glass.glass_id}"):
                        state.engine().revoke_glass(token, glass.glass_id)
                        st.rerun()
                else:
                    _review(token, glass)
    past = [g for g in every if g.reviewed_at]
    if past:
        with st.expander(f"Reviewed: {len(past)}", icon=":material/fact_check:"):
            st.dataframe(
                {
                    "Doctor": [g.username for g in past],
                    "Patient": [g.number for g in past],
                    "From (UTC)": [g.opened_at for g in past],
                    "To (UTC)": [g.ended_at for g in past],
                    "Reason": [g.reason for g in past],
                    "Verdict": [str(g.verdict) for g in past],
                    "Remark": [g.remark for g in past],
                    "Reviewed by": [g.reviewed_by for g in past],
                },
                hide_index=True,
            )


def _told(glass: BrokenGlass) -> None:
    until = (
        f"open until {glass.expires_at:%H:%M} UTC"
        if glass.open
        else f"ended {widgets.when(glass.ended_at)} UTC"
        + (f" by {widgets.plain(glass.ended_by)}" if glass.ended_by else " by time")
    )
    st.markdown(
        f"**{widgets.plain(glass.username)}** opened patient **{widgets.plain(glass.number)}** on"
        f" {widgets.when(glass.opened_at)} UTC, {until}"
    )
    st.text(glass.reason)


def _done(token: str, glass: BrokenGlass) -> None:
    entries = state.engine().glass_entries(token, glass.glass_id)
    with st.expander(f"What was done: {len(entries)} entries", icon=":material/history:"):
        widgets.history(entries)


def _review(token: str, glass: BrokenGlass) -> None:
    with st.form(f"review-{glass.glass_id}", border=False):
        verdict = st.radio("Verdict", list(Verdict), format_func=str, horizontal=True, index=None)
        remark = st.text_input("Remark", placeholder="Whom you asked, and what follows")
        if st.form_submit_button("Record the review", type="primary"):
            if verdict is None:
                st.error("Choose a verdict.", icon=":material/error:")
            else:
                state.engine().review_glass(token, glass.glass_id, verdict, remark)
                state.say("The review is recorded.")
                st.rerun()


# --- care relations ---------------------------------------------------------------------------


def _relations(token: str) -> None:
    engine = state.engine()
    relations = engine.care_relations(token)
    st.header(f"Who treats whom: {len(relations)}")
    st.caption(
        "Technicians name the doctors at admission, and doctors bring in colleagues; here you mend"
        " what went wrong."
    )
    st.dataframe(
        {
            "Patient": [r.number for r in relations],
            "Doctor": [r.username for r in relations],
            "Since (UTC)": [r.since for r in relations],
            "Named by": [r.assigned_by for r in relations],
        },
        hide_index=True,
    )
    doctors = [a.username for a in engine.doctors(token)]
    with st.form("care", width=440), widgets.banner():
        number = st.text_input("Patient number", key="care-number")
        username = st.selectbox("Doctor", doctors, key="care-doctor")
        ends = st.checkbox("This doctor no longer treats the patient")
        if st.form_submit_button("Record it", disabled=not doctors):
            if ends:
                engine.end_care(token, number, username)
            else:
                engine.assign_care(token, number, username)
            state.say("It is recorded and counts at once.")
            st.rerun()


# --- classes ----------------------------------------------------------------------------------


def _classes(token: str) -> None:
    engine = state.engine()
    st.header("Classes granted apart")
    st.write(
        "A doctor may restore every class. Narrowed to some, they see those, the rest stays sealed,"
        " and the original file, its name and its numbers are not theirs."
    )
    narrowed = engine.restorable_classes(token)
    doctors = [a.username for a in engine.accounts(token) if a.role is Role.DOCTOR]
    known = sorted({c for p in engine.profiles().values() for c in p.classes})
    if narrowed:
        widgets.facts([(u, ", ".join(sorted(c)) or "nothing") for u, c in narrowed.items()])
    if not doctors:
        return
    username = st.selectbox("Account", doctors, key="classes-account")
    with st.form(f"classes-{username}", width=440), widgets.banner():
        every = st.checkbox("Every class, also those to come", value=username not in narrowed)
        labels = st.multiselect(
            "Or only these", known, default=sorted(narrowed.get(username, frozenset()) & set(known))
        )
        if st.form_submit_button("Grant"):
            engine.set_restorable_classes(token, username, None if every else labels)
            state.say("It counts at once; what was open beyond it is closed.")
            st.rerun()

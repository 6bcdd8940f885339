"""The Access tab: emergency access to review, care relations, restorable classes per account.

It shows patient numbers only, no other patient data.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode

import streamlit as st

from engine import REPORT_COLUMNS, EmergencyAccess, Role, Verdict
from ui import state, widgets


def access(token: str) -> None:
    """Emergency access, care relations, restorable classes."""
    on = state.engine().settings.care_relation
    if not on:
        st.info(
            "Every doctor sees every patient. Set `MEDSEC_CARE_RELATION=true` to limit doctors to"
            " the patients they treat. Add the doctors of each patient below first.",
            icon=":material/info:",
        )
    _glass(token)
    _relations(token)
    _classes(token)
    _report(token)


# --- emergencies ------------------------------------------------------------------------------


def _glass(token: str) -> None:
    every = state.engine().care.emergency_access(token)
    st.header(f"Emergency access: {sum(g.due for g in every)} to review")
    for glass in every:
        if glass.open or glass.due:
            with st.container(border=True), widgets.banner():
                _told(glass)
                _done(token, glass)
                if glass.open:
                    whose = f"of {glass.username} to {glass.number}"
                    if widgets.button_for("End access now", whose, f"revoke-{glass.glass_id}"):
                        state.engine().care.revoke_emergency_access(token, glass.glass_id)
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
                    **widgets.times("From", [g.opened_at for g in past]),
                    **widgets.times("To", [g.ended_at for g in past]),
                    "Reason": [g.reason for g in past],
                    "Verdict": [str(g.verdict) for g in past],
                    "Remark": [g.remark for g in past],
                    "Reviewed by": [g.reviewed_by for g in past],
                },
                hide_index=True,
            )


def _told(glass: EmergencyAccess) -> None:
    until = (
        f"open until {widgets.when(glass.expires_at)}"
        if glass.open
        else f"ended {widgets.when(glass.ended_at)}"
        + (f" by {widgets.plain(glass.ended_by)}" if glass.ended_by else " by timeout")
    )
    st.markdown(
        f"**{widgets.plain(glass.username)}** opened patient **{widgets.plain(glass.number)}** on"
        f" {widgets.when(glass.opened_at)}, {until}"
    )
    st.text(glass.reason)


def _done(token: str, glass: EmergencyAccess) -> None:
    entries = state.engine().care.emergency_access_entries(token, glass.glass_id)
    said = "1 entry" if len(entries) == 1 else f"{len(entries):,} entries"
    with st.expander(f"Activity: {said}", icon=":material/history:"):
        widgets.history(entries)


def _review(token: str, glass: EmergencyAccess) -> None:
    with st.form(f"review-{glass.glass_id}", border=False):
        verdict = st.radio("Verdict", list(Verdict), format_func=str, horizontal=True, index=None)
        remark = st.text_input("Remark", placeholder="Whom you asked, and what happens next")
        if st.form_submit_button("Record the review", type="primary"):
            if verdict is None:
                st.error("Choose a verdict first.", icon=":material/error:")
            else:
                state.engine().care.review_emergency_access(token, glass.glass_id, verdict, remark)
                state.say("Review recorded.")
                st.rerun()


# --- care relations ---------------------------------------------------------------------------


def _relations(token: str) -> None:
    engine = state.engine()
    relations = engine.care.relations(token)
    st.header(f"Care relations: {len(relations)}")
    st.caption(
        "Technicians add doctors at admission, and doctors add colleagues. Use this form to"
        " correct mistakes."
    )
    st.dataframe(
        {
            "Patient": [r.number for r in relations],
            "Doctor": [r.username for r in relations],
            **widgets.times("Since", [r.since for r in relations]),
            "Added by": [r.assigned_by for r in relations],
        },
        hide_index=True,
    )
    doctors = [a.username for a in engine.care.doctors(token)]
    with st.form("care", width=440), widgets.banner():
        number = st.text_input("Patient number", key="care-number")
        username = st.selectbox("Doctor", doctors, key="care-doctor")
        ends = st.checkbox("This doctor no longer treats the patient")
        if st.form_submit_button("Save", disabled=not doctors):
            if ends:
                engine.care.end(token, number, username)
            else:
                engine.care.assign(token, number, username)
            state.say("Saved. The change takes effect immediately.")
            st.rerun()


# --- classes ----------------------------------------------------------------------------------


def _classes(token: str) -> None:
    engine = state.engine()
    st.header("Restorable classes")
    st.write(
        "By default, a doctor can restore every class. An account limited to some classes sees only"
        " those restored. The rest stays sealed, and the original file, its name and its measured"
        " values are not available."
    )
    narrowed = engine.care.restorable_classes(token)
    doctors = [a.username for a in engine.people.accounts(token) if a.role is Role.DOCTOR]
    known = sorted({c for p in engine.profiles.by_name().values() for c in p.classes})
    if narrowed:
        widgets.facts([(u, ", ".join(sorted(c)) or "nothing") for u, c in narrowed.items()])
    if not doctors:
        return
    username = st.selectbox("Account", doctors, key="classes-account")
    with st.form(f"classes-{username}", width=440), widgets.banner():
        every = st.checkbox("All classes, including future ones", value=username not in narrowed)
        labels = st.multiselect(
            "Or only these classes",
            known,
            default=sorted(narrowed.get(username, frozenset()) & set(known)),
        )
        if st.form_submit_button("Save classes"):
            engine.care.set_restorable_classes(token, username, None if every else labels)
            state.say(
                "Saved. The change takes effect immediately; restorations beyond it are closed."
            )
            st.rerun()


# --- a patient's own question -----------------------------------------------------------------


def _report(token: str) -> None:
    """Who has seen my images: answered for one patient, with a file to hand over."""
    st.header("Who had access to a patient's data")
    st.caption(
        "For a patient who asks. The report says in plain words who did what and why, from the"
        " audit log; making it is in the log, too."
    )
    with st.form("access-report", width=440):
        number = st.text_input("Patient number", key="report-number").strip()
        asked = st.form_submit_button("Make the report", icon=":material/person_search:")
    if not (asked and number):
        return
    with widgets.banner():
        report = state.engine().audit.patient_report(token, number)
        zone = st.context.timezone or "UTC"
        if not report.lines:
            st.info("Nobody has done anything with this patient's data.", icon=":material/info:")
            return
        columns = zip(*report.table(zone), strict=True)
        names = (f"When ({zone})", *REPORT_COLUMNS[1:])
        st.dataframe(dict(zip(names, columns, strict=True)), hide_index=True)
        with st.container(horizontal=True):
            for form in ("pdf", "csv"):
                st.link_button(
                    f"Download as {form.upper()}",
                    f"/api/patients/{quote(number, safe='')}/access-report/"
                    f"?{urlencode({'format': form, 'zone': zone})}",
                    icon=":material/download:",
                )

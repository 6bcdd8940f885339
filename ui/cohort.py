"""Hand the images of a search over to another institution, with a signed statement."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from engine import (
    Cohort,
    CohortOrder,
    Found,
    ImageQuery,
    ImageState,
    Permission,
    SeriesPage,
)
from ui import state, widgets
from ui.step_up import step_up_prompt

_PAGE = 500


def hand_over(
    token: str, query: ImageQuery, patient_id: str | None, page: Found | SeriesPage
) -> None:
    """A form for all images that match, and what was prepared, to take away once."""
    if not state.engine().sessions.may(token, Permission.RELEASE_COHORT):
        return
    prepared: Cohort | None = state.recall("cohort")
    label = f"Hand these {page.total:,} images over" if page.total > 1 else "Hand this image over"
    if page.more:
        label = "Hand all these images over"
    with (
        st.expander(label, icon=":material/outbox:", key="hand-over"),
        widgets.banner(),
        step_up_prompt(),
    ):
        st.caption(
            "Masked images leave as a ZIP with a signed statement, which the receiver can check"
            " without MedSec. Every image that leaves is in the audit log."
        )
        profiles = state.engine().recipients.choices(token)
        with st.form("release", border=False):
            reason = st.text_input("What for, and to whom", placeholder="Trial 7, to Lyon")
            fresh = st.checkbox("New identifiers, so that nobody can join them with other images")
            packages = st.checkbox("With the sealed packages, which only MedSec here opens")
            chosen = st.selectbox(
                "De-identification",
                ["", *profiles],
                format_func=lambda name: (
                    f"{name}: {profiles[name].description}" if name else "Masked files as they are"
                ),
                help="A profile makes copies for the recipient from the sealed headers.",
            )
            recipient = st.text_input(
                "Recipient of copies",
                help="The same name gets the same pseudonyms and shifted dates again.",
            )
            listed = st.file_uploader(
                "Pseudonyms for this recipient (CSV: number, pseudonym)", type=["csv"]
            )
            asked = st.form_submit_button("Prepare", type="primary")
        if asked:
            if listed is not None:
                text = listed.getvalue().decode("utf-8-sig", "replace")
                state.engine().recipients.save_pseudonyms(token, recipient, text)
            found = _matching(token, query, patient_id)
            order = CohortOrder((), found, reason, fresh, packages, chosen, recipient)
            prepared = state.engine().cohorts.prepare(token, order)
            state.keep("cohort", prepared)
        if prepared is not None:
            _take_away(prepared)


def _take_away(prepared: Cohort) -> None:
    images, patients = len(prepared.files), prepared.patients
    st.success(
        f"{images:,} image{'s' * (images > 1)} of {patients:,} patient{'s' * (patients > 1)} can be"
        " downloaded once, within 30 minutes. Tell the receiver this fingerprint by another way:",
        icon=":material/check:",
    )
    st.code(prepared.fingerprint, language=None)
    st.link_button(
        "Download the ZIP",
        f"/api/cohorts/{prepared.release_id}/file/",
        icon=":material/download:",
    )


def _matching(token: str, query: ImageQuery, patient_id: str | None) -> list[str]:
    """Ids of all sealed images that match, not only of this page."""
    wanted = replace(query, states=(ImageState.RELEASED,))
    found: list[str] = []
    while True:
        page = state.engine().search.images(token, wanted, _PAGE, len(found), patient_id)
        found += [image.image_id for image in page.images]
        if not page.images or len(found) >= page.total:
            return found

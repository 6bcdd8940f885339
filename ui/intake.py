"""Studies that come in whole: where they are dropped, and how far they are on every page."""

from __future__ import annotations

import streamlit as st

import api
from engine import Patient
from ui import patient_picker, queue, state, widgets


def zone(patient: Patient | None) -> None:
    """Where studies are dropped.

    Args:
        patient: Chosen below, for files that do not say whose they are.
    """
    settings = state.engine().settings
    profiles = state.engine().profiles.by_name()
    widgets.intake(
        {
            "profiles": [[name, profile.title] for name, profile in profiles.items()],
            "profile": settings.profile,
            "offers_seal": settings.auto_seal,
            "patient": None
            if patient is None
            else {"id": patient.patient_id, "title": patient_picker.title(patient)},
        }
    )


def line(refresh: bool) -> None:
    """How far one's uploads are, and what is sealed beside the page, in the sidebar.

    Args:
        refresh: Run the page anew once nothing is being sealed any more.
    """
    account = state.engine().sessions.whoami(state.token()).username
    at_work = len(api.seals().at_work(account))
    with st.sidebar:
        opened = widgets.intake_line({"sealing": at_work, "refresh": refresh})
    if opened:
        queue.open_draft(opened)
        st.switch_page("pages/1_Upload.py")

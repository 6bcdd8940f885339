"""Studies that come in whole: where they are dropped, and how far they are on every page."""

from __future__ import annotations

import streamlit as st

from engine import Patient
from ui import patient_picker, state, widgets


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


def line() -> None:
    """How far one's uploads are, in the sidebar."""
    with st.sidebar:
        widgets.intake_line()

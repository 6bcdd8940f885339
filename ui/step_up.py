"""Asking again who somebody is, before something is decrypted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from engine import errors
from ui import state, widgets


@contextmanager
def asked_again() -> Iterator[None]:
    """Turn the engine's wish for a fresh proof into a prompt; the block can then be run again."""
    try:
        yield
    except errors.StepUpNeeded:
        _prompt()


@st.dialog("Is it still you?", icon=":material/lock:")
def _prompt() -> None:
    """Type the password, or a code of the second factor."""
    engine, token = state.engine(), state.token()
    with st.form("prove", border=False), widgets.banner():
        minutes = engine.settings.step_up_minutes
        st.write(f"Before an original is opened, you prove every {minutes:g} minutes who you are.")
        password = st.text_input("Password", type="password", autocomplete="current-password")
        code = ""
        if engine.second_factor(token).enabled_at is not None:
            code = st.text_input("or a code of your application", autocomplete="one-time-code")
        if st.form_submit_button("Go on", type="primary"):
            engine.prove(token, password, code)
            state.say("Thank you. Now ask for it once more.")
            st.rerun()

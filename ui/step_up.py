"""Step-up authentication: ask for password or code again before something is decrypted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from engine import errors
from ui import state, widgets


@contextmanager
def step_up_prompt() -> Iterator[None]:
    """Show a prompt if the engine requires re-authentication; the user then repeats the action."""
    try:
        yield
    except errors.StepUpNeeded:
        _prompt()


@st.dialog("Confirm your identity", icon=":material/lock:")
def _prompt() -> None:
    """Ask for the password, or a code of the second factor."""
    engine, token = state.engine(), state.token()
    with st.form("prove", border=False), widgets.banner():
        minutes = engine.settings.step_up_minutes
        st.write(f"Opening originals requires your password or a code every {minutes:g} minutes.")
        password = st.text_input("Password", type="password", autocomplete="current-password")
        code = ""
        if engine.account.second_factor(token).enabled_at is not None:
            code = st.text_input(
                "Or a code from your authenticator app", autocomplete="one-time-code"
            )
        if st.form_submit_button("Continue", type="primary"):
            engine.sessions.prove(token, password, code)
            state.say("Identity confirmed. Please repeat the action.")
            st.rerun()

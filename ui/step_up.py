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
    """Ask for the password, a passkey, or a code of the second factor."""
    engine, token = state.engine(), state.token()
    factor = engine.account.second_factor(token)
    if factor.passkeys and factor.passkeys_offered:
        options = state.recall("prove-passkey") or engine.sessions.ask_passkey(token)
        state.keep("prove-passkey", options)
        with widgets.banner():
            answer = widgets.passkey("Confirm with a passkey", options)
            if answer:
                state.take("prove-passkey")  # it is good for one answer
                state.prove(code=answer)
                _confirmed()
    with st.form("prove", border=False), widgets.banner():
        minutes = engine.settings.step_up_minutes
        st.write(f"Opening originals requires your password or a code every {minutes:g} minutes.")
        password = st.text_input("Password", type="password", autocomplete="current-password")
        code = ""
        if factor.has_app:
            code = st.text_input(
                "Or a code from your authenticator app", autocomplete="one-time-code"
            )
        if st.form_submit_button("Continue", type="primary"):
            state.prove(password, code)
            _confirmed()


def _confirmed() -> None:
    state.say("Identity confirmed. Please repeat the action.")
    st.rerun()

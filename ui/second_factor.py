"""The sign-in step that asks for a code of the second factor."""

from __future__ import annotations

import streamlit as st

from ui import state, widgets


def code_form() -> None:
    """Ask for a code after a correct password."""
    st.title("One more step")
    with st.form("second-step", width=440), widgets.banner():
        code = st.text_input(
            "Code from your authenticator app",
            autocomplete="one-time-code",
            help="Six digits that change every 30 seconds. If you have lost the device, enter one"
            " of your recovery codes instead.",
        )
        if st.form_submit_button("Sign in", type="primary"):
            state.finish_sign_in(code)
            st.rerun()
    if st.button("Start over"):
        state.give_up_sign_in()
        st.rerun()

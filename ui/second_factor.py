"""The sign-in step that asks for the second factor."""

from __future__ import annotations

import streamlit as st

from ui import state, widgets


def code_form() -> None:
    """Ask for a passkey or a code after a correct password."""
    st.title("One more step")
    options = state.passkey_options()
    if options:
        with widgets.banner():
            answer = widgets.passkey("Sign in with a passkey", options)
            if answer:
                state.finish_sign_in(answer)
                st.rerun()
    with st.form("second-step", width=440), widgets.banner():
        code = st.text_input(
            "Code from your authenticator app",
            autocomplete="one-time-code",
            help="Six digits that change every 30 seconds. If you have lost the device, enter one"
            " of your recovery codes instead."
            + (" Without an app, too, you can enter a recovery code here." if options else ""),
        )
        if st.form_submit_button("Sign in", type="primary"):
            state.finish_sign_in(code)
            st.rerun()
    if st.button("Start over"):
        state.give_up_sign_in()
        st.rerun()

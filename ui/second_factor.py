"""What the sign-in page shows besides its form: the code of the second factor, and the way to
ask for an account."""

from __future__ import annotations

import streamlit as st

from engine import ACCOUNT_ROLES
from ui import state, widgets


def code_form() -> None:
    """The second step of a sign-in whose password was right."""
    st.title("One more step")
    with st.form("second-step", width=440), widgets.banner():
        code = st.text_input(
            "Code of your authenticator application",
            autocomplete="one-time-code",
            help="Six digits that change every 30 seconds. If the device is lost, type one of"
            " your recovery codes instead.",
        )
        if st.form_submit_button("Sign in", type="primary"):
            state.finish_sign_in(code)
            st.rerun()
    if st.button("Begin again"):
        state.give_up_sign_in()
        st.rerun()


def request_form() -> None:
    """Ask for an account; an administrator decides."""
    asked = state.take("asked")
    if asked:
        st.success(
            f"If an administrator approves, you can sign in. Tell them this reference: **{asked}**",
            icon=":material/check:",
        )
    with (
        st.expander("Ask for an account", icon=":material/person_add:"),
        st.form(f"ask-{state.turn('ask')}", border=False),
        widgets.banner(),
    ):
        username = st.text_input("Name to sign in with", autocomplete="username")
        name = st.text_input("Your name", autocomplete="name")
        role = st.selectbox("Wished role", ACCOUNT_ROLES, format_func=str)
        password = st.text_input(
            "Password you will use", type="password", autocomplete="new-password",
            help=f"At least {state.engine().settings.password_min_length} characters;"
            " four unrelated words are fine.",
        )  # fmt: skip
        again = st.text_input("The same again", type="password", autocomplete="new-password")
        if st.form_submit_button("Ask"):
            if password != again:
                st.error("The two passwords differ.", icon=":material/error:")
            else:
                reference = state.engine().request_account(
                    username, name, role, password, state.origin()
                )
                state.keep("asked", reference)
                state.renew("ask")  # a password does not stay in a form
                st.rerun()

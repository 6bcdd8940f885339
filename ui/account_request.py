"""The form on the sign-in page that requests an account."""

from __future__ import annotations

import streamlit as st

from engine import ACCOUNT_ROLES
from ui import state, widgets


def form() -> None:
    """Request an account; an administrator approves or declines."""
    asked = state.take("asked")
    if asked:
        st.success(
            f"Request sent. Tell an administrator this reference: **{asked}**. You can sign in once"
            " they have approved it.",
            icon=":material/check:",
        )
    with (
        st.expander("Request an account", icon=":material/person_add:"),
        st.form(f"ask-{state.turn('ask')}", border=False),
        widgets.banner(),
    ):
        username = st.text_input("Sign-in name", autocomplete="username")
        name = st.text_input("Your name", autocomplete="name")
        role = st.selectbox("Requested role", ACCOUNT_ROLES, format_func=str)
        password = st.text_input(
            "Choose a password", type="password", autocomplete="new-password",
            help=f"At least {state.engine().settings.password_min_length} characters;"
            " four unrelated words work well.",
        )  # fmt: skip
        again = st.text_input("Repeat password", type="password", autocomplete="new-password")
        if st.form_submit_button("Send request"):
            if password != again:
                st.error(
                    "The two passwords differ. Type the same password twice.",
                    icon=":material/error:",
                )
            else:
                reference = state.engine().people.request(
                    username, name, role, password, state.origin()
                )
                state.keep("asked", reference)
                state.renew("ask")  # the form does not keep a password
                st.rerun()

"""My account: password, second factor, recovery codes and sessions of the signed-in user."""

from __future__ import annotations

import streamlit as st

from ui import own_factor, state, widgets


def page() -> None:
    """The account page; every role has it."""
    token = state.token()
    who = state.engine().sessions.whoami(token)
    st.title("My account")
    said = state.take("said")
    if said:
        st.success(said, icon=":material/check:")
    st.write(f"{widgets.plain(who.name)} ({widgets.plain(who.username)}), {who.role}")
    own_factor.show(token)
    left, right = st.columns(2, gap="large")
    with left:
        _password(token)
    with right:
        _sessions(token)


def _password(token: str) -> None:
    st.header("Password")
    with st.form(f"password-{state.turn('password')}"), widgets.banner():
        old = st.text_input("Current password", type="password", autocomplete="current-password")
        new = st.text_input("New password", type="password", autocomplete="new-password")
        again = st.text_input(
            "Repeat the new password", type="password", autocomplete="new-password"
        )
        if st.form_submit_button("Change the password"):
            if new != again:
                st.error(
                    "The two passwords differ. Type the same password twice.",
                    icon=":material/error:",
                )
                return
            state.engine().account.change_password(token, old, new)
            state.renew("password")  # the form does not keep it
            state.say("Password changed. Your other sessions have ended.")
            st.rerun()


# --- sessions ---------------------------------------------------------------------------------


def _sessions(token: str) -> None:
    st.header("Sessions")
    for session in state.engine().sessions.mine(token):
        with st.container(border=True):
            door = "Browser" if session.door == "browser" else f"Program ({session.door})"
            where = widgets.plain(f"{door} on {session.origin or 'this machine'}")
            where += " (this session)" if session.current else ""
            st.markdown(
                f"**{where}**  \nStarted {widgets.when(session.started_at)}, last seen"
                f" {widgets.when(session.seen_at)}"
            )
            began = f"started {widgets.when(session.started_at)}"
            if not session.current and widgets.button_for(
                "End session", began, f"end-{session.session_id}"
            ):
                with widgets.banner():
                    state.engine().sessions.end(token, session.session_id)
                    st.rerun()
    if st.button("End all sessions", icon=":material/logout:"):
        state.engine().sessions.sign_out_everywhere(token)
        widgets.end_session()
        state.forget()
        st.stop()

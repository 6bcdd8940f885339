"""My account: password, second factor, recovery codes and sessions of the signed-in user."""

from __future__ import annotations

from html import escape

import segno
import streamlit as st

from engine import Enrolment
from ui import state, widgets


def page() -> None:
    """The account page; every role has it."""
    token = state.token()
    who = state.engine().sessions.whoami(token)
    st.title("My account")
    said = state.take("said")
    if said:
        st.success(said, icon=":material/check:")
    st.write(f"{widgets.plain(who.name)} ({widgets.plain(who.username)}), {who.role}")
    _factor(token)
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


# --- second factor ----------------------------------------------------------------------------


def _factor(token: str) -> None:
    st.header("Second factor")
    now = state.engine().account.second_factor(token)
    codes = state.take("recovery")
    if codes:
        st.warning(
            "These are your recovery codes. Each code works once, in place of a code from your"
            " authenticator app. They are shown only now: print them or store them safely.",
            icon=":material/key:",
        )
        st.code("\n".join(codes), language=None)
    if now.enabled_at is not None:
        state.take("enrolment")
        st.write(
            f"On since {widgets.when(now.enabled_at)}. {now.codes_left} of 10 recovery codes"
            " are left."
        )
        with st.expander("Change the second factor", icon=":material/phonelink_setup:"):
            _renew(token)
            _remove(token, now.required)
        return
    if now.required:
        st.warning(
            "Your role requires a second factor. Set it up below to use MedSec.",
            icon=":material/phonelink_lock:",
        )
    enrolment = state.recall("enrolment")
    if enrolment is None:
        _begin(token)
    else:
        _confirm(token, enrolment)


def _begin(token: str) -> None:
    st.write(
        "With a second factor, you also enter a code from an authenticator app on your phone"
        " when you sign in. A stolen password alone is then not enough."
    )
    with st.form("factor-begin", width=440), widgets.banner():
        password = st.text_input("Your password", type="password", autocomplete="current-password")
        if st.form_submit_button("Set up a second factor", type="primary"):
            state.keep("enrolment", state.engine().account.begin_second_factor(token, password))
            st.rerun()


def _confirm(token: str, enrolment: Enrolment) -> None:
    st.write("1. Scan this code with the app, or enter the key below in the app.")
    picture = segno.make(enrolment.uri, error="m").svg_data_uri(scale=5, border=4, light="#fff")
    st.html(
        f'<img src="{escape(picture)}" width="240" height="240" alt="QR code of the key below">'
    )
    st.code(" ".join(enrolment.secret[i : i + 4] for i in range(0, 32, 4)), language=None)
    st.write("2. Enter the code that the app shows.")
    with st.form("factor-confirm", width=440), widgets.banner():
        code = st.text_input("Code", autocomplete="one-time-code")
        if st.form_submit_button("Turn on", type="primary"):
            codes = state.engine().account.confirm_second_factor(token, code)
            state.take("enrolment")
            state.keep("recovery", codes)
            state.say("Second factor turned on. Your other sessions have ended.")
            st.rerun()
    if st.button("Cancel"):
        state.take("enrolment")
        st.rerun()


def _renew(token: str) -> None:
    with st.form(f"renew-{state.turn('renew')}", width=440), widgets.banner():
        password = st.text_input("Your password", type="password", autocomplete="current-password")
        code = st.text_input("Code", autocomplete="one-time-code")
        if st.form_submit_button("Create new recovery codes"):
            state.keep(
                "recovery", state.engine().account.renew_recovery_codes(token, password, code)
            )
            state.renew("renew")
            st.rerun()


def _remove(token: str, required: bool) -> None:
    with st.form(f"remove-{state.turn('remove')}", width=440), widgets.banner():
        if required:
            st.caption("Your role requires a second factor: you must set up a new one to continue.")
        password = st.text_input(
            "Confirm with your password", type="password", autocomplete="current-password"
        )
        code = st.text_input("Code or recovery code", autocomplete="one-time-code")
        if st.form_submit_button("Turn off the second factor"):
            state.engine().account.remove_second_factor(token, password, code)
            state.renew("remove")
            state.say("Second factor turned off. Your other sessions have ended.")
            st.rerun()


# --- sessions ---------------------------------------------------------------------------------


def _sessions(token: str) -> None:
    st.header("Sessions")
    for session in state.engine().sessions.mine(token):
        with st.container(border=True):
            where = session.door + (" (this session)" if session.current else "")
            st.markdown(
                f"**{where}**  \nStarted {widgets.when(session.started_at)}, last seen"
                f" {widgets.when(session.seen_at)}"
            )
            if not session.current and st.button("End session", key=f"end-{session.session_id}"):
                with widgets.banner():
                    state.engine().sessions.end(token, session.session_id)
                    st.rerun()
    if st.button("End all sessions", icon=":material/logout:"):
        state.engine().sessions.sign_out_everywhere(token)
        widgets.end_session()
        state.forget()
        st.stop()

"""My account: password, second factor, recovery codes and sessions of whoever is signed in."""

from __future__ import annotations

from html import escape

import segno
import streamlit as st

from engine import Enrolment
from ui import state, widgets


def page() -> None:
    """The page that everybody has."""
    token = state.token()
    who = state.engine().whoami(token)
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
        old = st.text_input("Present password", type="password", autocomplete="current-password")
        new = st.text_input("New password", type="password", autocomplete="new-password")
        again = st.text_input("New password again", type="password", autocomplete="new-password")
        if st.form_submit_button("Change the password"):
            if new != again:
                st.error("The two passwords differ.", icon=":material/error:")
                return
            state.engine().change_password(token, old, new)
            state.renew("password")  # it does not stay in a form
            state.say("The password was changed. Your other sessions have ended.")
            st.rerun()


# --- second factor ----------------------------------------------------------------------------


def _factor(token: str) -> None:
    st.header("Second factor")
    now = state.engine().second_factor(token)
    codes = state.take("recovery")
    if codes:
        st.warning(
            "Your recovery codes. Each opens your account once if the device is lost. They are"
            " shown now and never again: print them or put them into a safe place.",
            icon=":material/key:",
        )
        st.code("\n".join(codes), language=None)
    if now.enabled_at is not None:
        state.take("enrolment")
        st.write(
            f"On since {widgets.when(now.enabled_at)} UTC. {now.codes_left} of 10 recovery codes"
            " are left."
        )
        with st.expander("Change the second factor", icon=":material/phonelink_setup:"):
            _renew(token)
            _remove(token, now.required)
        return
    if now.required:
        st.warning(
            "Your role needs a second factor. Nothing else can be done until it is set up.",
            icon=":material/phonelink_lock:",
        )
    enrolment = state.recall("enrolment")
    if enrolment is None:
        _begin(token)
    else:
        _confirm(token, enrolment)


def _begin(token: str) -> None:
    st.write(
        "A code from an authenticator application on your phone, asked for after the password:"
        " a stolen password alone then opens nothing."
    )
    with st.form("factor-begin", width=440), widgets.banner():
        password = st.text_input("Your password", type="password", autocomplete="current-password")
        if st.form_submit_button("Set up a second factor", type="primary"):
            state.keep("enrolment", state.engine().begin_second_factor(token, password))
            st.rerun()


def _confirm(token: str, enrolment: Enrolment) -> None:
    st.write("1. Scan this with the application, or type the key below into it.")
    picture = segno.make(enrolment.uri, error="m").svg_data_uri(scale=5, border=4, light="#fff")
    st.html(
        f'<img src="{escape(picture)}" width="240" height="240" alt="QR code of the key below">'
    )
    st.code(" ".join(enrolment.secret[i : i + 4] for i in range(0, 32, 4)), language=None)
    st.write("2. Type the code that it shows.")
    with st.form("factor-confirm", width=440), widgets.banner():
        code = st.text_input("Code", autocomplete="one-time-code")
        if st.form_submit_button("Turn it on", type="primary"):
            codes = state.engine().confirm_second_factor(token, code)
            state.take("enrolment")
            state.keep("recovery", codes)
            state.say("The second factor is on. Your other sessions have ended.")
            st.rerun()
    if st.button("Not now"):
        state.take("enrolment")
        st.rerun()


def _renew(token: str) -> None:
    with st.form(f"renew-{state.turn('renew')}", width=440), widgets.banner():
        password = st.text_input("Your password", type="password", autocomplete="current-password")
        code = st.text_input("Code", autocomplete="one-time-code")
        if st.form_submit_button("New recovery codes"):
            state.keep("recovery", state.engine().renew_recovery_codes(token, password, code))
            state.renew("renew")
            st.rerun()


def _remove(token: str, required: bool) -> None:
    with st.form(f"remove-{state.turn('remove')}", width=440), widgets.banner():
        if required:
            st.caption("Your role needs one: nothing else can be done until a new one is set up.")
        password = st.text_input(
            "Your password once more", type="password", autocomplete="current-password"
        )
        code = st.text_input("A code, or a recovery code", autocomplete="one-time-code")
        if st.form_submit_button("Turn the second factor off"):
            state.engine().remove_second_factor(token, password, code)
            state.renew("remove")
            state.say("The second factor is off. Your other sessions have ended.")
            st.rerun()


# --- sessions ---------------------------------------------------------------------------------


def _sessions(token: str) -> None:
    st.header("Sessions")
    for session in state.engine().sessions(token):
        with st.container(border=True):
            where = session.door + (", this one" if session.current else "")
            st.markdown(
                f"**{where}**  \nstarted {widgets.when(session.started_at)}, last seen"
                f" {widgets.when(session.seen_at)} UTC"
            )
            if not session.current and st.button("End it", key=f"end-{session.session_id}"):
                with widgets.banner():
                    state.engine().end_session(token, session.session_id)
                    st.rerun()
    if st.button("End every session", icon=":material/logout:"):
        state.engine().sign_out_everywhere(token)
        widgets.end_session()
        state.forget()
        st.stop()

"""My account: the second factor, with an authenticator app, passkeys and recovery codes."""

from __future__ import annotations

from html import escape

import segno
import streamlit as st

from engine import Enrolment, Passkey, SecondFactor
from ui import state, widgets


def show(token: str) -> None:
    """The part of the account page on the second factor."""
    st.header("Second factor")
    now = state.engine().account.second_factor(token)
    codes = state.take("recovery")
    if codes:
        st.warning(
            "These are your recovery codes. Each code works once, in place of a code from your"
            " authenticator app or of a passkey. They are shown only now: print them or store them"
            " safely.",
            icon=":material/key:",
        )
        st.code("\n".join(codes), language=None)
    if now.enabled_at is not None:
        st.write(
            f"On since {widgets.when(now.enabled_at)}. {now.codes_left} of 10 recovery codes"
            " are left."
        )
    elif now.required:
        st.warning(
            "Your role requires a second factor. Set it up below to use MedSec.",
            icon=":material/phonelink_lock:",
        )
    else:
        st.write(
            "With a second factor, a stolen password alone opens nothing: you also enter a code"
            " from an app on your phone when you sign in, or answer with a passkey."
        )
    left, right = st.columns(2, gap="large")
    with left:
        _app(token, now)
    with right:
        if now.passkeys_offered or now.passkeys:
            _passkeys(token, now)
    if now.enabled_at is not None:
        with st.expander("Change the second factor", icon=":material/phonelink_setup:"):
            _prove(token, now)
            _renew(token)
            if now.passkeys:
                _remove_passkey(token, now.passkeys)
            _remove(token, now.required)


# --- authenticator app ------------------------------------------------------------------------


def _app(token: str, now: SecondFactor) -> None:
    st.subheader("Authenticator app")
    if now.has_app:
        state.take("enrolment")
        st.write("Set up.")
        return
    enrolment = state.recall("enrolment")
    if enrolment is None:
        _begin(token)
    else:
        _confirm(token, enrolment)


def _begin(token: str) -> None:
    with st.form("factor-begin", width=440), widgets.banner():
        password = st.text_input("Your password", type="password", autocomplete="current-password")
        if st.form_submit_button("Set up an app", type="primary"):
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


# --- passkeys ---------------------------------------------------------------------------------


def _passkeys(token: str, now: SecondFactor) -> None:
    st.subheader("Passkeys")
    for passkey in now.passkeys:
        _passkey(passkey)
    if not now.passkeys_offered:
        return
    waiting = state.recall("passkey-new")
    if waiting is None:
        _begin_passkey(token)
        return
    name, options = waiting
    with widgets.banner():
        answer = widgets.passkey("Continue with your device", options)
        if answer:
            state.take("passkey-new")
            state.keep("recovery", state.engine().account.confirm_passkey(token, answer, name))
            state.say("Passkey added. Your other sessions have ended.")
            st.rerun()
    if st.button("Cancel", key="passkey-cancel"):
        state.take("passkey-new")
        st.rerun()


def _passkey(passkey: Passkey) -> None:
    used = "not used yet" if passkey.used_at is None else f"used {widgets.when(passkey.used_at)}"
    with st.container(border=True):
        st.markdown(
            f"**{widgets.plain(passkey.name)}**  \nAdded {widgets.when(passkey.added_at)}, {used}"
        )


def _begin_passkey(token: str) -> None:
    with st.form(f"passkey-{state.turn('passkey')}", width=440), widgets.banner():
        name = st.text_input("Name of the device", placeholder="Blue key, my laptop")
        password = st.text_input("Your password", type="password", autocomplete="current-password")
        if st.form_submit_button("Add a passkey", type="primary"):
            options = state.engine().account.begin_passkey(token, password)
            state.keep("passkey-new", (name, options))
            state.renew("passkey")
            st.rerun()


# --- changing what is there -------------------------------------------------------------------


def _prove(token: str, now: SecondFactor) -> None:
    """A passkey's answer, kept for the next change, which asks for no code then."""
    if not (now.passkeys and now.passkeys_offered):
        return
    if state.recall("proof"):
        st.caption("Your passkey has answered. Leave the code below empty.")
        return
    options = state.recall("prove-passkey") or state.engine().sessions.ask_passkey(token)
    state.keep("prove-passkey", options)
    answer = widgets.passkey("Use a passkey instead of a code", options)
    if answer:
        state.take("prove-passkey")
        state.keep("proof", answer)
        st.rerun()


def _proof(code: str) -> str:
    """The code that was typed, or a passkey's answer, which is good once."""
    return code or state.take("proof", "")


def _remove_passkey(token: str, passkeys: tuple[Passkey, ...]) -> None:
    with st.form(f"forget-{state.turn('forget')}", width=440), widgets.banner():
        names = {passkey.credential_id: passkey.name for passkey in passkeys}
        gone = st.selectbox("Passkey", list(names), format_func=lambda key: names[key])
        password = st.text_input("Your password", type="password", autocomplete="current-password")
        code = st.text_input("Code or recovery code", autocomplete="one-time-code")
        if st.form_submit_button("Remove the passkey"):
            state.engine().account.remove_passkey(token, gone, password, _proof(code))
            state.renew("forget")
            state.say("Passkey removed. Your other sessions have ended.")
            st.rerun()


def _renew(token: str) -> None:
    with st.form(f"renew-{state.turn('renew')}", width=440), widgets.banner():
        password = st.text_input("Your password", type="password", autocomplete="current-password")
        code = st.text_input("Code", autocomplete="one-time-code")
        if st.form_submit_button("Create new recovery codes"):
            state.keep(
                "recovery",
                state.engine().account.renew_recovery_codes(token, password, _proof(code)),
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
            state.engine().account.remove_second_factor(token, password, _proof(code))
            state.renew("remove")
            state.say("Second factor turned off. Your other sessions have ended.")
            st.rerun()

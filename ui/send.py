"""Send one image to another system of the network: masked, or its original under a reason."""

from __future__ import annotations

import streamlit as st

from engine import Permission
from ui import state, step_up, widgets


def send(token: str, image_id: str) -> None:
    """A form for those who may take masked files away; the original for those who may restore."""
    engine = state.engine()
    if not engine.sessions.may(token, Permission.EXPORT):
        return
    destinations = engine.sendings.destinations(token)
    if not destinations:
        return
    may_restore = engine.sessions.may(token, Permission.RESTORE)
    with st.expander("Send to another system"):
        to = st.selectbox("System", list(destinations), key=f"send-to-{image_id}")
        with widgets.banner():
            if st.button("Send the masked image", key=f"send-{image_id}"):
                engine.sendings.forward(token, image_id, to)
                _done()
        if may_restore and destinations[to]:
            with (
                st.form(f"send-original-{image_id}", border=False),
                widgets.banner(),
                step_up.step_up_prompt(),
            ):
                reason = st.text_input(
                    "Why does this system need the original?",
                    help="Logged with your name before anything is decrypted.",
                )
                if st.form_submit_button("Send the original"):
                    engine.sendings.send_original(token, image_id, to, reason)
                    _done()


def _done() -> None:
    state.say("Queued. Administrators see on Admin, tab Network, when it was sent.")
    st.rerun()

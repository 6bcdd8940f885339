"""Changes that a second administrator has to confirm: one card for each."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from engine import Proposal
from ui import state, widgets


def card(
    proposal: Proposal,
    wanted: str,
    done: str,
    dropped: str,
    confirm: Callable[[str, str], object],
    drop: Callable[[str], object],
) -> None:
    """What somebody wants, with a way to confirm it and one to drop it.

    Args:
        wanted: What follows "wants to", as Markdown.
        done: Said after it was confirmed.
        dropped: Said after it was dropped.
        confirm: Called with the proposal's id and the code that was typed, if one is asked for.
        drop: Called with its id.
    """
    key = proposal.proposal_id
    with st.container(border=True), widgets.banner():
        st.markdown(
            f"**{widgets.plain(proposal.proposed_by)}** wants to {wanted}  \n"
            f"Until {widgets.when(proposal.expires_at)}"
        )
        code = ""
        if proposal.by_console:
            code = st.text_input("Code on the server's console", key=f"code-{key}")
        with st.container(horizontal=True):
            if st.button("Confirm", key=f"confirm-{key}"):
                confirm(key, code)
                state.say(done)
                st.rerun()
            if st.button("Drop", key=f"drop-{key}"):
                drop(key)
                state.say(dropped)
                st.rerun()

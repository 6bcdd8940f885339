"""Changes that a second administrator has to confirm: one card for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st

from engine import Proposal, errors
from ui import state, widgets


@contextmanager
def shown() -> Iterator[None]:
    """Where a change waits for a second administrator, draw the page anew: its card is there."""
    try:
        yield
    except errors.ConfirmationNeeded as err:
        for form in ("account", "reset"):
            state.renew(form)  # they do not keep a password
        state.say(err.message)
        st.rerun()


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
    what = wanted.replace("*", "").replace("\\", "")
    with st.container(border=True), widgets.banner():
        st.markdown(
            f"**{widgets.plain(proposal.proposed_by)}** wants to {wanted}  \n"
            f"Until {widgets.when(proposal.expires_at)}"
        )
        code = ""
        if proposal.by_console:
            code = st.text_input("Code on the server's console", key=f"code-{key}")
        with st.container(horizontal=True):
            if widgets.button_for("Confirm", what, f"confirm-{key}"):
                confirm(key, code)
                state.say(done)
                st.rerun()
            if widgets.button_for("Drop", what, f"drop-{key}"):
                drop(key)
                state.say(dropped)
                st.rerun()

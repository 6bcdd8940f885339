"""The queue of drafts waiting to be sealed; drafts that need review come first."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from engine import REASONS, ImageRecord
from ui import search, state, widgets


def open_draft(image_id: str) -> None:
    """Open a draft in a fresh editor."""
    state.take("sealed")
    state.take("boxes")
    state.renew("editor")
    state.keep("draft", image_id)


def queue(token: str, drafts: Sequence[ImageRecord]) -> None:
    """Show the drafts with a button to open each; show more on request."""
    shown = drafts[: state.recall("shown", 10)]
    names = search.names(token, [d.patient_id for d in shown])
    for draft in shown:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            why = " ".join(REASONS.get(r, r) for r in draft.reasons)
            boxes = "box" if draft.region_count == 1 else "boxes"
            st.markdown(
                f"**{widgets.plain(names.get(draft.patient_id, ''))}**"
                f" · {draft.modality or draft.format} {draft.width}×{draft.height}"
                f" · {draft.region_count} {boxes} · {widgets.when(draft.uploaded_at)} UTC"
                + (f"  \n:material/visibility: {why}" if why else ""),
                width="stretch",
            )
            if st.button("Correct", key=f"open-{draft.image_id}"):
                open_draft(draft.image_id)
                st.rerun()
    if len(drafts) > state.recall("shown", 10) and st.button("Show more"):
        state.keep("shown", state.recall("shown", 10) + 20)
        st.rerun()

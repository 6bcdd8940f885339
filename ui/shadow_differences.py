"""Where a version in the shadow would do otherwise, as pictures, for those who may see drafts."""

from __future__ import annotations

import base64

import streamlit as st

from ui import queue, state, widgets

_MOST = 10


def differences(token: str) -> None:
    """Drafts with other boxes than the version in force has; nothing without a shadow."""
    found = state.engine().versions.differences(token, _MOST)
    if not found:
        return
    with st.expander(f"A learned version would do otherwise on {len(found)} drafts"):
        st.caption(
            f"{found[0].version} looks in the shadow and changes nothing. Blue: boxes that only"
            " it found. Yellow: boxes that only the version in force found."
        )
        for difference in found:
            record = difference.record
            with st.container(border=True), widgets.banner():
                words = (
                    "It failed on this image."
                    if difference.failed
                    else f"{len(difference.more)} more, {len(difference.fewer)} fewer"
                )
                st.markdown(
                    f"{record.modality or record.format} {record.width}×{record.height}"
                    f" · {widgets.when(record.uploaded_at)} · {words}"
                )
                if st.toggle("Show the picture", key=f"difference-{record.image_id}"):
                    seen = state.engine().versions.difference_picture(token, record.image_id)
                    address = f"data:image/png;base64,{base64.b64encode(seen).decode()}"
                    widgets.picture(address, "The draft with the boxes of both versions")
                if st.button("Correct", key=f"shadow-open-{record.image_id}"):
                    queue.open_draft(record.image_id)
                    st.rerun()

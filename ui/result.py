"""The result of sealing: the sealed image, the grid picture, and what to do next."""

from __future__ import annotations

import streamlit as st

from engine import errors
from ui import queue, state, widgets
from ui.patient_banner import patient_banner


def show_sealed(token: str, image_id: str) -> None:
    """Show the sealed image as every account with access sees it, the technician included."""
    try:
        record = state.engine().images.get(token, image_id)
    except errors.NotFound:
        state.take("sealed")
        raise
    patient_banner(state.engine().patients.get(token, record.patient_id))
    st.header("Sealed")
    sealed, grid = st.tabs(["Sealed image", "Grid picture"])
    with sealed:
        images = state.engine().images
        orientation = images.display(token, image_id).orientation
        view = widgets.sealed_view(record, images.regions(token, image_id), orientation)
        widgets.viewer(view, "sealed")
    with grid:
        widgets.picture(f"/api/images/{image_id}/grid", "Sealed image with numbered boxes")
    with st.container(horizontal=True):
        following = queue.next_after(token, record)
        if following and st.button("Next in the queue", type="primary"):
            queue.open_draft(following)
            st.rerun()
        st.link_button("Download sealed file", f"/api/images/{image_id}/file")
        if st.button("Back to the list"):
            state.take("sealed")
            state.take("outcomes")
            st.rerun()

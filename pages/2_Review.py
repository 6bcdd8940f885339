"""Review: find an image, view it sealed, restore it with a reason, compare, note, download."""

from __future__ import annotations

import streamlit as st

from engine import Permission
from ui import care, review, search, state

token = state.page("Review", Permission.VIEW_MASKED)
care.open_emergencies(token)

image_id = st.query_params.get("image")
if image_id:
    review.show(token, image_id)
else:
    chosen = search.search(token)
    if chosen:
        review.open_image(chosen)
        st.rerun()

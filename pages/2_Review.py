"""Find an image, look at its sealed form, restore it with a reason, compare, note, download."""

from __future__ import annotations

import streamlit as st

from engine import Permission
from ui import review, state

token = state.page("Review", Permission.VIEW_MASKED)

image_id = state.recall("image") or st.query_params.get("image")
if image_id:
    st.query_params["image"] = image_id
    review.show(token, image_id)
else:
    review.search(token)

"""Review: find an image, view it sealed, restore it with a reason, compare, note, download."""

from __future__ import annotations

import streamlit as st

from engine import Permission
from ui import care, review, search, state, study_page

token = state.page("Review", Permission.VIEW_MASKED)
care.open_emergencies(token)

image_id, study_id = st.query_params.get("image"), st.query_params.get("study")
if image_id:
    review.show(token, image_id)
elif study_id:
    study_page.show(token, study_id)
else:
    search.search(token)

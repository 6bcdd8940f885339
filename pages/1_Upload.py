"""Upload: drop studies, correct the boxes, seal."""

from __future__ import annotations

import streamlit as st

from engine import Permission
from ui import (
    box_editor,
    care,
    contact_sheet,
    held,
    intake,
    patient_picker,
    queue,
    result,
    shadow_differences,
    state,
    uploads,
    worklist,
)

token = state.page("Upload", Permission.UPLOAD)

if draft := queue.opened():
    box_editor.correct(token, draft)
elif state.recall("sheet"):
    contact_sheet.show(token)
elif done := state.recall("sealed"):
    result.show_sealed(token, done)
else:
    drop = st.container()
    patient = patient_picker.choose_patient(token)
    with drop:
        intake.zone(patient)
    if patient is None:
        uploads.watch_uploads()
    else:
        care.team(token, patient)
        care.merge(token, patient)
        uploads.upload_files(token, patient)
    uploads.outcomes(token)
    held.held(token)
    shadow_differences.differences(token)
    worklist.worklist(token)
    queue.sealed_beside(token)

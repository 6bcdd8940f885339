"""Upload: choose the patient, add files, correct the boxes, seal."""

from __future__ import annotations

import streamlit as st

from engine import ImageState, Permission
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
)

token = state.page("Upload", Permission.UPLOAD)

done = state.recall("sealed")
draft = queue.opened()
if draft:
    box_editor.correct(token, draft)
elif state.recall("sheet"):
    contact_sheet.show(token)
    st.stop()
elif done:
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
    queue.sealed_beside(token)

held.held(token)
shadow_differences.differences(token)
waiting = [d for d in state.engine().drafts.waiting(token) if d.image_id != draft]
look = [d for d in waiting if d.state is ImageState.REVIEW]
st.header(f"Waiting to be sealed: {len(waiting)}")
if waiting:
    st.caption(f"{len(look)} of them must be reviewed before they can be sealed.")
    contact_sheet.offer(token)
    queue.queue(token, look + [d for d in waiting if d.state is not ImageState.REVIEW])

"""Technician's day: choose the patient, drop files, correct what was found, seal."""

from __future__ import annotations

import streamlit as st

from engine import ImageState, Permission
from ui import care, correcting, intake, queue, sealed, state, whose

token = state.page("Upload", Permission.UPLOAD)

done = state.recall("sealed")
draft = state.recall("draft")
if draft:
    correcting.correct(token, draft)
elif done:
    sealed.show_sealed(token, done)
else:
    patient = whose.choose_patient(token)
    if patient is None:
        intake.watch_intake()
    else:
        care.team(token, patient)
        care.merge(token, patient)
        intake.take_in(token, patient)
    intake.outcomes(token)

waiting = [d for d in state.engine().drafts.waiting(token) if d.image_id != state.recall("draft")]
look = [d for d in waiting if d.state is ImageState.REVIEW]
st.header(f"Waiting to be sealed: {len(waiting)}")
if waiting:
    st.caption(f"{len(look)} of them need a person's look before they can be sealed.")
    queue.queue(token, look + [d for d in waiting if d.state is not ImageState.REVIEW])

"""The De-identification tab: profiles by which copies for recipients are made."""

from __future__ import annotations

import streamlit as st

from engine import DeidProfile
from ui import state, widgets

_NEW = "A new profile"
#: Options of PS3.15, with what they do.
OPTIONS = {
    "dates": "Keep dates, all of a patient shifted by the same days",
    "characteristics": "Keep age, sex, size, weight and the like",
    "device": "Keep what names the device",
    "descriptors": "Keep descriptions and comments, without the words that name somebody",
}


def deidentification(token: str) -> None:
    """All profiles, and a form to add, change or remove one of the hospital's own."""
    entries = state.engine().recipients.entries(token)
    st.caption(
        "Images that leave as copies for a recipient keep what a profile says, beyond the Basic"
        " Profile of DICOM (PS3.15 annex E). Whoever hands images over chooses one by its name."
    )
    st.dataframe(
        {
            "Profile": list(entries),
            "Description": [e.description for e in entries.values()],
            **{
                name.capitalize(): [getattr(e.options, name) for e in entries.values()]
                for name in OPTIONS
            },
            "Comes with MedSec": [not e.own for e in entries.values()],
            **widgets.times("Changed", [e.changed_at for e in entries.values()]),
            "Changed by": [e.changed_by for e in entries.values()],
        },
        hide_index=True,
    )
    own = [name for name, entry in entries.items() if entry.own]
    chosen = st.selectbox("Profile to change", [*own, _NEW])
    _edit(token, entries.get(chosen))


def _edit(token: str, entry: DeidProfile | None) -> None:
    engine = state.engine()
    turn = f"deidentification-{entry.name if entry else ''}-{state.turn('deidentification')}"
    with st.form(turn), widgets.banner():
        name = entry.name if entry else st.text_input("Name", placeholder="trial-7").strip()
        description = st.text_input("Description", entry.description if entry else "")
        options = {
            option: st.checkbox(label, bool(entry and getattr(entry.options, option)))
            for option, label in OPTIONS.items()
        }
        if st.form_submit_button("Save the profile", type="primary"):
            engine.recipients.save(token, name, description, options)
            _done("Profile saved. It counts for what is handed over from now on.")
    if entry:
        with widgets.banner():
            if st.button("Remove the profile", key=f"remove-{turn}"):
                engine.recipients.remove(token, entry.name)
                _done("Profile removed.")


def _done(sentence: str) -> None:
    state.renew("deidentification")
    state.say(sentence)
    st.rerun()

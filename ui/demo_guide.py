"""A three-minute tour of the demo for each role, shown in the sidebar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from engine import Role
from ui import state

STEPS: Mapping[Role, Sequence[str]] = {
    Role.TECHNICIAN: (
        "On **Home**, click *Work through the queue*. An image waits there for review.",
        "Check the boxes. Draw, move or remove one. To remove a box, give a reason.",
        "Choose the result of your check and click *Seal*. You then see the masked image only.",
        "On **Upload**, drop an image file: you see the progress, then the boxes.",
    ),
    Role.DOCTOR: (
        "On **Review**, search for *2042* and view the CT. Names are hidden, anatomy is not.",
        "Press *Restore: clinical reading*. Turn slices with the wheel, drag to set the window.",
        "Press *Compare* for two series side by side, *Measure* for a length, *?* for all keys.",
        "Press *Details* to read the proof, add a note, and see *What happened to this image*.",
    ),
    Role.RESEARCHER: (
        "On **Analytics**, read *Privacy*: is sealed data as unpredictable as random bytes?",
        "Under *Detection*, try another threshold and see what would be sealed.",
        "Under *Work*, click a bar to filter all charts. Groups of fewer than five patients are"
        " hidden.",
        "Download the tables as CSV or Parquet.",
    ),
    Role.ADMINISTRATOR: (
        "On **Admin**, open *Audit log* and verify the chain. It has every action of every user.",
        "Under *Settings*, change how long a restoration stays open; see the history of changes.",
        "Under *Keys and backups*, add a root key and watch all keys being re-wrapped.",
        "Look for patient images or names: your pages have none.",
    ),
}


def _article(role: Role) -> str:
    return "an" if role[0] in "aeiou" else "a"


def show(role: Role) -> None:
    """Show the steps of this role in the sidebar; only in a demo."""
    if not state.engine().settings.demo or role not in STEPS:
        return
    with (
        st.sidebar,
        st.expander(f"Three minutes as {_article(role)} {role}", icon=":material/flag:"),
    ):
        st.markdown("\n".join(f"{n}. {step}" for n, step in enumerate(STEPS[role], 1)))
        st.caption("To reset the demo, run `make run DEMO=1 RESET=1`.")

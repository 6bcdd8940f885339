"""The demo's way through: for each role what to do in three minutes, beside every page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from engine import Role
from ui import state

STEPS: Mapping[Role, Sequence[str]] = {
    Role.TECHNICIAN: (
        "On **Home**, press *Work through the queue*: an image waits because MedSec is in doubt.",
        "Look at the boxes. Draw, move or remove one; removing asks for a reason.",
        "Say what you decided and press *Seal*. From now on you see the masked image only.",
        "Drop a picture of your own on **Upload**: its stages, then its boxes appear.",
    ),
    Role.DOCTOR: (
        "On **Review**, find *Musterfrau* and open an image. Names are hidden, anatomy is not.",
        "Type why you need the original and press *Restore the original*.",
        "Pull the slider; press a number in the table to go to its box; measure on a DICOM.",
        "Read the proof above the picture, add a note, open *What happened to this image*.",
    ),
    Role.RESEARCHER: (
        "On **Analytics**, read *Privacy*: is sealed data as unpredictable as random bytes?",
        "Under *Detection*, try another threshold and see what would be sealed.",
        "Press a bar under *Work*: every chart follows. Numbers of under five patients are not"
        " here.",
        "Take the tables away as CSV or Parquet.",
    ),
    Role.ADMINISTRATOR: (
        "On **Admin**, open *Audit log* and verify the chain: every step of the others is there.",
        "Under *Settings*, change how long a restoration stays open; see who changed what.",
        "Under *Keys and backups*, add a root key and watch every key being wrapped anew.",
        "Look for a patient's picture or name: there is none on your pages.",
    ),
}


def show(role: Role) -> None:
    """The steps of this role, in the sidebar of a demo."""
    if not state.engine().settings.demo or role not in STEPS:
        return
    with st.sidebar, st.expander("Three minutes as a " + role, icon=":material/flag:"):
        st.markdown("\n".join(f"{n}. {step}" for n, step in enumerate(STEPS[role], 1)))
        st.caption("To begin the demo anew: `make run DEMO=1 RESET=1`.")

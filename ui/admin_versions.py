"""Learned versions of MedSec's network: cards, the shadow, promotion and roll-back.

Administrators see figures and counts. Pictures of where two versions differ are shown to those who
may see the drafts (``shadow_differences``).
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from engine import VersionEntry
from ui import proposals, state, widgets

_STATES = {
    "in force": "in force",
    "shadow": "in the shadow",
    "candidate": "candidate",
    "replaced": "replaced",
}
#: Figures of a card that are shown beside those of the version before it.
_SHOWN = (
    "text: covered to 80%", "text: covered to 95%", "patient data: covered to 80%",
    "patient data: covered to 95%", "text: precision (IoU 0.5)", "barcode: covered to 80%",
    "falsely masked area, mean share", "text-free pictures with a text mask",
)  # fmt: skip


def versions(token: str) -> None:
    """Every version of MedSec's own network, and what can be done with it."""
    st.header("Learned versions")
    entries = state.engine().versions.entries(token)
    st.dataframe(
        {
            "Version": [e.name for e in entries],
            "State": [_STATES[e.state] for e in entries],
            "Learned from": [e.card.base if e.card else "" for e in entries],
            "Taken in": [widgets.when(e.taken_at) if e.taken_at else "shipped" for e in entries],
            "By": [e.taken_by for e in entries],
            "Images sealed after it looked": [e.images for e in entries],
            "SHA-256": [e.card.sha256 if e.card else "" for e in entries],
        },
        hide_index=True,
    )
    _proposals(token)
    for entry in reversed(entries):
        if entry.card is not None:
            about = f"{entry.name}, {_STATES[entry.state]}"
            with st.expander(about), widgets.banner(), proposals.shown():
                _card(entry)
                _shadow(entry)
                _steps(token, entry)
    if any(e.state == "in force" and e.card for e in entries):
        _roll_back(token)
    _take_in(token)


def _card(entry: VersionEntry) -> None:
    card = entry.card
    assert card is not None
    counts = [(name, f"{value:g}") for name, value in card.data.items()]
    devices = ", ".join(f"{name} ({frames} frames)" for name, frames in card.devices.items())
    widgets.facts(
        [
            *counts,
            ("Devices", devices),
            ("Training", ", ".join(f"{name} {value:g}" for name, value in card.training.items())),
            ("Made", f"{card.made_at} by {card.made_by}"),
            ("Licence", card.licence),
        ]
    )
    rows = [
        (name, figure, found.base[figure], found.candidate[figure])
        for name, found in card.sets.items()
        for figure in _SHOWN
        if figure in found.base and figure in found.candidate
    ]
    st.dataframe(
        {
            "Set": [row[0] for row in rows],
            "Figure": [row[1] for row in rows],
            card.base: [row[2] for row in rows],
            "This version": [row[3] for row in rows],
            "Change": [row[3] - row[2] for row in rows],
        },
        hide_index=True,
        column_config={
            name: st.column_config.NumberColumn(format="%.3f")
            for name in (card.base, "This version", "Change")
        },
    )


def _shadow(entry: VersionEntry) -> None:
    counts = entry.shadow
    if not counts.images:
        return
    widgets.facts(
        [
            ("Images looked at in the shadow", str(counts.images)),
            ("With other boxes", str(counts.differing)),
            ("Boxes that only it found", str(counts.more)),
            ("Boxes that only the version in force found", str(counts.fewer)),
            ("Images on which it failed", str(counts.failed)),
            ("Images that a person has decided", str(counts.decided)),
            ("Of these, something missed by this version", str(counts.missed)),
            ("Of these, something missed by the version in force", str(counts.missed_in_force)),
        ]
    )


def _steps(token: str, entry: VersionEntry) -> None:
    versions, name = state.engine().versions, entry.name
    with st.container(horizontal=True):
        if entry.state in ("candidate", "replaced") and st.button(
            "Look in the shadow",
            key=f"shadow-{name}",
            help="It looks at every new draft beside the version in force and changes nothing."
            " Looking takes about twice as long meanwhile.",
        ):
            versions.begin_shadow(token, name)
            state.say("This version looks at new drafts in the shadow.")
            st.rerun()
        if entry.state == "shadow" and st.button("End the shadow", key=f"end-{name}"):
            versions.end_shadow(token)
            state.say("No version looks in the shadow any more.")
            st.rerun()
        if entry.state == "shadow" and st.button(
            "Put in force", key=f"promote-{name}", type="primary"
        ):
            versions.promote(token, name)
            state.say("This version is in force.")
            st.rerun()


def _proposals(token: str) -> None:
    """Versions that a second administrator has to confirm."""
    versions = state.engine().versions
    for proposal in versions.proposals(token):
        proposals.card(
            proposal,
            f"put **{widgets.plain(proposal.username)}** in force",
            "This version is in force.",
            "Proposal dropped.",
            partial(versions.confirm, token),
            partial(versions.drop_proposal, token),
        )


def _roll_back(token: str) -> None:
    with st.form(f"roll-back-{state.turn('roll-back')}"), widgets.banner():
        reason = st.text_input("Reason to go back to the version before")
        if st.form_submit_button("Roll back"):
            name = state.engine().versions.roll_back(token, reason)
            state.renew("roll-back")
            state.say(f"{name} is in force again.")
            st.rerun()


def _take_in(token: str) -> None:
    st.caption(
        "To learn: run `python cli.py training-export` here and `python cli.py learn` on a machine"
        " that may see the images. Take in the file that it writes. It is refused if it hides less"
        " of a line that names a patient, on the sets that come with MedSec."
    )
    with st.form(f"version-{state.turn('version')}"), widgets.banner():
        # Without a type: Streamlit's browser side knows no file ending with a hyphen in it.
        file = st.file_uploader("Learned version (.medsec-network)")
        if st.form_submit_button("Check and take in"):
            if file is None:
                st.error("Choose the file first.", icon=":material/error:")
            else:
                card = state.engine().versions.take_in(token, file.getvalue())
                state.renew("version")
                state.say(f"{card.name} taken in. It looks at nothing yet.")
                st.rerun()

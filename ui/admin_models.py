"""The administrator's tabs about specialties and networks."""

from __future__ import annotations

from typing import Any

import streamlit as st

from engine import Profile, ProfileEntry
from ui import panes, state

_ORIGINS = {"shipped": "as shipped", "changed": "changed here", "own": "the hospital's own"}
_NEW = "A new profile"


def profiles(token: str) -> None:
    """What each specialty seals, and how; a change counts from the next upload on."""
    engine = state.engine()
    entries = engine.profile_entries(token)
    st.dataframe(
        {
            "Profile": list(entries),
            "Title": [e.profile.title for e in entries.values()],
            "Seals": [", ".join(e.profile.classes) for e in entries.values()],
            "Networks": [", ".join(e.profile.networks) for e in entries.values()],
            "From confidence": [_thresholds(e.profile) for e in entries.values()],
            "NMS IoU": [e.profile.iou for e in entries.values()],
            "Harmless text": [e.profile.harmless_text for e in entries.values()],
            "State": [_ORIGINS[e.origin] for e in entries.values()],
        },
        hide_index=True,
    )
    chosen = st.selectbox(
        "Profile to change",
        [*entries, _NEW],
        format_func=lambda name: name if name == _NEW else entries[name].profile.title,
    )
    if chosen == _NEW:
        _edit(token, "", None)
    else:
        _edit(token, chosen, entries[chosen])


def _thresholds(profile: Profile) -> str:
    own = [f"{label} {value:g}" for label, value in sorted(profile.class_confidence.items())]
    return "; ".join([f"{profile.confidence:g}", *own])


def _edit(token: str, name: str, entry: ProfileEntry | None) -> None:
    """The form of one profile. What the engine refuses is said, and nothing is changed."""
    engine = state.engine()
    networks = engine.known_networks(token)
    known = sorted({label for found in networks.values() for label in found})
    held = entry.profile if entry else engine.profile("general")
    turn = f"{name}-{state.turn('profile')}"
    with st.form(f"profile-{turn}"), panes.banner():
        if not entry:
            name = st.text_input("Short name", help="Small letters, digits and hyphens.").strip()
        table: dict[str, Any] = {
            "title": st.text_input("Title", held.title if entry else ""),
            "description": st.text_area("Description", held.description if entry else ""),
            "classes": st.multiselect("Classes that are sealed", known, list(held.classes)),
            "networks": st.multiselect(
                "Networks that look",
                list(networks),
                [n for n in held.networks if n in networks],
                format_func=lambda n: f"{n} ({', '.join(networks[n])})",
            ),
            "iou": st.number_input(
                "NMS IoU: boxes of a class that overlap more are merged",
                0.0, 1.0, held.iou, 0.05,
            ),
            "confidence": st.number_input(
                "Confidence from which boxes are sealed; below it a person is asked",
                0.0, 1.0, held.confidence, 0.05,
            ),
        }  # fmt: skip
        st.caption("Only where a class differs from that:")
        cells = st.columns(len(known))
        own = {
            label: cell.number_input(
                label, 0.0, 1.0, held.class_confidence.get(label), 0.05, key=f"{turn}-{label}"
            )
            for label, cell in zip(known, cells, strict=True)
        }
        table["class_confidence"] = {
            label: value
            for label, value in own.items()
            if value is not None and label in table["classes"]
        }
        table |= _padding(held)
        visible = st.checkbox(
            "Leave harmless text visible",
            held.harmless_text == "visible",
            help="Side markers, scales and technique factors that were read twice and match"
            " nothing of the patient. In doubt text is sealed all the same.",
        )
        table["harmless_text"] = "visible" if visible else "sealed"
        if st.form_submit_button("Save the profile", type="primary"):
            engine.save_profile(token, name, table)
            state.renew("profile")
            state.say("The profile was saved; the next upload uses it.")
            st.rerun()
    if entry and entry.origin != "shipped":
        label = "Back to what was shipped" if entry.origin == "changed" else "Remove the profile"
        with panes.banner():
            if st.button(label, key=f"reset-{turn}"):
                engine.reset_profile(token, name)
                state.renew("profile")
                state.say("The profile was reset.")
                st.rerun()
        st.caption(f"Changed {panes.when(entry.changed_at)} UTC by {entry.changed_by}.")


def _padding(held: Profile) -> dict[str, float | int]:
    """Padding, where it is not the setting's."""
    settings = state.engine().settings
    left, right = st.columns(2)
    share = left.number_input(
        "Padding, share of a box's longer side",
        0.0, 1.0, settings.padding if held.padding is None else held.padding, 0.01,
    )  # fmt: skip
    least = right.number_input(
        "Padding at least, px",
        0, 1000,
        settings.padding_min_px if held.padding_min_px is None else held.padding_min_px, 1,
    )  # fmt: skip
    return {"padding": float(share), "padding_min_px": int(least)}

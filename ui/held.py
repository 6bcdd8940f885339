"""Images that the network sent of patients whom nobody knew: a technician says whose they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from engine import Held, HeldStudy, errors
from ui import state, widgets

#: Entries that are listed: a study each, or an image that names none.
_SHOWN = 20


def held(token: str) -> None:
    """The oldest held studies, each with what the headers say of the patient."""
    found = state.engine().reception.held_studies(token, _SHOWN + 1)
    if not found:
        return
    st.header("Received for unknown patients")
    st.caption("The header of these images names nobody who has a record. Say whose they are.")
    if len(found) > _SHOWN:
        st.caption("These are the oldest. More may follow when they are assigned.")
    for study in found[:_SHOWN]:
        _study(token, study)


def _study(token: str, study: HeldStudy) -> None:
    """One entry: images of one study whose headers name the same patient."""
    first, count = study.first, study.images
    said = first.hints
    who = f"{said.get('id', 'no number')}, {said.get('name', 'no name')}"
    many = f", {widgets.counted(count, 'image')} of one study" if count > 1 else ""
    reception = state.engine().reception
    with st.expander(f"{widgets.plain(who)}, from {first.node}{many}"), widgets.banner():
        widgets.facts(
            [
                ("Number in the header", str(said.get("id", ""))),
                ("Name in the header", str(said.get("name", ""))),
                ("Date of birth", str(said.get("birth_date", ""))),
                ("Received", widgets.when(first.received_at)),
            ]
        )
        whose = "Whose image it is" if count == 1 else "Whose images these are"
        number = st.text_input(f"{whose}: the patient number", key=f"whose-{first.held_id}").strip()
        what = f"{who}, received {widgets.when(first.received_at)}{many}"
        if widgets.button_for("Assign to this patient", what, f"assign-{first.held_id}"):
            some = reception.held_with(token, first.held_id) or [first]
            here = _each(some, lambda one: reception.assign(token, one.held_id, number))
            came = len(some) - here
            waits = "The image waits" if came == 1 else f"{came} images wait"
            left = (
                f" {widgets.counted(here, 'image')} came in otherwise: discard what is left here."
            )
            state.say(f"Assigned. {waits} to be sealed.{left * bool(here)}")
            st.rerun()
        reason = st.text_input("Reason for discarding", key=f"why-{first.held_id}").strip()
        if widgets.button_for("Discard", what, f"discard-{first.held_id}"):
            some = reception.held_with(token, first.held_id) or [first]
            _each(some, lambda one: reception.discard(token, one.held_id, reason))
            state.say("Discarded.")
            st.rerun()


def _each(some: Sequence[Held], do: Callable[[Held], object]) -> int:
    """Do it with each of them; what was done stays done where one fails.

    Returns:
        How many came in by another way meanwhile, and stay.
    """
    present = 0
    bar = st.progress(0.0, f"1 of {len(some)}") if len(some) > 1 else None
    for done, one in enumerate(some, 1):
        try:
            do(one)
        except errors.DuplicateImage:
            present += 1
            if len(some) == 1:
                raise
        if bar is not None:
            bar.progress(done / len(some), f"{done} of {len(some)}")
    return present

"""Images that the network sent of patients whom nobody knew: a technician says whose they are."""

from __future__ import annotations

import streamlit as st

from ui import state, widgets

#: Held images that are listed.
_SHOWN = 20


def held(token: str) -> None:
    """The oldest held images, each with what its header says of the patient."""
    found = state.engine().reception.held(token, _SHOWN)
    if not found:
        return
    st.header("Received for unknown patients")
    st.caption("The header of these images names nobody who has a record. Say whose they are.")
    if len(found) == _SHOWN:
        st.caption(f"These are the {_SHOWN} oldest. More may follow when they are assigned.")
    for one in found:
        said = one.hints
        who = f"{said.get('id', 'no number')}, {said.get('name', 'no name')}"
        with st.expander(f"{widgets.plain(who)}, from {one.node}"), widgets.banner():
            widgets.facts(
                [
                    ("Number in the header", str(said.get("id", ""))),
                    ("Name in the header", str(said.get("name", ""))),
                    ("Date of birth", str(said.get("birth_date", ""))),
                    ("Received", widgets.when(one.received_at)),
                ]
            )
            number = st.text_input(
                "Whose image it is: the patient number", key=f"whose-{one.held_id}"
            ).strip()
            what = f"{who}, received {widgets.when(one.received_at)}"
            if widgets.button_for("Assign to this patient", what, f"assign-{one.held_id}"):
                state.engine().reception.assign(token, one.held_id, number)
                state.say("Assigned. The image waits to be sealed.")
                st.rerun()
            reason = st.text_input("Reason for discarding", key=f"why-{one.held_id}").strip()
            if widgets.button_for("Discard", what, f"discard-{one.held_id}"):
                state.engine().reception.discard(token, one.held_id, reason)
                state.say("Discarded.")
                st.rerun()

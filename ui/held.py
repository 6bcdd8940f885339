"""Images that the network sent of patients whom nobody knew: a technician says whose they are."""

from __future__ import annotations

import streamlit as st

from ui import state, widgets


def held(token: str) -> None:
    """The oldest held images, each with what its header says of the patient."""
    found = state.engine().reception.held(token, 20)
    if not found:
        return
    st.header("Received for unknown patients")
    st.caption("The header of these images names nobody who has a record. Say whose they are.")
    for one in found:
        said = one.hints
        name = widgets.plain(f"{said.get('id', 'no number')}, {said.get('name', 'no name')}")
        with st.expander(f"{name}, from {one.node}"), widgets.banner():
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
            if st.button(
                "Assign to this patient", key=f"assign-{one.held_id}", disabled=not number
            ):
                state.engine().reception.assign(token, one.held_id, number)
                state.say("Assigned. The image waits to be sealed.")
                st.rerun()
            reason = st.text_input("Reason for discarding", key=f"why-{one.held_id}").strip()
            if st.button("Discard", key=f"discard-{one.held_id}", disabled=not reason):
                state.engine().reception.discard(token, one.held_id, reason)
                state.say("Discarded.")
                st.rerun()

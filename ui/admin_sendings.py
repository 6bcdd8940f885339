"""What goes to other systems: rules, and the queue with what waits, what failed and why."""

from __future__ import annotations

import streamlit as st

from engine import ForwardRuleEntry, Sending, SendingState
from ui import state, widgets

_NEW = "A new rule"
_SHOWN = 200


def sendings(token: str) -> None:
    """Rules and the queue."""
    st.subheader("Rules")
    st.caption("A masked image goes to these systems when it is sealed.")
    entries = state.engine().sendings.rules(token)
    if entries:
        st.dataframe(
            {
                "Rule": list(entries),
                "To": [", ".join(e.rule.to) for e in entries.values()],
                "From": [e.rule.sender or "anybody" for e in entries.values()],
                "Modality": [e.rule.modality or "any" for e in entries.values()],
                "Profile": [e.rule.profile or "any" for e in entries.values()],
                "In force": [e.rule.enabled for e in entries.values()],
                **widgets.times("Changed", [e.changed_at for e in entries.values()]),
                "Changed by": [e.changed_by for e in entries.values()],
            },
            hide_index=True,
        )
    destinations = [
        title for title, e in state.engine().nodes.entries(token).items() if e.node.receives
    ]
    if destinations:
        chosen = st.selectbox("Rule to change", [*entries, _NEW])
        _edit(token, entries.get(chosen), destinations)
    else:
        st.info("No node receives images. Enter the host and the port of one above.")
    _queue(token)


def _edit(token: str, entry: ForwardRuleEntry | None, destinations: list[str]) -> None:
    engine = state.engine()
    held = entry.rule if entry else None
    nodes = ["", *engine.nodes.entries(token)]
    profiles = ["", *engine.profiles.by_name()]
    turn = f"rule-{held.name if held else ''}-{state.turn('rule')}"
    with st.form(turn), widgets.banner():
        name = held.name if held else st.text_input("Name of the rule").strip()
        to = st.multiselect(
            "Systems that get the images",
            destinations,
            [title for title in (held.to if held else ()) if title in destinations],
        )
        sender = st.selectbox(
            "Images that came from",
            nodes,
            nodes.index(held.sender) if held and held.sender in nodes else 0,
            format_func=lambda title: title or "anybody",
        )
        modality = st.text_input("Modality, empty for any", held.modality if held else "")
        profile = st.selectbox(
            "Sealed under the profile",
            profiles,
            profiles.index(held.profile) if held and held.profile in profiles else 0,
            format_func=lambda name: name or "any",
        )
        enabled = st.checkbox("In force", held.enabled if held else True)
        if st.form_submit_button("Save the rule", type="primary"):
            values = {
                "to": to,
                "sender": sender,
                "modality": modality.strip().upper(),
                "profile": profile,
                "enabled": enabled,
            }
            engine.sendings.save_rule(token, name, values)
            _done("Rule saved. It counts for what is sealed from now on.")
    if held:
        with widgets.banner():
            if st.button("Remove the rule", key=f"remove-{turn}"):
                engine.sendings.remove_rule(token, held.name)
                _done("Rule removed. What it has queued goes on.")


def _queue(token: str) -> None:
    st.subheader("On the way")
    engine = state.engine()
    counts = engine.sendings.counts(token)
    if not counts:
        st.caption("Nothing was sent yet.")
        return
    titles = sorted({title for title, _ in counts})
    st.dataframe(
        {
            "System": titles,
            **{
                str(one).capitalize(): [counts.get((title, str(one)), 0) for title in titles]
                for one in SendingState
            },
        },
        hide_index=True,
    )
    shown = st.segmented_control(
        "Show", [str(one) for one in SendingState], default=str(SendingState.WAITING)
    )
    found = engine.sendings.entries(token, shown or "", limit=_SHOWN)
    if not found:
        st.caption(f"Nothing is {shown}.")
        return
    _table(found)
    if shown in (SendingState.WAITING, SendingState.FAILED):
        _change(token, found)


def _table(found: list[Sending]) -> None:
    st.dataframe(
        {
            "Image": [one.image_id for one in found],
            "To": [one.destination for one in found],
            "What": ["original" if one.original else "masked image" for one in found],
            "Why not sent": [one.error for one in found],
            "Attempts": [one.attempts for one in found],
            **widgets.times("Next attempt", [one.next_at for one in found]),
            "Because of": [one.cause for one in found],
            **widgets.times("Queued", [one.queued_at for one in found]),
            "Queued by": [one.queued_by for one in found],
        },
        hide_index=True,
    )


def _change(token: str, found: list[Sending]) -> None:
    names = {one.sending_id: f"{one.image_id} to {one.destination}" for one in found}
    with st.container(horizontal=True, vertical_alignment="bottom"), widgets.banner():
        chosen = st.selectbox("Image on its way", list(names), format_func=lambda i: names[i])
        if st.button("Try now", key="retry-sending"):
            state.engine().sendings.retry(token, chosen)
            _done("It is tried now.")
        if st.button("Try all of them now", key="retry-sendings"):
            for sending_id in names:
                state.engine().sendings.retry(token, sending_id)
            _done("They are tried now.")
        if st.button("Cancel", key="cancel-sending"):
            state.engine().sendings.cancel(token, chosen)
            _done("Cancelled.")


def _done(sentence: str) -> None:
    state.renew("rule")
    state.say(sentence)
    st.rerun()

"""The Network tab: systems that may send images, each with what it is allowed."""

from __future__ import annotations

from typing import Any

import streamlit as st

from engine import Node, NodeEntry
from ui import admin_sendings, state, widgets

_NEW = "A new node"
_QUERIES = {"": "nothing", "own": "masked images that it sent", "all": "all masked images"}


def network(token: str) -> None:
    """Nodes of the hospital's network, and a form to add, change or remove one."""
    engine = state.engine()
    settings = engine.settings
    if settings.dicom_port:
        how = "TLS with client certificates" if settings.dicom_ca else "without TLS"
        st.caption(
            f"DICOM is received as `{settings.dicom_title}` on `{settings.dicom_host}`, port"
            f" {settings.dicom_port}, {how}."
        )
    else:
        st.info("DICOM is not received. Set `MEDSEC_DICOM_PORT` and start the server again.")
    entries = engine.nodes.entries(token)
    st.dataframe(
        {
            "AE title": list(entries),
            "Description": [e.node.description for e in entries.values()],
            "Calls from": [", ".join(e.node.addresses) for e in entries.values()],
            "Profile": [e.node.profile or "the default" for e in entries.values()],
            "Unknown patients": [
                "are created" if e.node.creates_patients else "are held" for e in entries.values()
            ],
            "Images without doubt": [
                "are sealed at once" if e.node.seals else "wait for a person"
                for e in entries.values()
            ],
            "May send": [e.node.sends for e in entries.values()],
            "May find and fetch": [_QUERIES[e.node.queries] for e in entries.values()],
            "Receives at": [
                f"{e.node.host}:{e.node.port}" if e.node.receives else "" for e in entries.values()
            ],
            "May have originals": [e.node.originals for e in entries.values()],
            "Certificate, SHA-256": [e.node.certificate for e in entries.values()],
            **widgets.times("Changed", [e.changed_at for e in entries.values()]),
            "Changed by": [e.changed_by for e in entries.values()],
        },
        hide_index=True,
    )
    chosen = st.selectbox("Node to change", [*entries, _NEW])
    _edit(token, entries.get(chosen))
    with widgets.banner():
        admin_sendings.sendings(token)


def _edit(token: str, entry: NodeEntry | None) -> None:
    engine = state.engine()
    held = entry.node if entry else Node("")
    profiles = ["", *engine.profiles.by_name()]
    turn = f"node-{held.title}-{state.turn('node')}"
    with st.form(turn), widgets.banner():
        title = held.title or st.text_input("AE title", help="1 to 16 characters.").strip()
        description = st.text_input("Description", held.description)
        addresses = st.text_area(
            "IP addresses or networks from which it calls, one on each line",
            "\n".join(held.addresses),
        )
        profile = st.selectbox(
            "Profile",
            profiles,
            profiles.index(held.profile) if held.profile in profiles else 0,
            format_func=lambda name: name or "the default",
        )
        creates = st.checkbox(
            "Create a record for a patient who is not known",
            held.creates_patients,
            help="Otherwise such images are held on the Upload page until a person says whose they"
            " are.",
        )
        seals = st.checkbox(
            "Seal images without doubt at once",
            held.seals,
            help="Otherwise each waits for a person. MEDSEC_AUTO_SEAL must allow it.",
        )
        sends = st.checkbox("May send images", held.sends)
        queries = st.selectbox(
            "May find and fetch",
            list(_QUERIES),
            list(_QUERIES).index(held.queries),
            format_func=lambda name: _QUERIES[name],
        )
        place = _place(held, ["", *engine.recipients.entries(token)])
        certificate = st.text_input(
            "SHA-256 of its certificate, 64 hex digits; empty for any certificate of the CA",
            held.certificate,
        )
        if st.form_submit_button("Save the node", type="primary"):
            values: dict[str, Any] = {
                "description": description,
                "addresses": addresses.split(),
                "profile": profile,
                "creates_patients": creates,
                "seals": seals,
                "sends": sends,
                "certificate": certificate.replace(":", "").strip().lower(),
                "queries": queries,
                **place,
            }
            engine.nodes.save(token, title, values)
            _done("Node saved. It counts from the next image on.")
    if entry:
        with widgets.banner():
            if st.button("Remove the node", key=f"remove-{turn}"):
                engine.nodes.remove(token, held.title)
                _done("Node removed. It is refused from now on.")


def _place(held: Node, chosen: list[str]) -> dict[str, Any]:
    """Where the node takes images, and which.

    Args:
        chosen: Names of de-identification profiles, an empty one for none.
    """
    host = st.text_input("Host under which it takes images; empty for none", held.host)
    port = st.number_input("Its port", 0, 65_535, held.port)
    return {
        "host": host.strip(),
        "port": int(port),
        "renames": st.checkbox(
            "It gets masked images under identifiers of its own",
            held.renames,
            help="They cannot be joined with those of other systems, nor restored from their file.",
        ),
        "packages": st.checkbox(
            "It gets masked images with their sealed package inside",
            held.packages,
            help="This installation restores the originals from the files that it kept.",
        ),
        "deidentification": st.selectbox(
            "It gets copies by the de-identification profile",
            chosen,
            chosen.index(held.deidentification) if held.deidentification in chosen else 0,
            format_func=lambda name: name or "none: masked images as they are",
            help="Under pseudonyms and dates of its own; see the De-identification tab.",
        ),
        "tls": st.checkbox("It is called over TLS", held.tls),
        "receives": st.checkbox("Masked images may be sent to it", held.receives),
        "originals": st.checkbox(
            "A person who may restore may send originals to it",
            held.originals,
            help="Under a reason, and logged like a restoration.",
        ),
    }


def _done(sentence: str) -> None:
    state.renew("node")
    state.say(sentence)
    st.rerun()

"""The Settings tab: current values, what can be changed while running, and who changed it."""

from __future__ import annotations

import streamlit as st

from engine import SettingEntry
from ui import state, widgets


def settings(token: str) -> None:
    """A form for settings that can change while the server runs, and a table of all settings."""
    entries = state.engine().runtime_settings.entries(token)
    _change(token, [e for e in entries if e.changeable])
    _recipients(token)
    st.dataframe(
        {
            "What it is for": [e.help for e in entries],
            "Value": [_short(e.value) for e in entries],
            "Unit": [e.unit for e in entries],
            "At server start": [_short(e.started) for e in entries],
            "Takes effect": [e.effect or "at the next start of the server" for e in entries],
            "Changed by": [e.changed_by for e in entries],
            **widgets.times("Changed", [e.changed_at for e in entries]),
            "Name in the environment": [e.variable for e in entries],
        },
        hide_index=True,
    )
    st.caption(
        "Secrets are not shown. The audit log has every change with the old and the new value."
    )
    with st.expander("History of changes", icon=":material/history:"):
        changes = state.engine().audit.of_actions(token, ("setting.save", "setting.reset"))
        st.dataframe(
            {
                **widgets.times("When", [e.occurred_at for e in changes]),
                "Who": [e.actor for e in changes],
                "Setting": [str(e.detail["name"]) for e in changes],
                "Before": [_short((e.detail["before"] or {}).get("value", "")) for e in changes],
                "After": [_short((e.detail["after"] or {}).get("value", "")) for e in changes],
            },
            hide_index=True,
        )


def _change(token: str, entries: list[SettingEntry]) -> None:
    by_name = {e.name: e for e in entries}
    with st.container(border=True), widgets.banner():
        st.markdown("**Change a setting**")
        name = st.selectbox(
            "Setting",
            list(by_name),
            format_func=lambda n: f"{by_name[n].help}: {_with_unit(by_name[n], by_name[n].value)}",
            key="setting-name",
        )
        entry = by_name[name]
        turn = state.turn("setting")
        value = _value(entry, f"setting-{name}-{turn}")
        st.caption(
            f"Current value: {_with_unit(entry, entry.value)}. At server start:"
            f" {_with_unit(entry, entry.started)}. A change takes effect {entry.effect}."
        )
        with st.container(horizontal=True):
            if st.button("Save", type="primary", disabled=value == entry.value):
                state.engine().runtime_settings.change(token, name, value)
                _done(f"Saved. The change takes effect {entry.effect}.")
            if entry.changed_by and st.button("Reset to the value at server start"):
                state.engine().runtime_settings.reset(token, name)
                _done("Reset to the value at server start.")


def _with_unit(entry: SettingEntry, value: str) -> str:
    return f"{_short(value)} {entry.unit}".strip()


def _short(value: str) -> str:
    """A value for one line: of certificates, how many they are."""
    count = value.count("-----BEGIN CERTIFICATE-----")
    if count:
        return widgets.counted(count, "certificate")
    return {"True": "on", "False": "off", "": "none"}.get(value, value)


def _recipients(token: str) -> None:
    """Who can read the original attributes in masked DICOM files."""
    named = state.engine().runtime_settings.recipients(token)
    with st.expander("Who can read original attributes", icon=":material/key:", key="recipients"):
        if not named:
            st.write(
                "Nobody is named. With certificates above, every masked DICOM file also carries its"
                " original attributes, encrypted for their holders (PS3.15 annex E.1)."
            )
            return
        st.dataframe(
            {
                "Holder": [r.subject for r in named],
                "RSA key, bits": [r.bits for r in named],
                **widgets.times("Valid until", [r.ends_at for r in named]),
                "SHA-256 of the certificate": [r.fingerprint for r in named],
            },
            hide_index=True,
        )
        st.caption("Images keep those that were named when they were sealed.")


def _value(entry: SettingEntry, key: str) -> str:
    """An input that fits the setting's type; the engine validates the value."""
    if entry.value in ("True", "False"):
        return str(st.toggle("On", entry.value == "True", key=key))
    if entry.name == "profile":
        names = list(state.engine().profiles.by_name())
        at = names.index(entry.value) if entry.value in names else 0
        return str(st.selectbox("New value", names, index=at, key=key))
    if entry.name == "recipient_certificates":
        return str(st.text_area("Certificates (PEM)", entry.value, key=key, height=200)).strip()
    return str(st.text_input("New value", entry.value, key=key)).strip()


def _done(sentence: str) -> None:
    state.renew("setting")
    state.say(sentence)
    st.rerun()

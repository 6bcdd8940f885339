"""The administrator's tabs; ``pages/4_Admin.py`` puts them in order."""

from __future__ import annotations

from dataclasses import fields

import streamlit as st

from engine import ImageState
from ui import panes, state


def audit(token: str) -> None:
    """Search the log and prove that nobody changed it."""
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    query = left.text_input(
        "Search", type="search", placeholder="Person, action, image or patient key"
    )
    if right.button("Verify the chain", icon=":material/link:", width="stretch"):
        with panes.banner(), st.spinner("Checking every entry …"):
            count = state.engine().verify_audit(token)
            st.success(f"{count} entries form one unbroken chain.", icon=":material/verified:")
    panes.history(state.engine().audit_entries(token, query=query, limit=500))
    st.caption("The newest 500 that match. Names of files and patients are never in the log.")


def health(token: str) -> None:
    """State of the system."""
    now = state.engine().health(token)
    panes.figures(
        [
            ("Patients", str(now["patients"])),
            ("Images sealed", str(now["images"].get(ImageState.RELEASED, 0))),
            ("Stored", panes.size(now["stored_bytes"])),
            ("Free disk", panes.size(now["disk_free_bytes"])),
        ]
    )
    panes.facts(
        [(f"Images: {name}", str(count)) for name, count in sorted(now["images"].items())]
        + [
            ("Open accounts", str(now["accounts"])),
            ("Entries in the audit log", str(now["audit_entries"])),
            ("Root keys, oldest first", ", ".join(now["root_keys"])),
            ("Keys still to be wrapped anew", str(now["keys_to_rotate"])),
        ]
    )


def custody(token: str) -> None:
    """Root keys, backups, and erasure on request. Shares are shown on a terminal only."""
    engine = state.engine()
    held = engine.health(token)
    st.header("Root keys")
    st.write(", ".join(f"`{key}`" for key in held["root_keys"]) + "; the last one wraps.")
    st.caption("Recovery shares on paper: `python cli.py shares`, with their holders present.")
    left = held["keys_to_rotate"]
    label = f"Go on: {left} keys are left" if left else "Add a root key and re-wrap every key"
    with panes.banner():
        if st.button(label, key="rotate", icon=":material/key:"):
            bar = st.progress(0.0, "re-wrapping")
            whole = left
            for remaining in engine.rotate_keys(token, new_root=not left):
                whole = max(whole, remaining, 1)
                bar.progress(1 - remaining / whole, f"{remaining} keys left")
            st.success("Every key is wrapped by the newest root key: back it up, share it anew.")
    st.header("Backups")
    with panes.banner():
        if engine.settings.backup_dir is None:
            st.info("Set `MEDSEC_BACKUP_DIR` to a folder on another disk.")
        else:
            if st.button("Back up now", key="backup", icon=":material/backup:"):
                st.success(f"Backup {engine.make_backup(token)} was written and checked.")
            for name in reversed(engine.backups(token)):
                if st.button(f"Check {name}", key=f"check-{name}"):
                    st.success(f"{name}: {engine.verify_backup(token, name)} files, all whole.")
    st.header("Erasure")
    st.write("Destroys a patient's key: record, notes and images cannot be opened by anybody.")
    with st.form("erase", width=440), panes.banner():
        number = st.text_input("Patient number, as the request names it", key="erase-number")
        reason = st.text_input("Reason", key="erase-reason")
        sure = st.checkbox("I know that this cannot be undone", key="erase-sure")
        if st.form_submit_button("Erase the patient"):
            if not sure:
                st.error("Tick the box first.", icon=":material/error:")
            else:
                engine.erase_patient(token, number, reason)
                st.success("Erased. It is in the audit log.", icon=":material/check:")


def settings() -> None:
    """Every setting as it is in force; changed in the environment or the settings file."""
    held = state.engine().settings
    rows = [f for f in fields(held) if "Secret" not in str(f.type)]
    st.dataframe(
        {
            "Setting": [f"MEDSEC_{f.name.upper()}" for f in rows],
            "Value": [str(getattr(held, f.name)) for f in rows],
            "Unit": [f.metadata["unit"] for f in rows],
            "Default": [str(f.default) for f in rows],
            "Meaning": [f.metadata["help"] for f in rows],
        },
        hide_index=True,
    )
    st.caption("Secrets are not shown. A change takes effect when the server starts again.")

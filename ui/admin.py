"""The administrator's tabs; ``pages/4_Admin.py`` puts them in order."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlencode

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
            count = state.engine().audit.verify(token)
            st.success(f"{count} entries form one unbroken chain.", icon=":material/verified:")
    _checkpoint(token)
    panes.history(state.engine().audit.entries(token, query=query, limit=500))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("The newest 500 that match. Names of files and patients are never in the log.")
        st.link_button(
            "All that match, CSV",
            f"/api/audit/file/?{urlencode({'q': query or ''})}",
            icon=":material/download:",
        )


def _checkpoint(token: str) -> None:
    """Write a checkpoint, before the table: its entry is in there then."""
    engine = state.engine()
    with panes.banner():
        if engine.settings.checkpoint_dir is None:
            st.info(
                "To detect deleted entries at the end of the log, set `MEDSEC_CHECKPOINT_DIR` to a"
                " folder that this machine cannot rewrite. Checkpoints are then written there."
            )
        elif st.button("Write a checkpoint", key="checkpoint", icon=":material/verified_user:"):
            with st.spinner("Checking every entry …"):
                name = engine.audit.write_checkpoint(token)
            st.success(f"Checkpoint `{name}` was written.", icon=":material/check:")


def _moment(at: datetime | None) -> str:
    return "not yet" if at is None else f"{at:%Y-%m-%d %H:%M}"


def health(token: str) -> None:
    """State of the system."""
    now = state.engine().health.state(token)
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
            ("Last good backup", _moment(now["last_backup_at"])),
            ("Files last checked", _moment(now["scrubbed_at"])),
            ("Damaged", ", ".join(now["broken"]) or "nothing known"),
            ("Keys still to be wrapped anew", str(now["keys_to_rotate"])),
        ]
    )
    st.header("Storage")
    held = state.engine().health.storage(token)
    panes.facts(
        [
            ("Catalog", panes.size(held["catalog_bytes"])),
            ("Encrypted files", f"{held['files']:,.0f}, {panes.size(held['files_bytes'])}"),
            ("Originals of sealed images", panes.size(held["original_bytes"])),
            ("Stored for them", panes.size(held["sealed_bytes"])),
            ("Drafts that wait", panes.size(held["draft_bytes"])),
            ("Disk", f"{panes.size(held['disk_free_bytes'])} free of"
             f" {panes.size(held['disk_bytes'])}"),
        ]
    )  # fmt: skip


def custody(token: str) -> None:
    """Root keys, backups, and erasure on request. Shares are shown on a terminal only."""
    engine = state.engine()
    held = engine.health.state(token)
    st.header("Root keys")
    st.write(", ".join(f"`{key}`" for key in held["root_keys"]) + "; the last one wraps.")
    st.caption("Recovery shares on paper: `python cli.py shares`, with their holders present.")
    left = held["keys_to_rotate"]
    label = f"Go on: {left} keys are left" if left else "Add a root key and re-wrap every key"
    with panes.banner():
        if st.button(label, key="rotate", icon=":material/key:"):
            bar = st.progress(0.0, "re-wrapping")
            whole = left
            for remaining in engine.keys.rotate(token, new_root=not left):
                whole = max(whole, remaining, 1)
                bar.progress(1 - remaining / whole, f"{remaining} keys left")
            st.success("Every key is wrapped by the newest root key: back it up, share it anew.")
    st.header("Backups")
    with panes.banner():
        if engine.settings.backup_dir is None:
            st.info("Set `MEDSEC_BACKUP_DIR` to a folder on another disk.")
        else:
            if st.button("Back up now", key="backup", icon=":material/backup:"):
                st.success(f"Backup {engine.backups.make(token)} was written and checked.")
            for name in reversed(engine.backups.names(token)):
                if st.button(f"Check {name}", key=f"check-{name}"):
                    st.success(f"{name}: {engine.backups.verify(token, name)} files, all whole.")
                    if missing := len(engine.backups.missing(token, name)):
                        st.warning(f"{missing} files were lost already when it was made.")
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
                engine.patients.erase(token, number, reason)
                st.success("Erased. It is in the audit log.", icon=":material/check:")

"""Tabs of the Admin page; ``pages/4_Admin.py`` arranges them."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from engine import BACKUP_NAME, AuditFilter, AuditFound, Extent, ImageState
from ui import state, widgets

#: Entries of the log that are shown at a time.
_MOST = 500


def audit(token: str) -> None:
    """Search the audit log and verify its hash chain."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = st.text_input(
            "Search", type="search", placeholder="User, action, image id or patient id"
        )
        verify = st.button("Verify the chain", icon=":material/link:")
    if verify:
        with widgets.banner():
            bar = st.progress(0.0, "Checking every entry …")
            count = state.engine().audit.verify(
                token,
                lambda checked, of: bar.progress(
                    checked / of, f"Checked {checked:,} of {of:,} entries …"
                ),
            )
            bar.empty()
            st.success(
                f"Verified: {count} entries form one unbroken chain.", icon=":material/verified:"
            )
    only = _chosen(token)
    _checkpoint(token)
    with st.spinner("Searching …"):
        found = state.engine().audit.entries(token, query, _MOST, _before(query, only), only)
    widgets.history(found)
    _how_far(found)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("The log never contains names of files or patients.")
        st.link_button(
            "Download all matches, CSV",
            f"/api/audit/file/?{urlencode({'q': query or '', **_asked(only)})}",
            icon=":material/download:",
        )


def _before(query: str, only: AuditFilter) -> int | None:
    """Where a search goes on; another question begins with the newest entries."""
    if st.session_state.get("audit-asked") != (query, only):
        st.session_state["audit-asked"] = (query, only)
        _go_on(None)
    before: int | None = st.session_state["audit-before"]
    return before


def _go_on(before: int | None) -> None:
    st.session_state["audit-before"] = before


def _how_far(found: AuditFound) -> None:
    """What was looked at so far, and the way on."""
    begun = st.session_state["audit-before"]
    older = "" if begun is None else f" of the entries before No. {begun:,}"
    if found.before is not None and found.searched_to is not None:
        matches = f"The newest {_MOST} matches" if len(found) == _MOST else "All matches"
        st.info(
            f"{matches if found else 'No match'}{older}, searched back to No. {found.before:,},"
            f" {widgets.when(found.searched_to)}. Older entries were not searched yet.",
            icon=":material/history:",
        )
    elif not found:
        st.info(
            f"No entry matches{older}. In the log a patient is an id such as pt_0d51…, not the"
            " patient number: for a number, make the report on the tab *Access*.",
            icon=":material/search_off:",
        )
    with st.container(horizontal=True):
        if found.before is not None:
            st.button(
                "Search further back",
                icon=":material/arrow_downward:",
                help="The log is searched for some seconds at a time. Choose days to search these.",
                on_click=_go_on,
                args=(found.before,),
            )
        if begun is not None:
            st.button(
                "Newest entries", icon=":material/arrow_upward:", on_click=_go_on, args=(None,)
            )


#: How what was tried can have ended.
_OUTCOMES = ("ok", "completed", "requested", "refused", "failed")


def _chosen(token: str) -> AuditFilter:
    """Entries of some days in the viewer's time zone, of a person, with an outcome."""
    with st.container(horizontal=True):
        days = [
            st.date_input(name, None, format="YYYY-MM-DD", key=f"audit-{name}", width=170)
            for name in ("From", "To")
        ]
        people = sorted(account.username for account in state.engine().people.accounts(token))
        actor = st.selectbox("User", people, index=None, placeholder="Anybody", width=220)
        outcome = st.selectbox("Outcome", _OUTCOMES, index=None, placeholder="Any", width=170)
    first, last = (day if isinstance(day, date) else None for day in days)
    return AuditFilter(
        None if first is None else widgets.begins(first),
        None if last is None else widgets.begins(last + timedelta(days=1)),
        actor or "",
        outcome or "",
    )


def _asked(only: AuditFilter) -> dict[str, str]:
    """The filter as parameters of the download."""
    times = {"since": only.since, "until": only.until}
    asked = {name: f"{at.isoformat()}Z" for name, at in times.items() if at}
    return asked | {n: v for n, v in (("actor", only.actor), ("outcome", only.outcome)) if v}


def _checkpoint(token: str) -> None:
    """Write a checkpoint, before the table: its entry is in there then."""
    engine = state.engine()
    with widgets.banner():
        if engine.settings.checkpoint_dir is None:
            st.info(
                "To detect deleted entries at the end of the log, set `MEDSEC_CHECKPOINT_DIR` to a"
                " folder that this machine cannot rewrite. Checkpoints are then written there."
            )
        elif st.button("Write a checkpoint", key="checkpoint", icon=":material/verified_user:"):
            with st.spinner("Checking every entry …"):
                name = engine.audit.write_checkpoint(token)
            st.success(f"Checkpoint `{name}` was written.", icon=":material/check:")


def _moment(at: datetime | None, none: str = "never") -> str:
    return none if at is None else widgets.when(at)


_IMAGES = {
    ImageState.DRAFT: "Images ready to seal",
    ImageState.REVIEW: "Images to review",
    ImageState.RELEASED: "Images sealed",
    ImageState.WITHDRAWN: "Images withdrawn",
    ImageState.ERASED: "Images erased",
}


def health(token: str) -> None:
    """Health of the system."""
    now = state.engine().health.state(token)
    widgets.figures(
        [
            ("Patients", str(now["patients"])),
            ("Images sealed", str(now["images"].get(ImageState.RELEASED, 0))),
            ("Stored", widgets.size(now["stored_bytes"])),
            ("Free disk", widgets.size(now["disk_free_bytes"])),
        ]
    )
    widgets.facts(
        [(name, f"{now['images'][key]:,}") for key, name in _IMAGES.items() if key in now["images"]]
        + [
            ("Active accounts", str(now["accounts"])),
            ("Entries in the audit log", str(now["audit_entries"])),
            ("Root keys, oldest first", ", ".join(now["root_keys"])),
            ("Last successful backup", _moment(now["last_backup_at"])),
            ("Last backup locked until", _moment(now["last_backup_locked_until"], "not locked")),
            ("Last integrity check of stored files", _moment(now["scrubbed_at"])),
            *[("Stored files", "being moved; leave MEDSEC_BLOBS_ALSO set until all have moved")]
            * now["files_moving"],
            ("Damaged files", ", ".join(now["broken"]) or "none known"),
            ("Keys still to re-wrap", str(now["keys_to_rotate"])),
            ("Processes that read files", _held(now["confinement"])),
            ("Audit log elsewhere", _forwarding(now)),
            (
                "Certificates of recipients that end within a month",
                "; ".join(now["recipients_ending"]) or "none",
            ),
            ("Servers", _servers(now)),
            (
                "Networks run in",
                "a process without keys"
                if now["networks_apart"]
                else "the server's process, for its GPU",
            ),
        ]
    )
    st.header("Storage")
    held = state.engine().health.storage(token)
    widgets.facts(
        [
            ("Catalog", widgets.size(held["catalog_bytes"])),
            ("Encrypted files", f"{held['files']:,.0f}, {widgets.size(held['files_bytes'])}"),
            ("Originals of sealed images", widgets.size(held["original_bytes"])),
            ("Stored for these images", widgets.size(held["sealed_bytes"])),
            ("Waiting drafts", widgets.size(held["draft_bytes"])),
            ("Disk", f"{widgets.size(held['disk_free_bytes'])} free of"
             f" {widgets.size(held['disk_bytes'])}"),
        ]
    )  # fmt: skip


def _servers(now: dict[str, Any]) -> str:
    """All servers by machine, which of them this one is, and which leads."""
    said = []
    for server in now["servers"]:
        notes = ["this one"] * (server.server_id == now["server"])
        notes += ["does the scheduled work"] * server.leads
        said.append(server.machine + (f" ({', '.join(notes)})" if notes else ""))
    return "; ".join(said) or "this one alone"


def _forwarding(now: dict[str, Any]) -> str:
    """Whether the log is sent to an audit repository, and how that goes."""
    if not now["audit_forwarding"]:
        return "not sent; set MEDSEC_SYSLOG_HOST to send it to an audit repository"
    waiting = f"{now['audit_waiting']:,} entries wait"
    return (
        f"{waiting}; the last try failed ({now['audit_trouble']})"
        if now["audit_trouble"]
        else waiting
    )


def _held(confinement: dict[str, int | bool]) -> str:
    """What holds the decoders, and what is missing on this machine."""
    names = {
        "landlock": f"Landlock {confinement['landlock']}",
        "seccomp": "system call filter",
        "network": "network of their own",
        "user": "no root rights",
    }
    there = [name for key, name in names.items() if confinement[key]]
    names["landlock"] = "Landlock"
    missing = [name for key, name in names.items() if not confinement[key]]
    return ", ".join(there or ["nothing"]) + ("; missing: " + ", ".join(missing) if missing else "")


def _made(name: str) -> str:
    """When a backup was made, by its name; the name itself where it says no time."""
    try:
        return widgets.when(datetime.strptime(name, BACKUP_NAME))  # noqa: DTZ007 - UTC, as all times
    except ValueError:
        return name


def custody(token: str) -> None:
    """Root keys, backups and erasure on request. Recovery shares appear on a terminal only."""
    engine = state.engine()
    held = engine.health.state(token)
    st.header("Root keys")
    *earlier, newest = held["root_keys"]
    st.write(
        f"In use: `{newest}`"
        + ("; before it: " + ", ".join(f"`{key}`" for key in earlier) if earlier else "")
    )
    st.caption(
        "The root key in use encrypts (wraps) the keys of all patients. Adding another encrypts"
        " these keys anew (re-wraps them); images stay as they are. To print recovery shares, run"
        " `python cli.py shares` with the share holders present."
    )
    left = held["keys_to_rotate"]
    label = (
        f"Continue: {widgets.counted(left, 'key')} left"
        if left
        else "Add a root key and re-wrap all keys"
    )
    with widgets.banner():
        if st.button(label, key="rotate", icon=":material/key:"):
            bar = st.progress(0.0, "re-wrapping")
            whole = left
            for remaining in engine.keys.rotate(token, new_root=not left):
                whole = max(whole, remaining, 1)
                bar.progress(1 - remaining / whole, f"{widgets.counted(remaining, 'key')} left")
            state.say(
                "All keys are wrapped with the newest root key. Back it up and print new shares."
            )
            st.rerun()  # the new key is in the list above
    st.header("Backups")
    with widgets.banner():
        if not engine.settings.keeps_backups:
            st.info("Backups are off. Set `MEDSEC_BACKUP_DIR` to a folder on another disk.")
        else:
            if st.button("Back up now", key="backup", icon=":material/backup:"):
                name = engine.backups.make(token)
                st.success(f"Backup of {_made(name)} written and verified, as `{name}`.")
            for name in reversed(engine.backups.names(token)):
                if widgets.button_for(
                    f"Verify the backup of {_made(name)}", name, f"check-{name}", help=name
                ):
                    files = widgets.counted(engine.backups.verify(token, name), "file")
                    st.success(f"Backup of {_made(name)}: {files}, all intact.")
                    if missing := len(engine.backups.missing(token, name)):
                        st.warning(f"Missing already when it was made: {missing:,} of its files.")
    st.header("Erasure")
    st.write(
        "Destroys the patient's key. Nobody can open the record, notes and images afterwards."
        " Copies of a backup that lie elsewhere still have the key."
    )
    _erasure(token)


def _erasure(token: str) -> None:
    """First whose: what is there of them is shown before anything is destroyed."""
    engine, turn = state.engine(), state.turn("erase")  # nothing is filled in for the next one
    with st.form(f"erase-{turn}", width=440), widgets.banner():
        number = st.text_input("Patient number, as in the request", key=f"erase-number-{turn}")
        reason = st.text_input("Reason", key=f"erase-reason-{turn}")
        if st.form_submit_button("Look what would be erased"):
            state.take("erasing")
            number = number.strip()
            if reason.strip():
                state.keep("erasing", (number, reason, engine.patients.extent(token, number)))
            else:
                st.error("Give a reason for erasing the patient.", icon=":material/error:")
    if state.recall("erasing") is None:
        return
    number, reason, there = state.recall("erasing")
    with st.container(border=True), widgets.banner():
        st.write(f"**{widgets.plain(number)}** has {_extent(there)}.")
        st.caption(
            "The record and notes go with the images. Compare this with the request: it cannot be"
            " undone."
        )
        if st.button(f"Erase {widgets.plain(number)} for good", key="erase-sure"):
            engine.patients.erase(token, number, reason)
            state.take("erasing")
            state.renew("erase")
            state.say(f"Patient {widgets.plain(number)} erased. The erasure is in the audit log.")
            st.rerun()
        if st.button("Keep everything", key="erase-not"):
            state.take("erasing")
            state.renew("erase")
            st.rerun()


def _extent(there: Extent) -> str:
    """How much there is of a patient, in words."""
    if not there.images or there.first is None or there.last is None:
        return "no image"
    days = [widgets.when(there.first)]
    if there.last != there.first:
        days.append(widgets.when(there.last))
    unsealed = f" ({there.unsealed:,} not sealed)" if there.unsealed else ""
    return f"{widgets.counted(there.images, 'image')}{unsealed}, uploaded {' to '.join(days)}"

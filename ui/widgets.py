"""Shared widgets: error banner, image viewer, box editor, cards, small tables.

Pictures never pass through Streamlit, which would serve them at a URL without authentication.
The browser fetches them from the REST API with the session cookie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, tzinfo
from functools import cache
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from engine import AuditEntry, Format, ImageRecord, SealedRegion, errors, meaning, trouble
from ui import state, theme, turned

_HERE = Path(__file__).parent / "components"


@cache
def _component(name: str) -> Any:
    """One of MedSec's own components, registered on first use."""
    styles, scripts, html = _PARTS[name]
    return st.components.v2.component(
        f"medsec_{name}",
        html=html,
        css=_read(styles) if styles else None,
        js=_read(scripts) if scripts else None,
    )


def _read(names: Sequence[str]) -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


_ROOT = '<div class="root"></div>'
_PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "viewer": (
        ("stage.css", "ruler.css", "viewer.css"),
        ("stage.js", "ruler.js", "viewer.js"),
        _ROOT,
    ),
    "stack": (
        ("stage.css", "ruler.css", "stack.css"),
        ("stage.js", "ruler.js", "stack.js"),
        _ROOT,
    ),
    "editor": (("stage.css", "editor.css"), ("stage.js", "editor.js"), _ROOT),
    "intake": (
        ("stage.css", "intake.css"),
        ("stage.js", "zip.js", "intake_sender.js", "intake.js"),
        _ROOT,
    ),
    "intake_line": (
        ("stage.css", "intake.css"),
        ("stage.js", "zip.js", "intake_sender.js", "intake_line.js"),
        _ROOT,
    ),
    "sheet": (("stage.css", "sheet.css"), ("stage.js", "sheet.js"), _ROOT),
    "worklist": (
        ("stage.css", "worklist.css"),
        ("stage.js", "thumbs.js", "worklist.js"),
        _ROOT,
    ),
    "download": (
        ("stage.css",),
        ("download.js",),
        '<div class="root"><button type="button"></button></div>',
    ),
    "passkey": (
        ("stage.css",),
        ("passkey.js",),
        '<div class="root"><button type="button"></button><p role="status"></p></div>',
    ),
    "session": ((), ("session.js",), ""),
    "story": ((), (), theme.STORY),
}


@contextmanager
def banner() -> Iterator[None]:
    """Show an engine error as its message and continue after the block."""
    try:
        yield
    except errors.EngineError as err:
        st.error(err.message, icon=":material/error:")


def failed(err: Exception) -> bool:
    """Show the id of an error that nobody expected; the log has what it was.

    Returns:
        True: Streamlit shows nothing of its own.
    """
    st.error(trouble("a page failed", err).message, icon=":material/error:")
    return True


# --- pictures ---------------------------------------------------------------------------------


def _on_this_server(data: Mapping[str, Any]) -> dict[str, Any]:
    """With the server whose memory has what the pictures' addresses name; see ``stage.js``."""
    return {**data, "server": state.engine().server_id}


def viewer(data: Mapping[str, Any], key: str) -> None:
    """The image viewer: sealed and original picture, boxes and table; data as in ``viewer.js``."""
    _component("viewer")(data=_on_this_server(data), key=key)


def stack(data: Mapping[str, Any], key: str) -> str:
    """The study viewer: series to scroll through; data as in ``stack.js``.

    Returns:
        The id of the image whose details were asked for in this run, or an empty string.
    """
    result = _component("stack")(data=_on_this_server(data), key=key, on_image_change=lambda: None)
    return str(result.image or "")


def editor(data: Mapping[str, Any], key: str) -> tuple[list[dict[str, Any]], str]:
    """The box editor; data as in ``editor.js``.

    Returns:
        What a key asked for in this run (``seal``, ``next``, ``previous`` or nothing), behind the
        current boxes in image pixels, rounded outward and clipped to the image. ``found`` is
        the index of a detected box or None; ``removed`` a reason, or None for a box to seal;
        ``left`` is the reason why a detected box was moved away (``strayed``).
    """
    start = {"boxes": data["boxes"]}
    result = _component("editor")(
        data=_on_this_server(data), key=key, default=start, on_boxes_change=lambda: None,
        on_command_change=lambda: None,
    )  # fmt: skip
    return list(result.boxes), str(result.command or "")


def intake(data: Mapping[str, Any]) -> None:
    """Where studies are dropped; data as in ``intake.js``. Runs the page anew once all are looked
    at."""
    _component("intake")(data=dict(data), key="intake", on_settled_change=lambda: None)


def intake_line(data: Mapping[str, Any]) -> str:
    """How far one's uploads are, and what is sealed beside the page; data as in ``intake_line.js``.

    Returns:
        The id of a draft that came back and is opened in this run, or an empty string.
    """

    def nothing() -> None:
        pass

    result = _component("intake_line")(
        data=dict(data), key="intake-line", on_opened_change=nothing, on_settled_change=nothing
    )
    return str(result.opened or "")


def contact_sheet(data: Mapping[str, Any]) -> Any:
    """Many drafts at once; data as in ``sheet.js``.

    Returns:
        ``confirmed`` (a list of looks), ``undone``, ``carried``, ``opened`` and ``left``: what the
        person did in this run, else None.
    """

    def nothing() -> None:
        pass

    return _component("sheet")(
        data=dict(data), key="sheet", on_confirmed_change=nothing, on_carried_change=nothing,
        on_opened_change=nothing, on_left_change=nothing, on_undone_change=nothing,
    )  # fmt: skip


def worklist(data: Mapping[str, Any]) -> Any:
    """What waits, with pictures; data as in ``worklist.js``.

    Returns:
        ``opened`` (a draft), ``sheet`` and ``all`` (series): what the person chose in this run,
        else None.
    """

    def nothing() -> None:
        pass

    return _component("worklist")(
        data=dict(data), key="worklist", on_opened_change=nothing, on_sheet_change=nothing,
        on_all_change=nothing,
    )  # fmt: skip


def picture(address: str, description: str, small: bool = False) -> None:
    """A picture from the REST API, in full width, or small for lists."""
    kind = "picture small" if small else "picture"
    st.html(f'<img class="{kind}" src="{escape(address)}" alt="{escape(description)}">')


def button_for(label: str, what: str, key: str, **options: Any) -> bool:
    """A button beside others with the same label: those who listen hear what it is for."""
    return bool(st.button(f"{label} :small[{plain(what)}]", key=f"named-{key}", **options))


def download(label: str, name: str, text: str) -> None:
    """A button that saves text as a file in the browser; the server stores no file."""
    _component("download")(data={"label": label, "name": name, "text": text}, key=f"file-{name}")


def passkey(label: str, options: str) -> str:
    """A button with which the browser makes a passkey, or answers with one.

    Args:
        options: What the engine asks for, as JSON.

    Returns:
        The answer as JSON, in the run after it came; else empty.
    """
    result = _component("passkey")(
        data={"label": label, "options": options}, key="passkey", on_answer_change=lambda: None
    )
    return str(result.answer or "")


def story() -> None:
    """A picture that shows what MedSec does."""
    _component("story")(key="story")


def cards(
    records: Sequence[ImageRecord],
    key: str,
    names: Mapping[str, str] | None = None,
    dates: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
) -> str:
    """Thumbnails of sealed images, as many in a row as there is room for.

    Args:
        names: Labels of patients, by their keys.
        dates: Days of the studies, by image; without one the day of the upload is shown as such.
        counts: How many images of its series each stands for.

    Returns:
        The id of the image chosen in this run, or an empty string.
    """
    chosen = ""
    with st.container(horizontal=True):
        for record in records:
            with st.container(border=True, width=230, key=f"card-{key}-{record.image_id}"):
                title = (names or {}).get(record.patient_id, "")
                day = (dates or {}).get(record.image_id)
                at = f"of {day}" if day else f"uploaded {when(record.uploaded_at)}"
                what = f"{record.modality or record.format} {at}"
                picture(f"/api/images/{record.image_id}/thumbnail", f"Sealed {what}", small=True)
                st.markdown(f"**{plain(title)}**  \n{what}" if title else what)
                count = (counts or {}).get(record.image_id, 1)
                st.caption(
                    f"{count} images"
                    if count > 1
                    else f"{counted(record.region_count, 'region')} sealed"
                )
                whose = f"{title}, {what}" if title else what
                if button_for("View", whose, f"{key}-{record.image_id}", width="stretch"):
                    chosen = record.image_id
    return chosen


# --- the session ------------------------------------------------------------------------------


def trade_ticket(ticket: str) -> bool:
    """Have the browser exchange a ticket for the session cookie and reload the page.

    Returns:
        True if it failed.
    """
    result = _component("session")(
        data={"ticket": ticket}, key="session", on_failed_change=lambda: None
    )
    return bool(result.failed)


def renew_cookie(ticket: str) -> None:
    """Have the browser store another cookie of the same session; the page stays as it is."""
    # Not by the ticket itself: one in a hundred holds "__", which Streamlit refuses in a key.
    key = f"renew-{sha256(ticket.encode()).hexdigest()[:16]}"
    _component("session")(data={"ticket": ticket, "stay": True}, key=key)


def look_for_cookie() -> None:
    """Have the browser open the page anew if its cookie, which another page renewed, is good."""
    _component("session")(data={"check": True}, key="session-check")


def end_session() -> None:
    """Have the browser delete the session cookie and open the front page."""
    _component("session")(data={"end": "now"}, key="session-end", on_failed_change=lambda: None)


# --- words and tables -------------------------------------------------------------------------


def plain(text: str) -> str:
    """User text escaped for Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|<>~$:" else c for c in text)


def counted(count: int, noun: str) -> str:
    """A number with its noun: ``1 image``, ``2,000 images``; nouns with a regular plural only."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def zone() -> tzinfo:
    """The time zone of the viewer's browser; UTC where it names none that is known here."""
    name = st.context.timezone
    try:
        return ZoneInfo(name) if isinstance(name, str) else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def local(moment: datetime) -> datetime:
    """A time of the catalog (UTC) in the viewer's time zone."""
    return moment.replace(tzinfo=UTC).astimezone(zone())


def begins(day: date) -> datetime:
    """When a day begins for the viewer, in UTC as the catalog has it."""
    return datetime.combine(day, time(), zone()).astimezone(UTC).replace(tzinfo=None)


def when(moment: datetime | None) -> str:
    """A time of the catalog (UTC) as text, in the viewer's time zone, which is named."""
    return "–" if moment is None else f"{local(moment):%Y-%m-%d %H:%M} {_named(local(moment))}"


def _named(moment: datetime) -> str:
    name = moment.tzname() or "UTC"
    return f"UTC{name}" if name[0] in "+-" else name


def times(title: str, moments: Sequence[datetime | None]) -> dict[str, list[Any]]:
    """A column of a table, whose title names the viewer's time zone.

    Where a time is missing all are text, because a table shows *None* for one that is missing.
    """
    here = zone()
    name = here.key if isinstance(here, ZoneInfo) else "UTC"
    shown = [moment and local(moment).replace(tzinfo=None) for moment in moments]
    if None in shown:
        return {f"{title} ({name})": [f"{m:%Y-%m-%d %H:%M:%S}" if m else "" for m in shown]}
    return {f"{title} ({name})": shown}


def size(count: float) -> str:
    """Bytes in a readable unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


#: Stages that are called otherwise on pages than in the records.
_STAGES = {"shadow": "Compare profiles", "rescan": "Look again"}


def stage(name: str) -> str:
    """A stage of the work on an image, as pages call it."""
    return _STAGES.get(name, name.replace("_", " ").capitalize())


def number(value: float | None, digits: int = 3) -> str:
    """A measured number, unadjusted; – for none, ∞ for infinity."""
    if value is None:
        return "–"
    return "∞" if value == float("inf") else f"{value:.{digits}f}"


def figures(pairs: Sequence[tuple[str, str]]) -> None:
    """Large numbers side by side; two per row on a phone."""
    with st.container(horizontal=True):
        for name, value in pairs:
            st.metric(name, value, border=True, width=180)


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """A table of names and values."""
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in pairs
    )
    st.html(f"<table class='facts'>{rows}</table>")


def history(entries: Sequence[AuditEntry]) -> None:
    """Audit log entries as a sortable, searchable table."""
    st.dataframe(
        {
            **times("When", [e.occurred_at for e in entries]),
            "User": [e.actor for e in entries],
            "Role": [e.role for e in entries],
            "What": [meaning(e.action).words for e in entries],
            "Outcome": [e.outcome for e in entries],
            "Reason": [e.reason for e in entries],
            "Image": [e.image_id or "" for e in entries],
            "Patient": [e.patient_id or "" for e in entries],
            "Address": [e.origin for e in entries],
            "Action": [e.action for e in entries],
            "No.": [e.sequence for e in entries],
        },
        hide_index=True,
        column_config={
            "What": st.column_config.Column(width="medium"),
            "Outcome": st.column_config.Column(width="small"),
            "Action": st.column_config.Column(width="small", help="What the search finds it by"),
            "Reason": st.column_config.Column(width="medium"),
            "Image": st.column_config.Column(width="small"),
            "Patient": st.column_config.Column(width="small"),
            "No.": st.column_config.Column(width="small", pinned=True),
        },
    )


#: Usual windows of CT in Hounsfield units.
CT_WINDOWS = [
    {"name": name, "center": center, "width": width}
    for name, center, width in (
        ("soft tissue", 40, 400), ("lung", -600, 1500), ("bone", 480, 2500), ("brain", 40, 80),
    )
]  # fmt: skip


def windows(
    record: ImageRecord, own: Sequence[tuple[float, float]] = ()
) -> list[dict[str, Any]] | None:
    """Presets for the window controls; None for formats other than DICOM."""
    if record.format != Format.DICOM:
        return None
    named = [
        {"name": f"file {i}: {c:g} / {w:g}", "center": c, "width": w}
        for i, (c, w) in enumerate(own, 1)
    ]
    return named + (CT_WINDOWS if record.modality == "CT" else [])


def sealed_view(
    record: ImageRecord, regions: Sequence[SealedRegion], orientation: int
) -> dict[str, Any]:
    """Viewer data for the sealed image only; the Review page adds the original."""
    return {
        "id": f"{record.image_id}-{record.version}",
        "title": "Sealed image",
        **turned.size(record, orientation),
        "frames": record.frames,
        "masked": f"/api/images/{record.image_id}/frames/{{frame}}",
        "original": None,
        "window": windows(record),
        "display": f"/api/images/{record.image_id}/display"
        if record.format == Format.DICOM
        else None,
        "sides": [],
        "expires": None,
        "columns": [],
        "regions": [
            {
                "id": r.region_id,
                "number": number,
                "label": r.detection.label,
                "confidence": None if r.detection.source == "person" else r.detection.confidence,
                **turned.shown(r.detection.region, record, orientation).to_json(),
                "cells": [],
            }
            for number, r in enumerate(regions, 1)
        ],
    }

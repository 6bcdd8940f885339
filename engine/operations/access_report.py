"""Who has seen my images? The audit log of one patient, for the patient.

Somebody who does not know MedSec shall understand it: plain words instead of actions, a row for
what was done several times in one go, times with their zone. It says what people and MedSec itself
did with the patient's data, and what was refused. The patient is named by number only, for whoever
makes the report may not know more.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.errors import InputError
from engine.permissions import Role
from engine.records import AuditEntry, File
from engine.store.audit_vocabulary import meaning

#: The same action of the same person within this time of its last one is told once.
_ONE_GO = timedelta(minutes=5)
_ROLES = {Role.OPERATOR: "MedSec or its operator", Role.MONITOR: "monitoring system"}
_OUTCOMES = {
    "ok": "done",
    "completed": "done",
    "requested": "begun",
    "refused": "refused",
    "failed": "failed",
}
COLUMNS = ("When", "Who", "Role", "What", "Times", "Image", "Outcome", "Reason")


@dataclass(frozen=True)
class AccessLine:
    """What one person did, once or several times in one go.

    Args:
        at: The first time, UTC.
        until: The last time, UTC.
        who: Account, or ``system``.
        what: In plain words.
        image_id: Opaque key; empty where it was not about one image.
        times: How often.
        outcome: ``done``, ``refused``, ``failed``, or ``begun`` where the log has no end.
        emergency: Under emergency access.
    """

    at: datetime
    until: datetime
    who: str
    role: str
    what: str
    image_id: str
    times: int
    outcome: str
    reason: str = field(repr=False)
    emergency: bool


@dataclass(frozen=True)
class AccessReport:
    """The report about one patient.

    Args:
        number: The hospital's number of the patient.
        made_at: UTC.
        lines: Oldest first.
    """

    number: str = field(repr=False)
    made_at: datetime
    lines: tuple[AccessLine, ...]

    def table(self, zone: str) -> list[tuple[str, ...]]:
        """Its rows as text, in the order of ``COLUMNS``.

        Args:
            zone: Of the IANA database, for the times.

        Raises:
            InputError: There is no such zone.
        """
        local = _zone(zone)
        return [
            (
                f"{line.at.replace(tzinfo=UTC).astimezone(local):%Y-%m-%d %H:%M}",
                line.who,
                line.role,
                line.what + (" (emergency access)" if line.emergency else ""),
                str(line.times),
                line.image_id,
                line.outcome,
                line.reason,
            )
            for line in self.lines
        ]

    def csv(self, zone: str) -> File:
        """As CSV, UTF-8. Raises InputError where there is no such zone."""
        out = io.StringIO()
        table = csv.writer(out)
        table.writerow((f"When ({zone})", *COLUMNS[1:]))
        table.writerows([spreadsheet_text(cell) for cell in row] for row in self.table(zone))
        return File("access-report.csv", "text/csv", out.getvalue().encode())

    def pdf(self, zone: str) -> File:
        """As PDF on A4, landscape. Raises InputError where there is no such zone.

        Letters that its font lacks (Chinese, Japanese, Korean) are written as ``U+4E2D``; the CSV
        has them.
        """
        from engine.operations.report_page import Page  # what it draws with takes long to load

        rows = self.table(zone)
        page = Page()
        page.set_title("Who had access")
        page.set_creation_date(self.made_at.replace(tzinfo=UTC))
        page.add_page()
        page.set_font_size(15)
        page.cell(text="Who had access to your data", new_x="LMARGIN", new_y="NEXT", h=9)
        page.set_font_size(9)
        made = self.made_at.replace(tzinfo=UTC).astimezone(_zone(zone))
        page.multi_cell(
            0,
            5,
            page.shown(
                f"Patient number {self.number}. Made on {made:%Y-%m-%d %H:%M}; all times are those"
                f" of {zone}. The list has all that MedSec's audit log knows of your record and"
                " images: what was done, and what was refused. Lists of search results, which show"
                " many patients at once, are not in it."
            ),
            new_x="LMARGIN",
            new_y="NEXT",
        )
        page.ln(3)
        page.set_font_size(7.5)
        with page.table(
            col_widths=(17, 15, 15, 35, 7, 32, 10, 35),
            line_height=4,
            borders_layout="HORIZONTAL_LINES",
            text_align="LEFT",
            padding=(0.6, 1, 0.6, 0),
        ) as table:
            table.row(COLUMNS)
            for row in rows:
                table.row([page.shown(cell) for cell in row])
        if not rows:
            page.cell(text="Nobody has done anything with them.", new_x="LMARGIN", new_y="NEXT")
        return File("access-report.pdf", "application/pdf", bytes(page.output()))


def access_report(number: str, made_at: datetime, entries: Sequence[AuditEntry]) -> AccessReport:
    """The report from the entries of a patient, oldest first.

    Args:
        number: The hospital's number of the patient.
        made_at: UTC.
    """
    lines: list[AccessLine] = []
    newest: dict[AccessLine, int] = {}  # what was done in one go, without its times
    for line in _answered(entries):
        same = replace(line, at=made_at, until=made_at)
        place = newest.get(same)
        if place is not None and line.at - lines[place].until <= _ONE_GO:
            told = lines[place]
            lines[place] = replace(told, until=line.at, times=told.times + 1)
        else:
            newest[same] = len(lines)
            lines.append(line)
    return AccessReport(number, made_at, tuple(lines))


def _answered(entries: Sequence[AuditEntry]) -> list[AccessLine]:
    """A line for each entry; what was asked for and what came of it are one."""
    lines: list[AccessLine] = []
    asked: dict[tuple[str, str, str | None], int] = {}
    for entry in entries:
        who = (entry.actor, entry.action, entry.image_id)
        place = None if entry.outcome == "requested" else asked.pop(who, None)
        if place is None:
            lines.append(_line(entry))
        else:
            lines[place] = replace(lines[place], outcome=_OUTCOMES[entry.outcome])
        if entry.outcome == "requested":
            asked[who] = len(lines) - 1
    return lines


def _line(entry: AuditEntry) -> AccessLine:
    return AccessLine(
        entry.occurred_at,
        entry.occurred_at,
        entry.actor,
        _ROLES.get(Role(entry.role), entry.role),
        meaning(entry.action).words,
        entry.image_id or str(entry.detail.get("image", "")),
        1,
        _OUTCOMES[entry.outcome],
        entry.reason,
        "glass" in entry.detail,
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as err:
        raise InputError(
            "There is no such time zone. Give a name such as Europe/Berlin or UTC."
        ) from err


def spreadsheet_text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text

"""What leaves for whom: de-identification profiles by name, and pseudonyms that the hospital gives.

A profile is an audited row. A list of pseudonyms belongs to a recipient; it is sealed, and the
log has its length and digest, never a number or a pseudonym.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from engine.errors import InputError, NotFound
from engine.formats.dicom_profile import BASIC, Options
from engine.host import Host
from engine.records import Caller
from engine.store.audit import AuditLog, Event
from engine.store.audited_rows import AuditedRows
from engine.store.database import Cursor, Database
from engine.vault import derive, open_field, seal_field

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_RECIPIENT = re.compile(r"[^\x00-\x1f\x7f]{1,64}")
#: A value of LO: no backslash, no control character (PS3.5 6.2). It becomes a name as well.
_PSEUDONYM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}[A-Za-z0-9]|[A-Za-z0-9]")
MOST_PSEUDONYMS = 100_000


@dataclass(frozen=True)
class DeidProfile:
    """How copies for a recipient are de-identified.

    Args:
        name: Lower-case letters, digits and hyphens, at most 40.
        own: Made by an administrator; the others come with the product.
    """

    name: str
    description: str
    options: Options
    own: bool = True
    changed_at: datetime | None = None
    changed_by: str = ""


_EVERYTHING = Options(dates=True, characteristics=True, device=True, descriptors=True)
SHIPPED = {
    p.name: p
    for p in (
        DeidProfile("basic", "Basic Profile: no dates, no texts, no device", BASIC, own=False),
        DeidProfile(
            "follow-up",
            "Dates shifted by the same days, and characteristics of the patient",
            Options(dates=True, characteristics=True),
            own=False,
        ),
        DeidProfile(
            "research",
            "Shifted dates, characteristics, device, and descriptions without names",
            _EVERYTHING,
            own=False,
        ),
    )
}


def checked_recipient(name: str) -> str:
    """The name of a recipient. Raises InputError."""
    name = name.strip()
    if name and not _RECIPIENT.fullmatch(name):
        raise InputError("The name of the recipient is not valid. Use at most 64 characters.")
    return name


def pseudonyms_of(text: str) -> dict[str, str]:
    """A list of pseudonyms: two columns, the hospital's number and the pseudonym, with a header.

    Raises:
        InputError: A line is not of two values, a number or a pseudonym is there twice, or a
            pseudonym cannot stand in a DICOM header.
    """
    lines = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    found: dict[str, str] = {}
    for place, row in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not cells[0] or not _PSEUDONYM.fullmatch(cells[1]):
            raise InputError(
                f"Line {place} is not a number and a pseudonym. A pseudonym has 1 to 64 letters,"
                " digits, dots, hyphens, underscores and spaces."
            )
        if cells[0] in found:
            raise InputError(f"Line {place} names a number that was named before.")
        found[cells[0]] = cells[1]
    if not found or len(found) > MOST_PSEUDONYMS:
        raise InputError(
            f"A list has a line of headings and 1 to {MOST_PSEUDONYMS:,} lines of a number and a"
            " pseudonym."
        )
    if len(set(found.values())) < len(found):
        raise InputError("Two numbers have the same pseudonym. Each needs its own.")
    return found


class Recipients:
    """Profiles and lists of one catalog.

    Args:
        key: 32 bytes of the installation.
    """

    def __init__(self, database: Database, host: Host, key: bytes) -> None:
        self._database = database
        self._host = host
        self._key = derive(key, "recipient copies")
        self._lists = derive(key, "pseudonyms")
        self._rows = AuditedRows("deidentifications", host, derive(key, "deidentifications"))

    def key(self, recipient: str, patient_id: str) -> bytes:
        """32 bytes, of one patient and one recipient: identifiers and the shift of dates."""
        return derive(derive(self._key, f"recipient/{recipient}"), f"patient/{patient_id}")

    def profiles(self) -> dict[str, DeidProfile]:
        """Profiles by name. Raises SealBroken where a row was altered outside MedSec."""
        own = {
            name: DeidProfile(
                name,
                str(row.facts["description"]),
                Options.checked(row.facts["options"]),
                True,
                row.changed_at,
                row.changed_by,
            )
            for name, row in self._rows.all(self._database.read()).items()
        }
        return {**SHIPPED, **own}

    def profile(self, name: str) -> DeidProfile:
        """One profile. Raises InputError."""
        try:
            return self.profiles()[name]
        except KeyError as err:
            raise InputError("There is no such de-identification profile.") from err

    def save(self, tx: Cursor, audit: AuditLog, caller: Caller, profile: DeidProfile) -> None:
        """Write a profile, with its audit entry. Raises InputError."""
        if not _NAME.fullmatch(profile.name) or profile.name in SHIPPED:
            raise InputError(
                "The name is not valid. Use at most 40 lower-case letters, digits and hyphens, and"
                " none of the product's own names."
            )
        if len(profile.description) > 200 or not profile.description.isprintable():
            raise InputError("The description is not valid. Use at most 200 visible characters.")
        before = self._rows.all(tx).get(profile.name)
        facts = {"description": profile.description, "options": asdict(profile.options)}
        self._rows.put(tx, audit, caller, profile.name, facts, before.facts if before else None)

    def remove(self, tx: Cursor, audit: AuditLog, caller: Caller, name: str) -> None:
        """Take a profile away, with its audit entry. Raises NotFound."""
        before = self._rows.all(tx).get(name)
        if before is None:
            raise NotFound("There is no such de-identification profile.")
        self._rows.drop(tx, audit, caller, name, before.facts)

    def lists(self) -> list[str]:
        """Recipients for whom the hospital gave pseudonyms."""
        rows = self._database.read().all("SELECT recipient FROM pseudonyms ORDER BY recipient")
        return [str(row["recipient"]) for row in rows]

    def pseudonyms(self, recipient: str) -> Mapping[str, str] | None:
        """Pseudonyms by the hospital's number; None where there is no list.

        Raises:
            SealBroken: It was altered outside MedSec.
        """
        row = self._database.read().one(
            "SELECT sealed FROM pseudonyms WHERE recipient = $1", recipient
        )
        if row is None:
            return None
        opened = open_field(self._lists, f"pseudonyms/{recipient}", row["sealed"])
        found: dict[str, str] = json.loads(opened)
        return found

    def save_pseudonyms(
        self,
        tx: Cursor,
        audit: AuditLog,
        caller: Caller,
        recipient: str,
        pseudonyms: Mapping[str, str],
    ) -> None:
        """Write the list of a recipient in place of an earlier one, with its audit entry."""
        text = json.dumps(dict(pseudonyms), ensure_ascii=False).encode()
        sealed = seal_field(self._lists, f"pseudonyms/{recipient}", text, self._host.random)
        tx.run("DELETE FROM pseudonyms WHERE recipient = $1", recipient)
        tx.run(
            "INSERT INTO pseudonyms (recipient, sealed, changed_at, changed_by)"
            " VALUES ($1, $2, $3, $4)",
            recipient, sealed, self._host.now(), caller.username,
        )  # fmt: skip
        detail = {
            "recipient": recipient,
            "count": len(pseudonyms),
            "tag": hashlib.sha256(sealed).hexdigest(),
        }
        audit.append(tx, caller, Event("pseudonyms.save", detail=detail))

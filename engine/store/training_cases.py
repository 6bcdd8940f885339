"""Images in which something was missed, stored encrypted for training.

A case is the original with its boxes before and after the correction. It has its own key, wrapped
by the patient's key. It is deleted with the patient or the image, or after a time limit. Opening
an image never opens a case. A case is exported only encrypted to a key that the operator chooses,
for a separate training machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from engine.errors import SettingsError
from engine.formats.patches import pack, unpack
from engine.host import Host
from engine.records import Format
from engine.store.catalog import ImageRow
from engine.store.database import Cursor, Database
from engine.store.key_hierarchy import KeyHierarchy
from engine.vault import (
    Randomness,
    blind_index,
    new_key,
    open_field,
    root_keys,
    seal_field,
    unwrap_key,
    wrap_key,
)

SUFFIX = ".medsec-case"
#: One group of patients in so many is measured on and never learnt from.
HELD_OUT = 5
_KEY_FILE_HEAD = """\
# MedSec key for training cases: opens what was exported to it and nothing else.
# Keep it on the machine that trains.
"""


@dataclass(frozen=True)
class TrainingCase:
    """A case that is kept. Its original and boxes are not in here."""

    case_id: str
    patient_id: str
    image_id: str
    version: int
    kept_at: datetime
    exported_at: datetime | None
    size_bytes: int


@dataclass(frozen=True)
class OpenedCase:
    """A case as the machine that trains gets it.

    Args:
        name: Neutral file name with the original's suffix.
        before, after: Boxes as in ``gt.json``: class, x1, y1, x2, y2 (exclusive), frame, ...
        group: Stands for the patient, alike in all their cases, and names nobody; for cases
            exported by earlier releases, the case.
        device: Names and values that the file has of what made it.
    """

    case_id: str
    name: str
    profile: str
    modality: str
    original: bytes = field(repr=False)
    before: tuple[Mapping[str, Any], ...]
    after: tuple[Mapping[str, Any], ...]
    group: str = ""
    device: tuple[tuple[str, str], ...] = ()


def held_out(group: str) -> bool:
    """Is this group of cases one to measure on? The same on every machine and in every year."""
    digest = hashlib.sha256(f"medsec held out {group}".encode()).digest()
    return int.from_bytes(digest[:4]) % HELD_OUT == 0


class Training:
    """Cases of one catalog. Callers hold the transaction."""

    def __init__(self, database: Database, hierarchy: KeyHierarchy, host: Host) -> None:
        self._database = database
        self._hierarchy = hierarchy
        self._host = host

    def write(
        self,
        row: ImageRow,
        original: bytes,
        before: Sequence[Mapping[str, Any]],
        after: Sequence[Mapping[str, Any]],
        device: Sequence[Sequence[str]] = (),
    ) -> dict[str, Any]:
        """Encrypt a case into a file; :meth:`add` makes it one that is kept.

        Args:
            row: The image's row.
            device: Names and values that the file has of what made it.
        """
        case_id = self._host.token("tc")
        key = new_key(self._host.random)
        facts = {
            "suffix": f".{Format(row.format).suffix}",
            "profile": row.profile,
            "modality": row.modality,
            "before": list(before),
            "after": list(after),
            "device": [list(part) for part in device],
        }
        content = pack({"facts": json.dumps(facts).encode(), "original": original})
        sealed = seal_field(key, f"training/{case_id}", content, self._host.random)
        patient_key = self._hierarchy.patient_key(self._database.read(), row.patient_id)
        return {
            "case_id": case_id,
            "patient_id": row.patient_id,
            "image_id": row.image_id,
            "version": row.version,
            "wrapped_key": wrap_key(patient_key, key, f"training/{case_id}"),
            "blob": self._host.write_blob(sealed),
            "size_bytes": len(sealed),
            "kept_at": self._host.now(),
        }

    def add(self, tx: Cursor, case: Mapping[str, Any]) -> None:
        """Keep a case that was written."""
        tx.run(
            f"INSERT INTO training_cases ({', '.join(case)})"  # noqa: S608
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            *case.values(),
        )

    def cases(self) -> list[TrainingCase]:
        """All cases, oldest first."""
        rows = self._database.read().all("SELECT * FROM training_cases ORDER BY kept_at, case_id")
        return [
            TrainingCase(
                r["case_id"],
                r["patient_id"],
                r["image_id"],
                r["version"],
                r["kept_at"],
                r["exported_at"],
                r["size_bytes"],
            )
            for r in rows
        ]

    def sealed_to(self, case: TrainingCase, key: bytes) -> bytes:
        """One case as a file that opens with this key only.

        Raises:
            SealError: The case was altered, or its key was destroyed.
            NotFound: Its file is gone.
        """
        named = pack(
            {
                "case_id": case.case_id.encode(),
                "group": self._group(case).encode(),
                "content": self._content(case),
            }
        )
        return seal_field(key, "training export", named, self._host.random)

    def opened(self, case: TrainingCase) -> OpenedCase:
        """One case in memory, to measure networks on. Raises as :meth:`sealed_to`."""
        return _opened(case.case_id, self._content(case), self._group(case))

    def _group(self, case: TrainingCase) -> str:
        """One name for all cases of a patient, from which the patient cannot be computed."""
        key = self._hierarchy.system_key("index")
        return blind_index(key, "training/patient", case.patient_id.encode()).hex()[:16]

    def _content(self, case: TrainingCase) -> bytes:
        tx = self._database.read()
        row = tx.one("SELECT * FROM training_cases WHERE case_id = $1", case.case_id) or {}
        patient_key = self._hierarchy.patient_key(tx, case.patient_id)
        own = unwrap_key(patient_key, row["wrapped_key"], f"training/{case.case_id}")
        return open_field(own, f"training/{case.case_id}", self._host.read_blob(row["blob"]))

    def exported(self, tx: Cursor, case_id: str) -> None:
        """Record that a case was exported."""
        tx.run(
            "UPDATE training_cases SET exported_at = $2 WHERE case_id = $1",
            case_id,
            self._host.now(),
        )

    def expire(self, tx: Cursor, days: int) -> list[str]:
        """Drop cases that are older; returns addresses of files that nothing needs any more."""
        before = self._host.now() - timedelta(days=days)
        rows = tx.all("SELECT blob FROM training_cases WHERE kept_at < $1", before)
        tx.run("DELETE FROM training_cases WHERE kept_at < $1", before)
        return [r["blob"] for r in rows]

    def move(self, tx: Cursor, old: bytes, new: bytes, into_id: str, gone_id: str) -> None:
        """Re-wrap a patient's cases for the patient they were merged into."""
        for row in tx.all("SELECT * FROM training_cases WHERE patient_id = $1", gone_id):
            context = f"training/{row['case_id']}"
            key = unwrap_key(old, row["wrapped_key"], context)
            tx.run(
                "UPDATE training_cases SET patient_id = $2, wrapped_key = $3 WHERE case_id = $1",
                row["case_id"],
                into_id,
                wrap_key(new, key, context),
            )


def export_key(file: Path, randomness: Randomness) -> bytes:
    """The key of a file, which is made where there is none; mode 0600.

    Raises:
        SettingsError: It holds no key or several, or others can read it.
    """
    path = root_keys.resolved(file)
    if not path.exists():
        line = root_keys.line_of(new_key(randomness))
        root_keys.create_file(path, _KEY_FILE_HEAD + line)
    return _read_key(path)


def open_case(sealed: bytes, key_file: Path) -> OpenedCase:
    """Open an exported case, on the machine that trains.

    Raises:
        SettingsError: The file holds no key or several.
        SealBroken: It was sealed to another key, or altered.
    """
    named = unpack(open_field(_read_key(root_keys.resolved(key_file)), "training export", sealed))
    case_id = named["case_id"].decode()
    return _opened(case_id, named["content"], named.get("group", b"").decode() or case_id)


def _opened(case_id: str, content: bytes, group: str) -> OpenedCase:
    parts = unpack(content)
    facts = json.loads(parts["facts"])
    return OpenedCase(
        case_id,
        f"{case_id}{facts['suffix']}",
        facts["profile"],
        facts["modality"],
        parts["original"],
        tuple(facts["before"]),
        tuple(facts["after"]),
        group,
        tuple((str(name), str(value)) for name, value in facts.get("device", ())),
    )


def _read_key(path: Path) -> bytes:
    keys = root_keys.parse(root_keys.read_file(path), str(path))
    if len(keys) != 1:
        raise SettingsError(f"The file {path} must contain exactly one key.")
    return keys[0]

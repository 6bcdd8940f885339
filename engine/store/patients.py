"""Patients and notes; all personal data is encrypted with the patient's own key.

Search without names on disk: for each word of a name and each part of a number, the catalog stores
keyed hashes of its first 3, 4 and 5 characters, of the whole where it is shorter, and the same of
the number without its separators. The words of a query are hashed in the same way, and matching
records are decrypted and compared in memory. So a search finds words and numbers by their first
three or more characters. An attacker without keys sees that records share a beginning, but not
which.

An older version of a record can be decrypted with the same key, so encryption alone does not prove
that it is the newest. Every change writes a tag of the record to the audit log, in the same
transaction. A record is refused if the log has a newer tag.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from engine.errors import InputError, NotFound, SealBroken, SealError
from engine.formats.stand_ins import is_stand_in
from engine.host import Host
from engine.records import Note, Patient
from engine.store.database import Cursor, Database, Row
from engine.store.key_hierarchy import KeyHierarchy
from engine.vault import blind_index, derive, open_field, pack, seal_field

log = logging.getLogger("medsec")

ID_LENGTH = 50
NAME_LENGTH = 100
NOTE_LENGTH = 10_000
MAX_AGE = 130
SHORTEST_QUERY = 3
#: Shown in lists for a record that was altered or cannot be decrypted.
DAMAGED: dict[str, Any] = {
    "id": "?",
    "name": "Damaged record: tell the administrator",
    "age": None,
    "note": "",
}
_PREFIXES = (3, 4, 5)
_INDEXED_AT_ONCE = 500
#: Marks that turn the direction of text around: a name must read as it is stored.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Patients:
    """Patient rows of one catalog."""

    def __init__(self, database: Database, hierarchy: KeyHierarchy, host: Host) -> None:
        self._database = database
        self._hierarchy = hierarchy
        self._host = host

    def create(self, tx: Cursor, *, id: str, name: str, age: int | None, note: str) -> Patient:
        """Add a patient under a fresh key.

        Raises:
            InputError: A field is too long, empty or taken, or the number stands for nobody.
        """
        fields = validated(id=id, name=name, age=age, note=note)
        _refuse_stand_in(fields["id"])
        patient_id = self._host.token("pt")
        key, root_key_id, wrapped = self._hierarchy.new_patient_key(patient_id)
        index = self._id_index(fields["id"])
        self._refuse_taken(tx, index, patient_id)
        now = self._host.now()
        tx.run(
            "INSERT INTO patients VALUES ($1, $2, $3, $4, $5, $6, $6, NULL)",
            patient_id,
            root_key_id,
            wrapped,
            index,
            self.seal_record(key, patient_id, fields),
            now,
        )
        self._write_tokens(tx, patient_id, fields)
        return self.get(tx, patient_id)

    def update(
        self, tx: Cursor, patient_id: str, changed_by: str, **changes: Any
    ) -> tuple[Patient, list[str]]:
        """Change fields; the record before goes to the history.

        Returns:
            The patient, and the names of the fields that changed.

        Raises:
            InputError: A field is too long, empty or taken, or the number stands for nobody.
            NotFound: No such patient.
            SealBroken: The record was altered.
        """
        row = self._row(tx, patient_id)
        key = self._hierarchy.patient_key(tx, patient_id)
        self._refuse_older(tx, key, row)
        before = self.open_record(key, row)
        fields = validated(**{**before, **changes})
        changed = _differing(before, fields)
        if not changed:
            return self.get(tx, patient_id), []
        if "id" in changed:  # a record that was made with such a number stays editable
            _refuse_stand_in(fields["id"])
        index = self._id_index(fields["id"])
        self._refuse_taken(tx, index, patient_id)
        now = self._host.now()
        tx.run(
            "INSERT INTO patient_history (patient_id, changed_at, changed_by, record)"
            " VALUES ($1, $2, $3, $4)",
            patient_id,
            now,
            changed_by,
            row["record"],
        )
        tx.run(
            "UPDATE patients SET record = $2, updated_at = $3 WHERE patient_id = $1",
            patient_id,
            self.seal_record(key, patient_id, fields),
            now,
        )
        if index != row["id_index"]:
            tx.run("UPDATE patients SET id_index = $2 WHERE patient_id = $1", patient_id, index)
        tx.run("DELETE FROM search_tokens WHERE patient_id = $1", patient_id)
        self._write_tokens(tx, patient_id, fields)
        # The log hears of it only after this, so the new record cannot be looked up there yet.
        return _patient(self._row(tx, patient_id), fields, self._images(tx, patient_id)), changed

    def tag(self, tx: Cursor, patient_id: str) -> str:
        """Keyed hash of the stored record, for the audit log: the newest is the one it names."""
        return _tag(self._hierarchy.patient_key(tx, patient_id), self._row(tx, patient_id))

    def keys(self, tx: Cursor) -> list[str]:
        """Opaque keys of all patients who are not erased."""
        rows = tx.all("SELECT patient_id FROM patients WHERE erased_at IS NULL")
        return [row["patient_id"] for row in rows]

    def get(self, tx: Cursor, patient_id: str) -> Patient:
        """One patient, opened.

        Raises:
            NotFound: No such patient, or erased.
            SealBroken: The record was altered, or is an older one put back.
        """
        row = self._row(tx, patient_id)
        key = self._hierarchy.patient_key(tx, patient_id)
        self._refuse_older(tx, key, row)
        return _patient(row, self.open_record(key, row), self._images(tx, patient_id))

    def refuse_erased(self, tx: Cursor, patient_id: str) -> None:
        """Raises NotFound if the patient does not exist or was erased; decrypts no record."""
        self._row(tx, patient_id)

    def _images(self, tx: Cursor, patient_id: str) -> int:
        return tx.count(
            "SELECT count(*) FROM images WHERE patient_id = $1 AND state <> 'erased'", patient_id
        )

    def _refuse_older(self, tx: Cursor, key: bytes, row: Row) -> None:
        """Raises SealBroken if the log has a newer record than this row."""
        _compare(self._newest(tx, [row["patient_id"]]), key, row)

    def _newest(self, tx: Cursor, patient_ids: Sequence[str]) -> dict[str, str]:
        """The tag that the log knows last, by patient. Records older than tags have none."""
        rows = tx.all(
            "SELECT patient_id, CASE WHEN action IN ('patient.create', 'patient.update',"
            " 'patient.merge') THEN detail ->> 'tag' ELSE 'gone' END AS tag FROM audit"
            " WHERE action IN ('patient.create', 'patient.update', 'patient.merge',"
            " 'patient.erase', 'patient.merged') AND outcome = 'ok'"
            " AND patient_id IN (SELECT unnest($1::VARCHAR[])) ORDER BY sequence",
            list(patient_ids),
        )
        return {r["patient_id"]: r["tag"] for r in rows if r["tag"] is not None}

    def find_id(self, tx: Cursor, id: str) -> str | None:
        """The opaque key of the patient with this hospital number, present or merged away."""
        row = tx.one(
            "SELECT patient_id FROM patients WHERE id_index = $1 UNION ALL"
            " SELECT into_id FROM patient_merges WHERE id_index = $1",
            self._id_index(id),
        )
        return None if row is None else str(row["patient_id"])

    def known(self, tx: Cursor, name: str) -> str | None:
        """The opaque key for an opaque key or a hospital number, if there is such a patient.

        Keys and numbers that were merged away give the patient they were merged into.
        """
        row = tx.one(
            "SELECT patient_id FROM patients WHERE patient_id = $1 AND erased_at IS NULL UNION ALL"
            " SELECT into_id FROM patient_merges JOIN patients p ON p.patient_id = into_id"
            " WHERE patient_merges.patient_id = $1 AND p.erased_at IS NULL",
            name,
        )
        return self.find_id(tx, name) if row is None else str(row["patient_id"])

    def search(
        self, query: str, limit: int, offset: int, only: Sequence[str] | None = None
    ) -> list[Patient]:
        """Patients whose number is the query or begins with it, or who have words like its words.

        Each word of the query must begin a word of the name or a part of the number.

        Args:
            query: Empty for all, most recently changed first.
            only: Keys of patients who may be found; None for all.
        """
        tx = self._database.read()
        among = "($3::VARCHAR[] IS NULL OR patient_id IN (SELECT unnest($3::VARCHAR[])))"
        only = None if only is None else list(only)
        words = _words(query)
        if not query.strip():
            rows = tx.all(
                f"SELECT * FROM patients WHERE erased_at IS NULL AND {among}"  # noqa: S608
                " ORDER BY updated_at DESC, patient_id LIMIT $1 OFFSET $2",
                limit,
                offset,
                only,
            )
            return self._opened(tx, rows, [])
        exact = self.find_id(tx, query)
        if only is not None and exact not in only:
            exact = None
        found = [] if exact is None else self._opened(tx, [self._row(tx, exact)], [])
        # Shorter words are found only as whole names ("Li"), unless a longer word narrows enough.
        searchable = [w for w in words if len(w) >= SHORTEST_QUERY] or words
        tokens = {self._token(w) for w in searchable}
        whole = self._token(_joined(query))
        rows = tx.all(
            "SELECT * FROM patients WHERE erased_at IS NULL AND patient_id IN"  # noqa: S608
            " (SELECT patient_id FROM search_tokens WHERE token IN (SELECT unnest($1::BLOB[]))"
            " GROUP BY patient_id HAVING count(DISTINCT token) = $2"
            f" UNION SELECT patient_id FROM search_tokens WHERE token = $4) AND {among}"
            " ORDER BY updated_at DESC, patient_id",
            sorted(tokens),
            len(tokens),
            only,
            whole,
        )
        matches = [p for p in self._opened(tx, rows, words, query) if p.patient_id != exact]
        return (found + matches)[offset : offset + limit]

    def index(self) -> int:
        """Make records searchable that an earlier release left with other hashes, or with none.

        Returns:
            How many there were.
        """
        rows = self._database.read().all(
            "SELECT * FROM patients WHERE erased_at IS NULL AND patient_id NOT IN"
            " (SELECT patient_id FROM search_tokens)"
        )
        for start in range(0, len(rows), _INDEXED_AT_ONCE):
            with self._database.write() as tx:
                for row in rows[start : start + _INDEXED_AT_ONCE]:
                    try:
                        key = self._hierarchy.patient_key_of(row["patient_id"], row)
                        self._write_tokens(tx, row["patient_id"], self.open_record(key, row))
                    except SealError as err:  # the integrity check reports it
                        log.error("patient %s: %s", row["patient_id"], err.code)
        return len(rows)

    def history(self, tx: Cursor, patient_id: str) -> list[dict[str, Any]]:
        """Earlier versions of a record, newest first.

        Returns:
            Per version changed_at, changed_by, ``changed`` (names of the fields that were
            then changed), ``merged`` (it was another patient's record, merged into this one),
            and the fields as they were before.
        """
        key = self._hierarchy.patient_key(tx, patient_id)
        later = self.open_record(key, self._row(tx, patient_id))
        rows = tx.all(
            "SELECT * FROM patient_history WHERE patient_id = $1 ORDER BY changed_at DESC,"
            " rowid DESC",
            patient_id,
        )
        versions = []
        for row in rows:
            fields = self.open_record(key, row)
            versions.append(
                {
                    "changed_at": row["changed_at"],
                    "changed_by": row["changed_by"],
                    "changed": [] if row["merged"] else _differing(fields, later),
                    "merged": row["merged"],
                    **fields,
                }
            )
            later = later if row["merged"] else fields
        return versions

    def erase(self, tx: Cursor, patient_id: str) -> None:
        """Destroy the patient's key and all search hashes.

        Raises:
            NotFound: No such patient.
        """
        self._row(tx, patient_id)
        now = self._host.now()
        tx.run(
            "UPDATE patients SET wrapped_key = NULL, root_key_id = NULL, id_index = NULL,"
            " record = NULL, erased_at = $2, updated_at = $2 WHERE patient_id = $1",
            patient_id,
            now,
        )
        for table in ("search_tokens", "patient_history", "notes"):
            tx.run(f"DELETE FROM {table} WHERE patient_id = $1", patient_id)  # noqa: S608
        # An older backup knows those that were merged into this one as patients of their own.
        tx.run(
            "INSERT INTO erasures SELECT patient_id, 'patient', $2, false FROM patient_merges"
            " WHERE into_id = $1 ON CONFLICT DO NOTHING",
            patient_id,
            now,
        )
        tx.run("UPDATE patient_merges SET id_index = NULL WHERE into_id = $1", patient_id)
        tx.run("INSERT INTO erasures VALUES ($1, 'patient', $2, false)", patient_id, now)

    def add_note(
        self, tx: Cursor, patient_id: str, image_id: str | None, author: str, text: str
    ) -> Note:
        """Add a note; notes cannot be changed.

        Raises:
            InputError: Empty or too long.
            NotFound: No such patient.
        """
        text = text.strip()
        if not 1 <= len(text) <= NOTE_LENGTH or not _writable(text):
            raise InputError(f"The note is empty or too long. Use 1 to {NOTE_LENGTH} characters.")
        self._row(tx, patient_id)
        key = self._hierarchy.patient_key(tx, patient_id)
        note_id = self._host.token("no")
        now = self._host.now()
        context = note_context(note_id, image_id, author, now)
        sealed = seal_field(key, context, text.encode(), self._host.random)
        tx.run(
            "INSERT INTO notes VALUES ($1, $2, $3, $4, $5, $6)",
            note_id,
            patient_id,
            image_id,
            author,
            now,
            sealed,
        )
        return Note(note_id, patient_id, image_id, author, now, text)

    def notes(self, tx: Cursor, patient_id: str, image_id: str | None) -> list[Note]:
        """Notes of a patient, or of one image, newest first."""
        rows = tx.all(
            "SELECT * FROM notes WHERE patient_id = $1 AND ($2::VARCHAR IS NULL OR image_id = $2)"
            " ORDER BY written_at DESC, note_id",
            patient_id,
            image_id,
        )
        key = self._hierarchy.patient_key(tx, patient_id) if rows else b""
        return [
            Note(
                r["note_id"],
                r["patient_id"],
                r["image_id"],
                r["author"],
                r["written_at"],
                open_field(
                    key,
                    note_context(r["note_id"], r["image_id"], r["author"], r["written_at"]),
                    r["text"],
                ).decode(),
            )
            for r in rows
        ]

    def _opened(
        self, tx: Cursor, rows: list[Row], words: list[str], number: str = ""
    ) -> list[Patient]:
        """Open rows and keep those that have, for each word, one beginning with it in their name
        or number, or whose number begins with this one.

        A row that does not open is listed as :data:`DAMAGED` where no word is asked for.
        """
        counts = {
            r["patient_id"]: r["n"]
            for r in tx.all(
                "SELECT patient_id, count(*) AS n FROM images WHERE state <> 'erased'"
                " AND patient_id IN (SELECT unnest($1::VARCHAR[])) GROUP BY patient_id",
                [r["patient_id"] for r in rows],
            )
        }
        newest = self._newest(tx, [r["patient_id"] for r in rows])
        found = []
        for row in rows:
            try:
                key = self._hierarchy.patient_key_of(row["patient_id"], row)
                _compare(newest, key, row)
                fields = self.open_record(key, row)
            except SealError as err:
                # A damaged record must not hide all others; the integrity check reports it.
                log.error("patient %s: %s", row["patient_id"], err.code)
                if not words:
                    found.append(_patient(row, DAMAGED, counts.get(row["patient_id"], 0)))
                continue
            own = [*_words(fields["name"]), *_parts(fields["id"])]
            begins = number and _joined(fields["id"]).startswith(_joined(number))
            if begins or all(any(n.startswith(w) for n in own) for w in words):
                found.append(_patient(row, fields, counts.get(row["patient_id"], 0)))
        return found

    def _row(self, tx: Cursor, patient_id: str) -> Row:
        row = tx.one(
            "SELECT * FROM patients WHERE patient_id = $1 AND erased_at IS NULL", patient_id
        )
        if row is None:
            raise NotFound("There is no such patient.")
        return row

    def _refuse_taken(self, tx: Cursor, index: bytes, patient_id: str) -> None:
        taken = tx.one(
            "SELECT patient_id FROM patients WHERE id_index = $1 UNION ALL"
            " SELECT into_id AS patient_id FROM patient_merges WHERE id_index = $1",
            index,
        )
        if taken is not None and taken["patient_id"] != patient_id:
            raise InputError(
                "A patient with this number already exists. Choose that patient, or check the"
                " number.",
                patient_id=taken["patient_id"],
            )

    def _write_tokens(self, tx: Cursor, patient_id: str, fields: dict[str, Any]) -> None:
        tokens = set()
        for word in (*_words(fields["name"]), *_parts(fields["id"]), _joined(fields["id"])):
            tokens |= {self._hash(word[:n]) for n in _PREFIXES if len(word) >= n}
            if len(word) < SHORTEST_QUERY:
                tokens.add(self._hash(word))
        tx.run_many(
            "INSERT INTO search_tokens VALUES ($1, $2)", [(patient_id, t) for t in sorted(tokens)]
        )

    def _token(self, word: str) -> bytes:
        """The stored token that every record with a word beginning like this one has."""
        return self._hash(word[: max(_PREFIXES)])

    def _hash(self, text: str) -> bytes:
        return blind_index(self._hierarchy.system_key("index"), "patient/name", text)

    def _id_index(self, id: str) -> bytes:
        return blind_index(self._hierarchy.system_key("index"), "patient/id", id.strip().casefold())

    def seal_record(self, key: bytes, patient_id: str, fields: dict[str, Any]) -> bytes:
        """Fields as the catalog keeps them, bound to the patient."""
        text = json.dumps(fields, ensure_ascii=False).encode()
        return seal_field(key, f"patient/{patient_id}", text, self._host.random)

    def open_record(self, key: bytes, row: Row) -> dict[str, Any]:
        """The fields of a row of ``patients`` or ``patient_history``. Raises SealBroken."""
        text = open_field(key, f"patient/{row['patient_id']}", row["record"])
        fields: dict[str, Any] = json.loads(text)
        return fields


def validated(*, id: str, name: str, age: int | None, note: str) -> dict[str, Any]:
    """The fields of a record, trimmed and within F39's limits.

    Raises:
        InputError: Which field, and what it may be.
    """
    for text in (id, name, note or ""):
        if not isinstance(text, str):
            raise InputError("Number, name and note of a patient must be text.")
    id, name, note = id.strip(), " ".join(name.split()), (note or "").strip()
    if not 1 <= len(id) <= ID_LENGTH or not _one_line(id):
        raise InputError(
            f"The patient number is not valid. Use 1 to {ID_LENGTH} visible characters."
        )
    if not 1 <= len(name) <= NAME_LENGTH or not _one_line(name):
        raise InputError(
            f"The patient name is not valid. Use 1 to {NAME_LENGTH} visible characters."
        )
    if age is not None and (type(age) is not int or not 0 <= age <= MAX_AGE):
        raise InputError(f"The age is not valid. Use a whole number from 0 to {MAX_AGE}.")
    if len(note) > NOTE_LENGTH or not _writable(note):
        raise InputError(f"The note is too long. Use at most {NOTE_LENGTH} characters.")
    return {"id": id, "name": name, "age": age, "note": note}


def _refuse_stand_in(number: str) -> None:
    if is_stand_in(number):
        raise InputError(
            "This number stands for no patient: files of other people have it too. Use a number"
            " that only this patient has."
        )


def _one_line(text: str) -> bool:
    return _writable(text) and not any(
        unicodedata.category(c) == "Cc" or c in _TURNING for c in text
    )


def _writable(text: str) -> bool:
    """Can it be stored? Halves of characters, which some clients send, cannot."""
    return not any(unicodedata.category(c) == "Cs" for c in text)


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(name for name in after if before.get(name) != after[name])


def _tag(key: bytes, row: Row) -> str:
    parts = (row["patient_id"].encode(), bytes(row["record"]), bytes(row["id_index"]))
    return blind_index(derive(key, "patient row"), "patient", pack(*parts)).hex()


def _compare(newest: dict[str, str], key: bytes, row: Row) -> None:
    known = newest.get(row["patient_id"])
    if known is not None and not hmac.compare_digest(known, _tag(key, row)):
        raise SealBroken(
            "This record was replaced by an older version. Restore it from a backup.",
            patient_id=row["patient_id"],
        )


def note_context(note_id: str, image_id: str | None, author: str, at: datetime) -> str:
    return f"note/{note_id}/{image_id or ''}/{at.isoformat()}/{author}"


#: Letters with a stroke and ligatures, which have no decomposition (UAX 15): as people type them
#: on another keyboard.
_PLAIN = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th",
     "ð": "d"}
)  # fmt: skip


def _words(text: str) -> list[str]:
    """Words without case, accents and strokes: Müller is found as muller, Łukasz as lukasz."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(c if c.isalnum() else " " for c in plain if not unicodedata.combining(c))
    return plain.translate(_PLAIN).split()


def _joined(number: str) -> str:
    """A number without its separators: MS-2042 as ms2042."""
    return "".join(_words(number))


def _parts(number: str) -> list[str]:
    """What a number consists of, also where no separator is: MS2042 is ms and 2042."""
    return [part for word in _words(number) for part in re.findall(r"\d+|\D+", word)]


def _patient(row: Row, fields: dict[str, Any], images: int) -> Patient:
    return Patient(
        patient_id=row["patient_id"],
        id=fields["id"],
        name=fields["name"],
        age=fields["age"],
        note=fields["note"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        image_count=images,
    )

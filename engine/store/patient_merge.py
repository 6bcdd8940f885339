"""Merge two records of one person: all data of one is re-encrypted under the other.

The number of the duplicate then refers to the remaining record, and its last state is kept in the
history. Its key is destroyed, so a merge cannot be undone. Erasing the remaining record also erases
what was merged into it, in older backups too.
"""

from __future__ import annotations

from engine.host import Host
from engine.store.catalog import Catalog
from engine.store.database import Cursor
from engine.store.key_hierarchy import KeyHierarchy
from engine.store.patients import Patients, note_context
from engine.store.studies import Studies
from engine.store.training_cases import Training
from engine.vault import open_field, seal_field


class PatientMerge:
    """Merges patients of one catalog. Callers hold the transaction."""

    def __init__(
        self,
        patients: Patients,
        catalog: Catalog,
        training: Training,
        studies: Studies,
        hierarchy: KeyHierarchy,
        host: Host,
    ) -> None:
        self._patients = patients
        self._catalog = catalog
        self._training = training
        self._studies = studies
        self._hierarchy = hierarchy
        self._host = host

    def merge(self, tx: Cursor, into_id: str, gone_id: str, by: str) -> dict[str, str]:
        """Move all data of one patient to another and destroy the first one's key.

        Returns:
            The new tag of every image that moved, by image id, for the audit log.

        Raises:
            NotFound: One of them does not exist.
            SealBroken: A record, note or image of the one that goes was altered; nothing moved.
        """
        gone, _ = self._patients.get(tx, gone_id), self._patients.get(tx, into_id)
        old = self._hierarchy.patient_key(tx, gone_id)
        new = self._hierarchy.patient_key(tx, into_id)
        tags = {}
        for image_id in self._catalog.of_patient(tx, gone_id):
            key = self._hierarchy.image_key(tx, image_id)
            wrapped = self._hierarchy.wrap_image_key(new, image_id, key)
            tags[image_id] = self._catalog.change(
                tx, key, image_id, patient_id=into_id, wrapped_key=wrapped
            )
        self._training.move(tx, old, new, into_id, gone_id)
        self._studies.move(tx, old, new, into_id, gone_id)
        self._move_notes(tx, old, new, into_id, gone_id)
        self._move_history(tx, old, new, into_id, gone_id)
        now = self._host.now()
        last = {"id": gone.id, "name": gone.name, "age": gone.age, "note": gone.note}
        tx.run(
            "INSERT INTO patient_history (patient_id, changed_at, changed_by, record, merged)"
            " VALUES ($1, $2, $3, $4, true)",
            into_id,
            now,
            by,
            self._patients.seal_record(new, into_id, last),
        )
        index = tx.one("SELECT id_index FROM patients WHERE patient_id = $1", gone_id)
        tx.run(
            "INSERT INTO patient_merges VALUES ($1, $2, $3, $4, $5)",
            gone_id,
            into_id,
            None if index is None else index["id_index"],
            now,
            by,
        )
        tx.run("UPDATE patient_merges SET into_id = $2 WHERE into_id = $1", gone_id, into_id)
        tx.run(
            "UPDATE patients SET wrapped_key = NULL, root_key_id = NULL, id_index = NULL,"
            " record = NULL, erased_at = $2, updated_at = $2 WHERE patient_id = $1",
            gone_id,
            now,
        )
        tx.run("DELETE FROM search_tokens WHERE patient_id = $1", gone_id)
        return tags

    def _move_notes(self, tx: Cursor, old: bytes, new: bytes, into_id: str, gone_id: str) -> None:
        for note in tx.all("SELECT * FROM notes WHERE patient_id = $1", gone_id):
            context = note_context(
                note["note_id"], note["image_id"], note["author"], note["written_at"]
            )
            text = open_field(old, context, note["text"])
            tx.run(
                "UPDATE notes SET patient_id = $2, text = $3 WHERE note_id = $1",
                note["note_id"],
                into_id,
                seal_field(new, context, text, self._host.random),
            )

    def _move_history(self, tx: Cursor, old: bytes, new: bytes, into_id: str, gone_id: str) -> None:
        rows = tx.all("SELECT * FROM patient_history WHERE patient_id = $1", gone_id)
        tx.run("DELETE FROM patient_history WHERE patient_id = $1", gone_id)
        tx.run_many(
            "INSERT INTO patient_history (patient_id, changed_at, changed_by, record, merged)"
            " VALUES ($1, $2, $3, $4, true)",
            [
                (
                    into_id,
                    row["changed_at"],
                    row["changed_by"],
                    self._patients.seal_record(new, into_id, self._patients.open_record(old, row)),
                )
                for row in rows
            ],
        )

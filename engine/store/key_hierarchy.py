"""The key hierarchy in the catalog: the root wraps patient keys, which wrap image keys.

Every key below the root is random and stored only wrapped (AES-KWP), so that it can be
rotated by re-wrapping and erased by deleting the wrapped key. Keys that belong to no patient
(search index, audit reasons, signatures) are *system keys*, wrapped by the root as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.errors import UnknownKey
from engine.host import Host
from engine.store.database import Cursor, Database, Row
from engine.vault import Keyring, Signer, derive, new_key, unwrap_key, wrap_key

#: Keys of the installation: keyed hashes for search and duplicates, audit reasons, signatures.
SYSTEM_KEYS = ("index", "audit", "signature", "tokens", "models", "factors", "network", "release")
ROTATION_BATCH = 500


class KeyHierarchy:
    """All keys of one catalog, opened with one keyring."""

    def __init__(self, database: Database, keyring: Keyring, host: Host) -> None:
        self._database = database
        self._keyring = keyring
        self._host = host
        self._system: dict[str, bytes] = {}

    @property
    def root_key_ids(self) -> tuple[str, ...]:
        """Ids of the available root keys, oldest first."""
        return self._keyring.ids

    @property
    def log_id(self) -> str:
        """Name of this installation's audit log, from its public signature key."""
        return self.signer().public_bytes.hex()[:16]

    def open(self) -> None:
        """Compare the keyring with the check values in the catalog and open the system keys.

        Raises:
            SettingsError: A root key is missing or is another one than before.
        """
        self._record_root_keys()
        self._open_system_keys()

    def _record_root_keys(self) -> None:
        rows = self._database.read().all(
            "SELECT key_id, check_value, key_id IN (SELECT root_key_id FROM system_keys UNION"
            " SELECT root_key_id FROM patients) AS in_use FROM root_keys"
        )
        known = {r["key_id"]: r["check_value"] for r in rows}
        # An old key that wraps nothing any more may go, once no backup needs it.
        self._keyring.verify({r["key_id"]: r["check_value"] for r in rows if r["in_use"]})
        missing = [key_id for key_id in self._keyring.ids if key_id not in known]
        if missing:
            with self._database.write() as tx:
                tx.run_many(
                    "INSERT INTO root_keys VALUES ($1, $2, $3)",
                    [(k, self._keyring.check_value(k), self._host.now()) for k in missing],
                )

    def system_key(self, name: str) -> bytes:
        """A 32-byte key of the installation, one of ``SYSTEM_KEYS``."""
        return self._system[name]

    def _open_system_keys(self) -> None:
        """Made once, at the first start: a key made inside a change that is then rolled back
        would seal data that nothing opens."""
        rows = {r["name"]: r for r in self._database.read().all("SELECT * FROM system_keys")}
        for name in SYSTEM_KEYS:
            context = f"system/{name}"
            if name in rows:
                row = rows[name]
                key = self._keyring.unwrap(row["root_key_id"], row["wrapped_key"], context)
            else:
                key = new_key(self._host.random)
                with self._database.write() as tx:
                    tx.run(
                        "INSERT INTO system_keys VALUES ($1, $2, $3)",
                        name,
                        *self._keyring.wrap(key, context),
                    )
            self._system[name] = key

    def signer(self) -> Signer:
        """The installation's Ed25519 key, for audit checkpoints and key exchange."""
        return Signer(self.system_key("signature"))

    def release_signer(self) -> Signer:
        """The installation's Ed25519 key for statements of cohorts, and for nothing else."""
        return Signer(derive(self.system_key("signature"), "release"))

    def new_patient_key(self, patient_id: str) -> tuple[bytes, str, bytes]:
        """A fresh key and how it is stored: (key, root key id, wrapped)."""
        key = new_key(self._host.random)
        key_id, wrapped = self._keyring.wrap(key, f"patient/{patient_id}")
        return key, key_id, wrapped

    def patient_key(self, tx: Cursor, patient_id: str) -> bytes:
        """Unwrap a patient's key.

        Raises:
            UnknownKey: There is none, or it was destroyed.
            SealBroken: The stored key was altered.
        """
        row = tx.one(
            "SELECT root_key_id, wrapped_key FROM patients WHERE patient_id = $1", patient_id
        )
        if row is None or row["wrapped_key"] is None:
            raise UnknownKey("This patient's key was destroyed.", patient_id=patient_id)
        return self.patient_key_of(patient_id, row)

    def patient_key_of(self, patient_id: str, row: Row) -> bytes:
        """Unwrap a patient's key from a row of theirs that is at hand. Raises SealBroken."""
        return self._keyring.unwrap(row["root_key_id"], row["wrapped_key"], f"patient/{patient_id}")

    def new_image_key(self, patient_key: bytes, image_id: str) -> tuple[bytes, bytes]:
        """A fresh data key and its wrapping under the patient's key."""
        key = new_key(self._host.random)
        return key, self.wrap_image_key(patient_key, image_id, key)

    def wrap_image_key(self, patient_key: bytes, image_id: str, key: bytes) -> bytes:
        """An image's data key as it is stored under its patient's key."""
        return wrap_key(patient_key, key, f"image/{image_id}")

    def image_key(self, tx: Cursor, image_id: str) -> bytes:
        """Unwrap an image's data key by way of its patient's.

        Raises:
            UnknownKey: There is none, or it was destroyed.
            SealBroken: A stored key was altered or moved.
        """
        row = tx.one("SELECT patient_id, wrapped_key FROM images WHERE image_id = $1", image_id)
        if row is None or row["wrapped_key"] is None:
            raise UnknownKey("This image's key was destroyed.", image_id=image_id)
        patient_key = self.patient_key(tx, row["patient_id"])
        return unwrap_key(patient_key, row["wrapped_key"], f"image/{image_id}")

    def image_keys(self, tx: Cursor, image_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Image id and data key of many images at once; destroyed keys are left out.

        Raises:
            SealBroken: A stored key was altered or moved.
        """
        rows = tx.all(
            "SELECT i.image_id, i.patient_id, i.wrapped_key, p.root_key_id,"
            " p.wrapped_key AS patient_key FROM images i JOIN patients p"
            " ON p.patient_id = i.patient_id WHERE i.wrapped_key IS NOT NULL"
            " AND p.wrapped_key IS NOT NULL AND i.image_id IN (SELECT unnest($1::VARCHAR[]))",
            list(image_ids),
        )
        opened: dict[str, bytes] = {}
        for row in rows:
            patient_id = row["patient_id"]
            if patient_id not in opened:
                opened[patient_id] = self._keyring.unwrap(
                    row["root_key_id"], row["patient_key"], f"patient/{patient_id}"
                )
            context = f"image/{row['image_id']}"
            yield row["image_id"], unwrap_key(opened[patient_id], row["wrapped_key"], context)

    def add_root_key(self) -> str:
        """Append a new root key; from now on it wraps. Old ones still unwrap.

        Returns:
            The new key's id.
        """
        self._keyring.add(self._host.random)
        self._record_root_keys()
        return self._keyring.newest_id

    def split_newest(self, needed: int, total: int) -> tuple[str, ...]:
        """Printable recovery shares of the newest root key. Raises ValueError."""
        return self._keyring.split(self._keyring.newest_id, self._host.random, needed, total)

    def drill(self, shares: Sequence[str]) -> str:
        """Id of the root key that these shares give back; see :meth:`Keyring.drill`."""
        return self._keyring.drill(shares)

    def rotation_left(self) -> int:
        """How many keys are still wrapped by an older root key."""
        newest = self._keyring.newest_id
        return sum(
            self._database.read().count(
                f"SELECT count(*) FROM {table} WHERE wrapped_key IS NOT NULL"  # noqa: S608
                " AND root_key_id <> $1",
                newest,
            )
            for table in ("system_keys", "patients")
        )

    def rotate(self) -> Iterator[int]:
        """Re-wrap keys batch by batch, each in one transaction; can stop and resume anywhere.

        Yields:
            How many keys are left after each batch. Images are not re-encrypted.
        """
        newest = self._keyring.newest_id
        for table, key, kind in (
            ("system_keys", "name", "system"),
            ("patients", "patient_id", "patient"),
        ):
            while True:
                with self._database.write() as tx:
                    rows = tx.all(
                        f"SELECT {key} AS id, root_key_id, wrapped_key FROM {table}"  # noqa: S608
                        " WHERE wrapped_key IS NOT NULL AND root_key_id <> $1 LIMIT $2",
                        newest,
                        ROTATION_BATCH,
                    )
                    for row in rows:
                        key_id, wrapped = self._keyring.rewrap(
                            row["root_key_id"], row["wrapped_key"], f"{kind}/{row['id']}"
                        )
                        tx.run(
                            f"UPDATE {table} SET root_key_id = $2, wrapped_key = $3"  # noqa: S608
                            f" WHERE {key} = $1",
                            row["id"],
                            key_id,
                            wrapped,
                        )
                if not rows:
                    break
                yield self.rotation_left()

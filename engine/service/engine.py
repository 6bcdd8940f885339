"""The Engine: one method per user action, each with its permission and its audit rows.

Doors (pages, API, command line) hold an Engine and a token and nothing else.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import timedelta
from typing import Self

from engine.detection import Detector, Guests, Profiles
from engine.errors import (
    BackupInvalid,
    NotFound,
    PermissionDenied,
    SettingsError,
    StorageError,
)
from engine.formats.images import Limits
from engine.host import Host, forbid_core_dumps, sweep_unfinished
from engine.people.access_integrity import Roster
from engine.people.accounts import Accounts
from engine.people.care import Access
from engine.people.identities import Identities
from engine.people.lockout import Lockout
from engine.people.registrations import Registrations
from engine.people.second_factor import Challenges, SecondFactors
from engine.people.sessions import Sessions
from engine.people.tokens import Tokens
from engine.permissions import Role
from engine.records import Caller
from engine.service.batch import Batch
from engine.service.caring import Caring
from engine.service.ciphers import Ciphers
from engine.service.files import Files
from engine.service.finding import Finding
from engine.service.governing import Governing
from engine.service.measuring import Measured
from engine.service.observing import Observing
from engine.service.people import People
from engine.service.specialties import Specialties
from engine.service.upkeep import Upkeep
from engine.settings import Settings
from engine.store.audit import AuditLog, Event
from engine.store.audited_rows import SealedRows
from engine.store.backup import PENDING_ERASURES, Backups, bring_salt_record
from engine.store.catalog import Catalog
from engine.store.database import Database
from engine.store.key_hierarchy import Hierarchy
from engine.store.open_images import Viewings
from engine.store.outbox import Outbox
from engine.store.patient_merge import Merging
from engine.store.patients import Patients
from engine.store.read_log import Reads
from engine.store.runtime_settings import Policies
from engine.store.training_cases import Training
from engine.vault import Exchanges, Keyring, derive


class Engine(
    People, Files, Caring, Governing, Finding, Ciphers, Batch, Upkeep, Specialties, Observing
):
    """An open data folder with its keys, networks and people."""

    @classmethod
    def open(
        cls,
        settings: Settings,
        host: Host | None = None,
        *,
        detector: Detector | None = None,
        operator: bool = False,
    ) -> Self:
        """Open the data folder, or make it on first use.

        Args:
            host: The outside world; by default this machine's.
            detector: By default the networks of the settings.
            operator: Allow :meth:`operator_token`, for the command line only.

        Raises:
            SettingsError: A root key is missing, wrong or badly kept.
            StorageBusy: A running MedSec holds the folder.
            StorageError: The folder cannot be used.
        """
        forbid_core_dumps()
        self = cls()
        self.settings = settings
        folder = settings.data
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as err:
            raise StorageError("The data folder cannot be made: check MEDSEC_DATA.") from err
        self.host = host or Host(folder / "blobs")
        fresh = not (folder / "catalog.duckdb").exists()
        if fresh and (folder / PENDING_ERASURES).exists():
            raise StorageError(
                "A recovery into this data folder was interrupted: run recover-data again."
            )
        if fresh and next(iter(self.host.blobs()), None) is not None:
            raise StorageError(
                "The data folder has encrypted images but no catalog: bring catalog.duckdb back,"
                " or recover from a backup. Nothing was changed."
            )
        # A lost key file must not be replaced by a new one: that would be a wrong key.
        keyring = Keyring.load(settings, self.host.random, create=fresh)
        self.database = Database.open(
            folder / "catalog.duckdb", self.host, settings.write_wait_seconds
        )
        try:
            self._assemble(keyring, detector, operator)
        except BaseException:
            self.database.close()
            raise
        return self

    def _assemble(self, keyring: Keyring, detector: Detector | None, operator: bool) -> None:
        settings, host = self.settings, self.host
        self.keyring = keyring
        self.hierarchy = Hierarchy(self.database, keyring, host)
        self.hierarchy.open()
        self.lockout = Lockout(self.database, host)
        self.accounts_ = Accounts(
            self.database, host, self.lockout, settings.bcrypt_cost, settings.password_min_length
        )
        self.sessions_ = Sessions(
            self.database,
            host,
            timedelta(minutes=settings.session_idle_minutes),
            timedelta(hours=settings.session_hours),
            derive(self.hierarchy.system_key("tokens"), "sessions"),
            settings.second_factor_roles,
        )
        self.factors = SecondFactors(self.database, host, self.hierarchy.system_key("factors"))
        self.challenges = Challenges(host)
        self.registrations = Registrations(self.database, host)
        self.identities = Identities(self.database, host)
        self.tokens = Tokens(self.database, host, self.hierarchy.system_key("tokens"))
        self.access_ = Access(self.database, self.hierarchy, host)
        self.roster = Roster(derive(self.hierarchy.system_key("audit"), "roster"))
        self.outbox_ = Outbox(self.database, host, settings)
        self.audit = AuditLog(
            self.database, host, self.hierarchy.system_key("audit"), self._audit_mark,
            self.outbox_.hear,
        )  # fmt: skip
        self.catalog = Catalog(self.database)
        self.patients_ = Patients(self.database, self.hierarchy, host)
        self.training = Training(self.database, self.hierarchy, host)
        self.merging = Merging(self.patients_, self.catalog, self.training, self.hierarchy, host)
        self.reads = Reads(host)
        self.detector = detector or Detector.open(settings)
        self.profiles_ = Profiles(
            self.database, host, self.hierarchy.system_key("models"), settings,
            self.detector.profiles, self.detector.finds,
        )  # fmt: skip
        self.detector.profiles = self.profiles_.in_force()
        self.guests_ = Guests(
            self.database, host, self.hierarchy.system_key("models"),
            settings.model_limit_mb * 1_000_000, settings.threads,
        )  # fmt: skip
        self._meet_guests()
        self.evaluations_ = SealedRows("evaluations", host, self.hierarchy.system_key("models"))
        self.viewings = Viewings(
            host,
            timedelta(minutes=settings.restore_minutes),
            settings.restore_memory_mb * 1024 * 1024,
        )
        self.exchanges = Exchanges(self.hierarchy.signer(), host)
        self.limits = Limits.of(settings)
        self._masked = OrderedDict()
        self._masked_lock = threading.Lock()
        self._measured = Measured()
        self._operator_token = host.token("operator") if operator else None
        self._work = {}
        self._at_work = {}
        self._backing_up = threading.Lock()
        self._keeping_list = threading.Lock()
        self._meet_roster(operator)
        self._finish_recovery()
        sweep_unfinished(settings.data)
        self.sweep()
        self._keep_erasures()
        self.policies = Policies(self.database, host, self.hierarchy.system_key("models"), settings)
        self._govern(self.policies.in_force())
        self._prepare_upkeep()
        system = Caller("system", Role.OPERATOR, "", "start")
        self.audit.record(system, Event("system.start"))

    @classmethod
    def from_backup(
        cls, settings: Settings, name: str | None = None, *, detector: Detector | None = None
    ) -> Self:
        """Make the data folder from a backup and the root key, and open it as operator.

        What any backup in the folder knows as erased is erased again, so that an older
        backup brings nobody back.

        Args:
            settings: ``data`` names an empty folder, ``backup_dir`` the backups.
            name: The newest by default.

        Raises:
            SettingsError: No backup folder, or not the key under which it was made.
            BackupInvalid: There is none, or it is incomplete or altered.
            StorageError: The data folder is not empty.
        """
        if settings.backup_dir is None:
            raise SettingsError("Set MEDSEC_BACKUP_DIR to the folder of the backups.")
        host = Host(settings.data / "blobs")
        bring_salt_record(settings.backup_dir, settings.data)
        backups = Backups(settings.backup_dir, Keyring.load(settings, host.random), host)
        if name is not None and name not in backups.names():
            raise BackupInvalid("There is no such backup.")
        chosen = name or backups.newest()
        backups.restore(chosen, settings.data)
        self = cls.open(settings, detector=detector, operator=True)
        system = Caller("system", Role.OPERATOR, "", "recovery")
        self.audit.record(system, Event("backup.restore", detail={"name": chosen}))
        return self

    def _finish_recovery(self) -> None:
        """Erase again what was erased after the backup, and end every session that was in it.

        Raises:
            StorageError: The list of what to erase is damaged or cannot be deleted; nobody works in
                the folder before that is done.
        """
        pending = self.settings.data / PENDING_ERASURES
        if not pending.exists():
            return
        try:
            self._erase_again(json.loads(pending.read_bytes()))
            pending.unlink()
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as err:
            raise StorageError(
                "What was erased after this backup cannot be erased again: recover it once more,"
                " into an empty folder that can be written."
            ) from err

    def _erase_again(self, erasures: Sequence[tuple[str, str]]) -> None:
        system = Caller("system", Role.OPERATOR, "", "recovery")
        why = "erased before this recovery"
        for kind, subject_id in erasures:
            try:
                if kind == "patient":
                    self._erase_patient(system, subject_id, why)
                else:
                    self._erase(system, subject_id, why, "image.erase")
            except NotFound:  # the backup knew already, or is older; a later one is not
                with self.database.write() as tx:
                    tx.run(
                        "INSERT INTO erasures VALUES ($1, $2, $3, true) ON CONFLICT DO NOTHING",
                        subject_id,
                        kind,
                        self.host.now(),
                    )
        with self.database.write() as tx:
            for account in self.accounts_.list():
                self.sessions_.end_all(tx, account.username)

    def operator_token(self) -> str:
        """The token of this machine's operator. Raises PermissionDenied in a server."""
        if self._operator_token is None:
            raise PermissionDenied("Only the command line acts as the operator.")
        return self._operator_token

    def close(self) -> None:
        """Let the data folder go; opened pictures are forgotten."""
        self._stop_upkeep()
        self.database.close()

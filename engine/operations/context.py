"""What an open engine holds, and what a worker holds of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from engine.detection import CustomNetworkStore, Detector, NetworkVersions, Profiles
from engine.host import FileStore, Host
from engine.operations.access_watch import AccessWatch
from engine.operations.admission import Admission
from engine.operations.live_settings import LiveSettings
from engine.people.accounts import Accounts
from engine.people.care import Access
from engine.people.identities import Identities
from engine.people.lockout import Lockout
from engine.people.registrations import Registrations
from engine.people.second_factor import Challenges, SecondFactors
from engine.people.sessions import Sessions
from engine.people.tokens import Tokens
from engine.store.audit import AuditLog
from engine.store.audit_forwarding import AuditForwarding
from engine.store.audited_rows import AuditedRows
from engine.store.backup import Backups
from engine.store.catalog import Catalog
from engine.store.claims import Claims
from engine.store.database import Database
from engine.store.device_boxes import DeviceBoxes
from engine.store.figures import Figures
from engine.store.file_claim import FileClaim
from engine.store.file_stores import backups_of
from engine.store.key_hierarchy import KeyHierarchy
from engine.store.nodes import HeldInstances, NodeRows
from engine.store.open_images import OpenImages
from engine.store.outbox import Outbox
from engine.store.patient_merge import PatientMerge
from engine.store.patients import Patients
from engine.store.read_log import ReadLog
from engine.store.recipients import Recipients
from engine.store.release_ledger import ReleaseLedger
from engine.store.runtime_settings import SettingChanges
from engine.store.sendings import ForwardRules, SendingRows
from engine.store.shared import Shared
from engine.store.studies import Studies
from engine.store.training_cases import Training
from engine.vault import Exchanges, Keyring


@dataclass(frozen=True)
class WorkerContext:
    """What it takes to look at a file and to seal it: no key, no row, nobody's name."""

    live: LiveSettings
    host: Host
    detector: Detector


@dataclass(frozen=True)
class Context(WorkerContext):
    """Everything that is open in one data folder. Built by ``Engine.open`` alone."""

    admission: Admission
    database: Database
    keyring: Keyring
    hierarchy: KeyHierarchy
    lockout: Lockout
    accounts: Accounts
    sessions: Sessions
    factors: SecondFactors
    challenges: Challenges
    registrations: Registrations
    identities: Identities
    tokens: Tokens
    access: Access
    watch: AccessWatch
    outbox: Outbox
    audit: AuditLog
    forwarding: AuditForwarding
    catalog: Catalog
    figures: Figures
    patients: Patients
    studies: Studies
    training_cases: Training
    merging: PatientMerge
    read_log: ReadLog
    claims: Claims
    file_claim: FileClaim
    release_ledger: ReleaseLedger
    profile_store: Profiles
    custom_networks: CustomNetworkStore
    network_versions: NetworkVersions
    device_boxes: DeviceBoxes
    evaluation_rows: AuditedRows
    setting_changes: SettingChanges
    nodes: NodeRows
    held_instances: HeldInstances
    recipients: Recipients
    forward_rules: ForwardRules
    sendings: SendingRows
    open_images: OpenImages
    exchanges: Exchanges
    shared: Shared

    def backup_folder(self) -> Backups:
        """The backups there are. Raises SettingsError where no place for them is set."""
        settings = self.live.settings
        far = bool(settings.blobs or settings.blobs_also or settings.backups)
        return Backups(self._backup_place, self.keyring, self.host, far=far)

    @cached_property
    def _backup_place(self) -> FileStore:
        return backups_of(self.live.settings)

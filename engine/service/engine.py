"""The engine: an open data folder, with a service for each noun that people work with.

Pages, API and command line hold an Engine and a token and nothing else.
"""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from typing import Self

from engine.detection import CustomNetworkStore, Detector, NetworkVersions, Profiles
from engine.errors import BackupInvalid, SettingsError, StorageError
from engine.formats.images import Limits
from engine.host import FileStore, Host, forbid_core_dumps, sweep_unfinished
from engine.operations.access_watch import AccessWatch
from engine.operations.admission import Admission, Budget
from engine.operations.checkpoints import Checkpoints
from engine.operations.context import Context
from engine.operations.erasures import Erasures
from engine.operations.examination import Examiner
from engine.operations.guard import Guard
from engine.operations.intake import Intake
from engine.operations.live_settings import LiveSettings
from engine.operations.masked_images import MaskedImages
from engine.operations.masked_objects import MaskedObjects
from engine.operations.measured_numbers import MeasuredNumbers
from engine.operations.preparation import Preparer
from engine.operations.recipient_copies import RecipientCopies
from engine.operations.restorations import Restorations
from engine.operations.scrub import Scrub
from engine.operations.stored_images import StoredImages
from engine.operations.study_places import StudyPlaces
from engine.operations.study_restorations import StudyRestorations
from engine.people.access_integrity import AccessIntegrity
from engine.people.accounts import Accounts
from engine.people.care import Access
from engine.people.identities import Identities
from engine.people.lockout import Lockout
from engine.people.registrations import Registrations
from engine.people.second_factor import Challenges, SecondFactors
from engine.people.sessions import Sessions as OpenSessions
from engine.people.tokens import Tokens
from engine.permissions import Role
from engine.records import Caller
from engine.service.account import OwnAccount
from engine.service.archives import Archives
from engine.service.audit import Audit
from engine.service.backups import Backups
from engine.service.batches import Batches
from engine.service.care import Care
from engine.service.cohorts import Cohorts
from engine.service.custom_networks import CustomNetworks
from engine.service.devices import Devices
from engine.service.drafts import Drafts
from engine.service.exchange import Exchange
from engine.service.health import Health
from engine.service.images import Images
from engine.service.intakes import Intakes
from engine.service.keys import Keys
from engine.service.models import Models
from engine.service.nodes import Nodes
from engine.service.objects import Objects
from engine.service.packages import Packages
from engine.service.patients import Patients
from engine.service.people import People
from engine.service.profiles import SpecialtyProfiles
from engine.service.queries import Queries
from engine.service.randomness import RandomnessTests
from engine.service.reception import Reception
from engine.service.recipients import Recipients
from engine.service.release import Release
from engine.service.runtime_settings import RuntimeSettings
from engine.service.search import Search
from engine.service.sendings import Sendings
from engine.service.sessions import Sessions
from engine.service.statistics import ImageStatistics
from engine.service.studies import Studies
from engine.service.training import Training
from engine.service.upkeep import Upkeep
from engine.service.versions import Versions
from engine.service.withdrawals import Withdrawals
from engine.service.worklist import Worklist
from engine.settings import Settings
from engine.store.audit import AuditLog, Event
from engine.store.audit_forwarding import AuditForwarding
from engine.store.audited_rows import AuditedRows
from engine.store.backup import PENDING_ERASURES, bring_salt_record, salt_records
from engine.store.backup import Backups as BackupFolder
from engine.store.catalog import Catalog
from engine.store.catalogs import fill_from_file, refuse_filled, server_database
from engine.store.claims import Claims
from engine.store.database import CATALOG_ID, Database
from engine.store.device_boxes import DeviceBoxes
from engine.store.embedded import EmbeddedDatabase
from engine.store.figures import Figures
from engine.store.file_claim import FileClaim
from engine.store.file_stores import backups_of, claim_all, files_of
from engine.store.key_hierarchy import KeyHierarchy
from engine.store.nodes import HeldInstances, NodeRows
from engine.store.open_images import OpenImages
from engine.store.outbox import Outbox
from engine.store.patient_merge import PatientMerge
from engine.store.patients import Patients as PatientRows
from engine.store.read_log import ReadLog
from engine.store.recipients import Recipients as RecipientRows
from engine.store.release_ledger import ReleaseLedger
from engine.store.runtime_settings import SettingChanges
from engine.store.sendings import ForwardRules, SendingRows
from engine.store.shared import Shared, SharedHere, SharedRows
from engine.store.studies import Studies as StudyRows
from engine.store.training_cases import Training as TrainingCases
from engine.vault import SALT_RECORD, Exchanges, Keyring, derive, self_test

_START = Caller("system", Role.OPERATOR, "", "start")
#: Salt records of a passphrase that are tried; each costs seconds.
MOST_SALTS = 16


class Engine:
    """An open data folder with its keys, networks and people.

    Each attribute is a service; its methods take the caller's token first.
    """

    def __init__(self, context: Context, *, operator: bool = False) -> None:
        self.context = context
        guard = self._guard = Guard(context, operator=operator)
        examiner = Examiner(context)
        preparer = Preparer(context, examiner)
        stored = StoredImages(context)
        intake = Intake(context, stored)
        masked = MaskedImages(context, stored)
        restorations = Restorations(context, guard, stored)
        erasures = self._erasures = Erasures(context)
        checkpoints = Checkpoints(context)
        scrub = Scrub(context, stored)
        places = StudyPlaces(context, stored)

        self.sessions = Sessions(context, guard)
        self.account = OwnAccount(context, guard)
        self.people = People(context, guard)
        self.patients = Patients(context, guard, erasures)
        self.care = Care(context, guard)
        reading = StudyRestorations(context, guard, restorations)
        self.studies = Studies(context, guard, places, reading)
        self.archives = Archives(context, guard, stored, places, reading)
        self.drafts = Drafts(context, guard, preparer, stored, intake, erasures)
        self.worklist = Worklist(context, guard, examiner, stored)
        self.intakes = Intakes(context, guard, examiner, stored, intake)
        self.images = Images(context, guard, stored, masked, restorations, erasures)
        objects = MaskedObjects(context, stored)
        self.objects = Objects(context, guard, stored, objects)
        self.queries = Queries(context, guard, objects)
        self.withdrawals = Withdrawals(context, guard, stored)
        self.packages = Packages(context, guard, stored, restorations)
        copies = RecipientCopies(context, stored)
        self.recipients = Recipients(context, guard, copies)
        self.cohorts = Cohorts(context, guard, stored, places, intake.decisions, copies)
        self.search = Search(context, guard)
        self.batches = Batches(context, guard, examiner, stored, intake)
        self.nodes = Nodes(context, guard, examiner)
        self.reception = Reception(context, guard, examiner, intake, self.batches)
        self.sendings = Sendings(context, guard, stored, restorations, objects, intake.forwarding)
        self.exchange = Exchange(context, guard, stored, restorations)
        numbers = MeasuredNumbers(context, guard, stored)
        self.statistics = ImageStatistics(context, guard, numbers)
        self.randomness = RandomnessTests(context, guard, numbers)
        self.profiles = SpecialtyProfiles(context, guard, examiner)
        self.custom_networks = CustomNetworks(context, guard)
        self.models = Models(context, guard, examiner, stored)
        self.versions = Versions(context, guard, examiner, stored)
        self.training = Training(context, guard)
        self.release = Release(context, guard, intake.decisions)
        self.devices = Devices(context, guard, intake.decisions)
        self.audit = Audit(context, guard, checkpoints)
        self.keys = Keys(context, guard)
        self.backups = Backups(context, guard, erasures, scrub, checkpoints)
        self.runtime_settings = RuntimeSettings(context, guard)
        self.upkeep = Upkeep(context, self.backups, erasures, intake, self.training, places)
        self.health = Health(context, guard, self.backups, erasures, masked, self.upkeep)

    @property
    def detector(self) -> Detector:
        """The networks and profiles in force, for detection without keys."""
        return self.context.detector

    @property
    def server_id(self) -> str:
        """Of this server, where it is one of several; empty where it is alone."""
        return self.context.database.server_id

    @property
    def shared(self) -> Shared:
        """Tickets and rates of requests, the same on all servers."""
        return self.context.shared

    @property
    def limits(self) -> Limits:
        """Of files that are taken in, as the settings in force say."""
        return self.context.live.limits

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.context.live.settings

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
            SelfTestFailed: The cryptography does not give the known answers.
            SettingsError: A root key is missing, wrong or badly kept.
            StorageBusy: A running MedSec holds the folder.
            StorageError: The folder cannot be used.
        """
        forbid_core_dumps()
        host = _checked(settings, host)
        self_test(host.random)
        many = settings.servers == "many" and not operator
        database, keyring = _catalog(settings, host, many=many)
        try:
            context = _opened(settings, host, keyring, database, detector)
            engine = cls(context, operator=operator)
            engine._start(operator)
        except BaseException:
            database.close()
            raise
        return engine

    def _start(self, operator: bool) -> None:
        """What comes before anybody works in the folder; a crash or a recovery may have left it."""
        context, server_id = self.context, self.context.database.server_id
        context.database.watch(self._refresh)
        context.watch.meet(context.audit, _START, operator=operator)
        self._finish_recovery()
        context.patients.index()
        self._erasures.catch_up()
        if not server_id:  # else others write files now; the one that leads sweeps on time
            sweep_unfinished(self.settings.data)
            if context.file_claim.settled:  # else another copy may be at work on these files
                context.host.files.clear_unfinished()
                self.upkeep.sweep()
        self._erasures.keep()
        self._refresh()
        self.upkeep.look_at_clock()
        detail = {"server": server_id} if server_id else None
        context.audit.record(_START, Event("system.start", detail=detail))

    def _refresh(self) -> None:
        """Take in what was changed of all that is kept in memory, here or by another server."""
        context = self.context
        context.file_claim.check_place()
        self.runtime_settings.apply(context.setting_changes.in_force())
        context.detector.profiles = context.profile_store.in_force()
        self.custom_networks.meet()
        self.versions.meet()
        context.nodes.forget()
        context.forward_rules.forget()

    @classmethod
    def from_backup(
        cls, settings: Settings, name: str | None = None, *, detector: Detector | None = None
    ) -> Self:
        """Make the data folder from a backup and the root key, and open it as operator.

        What any backup in the folder knows as erased is erased again, so that an older
        backup brings nobody back.

        Args:
            settings: ``data`` names an empty folder, and they say where the backups are.
            name: The newest by default.

        Raises:
            SettingsError: No backup folder, or not the key under which it was made.
            BackupInvalid: There is none, or it is incomplete or altered.
            StorageError: The data folder or the database is not empty.
        """
        if settings.blobs_also:
            raise SettingsError("A recovery has one place for files. Unset MEDSEC_BLOBS_ALSO.")
        place = backups_of(settings)
        host = Host(files_of(settings))
        begun = (settings.data / PENDING_ERASURES).exists()
        if settings.blobs and not begun and next(host.files.names(), None) is not None:
            # They may be in use: what is newer than the backup would be swept from under others.
            raise StorageError(
                "A backup can be restored only into an empty place. Set MEDSEC_BLOBS to another"
                " prefix."
            )
        backups = _backups_in(place, settings, host)
        if name is not None and name not in backups.names():
            raise BackupInvalid("There is no such backup. Check its name.")
        chosen = name or backups.newest()
        if settings.database is None:
            backups.restore(chosen, settings.data, host)
        else:
            refuse_filled(settings, host)
            backups.restore(
                chosen, settings.data, host, lambda catalog: fill_from_file(settings, host, catalog)
            )
        engine = cls.open(settings, detector=detector, operator=True)
        system = Caller("system", Role.OPERATOR, "", "recovery")
        engine.context.audit.record(system, Event("backup.restore", detail={"name": chosen}))
        return engine

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
            self._erasures.again(json.loads(pending.read_bytes()))
            pending.unlink()
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as err:
            raise StorageError(
                "Later erasures could not be applied to this backup. Recover it again into an"
                " empty, writable folder."
            ) from err

    def operator_token(self) -> str:
        """The token of this machine's operator. Raises PermissionDenied in a server."""
        return self._guard.operator_token()

    def caller(self, token: object, *, activity: bool = True) -> Caller:
        """Who a token stands for now. Raises NotSignedIn."""
        return self._guard.caller(token, activity=activity)

    def close(self) -> None:
        """Let the data folder go; opened pictures are forgotten."""
        self.sendings.stop()
        self.reception.stop()
        self.upkeep.stop()
        self.context.custom_networks.sandbox.close()
        self.context.database.close()


def _checked(settings: Settings, host: Host | None) -> Host:
    """The outside world; the data folder is there.

    Raises:
        SettingsError: There are no credentials for the object store.
        StorageError: The folder cannot be made.
    """
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError("Cannot create the data folder. Check MEDSEC_DATA.") from err
    return host or Host(files_of(settings))


def _catalog(settings: Settings, host: Host, *, many: bool) -> tuple[Database, Keyring]:
    """The catalog of the data folder, in a file or on a server, and its root keys.

    Args:
        many: This is one of several servers.

    Raises:
        SettingsError: A root key or the URL is missing, wrong or badly kept.
        StorageError: The catalog cannot be opened, or is not the one of this folder.
    """
    folder, wait = settings.data, settings.write_wait_seconds
    file = folder / "catalog.duckdb"
    if settings.database is None:
        if (folder / CATALOG_ID).exists() and not file.exists():
            raise StorageError(
                "The catalog of this data folder is on a PostgreSQL server. Set MEDSEC_DATABASE."
            )
        keyring = _keyring(settings, host, fresh=not file.exists())
        return EmbeddedDatabase.open(file, host, wait), keyring
    if file.exists():
        raise StorageError(
            "This data folder has a catalog of its own. Unset MEDSEC_DATABASE, or move the catalog"
            " with medsec database-move."
        )
    database = server_database(settings, host, many=many)
    try:
        return database, _keyring(settings, host, fresh=database.fresh)
    except BaseException:
        database.close()
        raise


def _keyring(settings: Settings, host: Host, *, fresh: bool) -> Keyring:
    """The root keys; new ones only where nothing was kept yet.

    Raises:
        SettingsError: One is missing, wrong or badly kept.
        StorageError: The folder holds files but there is no catalog.
    """
    folder = settings.data
    if fresh and (folder / PENDING_ERASURES).exists():
        raise StorageError(
            "A recovery into this data folder was interrupted. Run recover-data again."
        )
    if fresh and next(iter(host.blobs()), None) is not None:
        raise StorageError(
            "There are encrypted images but no catalog. Restore catalog.duckdb, or"
            " recover from a backup. Nothing was changed."
        )
    # A lost key file must not be replaced by a new one: that would be a wrong key.
    return Keyring.load(settings, host.random, create=fresh)


def _backups_in(place: FileStore, settings: Settings, host: Host) -> BackupFolder:
    """The backups, under the root key.

    The salt of a passphrase lies with them. Nobody needs a key to put another one there: the right
    one is that with which a backup can be read.

    Raises:
        SettingsError: No key, or none that can be one.
        BackupInvalid: There are several salts, and the passphrase fits none.
        StorageError: The data folder cannot be written.
    """
    own = settings.data / SALT_RECORD
    records = [] if own.exists() else salt_records(place)[:MOST_SALTS]
    for record in records:
        bring_salt_record(record, settings.data)
        if len(records) > 1 and settings.key_passphrase:
            with contextlib.suppress(SettingsError, BackupInvalid, MemoryError):
                backups = BackupFolder(place, Keyring.load(settings, host.random), host)
                backups.newest()
                return backups
            own.unlink()
    if len(records) > 1 and settings.key_passphrase:
        raise BackupInvalid(
            f"The passphrase fits none of {len(records)} salts that lie with the backups. Check it,"
            f" or put the right {SALT_RECORD} into the data folder."
        )
    return BackupFolder(place, Keyring.load(settings, host.random), host)


def _opened(
    settings: Settings,
    host: Host,
    keyring: Keyring,
    database: Database,
    detector: Detector | None,
) -> Context:
    """Everything that services use, from the ground up."""
    live = LiveSettings(settings)
    hierarchy = KeyHierarchy(database, keyring, host)
    hierarchy.open()
    brought = (settings.data / PENDING_ERASURES).exists()
    file_claim = FileClaim(database, host, settings)
    if not brought:
        file_claim.check_place()
    new = brought or not Figures(database).files()
    claim_all(settings, host.files, hierarchy.log_id, new=new)
    file_claim.take(brought=brought)
    host.deletes_at_once = not file_claim.needed
    names = ("tokens", "audit", "models", "network")
    token_key, audit_key, model_key, network_key = map(hierarchy.system_key, names)

    # what all servers of a catalog know
    shared: Shared = SharedHere(host)
    if database.server_id:
        shared = SharedRows(database, host, derive(token_key, "shared"))

    # who people are and what they reach
    lockout = Lockout(database, host)
    accounts = Accounts(database, host, lockout, settings.bcrypt_cost, settings.password_min_length)
    sessions = OpenSessions(
        database,
        host,
        timedelta(minutes=settings.session_idle_minutes),
        timedelta(hours=settings.session_hours),
        derive(token_key, "sessions"),
        settings.second_factor_roles,
    )
    access = Access(hierarchy, host)
    watch = AccessWatch(
        database, access, AccessIntegrity(derive(audit_key, "roster")), live, shared
    )

    # the log, and who is told of it
    outbox = Outbox(database, host, settings)
    audit = AuditLog(database, host, audit_key, watch.mark, outbox.hear)

    # patients and images
    catalog = Catalog(database)
    patients = PatientRows(database, hierarchy, host)
    training_cases = TrainingCases(database, hierarchy, host)
    studies = StudyRows(hierarchy, host)

    # networks and profiles
    detector = detector or Detector.open(settings)
    profile_store = Profiles(database, host, model_key, settings, detector.profiles, detector.finds)
    detector.profiles = profile_store.in_force()
    model_bytes = settings.model_limit_mb * 1_000_000

    return Context(
        live=live,
        admission=Admission(Budget.of(settings)),
        host=host,
        detector=detector,
        database=database,
        keyring=keyring,
        hierarchy=hierarchy,
        lockout=lockout,
        accounts=accounts,
        sessions=sessions,
        factors=SecondFactors(
            database, host, hierarchy.system_key("factors"), shared, settings.web_origin
        ),
        challenges=Challenges(host, shared),
        registrations=Registrations(database, host),
        identities=Identities(host),
        tokens=Tokens(host, token_key),
        access=access,
        watch=watch,
        outbox=outbox,
        audit=audit,
        forwarding=AuditForwarding(database, audit, settings, shared),
        catalog=catalog,
        figures=Figures(database),
        patients=patients,
        studies=studies,
        training_cases=training_cases,
        merging=PatientMerge(patients, catalog, training_cases, studies, hierarchy, host),
        read_log=ReadLog(shared),
        claims=Claims(shared),
        file_claim=file_claim,
        release_ledger=ReleaseLedger(host, hierarchy.system_key("release")),
        profile_store=profile_store,
        custom_networks=CustomNetworkStore(
            database, host, model_key, model_bytes, settings.threads
        ),
        network_versions=NetworkVersions(database, host, model_key),
        device_boxes=DeviceBoxes(host, model_key),
        evaluation_rows=AuditedRows("evaluations", host, model_key),
        setting_changes=SettingChanges(database, host, model_key, settings),
        nodes=NodeRows(database, host, network_key),
        held_instances=HeldInstances(host, network_key),
        recipients=RecipientRows(database, host, network_key),
        forward_rules=ForwardRules(database, host, network_key),
        sendings=SendingRows(host),
        open_images=OpenImages(
            host,
            timedelta(minutes=settings.restore_minutes),
            settings.restore_memory_mb * 1024 * 1024,
        ),
        exchanges=Exchanges(hierarchy.signer(), host),
        shared=shared,
    )

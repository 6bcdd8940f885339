"""MedSec's engine: finds, encrypts and exactly restores what not everyone may see.

Doors import from here and from nowhere deeper.
"""

from __future__ import annotations

import engine.errors as errors
from engine.cancellation import ends_with, stop_all
from engine.detection import (
    Comparison,
    CustomNetworkRecord,
    Drift,
    ModelInfo,
    NetworkCard,
    Profile,
    ProfileEntry,
)
from engine.fairness import Shares, giving_way, source
from engine.formats.dicom_pixels import TRANSFER_SYNTAXES
from engine.formats.images import carried, carry, from_upright, to_upright
from engine.host import Host, write_durably
from engine.installation import version
from engine.metrics import Place, Standing, Trust
from engine.operations.access_report import COLUMNS as REPORT_COLUMNS
from engine.operations.access_report import AccessReport
from engine.operations.batch_report import CSV_HEAD, BatchItem, Progress
from engine.operations.draft_boxes import DraftBox
from engine.operations.examination import REASONS, Suggestion
from engine.operations.file_detection import Finder
from engine.operations.masked_objects import MaskedObject
from engine.operations.measured_numbers import Statistics
from engine.operations.prometheus import MEDIA_TYPE as METRICS_MEDIA_TYPE
from engine.operations.prometheus import count_request
from engine.operations.restorations import Restoration
from engine.operations.study_restorations import StudyRestoration
from engine.operations.worker import BatchOptions
from engine.people.care import CareRelation, EmergencyAccess, Verdict
from engine.people.proposals import Proposal
from engine.permissions import ACCOUNT_ROLES, Permission, Role
from engine.records import (
    FORMATS_TAKEN,
    Account,
    AccountRequest,
    Assessment,
    AuditEntry,
    AuditFilter,
    AuditFound,
    Detection,
    Enrolment,
    File,
    Format,
    ImageRecord,
    ImageState,
    Note,
    OpenSession,
    Passkey,
    Patient,
    Region,
    SealedRegion,
    SecondFactor,
    Series,
    Session,
    Study,
    TextVerdict,
)
from engine.seal.release_statement import Checked as CheckedRelease
from engine.seal.release_statement import check as check_release
from engine.service.batches import FEW_FILES, Source
from engine.service.cohorts import Cohort, CohortOrder
from engine.service.drafts import DraftView
from engine.service.engine import Engine
from engine.service.images import Display
from engine.service.intakes import Header, TakeOptions
from engine.service.models import Evaluation
from engine.service.patients import Extent
from engine.service.randomness import Randomness
from engine.service.reception import Held, HeldStudy, Instance, Received
from engine.service.release import LooksSaved
from engine.service.runtime_settings import SettingEntry
from engine.service.search import Found, ImageQuery, SeriesPage
from engine.service.sendings import Parcel, Report
from engine.service.versions import Difference, VersionEntry
from engine.service.worklist import NEEDS, Look, WorkGroup, WorkItem
from engine.settings import Settings
from engine.store.audit_vocabulary import meaning
from engine.store.backup import NAME as BACKUP_NAME
from engine.store.catalogs import move_to_file as move_catalog_to_file
from engine.store.catalogs import move_to_server as move_catalog_to_server
from engine.store.catalogs import planned_move as planned_catalog_move
from engine.store.catalogs import prepare_database
from engine.store.file_moves import claim_files, copy_files, move_files, planned_move
from engine.store.nodes import Node, NodeEntry
from engine.store.outbox import Notice
from engine.store.postgresql_schema import role_script as database_roles
from engine.store.recipients import DeidProfile
from engine.store.sendings import ForwardRule, ForwardRuleEntry, Sending, SendingState
from engine.store.shared import Hold
from engine.store.training_cases import OpenedCase, TrainingCase, open_case
from engine.tracing import (
    begin_request,
    cannot_start,
    come_from,
    log_as_json,
    log_as_text,
    name_server,
    trouble,
)
from engine.vault import recover as recover_key_file
from engine.vault import server_certificate

__all__ = [
    "ACCOUNT_ROLES",
    "BACKUP_NAME",
    "CSV_HEAD",
    "FEW_FILES",
    "FORMATS_TAKEN",
    "METRICS_MEDIA_TYPE",
    "NEEDS",
    "REASONS",
    "REPORT_COLUMNS",
    "TRANSFER_SYNTAXES",
    "AccessReport",
    "Account",
    "AccountRequest",
    "Assessment",
    "AuditEntry",
    "AuditFilter",
    "AuditFound",
    "BatchItem",
    "BatchOptions",
    "CareRelation",
    "CheckedRelease",
    "Cohort",
    "CohortOrder",
    "Comparison",
    "CustomNetworkRecord",
    "DeidProfile",
    "Detection",
    "Difference",
    "Display",
    "DraftBox",
    "DraftView",
    "Drift",
    "EmergencyAccess",
    "Engine",
    "Enrolment",
    "Evaluation",
    "Extent",
    "File",
    "Finder",
    "Format",
    "ForwardRule",
    "ForwardRuleEntry",
    "Found",
    "Header",
    "Held",
    "HeldStudy",
    "Hold",
    "Host",
    "ImageQuery",
    "ImageRecord",
    "ImageState",
    "Instance",
    "Look",
    "LooksSaved",
    "MaskedObject",
    "ModelInfo",
    "NetworkCard",
    "Node",
    "NodeEntry",
    "Note",
    "Notice",
    "OpenSession",
    "OpenedCase",
    "Parcel",
    "Passkey",
    "Patient",
    "Permission",
    "Place",
    "Profile",
    "ProfileEntry",
    "Progress",
    "Proposal",
    "Randomness",
    "Received",
    "Region",
    "Report",
    "Restoration",
    "Role",
    "SealedRegion",
    "SecondFactor",
    "Sending",
    "SendingState",
    "Series",
    "SeriesPage",
    "Session",
    "SettingEntry",
    "Settings",
    "Shares",
    "Source",
    "Standing",
    "Statistics",
    "Study",
    "StudyRestoration",
    "Suggestion",
    "TakeOptions",
    "TextVerdict",
    "TrainingCase",
    "Trust",
    "Verdict",
    "VersionEntry",
    "WorkGroup",
    "WorkItem",
    "begin_request",
    "cannot_start",
    "carried",
    "carry",
    "check_release",
    "claim_files",
    "come_from",
    "copy_files",
    "count_request",
    "database_roles",
    "ends_with",
    "errors",
    "from_upright",
    "giving_way",
    "log_as_json",
    "log_as_text",
    "meaning",
    "move_catalog_to_file",
    "move_catalog_to_server",
    "move_files",
    "name_server",
    "open_case",
    "planned_catalog_move",
    "planned_move",
    "prepare_database",
    "recover_key_file",
    "server_certificate",
    "source",
    "stop_all",
    "to_upright",
    "trouble",
    "version",
    "write_durably",
]

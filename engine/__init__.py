"""MedSec's engine: finds, encrypts and exactly restores what not everyone may see.

Doors import from here and from nowhere deeper.
"""

from __future__ import annotations

import engine.errors as errors
from engine.access import BrokenGlass, CareRelation, Verdict
from engine.certificate import server_certificate
from engine.detection import Profile
from engine.drift import Drift
from engine.guests import GuestRecord
from engine.host import Host, write_durably
from engine.images import carried, carry
from engine.keys import recover as recover_key_file
from engine.networks import ModelInfo
from engine.numbers import MEDIA_TYPE as METRICS_MEDIA_TYPE
from engine.numbers import count_request
from engine.outbox import Notice
from engine.permissions import ACCOUNT_ROLES, Permission, Role
from engine.profiles import ProfileEntry
from engine.records import (
    Account,
    AccountRequest,
    Assessment,
    AuditEntry,
    Detection,
    Enrolment,
    File,
    Format,
    ImageRecord,
    ImageState,
    Note,
    OpenSession,
    Patient,
    Region,
    SealedRegion,
    SecondFactor,
    Session,
    TextVerdict,
)
from engine.service import Engine
from engine.service.batch import FEW_FILES, Source
from engine.service.batchreport import CSV_HEAD, BatchItem, Progress
from engine.service.ciphers import Randomness
from engine.service.detecting import Finder
from engine.service.finding import Display, Found
from engine.service.governing import SettingEntry
from engine.service.intake import REASONS, DraftView, Suggestion
from engine.service.measuring import Statistics
from engine.service.observing import Evaluation
from engine.service.restoring import Restoration
from engine.settings import Settings
from engine.shadow import Comparison
from engine.tracing import begin_request, come_from, log_as_json, log_as_text, trouble
from engine.training import OpenedCase, TrainingCase, open_case

__all__ = [
    "ACCOUNT_ROLES",
    "CSV_HEAD",
    "FEW_FILES",
    "METRICS_MEDIA_TYPE",
    "REASONS",
    "Account",
    "AccountRequest",
    "Assessment",
    "AuditEntry",
    "BatchItem",
    "BrokenGlass",
    "CareRelation",
    "Comparison",
    "Detection",
    "Display",
    "DraftView",
    "Drift",
    "Engine",
    "Enrolment",
    "Evaluation",
    "File",
    "Finder",
    "Format",
    "Found",
    "GuestRecord",
    "Host",
    "ImageRecord",
    "ImageState",
    "ModelInfo",
    "Note",
    "Notice",
    "OpenSession",
    "OpenedCase",
    "Patient",
    "Permission",
    "Profile",
    "ProfileEntry",
    "Progress",
    "Randomness",
    "Region",
    "Restoration",
    "Role",
    "SealedRegion",
    "SecondFactor",
    "Session",
    "SettingEntry",
    "Settings",
    "Source",
    "Statistics",
    "Suggestion",
    "TextVerdict",
    "TrainingCase",
    "Verdict",
    "begin_request",
    "carried",
    "carry",
    "come_from",
    "count_request",
    "errors",
    "log_as_json",
    "log_as_text",
    "open_case",
    "recover_key_file",
    "server_certificate",
    "trouble",
    "write_durably",
]

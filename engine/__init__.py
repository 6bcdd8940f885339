"""MedSec's engine: finds, encrypts and exactly restores what not everyone may see.

Doors import from here and from nowhere deeper.
"""

from __future__ import annotations

import engine.errors as errors
from engine.detection import Profile
from engine.host import Host, write_durably
from engine.keys import recover as recover_key_file
from engine.networks import ModelInfo
from engine.permissions import ACCOUNT_ROLES, Permission, Role
from engine.profiles import ProfileEntry
from engine.records import (
    Account,
    Assessment,
    AuditEntry,
    Detection,
    File,
    Format,
    ImageRecord,
    ImageState,
    Note,
    Patient,
    Region,
    SealedRegion,
    Session,
)
from engine.service import Engine
from engine.service.detecting import Finder
from engine.service.intake import REASONS, DraftView
from engine.service.measuring import Statistics
from engine.service.restoring import Restoration
from engine.settings import Settings

__all__ = [
    "ACCOUNT_ROLES",
    "REASONS",
    "Account",
    "Assessment",
    "AuditEntry",
    "Detection",
    "DraftView",
    "Engine",
    "File",
    "Finder",
    "Format",
    "Host",
    "ImageRecord",
    "ImageState",
    "ModelInfo",
    "Note",
    "Patient",
    "Permission",
    "Profile",
    "ProfileEntry",
    "Region",
    "Restoration",
    "Role",
    "SealedRegion",
    "Session",
    "Settings",
    "Statistics",
    "errors",
    "recover_key_file",
    "write_durably",
]

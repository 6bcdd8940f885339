"""Specialty profiles: shipped ones, changed ones, and the hospital's own.

Shipped profiles are files and are never written. A change, or a custom profile, is a sealed row of
the catalog, so that somebody with access to the disk only cannot remove a class from it.

Profiles that would leave identifiers unsealed are refused: every profile must seal text with a
network of MedSec, at a reachable confidence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from engine.detect.detector import Profile
from engine.detect.looking import FINDS
from engine.detect.yolo import TATTOO_FLOOR
from engine.errors import InputError, NotFound, SettingsError
from engine.host import Host
from engine.records import IDENTIFIERS, Caller
from engine.settings import Settings
from engine.store.audit import AuditLog
from engine.store.audited_rows import AuditedRows
from engine.store.database import Cursor, Database

#: Values that an administrator can change; all others stay as shipped.
EDITABLE = (
    "title", "description", "classes", "networks", "confidence", "class_confidence", "iou",
    "padding", "padding_min_px", "harmless_text", "small_doubt", "diagnostic_regions",
    "release_at_most",
)  # fmt: skip
CONFIDENCE = (0.05, 0.90)
IDENTIFIER_CONFIDENCE = (0.05, 0.60)  # above it, names would only be proposed
SMALL_DOUBT = (0.0, 0.10)  # above it, whole parts of the anatomy would be sealed unasked
RELEASE_AT_MOST = (0.0, 0.05)  # share of images in which something is missed
IOU = (0.20, 0.80)  # below it, lines of text beside each other swallow one another
PADDING = (0.0, 0.5)
PADDING_PX = (2, 200)  # blurred edges of letters reach that far
TITLE_LENGTH = 60
DESCRIPTION_LENGTH = 500
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")

#: Every network that there is now, with the classes that it finds.
Networks = Callable[[], Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class ProfileEntry:
    """A profile with where it comes from.

    Args:
        origin: ``shipped``, ``changed`` (a shipped one) or ``own``.
        changed_at, changed_by: None for one as it was shipped.
    """

    profile: Profile
    origin: str
    changed_at: datetime | None = None
    changed_by: str | None = None


class Profiles:
    """Profiles of one catalog.

    Args:
        key: 32 bytes under which rows are sealed.
        shipped: Profiles of the files.
    """

    def __init__(
        self,
        database: Database,
        host: Host,
        key: bytes,
        settings: Settings,
        shipped: Mapping[str, Profile],
        networks: Networks,
    ) -> None:
        self._database = database
        self._rows = AuditedRows("profiles", host, key)
        self._settings = settings
        self._shipped = dict(shipped)
        self._networks = networks

    def entries(self) -> dict[str, ProfileEntry]:
        """All current profiles, by name.

        Raises:
            SealBroken: A row was altered, removed or replaced by an older one.
        """
        entries = {name: ProfileEntry(p, "shipped") for name, p in self._shipped.items()}
        for name, row in self._rows.all(self._database.read()).items():
            origin = "changed" if name in self._shipped else "own"
            # A network that is gone does not keep MedSec from starting: the detector refuses it,
            # and every image of this profile goes to a person until it is mended.
            entries[name] = ProfileEntry(
                self._built(name, row.facts, row.facts["networks"]),
                origin,
                row.changed_at,
                row.changed_by,
            )
        return dict(sorted(entries.items()))

    def in_force(self) -> dict[str, Profile]:
        """The profiles alone. Raises as :meth:`entries`."""
        return {name: entry.profile for name, entry in self.entries().items()}

    def save(
        self, tx: Cursor, audit: AuditLog, caller: Caller, name: str, table: Mapping[str, Any]
    ) -> None:
        """Change or create a profile, in the caller's transaction, with its audit entry.

        Args:
            table: Values of ``EDITABLE``; what is missing stays as it is.

        Raises:
            InputError: Not a valid profile, or one that would leave identifiers unsealed.
        """
        if not _NAME.fullmatch(name):
            raise InputError(
                "The short name is not valid. Use up to 32 lowercase letters, digits and"
                " hyphens, beginning with a letter."
            )
        unknown = sorted(set(table) - set(EDITABLE))
        if unknown:
            raise InputError(f"A profile does not have these values: {', '.join(unknown)}.")
        before = self.entries().get(name)
        whole = (as_table(before.profile) if before else {}) | dict(table)
        try:
            profile = self._built(name, whole, self._networks())
        except SettingsError as err:
            raise InputError(err.message) from err
        check(profile, self._networks())
        was = as_table(before.profile) if before else None
        self._rows.put(tx, audit, caller, name, as_table(profile), was)

    def reset(self, tx: Cursor, audit: AuditLog, caller: Caller, name: str) -> None:
        """Reset a shipped profile, or delete a custom one.

        Raises:
            NotFound: There is nothing to reset.
            InputError: Images use it; without it they could not be sealed again.
        """
        before = self.entries().get(name)
        if before is None or before.origin == "shipped":
            raise NotFound("There is no changed or custom profile of this name.")
        if before.origin == "own":
            users = tx.count(
                "SELECT count(*) FROM images WHERE profile = $1 AND state <> 'erased'", name
            )
            if users:
                raise InputError(
                    f"This profile cannot be deleted because {users} images use it. Change it"
                    " instead.",
                    images=users,
                )
        after = self._shipped.get(name)
        self._rows.drop(
            tx, audit, caller, name, as_table(before.profile), as_table(after) if after else None
        )

    def _built(self, name: str, table: Mapping[str, Any], networks: Any) -> Profile:
        """A profile from its values, on top of what is shipped under its name."""
        shipped = self._shipped.get(name)
        table = {"title": name, **table, "proposal_confidence": 0.0}  # set below
        profile = Profile.from_table(name, table, self._settings, networks)
        floor = shipped.proposal_confidence if shipped else self._settings.proposal_confidence
        least = min(profile.confidence, *profile.class_confidence.values(), 1.0)
        return replace(
            profile,
            proposal_confidence=min(floor, least),
            rescan=shipped.rescan if shipped else True,
        )


def as_table(profile: Profile) -> dict[str, Any]:
    """What an administrator may change of a profile; values that it leaves to the settings are
    left out."""
    values = {name: getattr(profile, name) for name in EDITABLE}
    values["classes"], values["networks"] = list(profile.classes), list(profile.networks)
    values["class_confidence"] = dict(profile.class_confidence)
    values["diagnostic_regions"] = [list(part) for part in profile.diagnostic_regions]
    return {name: value for name, value in values.items() if value is not None}


def check(profile: Profile, networks: Mapping[str, Sequence[str]]) -> None:
    """Check that this profile seals identifiers, with available networks.

    Args:
        networks: Those that are there, with the classes that each finds.

    Raises:
        InputError: It would not, or a value is out of its bounds.
    """
    _words(profile)
    known = {label for found in networks.values() for label in found}
    unknown = [label for label in profile.classes if label not in known]
    if unknown:
        raise InputError(f"No network detects these classes: {', '.join(unknown)}.")
    found = {label for name in profile.networks for label in networks[name]}
    missing = [label for label in profile.classes if label not in found]
    if missing:
        raise InputError(f"No chosen network detects {', '.join(missing)}. Choose one that does.")
    if "text" not in profile.classes:
        raise InputError(
            "Every profile must seal text, because names are text. Add the class text."
        )
    if not any("text" in FINDS.get(name, ()) for name in profile.networks):
        raise InputError(
            "A text network of MedSec is required. A custom network can only be added to it."
        )
    for label in profile.classes:
        low, high = IDENTIFIER_CONFIDENCE if label in IDENTIFIERS else CONFIDENCE
        if label == "tattoo":
            low = TATTOO_FLOOR  # a box below it would be neither sealed nor asked about
        bounds = low, high
        _within(profile.sealed_from(label), bounds, f"confidence of {label}")
    _within(profile.iou, IOU, "overlap (IoU)")
    _within(profile.small_doubt, SMALL_DOUBT, "small doubt")
    _within(profile.release_at_most, RELEASE_AT_MOST, "share of images with a miss")
    if profile.padding is not None:
        _within(profile.padding, PADDING, "padding")
    if profile.padding_min_px is not None:
        _within(profile.padding_min_px, PADDING_PX, "padding in pixels")


def _words(profile: Profile) -> None:
    if not profile.title.strip() or len(profile.title) > TITLE_LENGTH:
        raise InputError(f"The title is not valid. Use 1 to {TITLE_LENGTH} characters.")
    if len(profile.description) > DESCRIPTION_LENGTH:
        raise InputError(
            f"The description is too long. Use at most {DESCRIPTION_LENGTH} characters."
        )


def _within(value: float, bounds: tuple[float, float], what: str) -> None:
    low, high = bounds
    if not low <= value <= high:
        raise InputError(f"The {what} must be between {low:g} and {high:g}, not {value:g}.")

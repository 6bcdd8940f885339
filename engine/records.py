"""Frozen types that cross module borders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, overload

import numpy as np

from engine.geometry import Region as Region  # one of them, with its arithmetic
from engine.permissions import Role

#: Classes that directly identify a person.
IDENTIFIERS = ("text", "barcode", "face", "tattoo")


class TextVerdict(StrEnum):
    """Classification of a line of burned-in text; the text itself is never stored."""

    IDENTIFYING = "identifying"  # identifies a person, or looks like it
    HARMLESS = "harmless"  # side marker, scale, technique factor, and nothing else
    UNKNOWN = "unknown"  # cannot be decided: sealed


@dataclass(frozen=True, slots=True)
class Detection:
    """A region with what it shows and how sure the detector was.

    Args:
        region: Where, before padding.
        label: Class name, such as ``text``, ``barcode``, ``face`` or ``thorax``.
        confidence: 0 to 1 as the network said it; 1 for a person's own box.
        source: Name of the network, or ``person``.
        verdict: Of a text that was read; None where none was. It says something of what is
            under the box, and is no part of which box it is.
    """

    region: Region
    label: str
    confidence: float
    source: str = "person"
    verdict: TextVerdict | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence {self.confidence} is not within 0..1")

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Detection:
        """The inverse of :meth:`to_row`; other columns may be there.

        Raises:
            KeyError: A column is missing.
            ValueError: It is no detection.
        """
        return cls(Region.from_json(row), row["label"], row["confidence"], row["source"])

    def to_row(self) -> dict[str, Any]:
        """Its fields but the verdict, by the names of the catalog's columns and of the API."""
        return {
            "label": self.label,
            "confidence": self.confidence,
            "source": self.source,
            **self.region.to_json(),
        }

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Detection:
        """The inverse of :meth:`to_json`. Raises as :meth:`from_row`."""
        return cls.from_row({**item, "label": item["class"]})

    def to_json(self) -> dict[str, Any]:
        """The same fields by the names of ``gt.json``: in sealed facts, packages, the log and
        what the command line writes."""
        return {
            "class": self.label,
            **self.region.to_json(),
            "confidence": self.confidence,
            "source": self.source,
        }


class Format(StrEnum):
    """Container formats, by their usual names."""

    JPEG = "JPEG"
    PNG = "PNG"
    DICOM = "DICOM"
    TIFF = "TIFF"
    BMP = "BMP"
    WEBP = "WebP"
    HEIC = "HEIC"
    AVIF = "AVIF"
    JPEG_XL = "JPEG XL"
    JPEG_2000 = "JPEG 2000"
    GIF = "GIF"
    DOCUMENT = "DICOM document"  # without a picture: a report, a presentation state, a PDF

    @property
    def suffix(self) -> str:
        """Usual ending of a file name, without the dot."""
        return _SUFFIXES.get(self, self.lower())

    @property
    def media_type(self) -> str:
        """As registered with IANA."""
        return _MEDIA_TYPES.get(self, f"image/{self.lower()}")


#: The formats that are taken, as people say it.
FORMATS_TAKEN = "JPEG, PNG, DICOM, TIFF, BMP, WebP, HEIC, AVIF, JPEG XL, JPEG 2000 or GIF"
_SUFFIXES = {
    Format.JPEG: "jpg",
    Format.DICOM: "dcm",
    Format.DOCUMENT: "dcm",
    Format.TIFF: "tif",
    Format.JPEG_XL: "jxl",
    Format.JPEG_2000: "jp2",
}
_MEDIA_TYPES = {
    Format.DICOM: "application/dicom",
    Format.DOCUMENT: "application/dicom",
    Format.JPEG_XL: "image/jxl",
    Format.JPEG_2000: "image/jp2",
}


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded image: stored values, not what a screen would show.

    Args:
        name: File name as it came, at most 255 characters; sensitive.
        format: Real format, found from the bytes.
        data: The file as it came.
        pixels: Shape (frames, height, width) or (frames, height, width, channels);
            uint8, uint16, int8, int16 (DICOM and TIFF also uint32, int32, TIFF also floats).
        grid: Block size ``(width, height)`` in px on which the source was compressed
            lossily; (1, 1) for lossless sources.
        properties: Facts of the pixels only, never of the patient: ``bits``, ``colour``,
            ``modality``, ``spacing_mm`` (row, column), ``lossy``, ``transfer_syntax`` ...
            and ``overlays``, which are pixels themselves and as sensitive as these.
        people: What the header says of people: ``hints``, to fill in a record, and
            ``identifiers``, to compare with burned-in text; ``study``, where the image belongs; and
            ``device``, which made it. Sensitive; empty but for DICOM.
    """

    name: str
    format: Format
    data: bytes = field(repr=False)
    pixels: np.ndarray = field(repr=False)
    grid: tuple[int, int] = (1, 1)
    properties: Mapping[str, Any] = field(default_factory=dict)
    people: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def frames(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[2])


@dataclass(frozen=True)
class Dissection:
    """An image taken apart: the file to share, what was under each box, and the rest.

    Args:
        masked: A complete file of the original's format, or a PNG or TIFF where that has no
            coder without loss. It depends only on pixels outside the regions and holds no
            identifying metadata.
        patches: One per region, in the order given: what was there, self-describing.
            Where regions overlap, a pixel is in the patch of the *first* region that
            holds it and blank in the later ones, so that opening one region never
            shows what belongs to another.
        remainder: All else that the masked file lacks and the original had: header,
            metadata, colour profile, original coding. Opening it shows metadata.
        compact: The masked file by a smaller lossless coder, for storage; None where there
            is nothing to gain. Not tried yet.
    """

    masked: bytes = field(repr=False)
    patches: tuple[bytes, ...] = field(repr=False)
    remainder: bytes = field(repr=False)
    compact: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SealedRegion:
    """One region after sealing. The box, class and frame are bound by its tag.

    Args:
        size_bytes: Length of the sealed bytes.
    """

    region_id: str
    detection: Detection
    size_bytes: int
    encrypt_ms: float


class ImageState(StrEnum):
    """State of an image. Only RELEASED images are visible to other roles."""

    DRAFT = "draft"  # found, waiting for a person to seal it
    REVIEW = "review"  # a person must look first; reasons are recorded
    RELEASED = "released"
    WITHDRAWN = "withdrawn"  # flagged: hidden from all users until it is sealed again
    ERASED = "erased"  # its key is destroyed


@dataclass(frozen=True)
class ImageRecord:
    """Metadata of an image."""

    image_id: str
    patient_id: str
    state: ImageState
    format: Format
    modality: str
    profile: str
    width: int
    height: int
    frames: int
    size_bytes: int  # of the original file, coarse (see engine.measure.coarse)
    stored_bytes: int  # masked file, thumbnail and sealed container; coarse
    uploaded_at: datetime
    uploaded_by: str
    sealed_at: datetime | None
    reasons: tuple[str, ...]  # why a person must look, or did
    confidence: float | None  # lowest of its regions, coarse; None without regions
    region_count: int
    times_ms: Mapping[str, float]
    version: int = 1


@dataclass(frozen=True)
class AuditFilter:
    """Which entries of the audit log are asked for; what is None or empty is not asked for.

    Args:
        since, until: The first moment, and the first one after.
        outcome: ``ok``, ``refused``, ``failed``, ``requested`` or ``completed``.
    """

    since: datetime | None = None
    until: datetime | None = None
    actor: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class Series:
    """Images of a study that were made as one (PS3.3 A.1.2), as far as the caller may see them.

    Args:
        number, description, modality, body_part, laterality: As the header says; None or empty
            where it does not.
        images: In the order of instance numbers, else of positions, else of uploads.
    """

    series_id: str
    number: int | None
    description: str = field(repr=False)
    modality: str
    body_part: str
    laterality: str
    images: tuple[ImageRecord, ...]

    @property
    def title(self) -> str:
        """Number, description, and the body part where the description does not name it."""
        number = "" if self.number is None else f"Series {self.number}"
        part = self.body_part.lower()
        named = part in self.description.lower()
        return " · ".join(
            said for said in (number, self.description, "" if named else part) if said
        )


@dataclass(frozen=True)
class Study:
    """One examination of a patient, as far as the caller may see it.

    Args:
        study_uid: The UID that its masked files have.
        date: ``YYYY-MM-DD``: of the header, else of the upload; ``dated`` says which.
        time: ``HH:MM`` where the header says it.
        sex: Of the patient, as the header says: F, M or O; empty where it does not.
        series: In the order of their numbers, else of upload.
    """

    study_id: str
    patient_id: str
    study_uid: str
    date: str = field(repr=False)
    time: str = field(repr=False)
    dated: bool
    description: str = field(repr=False)
    accession_number: str = field(repr=False)
    sex: str = field(repr=False)
    series: tuple[Series, ...]

    @property
    def image_count(self) -> int:
        return sum(len(one.images) for one in self.series)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which occur, each once."""
        return tuple(sorted({one.modality for one in self.series if one.modality}))


@dataclass(frozen=True)
class Patient:
    """A patient's record as far as the caller may see it.

    Args:
        patient_id: Opaque key of the catalog, safe in logs and addresses.
        id: The hospital's own number, at most 50 characters; sensitive.
        note: None where the caller may not read it.
    """

    patient_id: str
    id: str
    name: str
    age: int | None
    note: str | None
    created_at: datetime
    updated_at: datetime
    image_count: int = 0


@dataclass(frozen=True)
class Note:
    note_id: str
    patient_id: str
    image_id: str | None
    author: str
    written_at: datetime
    text: str


@dataclass(frozen=True)
class Account:
    username: str
    name: str
    role: Role
    enabled: bool
    created_at: datetime
    last_sign_in_at: datetime | None = None
    second_factor: bool = False
    email: str = ""  # linked to it for single sign-on


@dataclass(frozen=True)
class Caller:
    """The caller, resolved from the token anew on every call."""

    username: str
    role: Role
    session_id: str
    origin: str = ""  # IP address or client
    proven_at: datetime | None = None  # last proof by password or code; None for the operator
    factor_due: bool = False  # may only set up the second factor that the role wants


@dataclass(frozen=True)
class AccountRequest:
    """A request for an account.

    Args:
        request_id: Reference given to the person, so that no impostor is approved instead.
        role: The one they wish for; an administrator decides.
        taken: There is an account of this user name by now.
    """

    request_id: str
    username: str
    name: str
    role: Role
    requested_at: datetime
    taken: bool


@dataclass(frozen=True)
class OpenSession:
    """An open session of an account. The id gives no access.

    Args:
        door: ``browser`` or ``API``.
        origin: Address from which it was begun.
        current: It is the one that asks.
    """

    session_id: str
    started_at: datetime
    seen_at: datetime
    expires_at: datetime
    door: str
    origin: str
    current: bool


@dataclass(frozen=True)
class Passkey:
    """A key in a device of somebody's, without what it answers with.

    Args:
        name: By which its owner knows the device.
        used_at: None before it was used.
    """

    credential_id: str
    name: str
    added_at: datetime
    used_at: datetime | None


@dataclass(frozen=True)
class SecondFactor:
    """State of an account's second factor.

    Args:
        enabled_at: Of the first one that is in force; None where there is none.
        codes_left: Recovery codes that were not used.
        required: The settings want one for this role.
        has_app: An authenticator application is set up.
        passkeys: The oldest first.
        passkeys_offered: The installation can use passkeys.
    """

    enabled_at: datetime | None
    codes_left: int
    required: bool
    has_app: bool = False
    passkeys: tuple[Passkey, ...] = ()
    passkeys_offered: bool = False


@dataclass(frozen=True)
class Enrolment:
    """The secret for an authenticator app; shown once."""

    secret: str = field(repr=False)
    uri: str = field(repr=False)


@dataclass(frozen=True)
class AuditEntry:
    sequence: int
    occurred_at: datetime
    actor: str
    role: str
    action: str
    outcome: str  # "ok", "completed", "refused", "failed", "requested"
    patient_id: str | None
    image_id: str | None
    region_id: str | None
    reason: str
    origin: str
    detail: Mapping[str, Any]
    digest: str  # SHA-256 over this entry and the digest before it


@dataclass(frozen=True)
class AuditFound(Sequence[AuditEntry]):
    """Entries that a search of the log found within its time, newest first.

    Args:
        before: Older entries than this number were not looked at yet: where a search goes on;
            None where the beginning of the log was reached.
        searched_to: When the oldest entry was written that was looked at; None in an empty log.
    """

    entries: Sequence[AuditEntry]
    before: int | None
    searched_to: datetime | None

    @overload
    def __getitem__(self, index: int) -> AuditEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AuditEntry]: ...
    def __getitem__(self, index: int | slice) -> AuditEntry | Sequence[AuditEntry]:
        return self.entries[index]

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class Fingerprint:
    """Perceptual identity of an image (F39). Computed from hidden pixels: keep it sealed.

    Args:
        colour_histogram: Shares per bin, sum 1.
        average_hash, perceptual_hash: 64 bits as 16 hex digits.
    """

    colour_histogram: tuple[float, ...]
    average_hash: str
    perceptual_hash: str


@dataclass(frozen=True)
class Assessment:
    """Measured numbers of one image; each is defined in :mod:`engine.metrics`.

    Entropies are bits per byte over the bytes of the stored values, so that original,
    masked and sealed data are measured with one ruler.
    """

    entropy_original_bits: float
    entropy_masked_bits: float
    entropy_sealed_bits: float
    entropy_sealed_expected_bits: float
    ssim: float
    psnr_db: float  # inf where nothing differs
    histogram_correlation: float
    average_hash_distance_bits: int
    perceptual_hash_distance_bits: int
    masked_share: float  # share of pixels under boxes
    fingerprint: Fingerprint
    regions: Sequence[Mapping[str, float]] = ()  # per region: entropy before and after
    entropy_sealed_low_bits: float = math.nan  # 99.9 % of random bytes of that length
    entropy_sealed_high_bits: float = math.nan  # lie between these two


@dataclass(frozen=True)
class Session:
    """Proof of a sign-in. The token is shown once and stored only as a digest."""

    token: str = field(repr=False)
    account: Account
    expires_at: datetime


@dataclass(frozen=True)
class File:
    """A file to download.

    Args:
        folder: Where an original lay under the folder that was sealed, its parts joined by ``/``;
            empty where nobody knows.
    """

    name: str = field(repr=False)
    media_type: str
    data: bytes = field(repr=False)
    folder: str = field(default="", repr=False)

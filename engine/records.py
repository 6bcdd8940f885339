"""Frozen types that cross module borders. Geometry lives here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np

from engine.permissions import Role


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """Half-open pixel box on a half-open range of frames.

    Args:
        x1, y1: Left and top pixel, inclusive.
        x2, y2: Right and bottom pixel, exclusive.
        frame: First frame, inclusive, counted from 0.
        frame_end: Last frame, exclusive; by default one frame.

    Raises:
        ValueError: Empty, inverted or negative.
    """

    x1: int
    y1: int
    x2: int
    y2: int
    frame: int = 0
    frame_end: int = -1

    def __post_init__(self) -> None:
        if self.frame_end == -1:
            object.__setattr__(self, "frame_end", self.frame + 1)
        if not (0 <= self.x1 < self.x2 and 0 <= self.y1 < self.y2):
            raise ValueError(f"not a box: {self.xyxy}")
        if not 0 <= self.frame < self.frame_end:
            raise ValueError(f"not a range of frames: {self.frame}..{self.frame_end}")

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def width(self) -> int:
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        return self.y2 - self.y1

    @property
    def frame_count(self) -> int:
        return self.frame_end - self.frame

    @property
    def area_px(self) -> int:
        """Pixels on one frame."""
        return self.width * self.height

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index into an array of shape (frames, height, width, ...)."""
        return (
            slice(self.frame, self.frame_end),
            slice(self.y1, self.y2),
            slice(self.x1, self.x2),
        )

    def padded(self, fraction: float, min_px: int) -> Region:
        """Grown on all sides by ``max(min_px, ceil(fraction * longer side))`` pixels, not clipped
        at the right and bottom."""
        pad = max(min_px, math.ceil(fraction * max(self.width, self.height)))
        return replace(
            self,
            x1=max(0, self.x1 - pad),
            y1=max(0, self.y1 - pad),
            x2=self.x2 + pad,
            y2=self.y2 + pad,
        )

    def aligned(self, grid: tuple[int, int]) -> Region:
        """Rounded outward to a block grid of ``(width, height)`` pixels."""
        gx, gy = grid
        return replace(
            self,
            x1=self.x1 // gx * gx,
            y1=self.y1 // gy * gy,
            x2=-(-self.x2 // gx) * gx,
            y2=-(-self.y2 // gy) * gy,
        )

    def clipped(self, width: int, height: int, frames: int = 1) -> Region | None:
        """The part inside the image, or None where nothing of it is inside."""
        x1, y1 = min(self.x1, width), min(self.y1, height)
        x2, y2 = min(self.x2, width), min(self.y2, height)
        f1, f2 = min(self.frame, frames), min(self.frame_end, frames)
        if x1 >= x2 or y1 >= y2 or f1 >= f2:
            return None
        return Region(x1, y1, x2, y2, f1, f2)

    def intersection_px(self, other: Region) -> int:
        """Shared pixels on one frame; 0 where they share no frame."""
        if self.frame_end <= other.frame or other.frame_end <= self.frame:
            return 0
        w = min(self.x2, other.x2) - max(self.x1, other.x1)
        h = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(0, w) * max(0, h)


class TextVerdict(StrEnum):
    """What reading a line of burned-in text says of it; what it reads is never kept."""

    IDENTIFYING = "identifying"  # names somebody, or looks like it
    HARMLESS = "harmless"  # side marker, scale, technique factor, and nothing else
    UNKNOWN = "unknown"  # nobody can tell: sealed


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


class Format(StrEnum):
    """Container formats, by their usual names."""

    JPEG = "JPEG"
    PNG = "PNG"
    DICOM = "DICOM"
    TIFF = "TIFF"
    BMP = "BMP"
    WEBP = "WebP"


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded image: stored values, not what a screen would show.

    Args:
        name: File name as it came, at most 255 characters; sensitive.
        format: Real format, found from the bytes.
        data: The file as it came.
        pixels: Shape (frames, height, width) or (frames, height, width, channels);
            uint8, uint16, int8, int16 (DICOM also uint32/int32).
        grid: Block size ``(width, height)`` in px on which the source was compressed
            lossily; (1, 1) for lossless sources.
        properties: Facts of the pixels only, never of the patient: ``bits``, ``colour``,
            ``modality``, ``spacing_mm`` (row, column), ``lossy``, ``transfer_syntax`` ...
            and ``overlays``, which are pixels themselves and as sensitive as these.
        people: What the header says of people: ``hints``, to fill in a record, and
            ``identifiers``, to compare with burned-in text. Sensitive; empty but for DICOM.
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
        masked: A complete file of the original's format that depends only on pixels
            outside the regions and holds no identifying metadata.
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
    """Life of an image. Only RELEASED leaves the technician's hands."""

    DRAFT = "draft"  # found, waiting for a person to seal it
    REVIEW = "review"  # a person must look first; reasons are recorded
    RELEASED = "released"
    WITHDRAWN = "withdrawn"  # flagged: nobody sees it until it is sealed anew
    ERASED = "erased"  # its key is destroyed


@dataclass(frozen=True)
class ImageRecord:
    """What may be known of an image without opening anything."""

    image_id: str
    patient_id: str
    state: ImageState
    format: Format
    modality: str
    profile: str
    width: int
    height: int
    frames: int
    size_bytes: int  # of the original file, rounded up by at most 12 % (see vault.pad_length)
    stored_bytes: int  # masked file, thumbnail and sealed container
    uploaded_at: datetime
    uploaded_by: str
    sealed_at: datetime | None
    reasons: tuple[str, ...]  # why a person must look, or did
    confidence: float | None  # lowest confidence of its regions; None without regions
    region_count: int
    times_ms: Mapping[str, float]
    version: int = 1


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
    """Who is asking, resolved afresh from the token on every call."""

    username: str
    role: Role
    session_id: str
    origin: str = ""  # address or door they come from
    proven_at: datetime | None = None  # last proof by password or code; None for the operator
    factor_due: bool = False  # may only set up the second factor that the role wants


@dataclass(frozen=True)
class AccountRequest:
    """An account that somebody asked for.

    Args:
        request_id: Reference that the person was told, so that nobody is approved in their place.
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
    """One of a person's sessions. The id opens nothing.

    Args:
        door: ``browser`` or ``API``.
        current: It is the one that asks.
    """

    session_id: str
    started_at: datetime
    seen_at: datetime
    expires_at: datetime
    door: str
    current: bool


@dataclass(frozen=True)
class SecondFactor:
    """State of an account's second factor.

    Args:
        enabled_at: None where there is none.
        codes_left: Recovery codes that were not used.
        required: The settings want one for this role.
    """

    enabled_at: datetime | None
    codes_left: int
    required: bool


@dataclass(frozen=True)
class Enrolment:
    """What an authenticator application needs; shown once."""

    secret: str = field(repr=False)
    uri: str = field(repr=False)


@dataclass(frozen=True)
class AuditEntry:
    sequence: int
    occurred_at: datetime
    actor: str
    role: str
    action: str
    outcome: str  # "ok", "refused", "failed", "requested"
    patient_id: str | None
    image_id: str | None
    region_id: str | None
    reason: str
    origin: str
    detail: Mapping[str, Any]
    digest: str  # SHA-256 over this entry and the digest before it


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
    """Something to hand out."""

    name: str = field(repr=False)
    media_type: str
    data: bytes = field(repr=False)

"""Request and response bodies of the REST routes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from engine import Detection, Format, ImageState, Region, Role, SealedRegion

#: The engine uses UTC without time zone; clients get it with the zone.
Utc = Annotated[datetime, AfterValidator(lambda at: at if at.tzinfo else at.replace(tzinfo=UTC))]
#: No control characters, because the text is searched, logged and shown.
Text = Annotated[str, Field(max_length=10_000, pattern=r"^[^\x00]*$")]
Line = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Why = Annotated[Text, Field(min_length=1, max_length=2000, examples=["tumour board"])]

T = TypeVar("T")


class Schema(BaseModel):
    """Base of response bodies; validates from the engine's frozen records."""

    model_config = ConfigDict(
        from_attributes=True, json_schema_serialization_defaults_required=True
    )


class Request(BaseModel):
    """Base of request bodies; unknown fields are an error."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[T]):
    """A page of a list."""

    items: list[T]
    next_offset: int | None = Field(description="Offset of the next page; null at the end.")

    @classmethod
    def of(cls, found: Sequence[Any], limit: int, offset: int) -> Self:
        """From a result with up to one item more than the limit."""
        more = len(found) > limit
        return cls(items=list(found[:limit]), next_offset=offset + limit if more else None)


class Account(Schema):
    username: str = Field(examples=["e.example"])
    name: str = Field(examples=["Dr Eva Example"])
    role: Role
    enabled: bool
    created_at: Utc
    last_sign_in_at: Utc | None


class Patient(Schema):
    """A patient record, as far as the caller has permission to see it."""

    patient_id: str = Field(
        description="Opaque id, safe in URLs and logs.",
        examples=["pt_06286c4cefda68398cc9b199"],
    )
    id: str = Field(description="The hospital's own number.", examples=["P-1042"])
    name: str = Field(examples=["Erika Musterfrau"])
    age: int | None = Field(examples=[61])
    note: str | None = Field(description="Null if the caller has no permission to read it.")
    created_at: Utc
    updated_at: Utc
    image_count: int


class PatientChange(Request):
    """Fields to change; omitted fields stay unchanged."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"age": 62, "note": "Referred by Dr Example."}]}
    )
    id: Annotated[Line, Field(max_length=50)] | None = None
    name: Annotated[Line, Field(max_length=100)] | None = None
    age: int | None = Field(None, ge=0, le=130)
    note: Text | None = None


class PatientVersion(Schema):
    """An earlier version of a patient record."""

    changed_at: Utc
    changed_by: str = Field(examples=["technician"])
    id: str
    name: str
    age: int | None
    note: str


class Image(Schema):
    """Metadata of an image."""

    image_id: str = Field(examples=["im_9c1f0f8b2f6f4b7c8d9e0a1b"])
    patient_id: str = Field(examples=["pt_06286c4cefda68398cc9b199"])
    state: ImageState
    format: Format
    modality: str = Field(examples=["US"])
    profile: str = Field(examples=["general"])
    width: int = Field(examples=[1024])
    height: int = Field(examples=[768])
    frames: int = Field(examples=[1])
    size_bytes: int = Field(
        description="Size of the original, rounded up to 1 or 1.5 times a power of two."
    )
    stored_bytes: int = Field(description="Size of all that is stored, rounded up alike.")
    uploaded_at: Utc
    uploaded_by: str
    sealed_at: Utc | None
    reasons: list[str] = Field(description="Why the image needs or needed review.")
    confidence: float | None = Field(
        description="Lowest confidence of its regions, rounded down to quarters."
    )
    region_count: int
    times_ms: dict[str, float] = Field(description="Time of each stage, as a power of two.")
    version: int


class Series(Schema):
    """Images of a study that were made as one, in the order of their instance numbers."""

    series_id: str = Field(examples=["se_5d41402abc4b2a76b9719d91"])
    number: int | None
    description: str = Field(examples=["Head 5.0 H31s"])
    modality: str = Field(examples=["CT"])
    body_part: str = Field(examples=["HEAD"])
    laterality: str = Field(description="L, R, B or U; empty if the header does not say.")
    images: list[Image]


class Study(Schema):
    """One examination of a patient, with the images that the caller has permission to see."""

    study_id: str = Field(examples=["st_7d793037a0760186574b0282"])
    patient_id: str = Field(examples=["pt_06286c4cefda68398cc9b199"])
    study_uid: str = Field(description="Study Instance UID of the masked files.")
    date: str = Field(description="YYYY-MM-DD.", examples=["2026-11-28"])
    time: str = Field(description="HH:MM; empty if the header does not say.")
    dated: bool = Field(description="False: the date is that of the upload.")
    description: str = Field(examples=["CT head"])
    accession_number: str
    sex: str = Field(description="F, M or O as the header says; empty if it does not.")
    image_count: int
    modalities: list[str]
    series: list[Series] = Field(description="In the order of their numbers.")


class Admission(Schema):
    """A new patient with a first image, which is a draft until it is sealed."""

    patient: Patient
    image: Image | None


class Box(BaseModel):
    """A half-open pixel box on a half-open range of frames."""

    label: str = Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["text"])
    confidence: float = Field(1.0, ge=0, le=1)
    x1: int = Field(ge=0, le=1_000_000)
    y1: int = Field(ge=0, le=1_000_000)
    x2: int = Field(ge=1, le=1_000_000, description="Exclusive.")
    y2: int = Field(ge=1, le=1_000_000, description="Exclusive.")
    frame: int = Field(0, ge=0, le=1_000_000)
    frame_end: int | None = Field(None, ge=1, le=1_000_001, description="Exclusive.")
    source: str = Field("person", max_length=100, description="Name of the network, or person.")

    @classmethod
    def of(cls, found: Detection) -> Self:
        """From the engine's detection."""
        return cls(**_box(found))

    def detection(self) -> Detection:
        """The engine's detection. Raises ValueError for an invalid box."""
        end = self.frame + 1 if self.frame_end is None else self.frame_end
        region = Region(self.x1, self.y1, self.x2, self.y2, self.frame, end)
        return Detection(region, self.label, self.confidence, self.source)


class SealedBox(BaseModel):
    """A sealed region: position, class and size, without its content."""

    region_id: str = Field(examples=["rg_20056762805aa929ae52fd4b"])
    image_id: str = Field(examples=["im_9c1f0f8b2f6f4b7c8d9e0a1b"])
    label: str = Field(examples=["text"])
    confidence: float = Field(description="Rounded down to quarters.", examples=[0.75])
    source: str = Field(examples=["person"])
    x1: int = Field(examples=[8])
    y1: int = Field(examples=[8])
    x2: int = Field(examples=[200], description="Exclusive.")
    y2: int = Field(examples=[40], description="Exclusive.")
    frame: int = Field(examples=[0])
    frame_end: int = Field(examples=[1], description="Exclusive.")
    size_bytes: int = Field(description="Size of the encrypted bytes.")
    encrypt_ms: float = Field(description="As a power of two.")

    @classmethod
    def of(cls, image_id: str, sealed: SealedRegion) -> Self:
        """From the engine's record of an image."""
        return cls(
            region_id=sealed.region_id,
            image_id=image_id,
            size_bytes=sealed.size_bytes,
            encrypt_ms=sealed.encrypt_ms,
            **_box(sealed.detection),
        )


def _box(found: Detection) -> dict[str, Any]:
    region = found.region
    return {
        "label": found.label,
        "confidence": found.confidence,
        "source": found.source,
        "x1": region.x1,
        "y1": region.y1,
        "x2": region.x2,
        "y2": region.y2,
        "frame": region.frame,
        "frame_end": region.frame_end,
    }


class Note(Schema):
    note_id: str
    patient_id: str
    image_id: str | None
    author: str = Field(examples=["doctor"])
    written_at: Utc
    text: str = Field(examples=["No change since the last examination."])


class NewNote(Request):
    text: Annotated[Text, Field(min_length=1, examples=["No change since the last examination."])]


class Stated(Request):
    """A reason; it is logged."""

    reason: Why


class AuditEntry(Schema):
    sequence: int
    occurred_at: Utc
    actor: str
    role: str
    action: str = Field(examples=["image.restore"])
    outcome: str = Field(examples=["completed"])
    patient_id: str | None
    image_id: str | None
    region_id: str | None
    reason: str
    origin: str
    detail: dict[str, Any]
    digest: str


class FoundEntries(BaseModel):
    """What one search of the audit log found, and how far back it came."""

    items: list[AuditEntry]
    next_before: int | None = Field(
        description="Entries before this one were not looked at yet; null where all were.",
        examples=[30950001],
    )
    searched_to: Utc | None = Field(description="Time of the oldest entry that was looked at.")

"""What pages send and are told of uploads of whole studies."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from api import schemas

MOST_FILES: Final = 2000
MOST_BYTES: Final = 2 << 30


class State(StrEnum):
    """State of a file."""

    WAITING = "waiting"
    TAKEN = "taken"
    DUPLICATE = "duplicate"  # was here before
    REFUSED = "refused"
    OTHER_PATIENT = "other-patient"  # names somebody else than the confirmed record


class ListedFile(schemas.Request):
    """A file that is to come."""

    name: Annotated[str, Field(min_length=1, max_length=1024, examples=["IM0001"])]
    folder: Annotated[str, Field(max_length=1024)] = ""
    size: Annotated[int, Field(ge=0, le=MOST_BYTES)]


class Listing(schemas.Request):
    """The files that are to come, and what is done with them."""

    files: Annotated[list[ListedFile], Field(min_length=1, max_length=MOST_FILES)]
    profile: schemas.Line | None = None
    seal: bool = Field(False, description="Seal images without doubt without a person's look.")


class Target(schemas.Request):
    """Under which record a group of files belongs."""

    group: int = Field(ge=0, examples=[0])
    patient_id: schemas.Line | None = Field(
        None, description="An existing record; null makes one of what the files say."
    )
    reason: Annotated[str, Field(max_length=2000)] = Field(
        "", description="Needed where the files name another patient than the record."
    )


class Targets(schemas.Request):
    """The person's answer."""

    targets: Annotated[list[Target], Field(min_length=1, max_length=MOST_FILES)]


class StudyOfGroup(schemas.Schema):
    """A study that some files of a group name."""

    date: str
    description: str
    accession_number: str
    modality: str
    series: int
    files: int


class Record(schemas.Schema):
    """A patient record."""

    patient_id: str
    id: str
    name: str
    age: int | None


class Group(schemas.Schema):
    """Files that name the same patient; without a number, only those of one study or folder."""

    group: int
    number: str = Field(description="Empty where the files name nobody.")
    name: str
    birth_date: str
    age: int | None
    part: str = Field(description="Study or folder of files without a number; else empty.")
    files: int
    places: list[int]
    studies: list[StudyOfGroup]
    record: Record | None
    differs: list[str] = Field(description="In what files and record differ.")
    ready: bool = Field(description="A person said where it belongs.")


class FileState(schemas.Schema):
    """Where one file is."""

    place: int = Field(examples=[0])
    state: State
    received: int = Field(description="Bytes that are here; the next piece begins there.")
    message: str = ""
    image_id: str | None = None


class IntakeState(schemas.Schema):
    """One upload."""

    intake_id: str = Field(examples=["in_1a2b3c4d5e6f708192a3b4c5"])
    files: list[FileState]
    groups: list[Group]


class CameBack(schemas.Schema):
    """An image that was not sealed after all."""

    image_id: str = Field(examples=["im_1a2b3c4d5e6f708192a3b4c5"])
    title: str = Field(description="Whose image it is, and what.")
    message: str


class Overview(schemas.Schema):
    """How far the uploads of this account are."""

    listed: int = Field(
        description="Files of uploads that have not been completed.", examples=[200]
    )
    arrived: int
    given_up: int = Field(description="Files of them that are not here and come no more.")
    to_look: int = Field(description="Drafts that nothing has looked at yet.")
    looked: int
    sealed: int
    ready: int = Field(description="Looked at, without doubt.")
    review: int = Field(description="Looked at, and a person must look.")
    failed: int
    per_second: float
    seconds_left: float | None
    sealing: int = Field(description="Sealed beside the page, and not done yet.")
    sealed_beside: int
    came_back: list[CameBack] = Field(description="Sealed beside the page, and need another look.")

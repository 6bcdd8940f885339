"""De-identification profiles and pseudonyms of recipients, over REST."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field

from api import schemas
from api.dependencies import TheEngine, Token, needed_reason
from api.problems import answers
from engine import DeidProfile

router = APIRouter(tags=["recipients"])

_READING = answers(401, 403, 404, 422, 429, 503)
_WRITING = answers(400, 401, 403, 404, 409, 413, 422, 429, 503)
Name = Annotated[str, Path(max_length=40, description="Its name", examples=["trial-7"])]
Whose = Annotated[str, Path(max_length=64, description="The recipient", examples=["Lyon"])]
GivenReason = Annotated[str, Depends(needed_reason)]


class Options(schemas.Request):
    """Options of PS3.15 annex E.3, beyond the Basic Profile."""

    dates: bool = Field(
        default=False, description="All dates of a patient are shifted by the same days (113107)."
    )
    characteristics: bool = Field(
        default=False, description="Age, sex, size, weight and the like stay (113108)."
    )
    device: bool = Field(default=False, description="What names the device stays (113109).")
    descriptors: bool = Field(
        default=False, description="Texts stay without the words that name somebody (113105)."
    )


class ProfileValues(schemas.Request):
    """How copies for a recipient are de-identified."""

    description: Annotated[
        schemas.Text, Field(max_length=200, examples=["Dates shifted, for the trial in Lyon"])
    ] = ""
    options: Options = Field(default_factory=Options)


class Profile(ProfileValues):
    """A de-identification profile."""

    name: str = Field(examples=["research"])
    own: bool = Field(description="Made here; the others come with the product.")

    @classmethod
    def of(cls, profile: DeidProfile) -> Self:
        return cls(
            name=profile.name,
            description=profile.description,
            options=Options(**asdict(profile.options)),
            own=profile.own,
        )


class Pseudonyms(schemas.Request):
    """A recipient's list."""

    csv: str = Field(
        min_length=1,
        max_length=16_000_000,
        description="Two columns with headings: the hospital's number, and the pseudonym.",
        examples=["number,pseudonym\nP-1042,LYON-001\n"],
    )


class Taken(schemas.Schema):
    """How many patients a list has."""

    patients: int = Field(examples=[120])


class Pseudonym(schemas.Schema):
    """What a recipient knows a patient by."""

    pseudonym: str = Field(examples=["LYON-001"])


class Whom(schemas.Schema):
    """Whose a pseudonym is."""

    patient_id: str = Field(examples=["pt_5b0d6c1e7f8a9b0c1d2e3f40"])


class Known(schemas.Request):
    """A pseudonym that a recipient names."""

    pseudonym: Annotated[schemas.Line, Field(min_length=1, max_length=64, examples=["LYON-001"])]


@router.get("/deidentification-profiles/", responses=_READING)
def profiles(token: Token, engine: TheEngine) -> list[Profile]:
    """De-identification profiles that a cohort can name."""
    return [Profile.of(profile) for profile in engine.recipients.choices(token).values()]


@router.put("/deidentification-profiles/{name}/", responses=_WRITING)
def save_profile(name: Name, values: ProfileValues, token: Token, engine: TheEngine) -> Profile:
    """Add a de-identification profile, or replace one that was made here."""
    options = values.options.model_dump()
    return Profile.of(engine.recipients.save(token, name, values.description, options))


@router.delete("/deidentification-profiles/{name}/", status_code=204, responses=_READING)
def remove_profile(name: Name, token: Token, engine: TheEngine) -> None:
    """Take a de-identification profile away that was made here."""
    engine.recipients.remove(token, name)


@router.get("/recipients/", responses=_READING)
def recipients(token: Token, engine: TheEngine) -> list[str]:
    """Recipients with a list of pseudonyms."""
    return engine.recipients.lists(token)


@router.put("/recipients/{recipient}/pseudonyms/", responses=_WRITING)
def save_pseudonyms(recipient: Whose, values: Pseudonyms, token: Token, engine: TheEngine) -> Taken:
    """Take a recipient's list of pseudonyms, in place of an earlier one."""
    return Taken(patients=engine.recipients.save_pseudonyms(token, recipient, values.csv))


@router.post("/recipients/{recipient}/patient/", responses=_WRITING)
def patient_of(
    recipient: Whose, known: Known, token: Token, engine: TheEngine, why: GivenReason
) -> Whom:
    """Whose a pseudonym of a recipient's list is, under a reason."""
    found = engine.recipients.patient_of(token, recipient, known.pseudonym, why)
    return Whom(patient_id=found)


@router.get("/patients/{patient_id}/pseudonym/", responses=_READING)
def pseudonym(
    patient_id: str,
    token: Token,
    engine: TheEngine,
    why: GivenReason,
    recipient: Annotated[str, Query(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")] = "",
) -> Pseudonym:
    """The pseudonym by which a recipient knows a patient, under a reason."""
    found = engine.recipients.pseudonym(token, patient_id, recipient, why)
    return Pseudonym(pseudonym=found)

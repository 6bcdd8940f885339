"""Care relations and emergency access over REST, for a hospital that restricts doctors."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field

from api import schemas
from api.dependencies import TheEngine, Token
from api.problems import answers
from engine import Permission, Verdict

router = APIRouter(tags=["care"])

_READING = answers(401, 403, 404, 422, 429, 503)
_WRITING = answers(400, 401, 403, 404, 413, 422, 429, 503)
Username = Annotated[schemas.Line, Field(max_length=64, examples=["doctor"])]


class CareRelation(schemas.Schema):
    """A doctor who treats a patient."""

    patient_id: str
    number: str = Field(description="The patient's hospital number.", examples=["P-1042"])
    username: str
    since: schemas.Utc
    assigned_by: str


class Assignment(schemas.Request):
    """The doctor to add."""

    username: Username


class EmergencyAccess(schemas.Schema):
    """An emergency access (break-glass), from its reason to its review."""

    glass_id: str = Field(examples=["gl_4f5e6d7c8b9a0f1e2d3c4b5a"])
    patient_id: str
    number: str = Field(description="The patient's hospital number.")
    username: str
    reason: str
    opened_at: schemas.Utc
    expires_at: schemas.Utc
    open: bool
    ended_at: schemas.Utc | None
    ended_by: str
    reviewed_at: schemas.Utc | None
    reviewed_by: str
    verdict: Verdict | None
    remark: str


class Emergency(schemas.Request):
    """The patient, and the reason; the administrator sees it."""

    patient: Annotated[schemas.Line, Field(description="Hospital number or patient id.")]
    reason: schemas.Why


class Review(schemas.Request):
    """Whether an emergency access was justified."""

    verdict: Literal["justified", "unjustified"]
    remark: schemas.Why


@router.get("/patients/{patient_id}/care-team/", responses=_READING)
def read_care_team(patient_id: str, token: Token, engine: TheEngine) -> list[CareRelation]:
    """Doctors of a patient, newest first."""
    return [CareRelation.model_validate(r) for r in engine.care.team(token, patient_id)]


@router.post("/patients/{patient_id}/care-team/", status_code=201, responses=_WRITING)
def assign_care(
    patient_id: str, assignment: Assignment, token: Token, engine: TheEngine
) -> CareRelation:
    """Add a doctor to a patient."""
    made = engine.care.assign(token, patient_id, assignment.username)
    return CareRelation.model_validate(made)


@router.delete("/patients/{patient_id}/care-team/{username}/", status_code=204, responses=_READING)
def end_care(patient_id: str, username: str, token: Token, engine: TheEngine) -> None:
    """End a care relation; a doctor ends only their own."""
    engine.care.end(token, patient_id, username)


@router.post("/emergency-access/", status_code=201, responses=_WRITING)
def break_glass(emergency: Emergency, token: Token, engine: TheEngine) -> EmergencyAccess:
    """Start emergency access (break-glass) to a patient for one hour. It will be reviewed."""
    broken = engine.care.break_glass(token, emergency.patient, emergency.reason)
    return EmergencyAccess.model_validate(broken)


@router.get("/emergency-access/", responses=_READING)
def list_emergency_access(token: Token, engine: TheEngine) -> list[EmergencyAccess]:
    """All emergency accesses for reviewers; for doctors, their own open ones."""
    reviewer = engine.sessions.may(token, Permission.REVIEW_ACCESS)
    found = (
        engine.care.emergency_access(token) if reviewer else engine.care.my_emergency_access(token)
    )
    return [EmergencyAccess.model_validate(g) for g in found]


@router.delete("/emergency-access/{glass_id}/", status_code=204, responses=_READING)
def end_glass(glass_id: str, token: Token, engine: TheEngine) -> None:
    """End an emergency access: your own, or any as a reviewer."""
    if engine.sessions.may(token, Permission.REVIEW_ACCESS):
        engine.care.revoke_emergency_access(token, glass_id)
    else:
        engine.care.end_emergency_access(token, glass_id)


@router.post("/emergency-access/{glass_id}/review/", status_code=204, responses=_WRITING)
def review_glass(glass_id: str, review: Review, token: Token, engine: TheEngine) -> None:
    """Record whether an emergency access was justified; once, and never your own."""
    engine.care.review_emergency_access(token, glass_id, review.verdict, review.remark)

"""Studies over REST: which images belong together, and in what order."""

from __future__ import annotations

from fastapi import APIRouter

from api import schemas
from api.dependencies import TheEngine, Token
from api.problems import answers

router = APIRouter(tags=["studies"])

_READING = (401, 403, 404, 409, 422, 429, 503)


@router.get("/patients/{patient_id}/studies/", responses=answers(*_READING))
def list_studies(patient_id: str, token: Token, engine: TheEngine) -> list[schemas.Study]:
    """Studies of one patient, newest first, each with its series and images.

    Technicians get drafts too; others get released images.
    """
    found = engine.studies.of_patient(token, patient_id)
    return [schemas.Study.model_validate(study) for study in found]


@router.get("/studies/{study_id}/", responses=answers(*_READING))
def read_study(study_id: str, token: Token, engine: TheEngine) -> schemas.Study:
    """One study with its series and images."""
    return schemas.Study.model_validate(engine.studies.get(token, study_id))

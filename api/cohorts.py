"""Cohorts of masked images over REST: prepared, then taken away once as a ZIP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from api import schemas
from api.dependencies import TheEngine, Token
from api.files import BINARY, Answers
from api.problems import answers
from api.zips import ZIP, zip_answer
from engine import CohortOrder

router = APIRouter(prefix="/cohorts", tags=["cohorts"])

_PEM: Answers = {200: {"description": "PEM", "content": {"application/x-pem-file": BINARY}}}
_READING = (401, 403, 404, 409, 422, 429, 503)
Ids = Annotated[list[schemas.Line], Field(max_length=100_000)]


class Order(BaseModel):
    """What shall leave."""

    study_ids: Ids = []
    image_ids: Ids = []
    reason: schemas.Line = Field(min_length=1, max_length=1000, examples=["Trial 7, to Lyon"])
    new_identifiers: bool = Field(
        False, description="New UIDs and pseudonyms, for this cohort alone."
    )
    packages: bool = Field(
        False, description="With the sealed packages, which only this installation opens."
    )
    profile: Annotated[schemas.Text, Field(max_length=40)] = Field(
        "",
        description="De-identification profile of copies; empty for the masked files as they are.",
    )
    recipient: Annotated[schemas.Text, Field(max_length=64)] = Field(
        "", description="Whose copies: the same name gets the same pseudonyms and dates again."
    )


class Prepared(schemas.Schema):
    """A cohort that can be taken away once, by this session."""

    release_id: str = Field(examples=["rl_1a2b3c4d5e6f708192a3b4c5"])
    images: int
    patients: int
    fingerprint: str = Field(
        description="SHA-256 of the signing key. Tell it to the receiver by another way."
    )
    expires_at: schemas.Utc


@router.post("/", status_code=201, responses=answers(400, *_READING))
def prepare(order: Order, token: Token, engine: TheEngine) -> Prepared:
    """Prepare a cohort of masked images, by study or by image."""
    cohort = engine.cohorts.prepare(token, CohortOrder(**order.model_dump()))
    return Prepared(
        release_id=cohort.release_id,
        images=len(cohort.files),
        patients=cohort.patients,
        fingerprint=cohort.fingerprint,
        expires_at=cohort.expires_at,
    )


@router.get("/public-key/", response_class=Response, responses={**answers(401, 403, 429), **_PEM})
def public_key(token: Token, engine: TheEngine) -> Response:
    """The key that signs statements of cohorts, as PEM."""
    pem, fingerprint = engine.cohorts.public_key(token)
    return Response(
        pem, media_type="application/x-pem-file", headers={"X-Key-Fingerprint": fingerprint}
    )


@router.get("/{release_id}/file/", response_class=Response,
            responses={**answers(*_READING), **ZIP})  # fmt: skip
def take(release_id: str, token: Token, engine: TheEngine, request: Request) -> Response:
    """The cohort as a ZIP, once: masked files, manifest, and the signed statement."""
    return zip_answer(request, engine.cohorts.files(token, release_id), release_id)

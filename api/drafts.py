"""Drafts over REST: detected boxes and sealing, for systems without the box editor."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, Field

from api import schemas
from api.dependencies import Limit, Offset, TheEngine, Token, needed_reason
from api.problems import answers
from api.turns import INTAKE_TURN, PAGE_TURN
from engine import Suggestion

router = APIRouter(prefix="/drafts", tags=["drafts"])

_READING = (401, 403, 404, 409, 422, 429, 503)
_WRITING = (400, *_READING, 413)


_ALONE = {"loc": ("body", "undoubted"), "msg": "not with a decision", "type": "value_error"}


class Draft(schemas.Schema):
    """A draft that this session has opened."""

    handle: str = Field(
        description="For GET /drafts/{handle}/frames/{frame}/; expires after minutes."
    )
    image: schemas.Image
    found: list[schemas.Box] = Field(description="Highest confidence first.")
    reasons: list[str] = Field(description="Why the draft needs review.")
    suggestions: list[Suggestion] = Field(
        description="For each box: seal, ask (too uncertain), or leave (harmless text)."
    )
    labels: list[str] = Field(description="Allowed classes of boxes.")
    frames: int
    expires_at: schemas.Utc


class Decision(schemas.Request):
    """The boxes to seal. Without boxes, the detected ones, unless a person left boxes with it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"boxes": [{"label": "text", "x1": 8, "y1": 8, "x2": 200, "y2": 40}]}]
        }
    )
    boxes: list[schemas.Box] | None = Field(None, max_length=500)
    undoubted: bool = Field(
        False,
        description="Seal as the profile proposes, and only if there is no doubt. Logged as sealed"
        " without a person's look.",
    )
    removed: dict[int, schemas.Why] = Field(
        default_factory=dict, description="Index of a detected box, and why it stays visible."
    )
    confirm: schemas.Text = Field(
        "", description="A person's reason for sealing despite the open review reasons."
    )


@router.get("/", responses=answers(401, 403, 422, 429, 503))
def list_drafts(
    token: Token, engine: TheEngine, limit: Limit = 50, offset: Offset = 0
) -> schemas.Page[schemas.Image]:
    """Drafts and the review queue, newest first."""
    return schemas.Page.of(engine.drafts.waiting(token, limit + 1, offset), limit, offset)


@router.get("/{image_id}/", dependencies=PAGE_TURN, responses=answers(*_READING))
def open_draft(image_id: str, token: Token, engine: TheEngine) -> Draft:
    """Open a draft. It is plaintext, so the access is logged."""
    view = engine.drafts.open(token, image_id)
    return Draft(
        handle=view.handle,
        image=schemas.Image.model_validate(view.record),
        found=[schemas.Box.of(d) for d in view.detections],
        reasons=list(view.reasons),
        suggestions=list(view.suggestions),
        labels=list(view.labels),
        frames=view.frames,
        expires_at=view.expires_at,
    )


@router.post("/{image_id}/seal/", dependencies=INTAKE_TURN, responses=answers(*_WRITING))
def seal(image_id: str, decision: Decision, token: Token, engine: TheEngine) -> schemas.Image:
    """Seal a draft. The content of the boxes is then visible only with permission.

    409 with `urn:medsec:review-needed` if the draft needs review first; the draft is kept. So it is
    where a person left boxes with it and `boxes` is omitted.
    """
    if decision.undoubted:
        if decision.boxes is not None or decision.removed or decision.confirm:
            raise RequestValidationError([_ALONE])
        return schemas.Image.model_validate(engine.drafts.seal_undoubted(token, image_id))
    removed = dict(decision.removed)
    if decision.boxes is None:
        view = engine.drafts.open(token, image_id)
        try:
            engine.drafts.refuse_drawn(token, image_id)  # held by the caller now: no more are drawn
            wanted, removed = view.suggested(Suggestion.SEAL), view.left | removed
        finally:
            engine.images.close(token, view.handle)
    else:
        wanted = []
        for place, box in enumerate(decision.boxes):
            try:
                wanted.append(box.detection())
            except ValueError as err:
                where = {"loc": ("body", "boxes", place), "msg": "not a box", "type": "value_error"}
                raise RequestValidationError([where]) from err
    sealed = engine.drafts.seal(token, image_id, wanted, removed, decision.confirm)
    return schemas.Image.model_validate(sealed)


@router.delete("/{image_id}/", status_code=204, responses=answers(*_WRITING))
def discard_draft(
    image_id: str, token: Token, engine: TheEngine, reason: Annotated[str, Depends(needed_reason)]
) -> None:
    """Discard a draft; its key is destroyed."""
    engine.drafts.discard(token, image_id, reason)

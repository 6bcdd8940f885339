"""Images over REST: masked images, and sealed content with a reason or a key exchange."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from api import schemas
from api.dependencies import Exchange, Frame, Limit, Offset, Reason, TheEngine, Token, needed_reason
from api.files import FILE, FILE_OR_SEALED, PICTURE, REGION, SEALED, attachment, png
from api.problems import answers
from api.turns import PAGE_TURN
from engine import ImageQuery, Restoration

router = APIRouter(tags=["images"])

_READING = (401, 403, 404, 409, 422, 429, 503)
_WRITING = (400, *_READING, 413)
_Format = Literal["png", "jpeg", "original"]
Filter = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]


class Metrics(schemas.Schema):
    """Metrics of one image; `engine/metrics.py` defines them."""

    entropy_original_bits: float
    entropy_masked_bits: float
    entropy_sealed_bits: float
    entropy_sealed_expected_bits: float
    entropy_sealed_low_bits: float | None
    entropy_sealed_high_bits: float | None
    ssim: float
    psnr_db: float | None = Field(description="Null if the images are identical.")
    histogram_correlation: float
    average_hash_distance_bits: int
    perceptual_hash_distance_bits: int
    masked_share: float = Field(examples=[0.04])
    fingerprint: dict[str, Any] = Field(description="Colour histogram and perceptual hashes.")
    regions: list[dict[str, float | None]]


class Opened(schemas.Schema):
    """An image that this session has opened; use the handle to get its pixels."""

    handle: str = Field(examples=["vw_1a2b3c4d5e6f708192a3b4c5"])
    image_id: str
    frames: int
    partial: bool = Field(description="Whether some regions stayed sealed.")
    opened: list[str] = Field(description="Ids of the opened regions.")
    proof: str = Field(description="What was verified: bytes, pixels or regions.")
    total_ms: float
    expires_at: schemas.Utc

    @classmethod
    def of(cls, opened: Restoration) -> Opened:
        """From the engine's restoration, without names and digests."""
        facts = {f: getattr(opened, f) for f in cls.model_fields if f != "image_id"}
        return cls(image_id=opened.record.image_id, **facts)


@router.get("/images/", responses=answers(401, 403, 422, 429, 503))
def list_images(
    token: Token,
    engine: TheEngine,
    q: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = "",
    patient_id: Filter = None,
    modality: Filter = None,
    label: Filter = None,
    reason: Filter = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> schemas.Page[schemas.Image]:
    """Released images that match all filters, newest first; `q` searches for patients.

    `reason` is one of an image's reasons, such as `small-doubt`.
    """
    query = ImageQuery(text=q, modality=modality, label=label, reason=reason)
    found = engine.search.images(token, query, limit + 1, offset, patient_id)
    return schemas.Page.of(found.images, limit, offset)


@router.get("/images/{image_id}/", responses=answers(*_READING))
def read_image(image_id: str, token: Token, engine: TheEngine) -> schemas.Image:
    """One released image."""
    return schemas.Image.model_validate(engine.images.get(token, image_id))


@router.delete("/images/{image_id}/", status_code=204, responses=answers(*_WRITING))
def erase_image(
    image_id: str, token: Token, engine: TheEngine, reason: Annotated[str, Depends(needed_reason)]
) -> None:
    """Destroy the image's key. Nobody can restore it again, not even from its packages."""
    engine.images.erase(token, image_id, reason)


@router.get("/images/{image_id}/thumbnail/", response_class=Response,
            responses={**answers(*_READING), **PICTURE})  # fmt: skip
def thumbnail(image_id: str, token: Token, engine: TheEngine) -> Response:
    """Thumbnail of the masked image."""
    return png(engine.images.thumbnail(token, image_id))


@router.get("/images/{image_id}/grid/", dependencies=PAGE_TURN, response_class=Response,
            responses={**answers(*_READING), **PICTURE})  # fmt: skip
def grid(image_id: str, token: Token, engine: TheEngine, frame: Frame = 0) -> Response:
    """The masked image with numbered, labelled boxes."""
    return png(engine.images.grid_picture(token, image_id, frame))


@router.get("/images/{image_id}/file/", response_class=Response,
            responses={**answers(*_READING), **FILE})  # fmt: skip
def masked_file(image_id: str, token: Token, engine: TheEngine) -> Response:
    """Download the masked file, in the format of the original."""
    return attachment(engine.images.masked_file(token, image_id))


@router.get("/images/{image_id}/package/", response_class=Response,
            responses={**answers(*_READING), **SEALED})  # fmt: skip
def sealed_package(
    image_id: str,
    token: Token,
    engine: TheEngine,
    inside: Annotated[bool, Query(description="Inside the masked file; DICOM only.")] = False,
) -> Response:
    """The encrypted regions of the masked file; only this system's keys decrypt them."""
    take = engine.packages.whole if inside else engine.packages.export
    return attachment(take(token, image_id))


@router.get("/images/{image_id}/regions/", responses=answers(*_READING))
def list_regions(image_id: str, token: Token, engine: TheEngine) -> list[schemas.SealedBox]:
    """The sealed regions of an image."""
    return [schemas.SealedBox.of(image_id, r) for r in engine.images.regions(token, image_id)]


@router.get("/regions/{region_id}/", dependencies=PAGE_TURN, response_model=schemas.SealedBox,
            responses={**answers(*_READING), **REGION})  # fmt: skip
def read_region(
    region_id: str,
    token: Token,
    engine: TheEngine,
    reason: Reason,
    exchange: Exchange = None,
    frame: Annotated[
        int | None, Query(ge=0, le=1_000_000, description="Default: first frame of the region")
    ] = (None),
) -> schemas.SealedBox | Response:
    """One sealed region: place, class and confidence.

    With a key exchange and a reason: its content as PNG, encrypted with the exchanged key.
    """
    image_id, region = engine.images.region(token, region_id)
    if exchange is None:
        return schemas.SealedBox.of(image_id, region)
    return _sealed(
        engine.exchange.deliver_region(token, image_id, region_id, reason, exchange, frame)
    )


@router.get("/images/{image_id}/restore/", dependencies=PAGE_TURN, response_class=Response,
            responses={**answers(*_READING), **FILE_OR_SEALED})  # fmt: skip
def restore(
    image_id: str,
    token: Token,
    engine: TheEngine,
    reason: Reason,
    exchange: Exchange = None,
    format: _Format = "png",
    enhance: bool = False,
    frame: Frame = 0,
) -> Response:
    """The verified original, with a reason: the file itself, or one frame of it.

    `X-Rendition` describes the response: `original` is the original file; `rendered` is a display
    version with 8 bits per channel and no other loss; `lossy` is a JPEG. `enhanced` is added if
    the contrast was changed. Renditions are for viewing and are never stored.
    """
    opened = engine.images.restore(token, image_id, reason)
    try:
        headers = {
            "X-Rendition": _rendition(format, enhance),
            "X-Proof": opened.proof,
            "X-Partial": str(opened.partial).lower(),
        }
        if exchange is not None:
            message = engine.exchange.deliver_file(
                token, opened.handle, exchange, format, frame, enhance
            )
            return _sealed(message, **headers)
        file = engine.images.restored_file(token, opened.handle, format, frame, enhance)
        return attachment(file, **headers)
    finally:
        engine.images.close(token, opened.handle)


@router.post(
    "/images/{image_id}/restorations/",
    dependencies=PAGE_TURN,
    status_code=201,
    responses=answers(*_WRITING),
)
def open_image(
    image_id: str, token: Token, engine: TheEngine, reason: Reason, response: Response
) -> Opened:
    """Open an image for some minutes, to view its frames one by one."""
    opened = engine.images.restore(token, image_id, reason)
    response.headers["Location"] = f"/api/restorations/{opened.handle}/"
    return Opened.of(opened)


@router.get("/restorations/{handle}/", responses=answers(*_READING))
def read_restoration(handle: str, token: Token, engine: TheEngine) -> Opened:
    """An image that this session has opened."""
    return Opened.of(engine.images.restoration(token, handle))


@router.delete("/restorations/{handle}/", status_code=204, responses=answers(401, 403, 429, 503))
def close_restoration(handle: str, token: Token, engine: TheEngine) -> None:
    """Close an opened image."""
    engine.images.close(token, handle)


@router.get("/images/{image_id}/metrics/", responses=answers(*_READING))
def metrics(image_id: str, token: Token, engine: TheEngine) -> Metrics:
    """Entropy and similarity of original, masked and sealed data."""
    return Metrics.model_validate(_finite(asdict(engine.images.assessment(token, image_id))))


@router.get("/images/{image_id}/history/", responses=answers(*_READING))
def read_history(image_id: str, token: Token, engine: TheEngine) -> list[schemas.AuditEntry]:
    """History of an image, as far as the caller has permission to see it."""
    entries = engine.images.history(token, image_id)
    return [schemas.AuditEntry.model_validate(e) for e in entries]


@router.get("/images/{image_id}/notes/", responses=answers(*_READING))
def list_notes(image_id: str, token: Token, engine: TheEngine) -> list[schemas.Note]:
    """Notes of one image, newest first."""
    return [schemas.Note.model_validate(n) for n in engine.patients.notes(token, image_id=image_id)]


@router.post("/images/{image_id}/notes/", status_code=201, responses=answers(*_WRITING))
def add_note(image_id: str, note: schemas.NewNote, token: Token, engine: TheEngine) -> schemas.Note:
    """Add a note to an image; notes cannot be changed."""
    patient_id = engine.images.get(token, image_id).patient_id
    written = engine.patients.add_note(token, patient_id, note.text, image_id)
    return schemas.Note.model_validate(written)


@router.post("/images/{image_id}/flag/", status_code=204, responses=answers(*_WRITING))
def flag(image_id: str, stated: schemas.Stated, token: Token, engine: TheEngine) -> None:
    """Report missed private content. The image is withdrawn for all users immediately."""
    engine.withdrawals.flag(token, image_id, stated.reason)


@router.post("/images/{image_id}/question/", status_code=204, responses=answers(*_WRITING))
def question(image_id: str, stated: schemas.Stated, token: Token, engine: TheEngine) -> None:
    """Send an image back to the technicians because a box hides what is needed."""
    engine.withdrawals.question(token, image_id, stated.reason)


def _rendition(format: str, enhance: bool) -> str:
    kind = {"original": "original", "png": "rendered", "jpeg": "lossy"}[format]
    return f"{kind}, enhanced" if enhance else kind


def _sealed(message: bytes, **headers: str) -> Response:
    no_store = {"Cache-Control": "no-store", **headers}
    return Response(message, media_type="application/octet-stream", headers=no_store)


def _finite(value: Any) -> Any:
    """The value with null for infinities and NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

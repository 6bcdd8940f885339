"""Studies over REST: which images belong together, and in what order."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api import schemas
from api.dependencies import Place, Reason, TheEngine, Token, Window
from api.files import PICTURE, picture
from api.images import Opened
from api.problems import answers
from api.turns import PAGE_TURN
from api.zips import ZIP, zip_answer
from engine import StudyRestoration

router = APIRouter(tags=["studies"])

_READING = (401, 403, 404, 409, 422, 429, 503)


class OpenedStudy(schemas.Schema):
    """A study, or one series of it, that this session may open image by image."""

    handle: str = Field(examples=["vs_1a2b3c4d5e6f708192a3b4c5"])
    study_id: str
    series_id: str = Field(description="Empty for the whole study.")
    image_ids: list[str] = Field(description="In the order of the study.")
    expires_at: schemas.Utc

    @classmethod
    def of(cls, opened: StudyRestoration) -> OpenedStudy:
        """From the engine's restoration, without the reason."""
        facts = {f: getattr(opened, f) for f in cls.model_fields if f != "image_ids"}
        return cls(image_ids=[image.image_id for image in opened.images], **facts)


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


SeriesId = Annotated[str, Query(max_length=100, description="Only this series")]


@router.get("/studies/{study_id}/archive/", response_class=Response,
            responses={**answers(*_READING), **ZIP})  # fmt: skip
def masked_archive(
    study_id: str, token: Token, engine: TheEngine, request: Request, series_id: SeriesId = ""
) -> Response:
    """Masked files of a study or a series as a ZIP with a DICOMDIR.

    `README.TXT` in it says what is not in it, and why. A ZIP that breaks off opens nowhere.
    """
    files = engine.archives.masked(token, study_id, series_id)
    return zip_answer(request, files, f"{series_id or study_id}-masked")


@router.post("/studies/{study_id}/restorations/", dependencies=PAGE_TURN, status_code=201,
             responses=answers(400, *_READING, 413))  # fmt: skip
def open_study(
    study_id: str,
    token: Token,
    engine: TheEngine,
    reason: Reason,
    response: Response,
    series_id: SeriesId = "",
) -> OpenedStudy:
    """Open a study, or a series, for some minutes under one reason.

    Each image is decrypted and verified when it is asked for. One that cannot be opened does not
    stop the others.
    """
    opened = engine.studies.restore(token, study_id, reason, series_id)
    response.headers["Location"] = f"/api/study-restorations/{opened.handle}/"
    return OpenedStudy.of(opened)


@router.get("/study-restorations/{handle}/", responses=answers(*_READING))
def read_study_restoration(handle: str, token: Token, engine: TheEngine) -> OpenedStudy:
    """A study that this session has opened."""
    return OpenedStudy.of(engine.studies.restoration(token, handle))


@router.get("/study-restorations/{handle}/archive/", response_class=Response,
            responses={**answers(*_READING), **ZIP})  # fmt: skip
def original_archive(handle: str, token: Token, engine: TheEngine, request: Request) -> Response:
    """Originals of an opened study or series as a ZIP with a DICOMDIR.

    Each image is opened, proven and logged when its turn comes. One that this account may not open
    whole is left out; `README.TXT` says so.
    """
    opened = engine.studies.restoration(token, handle)
    files = engine.archives.originals(token, handle)
    name = f"{opened.series_id or opened.study_id}-originals"
    return zip_answer(request, files, name)


@router.delete("/study-restorations/{handle}/", status_code=204,
               responses=answers(401, 403, 429, 503))  # fmt: skip
def close_study_restoration(handle: str, token: Token, engine: TheEngine) -> None:
    """Close an opened study with all its images."""
    engine.studies.close(token, handle)


@router.get(
    "/study-restorations/{handle}/images/{image_id}/",
    dependencies=PAGE_TURN,
    responses=answers(*_READING),
)
def open_image_of_study(handle: str, image_id: str, token: Token, engine: TheEngine) -> Opened:
    """Open one image of an opened study; its handle is that of a single restoration."""
    return Opened.of(engine.studies.open_image(token, handle, image_id))


@router.get("/study-restorations/{handle}/images/{image_id}/frames/{frame}/",
            dependencies=PAGE_TURN, response_class=Response,
            responses={**answers(*_READING), **PICTURE})  # fmt: skip
def restored_frame_of_study(
    handle: str,
    image_id: str,
    frame: Place,
    window: Window,
    token: Token,
    engine: TheEngine,
    enhance: bool = False,
) -> Response:
    """One frame of an image of an opened study; `X-Partial` says whether regions stayed sealed."""
    opened = engine.studies.open_image(token, handle, image_id)
    pixels = engine.studies.restored_frame(token, handle, image_id, frame, window, enhance)
    return picture(pixels, **{"X-Partial": str(opened.partial).lower()})

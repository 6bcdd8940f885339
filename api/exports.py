"""Routes of the pages for data other than pictures: display parameters and tables."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field, NaiveDatetime

from api import schemas
from api.dependencies import Only, TheEngine, Token
from api.files import BINARY, Answers, attachment
from api.problems import answers

router = APIRouter(tags=["browser"])

_TABLE: Answers = {
    200: {
        "description": "A table",
        "content": {"text/csv": BINARY, "application/vnd.apache.parquet": BINARY},
    }
}
_REPORT: Answers = {
    200: {
        "description": "The report",
        "content": {"application/pdf": BINARY, "text/csv": BINARY},
    }
}
_REFUSALS = answers(401, 403, 404, 409, 422, 429, 503)
Chosen = Annotated[list[str] | None, Query(max_length=100)]
#: UTC without time zone, as in the engine.
Day = Annotated[NaiveDatetime | None, Query()]


#: A tuple would produce an OpenAPI 3.0 schema.
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class Display(schemas.Schema):
    """Pixel spacing, windows and orientation from the masked file.

    Boxes are in stored pixels. Pictures are shown upright: turn boxes by the orientation.
    """

    spacing_mm: Pair | None
    spacing_from: str = Field(examples=["PixelSpacing"])
    windows: list[Pair]
    window: Pair | None = Field(
        description="In which the picture is shown by itself; null where it has none: colours."
    )
    orientation: int = Field(ge=1, le=8, description="As in EXIF", examples=[1])


@router.get("/images/{image_id}/display/", responses=_REFUSALS)
def display(image_id: str, token: Token, engine: TheEngine) -> Display:
    """Pixel spacing, windows and orientation of a released image."""
    return Display.model_validate(engine.images.display(token, image_id))


@router.get("/statistics/{table}/", response_class=Response,
            responses={**_REFUSALS, **_TABLE})  # fmt: skip
def statistics_table(
    table: Literal["images", "regions"],
    token: Token,
    engine: TheEngine,
    format: Literal["csv", "parquet"] = "csv",
    modality: Chosen = None,
    label: Chosen = None,
    since: Day = None,
    until: Day = None,
) -> Response:
    """Download a table of the statistics, with the filters of the Analytics page."""
    return attachment(engine.statistics.export(token, table, format, modality, since, until, label))


@router.get("/audit/file/", response_class=Response, responses=_REFUSALS)
def audit_file(
    token: Token,
    engine: TheEngine,
    only: Only,
    q: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = "",
    format: Literal["csv", "fhir"] = "csv",
) -> Response:
    """All matching entries of the audit log, as CSV or as AuditEvent resources of FHIR R4."""
    export = engine.audit.export_fhir if format == "fhir" else engine.audit.export
    return attachment(export(token, q, only))


@router.get("/patients/{patient_id}/access-report/", response_class=Response,
            responses={**answers(401, 403, 404, 422, 429, 503), **_REPORT})  # fmt: skip
def access_report(
    patient_id: str,
    token: Token,
    engine: TheEngine,
    format: Literal["pdf", "csv"] = "pdf",
    zone: Annotated[str, Query(max_length=64, examples=["Europe/Berlin"])] = "UTC",
) -> Response:
    """Who had access to a patient's data, for the patient. Takes the hospital's number too."""
    report = engine.audit.patient_report(token, patient_id)
    return attachment(report.csv(zone) if format == "csv" else report.pdf(zone))

"""Routes for what the pages hand out besides pictures: how to show an image, and tables."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api import shapes
from api.asking import TheEngine, Token
from api.files import attachment
from api.problems import answers

router = APIRouter(tags=["browser"])

_REFUSALS = answers(401, 403, 404, 409, 422, 429, 503)
Chosen = Annotated[list[str] | None, Query(max_length=100)]
Day = Annotated[datetime | None, Query()]


class Display(shapes.Shape):
    """How an image can be shown and measured, as its masked file says."""

    spacing_mm: tuple[float, float] | None
    spacing_from: str
    windows: list[tuple[float, float]]


@router.get("/images/{image_id}/display/", responses=_REFUSALS)
def display(image_id: str, token: Token, engine: TheEngine) -> Display:
    """Pixel spacing and windows of a released image."""
    return Display.model_validate(engine.display(token, image_id))


@router.get("/statistics/{table}/", response_class=Response, responses=_REFUSALS)
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
    """A table of the statistics to take away, filtered as the Analytics page is."""
    return attachment(engine.statistics_file(token, table, format, modality, since, until, label))

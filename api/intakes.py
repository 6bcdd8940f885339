"""Studies sent whole by a page: many files, in pieces, under the records that a person confirmed.

The page first sends a list of the files and their first bytes, and gets them grouped by the patient
whom they name. A person says under which record each group belongs. Then the files come, each in
pieces of at most 8 MiB at offsets. A file is acknowledged when it is an encrypted draft with a row;
what has not been acknowledged is sent again after a lost connection. Networks look at the drafts
in the background (:mod:`api.looking`).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response

from api import schemas
from api.dependencies import TheEngine, Token
from api.held_intakes import Intakes
from api.intake_schemas import (
    MOST_BYTES,
    MOST_FILES,
    FileState,
    IntakeState,
    Listing,
    Overview,
    Targets,
)
from api.middleware import PIECE_BYTES
from api.problems import answers
from api.sealing import sealing_of
from api.turns import INTAKE_TURN

router = APIRouter(prefix="/intakes", tags=["intakes"])


def intakes(request: Request) -> Intakes:
    """The uploads of this server."""
    held: Intakes = request.app.state.intakes
    return held


TheIntakes = Annotated[Intakes, Depends(intakes)]
Octets = Annotated[bytes, Body(media_type="application/octet-stream", max_length=PIECE_BYTES)]
_READING = (401, 403, 404, 422, 429, 503)
_WRITING = (400, 401, 403, 404, 409, 413, 422, 429, 503)


def _uploader(token: Token, engine: TheEngine) -> str:
    """The token of somebody who may upload. Raises PermissionDenied, audited."""
    engine.batches.end_work(engine.batches.work_token(token))
    return token


Uploader = Annotated[str, Depends(_uploader)]


@router.post("/", status_code=201, responses=answers(*_WRITING))
def open_intake(
    listing: Listing, token: Uploader, intakes: TheIntakes, response: Response
) -> IntakeState:
    """List the files of a study. The same list goes on where it stopped."""
    state = intakes.open(token, listing)
    response.headers["Location"] = f"/api/intakes/{state.intake_id}/"
    return state


@router.get("/", responses=answers(401, 422, 429, 503))
def overview(token: Token, request: Request, engine: TheEngine, intakes: TheIntakes) -> Overview:
    """How far one's own uploads are: what arrived, what was looked at, and how long it takes."""
    return intakes.overview(token, sealing_of(request.app.state))


@router.delete("/", status_code=204, responses=answers(401, 422, 429, 503))
def dismiss(token: Token, intakes: TheIntakes) -> None:
    """Forget one's uploads of which nothing comes any more. Files that arrived stay drafts."""
    intakes.dismiss(token)


@router.get("/{intake_id}/", responses=answers(*_READING))
def read_intake(
    intake_id: str, token: Token, engine: TheEngine, intakes: TheIntakes
) -> IntakeState:
    """One's own upload, with the state of each file."""
    return intakes.get(engine.caller(token, activity=False).username, intake_id)


@router.delete("/{intake_id}/", status_code=204, responses=answers(*_READING))
def drop_intake(intake_id: str, token: Token, engine: TheEngine, intakes: TheIntakes) -> None:
    """Stop an upload. Files that arrived stay drafts."""
    intakes.drop(engine.caller(token).username, intake_id)


@router.post("/{intake_id}/headers/", dependencies=INTAKE_TURN, responses=answers(*_WRITING))
def send_headers(
    intake_id: str,
    body: Octets,
    token: Uploader,
    intakes: TheIntakes,
    patient_id: Annotated[schemas.Line | None, Query(description="Chosen patient.")] = None,
) -> IntakeState:
    """Send the first bytes of files: place and length as 4 bytes each, then the bytes.

    Nothing of them is kept. The answer groups the files by the patient whom they name.
    """
    return intakes.headers(token, intake_id, body, patient_id)


@router.post("/{intake_id}/targets/", responses=answers(*_WRITING))
def set_targets(intake_id: str, body: Targets, token: Uploader, intakes: TheIntakes) -> IntakeState:
    """Say under which record each group belongs; with a reason where the files name another."""
    return intakes.target(token, intake_id, body.targets)


@router.put("/{intake_id}/files/{place}/", dependencies=INTAKE_TURN, responses=answers(*_WRITING))
def send_piece(
    intake_id: str,
    place: Annotated[int, Path(ge=0, lt=MOST_FILES)],
    body: Octets,
    token: Uploader,
    intakes: TheIntakes,
    offset: Annotated[int, Query(ge=0, le=MOST_BYTES)] = 0,
) -> FileState:
    """Send a piece of a file. It is acknowledged when its state is no longer `waiting`."""
    return intakes.piece(token, intake_id, place, offset, body)

"""Earned release over REST: streams with their bounds, and a way to suspend one."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field

from api import schemas
from api.dependencies import TheEngine, Token
from api.problems import answers
from engine import Standing, Trust

router = APIRouter(prefix="/release", tags=["system"])


class Stream(schemas.Schema):
    """Images of one device, profile and version of the detector, and what people found in them."""

    stream_id: str
    parts: dict[str, str] = Field(examples=[{"profile": "ultrasound", "manufacturer": "ACME"}])
    version: str = Field(description="Of the detector with the profile's values.")
    state: Trust
    images: int
    looks: int = Field(description="Images that count, looked at by a person.")
    misses: int
    waiting: int
    released: int = Field(description="Images released without a person's look.")
    bound: float = Field(
        description="Upper bound of the share of images with a miss, right at all times with a"
        " confidence of 95 %.",
        examples=[0.0099],
    )
    why: str = Field(description="Of the last suspension.")

    @classmethod
    def of(cls, standing: Standing) -> Stream:
        """A stream as the engine has it."""
        return cls(
            stream_id=standing.name.stream_id,
            parts=dict(standing.name.parts),
            version=standing.name.version,
            state=standing.state,
            images=standing.images,
            looks=standing.looks,
            misses=standing.misses,
            waiting=standing.waiting,
            released=standing.released,
            bound=standing.bound,
            why=standing.why,
        )


class Suspension(schemas.Request):
    """Why a person is to look at every image again."""

    reason: schemas.Why


@router.get("/streams/", responses=answers(401, 403, 409, 429, 503))
def streams(token: Token, engine: TheEngine) -> list[Stream]:
    """Every stream, those with most images first. Nobody can grant trust."""
    return [Stream.of(s) for s in engine.release.streams(token)]


@router.post(
    "/streams/{stream_id}/suspend/",
    status_code=204,
    responses=answers(400, 401, 403, 404, 409, 413, 422, 429, 503),
)
def suspend(stream_id: str, wanted: Suspension, token: Token, engine: TheEngine) -> None:
    """Let a person look at every image of a stream until it has earned its release anew."""
    engine.release.suspend(token, stream_id, wanted.reason)

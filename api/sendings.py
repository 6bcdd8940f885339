"""What goes to nodes of the network, over REST: rules, the queue, and what a person sends."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field

from api import schemas
from api.dependencies import Limit, Offset, TheEngine, Token, needed_reason
from api.problems import answers
from engine import ForwardRuleEntry, SendingState
from engine import Sending as Entry

router = APIRouter(prefix="/network", tags=["network"])

_READING = answers(401, 403, 404, 422, 429, 503)
_WRITING = answers(400, 401, 403, 404, 409, 413, 422, 429, 503)
RuleName = Annotated[
    str, Path(max_length=40, description="Name of the rule", examples=["research archive"])
]
Title = Annotated[schemas.Line, Field(max_length=16, description="AE title", examples=["ARCHIVE"])]


class RuleValues(schemas.Request):
    """Which masked images go where when they are sealed."""

    to: list[Title] = Field(min_length=1, max_length=20, description="Nodes that get them.")
    sender: Annotated[schemas.Text, Field(max_length=16)] = Field(
        "", description="AE title of the node that sent the image; empty for whoever brought it."
    )
    modality: Annotated[schemas.Text, Field(max_length=16)] = Field(
        "", description="Empty for any.", examples=["CT"]
    )
    profile: Annotated[schemas.Text, Field(max_length=32)] = Field(
        "", description="Specialty profile under which it was sealed; empty for any."
    )
    enabled: bool = True


class Rule(RuleValues):
    """A rule, with who changed it last."""

    name: str = Field(examples=["research archive"])
    changed_at: schemas.Utc
    changed_by: str

    @classmethod
    def of(cls, entry: ForwardRuleEntry) -> Self:
        rule = entry.rule
        return cls(
            name=rule.name,
            to=list(rule.to),
            sender=rule.sender,
            modality=rule.modality,
            profile=rule.profile,
            enabled=rule.enabled,
            changed_at=entry.changed_at,
            changed_by=entry.changed_by,
        )


class Sending(schemas.Schema):
    """An image on its way to a node."""

    sending_id: str = Field(examples=["sd_5b0d6c1e7f8a9b0c1d2e3f40"])
    image_id: str = Field(examples=["im_0a1b2c3d4e5f60718293a4b5"])
    destination: str = Field(examples=["ARCHIVE"])
    original: bool = Field(description="The original; otherwise the masked image.")
    cause: str = Field(description="The rule, or the request of a person.", examples=["rule CT"])
    queued_by: str
    queued_at: schemas.Utc
    state: SendingState
    attempts: int = Field(description="Made so far.")
    next_at: schemas.Utc = Field(description="When it is tried next, where it waits.")
    error: str = Field(description="Why it is not sent; empty where nothing failed.")

    @classmethod
    def of(cls, entry: Entry) -> Self:
        known = {name: getattr(entry, name) for name in cls.model_fields}
        return cls(**known)


class Destination(schemas.Schema):
    """A node that receives."""

    title: str = Field(examples=["ARCHIVE"])
    originals: bool = Field(description="A person who may restore may send originals to it.")


class Order(schemas.Request):
    """A masked image that shall go to a node."""

    image_id: schemas.Line = Field(examples=["im_0a1b2c3d4e5f60718293a4b5"])
    destination: Title


class StudyOrder(schemas.Request):
    """A study whose originals shall go to a node."""

    study_id: schemas.Line = Field(examples=["st_0a1b2c3d4e5f60718293a4b5"])
    destination: Title


@router.get("/rules/", responses=_READING)
def read_rules(token: Token, engine: TheEngine) -> list[Rule]:
    """Rules by which masked images go to nodes when they are sealed."""
    return [Rule.of(entry) for entry in engine.sendings.rules(token).values()]


@router.put("/rules/{rule}/", responses=_WRITING)
def save_rule(rule: RuleName, values: RuleValues, token: Token, engine: TheEngine) -> Rule:
    """Add a rule, or replace what it says. It counts for what is sealed from now on."""
    engine.sendings.save_rule(token, rule, values.model_dump())
    return Rule.of(engine.sendings.rules(token)[rule])


@router.delete("/rules/{rule}/", status_code=204, responses=_READING)
def remove_rule(rule: RuleName, token: Token, engine: TheEngine) -> None:
    """Take a rule away; what it has queued goes on."""
    engine.sendings.remove_rule(token, rule)


@router.get("/sendings/", responses=_READING)
def read_sendings(
    token: Token,
    engine: TheEngine,
    state: Annotated[SendingState | None, Query(description="Only of this state")] = None,
    destination: Annotated[str, Query(max_length=16, description="Only to this node")] = "",
    limit: Limit = 50,
    offset: Offset = 0,
) -> schemas.Page[Sending]:
    """What goes to nodes: the newest change first."""
    found = engine.sendings.entries(
        token, str(state) if state else "", destination, limit + 1, offset
    )
    return schemas.Page[Sending].of([Sending.of(entry) for entry in found], limit, offset)


@router.post("/sendings/", status_code=204, responses=_WRITING)
def send_masked(order: Order, token: Token, engine: TheEngine) -> None:
    """Send a masked image to a node."""
    engine.sendings.forward(token, order.image_id, order.destination)


@router.post("/sendings/{sending_id}/retry/", status_code=204, responses=_WRITING)
def retry_sending(sending_id: str, token: Token, engine: TheEngine) -> None:
    """Try an entry now, whether it waits or failed."""
    engine.sendings.retry(token, sending_id)


@router.delete("/sendings/{sending_id}/", status_code=204, responses=_WRITING)
def cancel_sending(sending_id: str, token: Token, engine: TheEngine) -> None:
    """Send an entry no more."""
    engine.sendings.cancel(token, sending_id)


@router.get("/destinations/", responses=_READING)
def read_destinations(token: Token, engine: TheEngine) -> list[Destination]:
    """Nodes that receive."""
    found = engine.sendings.destinations(token)
    return [Destination(title=title, originals=may) for title, may in found.items()]


@router.post("/original-sendings/", status_code=204, responses=_WRITING)
def send_original(
    order: Order, token: Token, engine: TheEngine, reason: Annotated[str, Depends(needed_reason)]
) -> None:
    """Send an original to a node that may have originals; logged like a restoration."""
    engine.sendings.send_original(token, order.image_id, order.destination, reason)


@router.post("/original-sendings/of-study/", status_code=204, responses=_WRITING)
def send_original_study(
    order: StudyOrder,
    token: Token,
    engine: TheEngine,
    reason: Annotated[str, Depends(needed_reason)],
) -> None:
    """Send the originals of a study under one request."""
    engine.sendings.send_original_study(token, order.study_id, order.destination, reason)

"""The hospital's network over REST: nodes, and images of patients whom nobody knew."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Depends, Path
from pydantic import Field

from api import schemas
from api.dependencies import Limit, Offset, TheEngine, Token, needed_reason
from api.problems import answers
from engine import Held, NodeEntry

router = APIRouter(prefix="/network", tags=["network"])

_READING = answers(401, 403, 404, 422, 429, 503)
_WRITING = answers(400, 401, 403, 404, 409, 413, 422, 429, 503)
Title = Annotated[str, Path(max_length=16, description="AE title", examples=["CT1"])]


class NodeValues(schemas.Request):
    """What a node (a DICOM application entity) is allowed."""

    description: Annotated[schemas.Text, Field(max_length=100)] = ""
    addresses: list[schemas.Line] = Field(
        min_length=1,
        max_length=20,
        description="IP addresses or networks from which it may call.",
        examples=[["10.1.2.3"]],
    )
    certificate: Annotated[schemas.Text, Field(max_length=64)] = Field(
        "", description="SHA-256 of its TLS certificate in hex; empty for any of the CA."
    )
    profile: Annotated[schemas.Text, Field(max_length=32)] = Field(
        "", description="Specialty profile of its images; empty for the setting's."
    )
    creates_patients: bool = Field(
        False, description="Create a record for an unknown patient; otherwise the image is held."
    )
    seals: bool = Field(
        False, description="Seal images without doubt at once; otherwise each waits for a person."
    )
    sends: bool = Field(True, description="May hand images in.")
    queries: Literal["", "own", "all"] = Field(
        "",
        description="Which masked images it may find and fetch: none, its own, or all of them.",
    )
    host: Annotated[schemas.Text, Field(max_length=253)] = Field(
        "", description="Name or IP address under which it takes images; empty for none."
    )
    port: int = Field(0, ge=0, le=65_535, description="Its port there; 0 for none.")
    tls: bool = Field(False, description="It is called over TLS.")
    receives: bool = Field(False, description="Masked images may be sent to it.")
    originals: bool = Field(False, description="A person who may restore may send originals to it.")
    renames: bool = Field(False, description="It gets masked images under identifiers of its own.")
    packages: bool = Field(
        False, description="It gets masked images with their sealed package inside."
    )
    deidentification: Annotated[schemas.Text, Field(max_length=40)] = Field(
        "", description="De-identification profile of copies that are sent to it; empty for none."
    )


class Node(NodeValues):
    """A node, with who changed it last."""

    title: str = Field(examples=["CT1"])
    changed_at: schemas.Utc
    changed_by: str

    @classmethod
    def of(cls, entry: NodeEntry) -> Self:
        values = {**asdict(entry.node), "addresses": list(entry.node.addresses)}
        return cls(**values, changed_at=entry.changed_at, changed_by=entry.changed_by)


class HeldImage(schemas.Schema):
    """An image whose patient is not known here; a technician says whose it is."""

    held_id: str = Field(examples=["hd_5b0d6c1e7f8a9b0c1d2e3f40"])
    node: str = Field(examples=["CT1"])
    received_at: schemas.Utc
    number: str = Field(description="The patient's number in the header.", examples=["P-1042"])
    name: str = Field(description="The patient's name in the header.")
    birth_date: str

    @classmethod
    def of(cls, held: Held) -> Self:
        said = {name: str(held.hints.get(name, "")) for name in ("id", "name", "birth_date")}
        return cls(
            held_id=held.held_id,
            node=held.node,
            received_at=held.received_at,
            number=said["id"],
            name=said["name"],
            birth_date=said["birth_date"],
        )


class Assignment(schemas.Request):
    """The patient whom a held image shows."""

    patient: Annotated[
        schemas.Line, Field(description="Hospital number or patient id.", examples=["P-1042"])
    ]


class Assigned(schemas.Schema):
    """The draft that a held image became."""

    image_id: str = Field(examples=["im_0a1b2c3d4e5f60718293a4b5"])


@router.get("/nodes/", responses=_READING)
def read_nodes(token: Token, engine: TheEngine) -> list[Node]:
    """Nodes that may call, by AE title."""
    return [Node.of(entry) for entry in engine.nodes.entries(token).values()]


@router.put("/nodes/{title}/", responses=_WRITING)
def save_node(title: Title, values: NodeValues, token: Token, engine: TheEngine) -> Node:
    """Add a node, or replace what is said of it. It counts from the next image on."""
    engine.nodes.save(token, title, values.model_dump())
    return Node.of(engine.nodes.entries(token)[title])


@router.delete("/nodes/{title}/", status_code=204, responses=_READING)
def remove_node(title: Title, token: Token, engine: TheEngine) -> None:
    """Take a node away; its next image is refused."""
    engine.nodes.remove(token, title)


@router.get("/held/", responses=_READING)
def read_held(
    token: Token, engine: TheEngine, limit: Limit = 50, offset: Offset = 0
) -> schemas.Page[HeldImage]:
    """Images of patients who are not known here, oldest first."""
    found = engine.reception.held(token, limit + 1, offset)
    return schemas.Page[HeldImage].of([HeldImage.of(held) for held in found], limit, offset)


@router.post("/held/{held_id}/assign/", responses=_WRITING)
def assign_held(held_id: str, assignment: Assignment, token: Token, engine: TheEngine) -> Assigned:
    """Say whose a held image is; it becomes a draft of this patient."""
    return Assigned(image_id=engine.reception.assign(token, held_id, assignment.patient))


@router.delete("/held/{held_id}/", status_code=204, responses=_READING)
def discard_held(
    held_id: str, token: Token, engine: TheEngine, reason: Annotated[str, Depends(needed_reason)]
) -> None:
    """Throw a held image away."""
    engine.reception.discard(token, held_id, reason)

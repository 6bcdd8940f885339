"""The system over REST: health, statistics, models, audit log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api import schemas
from api.dependencies import Limit, Only, TheEngine, Token
from api.problems import answers
from engine import errors

router = APIRouter()


class Status(BaseModel):
    status: str = Field(examples=["ok"])
    server: str = Field(
        "", description="Id of this server, where it is one of several.", examples=["sv_07c1d2e3"]
    )


class Server(schemas.Schema):
    """One of several servers on one catalog."""

    server_id: str = Field(examples=["sv_07c1d2e3f4a5b6c7"])
    machine: str = Field(examples=["medsec-1"])
    release: str = Field(examples=["0.1.0"])
    started_at: schemas.Utc
    heartbeat_at: schemas.Utc = Field(description="When it last said that it is there.")
    leads: bool = Field(description="It does the scheduled work.")


class Health(schemas.Schema):
    """Health of the system for administrators; no patient data."""

    images: Mapping[str, int] = Field(
        description="Number of images in each state.", examples=[{"draft": 2, "released": 118}]
    )
    patients: int
    accounts: int
    audit_entries: int
    stored_bytes: int
    disk_free_bytes: int
    root_keys: list[str]
    keys_to_rotate: int
    confinement: dict[str, int | bool] = Field(
        description="What holds the processes that read files: the version of Landlock (0: none), a"
        " filter of system calls, a network namespace and a user of their own.",
        examples=[{"landlock": 7, "seccomp": True, "network": True, "user": True}],
    )
    networks_apart: bool = Field(
        description="MedSec's own networks run in such a process too; on a GPU they do not."
    )
    server: str = Field(description="Id of this server; empty where it is alone.")
    leads: bool = Field(description="This server does the scheduled work.")
    servers: list[Server] = Field(description="All servers; empty where there is only this one.")
    last_backup_at: schemas.Utc | None = None
    last_backup_locked_until: schemas.Utc | None = Field(
        None, description="Nobody can delete that backup before this; absent if it is not locked."
    )
    backup_overdue: bool = Field(
        description="The last successful backup is older than the setting allows."
    )
    erasures_kept: bool = Field(description="The list of erasures is stored with the backups.")
    scrubbed_at: schemas.Utc | None = Field(None, description="When all files were last checked.")
    scrubbed_images: int
    broken: list[str] = Field(
        description="Images and patients found damaged, and `accounts and rights` if these were"
        " changed outside MedSec."
    )
    files_moving: bool = Field(
        description="Some stored files are still in the place of `MEDSEC_BLOBS_ALSO`."
    )
    clock_back_seconds: int = Field(description="How far the clock was set back; 0 if it was not.")
    audit_forwarding: bool = Field(description="The log is sent to an audit repository.")
    audit_waiting: int = Field(description="Entries that the repository does not have yet.")
    audit_trouble: str = Field(description="Why the last try to send failed; empty if it did not.")
    recipients_ending: list[str] = Field(
        description="Certificates for original attributes that are not valid, or not in a month."
    )


class Statistics(BaseModel):
    """Statistics of all released images."""

    totals: dict[str, float] = Field(examples=[{"images": 120.0, "regions": 611.0}])
    images: list[dict[str, Any]]
    regions: list[dict[str, Any]]


class Verified(BaseModel):
    entries: int = Field(examples=[1204])


class Checkpoint(BaseModel):
    name: str = Field(examples=["audit-20261128T120000000000.json"])


class Model(schemas.Schema):
    """A network in use."""

    name: str = Field(examples=["PP-OCRv5"])
    version: str
    licence: str
    sha256: str


class Specialty(schemas.Schema):
    """A specialty profile: the classes to seal and their thresholds."""

    name: str = Field(examples=["chest"])
    title: str
    classes: list[str]
    confidence: float
    iou: float


@router.get(
    "/health/", tags=["system"], responses=answers(503), response_model_exclude_defaults=True
)
def health(engine: TheEngine) -> Status:
    """Liveness: the catalog is readable. Needs no session and discloses nothing more."""
    engine.people.setup_needed()
    return Status(status="ok", server=engine.server_id)


@router.get(
    "/ready/", tags=["system"], responses=answers(503), response_model_exclude_defaults=True
)
def ready(engine: TheEngine) -> Status:
    """Readiness: the catalog is readable and the networks are loaded."""
    engine.people.setup_needed()
    engine.models.about()
    return Status(status="ready", server=engine.server_id)


@router.get("/system/", tags=["system"], responses=answers(401, 403, 429, 503))
def system(token: Token, engine: TheEngine) -> Health:
    """Health of the system, for administrators."""
    return Health.model_validate(engine.health.state(token))


@router.get("/models/", tags=["system"], responses=answers(401, 429, 503))
def models(token: Token, engine: TheEngine) -> list[Model]:
    """The networks in use."""
    return [Model.model_validate(m) for m in engine.models.about()]


@router.get("/profiles/", tags=["system"], responses=answers(401, 429, 503))
def profiles(token: Token, engine: TheEngine) -> list[Specialty]:
    """All specialty profiles."""
    return [Specialty.model_validate(p) for p in engine.profiles.by_name().values()]


@router.get("/statistics/", tags=["system"], responses=answers(401, 403, 429, 503))
def statistics(token: Token, engine: TheEngine) -> Statistics:
    """Statistics without patients, names or single images; small groups are suppressed."""
    found = engine.statistics.tables(token)
    return Statistics(
        totals=dict(found.totals),
        images=_rows(found.images),
        regions=_rows(found.regions),
    )


@router.get("/audit/", tags=["audit"], responses=answers(401, 403, 409, 422, 429, 503))
def audit(
    token: Token,
    engine: TheEngine,
    only: Only,
    q: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = "",
    limit: Limit = 50,
    before: Annotated[
        int | None,
        Query(ge=1, le=10**15, description="Go on before this entry: `next_before` of an answer"),
    ] = None,
    offset: Annotated[int | None, Query(include_in_schema=False)] = None,
) -> schemas.FoundEntries:
    """The audit log, newest first, as far back as it is searched within some seconds.

    Fewer entries than asked for, or none, may come with a `next_before`: ask again with it.
    """
    if offset is not None:  # clients of earlier releases would get the first page for ever
        raise errors.InputError("There is no offset any more. Go on with before and next_before.")
    found = engine.audit.entries(token, q, limit, before, only)
    return schemas.FoundEntries.model_validate(
        {"items": list(found), "next_before": found.before, "searched_to": found.searched_to}
    )


@router.post("/audit/verify/", tags=["audit"], responses=answers(401, 403, 429, 500, 503))
def verify_audit(token: Token, engine: TheEngine) -> Verified:
    """Verify the hash chain; 500 with `urn:medsec:audit-broken` if it is broken."""
    return Verified(entries=engine.audit.verify(token))


@router.post(
    "/audit/checkpoints/",
    tags=["audit"],
    status_code=201,
    responses=answers(401, 403, 429, 500, 503),
)
def write_checkpoint(token: Token, engine: TheEngine) -> Checkpoint:
    """Write a signed checkpoint into the folder of `MEDSEC_CHECKPOINT_DIR`; says its file name.

    500 with `urn:medsec:settings-error` where that folder is not set.
    """
    return Checkpoint(name=engine.audit.write_checkpoint(token))


def _rows(table: Any) -> list[dict[str, Any]]:
    """Rows of a table for JSON: no infinities, times as text."""
    rows: list[dict[str, Any]] = json.loads(
        table.to_json(orient="records", date_format="iso", date_unit="s")
    )
    return rows

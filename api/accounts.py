"""Accounts over REST, for administrators."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from api import schemas
from api.dependencies import TheEngine, Token
from api.problems import answers
from engine import Role, errors

router = APIRouter(prefix="/accounts", tags=["accounts"])

_WRITING = answers(400, 401, 403, 404, 409, 413, 422, 429, 503)
RoleName = Literal["technician", "doctor", "researcher", "administrator"]


class AccountChange(schemas.Request):
    """Fields to change; omitted fields stay unchanged."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}]})
    role: RoleName | None = None
    enabled: bool | None = None


class AccountRequest(schemas.Schema):
    """A request for an account."""

    request_id: str = Field(examples=["rq_5b0d6c1e7f8a9b0c1d2e3f40"])
    username: str
    name: str
    role: Role
    requested_at: schemas.Utc
    taken: bool


class Approval(schemas.Request):
    """The role to assign, whatever role was requested."""

    role: Annotated[RoleName, Field(examples=["doctor"])]


class Proposal(schemas.Schema):
    """A change of an account that a second administrator has to confirm."""

    proposal_id: str = Field(examples=["pp_5b0d6c1e7f8a9b0c1d2e3f405b0d6c1e"])
    action: str = Field(examples=["account.reset-password"])
    username: str
    role: Role | None
    proposed_by: str
    proposed_at: schemas.Utc
    expires_at: schemas.Utc
    by_console: bool = Field(description="There is no other administrator: send the code.")


class ConsoleCode(schemas.Request):
    """The code on the server's console, if there is no other administrator."""

    code: Annotated[
        str, Field(max_length=100, pattern=r"^[^\x00]*$", examples=["K3QX7-2MPLA-9TWZC"])
    ] = ""


@router.get("/", responses=answers(401, 403, 429, 503))
def list_accounts(token: Token, engine: TheEngine) -> list[schemas.Account]:
    """All accounts, by user name."""
    return [schemas.Account.model_validate(a) for a in engine.people.accounts(token)]


@router.patch("/{username}/", responses=_WRITING)
def change_account(
    username: str, change: AccountChange, token: Token, engine: TheEngine
) -> schemas.Account:
    """Change the role, or enable or disable an account; its sessions end."""
    if change.role is None and change.enabled is None:
        raise errors.InputError(
            "Nothing to change. Send a role, or whether the account is enabled."
        )
    if change.role is not None:
        account = engine.people.set_role(token, username, Role(change.role))
    if change.enabled is not None:
        account = engine.people.set_enabled(token, username, change.enabled)
    return schemas.Account.model_validate(account)


@router.get("/proposals/", responses=answers(401, 403, 429, 503))
def list_proposals(token: Token, engine: TheEngine) -> list[Proposal]:
    """Changes that wait for a second administrator, oldest first."""
    return [Proposal.model_validate(p) for p in engine.people.proposals(token)]


@router.post("/proposals/{proposal_id}/confirm/", responses=_WRITING)
def confirm_proposal(
    proposal_id: str, confirmation: ConsoleCode, token: Token, engine: TheEngine
) -> schemas.Account:
    """Make a change that another administrator proposed."""
    made = engine.people.confirm(token, proposal_id, confirmation.code)
    return schemas.Account.model_validate(made)


@router.delete("/proposals/{proposal_id}/", status_code=204,
               responses=answers(401, 403, 404, 429, 503))  # fmt: skip
def drop_proposal(proposal_id: str, token: Token, engine: TheEngine) -> None:
    """Let a proposed change not be made."""
    engine.people.drop_proposal(token, proposal_id)


@router.get("/requests/", responses=answers(401, 403, 429, 503))
def list_requests(token: Token, engine: TheEngine) -> list[AccountRequest]:
    """Open account requests, oldest first."""
    return [AccountRequest.model_validate(r) for r in engine.people.requests(token)]


@router.post("/requests/{request_id}/approve/", status_code=201, responses=_WRITING)
def approve(
    request_id: str, approval: Approval, token: Token, engine: TheEngine
) -> schemas.Account:
    """Approve a request and create the account, with the password from the request."""
    made = engine.people.approve(token, request_id, Role(approval.role))
    return schemas.Account.model_validate(made)


@router.delete("/requests/{request_id}/", status_code=204,
               responses=answers(401, 403, 404, 429, 503))  # fmt: skip
def decline(request_id: str, token: Token, engine: TheEngine) -> None:
    """Decline a request."""
    engine.people.decline(token, request_id)

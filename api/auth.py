"""Authentication over REST: account requests, tokens, sessions, key exchange."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import ConfigDict, Field

from api import schemas
from api.dependencies import Origin, TheEngine, Token, presented
from api.problems import answers
from engine import Engine, Role

router = APIRouter(prefix="/auth", tags=["auth"])

_OPEN = (400, 401, 413, 422, 423, 429, 503)
_SIGNED_IN = (401, 429, 503)
Password = Annotated[schemas.Text, Field(max_length=1000)]
Code = Annotated[schemas.Text, Field(max_length=100)]


class Registration(schemas.Request):
    """A request for an account, or a new account made by an administrator."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "username": "e.example",
                    "name": "Dr Eva Example",
                    "role": "doctor",
                    "password": "four unrelated words here",
                }
            ]
        }
    )
    username: Annotated[schemas.Line, Field(max_length=64)]
    name: Annotated[schemas.Line, Field(max_length=100)]
    role: Literal["technician", "doctor", "researcher", "administrator"]
    password: Password


class Requested(schemas.Schema):
    """The reference of an account request, to tell the administrator."""

    request_id: str = Field(examples=["rq_5b0d6c1e7f8a9b0c1d2e3f40"])
    status: Literal["requested"] = "requested"


class Credentials(schemas.Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"username": "doctor", "password": "four unrelated words here"},
                {"username": "doctor", "password": "four unrelated words here", "code": "123456"},
            ]
        }
    )
    username: Annotated[schemas.Text, Field(max_length=64)]
    password: Password
    code: Code = Field("", description="Code of the second factor, if the account has one.")


class Refresh(schemas.Request):
    refresh: Annotated[
        schemas.Text,
        Field(max_length=200, examples=["5sVQ0Z2m1Yw8q3r7u9x0b2d4f6h8j0l2n4p6r8t0v2x"]),
    ]


class Tokens(schemas.Schema):
    """A short-lived access token and a one-time refresh token."""

    access: str = Field(examples=["eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl"])
    refresh: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in_s: int
    session_id: str = Field(description="A key exchange is bound to this session.")


class Proof(schemas.Request):
    """A password or a code; one of them is enough."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "123456"}]})

    password: Password = ""
    code: Code = ""


class Session(schemas.Schema):
    """A session of the caller. The id gives no access."""

    session_id: str
    started_at: schemas.Utc
    seen_at: schemas.Utc
    expires_at: schemas.Utc
    door: str = Field(examples=["API"])
    current: bool


class SigningKey(schemas.Schema):
    """The key that signs key exchanges. Compare its fingerprint with your administrator's."""

    ed25519: str = Field(
        description="Public key, 32 bytes in base64.",
        examples=["KtQBkjpeDmwJ2mx6zalyylpbutToTY53K+qJ8dgzC5w="],
    )
    fingerprint: str = Field(description="SHA-256 of the key in hex.")

    @classmethod
    def of(cls, key: bytes) -> Self:
        """From the raw public key."""
        text = base64.b64encode(key).decode()
        return cls(ed25519=text, fingerprint=hashlib.sha256(key).hexdigest())


class Offer(schemas.Schema):
    """The server's signed key exchange offer (FORMAT.md)."""

    exchange_id: str = Field(examples=["ex_0a1b2c3d4e5f60718293a4b5"])
    group: str = Field(examples=["x25519"])
    p: str | None = Field(None, description="Prime in hex; finite fields only.")
    g: str | None = Field(None, description="Generator in hex; finite fields only.")
    public: str = Field(description="The server's public value in base64.")
    expires_in_s: int
    signature: str


class Answer(schemas.Request):
    """The client's answer to a key exchange offer."""

    exchange_id: Annotated[
        schemas.Text, Field(max_length=100, examples=["ex_0a1b2c3d4e5f60718293a4b5"])
    ]
    public: Annotated[
        schemas.Text,
        Field(
            max_length=2000,
            description="In base64.",
            examples=["3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="],
        ),
    ]


class Confirmation(schemas.Schema):
    """Proof that the server holds the same key."""

    exchange_id: str = Field(examples=["ex_0a1b2c3d4e5f60718293a4b5"])
    confirmation: str = Field(description="HMAC-SHA256 in base64.")
    expires_in_s: int
    signature: str


def _tokens(engine: Engine, pair: Any) -> Tokens:
    return Tokens(
        access=pair.access,
        refresh=pair.refresh,
        expires_in_s=pair.expires_in_s,
        session_id=engine.caller(pair.access).session_id,
    )


# --- accounts and tokens ----------------------------------------------------------------------


@router.post(
    "/register/",
    status_code=202,
    response_model=Requested,
    responses={
        **answers(*_OPEN, 403),
        201: {"model": schemas.Account, "description": "An administrator created the account"},
    },
)
def register(
    requested: Registration, request: Request, engine: TheEngine, origin: Origin, response: Response
) -> Any:
    """Request an account. It gives no access until an administrator approves it.

    If an administrator calls this, the account is created immediately.
    """
    given = presented(request)
    role = Role(requested.role)
    if given:
        response.status_code = 201
        made = engine.people.create(
            given, requested.username, requested.name, role, requested.password
        )
        return Response(
            schemas.Account.model_validate(made).model_dump_json(),
            status_code=201,
            media_type="application/json",
        )
    reference = engine.people.request(
        requested.username, requested.name, role, requested.password, origin
    )
    return Requested(request_id=reference)


@router.post("/token/", responses=answers(*_OPEN))
def sign_in(credentials: Credentials, engine: TheEngine, origin: Origin) -> Tokens:
    """Open a session: access and refresh token.

    401 with `urn:medsec:code-needed` if the password is correct and a code is required.
    """
    pair = engine.sessions.sign_in_api(
        credentials.username, credentials.password, origin, credentials.code
    )
    return _tokens(engine, pair)


@router.post("/token/refresh/", responses=answers(*_OPEN))
def refresh(body: Refresh, engine: TheEngine) -> Tokens:
    """Exchange a refresh token for a new pair. Using one twice ends its session."""
    return _tokens(engine, engine.sessions.refresh(body.refresh))


@router.post("/token/revoke/", status_code=200, responses=answers(400, 413, 422, 429, 503))
def revoke(
    token: Annotated[
        schemas.Text,
        Form(max_length=5000, examples=["5sVQ0Z2m1Yw8q3r7u9x0b2d4f6h8j0l2n4p6r8t0v2x"]),
    ],
    engine: TheEngine,
    token_type_hint: Annotated[schemas.Text, Form(max_length=100)] = "",
) -> dict[str, str]:
    """End the session of an access or refresh token (RFC 7009); both end together."""
    engine.sessions.revoke(token)
    return {}


# --- sessions of the caller -----------------------------------------------------------------------


@router.get("/me/", responses=answers(*_SIGNED_IN))
def who_am_i(token: Token, engine: TheEngine) -> schemas.Account:
    """The account behind the token."""
    return schemas.Account.model_validate(engine.sessions.whoami(token))


@router.get("/sessions/", responses=answers(*_SIGNED_IN))
def list_sessions(token: Token, engine: TheEngine) -> list[Session]:
    """Open sessions of the caller, most recently used first."""
    return [Session.model_validate(s) for s in engine.sessions.mine(token)]


@router.delete("/sessions/", status_code=204, responses=answers(*_SIGNED_IN))
def end_all_sessions(token: Token, engine: TheEngine) -> None:
    """End all sessions of the caller, including this one."""
    engine.sessions.sign_out_everywhere(token)


@router.delete("/sessions/{session_id}/", status_code=204, responses=answers(*_SIGNED_IN, 404))
def end_session(session_id: str, token: Token, engine: TheEngine) -> None:
    """End a session of the caller."""
    engine.sessions.end(token, session_id)


@router.post("/prove/", status_code=204, responses=answers(*_OPEN, 403))
def prove(proof: Proof, token: Token, engine: TheEngine) -> None:
    """Re-authenticate, after a route answered `urn:medsec:step-up-needed`."""
    engine.sessions.prove(token, proof.password, proof.code)


# --- key exchange -----------------------------------------------------------------------------


@router.get("/signing-key/", responses=answers(429, 503))
def signing_key(engine: TheEngine) -> SigningKey:
    """The public key that signs key exchanges. Compare its fingerprint before you trust it."""
    return SigningKey.of(engine.keys.signing_key())


@router.get("/key-exchange/", response_model_exclude_none=True,
            responses=answers(*_SIGNED_IN, 403, 422))  # fmt: skip
def offer_exchange(
    token: Token,
    engine: TheEngine,
    group: Annotated[Literal["ffdhe3072", "ffdhe4096", "x25519"], Query()] = "ffdhe3072",
) -> Offer:
    """Start a key exchange: Diffie-Hellman parameters and the server's signed public value."""
    return Offer.model_validate(engine.exchange.offer(token, group))


@router.post("/key-exchange/", responses=answers(400, *_SIGNED_IN, 403, 409, 413, 422))
def answer_exchange(answer: Answer, token: Token, engine: TheEngine) -> Confirmation:
    """Complete a key exchange with the client's public value; both sides then share a key."""
    return Confirmation.model_validate(engine.exchange.answer(token, answer.model_dump()))

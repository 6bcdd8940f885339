"""Access tokens that end with their session, refresh tokens that are good once."""

from __future__ import annotations

import base64
import json

import jwt
import pytest

from engine import Engine, Role, errors
from engine.people.tokens import AUDIENCE, ISSUER
from tests.conftest import PASSWORD, Team
from tests.fakes import FakeHost


def claims(engine: Engine, **changes: object) -> dict:
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    body = pair.access.split(".")[1]
    decoded = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return {**decoded, **changes}


def signed(engine: Engine, body: dict, key: bytes | None = None, algorithm: str = "HS256") -> str:
    return jwt.encode(
        body, key or engine.context.hierarchy.system_key("tokens"), algorithm=algorithm
    )


def test_an_access_token_is_worth_its_session(engine: Engine, team: Team) -> None:
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    assert engine.sessions.whoami(pair.access).role is Role.DOCTOR
    assert pair.access not in repr(pair)
    engine.sessions.sign_out(pair.access)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(pair.access)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.refresh(pair.refresh)


def test_an_access_token_expires_and_a_refresh_token_brings_another(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    host.advance(minutes=14)
    engine.sessions.whoami(pair.access)
    host.advance(minutes=1)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(pair.access)
    again = engine.sessions.refresh(pair.refresh)
    assert engine.sessions.whoami(again.access).username == "doctor"


def test_a_refresh_token_used_twice_ends_the_session(engine: Engine, team: Team) -> None:
    first = engine.sessions.sign_in_api("doctor", PASSWORD)
    second = engine.sessions.refresh(first.refresh)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.refresh(first.refresh)
    for token in (first.access, second.access):
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.whoami(token)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.refresh(second.refresh)


@pytest.mark.parametrize("changes", [
    {"iss": "other"}, {"aud": "other"}, {"sid": "se_nobody"}, {"exp": 1}, {"iat": 9_999_999_999},
])  # fmt: skip
def test_wrong_claims_are_refused(engine: Engine, team: Team, changes: dict) -> None:
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(signed(engine, claims(engine, **changes)))


@pytest.mark.parametrize("missing", ["iss", "aud", "sub", "sid", "jti", "iat", "exp"])
def test_missing_claims_are_refused(engine: Engine, team: Team, missing: str) -> None:
    body = claims(engine)
    del body[missing]
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(signed(engine, body))


def test_other_algorithms_and_keys_are_refused(engine: Engine, team: Team) -> None:
    body = claims(engine)
    assert (body["iss"], body["aud"]) == (ISSUER, AUDIENCE)
    key = engine.context.hierarchy.system_key("tokens") * 2
    unsigned = jwt.encode(body, None, algorithm="none")
    for token in (
        unsigned,
        signed(engine, body, key, "HS512"),
        signed(engine, body, b"x" * 32),
        signed(engine, body) + "A",
    ):
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.whoami(token)


def test_disabling_an_account_ends_its_tokens_at_once(engine: Engine, team: Team) -> None:
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    engine.people.set_enabled(team.administrator, "doctor", False)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(pair.access)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.refresh(pair.refresh)

"""Single sign-on as the engine sees it: whose account, once, and only while it is fresh."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Settings, errors
from engine.host import Folder
from engine.people.identities import FRESH
from tests.conftest import PASSWORD, Team
from tests.fakes import FakeHost, ScriptedDetector
from tests.people.test_second_factor import enrol
from ui import oidc

ISSUER = "https://login.hospital.example"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data", key_file=tmp_path / "keys" / "root.key", bcrypt_cost=4,
        single_sign_on=tmp_path / "single.toml",
    )  # fmt: skip


@pytest.fixture
def linked(engine: Engine, team: Team) -> Engine:
    engine.people.link_identity(team.administrator, "doctor", "Dora@Hospital.example")
    return engine


def claims(host: FakeHost, **changes: Any) -> dict[str, Any]:
    return {
        "iss": ISSUER,
        "sub": "4711",
        "email": "dora@hospital.example",
        "email_verified": True,
        "iat": host.now().replace(tzinfo=UTC).timestamp(),
        "nonce": host.token("n"),
        **changes,
    }


def test_a_verified_address_that_is_linked_opens_its_account(
    linked: Engine, team: Team, host: FakeHost
) -> None:
    session = linked.sessions.sign_in_identity(claims(host), ISSUER, "10.0.0.1")
    assert linked.sessions.whoami(session.token).username == "doctor"
    logged = linked.audit.entries(team.administrator, query="session.sign-in", limit=1)[0]
    assert logged.detail["first_factor"] == "single sign-on"
    assert "hospital" not in str(logged.detail)


@pytest.mark.parametrize("changes", [
    {"email_verified": False},
    {"email_verified": "true"},            # a word is no proof
    {"email_verified": None},
    {"email": "other@hospital.example"},   # linked to nobody
    {"email": ""},
    {"email": "\ud83d@hospital.example"},  # no text at all
    {"iss": "https://login.elsewhere.example"},
    {"iss": ISSUER + "/"},
    {"sub": ""},
    {"sub": None},
    {"nonce": None},
    {"iat": None},
    {"iat": True},
    {"iat": "now"},
    {"iat": float("nan")},
])  # fmt: skip
def test_anything_else_opens_nothing(
    linked: Engine, team: Team, host: FakeHost, changes: dict[str, Any]
) -> None:
    with pytest.raises(errors.NotSignedIn) as refused:
        linked.sessions.sign_in_identity(claims(host, **changes), ISSUER)
    assert "begin again" in refused.value.message
    assert linked.sessions.sign_in_identity(claims(host), ISSUER)


def test_what_the_provider_said_is_taken_once_and_only_while_fresh(
    linked: Engine, host: FakeHost
) -> None:
    said, later = claims(host), claims(host)
    assert linked.sessions.sign_in_identity(said, ISSUER)
    with pytest.raises(errors.NotSignedIn):
        linked.sessions.sign_in_identity(said, ISSUER)
    host.advance(seconds=FRESH.total_seconds() + 1)
    with pytest.raises(errors.NotSignedIn):
        linked.sessions.sign_in_identity(later, ISSUER)
    host.advance(hours=1)  # nor is it forgotten that it was used
    with pytest.raises(errors.NotSignedIn):
        linked.sessions.sign_in_identity(said, ISSUER)
    host.advance(hours=-2)
    with pytest.raises(errors.NotSignedIn):
        linked.sessions.sign_in_identity(later, ISSUER)


def test_an_address_that_was_given_to_somebody_else_opens_nothing(
    linked: Engine, team: Team, host: FakeHost
) -> None:
    assert linked.sessions.sign_in_identity(claims(host), ISSUER)
    with pytest.raises(errors.NotSignedIn):
        linked.sessions.sign_in_identity(claims(host, sub="4712"), ISSUER)
    linked.people.link_identity(
        team.administrator, "doctor", "dora@hospital.example"
    )  # knowingly anew
    assert linked.sessions.sign_in_identity(claims(host, sub="4712"), ISSUER)


def test_only_an_administrator_links_and_never_themselves(engine: Engine, team: Team) -> None:
    with pytest.raises(errors.PermissionDenied):
        engine.people.link_identity(team.doctor, "doctor", "dora@hospital.example")
    with pytest.raises(errors.PermissionDenied):
        engine.people.link_identity(team.administrator, "ADMIN", "ada@hospital.example")
    engine.people.link_identity(team.administrator, "doctor", "dora@hospital.example")
    with pytest.raises(errors.InputError):
        engine.people.link_identity(team.administrator, "technician", "DORA@hospital.example")
    for wrong in ("dora", "a@b@c", "a b@c", "@", "x" * 70 + "@c"):
        with pytest.raises(errors.InputError):
            engine.people.link_identity(team.administrator, "researcher", wrong)
    emails = {a.username: a.email for a in engine.people.accounts(team.administrator)}
    assert emails["doctor"] == "dora@hospital.example"
    assert emails["technician"] == ""


def test_an_ended_link_or_a_closed_account_opens_nothing(
    linked: Engine, team: Team, host: FakeHost
) -> None:
    linked.people.set_enabled(team.administrator, "doctor", False)
    with pytest.raises(errors.NotSignedIn):
        linked.sessions.sign_in_identity(claims(host), ISSUER)
    linked.people.set_enabled(team.administrator, "doctor", True)
    linked.people.link_identity(team.administrator, "doctor", "")
    with pytest.raises(errors.NotSignedIn):
        linked.sessions.sign_in_identity(claims(host), ISSUER)


def test_a_second_factor_is_asked_for_all_the_same(
    linked: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(linked, host, team.doctor)
    with pytest.raises(errors.CodeNeeded) as asked:
        linked.sessions.sign_in_identity(claims(host), ISSUER)
    session = linked.sessions.finish_sign_in(asked.value.challenge, phone.code())
    assert linked.sessions.whoami(session.token).username == "doctor"
    logged = linked.audit.entries(team.administrator, query="session.sign-in", limit=1)[0]
    assert logged.detail["first_factor"] == "single sign-on"


def test_single_sign_on_does_not_buy_tries_at_the_code(
    linked: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(linked, host, team.doctor)
    wrong = f"{(int(phone.code()) + 1) % 10**6:06d}"
    for _ in range(5):
        with pytest.raises(errors.CodeNeeded) as asked:
            linked.sessions.sign_in_identity(claims(host), ISSUER)
        with pytest.raises(errors.NotSignedIn):
            linked.sessions.finish_sign_in(asked.value.challenge, wrong)
    with pytest.raises(errors.AccountLocked):
        linked.sessions.finish_sign_in(asked.value.challenge, phone.code())


def test_without_the_setting_no_claims_open_anything(tmp_path: Path, host: FakeHost) -> None:
    plain = Settings(data=tmp_path / "off", key_file=tmp_path / "keys" / "o.key", bcrypt_cost=4)
    host.files = Folder(plain.data / "blobs")
    engine = Engine.open(plain, host, detector=ScriptedDetector(plain))
    team = Team(engine)
    engine.people.link_identity(team.administrator, "doctor", "dora@hospital.example")
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.sign_in_identity(claims(host), ISSUER)
    assert engine.sessions.sign_in("doctor", PASSWORD)
    engine.close()


# --- the file ---------------------------------------------------------------------------------

GOOD = {
    "redirect_uri": "https://medsec.hospital.example/oauth2callback",
    "cookie_secret": "0123456789abcdef0123456789abcdef",
    "client_id": "medsec",
    "client_secret": "secret",
    "server_metadata_url": f"{ISSUER}/.well-known/openid-configuration",
}


def write(file: Path, section: dict[str, str], mode: int = 0o600) -> None:
    file.write_text("[auth]\n" + "".join(f'{k} = "{v}"\n' for k, v in section.items()))
    file.chmod(mode)


def test_the_configuration_names_one_issuer(tmp_path: Path) -> None:
    write(tmp_path / "s.toml", GOOD)
    assert oidc._issuer(oidc._section(tmp_path / "s.toml")) == ISSUER


@pytest.mark.parametrize("changes", [
    {"redirect_uri": "http://medsec.hospital.example/oauth2callback"},
    {"redirect_uri": "https://medsec.hospital.example/elsewhere"},
    {"server_metadata_url": "http://login.hospital.example/.well-known/openid-configuration"},
    {"server_metadata_url": "https://login.hospital.example/config"},
    {"cookie_secret": "short"},
    {"expose_tokens": "id"},
])  # fmt: skip
def test_an_unsafe_configuration_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    write(tmp_path / "s.toml", {**GOOD, **changes})
    with pytest.raises(errors.SettingsError) as refused:
        oidc._section(tmp_path / "s.toml")
    assert "secret" not in str(refused.value) or GOOD["cookie_secret"] not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_configuration_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    write(tmp_path / "s.toml", GOOD, mode)
    with pytest.raises(errors.SettingsError):
        oidc._section(tmp_path / "s.toml")


@pytest.mark.parametrize("text", ["", "[auth]\n", "auth = 1", "not toml", "[auth]\nclient_id='x'"])
def test_an_incomplete_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    (tmp_path / "s.toml").chmod(0o600)
    with pytest.raises(errors.SettingsError):
        oidc._section(tmp_path / "s.toml")

"""Settings change while the server runs: validated, sealed, in the log, and in force."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

import pytest

from engine import Engine, Role, Settings, errors
from engine.store.runtime_settings import CHANGEABLE
from tests.conftest import PASSWORD, WHY, Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector


def entry(engine: Engine, team: Team, name: str) -> str:
    return next(
        e.value for e in engine.runtime_settings.entries(team.administrator) if e.name == name
    )


def test_only_settings_that_exist_and_are_no_secret_can_change() -> None:
    kinds = {f.name: str(f.type) for f in fields(Settings)}
    assert set(CHANGEABLE) <= set(kinds)
    assert not any("Secret" in kinds[name] or "Path" in kinds[name] for name in CHANGEABLE)


def test_a_change_is_in_the_log_with_both_values_and_who(engine: Engine, team: Team) -> None:
    engine.runtime_settings.change(team.administrator, "restore_minutes", " 7.5 ")
    changed = next(e for e in engine.runtime_settings.entries(team.administrator) if e.changed_by)
    assert (changed.name, changed.value, changed.started) == ("restore_minutes", "7.5", "5.0")
    assert changed.changed_by == "admin"
    [logged] = engine.audit.entries(team.administrator, query="setting.save")
    assert logged.detail["before"] == {"value": "5.0"}
    assert logged.detail["after"] == {"value": "7.5"}
    engine.runtime_settings.reset(team.administrator, "restore_minutes")
    assert entry(engine, team, "restore_minutes") == "5.0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("restore_minutes", "0"),
        ("restore_minutes", "61"),
        ("restore_minutes", "soon"),
        ("padding", "1.5"),
        ("padding_min_px", "2.5"),
        ("password_min_length", "7"),
        ("profile", "astrology"),
        ("key_file", "/tmp/key"),
        ("care_relation", "false"),
        ("no_such_setting", "1"),
    ],
)
def test_what_may_not_be_is_refused_and_changes_nothing(
    engine: Engine, team: Team, name: str, value: str
) -> None:
    before = engine.settings
    with pytest.raises(errors.InputError):
        engine.runtime_settings.change(team.administrator, name, value)
    assert engine.settings == before
    assert not engine.audit.entries(team.administrator, query="setting.save")


def test_secrets_are_not_in_the_table(engine: Engine, team: Team) -> None:
    names = {e.name for e in engine.runtime_settings.entries(team.administrator)}
    assert not names & {"key", "key_passphrase"}


def test_a_change_counts_when_it_says(ward: Ward, host: FakeHost) -> None:
    engine, team = ward.engine, ward.team
    for name, value in (
        ("restore_minutes", "1"),
        ("session_hours", "1"),
        ("password_min_length", "40"),
        ("reason_required", "false"),
    ):
        engine.runtime_settings.change(team.administrator, name, value)
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    opened = engine.images.restore(team.doctor, image_id, "")
    assert opened.expires_at == host.now() + timedelta(minutes=1)
    with pytest.raises(errors.InputError, match="at least 40"):
        engine.people.create(team.administrator, "nina", "Nina", Role.DOCTOR, PASSWORD)
    fresh = engine.sessions.sign_in("doctor", PASSWORD)
    assert fresh.expires_at == host.now() + timedelta(hours=1)
    engine.runtime_settings.change(team.administrator, "session_idle_minutes", "2")
    host.advance(minutes=3)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(fresh.token)


def test_a_change_outlives_a_restart_and_a_new_environment(
    settings: Settings, host: FakeHost
) -> None:
    first = Engine.open(settings, host, detector=ScriptedDetector(settings))
    team = Team(first)
    first.runtime_settings.change(team.administrator, "padding_min_px", "9")
    first.close()
    other = replace(settings, padding_min_px=2, padding=0.1)
    again = Engine.open(other, host, detector=ScriptedDetector(other))
    try:
        assert (again.settings.padding_min_px, again.settings.padding) == (9, 0.1)
        again.runtime_settings.reset(team.administrator, "padding_min_px")
        assert again.settings.padding_min_px == 2
    finally:
        again.close()


def test_a_change_made_behind_our_back_is_found(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    engine.runtime_settings.change(team.administrator, "reason_required", "true")
    with engine.context.database.write() as tx:
        tx.run("DELETE FROM settings")
    with pytest.raises(errors.SealBroken):
        engine.runtime_settings.entries(team.administrator)


def test_a_restore_still_needs_a_reason_unless_the_setting_says_otherwise(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    with pytest.raises(errors.InputError):
        ward.engine.images.restore(ward.team.doctor, image_id, " ")
    assert ward.engine.images.restore(ward.team.doctor, image_id, WHY).handle

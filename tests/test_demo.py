"""The demo is filled once, goes on where it was interrupted, and touches nobody else's accounts."""

from __future__ import annotations

import gc
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import demo.seed
import serve
from demo.pictures import PATIENTS, DemoFile
from engine import (
    ACCOUNT_ROLES,
    Detection,
    Engine,
    ImageState,
    Region,
    Role,
    Settings,
    errors,
)
from tests import builders
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import ROOT
from ui import demo_guide

BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "net")


def pictures() -> Iterator[DemoFile]:
    for n in range(3):
        data = builders.png(builders.labelled(f"DEMO {n}", seed=n)[0])
        yield DemoFile(f"{n}.png", data, PATIENTS[n])


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, detector: ScriptedDetector) -> None:
    monkeypatch.setattr(demo.seed, "files", pictures)
    detector.found = [BOX]


def sealed(engine: Engine) -> int:
    token = engine.sessions.sign_in("doctor", demo.PASSWORD).token
    return engine.search.images(token).total


def test_an_interrupted_filling_goes_on(engine: Engine) -> None:
    def stop_at_the_second(line: str) -> None:
        if line.startswith("image 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.seed.fill(engine, stop_at_the_second)
    said: list[str] = []
    demo.seed.fill(engine, said.append)
    assert [line.rsplit(": ", 1)[1] for line in said] == [
        "already there", "already there", "1 region sealed",
    ]  # fmt: skip
    assert sealed(engine) == 3
    demo.seed.fill(engine, said.append)
    assert len(said) == 3  # nothing is done twice


def test_a_draft_that_was_not_sealed_any_more_is_sealed_then(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_given: object, **_named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engine.drafts, "seal", die)
        with pytest.raises(KeyboardInterrupt):
            demo.seed.fill(engine, lambda line: None)
    demo.seed.fill(engine, lambda line: None)
    assert sealed(engine) == 3
    token = engine.sessions.sign_in("technician", demo.PASSWORD).token
    assert not [d for d in engine.drafts.waiting(token) if d.state is ImageState.DRAFT]


def test_accounts_that_are_not_the_demos_are_left_alone(engine: Engine) -> None:
    engine.people.create_first_administrator(
        engine.people.setup_code(), "administrator", "Ada", PASSWORD
    )
    demo.seed.fill(engine, lambda line: None)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.sign_in("doctor", demo.PASSWORD)


def test_every_role_of_an_account_has_its_way_through() -> None:
    assert set(demo_guide.STEPS) == set(ACCOUNT_ROLES)
    assert all(3 <= len(steps) <= 5 for steps in demo_guide.STEPS.values())


def test_a_demo_is_filled_although_accounts_need_a_second_administrator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"MEDSEC_FOUR_EYES": "true", **serve.DEMO}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(demo.seed, "files", lambda: iter(()))
    started: list[object] = []
    monkeypatch.setattr(runpy, "run_module", lambda *given, **_: started.append(given))
    monkeypatch.setattr(sys, "argv", sys.argv)
    try:
        serve.main(["--demo", "--go-on"])
    finally:
        gc.enable()
    assert started
    engine = Engine.open(Settings.load(os.environ))
    try:
        assert engine.settings.four_eyes
        token = engine.sessions.sign_in("doctor", demo.PASSWORD).token
        assert engine.sessions.whoami(token).role is Role.DOCTOR
    finally:
        engine.close()


def test_only_a_demo_can_be_reset() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "serve.py", "--reset"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "Add --demo" in done.stderr

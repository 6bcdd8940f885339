"""Logs, request ids and numbers: enough to find what happened, and nothing about whom."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

import api
from api import telemetry
from engine import Engine, Role, Settings, errors, tracing
from engine.detection import Detector
from engine.formats import images
from engine.settings import Secret
from tests.conftest import WHY, Team, Ward, text_png


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, metrics_token=Secret("a token for the monitoring system"))


def told(engine: Engine, token: str) -> dict[str, float]:
    lines = engine.health.metrics(token).decode().splitlines()
    return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def test_numbers_count_calls_and_outcomes_and_name_nobody(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    before = told(engine, team.administrator)
    data, found = text_png()
    image_id = ward.seal(data, "Erika.png", found=[found])
    engine.images.restore(team.doctor, image_id, WHY)
    with pytest.raises(errors.PermissionDenied):
        engine.images.restore(team.technician, image_id, WHY)
    after = told(engine, team.administrator)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert more('medsec_calls_total{method="drafts.seal",outcome="ok"}') == 1
    assert more('medsec_calls_total{method="images.restore",outcome="ok"}') == 1
    assert more('medsec_calls_total{method="images.restore",outcome="permission-denied"}') == 1
    assert more('medsec_call_seconds_count{method="images.restore"}') == 2
    assert after['medsec_images{state="released"}'] == 1
    assert after['medsec_state{what="backup_overdue"}'] == 1
    held = {what: after[f'medsec_held_bytes{{what="{what}"}}'] for what in
            ("opened_pictures", "masked_pictures", "catalog")}  # fmt: skip
    assert held["opened_pictures"] > len(data)  # the doctor has one open
    assert held["masked_pictures"] == 0
    assert held["catalog"] > 0
    text = engine.health.metrics(team.administrator).decode()
    for word in (image_id, ward.patient_id, "Erika", "Musterfrau", '"doctor"', "P-1"):
        assert word not in text


def test_a_monitoring_system_reads_numbers_with_its_token_and_nothing_else(ward: Ward) -> None:
    token = "a token for the monitoring system"
    assert told(ward.engine, token)
    assert ward.engine.health.state(token)["patients"] == 1
    for refused in (
        ward.engine.patients.search,
        ward.engine.audit.entries,
        ward.engine.drafts.waiting,
    ):
        with pytest.raises(errors.PermissionDenied):
            refused(token)
    with pytest.raises(errors.NotSignedIn):
        ward.engine.health.metrics(token[:-1] + "x")


def test_health_says_what_holds_the_processes_that_read_files(ward: Ward) -> None:
    state = ward.engine.health.state(ward.team.administrator)
    said = state["confinement"]
    # A scripted detector runs in this process; the product's does not.
    assert state["networks_apart"] is False
    assert Detector.open(ward.engine.settings).keyless
    worker = images._SANDBOX.held()
    assert said == worker.facts()
    process = images._SANDBOX._idle[0].process.pid
    status = Path(f"/proc/{process}/status").read_text()
    assert f"Seccomp:\t{2 if said['seccomp'] else 0}\n" in status
    elsewhere = os.readlink(f"/proc/{process}/ns/net") != os.readlink("/proc/self/ns/net")
    assert elsewhere == said["network"]


def test_without_a_token_in_the_settings_there_is_no_monitoring_role(engine: Engine) -> None:
    object.__setattr__(engine.settings, "metrics_token", None)
    for token in ("", "None"):
        with pytest.raises(errors.NotSignedIn):
            engine.health.metrics(token)


def test_a_log_line_is_json_and_keeps_an_exceptions_text_to_itself() -> None:
    try:
        raise ValueError("MUSTERFRAU ERIKA")
    except ValueError as err:
        record = logging.LogRecord(
            "medsec", logging.ERROR, "x.py", 1, "detector failed on %s", ("im_1",),
            (type(err), err, err.__traceback__),
        )  # fmt: skip
    line = json.loads(tracing.JsonLines().format(record))
    assert (line["level"], line["message"]) == ("error", "detector failed on im_1")
    assert line["error"] == "ValueError"
    assert line["where"][0].startswith("tests/service/test_monitoring.py:")
    assert "MUSTERFRAU" not in json.dumps(line)


def test_no_log_of_a_day_names_a_patient_or_a_file(
    ward: Ward, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="medsec")
    data, found = text_png()
    image_id = ward.seal(data, "Erika_Musterfrau.png", found=[found])
    engine, team = ward.engine, ward.team
    engine.images.restore(team.doctor, image_id, WHY)
    engine.patients.search(team.doctor, "Musterfrau")
    ward.detector.found = errors.DetectorError
    with pytest.raises(errors.EngineError):
        ward.upload(data[:200], "Musterfrau.png")
    ward.upload(text_png()[0] + b" ", "Musterfrau2.png")  # trailing bytes: another file
    assert "detector failed" in caplog.text
    for word in ("Musterfrau", "Erika", "P-1", ".png"):
        assert word not in " ".join(r.getMessage() for r in caplog.records)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/patients/4711-MUSTERFRAU/images/", "/api/patients/*/images"),
        ("/api/images/im_0123/frames/7", "/api/images/*/frames/*"),
        ("/media/0123.png", "/media"),
        ("/_stcore/stream", "/_stcore"),
        ("/Review", "/page"),
        ("/anything/a/stranger/likes", "/page"),
        ("/api/" + "x/" * 9, "/api/" + "/".join("*" * 9)),
    ],
)
def test_a_route_is_named_without_what_stands_for_a_person(path: str, route: str) -> None:
    words = telemetry.words(api.paths())
    assert telemetry.RequestTelemetry(api.app, words)._route(path) == route


def test_a_request_has_an_id_of_ours_in_answer_log_and_audit(
    engine: Engine, team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="medsec.http")
    api.app.state.engine = engine
    app = telemetry.RequestTelemetry(api.app, telemetry.words(api.paths()))

    async def ask(token: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {token}", "X-Request-ID": "MUSTERFRAU"}
        async with httpx.AsyncClient(transport=transport, base_url="https://medsec.test") as client:
            return await client.get("/metrics/", headers=headers)

    try:
        answers = [asyncio.run(ask(team.token(r))) for r in (Role.ADMINISTRATOR, Role.DOCTOR)]
    finally:
        del api.app.state.engine
    assert [a.status_code for a in answers] == [200, 403]
    assert "medsec_calls_total" in answers[0].text
    ids = [a.headers["X-Request-ID"] for a in answers]
    assert all(re.fullmatch("[0-9a-f]{16}", i) for i in ids)
    assert len(set(ids)) == 2
    refused = engine.audit.entries(team.administrator, query="refused")[0]
    assert refused.detail["request"] == ids[1]
    logged = [r.facts for r in caplog.records if r.name == "medsec.http"]  # type: ignore[attr-defined]
    assert [f["status"] for f in logged] == [200, 403]

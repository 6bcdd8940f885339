"""The day of every role over the HTTP API, with catalog and log on a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine, Role
from engine.settings import Secret
from tests.conftest import PASSWORD, WHY
from tests.fakes import ScriptedDetector
from tests.postgresql import Cluster
from tests.rest import Hospital, ask, hospital

T, D, R, A = Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER, Role.ADMINISTRATOR


@pytest.fixture
def ward(tmp_path: Path, cluster: Cluster) -> Iterator[Hospital]:
    url = cluster.new()
    with hospital(tmp_path, database=Secret(url), backup_dir=tmp_path / "backups") as place:
        yield place


def test_every_role_does_its_work_and_the_log_knows_it_all(ward: Hospital) -> None:
    tokens, data = ward.tokens, ward.picture()
    form = {"id": "P-1", "name": "Erika Musterfrau", "age": "61"}
    files = {"image": ("erika.png", data)}
    made = ask("POST", "/patients/", tokens[T], data=form, files=files)
    assert made.status_code == 201, made.text
    image_id = made.json()["image"]["image_id"]
    sealed = ask("POST", f"/drafts/{image_id}/seal/", tokens[T], json={})
    assert sealed.json()["state"] == "released", sealed.text
    assert ask("GET", f"/images/{image_id}/restore/", tokens[T]).status_code == 403

    found = ask("GET", "/patients/", tokens[D], params={"q": "musterf"}).json()["items"]
    assert [patient["id"] for patient in found] == ["P-1"]
    assert ask("GET", f"/images/{image_id}/restore/", tokens[D]).status_code == 422  # no reason
    restored = ask("GET", f"/images/{image_id}/restore/", tokens[D], headers={"X-Reason": WHY})
    assert restored.status_code == 200, restored.text
    note = {"text": "Looks well."}
    assert ask("POST", "/patients/P-1/notes/", tokens[D], json=note).status_code == 201
    [read] = ask("GET", "/patients/P-1/notes/", tokens[D]).json()
    assert read["text"] == "Looks well."
    assert ask("GET", "/images/", tokens[D], params={"modality": "XX"}).json()["items"] == []

    assert ask("GET", "/statistics/", tokens[R]).status_code == 200
    assert ask("GET", "/patients/", tokens[R]).status_code == 403

    wish = {"username": "new", "name": "N. New", "password": PASSWORD, "role": "doctor"}
    assert ask("POST", "/auth/register/", tokens[A], json=wish).status_code == 201
    assert ask("GET", "/health/", tokens[A]).status_code == 200
    assert ask("GET", "/patients/", tokens[A]).status_code == 403
    entries = ask("GET", "/audit/", tokens[A], params={"limit": 200}).json()["items"]
    known = {(entry["actor"], entry["action"]) for entry in entries}
    assert {
        ("technician", "patient.create"), ("technician", "image.upload"),
        ("technician", "image.seal"), ("doctor", "patient.search"), ("doctor", "image.restore"),
        ("doctor", "note.write"), ("admin", "account.create"),
    } <= known  # fmt: skip
    admin = ward.team.administrator
    ward.engine.backups.make(admin)
    assert ward.engine.audit.verify(admin) >= len(entries)

    settings = ward.engine.settings
    ward.engine.close()
    assert ask("GET", "/patients/", tokens[T]).status_code == 503  # nothing comes from memory
    again = Engine.open(settings, ward.host, detector=ScriptedDetector(settings))
    try:
        opened = again.images.restore(ward.team.doctor, image_id, WHY)
        assert again.images.restored_file(ward.team.doctor, opened.handle).data == data
    finally:
        again.close()

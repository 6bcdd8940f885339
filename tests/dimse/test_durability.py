"""Nothing acknowledged is lost and nothing is there twice: a killed server, and a full disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine import Engine, Settings
from tests import builders
from tests.conftest import Team, Ward
from tests.dimse.peers import FORGIVES_PYNETDICOM, associated, free_port, receiving, send
from tests.fakes import ScriptedDetector

ROOT = Path(__file__).parents[2]
PIXELS = builders.labelled()[0]
pytestmark = FORGIVES_PYNETDICOM


def prepare(engine: Engine, team: Team) -> None:
    """A node that may send, and the patient of its images."""
    engine.patients.create(team.technician, "H-000001", "Jane Doe")
    engine.nodes.save(team.administrator, "CT1", {"addresses": ["127.0.0.1"]})


@contextmanager
def server(settings: Settings, port: int, kill_at: int = 0) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable, "-m", "tests.dimse.server", str(settings.data), str(settings.key_file),
        str(port), str(kill_at),
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            if process.poll() is None:
                process.communicate("end\n", timeout=60)


def test_a_server_killed_between_store_and_answer_keeps_what_it_acknowledged_once(
    ward: Ward,
) -> None:
    prepare(ward.engine, ward.team)
    settings, files = ward.engine.settings, [
        builders.dicom(PIXELS, instance=number) for number in range(1, 6)
    ]  # fmt: skip
    ward.engine.close()
    port = free_port()
    with server(settings, port, kill_at=4) as process, associated(port) as assoc:
        statuses = [send(assoc, file) for file in files[:4]]
        assert process.wait(30) == -signal.SIGKILL
    assert statuses == [0, 0, 0, -1]  # the last one was stored, and nobody was told
    with server(settings, port) as process, associated(port) as assoc:
        assert [send(assoc, file) for file in files] == [0] * 5
    again = Engine.open(settings, detector=ScriptedDetector(settings))
    try:
        rows = again.context.database.read()
        assert rows.count("SELECT count(*) FROM images") == 5
        assert rows.count("SELECT count(DISTINCT draft_blob) FROM images") == 5
        uploads = "SELECT count(*) FROM audit WHERE action = 'image.upload' AND outcome = 'ok'"
        assert rows.count(uploads) == 5
        again.context.audit.verify()
    finally:
        again.close()


def test_a_disk_that_is_full_is_out_of_resources_and_room_makes_it_go_on(
    settings: Settings, small_disk: Path
) -> None:
    chosen = replace(settings, data=small_disk / "data", dicom_port=free_port())
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
    try:
        team = Team(engine)
        prepare(engine, team)
        rng = np.random.default_rng(1)
        files = [
            builders.dicom(rng.integers(0, 256, (1000, 1000), np.uint8), instance=n)
            for n in range(1, 31)
        ]
        with receiving(engine) as listening:
            with associated(listening.port) as assoc:
                statuses = [send(assoc, file) for file in files]
            assert set(statuses) == {0, 0xA700}
            taken = statuses.count(0)
            assert len(engine.drafts.waiting(team.technician)) == taken
            subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
            with associated(listening.port) as assoc:
                assert [send(assoc, file) for file in files] == [0] * len(files)
        assert len(engine.drafts.waiting(team.technician)) == len(files)
        engine.context.audit.verify()
    finally:
        engine.close()

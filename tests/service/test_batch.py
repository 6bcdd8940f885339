"""Batches: bounded, resumable, nothing twice; workers hold no root key and write no rows."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import httpx
import numpy as np
import pytest

from engine import BatchItem, BatchOptions, Engine, ImageState, Settings, Source, errors
from engine.operations import worker, worker_pool
from engine.operations.worker import Job, Worker, WorkerSetup
from engine.operations.worker_pool import WorkerPool, _plugin
from engine.records import Caller
from engine.service import batches
from engine.settings import Secret
from engine.store.audit import Event
from tests import builders
from tests.conftest import WHY, Ward, text_png
from tests.detect.test_custom_networks import MAPPING, network
from tests.fakes import ScriptedDetector


def picture(text: str) -> bytes:
    return builders.png(builders.labelled(text)[0])


def source(name: str, data: bytes) -> Source:
    return Source(name, lambda: data)


def sealed(ward: Ward, *sources: Source, **options: bool) -> list[BatchItem]:
    items = ward.engine.batches.seal(
        ward.team.technician, ward.patient_id, sources, None, BatchOptions(**options), few=True
    )
    return list(items)


def originals(ward: Ward, items: list[BatchItem]) -> list[tuple[str, bytes]]:
    engine, doctor = ward.engine, ward.team.doctor
    files = [
        engine.images.restored_file(
            doctor, engine.images.restore(doctor, str(i.image_id), WHY).handle
        )
        for i in items
    ]
    return [(f.name, f.data) for f in files]


# --- one process ------------------------------------------------------------------------------


def test_each_file_is_sealed_and_comes_back_exactly(ward: Ward) -> None:
    _, found = text_png()
    ward.detector.found = [found]
    files = {f"{n}.png": picture(f"NAME {n}") for n in range(3)}
    items = sealed(ward, *(source(n, d) for n, d in files.items()))
    assert [(i.place, i.state, i.labels) for i in items] == [
        (n, "sealed", {"text": 1}) for n in range(3)
    ]
    assert dict(originals(ward, items)) == files
    assert {"decode", "detect", "mask", "rescan", "store"} <= set(items[0].times_ms)
    assert [code for _, code in ward.engine.health.verify_images(ward.team.administrator)] == [
        None
    ] * 3
    assert ward.engine.drafts.waiting(ward.team.technician) == []
    assert len(set(ward.engine.context.host.blobs())) == 9  # no draft is left


def test_a_batch_writes_the_same_log_as_a_person_would(ward: Ward) -> None:
    data, found = text_png()
    by_hand = ward.seal(picture("BY HAND"), found=[found])
    [item] = sealed(ward, source("a.png", data))
    entries = ward.engine.context.audit.of_image
    ours = [(e.action, e.outcome, set(e.detail)) for e in entries(str(item.image_id))]
    theirs = [(e.action, e.outcome, set(e.detail)) for e in entries(by_hand)]
    assert ours == [e for e in theirs if e[0] != "draft.open"]


def test_what_was_done_before_is_not_done_again(ward: Ward) -> None:
    _, found = text_png()
    first = sealed(ward, source("a.png", picture("A")), source("b.png", picture("B")))
    ward.detector.found = errors.DetectorError  # would be found out if it looked again
    again = sealed(ward, source("a.png", picture("A")), source("b.png", picture("B")))
    assert [i.state for i in first] == ["review", "review"]  # nothing was found at first
    ward.detector.found = [found]
    waiting = sealed(ward, source("a.png", picture("A")), source("b.png", picture("B")))
    assert {i.state for i in waiting} == {"review"}  # they wait for a person, not for a batch
    third = sealed(
        ward, source("a.png", picture("A")), source("b.png", picture("B")), accept_empty=True
    )
    assert [i.state for i in third] == ["sealed", "sealed"]  # unless it may do more
    ward.detector.found = errors.DetectorError
    last = sealed(ward, source("a.png", picture("A")), source("b.png", picture("B")))
    assert [(i.state, i.image_id) for i in last] == [("present", i.image_id) for i in first]
    assert {i.state for i in again} == {"review"}


def test_an_image_at_which_a_person_must_look_waits_for_one(ward: Ward) -> None:
    data, found = text_png()
    ward.detector.found = [replace(found, confidence=0.15)]
    [item] = sealed(ward, source("Erika.png", data))
    assert (item.state, item.reasons) == ("review", ["proposals"])
    view = ward.engine.drafts.open(ward.team.technician, str(item.image_id))
    assert (view.name, list(view.detections)) == ("Erika.png", ward.detector.found)


def test_what_the_second_look_sees_is_sealed_too_and_in_the_end_a_person_looks(ward: Ward) -> None:
    data, found = text_png()
    ward.detector.found = [found]
    other = replace(found, region=replace(found.region, y1=150, y2=180))
    ward.detector.left = [[other]]
    [item] = sealed(ward, source("a.png", data))
    assert (item.state, item.labels) == ("sealed", {"text": 2})
    ward.detector.left = [[other], [other], [other]]
    [item] = sealed(ward, source("b.png", picture("B")))
    assert (item.state, item.reasons) == ("review", ["still-visible"])
    view = ward.engine.drafts.open(ward.team.technician, str(item.image_id))
    assert other in view.detections


def test_a_draft_that_was_here_learns_what_the_batch_saw(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])
    engine, technician = ward.engine, ward.team.technician
    held = engine.drafts.open(technician, image_id).handle
    other = replace(found, region=replace(found.region, y1=150, y2=180))
    ward.detector.left = [[other]] * 3
    [item] = sealed(ward, source("a.png", data))
    assert (item.state, item.reasons) == ("review", ["still-visible"])
    [draft] = engine.drafts.waiting(technician)
    assert (draft.state, draft.reasons) == (ImageState.REVIEW, ("still-visible",))
    with pytest.raises(errors.NotFound):  # what was open shows less than is known now
        engine.drafts.frame(technician, held)
    assert other in engine.drafts.open(technician, image_id).detections
    newest = engine.context.audit.of_image(image_id, ("image.seal",))[0]
    assert (newest.outcome, newest.detail["why"]) == ("refused", ["still-visible"])
    assert [code for _, code in engine.health.verify_images(ward.team.administrator)] == [None]


def test_what_a_second_look_saw_is_no_matter_of_another_profile(ward: Ward) -> None:
    data, found = text_png()
    ward.detector.found = [found]
    other = replace(found, region=replace(found.region, y1=150, y2=180))
    ward.detector.left = [[other]] * 3
    sealed(ward, source("a.png", data))
    items = ward.engine.batches.seal(
        ward.team.technician, ward.patient_id, [source("a.png", data)], "ultrasound", few=True
    )
    assert [(i.state, i.reasons) for i in items] == [("review", ["still-visible"])]


def test_a_draft_that_was_here_is_sealed_under_the_profile_of_the_batch(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])
    engine, technician = ward.engine, ward.team.technician
    items = engine.batches.seal(
        technician, ward.patient_id, [source("a.png", data)], "ultrasound", few=True
    )
    assert [i.state for i in items] == ["sealed"]
    assert engine.images.get(technician, image_id).profile == "ultrasound"
    assert [code for _, code in engine.health.verify_images(ward.team.administrator)] == [None]


def test_a_file_that_is_too_large_or_no_image_is_refused_before_it_is_stored(ward: Ward) -> None:
    kept: list[bytes] = []
    ward.engine.context.host.write_blob = kept.append  # type: ignore[method-assign, assignment]
    large = picture("A") + bytes(20_000_000)
    items = sealed(ward, source("a.png", large), source("b.txt", b"no image at all, but text"))
    assert [i.error and i.error[0] for i in items] == ["image-too-large", "unsupported-format"]
    assert kept == []


def test_a_file_that_cannot_be_deleted_ends_nothing(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = text_png()
    ward.detector.found = [found]
    real = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if len(path.name) == 64:
            raise OSError(errno.EIO, "Input/output error")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    items = sealed(ward, *(source(f"{n}.png", picture(f"N {n}")) for n in range(3)))
    assert [i.state for i in items] == ["sealed"] * 3
    monkeypatch.undo()
    age_files(ward)
    assert ward.engine.upkeep.sweep() == 3  # the drafts' files, which nobody needs


def test_a_busy_catalog_costs_a_failed_file_its_line_in_the_log_and_no_other_file(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    ward.detector.found = [found]
    real = ward.engine.context.audit.record

    def busy(caller: Caller, *events: Event) -> None:
        if any(e.action == "image.upload" for e in events):
            raise errors.StorageBusy("Somebody else is writing: try again.")
        real(caller, *events)

    monkeypatch.setattr(ward.engine.context.audit, "record", busy)
    items = sealed(ward, source("a.png", data[:300]), source("b.png", data))
    assert [i.state for i in items] == ["failed", "sealed"]


class LosesTheFirst(WorkerPool):
    """A crew of one without processes, whose worker dies with the first file that it gets."""

    lost = False

    def _flow(self, work: Any, tasks: Any) -> Any:
        for task, job in tasks:
            if self.lost:
                yield task, job, work(job)
            else:
                self.lost = True
                yield task, job, errors.WorkerLost("The worker died.")


def test_the_sweep_spares_a_file_that_waits_for_its_second_try(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, (_, found) = ward.engine, text_png()
    ward.detector.found = [found]
    crew = LosesTheFirst(None, contextlib.ExitStack(), None)
    monkeypatch.setattr(batches.WorkerPool, "open", lambda *_: crew)
    monkeypatch.setattr(batches, "work", lambda job: engine.batches._worker.work(job))
    swept: list[int] = []

    def last() -> bytes:  # more than an hour later
        age_files(ward)
        swept.append(engine.upkeep.sweep())
        return picture("LAST")

    files = [source("a.png", picture("A")), source("b.png", picture("B")), Source("c.png", last)]
    items = list(engine.batches.seal(ward.team.technician, ward.patient_id, files))
    assert swept == [0]
    assert [(i.place, i.state) for i in items] == [(1, "sealed"), (2, "sealed"), (0, "sealed")]
    assert engine.batches._intake.at_work == {}


def age_files(ward: Ward) -> None:
    for address in ward.engine.context.host.blobs():
        os.utime(ward.engine.context.host.path(address), (0, 0))


def test_the_two_permissions_to_go_on_unseen_are_written_down(ward: Ward) -> None:
    data, found = text_png()
    ward.detector.found = []
    [item] = sealed(ward, source("a.png", data), accept_empty=True)
    assert (item.state, item.reasons) == ("sealed", ["nothing-found"])
    ward.detector.found = [replace(found, confidence=0.15)]
    [item] = sealed(ward, source("b.png", picture("B")), seal_proposals=True)
    assert (item.state, item.reasons, item.labels) == ("sealed", ["proposals"], {"text": 1})


def test_a_file_that_cannot_be_read_stops_nothing_and_leaves_nothing(ward: Ward) -> None:
    data, found = text_png()
    ward.detector.found = [found]

    def gone() -> bytes:
        raise errors.InputError("The file cannot be read.")

    items = sealed(ward, source("a.png", data[:300]), Source("b.png", gone), source("c.png", data))
    assert [(i.place, i.state) for i in items] == [(0, "failed"), (1, "failed"), (2, "sealed")]
    assert [i.error and i.error[0] for i in items] == ["corrupt-image", "input-error", None]
    assert len(set(ward.engine.context.host.blobs())) == 3
    failed = ward.engine.audit.entries(ward.team.administrator, query="image.upload failed")
    assert len(failed) == 2


def test_files_are_read_only_when_their_turn_comes(ward: Ward) -> None:
    _, found = text_png()
    ward.detector.found = [found]
    drawn: list[int] = []

    def files() -> Iterator[Source]:
        for n in range(50):
            drawn.append(n)
            yield source(f"{n}.png", picture(f"N {n}"))

    items = ward.engine.batches.seal(ward.team.technician, ward.patient_id, files(), few=True)
    next(items)
    assert len(drawn) <= 2


def test_a_patient_erased_meanwhile_gets_no_image(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    ward.detector.found = [found]
    real = Worker.work

    def erased(worker: Worker, job: Job) -> object:
        ward.engine.patients.erase(ward.team.administrator, "P-1", "asked for it")
        return real(worker, job)

    monkeypatch.setattr(Worker, "work", erased)
    [item] = sealed(ward, source("a.png", data))
    assert (item.state, item.error and item.error[0]) == ("failed", "not-found")
    assert [*ward.engine.search.images(ward.team.technician).images] == []


# --- what travels -----------------------------------------------------------------------------


def test_no_root_key_and_no_name_travels_to_a_worker(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    ward.detector.found = [found]
    seen: list[Job] = []
    real = batches.Batches._here

    def spy(self: batches.Batches, caller: Caller, task: batches._Task) -> object:
        seen.append(task.job)
        return real(self, caller, task)

    monkeypatch.setattr(batches.Batches, "_here", spy)
    sealed(ward, source("Erika Musterfrau.png", data))
    secret = replace(
        settings, key=Secret("ab" * 32), key_passphrase=Secret("a passphrase"),
        metrics_token=Secret("a token"), smtp_password=Secret("mail password"),
        batch_key=Path("b.pem"),
    )  # fmt: skip
    equipment = WorkerSetup.of(
        secret,
        ward.engine.context.detector.profiles,
        ward.engine.context.host.files.opener(False),
        1,
    )
    travels = pickle.dumps((seen, equipment))
    assert settings.key_file is not None
    keys = [line for line in settings.key_file.read_text().split() if len(line) > 30]
    paths = (str(settings.key_file), "b.pem")
    for root in (*keys, "ab" * 32, "a passphrase", "a token", "mail password", *paths):
        assert root.encode() not in travels
    assert b"Musterfrau.png" not in travels
    for shown in (repr(seen[0]), repr(seen[0].subject)):
        assert "Musterfrau" not in shown
        assert "key=" not in shown


# --- the hospital's own networks --------------------------------------------------------------


@pytest.fixture
def guest(ward: Ward) -> Iterator[Ward]:
    """A hospital whose own network, named by its own profile, sees one box in every picture."""
    engine, admin = ward.engine, ward.team.administrator
    engine.custom_networks.add(admin, "tags", "Our tags", network(), MAPPING)
    engine.profiles.save(admin, "ours", {
        "title": "Ours", "classes": ["text", "barcode"], "networks": ["ppocr", "tags"],
    })  # fmt: skip
    yield ward
    engine.context.custom_networks.sandbox.close()


def blank() -> bytes:
    """A picture in which nobody but that network sees anything."""
    return builders.png(np.full((128, 64), 90, np.uint8))


def equipped(ward: Ward) -> WorkerSetup:
    """What a worker of a batch with that profile gets, after its journey."""
    engine = ward.engine
    luggage = engine.batches._packed_models(engine.detector.profiles["ours"].networks)
    sent = WorkerSetup.of(
        engine.settings,
        engine.profiles.by_name(),
        engine.context.host.files.opener(False),
        1,
        luggage,
    )
    arrived: WorkerSetup = pickle.loads(pickle.dumps(sent))  # noqa: S301 - our own
    return arrived


def test_a_worker_looks_with_the_hospitals_own_network(
    guest: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    equipment = equipped(guest)
    monkeypatch.setattr(worker, "_HERE", None)
    equipment()  # as in a worker
    monkeypatch.setattr(batches.Batches, "_here", lambda self, caller, task: worker.work(task.job))
    items = guest.engine.batches.seal(
        guest.team.technician, guest.patient_id, [source("a.png", blank())], "ours", few=True
    )
    assert [(i.state, i.labels) for i in items] == [("sealed", {"text": 1})]
    assert worker._HERE is not None
    # The other one is no network of ours.
    assert worker._HERE.context.detector.opened.keys() == {"ppocr", "verifier-text"}


def test_of_the_hospitals_own_networks_only_those_of_the_profile_travel_and_no_key(
    guest: Ward,
) -> None:
    engine = guest.engine
    assert engine.batches._packed_models(engine.detector.profiles["general"].networks) == []
    [luggage] = engine.batches._packed_models(engine.detector.profiles["ours"].networks)
    assert luggage.model == network()
    assert engine.context.hierarchy.system_key("models") not in pickle.dumps(equipped(guest))
    assert "onnx" not in repr(luggage)


def test_a_network_that_was_altered_on_its_way_or_at_rest_sends_the_image_to_a_person(
    guest: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = guest.engine
    [luggage] = engine.batches._packed_models(engine.detector.profiles["ours"].networks)
    altered = replace(luggage, model=luggage.model[:-1] + b"x")
    monkeypatch.setattr(worker, "_HERE", None)
    monkeypatch.setattr(batches.Batches, "_here", lambda self, caller, task: worker.work(task.job))

    def state(equipment: WorkerSetup, data: bytes) -> list[tuple[str, list[str]]]:
        equipment()
        items = engine.batches.seal(
            guest.team.technician, guest.patient_id, [source("a.png", data)], "ours", few=True
        )
        return [(i.state, list(i.reasons)) for i in items]

    to_a_person = [("review", ["detector-failed"])]
    assert state(replace(equipped(guest), custom_networks=(altered,)), blank()) == to_a_person
    row = engine.context.database.read().one("SELECT blob FROM guests")
    assert row is not None
    path = engine.context.host.path(row["blob"])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert engine.batches._packed_models(engine.detector.profiles["ours"].networks) == []
    assert state(equipped(guest), picture("B")) == to_a_person


@pytest.mark.slow
def test_the_hospitals_own_network_runs_in_worker_processes(guest: Ward) -> None:
    object.__setattr__(guest.engine.settings, "batch_workers", 1)
    items = guest.engine.batches.seal(
        guest.team.technician, guest.patient_id, [source("a.png", blank())], "ours"
    )
    assert [(i.state, i.labels) for i in items] == [("sealed", {"text": 1})]


# --- workers ----------------------------------------------------------------------------------

HERE = Path(__file__).parents[1]


class Flag:
    """WorkerSetup of a worker that has to do with no image."""

    def __call__(self) -> None:
        os.environ["MEDSEC_TEST_EQUIPPED"] = "1"


def answer(number: int) -> tuple[int, dict[str, str], int]:
    """Runs in a worker."""
    return number * 2, dict(os.environ), os.getpid()


def listening_in_clear(crew: WorkerPool) -> list[str]:
    """Addresses at which scheduler or workers answer anybody, or listen to other machines."""
    listeners = [
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()
        if line.split()[3] == "0A"
    ]
    told = crew._client.scheduler_info(n_workers=-1)
    found = []
    for served in (told, *told["workers"].values()):
        port = served["services"]["dashboard"]
        if f"0100007F:{port:04X}" not in listeners:
            found.append(f"{port} on every address")
        for path in ("metrics", "health", "info/main/workers.html", "json/counts.json"):
            if httpx.get(f"http://127.0.0.1:{port}/{path}").status_code != 404:
                found.append(f"{port}/{path}")
    return found


def is_profiled(_job: int) -> bool:
    """Runs in a worker: does Dask look into its threads there?"""
    from distributed import get_worker

    return "profile" in get_worker().periodic_callbacks


def die(path: str) -> str:
    """Runs in a worker; the first one to come is killed while it works."""
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done by another"


def die_always(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_no_key_is_in_the_environment_or_the_command_of_a_worker(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.operations.worker_pool.ROOT", f"{HERE.parent}")
    with WorkerPool.open(settings, 1, Flag()) as crew:
        [(_, (doubled, environment, process))] = crew.run(answer, [("x", 2)])
        assert doubled == 4
        assert environment["MEDSEC_TEST_EQUIPPED"] == "1"
        assert crew._here is not None
        [nanny] = crew._here._processes
        everyone = [
            int(path.name)
            for path in Path("/proc").glob("[0-9]*")
            if os.getsid(int(path.name)) == nanny.pid
        ]
        assert {process, nanny.pid} <= set(everyone)
        for one in everyone:
            for file in ("environ", "cmdline"):
                assert b"PRIVATE KEY" not in Path(f"/proc/{one}/{file}").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask warns of the workers that we kill
def test_workers_start_bare_and_what_they_lose_is_done_again(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSEC_KEY", "secret")
    monkeypatch.setattr("engine.operations.worker_pool.ROOT", f"{HERE.parent}")
    with WorkerPool.open(settings, 2, Flag()) as crew:
        tasks = ((f"task {n}", n) for n in range(6))
        answers = dict(crew.run(answer, [*tasks, ("nothing to do", None)]))
        assert answers.pop("nothing to do") is None
        doubled, environments, processes = zip(*answers.values(), strict=True)
        assert sorted(doubled) == [0, 2, 4, 6, 8, 10]
        assert os.getpid() not in processes
        for environment in environments:
            assert environment["MEDSEC_TEST_EQUIPPED"] == "1"
            assert "MEDSEC_KEY" not in environment
        assert listening_in_clear(crew) == []
        assert list(crew.run(is_profiled, [("x", 1)])) == [("x", False)]
        assert list(crew.run(die, [("x", str(tmp_path / "killed"))])) == [("x", "done by another")]
        lost = dict(crew.run(die_always, [("kills", 1), ("lives", 2)]))
        assert lost["lives"] == 2
        assert isinstance(lost["kills"], errors.WorkerLost)
        assert crew._here is not None
        for process in crew._here._processes:  # with all that watches over them
            os.killpg(process.pid, signal.SIGKILL)
        assert [n for _, (n, _, _) in crew.run(answer, [("after", 21)])] == [42]
        monkeypatch.setattr("engine.operations.worker_pool.PATIENCE_SECONDS", 1.0)
        here, crew._here = crew._here, None  # as on other machines: nobody starts them again
        for process in here._processes:
            os.killpg(process.pid, signal.SIGKILL)
        with pytest.raises(errors.SettingsError, match="gone"):
            list(crew.run(answer, [("never", 1)]))


@pytest.mark.slow
def test_a_batch_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """On real networks and workers: a kill in the middle, then the same call again."""
    import subprocess
    import sys

    (tmp_path / "in" / "deep").mkdir(parents=True)
    for n in range(10):
        folder = tmp_path / "in" / ("deep" if n % 2 else ".")
        (folder / f"{n}.png").write_bytes(picture(f"NOWAK JAN {n}"))
    command = [
        sys.executable, "cli.py", "seal", str(tmp_path / "in"), "--out", str(tmp_path / "out"),
        "--data", str(tmp_path / "data"), "--key", str(tmp_path / "root.key"),
        "--seal-proposals", "--report", str(tmp_path / "report.csv"),
    ]  # fmt: skip
    root = HERE.parent
    first = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    acknowledged = [first.stdout.readline() for _ in range(3)]
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sealed before") >= len(acknowledged)
    rows = (tmp_path / "report.csv").read_text().splitlines()
    assert len(rows) == 11
    masked = sorted(p for p in (tmp_path / "out").rglob("*.png"))
    assert len(masked) == 10
    assert all(p.name.startswith("im_") for p in masked)
    settings = Settings(data=tmp_path / "data", key_file=tmp_path / "root.key")
    engine = Engine.open(settings, detector=ScriptedDetector(settings), operator=True)
    token = engine.operator_token()
    images = [*engine.search.images(token, limit=100).images]
    assert len(images) == 10
    assert {i.state for i in images} == {ImageState.RELEASED}
    files = [
        engine.images.restored_file(token, engine.images.restore(token, i.image_id, WHY).handle)
        for i in images
    ]
    assert {f.data for f in files} == {p.read_bytes() for p in (tmp_path / "in").rglob("*.png")}
    engine.close()


def test_a_worker_that_would_write_to_its_disk_is_refused_whenever_it_comes() -> None:
    plugin = _plugin(Flag())  # Dask calls it in every worker, also in those that join later
    told = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
    for left_out in told:
        with (
            dask.config.set({name: value for name, value in told.items() if name != left_out}),
            pytest.raises(errors.SettingsError, match="write plaintext to disk, or pause"),
        ):
            plugin.setup(None)
    with dask.config.set(told):
        plugin.setup(None)
    assert os.environ.pop("MEDSEC_TEST_EQUIPPED") == "1"


def test_a_task_that_went_with_its_scheduler_is_told_as_that() -> None:
    with pytest.raises(errors.SettingsError, match="are gone"):
        worker_pool._answer(SimpleNamespace(status="cancelled"))


def test_a_task_that_another_worker_did_meanwhile_is_done() -> None:
    """Its worker died, so that it was not finished when it was asked; it is when its error is."""
    lost = SimpleNamespace(status="pending", exception=lambda: None, result=lambda: "sealed")
    assert worker_pool._answer(lost) == "sealed"


def test_a_scheduler_that_does_not_answer_is_a_sentence(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.operations.worker_pool.PATIENCE_SECONDS", 1.0)
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("not a certificate")
    away = replace(
        settings, batch_scheduler="tls://127.0.0.1:9", batch_ca=tmp_path / "ca",
        batch_cert=tmp_path / "cert", batch_key=tmp_path / "key",
    )  # fmt: skip
    with pytest.raises(errors.SettingsError, match="MEDSEC_BATCH_SCHEDULER"):
        WorkerPool.open(away, 0, Flag())

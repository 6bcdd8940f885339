"""Who may work on a file now: memory, classes of work and fair shares; and jobs that always end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import Engine, Settings, Source, errors
from engine.formats import images
from engine.formats.needs import Need
from engine.operations import admission
from engine.operations.admission import Admission, Budget, Work
from tests import builders
from tests.conftest import PASSWORD, WHY, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector
from tests.formats.test_needs import claiming

_MB = 1 << 20
SMALL = Need(10 * _MB, 10 * _MB, 10.0)
LIMITS = images.Limits.of(Settings())


def of(
    total_mb: int = 1000, server_mb: int = 1000, patience: float = 60.0, **slots: int
) -> Admission:
    chosen = {Work(name): count for name, count in slots.items()} or None
    return Admission(Budget(total_mb * _MB, server_mb * _MB, 0), chosen, patience)


class Jobs:
    """Jobs of several accounts, each in a thread, that end when a test says so."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.began: list[str] = []
        self._ends: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def add(self, name: str, work: Work, account: str, need: Need = SMALL) -> None:
        self._ends[name] = threading.Event()

        def job() -> None:
            with self.admission.room(work, account, need):
                self.began.append(name)
                assert self._ends[name].wait(60)

        waiting = len(self.admission._waiting) + len(self.admission._at_work)
        thread = threading.Thread(target=job)
        thread.start()
        self._threads.append(thread)
        until(lambda: len(self.admission._waiting) + len(self.admission._at_work) > waiting)

    def end(self, name: str) -> None:
        self._ends[name].set()

    def finish(self) -> None:
        for event in self._ends.values():
            event.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@contextmanager
def jobs_of(admission: Admission) -> Iterator[Jobs]:
    jobs = Jobs(admission)
    try:
        yield jobs
    finally:
        jobs.finish()


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_account_with_many_files_delays_another_one_by_one_job_at_most() -> None:
    with jobs_of(of(intake=1, page=1)) as jobs:
        for number in range(45):
            jobs.add(f"many {number}", Work.INTAKE, "many")
        jobs.add("one", Work.INTAKE, "one")
        assert jobs.began == ["many 0"]
        jobs.end("many 0")
        until(lambda: len(jobs.began) == 2)
        assert jobs.began == ["many 0", "one"]


def test_an_account_takes_no_second_slot_while_another_one_waits_for_its_first() -> None:
    with jobs_of(of(intake=2, page=1)) as jobs:
        for number in range(4):
            jobs.add(f"many {number}", Work.INTAKE, "many")
        jobs.add("one", Work.INTAKE, "one")
        jobs.add("two", Work.INTAKE, "two")
        jobs.end("many 0")
        until(lambda: len(jobs.began) == 3)
        jobs.end("many 1")
        until(lambda: len(jobs.began) == 4)
        assert set(jobs.began[2:]) == {"one", "two"}


def test_a_page_waits_behind_no_intake() -> None:
    with jobs_of(of(100, 100, intake=2, page=1)) as jobs:
        jobs.add("file", Work.INTAKE, "a", Need(40 * _MB, 40 * _MB, 1.0))
        jobs.add("next", Work.INTAKE, "b", Need(40 * _MB, 40 * _MB, 1.0))
        jobs.add("page", Work.PAGE, "c")
        assert jobs.began == ["file", "page"]


def test_no_intake_begins_while_a_page_waits_for_memory() -> None:
    with jobs_of(of(100, 100, intake=3, page=1)) as jobs:
        jobs.add("file", Work.INTAKE, "a", Need(20 * _MB, 20 * _MB, 1.0))
        jobs.add("page", Work.PAGE, "b", Need(45 * _MB, 45 * _MB, 1.0))
        jobs.add("small", Work.INTAKE, "c", Need(1 * _MB, 1 * _MB, 1.0))
        assert jobs.began == ["file"]
        jobs.end("file")
        until(lambda: len(jobs.began) == 3)
        assert [job.account for job in jobs.admission._at_work] == ["b", "c"]


def test_intake_never_takes_what_is_kept_for_pages() -> None:
    with jobs_of(of(80, 80, intake=3, page=1)) as jobs:
        jobs.add("most", Work.INTAKE, "a", Need(1 * _MB, 69 * _MB, 1.0))
        jobs.add("too much", Work.INTAKE, "b", Need(1 * _MB, 1 * _MB, 1.0))
        jobs.add("page", Work.PAGE, "c", Need(5 * _MB, 5 * _MB, 1.0))
        assert jobs.began == ["most", "page"]


def test_what_needs_much_is_not_passed_by_for_ever() -> None:
    with jobs_of(of(100, 100, intake=3, page=1)) as jobs:
        jobs.add("small", Work.INTAKE, "a", Need(1 * _MB, 40 * _MB, 1.0))
        jobs.add("large", Work.INTAKE, "b", Need(1 * _MB, 80 * _MB, 1.0))
        jobs.add("later", Work.INTAKE, "c", Need(1 * _MB, 1 * _MB, 1.0))
        assert jobs.began == ["small"]
        jobs.end("small")
        until(lambda: len(jobs.began) >= 2)
        assert jobs.began[1] == "large"


def test_what_is_here_already_fits_alone_however_small_the_machine_is() -> None:
    huge = Need(1 << 40, 1 << 40, 1.0)
    for work in Work:
        with of(50, 50).room(work, "a", huge):
            pass


def test_a_job_that_fails_gives_its_room_back() -> None:
    one = of(50, 50, intake=1, page=1)
    with pytest.raises(ZeroDivisionError), one.room(Work.INTAKE, "a", SMALL):
        raise ZeroDivisionError
    with one.room(Work.INTAKE, "b", SMALL):
        pass


def test_a_job_never_waits_for_a_second_share() -> None:
    one = of(20, 20, intake=1, page=1)
    with one.room(Work.INTAKE, "a", SMALL), one.room(Work.INTAKE, "a", SMALL):
        pass
    with one.room(Work.PAGE, "a", SMALL):  # and the inner block gave nothing back
        assert len(one._at_work) == 1


def test_who_waits_too_long_is_told_to_come_again() -> None:
    with jobs_of(of(intake=1, page=1, patience=0.2)) as jobs:
        jobs.add("first", Work.INTAKE, "a")
        with pytest.raises(errors.MachineOverloaded), jobs.admission.room(Work.INTAKE, "b", SMALL):
            pass
        assert jobs.admission._waiting == []


def test_many_mixed_jobs_with_decoders_end_on_a_tiny_budget() -> None:
    """What was lost before: two processes that waited for each other's share."""
    tiny = of(160, 80, patience=300.0)
    data, drawn = builders.png(builders.labelled()[0]), random.Random(1)
    done: list[int] = []

    def job(number: int, work: Work, account: str, server_mb: int, decoder_mb: int) -> None:
        need = Need(server_mb * _MB, decoder_mb * _MB, 30.0)
        if number % 3 == 0:
            tiny.need_of(account, data, LIMITS)
        with tiny.room(work, account, need), tiny.room(Work.PAGE, account, need):
            images.decode("a", data, LIMITS, need.seconds)
        done.append(number)

    threads = [
        threading.Thread(
            target=job,
            args=(
                number, drawn.choice(list(Work)), drawn.choice("abc"), drawn.randint(1, 120),
                drawn.randint(1, 240),
            ),
        )
        for number in range(60)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert sorted(done) == list(range(60))
    assert (tiny._waiting, tiny._at_work) == ([], [])


def test_a_budget_follows_from_the_machine_or_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "memory_bytes", lambda: 16 << 30)
    by_machine = Budget.of(Settings())
    assert by_machine.total_bytes == by_machine.batch_bytes == (12 * 1024 - 3000) * _MB // 2
    assert by_machine.server_bytes == 1750 * _MB
    assert by_machine.batch_workers(64) == 1
    monkeypatch.setattr(admission, "memory_bytes", lambda: 1 << 30)
    assert Budget.of(Settings()).total_bytes == 1024 * _MB  # something must always be possible
    said = Budget.of(Settings(memory_mb=64_000, server_memory_mb=5000))
    assert (said.total_bytes, said.server_bytes) == (30_500 * _MB, 5000 * _MB)
    assert said.batch_workers(8) == 8
    assert said.fits_worker(SMALL, 8)
    assert not said.fits_worker(Need(2000 * _MB, 2000 * _MB, 1.0), 8)


def test_a_small_file_that_claims_much_is_refused_by_name_and_takes_no_memory(ward: Ward) -> None:
    forget_peak()
    before = held_mb("VmRSS")
    for width, height in ((32_000, 32_000), (18_000, 18_000)):
        with pytest.raises(errors.NeedsTooMuchMemory, match="MEDSEC_SERVER_MEMORY_MB") as refused:
            ward.upload(claiming(width, height), "a.jpg", found=[])
        assert refused.value.status == 413
        assert refused.value.facts["needed_in_server_mb"] > 3000
    assert held_mb("VmHWM") - before < 100
    assert ward.engine.drafts.waiting(ward.team.technician) == []


def test_a_batch_refuses_by_name_what_never_fits_and_goes_on(ward: Ward) -> None:
    data, found = text_png()
    ward.detector.found = [found]
    files = [claiming(32_000, 32_000), data]
    sources = [Source("a", lambda data=data: data) for data in files]  # type: ignore[misc]
    done = ward.engine.batches.seal(ward.team.technician, ward.patient_id, sources, few=True)
    first, second = sorted(done, key=lambda item: item.place)
    assert first.error is not None
    assert (first.error[0], second.state) == ("needs-too-much-memory", "sealed")


def test_what_was_taken_in_is_sealed_and_restored_on_a_machine_that_became_smaller(
    settings: Settings, ward: Ward
) -> None:
    data, found = text_png()
    sealed, draft = (
        ward.seal(data, found=[found]),
        ward.upload(builders.png(np.full((900, 900), 90, np.uint8)), found=[found]),
    )
    ward.engine.close()
    small = replace(settings, memory_mb=1, server_memory_mb=64)
    again = Engine.open(
        small, FakeHost(settings.data / "blobs", "again"), detector=ScriptedDetector(small, [found])
    )
    try:
        again.context.admission.budget = Budget(1 * _MB, 1 * _MB, 1 * _MB)
        technician = again.sessions.sign_in("technician", PASSWORD).token
        doctor = again.sessions.sign_in("doctor", PASSWORD).token
        assert again.images.restore(doctor, sealed, WHY).proof == "bytes"
        view = again.drafts.open(technician, draft)
        again.drafts.seal(technician, draft, view.detections)
        assert again.images.restore(doctor, draft, WHY).proof == "bytes"
        with pytest.raises(errors.NeedsTooMuchMemory):
            again.drafts.upload(
                technician, ward.patient_id, "b", builders.png(np.eye(90, dtype=np.uint8))
            )
    finally:
        again.close()


def held_mb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) >> 10


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")

"""What a doctor waits for a restoration while others send files that were made to cost much.

    python -m benchmarks.fairness [--restorations 20] [--uploads 8]

On the real server, with one image that is restored again and again: alone, and while eight uploads
at a time come in without an end, from a process of their own. Both take turns every five
restorations, so that what else the machine does falls on both. Two attacks: progressive JPEGs of
5,000 scans, which are refused by their header, and ones of as many scans and pixels as are taken
in. It fails where the 95th percentile under an attack is more than twice the one without.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image as Picture

from engine import Detection, Engine, Region, Role
from tests import builders
from tests.conftest import PASSWORD, Team
from tests.fakes import ScriptedDetector
from tests.serving import Server, serve, settings

#: How much longer a restoration may take under an attack.
MOST = 2.0
#: Restorations under an attack, and without, before the other again.
_IN_A_ROW = 5
BOX = Detection(Region(8, 8, 320, 40), "text", 0.9, "scripted")


@dataclass
class Outcome:
    """What was measured.

    Args:
        seconds: Of each restoration, under each attack.
        idle: Of those in between, while the attack rested.
        answers: Status codes of the uploads, by attack.
        busy: Decoders that were at work on an attack's file when a restoration ended.
        peak_mb: The most that the server alone, and all its processes, held.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    idle: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, Counter[int]] = field(default_factory=dict)
    busy: int = 0
    peak_mb: dict[str, float] = field(default_factory=lambda: {"server": 0.0, "all": 0.0})

    def ratio(self, name: str) -> float:
        """The 95th percentile under an attack over that without."""
        return p95(self.seconds[name]) / p95(self.idle[name])


def p95(seconds: list[float]) -> float:
    """The 95th percentile."""
    return float(np.percentile(seconds, 95))


def of_scans(count: int, side_px: int) -> bytes:
    """A progressive JPEG whose last scan, a refinement, comes again and again."""
    coded = io.BytesIO()
    pixels = builders.radiograph(side_px, side_px, seed=1)
    Picture.fromarray(pixels).save(coded, "JPEG", progressive=True, quality=30)
    data = coded.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (count - data.count(b"\xff\xda")) + data[-2:]


def numbered(data: bytes, number: int) -> bytes:
    """Another file of the same cost: nobody may refuse it as one that is here."""
    return data[:2] + b"\xff\xfe\x00\x0a" + f"{number:08}".encode() + data[2:]


ATTACKS: dict[str, Callable[[], bytes]] = {
    "5,000 scans": lambda: of_scans(5000, 64),
    "100 scans of 9 Mpx": lambda: of_scans(100, 3000),
}


async def _token(line: httpx.AsyncClient, role: Role) -> dict[str, str]:
    """The header of somebody who is signed in."""
    body = {"username": str(role), "password": PASSWORD}
    answer = await line.post("/api/auth/token/", json=body)
    answer.raise_for_status()
    return {"Authorization": f"Bearer {answer.json()['access']}"}


def _line(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None))


def _attack(
    url: str, data: bytes, first: int, uploads: int, at_it: Event, answers: Queue[int]
) -> None:
    """Keep so many uploads under way whenever the event is set, until this process is ended."""

    async def attack() -> None:
        async with _line(url) as line:
            headers = await _token(line, Role.TECHNICIAN)
            numbers = count(first)

            async def upload() -> None:
                while True:
                    while not at_it.is_set():
                        await asyncio.sleep(0.05)
                    file = {"image": ("a.jpg", numbered(data, next(numbers)))}
                    path = "/api/patients/P-1/images/"
                    answer = await line.post(path, headers=headers, files=file)
                    answers.put(answer.status_code)

            await asyncio.gather(*(upload() for _ in range(uploads)))

    asyncio.run(attack())


class Doctor:
    """Who restores, on one server."""

    def __init__(self, server: Server, image_id: str, outcome: Outcome) -> None:
        self.outcome, self._image_id = outcome, image_id
        self._process = psutil.Process(server.pid)
        self._url = server.url
        self._attacks = 0

    def restore(self, times: int) -> list[float]:
        """Restore so many times, one after the other. Returns seconds."""
        return asyncio.run(self._restore(times))

    async def _restore(self, times: int) -> list[float]:
        async with _line(self._url) as line:
            headers = await _token(line, Role.DOCTOR) | {"X-Reason": "benchmark"}
            path = f"/api/images/{self._image_id}/restore/?format=original"
            seconds = []
            for _ in range(times):
                began = time.perf_counter()
                answer = await line.get(path, headers=headers)
                seconds.append(time.perf_counter() - began)
                answer.raise_for_status()
                self._look()
            return seconds

    def under_attack(self, name: str, restorations: int, uploads: int) -> None:
        """Restore so many times under an attack, and as many times while it rests."""
        apart = multiprocessing.get_context("spawn")
        answers, at_it = apart.Queue(), apart.Event()
        self._attacks += 1
        first = self._attacks * 1_000_000
        given = (self._url, ATTACKS[name](), first, uploads, at_it, answers)
        attacker = apart.Process(target=_attack, args=given, daemon=True)
        attacker.start()
        counted = self.outcome.answers.setdefault(name, Counter())
        under, idle = (
            self.outcome.seconds.setdefault(name, []),
            self.outcome.idle.setdefault(name, []),
        )
        try:
            for _ in range(0, restorations, _IN_A_ROW):
                at_it.set()
                counted[answers.get(timeout=120)] += 1  # from here on it is under attack
                under += self.restore(min(_IN_A_ROW, restorations))
                at_it.clear()
                while self._busy():
                    time.sleep(0.1)
                idle += self.restore(min(_IN_A_ROW, restorations))
        finally:
            attacker.kill()
            attacker.join()
            while not answers.empty():
                counted[answers.get()] += 1

    def _busy(self) -> bool:
        """Is anything of the server still at the attack's files?"""
        before = self._spent()
        time.sleep(0.5)
        return self._spent() - before > 0.1

    def _spent(self) -> float:
        """Processor seconds of the server and all its processes."""
        total = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _look(self) -> None:
        children = self._process.children(recursive=True)
        held = self._process.memory_info().rss / 1e6
        total, busy = held, 0
        for child in children:
            try:
                total += child.memory_info().rss / 1e6
                busy += child.nice() > 0 and child.status() in ("running", "runnable")
            except psutil.NoSuchProcess:
                continue
        self.outcome.busy += busy
        peak = self.outcome.peak_mb
        peak["server"], peak["all"] = max(peak["server"], held), max(peak["all"], total)


def run(folder: Path, restorations: int, uploads: int, attacks: tuple[str, ...]) -> Outcome:
    """Make the accounts and an image, start the server, measure."""
    chosen = settings(folder)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, [BOX]))
    team = Team(engine)
    patient = engine.patients.create(team.technician, "P-1", "Jan Nowak", 61)
    pixels = builders.radiograph(1500, 1500, seed=7)
    draft = engine.drafts.upload(team.technician, patient.patient_id, "a", builders.png(pixels))
    engine.drafts.seal(team.technician, draft.image_id, [BOX])
    engine.close()
    outcome = Outcome()

    with serve(folder, program="benchmarks/scripted.py", MEDSEC_REQUESTS_PER_MINUTE="1000000") as s:
        doctor = Doctor(s, draft.image_id, outcome)
        doctor.restore(3)  # the first ones start decoders
        for name in attacks:
            doctor.under_attack(name, restorations, uploads)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--restorations", type=int, default=20)
    parser.add_argument("--uploads", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medsec-fairness-") as folder:
        outcome = run(Path(folder), options.restorations, options.uploads, tuple(ATTACKS))
    print("| attack | restorations | p50 s, without | p95 s, without | ratio of p95 | answers |")
    print("|---|---|---|---|---|---|")
    for name, under in outcome.seconds.items():
        idle = outcome.idle[name]
        print(
            f"| {name} | {len(under)} | {np.median(under):.2f}, {np.median(idle):.2f}"
            f" | {p95(under):.2f}, {p95(idle):.2f} | {outcome.ratio(name):.1f}"
            f" | {dict(outcome.answers[name])} |"
        )
    peak = outcome.peak_mb
    print(f"\nat most {peak['server']:.0f} MB in the server, {peak['all']:.0f} MB in all processes")
    return int(any(outcome.ratio(name) > MOST for name in outcome.answers))


if __name__ == "__main__":
    sys.exit(main())

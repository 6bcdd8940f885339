"""What a doctor waits for a restoration while others send files that were made to cost much.

    python -m benchmarks.fairness [--restorations 20] [--uploads 8]

On the real server, with one image that is restored again and again: first alone, then while eight
uploads at a time come in without an end. Two attacks: progressive JPEGs of 5,000 scans,
which are refused by their header, and ones of as many scans and pixels as are taken in. Times of
one run are compared with each other. It fails where the 95th percentile under an attack is more
than twice the one without.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
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
BOX = Detection(Region(8, 8, 320, 40), "text", 0.9, "scripted")


@dataclass
class Outcome:
    """What was measured.

    Args:
        seconds: Of each restoration, by what went on meanwhile.
        answers: Status codes of the uploads, by attack.
        busy: Decoders that were at work on an attack's file when a restoration ended.
        peak_mb: The most that the server alone, and all its processes, held.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, Counter[int]] = field(default_factory=dict)
    busy: int = 0
    peak_mb: dict[str, float] = field(default_factory=lambda: {"server": 0.0, "all": 0.0})

    def p95(self, name: str) -> float:
        return float(np.percentile(self.seconds[name], 95))

    def ratio(self, name: str) -> float:
        """The 95th percentile under an attack over that without."""
        return self.p95(name) / self.p95("idle")


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


class Crowd:
    """Who restores and who attacks, on one server."""

    def __init__(self, server: Server, image_id: str, outcome: Outcome) -> None:
        self.outcome, self._image_id = outcome, image_id
        self._process = psutil.Process(server.pid)
        self._line = httpx.AsyncClient(
            base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=None)
        )
        self._sent = 0

    async def token(self, role: Role) -> dict[str, str]:
        body = {"username": str(role), "password": PASSWORD}
        answer = await self._line.post("/api/auth/token/", json=body)
        answer.raise_for_status()
        return {"Authorization": f"Bearer {answer.json()['access']}"}

    async def restore(self, name: str, times: int) -> None:
        """Restore so many times, one after the other."""
        headers = await self.token(Role.DOCTOR) | {"X-Reason": "benchmark"}
        path = f"/api/images/{self._image_id}/restore/?format=original"
        seconds = self.outcome.seconds.setdefault(name, [])
        for _ in range(times):
            began = time.perf_counter()
            answer = await self._line.get(path, headers=headers)
            seconds.append(time.perf_counter() - began)
            answer.raise_for_status()
            self._look()

    async def attack(self, name: str, data: bytes, restorations: int, uploads: int) -> None:
        """Restore while so many uploads are under way all the time."""
        headers = await self.token(Role.TECHNICIAN)
        answers = self.outcome.answers.setdefault(name, Counter())

        async def upload() -> None:
            while True:
                self._sent += 1
                file = {"image": ("a.jpg", numbered(data, self._sent))}
                answer = await self._line.post(
                    "/api/patients/P-1/images/", headers=headers, files=file
                )
                answers[answer.status_code] += 1

        attackers = [asyncio.create_task(upload()) for _ in range(uploads)]
        await asyncio.sleep(2)
        try:
            await self.restore(name, restorations)
        finally:
            for attacker in attackers:
                attacker.cancel()
            await asyncio.gather(*attackers, return_exceptions=True)

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

    async def close(self) -> None:
        await self._line.aclose()


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

    async def measure(server: Server) -> None:
        crowd = Crowd(server, draft.image_id, outcome)
        try:
            await crowd.restore("warm", 3)
            await crowd.restore("idle", restorations)
            for name in attacks:
                await crowd.attack(name, ATTACKS[name](), restorations, uploads)
        finally:
            await crowd.close()

    with serve(folder, program="benchmarks/scripted.py", MEDSEC_REQUESTS_PER_MINUTE="1000000") as s:
        asyncio.run(measure(s))
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--restorations", type=int, default=20)
    parser.add_argument("--uploads", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medsec-fairness-") as folder:
        outcome = run(Path(folder), options.restorations, options.uploads, tuple(ATTACKS))
    print("| meanwhile | restorations | p50 s | p95 s | to idle | uploads answered |")
    print("|---|---|---|---|---|---|")
    for name, seconds in outcome.seconds.items():
        told = dict(outcome.answers.get(name, {})) or "-"
        print(
            f"| {name} | {len(seconds)} | {np.median(seconds):.2f} | {outcome.p95(name):.2f}"
            f" | {outcome.ratio(name):.1f} | {told} |"
        )
    peak = outcome.peak_mb
    print(f"\nat most {peak['server']:.0f} MB in the server, {peak['all']:.0f} MB in all processes")
    return int(any(outcome.ratio(name) > MOST for name in outcome.answers))


if __name__ == "__main__":
    sys.exit(main())

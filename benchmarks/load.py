"""Fifty people at once on the real server: how long each action takes, and what it costs.

    python -m benchmarks.load [--minutes 10] [--sessions 50] [--think 10] [--scripted] [--servers 3]

Half of them are technicians, who upload radiographs made in code, open the draft, look at it and
seal it; half are doctors, who list images, restore one and take the file away. Every restored
file is compared with what was uploaded. The networks, the REST API, TLS apart, and the disk are
the real ones. Between two actions everybody thinks, ``--think`` seconds on average.

Memory is printed by the minute, the server apart from its sandboxes, with what its caches held
beside it, so that the run itself says what grows. ``--scripted`` leaves the networks out: many
times as many uploads, and what grows then is not theirs. With several servers, everybody works
through the proxy of :mod:`benchmarks.hospital`, and memory is that of all servers.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks.hospital import hospital
from engine import Engine, Role, Settings
from tests import builders
from tests.conftest import PASSWORD, Team
from tests.fakes import ScriptedDetector
from tests.serving import serve, settings

SAMPLE_SECONDS = 5.0
METRICS_TOKEN = "a token of the load test for the metrics"  # noqa: S105 - of this run alone
#: Columns of a sample, in MB.
PARTS = ("server", "sandboxes", "opened_pictures", "masked_pictures", "catalog")


@dataclass(frozen=True)
class Sample:
    """Memory at one moment.

    Args:
        at: Seconds since the crowd came.
        mb: By ``PARTS``; the last three are inside the first.
    """

    at: float
    mb: dict[str, float]


@dataclass
class Tally:
    """What was measured.

    Args:
        seconds: Of each action, by name.
        memory: Of the server and its children, every few seconds.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    review: int = 0
    originals: dict[str, bytes] = field(default_factory=dict)
    memory: list[Sample] = field(default_factory=list)

    @asynccontextmanager
    async def action(self, name: str) -> AsyncIterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - began)

    def growth_mb(self) -> dict[str, float]:
        """Memory of the last fifth over that after the first minute, by part; empty if short."""
        later = [s.mb for s in self.memory if s.at > 60.0]
        if len(later) < 20:
            return {}
        fifth = len(later) // 5
        return {
            part: float(
                np.median([mb[part] for mb in later[-fifth:]])
                - np.median([mb[part] for mb in later[:fifth]])
            )
            for part in PARTS
        }

    def by_minute(self) -> list[tuple[int, dict[str, float]]]:
        """Medians of each minute."""
        minutes: dict[int, list[Sample]] = defaultdict(list)
        for sample in self.memory:
            minutes[int(sample.at // 60) + 1].append(sample)
        return [
            (minute, {part: float(np.median([s.mb[part] for s in of])) for part in PARTS})
            for minute, of in minutes.items()
        ]


class Person:
    """One session."""

    def __init__(self, client: httpx.AsyncClient, tally: Tally, number: int, think: float) -> None:
        self.client, self.tally = client, tally
        self.random, self.number, self.think = random.Random(number), number, think
        self.count = 0

    async def ask(self, method: str, path: str, **options: object) -> httpx.Response | None:
        """The answer, or None for one that is an error, which is counted."""
        try:
            answer = await self.client.request(method, f"/api{path}", **options)  # type: ignore[arg-type]
        except httpx.HTTPError as err:
            self.tally.errors[f"{method} {type(err).__name__}"] += 1
            return None
        if answer.status_code >= 400:
            if "review-needed" in answer.text:
                self.tally.review += 1
            elif answer.status_code != 404 or method == "POST":
                code = (
                    answer.json().get("type", "")
                    if "json" in answer.headers.get("content-type", "")
                    else ""
                )
                self.tally.errors[f"{method} {answer.status_code} {code}"] += 1
            return None
        return answer

    async def live(self, until: float) -> None:
        await asyncio.sleep(self.random.uniform(0, self.think))
        while time.monotonic() < until:
            await self.act()
            pause = self.random.expovariate(1 / self.think) if self.think else 0.0
            await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))

    async def act(self) -> None:
        raise NotImplementedError


class Technician(Person):
    """Uploads, looks, seals."""

    async def act(self) -> None:
        self.count += 1
        pixels = builders.radiograph(512, 512, seed=self.number * 10_000 + self.count)
        builders.write_text(pixels, f"NOWAK JAN {self.number}", (16, 24), scale=0.8)
        data = builders.png(pixels)
        async with self.tally.action("upload"):
            answer = await self.ask(
                "POST", "/patients/P-1/images/", files={"image": ("scan.png", data)}
            )
        if answer is None:
            return
        image_id = answer.json()["image_id"]
        async with self.tally.action("review: open draft"):
            answer = await self.ask("GET", f"/drafts/{image_id}/")
        if answer is None:
            return
        draft = answer.json()
        async with self.tally.action("review: frame"):
            await self.ask("GET", f"/drafts/{draft['handle']}/frames/0/")
        decision = {"boxes": draft["found"], "confirm": "looked at"}
        async with self.tally.action("seal"):
            answer = await self.ask("POST", f"/drafts/{image_id}/seal/", json=decision)
        if answer is not None:
            self.tally.originals[image_id] = data


class Doctor(Person):
    """Lists, restores, takes the file away."""

    async def act(self) -> None:
        async with self.tally.action("list images"):
            answer = await self.ask("GET", "/images/?limit=20")
        known = list(self.tally.originals)
        if answer is None or not known:
            return
        image_id = self.random.choice(known)
        async with self.tally.action("restore"):
            answer = await self.ask(
                "GET", f"/images/{image_id}/restore/?format=original",
                headers={"X-Reason": "load test"},
            )  # fmt: skip
        if answer is not None and answer.content != self.tally.originals[image_id]:
            self.tally.errors["another file came back"] += 1


async def watch(servers: Mapping[str, int], tally: Tally, until: float) -> None:
    """Memory of the servers, their children and their caches, every few seconds.

    Args:
        servers: The process of each, by its address.
    """
    began = time.monotonic()
    token = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    async with httpx.AsyncClient(headers=token, timeout=300) as client:
        while time.monotonic() < until:
            mb = dict.fromkeys(PARTS, 0.0)
            try:
                for url, pid in servers.items():
                    for what, size in held(await client.get(f"{url}/api/metrics/")).items():
                        mb[what] += size
                    process = psutil.Process(pid)
                    mb["server"] += process.memory_info().rss / 1e6
                    for child in process.children(recursive=True):
                        with suppress(psutil.NoSuchProcess):
                            mb["sandboxes"] += child.memory_info().rss / 1e6
            except httpx.HTTPError as err:
                tally.errors[f"metrics {type(err).__name__}"] += 1
            else:
                tally.memory.append(Sample(time.monotonic() - began, mb))
            await asyncio.sleep(SAMPLE_SECONDS)


def held(answer: httpx.Response) -> dict[str, float]:
    """Megabytes of the server's caches, by name."""
    answer.raise_for_status()
    lines = (line.partition('what="')[2] for line in answer.text.splitlines()
             if line.startswith("medsec_held_bytes{"))  # fmt: skip
    return {what: float(size) / 1e6 for what, _, size in (x.partition('"} ') for x in lines)}


def client_of(number: int, url: str) -> httpx.AsyncClient:
    """A connection of one person's own, from an address by which a proxy knows them again."""
    # Shorter than the server keeps a connection: else both may let go of it at once.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    own = httpx.AsyncHTTPTransport(local_address=f"127.0.1.{1 + number % 250}", limits=limits)
    return httpx.AsyncClient(base_url=url, timeout=300, transport=own)


async def crowd(
    url: str, servers: Mapping[str, int], sessions: int, seconds: float, think: float
) -> Tally:
    """Sign everybody in and let them work."""
    tally = Tally()
    clients = [client_of(number, url) for number in range(sessions)]
    people: list[Person] = []
    try:
        for number, client in enumerate(clients):
            role = Role.TECHNICIAN if number % 2 == 0 else Role.DOCTOR
            async with tally.action("sign in"):
                answer = await client.post(
                    "/api/auth/token/", json={"username": str(role), "password": PASSWORD}
                )
            answer.raise_for_status()
            client.headers["Authorization"] = f"Bearer {answer.json()['access']}"
            kind = Technician if role is Role.TECHNICIAN else Doctor
            people.append(kind(client, tally, number, think))
        until = time.monotonic() + seconds
        await asyncio.gather(watch(servers, tally, until), *(p.live(until) for p in people))
    finally:
        for client in clients:
            await client.aclose()
    return tally


def run(
    folder: Path,
    sessions: int,
    seconds: float,
    think: float,
    scripted: bool = False,
    servers: int = 1,
) -> Tally:
    """Make the accounts, start the servers, let the crowd in.

    Args:
        scripted: Without networks; see :mod:`benchmarks.scripted`.
    """
    plenty = {
        "MEDSEC_REQUESTS_PER_MINUTE": "1000000",
        "MEDSEC_ANONYMOUS_REQUESTS_PER_MINUTE": "1000000",
        "MEDSEC_METRICS_TOKEN": METRICS_TOKEN,
    }
    program = "benchmarks/scripted.py" if scripted else "serve.py"
    if servers == 1:
        _people(settings(folder))
        with serve(folder, program=program, **plenty) as server:
            there = {server.url: server.pid}
            return asyncio.run(crowd(server.url, there, sessions, seconds, think))
    with hospital(folder, servers, program, **plenty) as place:
        _people(place.settings())
        place.only(servers)
        there = {s.url: s.process.pid for s in place.servers if s.process is not None}
        return asyncio.run(crowd(place.url, there, sessions, seconds, think))


def _people(chosen: Settings) -> None:
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
    team = Team(engine)
    engine.patients.create(team.technician, "P-1", "Jan Nowak", 61)
    engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--think", type=float, default=10.0)
    parser.add_argument("--scripted", action="store_true", help="without networks")
    parser.add_argument("--servers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medsec-load-") as folder:
        seconds = options.minutes * 60
        tally = run(
            Path(folder), options.sessions, seconds, options.think, options.scripted,
            options.servers,
        )  # fmt: skip
    print(f"{options.sessions} sessions, {options.minutes:g} minutes, {options.servers} servers\n")
    print("| action | times | p50 s | p95 s | p99 s |\n|---|---|---|---|---|")
    for name, seconds in tally.seconds.items():
        p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
        print(f"| {name} | {len(seconds)} | {p50:.2f} | {p95:.2f} | {p99:.2f} |")
    print(
        f"\nerrors: {dict(tally.errors) or 'none'}; sent to review by the second look:"
        f" {tally.review}; images sealed: {len(tally.originals)}"
    )
    names = " | ".join(part.replace("_", " ") for part in PARTS)
    print(f"\n| MB, median of minute | {names} |\n|---|{'---|' * len(PARTS)}")
    for minute, mb in tally.by_minute():
        print(f"| {minute} | " + " | ".join(f"{mb[part]:.0f}" for part in PARTS) + " |")
    growth = tally.growth_mb()
    if not growth:
        print("\nToo short to say how memory grows.")
        return 1 if tally.errors else 0
    told = " | ".join(f"{growth[part]:+.0f}" for part in PARTS)
    print(f"| growth after the first | {told} |")
    caches = sum(growth[part] for part in PARTS[2:])
    print(f"\nof the server's growth, {caches:+.0f} MB are in these caches")
    return 1 if tally.errors else 0


if __name__ == "__main__":
    sys.exit(main())

"""Pages a second of one, two and three servers behind one address, and what each page costs where.

    python -m benchmarks.several [--images 2000] [--sessions 24] [--seconds 60]

:mod:`benchmarks.hospital` is the set-up, :mod:`benchmarks.pages` the catalog and the visitors, who
ask for one page after another without a pause: more would only wait. The machine's processors are
shared by servers, database, object store, proxy and the visitors themselves, so pages a second stop
growing when they are all busy. What says how it would go on with more machines is the processor
time of each part for a page: that of the servers is divided among them, that of the database is
not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.hospital import Hospital, hospital
from benchmarks.pages import PAGES, Visitor, fill, sign_in, visitor
from engine import Role

SERVERS = 3
#: Each server draws its first pages meanwhile; they are slower, and not counted.
WARM_SECONDS = 15.0


def spent(place: Hospital) -> dict[str, float]:
    """Processor seconds so far, by part."""
    parts = {
        "servers": [s.process.pid for s in place.servers if s.process is not None],
        "database": [int((place.cluster.data / "postmaster.pid").read_text().split()[0])],
        "object store": [place.store.pid],
        "proxy": [place.proxy.pid],
        "visitors": [os.getpid()],
    }
    return {part: sum(map(_of_tree, pids)) for part, pids in parts.items()}


def _of_tree(pid: int) -> float:
    """Of a process and its children, those that ended included; visitors have none that count."""
    if pid == os.getpid():
        own = psutil.Process().cpu_times()
        return own.user + own.system
    total = 0.0
    with psutil.Process(pid).oneshot():
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


async def crowd(
    url: str, tokens: Sequence[tuple[Role, str]], seconds: float
) -> list[tuple[float, float]]:
    """Everybody asks for one page after another: when each was there, and its milliseconds."""
    end, seen = time.perf_counter() + seconds, []

    async def work(number: int, role: Role, token: str) -> None:
        draw = random.Random(number)
        async with visitor(url, token, route=f"visitor-{number}") as line:
            tab = Visitor(line)
            while time.perf_counter() < end:
                took = await tab.visit(draw.choice(PAGES[role]))
                seen.append((time.perf_counter(), took))

    await asyncio.gather(*(work(n, role, token) for n, (role, token) in enumerate(tokens)))
    return seen


def measure(
    place: Hospital, count: int, tokens: Sequence[tuple[Role, str]], seconds: float
) -> list[float]:
    """Pages a second, median and 95th percentile in ms, processor ms a page by part, busy share."""
    place.only(count)
    asyncio.run(crowd(place.url, tokens, WARM_SECONDS))
    before, began = spent(place), time.perf_counter()
    psutil.cpu_percent()
    seen = asyncio.run(crowd(place.url, tokens, seconds))
    busy, took = psutil.cpu_percent(), time.perf_counter() - began
    after = spent(place)
    place.stop_all()
    times = [ms for _, ms in seen]
    pages = [(after[part] - before[part]) * 1e3 / len(seen) for part in before]
    ninety_five = statistics.quantiles(times, n=20)[18]
    return [len(seen) / took, statistics.median(times), ninety_five, *pages, busy]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--sessions", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, hospital(Path(folder), SERVERS) as place:
        fill(place.settings(), options.images)
        tokens = sign_in(place.settings(), options.sessions)
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        print(
            "| servers | pages a second | median ms | 95 % ms | processor ms a page: servers |"
            " database | object store | proxy | visitors | processors busy, % |\n|" + "---|" * 10
        )
        for count in range(1, SERVERS + 1):
            found = measure(place, count, tokens, options.seconds)
            told = " | ".join(f"{value:.1f}" for value in found)
            print(f"| {count} | {told} |", flush=True)


if __name__ == "__main__":
    main()

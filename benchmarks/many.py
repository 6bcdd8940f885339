"""A folder of thousands of files through ``cli.py seal``: does it grow worse than linearly?

    python -m benchmarks.many [--files 10000] [--workers 1] [--steps 10]

The files are tiny and the detector scripted, so that what is measured is the batch itself: its
workers, their scheduler, the encrypted files and the catalog. Part of the way it is killed and
started again. Prints rate and memory for each part of the way.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image as Pillow

import cli
from engine import Detection, Region
from engine.host import Host
from engine.operations import worker
from engine.operations.context import WorkerContext
from engine.operations.live_settings import LiveSettings
from engine.service import batches
from tests.fakes import ScriptedDetector

ROOT = Path(__file__).parent.parent
BOX = Detection(Region(4, 4, 40, 16), "text", 0.9, "scripted")
KILL_AT = 0.05  # share of the way


@dataclass(frozen=True)
class ScriptedWorkerSetup(worker.WorkerSetup):
    """What a worker holds, without networks."""

    def __call__(self) -> None:
        detector = ScriptedDetector(self.settings, [BOX])
        worker._HERE = WorkerContext(LiveSettings(self.settings), Host(self.open_files()), detector)


def fill(folder: Path, files: int) -> None:
    """Pictures of 64 x 48 pixels, each another one."""
    folder.mkdir()
    pixels = (np.arange(48 * 64, dtype=np.uint32) % 251).astype(np.uint8).reshape(48, 64)
    for n in range(files):
        pixels[30, :4] = list(n.to_bytes(4, "big"))
        out = io.BytesIO()
        Pillow.fromarray(pixels).save(out, "PNG", compress_level=1)
        (folder / f"{n:06}.png").write_bytes(out.getvalue())


def seal(folder: Path) -> int:
    """The command itself, with scripted workers, in this process."""
    batches.WorkerSetup = ScriptedWorkerSetup  # type: ignore[misc]
    return cli.main([
        "seal", str(folder / "in"), "--out", str(folder / "out"), "--data", str(folder / "data"),
        "--key", str(folder / "root.key"), "--report", str(folder / "report.jsonl"),
    ])  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One moment.

    Args:
        at: Seconds since the start.
        done: Lines in the report.
        busy_s: Processor seconds so far of the server's process and of all others of the batch.
    """

    at: float
    done: int
    server_mb: float
    workers_mb: float
    busy_s: tuple[float, float]


def spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def sampled(folder: Path, workers: int, until_done: int | None = None) -> tuple[list[Sample], int]:
    """Run the command in a process of its own and look at it every second.

    Args:
        until_done: Kill it there.
    """
    call = [sys.executable, "-m", "benchmarks.many", "--inside", str(folder)]
    environment = {**os.environ, "MEDSEC_BATCH_WORKERS": str(workers)}
    samples: list[Sample] = []
    report, began = folder / "report.jsonl", time.monotonic()
    with (folder / "said.log").open("a") as said:
        process = subprocess.Popen(call, cwd=ROOT, env=environment, stdout=said, stderr=said)
        family = psutil.Process(process.pid)
        done = read = 0
        while process.poll() is None:
            time.sleep(1)
            if report.exists():
                with report.open("rb") as lines:
                    lines.seek(read)
                    new = lines.read()
                read += len(new)
                done += new.count(b"\n")
            try:
                children = family.children(recursive=True)
                server = family.memory_info().rss / 1e6
                others = sum(c.memory_info().rss for c in children) / 1e6
                busy = (spent(family), sum(map(spent, children)))
            except psutil.NoSuchProcess:
                continue
            if server and len(children) > 1:  # not one that is about to end
                samples.append(Sample(time.monotonic() - began, done, server, others, busy))
            if until_done is not None and done >= until_done:
                process.kill()
        return samples, process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        return seal(options.inside)
    with tempfile.TemporaryDirectory(prefix="medsec-many-") as name:
        folder = Path(name)
        fill(folder / "in", options.files)
        cut, _ = sampled(folder, options.workers, int(options.files * KILL_AT))
        print(f"killed after {cut[-1].done} of {options.files} files", flush=True)
        samples, status = sampled(folder, options.workers)
        states = Counter(
            json.loads(line)["state"] for line in (folder / "report.jsonl").read_text().splitlines()
        )
        print(f"started again: exit status {status}, in the report {dict(states)}\n", flush=True)
        print(
            "| files | a second | processor ms a file: server | others | MB: server | others |\n"
            "|---|---|---|---|---|---|"
        )
        for step in range(options.steps):
            low, high = (options.files * (step + k) // options.steps for k in (0, 1))
            part = [s for s in samples if low < s.done <= high]
            if len(part) < 2:
                continue
            first, last = part[0], part[-1]
            files = max(1, last.done - first.done)
            busy = [1000 * (y - x) / files for x, y in zip(first.busy_s, last.busy_s, strict=True)]
            print(
                f"| to {high} | {files / (last.at - first.at):.1f}"
                f" | {busy[0]:.0f} | {busy[1]:.0f} |"
                f" {np.median([s.server_mb for s in part]):.0f} |"
                f" {np.median([s.workers_mb for s in part]):.0f} |",
                flush=True,
            )
        size = (folder / "data" / "catalog.duckdb").stat().st_size
        print(f"\ncatalog {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How a batch grows with processors and workers: the same radiographs sealed three times.

    python -m benchmarks.batch [--files 24] [--rounds 2]

Radiographs of 1024 x 1024 made in code, through ``engine.batches.seal`` with the real networks, in
worker processes as a folder sealed from the command line has them: by one worker while everything
is held to one processor, by one worker whose networks use two, and by two workers with one each.
Starting the workers and loading their networks is part of the time; beside it stands the rate once
all were at work, from the end of the first quarter of the files to the last.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from engine import BatchOptions, Engine, Settings, Source
from tests import builders

_OURS = os.sched_getaffinity(0)


@dataclass(frozen=True)
class Run:
    """One batch.

    Args:
        whole_s: From the call to the last file.
        per_second: Files a second after the first quarter.
    """

    whole_s: float
    per_second: float
    states: Counter[str]


def radiographs(count: int) -> list[bytes]:
    files = []
    for seed in range(count):
        pixels = builders.radiograph(1024, 1024, bits=12, seed=seed)
        builders.write_text(pixels, f"NOWAK JAN {seed}", (24, 48))
        files.append(builders.dicom(pixels, bits=12))
    return files


def run(files: list[bytes], workers: int, processors: int) -> Run:
    """Seal them in a folder of their own."""
    os.sched_setaffinity(0, sorted(_OURS)[:processors])  # whatever is started inherits it
    with tempfile.TemporaryDirectory(prefix="medsec-batch-") as name:
        folder = Path(name)
        settings = Settings(data=folder / "data", key_file=folder / "key", batch_workers=workers)
        engine = Engine.open(settings, operator=True)
        try:
            token = engine.operator_token()
            engine.patients.create(token, "P-1", "Jan Nowak")
            patient = engine.patients.get(token, "P-1").patient_id
            sources = [Source(f"{i}.dcm", lambda data=data: data) for i, data in enumerate(files)]
            began, ends, states = time.perf_counter(), [], Counter[str]()
            for item in engine.batches.seal(
                token,
                patient,
                sources,
                options=BatchOptions(accept_empty=True, seal_proposals=True),
            ):
                ends.append(time.perf_counter() - began)
                states[item.state] += 1
        finally:
            engine.close()
            os.sched_setaffinity(0, _OURS)
    first = len(ends) // 4
    return Run(ends[-1], (len(ends) - first) / (ends[-1] - ends[first - 1]), states)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if options.files < 9:
        parser.error("fewer than nine files are sealed without workers")
    files = radiographs(options.files)
    if len(_OURS) < 2:
        parser.error("two processors are needed")
    runs: dict[tuple[int, int], list[Run]] = {(1, 1): [], (1, 2): [], (2, 2): []}
    for _ in range(options.rounds):
        for (workers, processors), done in runs.items():
            done.append(run(files, workers, processors))
            print(f"{workers} on {processors}: {done[-1]}", file=sys.stderr, flush=True)
    print("| workers | processors | whole, s | files a second, all at work | times the first |")
    print("|---|---|---|---|---|")
    first = statistics.median(r.per_second for r in runs[1, 1])
    for (workers, processors), done in runs.items():
        whole = statistics.median(r.whole_s for r in done)
        rate = statistics.median(r.per_second for r in done)
        print(f"| {workers} | {processors} | {whole:.1f} | {rate:.2f} | {rate / first:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

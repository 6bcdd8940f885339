"""A series of CT slices sealed as one batch, and the same by an older state, in the same run.

    git worktree add --detach ../before e33f52a
    make -C ../before .venv/.run
    python -m benchmarks.series --folder FOLDER [--slices 200] [--peer ../before ...]

The slices are those of the CT series of a folder, one after the other and again from the first,
each with noise of its own and a new SOP Instance UID. They are sealed by ``engine.batches.seal``
with as many workers as processors, and what has nothing to hide is accepted, so that each slice is
looked at, masked, looked at again and stored. Each state runs in a process of its own, from its
own folder. Starting the workers and loading their networks is part of the time; beside it stands
the rate once all were at work, from the end of the first quarter of the slices to the last.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

HERE = Path(__file__).resolve().parent
HEADING = "## Series (`benchmarks/series.py`)"
NOISE = 3  # stored values, either way


def slices(folder: Path, target: Path, count: int) -> None:
    """Write ``count`` slices made of those of a folder."""
    found = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    series = [d for d in found if d.get("Modality") == "CT" and d.get("SamplesPerPixel") == 1
              and d.get("BitsAllocated") == 16]  # fmt: skip
    if not series:
        raise SystemExit(f"{folder} has no CT series.")
    noise = np.random.default_rng(1)
    for number in range(count):
        slice_ = series[number % len(series)].copy()
        pixels = slice_.pixel_array
        low, high = int(pixels.min()), int(pixels.max())
        moved = pixels.astype(np.int32) + noise.integers(-NOISE, NOISE + 1, pixels.shape)
        slice_.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        slice_.PixelData = np.clip(moved, low, high).astype(pixels.dtype).tobytes()
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        slice_.InstanceNumber = number + 1
        slice_.save_as(target / f"{number:04d}.dcm", enforce_file_format=True)


def seal(folder: Path) -> dict[str, Any]:
    """Seal a folder as one batch, in this process and its workers."""
    from engine import BatchOptions, Engine, Settings, Source

    files = sorted(folder.iterdir())
    with tempfile.TemporaryDirectory(prefix="medsec-series-") as name:
        place = Path(name)
        workers = len(os.sched_getaffinity(0))
        settings = Settings(data=place / "data", key_file=place / "key", batch_workers=workers)
        engine = Engine.open(settings, operator=True)
        try:
            token = engine.operator_token()
            engine.patients.create(token, "P-1", "Jan Nowak")
            patient = engine.patients.get(token, "P-1").patient_id
            sources = [Source(path.name, lambda path=path: path.read_bytes()) for path in files]
            options = BatchOptions(accept_empty=True, seal_proposals=True)
            began, ends, states = time.perf_counter(), [], Counter[str]()
            stages: Counter[str] = Counter()
            for item in engine.batches.seal(token, patient, sources, options=options):
                ends.append(time.perf_counter() - began)
                states[item.state] += 1
                stages.update(item.times_ms)
        finally:
            engine.close()
    first = len(ends) // 4
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "whole_s": ends[-1],
        "a_second": (len(ends) - first) / (ends[-1] - ends[first - 1]),
        "processor_s": time.process_time() + used.ru_utime + used.ru_stime,
        "states": states,
        "stages_ms": {name: spent / len(ends) for name, spent in stages.most_common(5)},
    }


def run(root: Path, folder: Path) -> dict[str, Any]:
    """The same by the code of another folder."""
    python = root / ".venv" / "bin" / "python"
    code = f"import sys; sys.path.insert(0, {str(root)!r}); " + (
        "import json, pathlib, runpy; "
        f"module = runpy.run_path({str(HERE / 'series.py')!r}); "
        f"print(json.dumps(module['seal'](pathlib.Path({str(folder)!r}))))"
    )
    command = [str(python if python.exists() else Path(sys.executable)), "-c", code]
    said = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return answer


def main() -> None:
    from benchmarks.screening import write

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.series", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, required=True, help="holds a CT series")
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument(
        "--peer", type=Path, nargs="*", default=[], help="worktrees of older states"
    )
    parser.add_argument("--no-write", action="store_true", help="print only")
    a = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="medsec-slices-") as name:
        folder = Path(name)
        slices(a.folder, folder, a.slices)
        for root in (HERE.parent, *(peer.resolve() for peer in a.peer)):
            state = subprocess.run(
                ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],
                check=True, stdout=subprocess.PIPE, text=True,
            ).stdout.strip()  # fmt: skip
            found = run(root, folder)
            ends = ", ".join(f"{n} {what}" for what, n in found["states"].items())
            spent = ", ".join(f"{what} {ms:.0f}" for what, ms in found["stages_ms"].items())
            rows.append(
                f"| {state} | {found['whole_s']:.0f} | {found['a_second']:.2f}"
                f" | {found['processor_s'] / a.slices:.2f} | {ends} | {spent} |"
            )
            print(rows[-1], flush=True)
    section = "\n".join([
        HEADING, "",
        f"{datetime.now(UTC):%Y-%m-%d}, {a.slices} slices, {os.cpu_count()} processors, load"
        f" {os.getloadavg()[0]:.0f}.", "",
        "| state | whole, s | slices a second, all at work | processor seconds a slice | end"
        " | stages, ms a slice |",
        "|---|---|---|---|---|---|", *rows, "",
    ])  # fmt: skip
    if not a.no_write:
        write(HEADING, section)
    print(section)


if __name__ == "__main__":
    main()

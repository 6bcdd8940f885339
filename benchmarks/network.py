"""Receiving by C-STORE beside Orthanc's, on the same machine in the same run.

    python -m benchmarks.network [--images 200] [--rounds 3]

dcmtk's ``storescu`` sends the same CT-like images (512x512, 12 of 16 bit, distinct) over one
association, then over four at once, to MedSec and to an Orthanc of Debian in turn, each into an
empty folder, each round, after four images that are not counted. Orthanc has its own defaults.
MedSec answers when an image is decoded, encrypted, written and synced, and its row and log entry
are committed; what looks at drafts afterwards does not run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

import dimse
from engine import Engine, Settings
from tests import builders
from tests.conftest import Team
from tests.dimse.peers import free_port
from tests.fakes import ScriptedDetector

ASSOCIATIONS = (1, 4)
_FIRST = 4


def images(folder: Path, count: int) -> int:
    """Files that differ in every pixel; returns their bytes together."""
    rng = np.random.default_rng(7)
    base = builders.radiograph(512, 512, bits=12).astype(np.int32)
    for number in range(count):
        noisy = np.clip(base + rng.integers(-40, 40, base.shape), 0, 4095).astype(np.uint16)
        data = builders.dicom(noisy, bits=12, instance=number + 1, modality="CT")
        (folder / f"{number:05d}.dcm").write_bytes(data)
    return sum(path.stat().st_size for path in folder.iterdir())


@contextmanager
def medsec(folder: Path) -> Iterator[int]:
    settings = Settings(
        data=folder / "data",
        key_file=folder / "key" / "root.key",
        bcrypt_cost=4,
        dicom_port=free_port(),
    )
    engine = Engine.open(settings, detector=ScriptedDetector(settings))
    try:
        team = Team(engine)
        engine.patients.create(team.technician, "H-000001", "Jane Doe")
        engine.nodes.save(team.administrator, "BENCH", {"addresses": ["127.0.0.1"]})
        receiver = dimse.Receiver(engine)
        receiver.start()
        yield receiver.port
        receiver.stop()
    finally:
        engine.close()


@contextmanager
def orthanc(folder: Path) -> Iterator[int]:
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        sys.exit("Orthanc is not installed: the package orthanc of Debian has it.")
    http, dicom = free_port(), free_port()
    config = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "MEDSEC",
        "DicomAlwaysAllowStore": True,
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    command = [program, str(folder / "orthanc.json")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                try:
                    httpx.get(f"http://127.0.0.1:{http}/system").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.1)
            yield dicom
            kept = httpx.get(f"http://127.0.0.1:{http}/statistics").json()["CountInstances"]
            print(f"  Orthanc keeps {kept}")
        finally:
            process.terminate()


def send(paths: list[str], port: int, associations: int) -> float:
    """Seconds until every file is acknowledged."""
    lots = [paths[place::associations] for place in range(associations)]

    def one(lot: list[str]) -> None:
        call = ["storescu", "-aet", "BENCH", "-aec", "MEDSEC", "127.0.0.1", str(port)]
        done = subprocess.run([*call, *lot], capture_output=True, text=True, check=False)
        if done.returncode or "Refused" in done.stderr:
            sys.exit(f"storescu failed: {done.stderr[-500:]}")

    began = time.monotonic()
    with ThreadPoolExecutor(associations) as pool:
        list(pool.map(one, lots))
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    peers = {"MedSec": medsec, "Orthanc": orthanc}
    taken: dict[tuple[str, int], list[float]] = {}
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as top:
        files = Path(top) / "files"
        files.mkdir()
        size = images(files, chosen.images + _FIRST)
        paths = [str(path) for path in sorted(files.iterdir())]
        for number in range(chosen.rounds):
            for associations in ASSOCIATIONS:
                for name, start in peers.items():
                    folder = Path(top) / f"{name}-{associations}-{number}"
                    folder.mkdir()
                    with start(folder) as port:
                        send(paths[:_FIRST], port, 1)  # decoders and pages of the programs start
                        seconds = send(paths[_FIRST:], port, associations)
                    taken.setdefault((name, associations), []).append(seconds)
                    shutil.rmtree(folder)
                    print(f"  round {number + 1}, {associations} at once, {name}: {seconds:.2f} s")
    print(f"load after: {os.getloadavg()[0]:.1f}")
    print(f"{chosen.images} images, {size / 1e6:.0f} MB; medians of {chosen.rounds} rounds")
    for associations in ASSOCIATIONS:
        rates = {
            name: chosen.images / statistics.median(taken[name, associations]) for name in peers
        }
        ratio = rates["MedSec"] / rates["Orthanc"]
        said = ", ".join(f"{name} {rate:.1f} images/s" for name, rate in rates.items())
        print(f"{associations} at once: {said}; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()

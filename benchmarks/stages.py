"""What sealing and restoring an image costs, stage by stage, and what others take for less.

    python -m benchmarks.stages [--rounds 3] [--only RADIOGRAPH] [--presidio PYTHON]

Four images made in code: a CT slice of 512 x 512, a radiograph of 2048 x 2048, an ultrasound film
of 640 x 480 x 60, a photograph of 12 megapixels. Each is uploaded, sealed and restored through
the Engine with the real networks; medians over rounds with another image each. In the same run:

- the floor: the time in which networks or code readers ran, decoding by the plain library,
  AES-256-CBC with HMAC by bare OpenSSL, and one durable write of the file;
- peers: Presidio's DICOM redactor (``--presidio`` names the Python of an environment that has it,
  see ``presidio_peer.py``; the burned-in name is the header's, which it looks for), RapidOCR
  alone, ultralytics on PyTorch, one pass of a bare OpenVINO network of the same weights, and a PNG
  by Pillow.

Detection is the first look and the second. Reading text to tell names from side markers is part
of the upload ("read").
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image as Pillow

from benchmarks.detection import Stopwatch
from benchmarks.vault import Bare
from engine import Engine, Region, Settings
from engine.detect.networks import CpuModel
from engine.formats import images
from engine.formats.images import Limits
from engine.geometry import coverage
from engine.host import write_durably
from tests import builders

ROOT = Path(__file__).parent.parent
HEADER_NAME = "Nowak^Jan"
HIDDEN = "share of the burned-in name that is hidden"


@dataclass(frozen=True)
class Case:
    """A kind of image.

    Args:
        make: From a number a file and where the name is in it.
    """

    name: str
    kind: str
    make: Callable[[int], tuple[bytes, Region]]


def _ct(seed: int) -> tuple[bytes, Region]:
    pixels = builders.radiograph(512, 512, bits=12, seed=seed)
    name = builders.write_text(pixels, f"NOWAK JAN {seed}", (12, 24))
    return builders.dicom(pixels, bits=12, modality="CT", PatientName=HEADER_NAME), name


def _radiograph(seed: int) -> tuple[bytes, Region]:
    pixels = builders.radiograph(2048, 2048, bits=12, seed=seed)
    name = builders.write_text(pixels, f"NOWAK JAN {seed}", (40, 80), scale=2)
    return builders.dicom(pixels, bits=12, PatientName=HEADER_NAME), name


def _film(seed: int) -> tuple[bytes, Region]:
    frames = np.stack([builders.radiograph(640, 480, seed=seed * 100 + i) for i in range(60)])
    for frame in frames:
        name = builders.write_text(frame, f"NOWAK JAN {seed}", (12, 24))
    return builders.dicom(frames, modality="US", PatientName=HEADER_NAME), name


def _photograph(seed: int) -> tuple[bytes, Region]:
    pixels = builders.radiograph(4000, 3000, seed=seed, colour=True)
    name = builders.write_text(pixels, f"NOWAK JAN {seed}", (80, 160), scale=4)
    return builders.jpeg(pixels), name


CASES = (
    Case("CT 512 x 512", "dcm", _ct),
    Case("radiograph 2048 x 2048", "dcm", _radiograph),
    Case("film 640 x 480 x 60", "dcm", _film),
    Case("photograph 12 MP", "jpg", _photograph),
)


def ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000.0


def ours(engine: Engine, clock: Stopwatch, case: Case, rounds: int) -> dict[str, float]:
    """Stages and wholes of the product, medians."""
    token = engine.operator_token()
    patient = engine.patients.get(token, "P-1").patient_id
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        data, name = case.make(number + 1)
        clock.ms = 0.0
        began = time.perf_counter()
        image_id = engine.drafts.upload(token, patient, f"x.{case.kind}", data).image_id
        view = engine.drafts.open(token, image_id)
        opened = time.perf_counter()
        record = engine.drafts.seal(
            token, image_id, view.detections, confirm="benchmark", adopt=True
        )
        sealed = time.perf_counter()
        network = clock.ms
        engine.images.close(token, view.handle)
        restore = ms(partial(_restored, engine, token, image_id, data))
        if number == 0:  # loads the networks
            continue
        for stage, spent in record.times_ms.items():
            times[stage].append(spent)
        times["of these, inside networks"].append(network)
        times["end to end: upload, open, seal"].append((sealed - began) * 1000.0)
        times["seal alone"].append((sealed - opened) * 1000.0)
        times["restore to file"].append(restore)
        hidden = [r.detection.region.xyxy for r in engine.images.regions(token, image_id)]
        times[HIDDEN].append(coverage(name.xyxy, np.array(hidden).reshape(-1, 4)))
    return {name: statistics.median(each) for name, each in times.items()}


def _restored(engine: Engine, token: str, image_id: str, data: bytes) -> None:
    handle = engine.images.restore(token, image_id, "benchmark").handle
    file = engine.images.restored_file(token, handle)
    engine.images.close(token, handle)
    if file.data != data:
        raise SystemExit("another file came back")


def floor(data: bytes, kind: str, folder: Path) -> dict[str, float]:
    def decode() -> object:
        if kind == "dcm":
            return pydicom.dcmread(io.BytesIO(data)).pixel_array
        return np.asarray(Pillow.open(io.BytesIO(data)))

    bare, out = Bare(), bytes(len(data) + 16)
    bare.seal(data, out)
    number = iter(range(100))
    return {
        "floor: decode": statistics.median(ms(decode) for _ in range(3)),
        "floor: AES and HMAC": statistics.median(
            ms(lambda: bare.seal(data, out)) for _ in range(3)
        ),
        "floor: durable write": statistics.median(
            ms(lambda: write_durably(folder / f"{next(number)}", data)) for _ in range(3)
        ),
    }


def peers(
    case: Case, data: bytes, name: Region, presidio: str | None, folder: Path
) -> dict[str, float | str]:
    limits = Limits.of(Settings())
    image = images.decode("x", data, limits)
    frames = [images.render(image, i) for i in range(image.frames)]
    found: dict[str, float | str] = {}
    if case.kind == "dcm" and presidio:
        path = folder / "peer.dcm"
        path.write_bytes(data)
        done = subprocess.run(
            [presidio, str(ROOT / "benchmarks" / "presidio_peer.py"), str(path),
             *map(str, name.xyxy)],
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        if done.returncode == 0:
            spent, share = done.stdout.split()[-2:]
            found["Presidio, redacting"] = float(spent)
            found[f"Presidio: {HIDDEN}"] = float(share)
        else:
            found["Presidio, redacting"] = "failed on it"
    else:
        why = "takes no such file" if presidio else "not installed here"
        found["Presidio, redacting"] = why
    from rapidocr import RapidOCR

    reader = RapidOCR()
    reader(frames[0])
    found["RapidOCR alone, one frame"] = statistics.median(
        ms(lambda: reader(frames[0])) for _ in range(3)
    )
    from ultralytics import YOLO

    torch = YOLO(str(ROOT / "model" / "best.pt"))
    torch.predict(frames[0], device="cpu", verbose=False)
    found["YOLOv8n on PyTorch, one frame"] = statistics.median(
        ms(lambda: torch.predict(frames[0], device="cpu", verbose=False)) for _ in range(3)
    )
    bare = CpuModel((ROOT / "model" / "best.onnx").read_bytes(), 0)
    batch = np.zeros((1, 3, 640, 640), np.float32)
    bare(batch)
    found["YOLOv8n bare in OpenVINO, 640 px"] = statistics.median(
        ms(lambda: bare(batch)) for _ in range(5)
    )
    picture = Pillow.fromarray(frames[0])
    found["PNG by Pillow, one frame"] = statistics.median(
        ms(lambda: picture.save(io.BytesIO(), "PNG")) for _ in range(3)
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="images whose name has this in it")
    parser.add_argument("--presidio", help="Python of an environment with Presidio")
    options = parser.parse_args()
    clock = Stopwatch()
    tables: dict[str, dict[str, float | str]] = {}
    with tempfile.TemporaryDirectory(prefix="medsec-stages-") as temporary:
        folder = Path(temporary)
        settings = Settings(data=folder / "data", key_file=folder / "key")
        engine = Engine.open(settings, operator=True)
        engine.patients.create(engine.operator_token(), "P-1", "Jan Nowak")
        for case in (c for c in CASES if options.only in c.name):
            data, name = case.make(99)
            table: dict[str, float | str] = {"file, MB": len(data) / 1e6}
            table |= ours(engine, clock, case, options.rounds)
            table |= floor(data, case.kind, folder)
            table |= peers(case, data, name, options.presidio, folder)
            whole = float(table["end to end: upload, open, seal"])
            network = float(table["of these, inside networks"])
            least = network + sum(float(table[f"floor: {x}"]) for x in (
                "decode", "AES and HMAC", "durable write"
            ))  # fmt: skip
            table["end to end / floor"] = whole / least
            table["all but networks, share of the whole"] = 1 - network / whole
            looks = float(table["detect"]) + float(table["rescan"])
            table["all but detection, share of the whole"] = 1 - looks / whole
            if isinstance(table["Presidio, redacting"], float):
                table["Presidio / end to end"] = table["Presidio, redacting"] / whole
            tables[case.name] = table
            print(f"{case.name} measured: {table}", file=sys.stderr)
        engine.close()
    rows = list(dict.fromkeys(row for table in tables.values() for row in table))
    print("| ms | " + " | ".join(tables) + " |")
    print("|---" * (len(tables) + 1) + "|")
    for row in rows:
        cells = [table.get(row, "") for table in tables.values()]
        print(f"| {row} | " + " | ".join(_cell(c) for c in cells) + " |")
    return 0


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())

"""What the shipped profile finds, hides for nothing and costs, beside RapidOCR in the same run.

    python -m benchmarks.detection [--pages 36] [--images FOLDER --truth gt.json] [--no-write]

Looks at whole pictures from three sources:

- *real*: the files that ``model/real/gt.json`` names, out of the packages pydicom-data and
  deid-data, with every line labelled by looking. Never trained on; two thresholds for single
  letters were set after its misses had been looked at;
- *clean*: pictures without any text that scikit-image and pydicom carry: histology, retina,
  sections, textures. Thresholds were chosen with most of them in view, and three were backgrounds
  of the training: they tell of regressions, not of what to expect;
- *drawn*: pages of the test split of ``model.data``, whose fonts and layouts no training step saw,
  on invented backgrounds. Nothing was tuned on them;

and a folder of more pictures with its truth, where one is given. Covered is a line of which the
sealed boxes, with their padding, hide so much. *Bare* is the time in which a network or a code
reader ran, of the same looks: what remains is ours. RapidOCR, which carries the PP-OCR networks,
runs as it comes, with and without reading. All are warm, but sizes change from picture to picture.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.detect.barcodes import CodeReader
from engine.detect.detector import Detector, Profile
from engine.detect.networks import CpuModel
from engine.records import Detection, Region
from engine.settings import Settings
from model.data import whole_page
from model.evaluate import LEVELS, Look, Padding, Report, Seen, look_at, measure

HERE = Path(__file__).resolve().parent
TRUTH = HERE.parent / "model" / "real" / "gt.json"
RESULTS = HERE / "RESULTS.md"
HEADING = "## Detection (`benchmarks/detection.py`)"
#: Pictures in which a person found no text; the rest of what the packages carry has some.
CLEAN = {
    "skimage": (
        "retina.jpg", "ihc.png", "cell.png", "moon.png", "brick.png", "grass.png", "gravel.png",
        "coins.png", "chelsea.png", "coffee.png", "camera.png", "hubble_deep_field.jpg",
        "microaneurysms.png", "horse.png",
    ),
    "pydicom": ("J2K_pixelrep_mismatch.dcm", "JPEG-lossy.dcm", "liver_1frame.dcm", "CT_small.dcm"),
    "data_store": ("eCT_Supplemental.dcm", "OT-PAL-8-face.dcm"),
}  # fmt: skip


@dataclass
class Timed:
    """A detector, and for each picture how long it and the networks inside it took.

    Args:
        name: For the table.
        look: Finds boxes in a picture of shape (H, W, 3), uint8, RGB.
        bare_ms: Time within networks, per picture; empty where it was not taken.
    """

    name: str
    look: Look
    bare_ms: list[float] = field(default_factory=list)


class Stopwatch:
    """Time in which a network or a code reader ran, wherever called; at once counts once."""

    def __init__(self) -> None:
        self.ms = 0.0
        self._running = 0
        self._since = 0.0
        self._lock = threading.Lock()
        CpuModel.__call__ = self._timed(CpuModel.__call__)  # type: ignore[method-assign]
        CodeReader.look = self._timed(CodeReader.look)  # type: ignore[method-assign]

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            with self._lock:
                if not self._running:
                    self._since = time.perf_counter()
                self._running += 1
            try:
                return call(*arguments)
            finally:
                with self._lock:
                    self._running -= 1
                    if not self._running:
                        self.ms += (time.perf_counter() - self._since) * 1000

        return timed


def medsec(detector: Detector, profile: Profile, stopwatch: Stopwatch) -> Timed:
    """The shipped detector."""

    def look(picture: np.ndarray) -> list[Detection]:
        stopwatch.ms = 0.0
        found = detector.detect(lambda _: picture, 1, profile)
        made.bare_ms.append(stopwatch.ms)
        return found

    made = Timed(f"MedSec, profile {profile.name}", look)
    return made


def rapidocr(threads: int, reading: bool) -> Timed:
    """RapidOCR as it comes: PP-OCR by ONNX Runtime, boxes around its corners."""
    from rapidocr import RapidOCR

    engine = RapidOCR(
        params={
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads or -1,
        }
    )

    def look(picture: np.ndarray) -> list[Detection]:
        result = engine(picture[..., ::-1], use_det=True, use_cls=False, use_rec=reading)
        quads = getattr(result, "boxes", None)
        if quads is None:
            return []
        scores = getattr(result, "scores", None) if reading else None
        found = []
        for i, quad in enumerate(np.asarray(quads).reshape(-1, 4, 2)):
            height, width = picture.shape[:2]
            region = Region.around([*quad.min(axis=0), *quad.max(axis=0)], width, height)
            if region is not None:
                sure = 1.0 if scores is None else float(scores[i])
                found.append(Detection(region, "text", sure))
        return found

    return Timed("RapidOCR, finding and reading" if reading else "RapidOCR, finding alone", look)


def packaged_file(package: str, name: str) -> Path:
    """A data file of an installed package, wherever in it.

    Raises:
        SystemExit: It is not there.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(folder).rglob(name):
            return path
    raise SystemExit(
        f"{name} of the package {package} is missing: pip install -r requirements-dev.txt"
    )


def real_set(folder: Path) -> tuple[Path, Path]:
    """Labelled files of packages, linked into one folder: the folder and its truth."""
    folder.mkdir()
    for name in json.loads(TRUTH.read_text(encoding="utf-8")):
        source = None
        for package in ("data_store", "deid_data", "pydicom"):
            try:
                source = packaged_file(package, name)
                break
            except SystemExit:
                continue
        if source is None:
            source = packaged_file("data_store", name)
        (folder / name).symlink_to(source)
    return folder, TRUTH


def clean_set(folder: Path) -> tuple[Path, Path]:
    """Pictures without text: the folder and its truth."""
    folder.mkdir()
    truth: dict[str, list[Any]] = {}
    for package, names in CLEAN.items():
        for name in names:
            (folder / name).symlink_to(packaged_file(package, name))
            truth[name] = []
    target = folder.with_suffix(".json")
    target.write_text(json.dumps(truth))
    return folder, target


def drawn_set(folder: Path, pages: int, seed: int) -> tuple[Path, Path]:
    """Pages of the test split on invented backgrounds: the folder and its truth."""
    folder.mkdir()
    truth = {}
    for number in range(pages):
        page = whole_page(seed, number, "test", [])
        cv2.imwrite(str(folder / page.name), page.pixels[..., ::-1])
        truth[page.name] = page.truth
    target = folder.with_suffix(".json")
    target.write_text(json.dumps(truth))
    return folder, target


def rows(name: str, report: Report, seen: Sequence[Seen]) -> list[str]:
    """Cells of one line of the table: coverage, false masks; times are told apart."""
    put = report.figures

    def levels(what: str) -> str:
        found = [put.get(f"{what}: covered to {level:.0%}", math.nan) for level in LEVELS]
        return " / ".join("-" if math.isnan(v) else f"{v:.3f}" for v in found)

    free = f"{put['text-free pictures with a text mask']:.0f} of {put['text-free pictures']:.0f}"
    return [
        name,
        levels("text"),
        levels("patient data"),
        free,
        f"{put['falsely masked area, mean share']:.2%}",
        f"{np.median([p.milliseconds for p in seen]):.0f}",
    ]


def compare(
    title: str, folder: Path, truth: Path, contenders: Sequence[Timed], padding: Padding
) -> str:
    """A table for one source of pictures."""
    table = []
    times = {}
    for contender in contenders:
        contender.bare_ms.clear()
        seen = look_at(folder, truth, contender.look)
        report = measure(seen, 0.25, padding)
        table.append(rows(contender.name, report, seen))
        times[contender.name] = sum(p.milliseconds for p in seen)
        print(" | ".join(table[-1]), flush=True)
    ours, alone = contenders[0], contenders[1]
    lines, named = (report.figures.get(f"{k}: true boxes", 0) for k in ("text", "patient data"))
    text = [
        f"**{title}**: {len(seen)} pictures, {lines:.0f} lines, {named:.0f} of them patient data.",
        "",
        "| | lines covered to 50 / 80 / 95 % | patient data | text-free pictures masked"
        " | masked for nothing | ms, median |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        f"Time of ours over its bare networks: {times[ours.name] / sum(ours.bare_ms):.2f}"
        f" (wanted: 1.25); over RapidOCR, finding alone:"
        f" {times[ours.name] / times[alone.name]:.2f}.",
        "",
    ]
    return "\n".join(text)


def write_section(section: str) -> None:
    """Put the section into RESULTS.md, in place of an earlier one."""
    text = RESULTS.read_text(encoding="utf-8")
    start = text.find(HEADING)
    if start < 0:
        text = text.rstrip("\n") + "\n\n" + section
    else:
        end = text.find("\n## ", start + 1)
        text = text[:start] + section + ("" if end < 0 else text[end:])
    RESULTS.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detection", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--pages", type=int, default=36, help="drawn pages")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--images", type=Path, default=None, help="more pictures")
    parser.add_argument("--truth", type=Path, default=None, help="what is in them")
    parser.add_argument("--no-write", action="store_true", help="print only")
    a = parser.parse_args()
    if (a.images is None) != (a.truth is None):
        raise SystemExit("Give --images together with --truth.")
    settings = Settings.load(os.environ)
    # In this process, whose time outside the networks is measured.
    detector = Detector(settings, Detector.open(settings).profiles)
    profile = detector.profiles[settings.profile]
    padding = Padding(settings.padding, settings.padding_min_px)
    contenders = [
        medsec(detector, profile, Stopwatch()),
        rapidocr(settings.threads, reading=False),
        rapidocr(settings.threads, reading=True),
    ]
    for contender in contenders:
        contender.look(np.full((768, 1024, 3), 90, np.uint8))
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        sources = [
            ("Real pictures", real_set(room / "real")),
            ("Pictures without text", clean_set(room / "clean")),
            ("Drawn pages", drawn_set(room / "drawn", a.pages, a.seed)),
        ]
        if a.images is not None:
            sources.append(("The folder given", (a.images, a.truth)))
        parts = [compare(title, *source, contenders, padding) for title, source in sources]
    intro = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} processors, load"
        f" {os.getloadavg()[0]:.0f}; all boxes padded alike. Ratios are of the same run.\n"
    )
    section = "\n".join([HEADING, "", intro, *parts])
    print(section)
    if not a.no_write:
        write_section(section)


if __name__ == "__main__":
    main()

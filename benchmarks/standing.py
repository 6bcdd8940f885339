"""Names that stand in all slices of a series: one slice alone, and all laid over one another.

    python -m benchmarks.standing [--folder FOLDER ...] [--repeats 3]

A folder holds the DICOM files of one series; without one, slices are drawn. Between its slices
others are drawn by interpolation, so that there are 32, and each gets noise of its own. Then a line
is written in the same place of all, fainter and plainer. Counted are lines of which what is sealed
hides 80 %: by looks at three slices alone, and by the look at their mean. Where nothing is written,
what stands would be sealed for nothing on every slice.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pydicom

from engine import Settings
from engine.detection import Detector
from engine.formats import images
from engine.formats.views import views_of
from engine.records import Detection, Region
from model import invented

HEADING = "## Standing text (`benchmarks/standing.py`)"
SLICES, ALONE = 32, (3, 15, 28)
NOISE = (4, 10, 20)  # grey levels, standard deviation
CONTRAST = (0, 10, 20, 30)  # grey levels of the line's strokes
LINES = ("KOWALSKI JAN", "Nowak Anna 1954-03-02", "ID 4471203", "M 12.05.1961", "SMITH^JOHN")


def drawn(seed: int) -> list[np.ndarray]:
    """Slices with the look of anatomy, each of shape (512, 512), uint8."""
    r, g = Random(seed), np.random.default_rng(seed)
    return [invented.slice_(r, g, 512, 512)[..., 0].copy() for _ in range(5)]


def stored(folder: Path, settings: Settings) -> list[np.ndarray]:
    """Slices of a series as they are shown first, all of one size, in order."""
    numbered = []
    for path in sorted(folder.glob("*.dcm")):
        place = pydicom.dcmread(path, stop_before_pixels=True).get("InstanceNumber") or 0
        image = images.decode("", path.read_bytes(), images.Limits.of(settings))
        numbered.append((int(place), path.name, views_of(image)[0].picture(0)[..., 0].copy()))
    return [picture for _, _, picture in sorted(numbered, key=lambda one: one[:2])]


def between(slices: Sequence[np.ndarray]) -> list[np.ndarray]:
    """``SLICES`` slices, interpolated: shape (H, W), float32."""
    more = []
    for at in np.linspace(0, len(slices) - 1, SLICES):
        i = min(int(at), len(slices) - 2)
        low, high = slices[i].astype(np.float32), slices[i + 1].astype(np.float32)
        more.append(low + (at - i) * (high - low))
    return more


def line(g: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, Region]:
    """Strokes of a line, 0 to 1, and its box."""
    text, size = LINES[g.integers(len(LINES))], float(g.uniform(0.4, 0.8))
    written = np.zeros(shape, np.uint8)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x = int(g.integers(2, shape[1] - width - 2))
    y = int(g.integers(height + 2, shape[0] - height))
    cv2.putText(written, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
    x1, y1, w, h = cv2.boundingRect(written)
    return written / np.float32(255), Region(x1, y1, x1 + w, y1 + h)


def main() -> None:
    from benchmarks.screening import write

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.standing", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, nargs="*", default=[], help="hold a series each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-write", action="store_true", help="print only")
    a = parser.parse_args()
    settings = Settings()
    detector = Detector.open(settings)
    profile = detector.profiles["general"]

    def hides(found: Sequence[Detection], box: Region) -> bool:
        masks = [d.region.padded(0.04, 4) for d in found if d.label == "text" and profile.seals(d)]
        return box.hidden_share(masks) >= 0.8

    g = np.random.default_rng(7)
    series = [stored(folder, settings) for folder in a.folder] or [drawn(seed) for seed in (1, 2)]
    rows, spent = [], {"alone": 0.0, "together": 0.0}
    looks = 0
    for noise in NOISE:
        for contrast in CONTRAST:
            lines, alone, together, stands = 0, 0, 0, 0
            for slices in series:
                clean = between(slices)
                for _ in range(a.repeats):
                    strokes, box = line(g, clean[0].shape)
                    pictures = [
                        np.clip(p + contrast * strokes + g.normal(0, noise, p.shape), 0, 255)
                        .astype(np.uint8)
                        for p in clean
                    ]  # fmt: skip
                    began = time.perf_counter()
                    standing = detector.standing(pictures, profile, scene=False)
                    spent["together"] += time.perf_counter() - began
                    stands += len(standing)
                    together += hides([one.detection for one in standing], box)
                    began = time.perf_counter()
                    for i in ALONE:
                        shown = np.ascontiguousarray(np.repeat(pictures[i][..., None], 3, 2))
                        found = detector.detect(
                            lambda _, shown=shown: shown, 1, profile, scene=False
                        )
                        alone += hides(found, box)
                    spent["alone"] += time.perf_counter() - began
                    lines += 1
                    looks += len(ALONE)
            if contrast:
                hidden = f"{alone / len(ALONE):.1f} | {together}"
                rows.append(f"| {noise} | {contrast} | {lines} | {hidden} | - |")
            else:
                rows.append(f"| {noise} | none | {lines} | - | - | {stands} |")
            print(rows[-1], flush=True)
    what = "series that were given" if a.folder else "drawn series"
    once = spent["together"] / (looks / len(ALONE))
    section = "\n".join([
        HEADING, "",
        f"{datetime.now(UTC):%Y-%m-%d}, {len(series)} {what}, {SLICES} slices each,"
        f" {a.repeats} lines in each case. Once for a series it takes"
        f" {once / (spent['alone'] / looks):.1f} times a look at one slice, and the decoding of the"
        " slices.", "",
        "| noise, grey levels | contrast | lines | hidden: one slice alone | all together"
        " | stands where nothing is written |",
        "|---|---|---|---|---|---|", *rows, "",
    ])  # fmt: skip
    if not a.no_write:
        write(HEADING, section)
    print(section)


if __name__ == "__main__":
    main()

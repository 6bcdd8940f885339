"""Signatures and tattoos: how much of them is hidden, and what is hidden for nothing.

    python -m benchmarks.marks [--images DATA/images]

Signatures are drawn: a pen's path in loops and flourishes, without letters, on invented paper and
forms whose layout and fonts no network learned from. Tattoos are those of a folder with
``gt.json``, ``coverage.json`` and ``manifest.json`` beside it. Signatures are looked for under the
profile ``general``, where they are found as text; tattoos under ``dermatology``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import cv2
import numpy as np

from benchmarks.screening import write
from engine.detection import Detector, Profile
from engine.geometry import CORNERS
from engine.records import Detection, Region
from engine.settings import Settings
from model.backgrounds import read_picture
from model.invented import paper
from model.layouts import overlay
from model.phrases import Phrases
from model.tattoos import CLASS, reals
from model.writing import Page, split_of

HEADING = "## Signatures and tattoos (`benchmarks/marks.py`)"
INKS = ((20, 20, 30), (20, 40, 130), (30, 30, 90), (60, 60, 60))
GROWN = (0.04, 4)  # share and px, as profiles pad what is found


def pen(r: Random, width: int, height: int) -> np.ndarray:
    """The path of a pen that signs: points in px, shape (N, 2), in a box of this size."""
    points, x = [], 0.0
    for _ in range(r.randint(5, 12)):
        high = r.uniform(0.2, 1.0) if r.random() < 0.35 else r.uniform(0.1, 0.4)
        points += [
            (x, 0.5 + r.uniform(-0.08, 0.08)),
            (x + r.uniform(0.02, 0.06), 0.5 - high / 2),
            (x - r.uniform(0, 0.03), 0.5 + r.uniform(0, 0.4) * high),
        ]
        x += r.uniform(0.05, 0.13)
    if r.random() < 0.6:  # a flourish below
        points += [
            (x + 0.2, 0.5 + r.uniform(-0.2, 0.3)),
            (r.uniform(0, 0.3), 0.7 + r.uniform(-0.1, 0.3)),
            (x + 0.3, 0.75 + r.uniform(-0.1, 0.2)),
        ]
    p = np.array(points)
    p = (p - p.min(axis=0)) / np.ptp(p, axis=0) * (width - 1, height - 1)
    p = np.vstack([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, 16, endpoint=False)[:, None]
    parts = []  # Catmull-Rom splines
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        bend = (2 * a - 5 * b + 4 * c - d) * t**2 + (-a + 3 * b - 3 * c + d) * t**3
        parts.append(0.5 * (2 * b + (c - a) * t + bend))
    return np.vstack(parts)


def signed(number: int) -> tuple[np.ndarray, Region]:
    """A form with a signature, RGB, and where that is."""
    r, g = Random(f"signature {number}"), np.random.default_rng(number)
    page = Page(paper(r, g, r.randint(500, 900), r.randint(600, 1000)), r, Phrases(r), "test")
    overlay(page, "paper")
    w = r.randint(90, 320)
    h = round(w * r.uniform(0.18, 0.45))
    while True:
        x, y = r.randint(10, page.width - w - 10), r.randint(10, page.height - h - 10)
        if not page.taken(x - 4, y - 4, x + w + 4, y + h + 4):
            break
    path = pen(r, w, h) + np.array((x, y))
    curve = np.round(path * 8).astype(np.int32)
    cv2.polylines(
        page.pixels, [curve], False, r.choice(INKS), r.choice((1, 2, 2, 3)), cv2.LINE_AA, 3
    )
    (x1, y1), (x2, y2) = np.floor(path.min(axis=0)), np.ceil(path.max(axis=0)) + 1
    inside = Region(int(x1), int(y1), int(x2), int(y2)).clipped(page.width, page.height)
    assert inside is not None
    return page.pixels, inside


class Looker:
    """One profile, looking at pictures."""

    def __init__(self, detector: Detector, profile: Profile) -> None:
        self._detector, self._profile = detector, profile

    def sealed(self, pixels: np.ndarray) -> list[Detection]:
        found = self._detector.detect(lambda _: pixels, 1, self._profile)
        return [d for d in found if self._profile.seals(d)]


def hidden(region: Region, found: Sequence[Detection]) -> float:
    """What share of a region the padded boxes hide."""
    return region.hidden_share([d.region.padded(*GROWN) for d in found])


def row(what: str, shares: Sequence[float]) -> str:
    half, most = (sum(share >= least for share in shares) for least in (0.5, 0.8))
    return f"| {what} | {len(shares)} | {half} | {most} |"


def tattooed(images: Path) -> Iterator[tuple[np.ndarray, str, list[tuple[Region, bool]]]]:
    """Pictures with tattoos, with their patient, and each tattoo with whether it is lettering."""
    truth, manifest = (
        json.loads((images.parent / name).read_text(encoding="utf-8"))
        for name in ("gt.json", "manifest.json")
    )
    for name in sorted(truth):
        mine = [
            (Region(*(int(box[side]) for side in CORNERS)), bool(box.get("lettering")))
            for box in truth[name]
            if box["class"] == CLASS
        ]
        if mine:
            yield _picture(images / name), str(manifest[name]["patient"]), mine


def _picture(path: Path) -> np.ndarray:
    return np.ascontiguousarray(read_picture(path)[..., ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.marks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--images", type=Path, help="folder of labelled pictures")
    parser.add_argument("--signatures", type=int, default=40)
    parser.add_argument("--every", type=int, default=12, help="of pictures that show no skin")
    parser.add_argument("--no-write", action="store_true", help="print only")
    a = parser.parse_args()
    settings = Settings(threads=1, device="cpu")
    detector = Detector(settings, Detector.open(settings).profiles)
    general, skin = (Looker(detector, detector.profiles[n]) for n in ("general", "dermatology"))
    shares = []
    for number in range(a.signatures):
        pixels, region = signed(number)
        shares.append(hidden(region, general.sealed(pixels)))
    rows = [row("signatures, drawn; `general`", shares)]
    beside = ""
    if a.images:
        tattoos = [
            (hidden(region, skin.sealed(pixels)), lettering, split_of(patient) != "train")
            for pixels, patient, boxes in tattooed(a.images)
            for region, lettering in boxes
        ]
        rows += [
            row("tattoos, drawn; `dermatology`", [share for share, _, _ in tattoos]),
            row("of them shapes, no lettering", [s for s, letters, _ in tattoos if not letters]),
            row("of them on skin of which nothing was learnt", [s for s, _, new in tattoos if new]),
        ]
        said = []
        every = reals(a.images)
        for kind, some in (
            ("of skin", [p for p in every if p.modality == "XC"]),
            ("portraits", [p for p in every if p.modality == "photo"]),
            ("others", [p for p in every if p.modality not in ("XC", "photo")][:: a.every]),
        ):
            boxed = [
                p for p in some if any(d.label == CLASS for d in skin.sealed(_picture(p.path)))
            ]
            new, all_new = (
                sum(split_of(p.source) != "train" for p in part) for part in (boxed, some)
            )
            said.append(f"{kind} {len(boxed)} of {len(some)} ({new} of {all_new} new)")
        beside = (
            f"Pictures without a tattoo in which one is sealed: {', '.join(said)}; *new*: nothing"
            " was learnt from their patient. The thresholds were chosen on these pictures."
            " Lettering may be hidden as text, too."
        )
    section = "\n".join([
        HEADING, "",
        f"{datetime.now(UTC):%Y-%m-%d}; load {os.getloadavg()[0]:.0f}. Hidden: by the padded boxes"
        " of what is sealed without asking.", "",
        "| | how many | hidden to 50 % | to 80 % |", "|---|---|---|---|", *rows, "", beside, "",
    ])  # fmt: skip
    print(section)
    if not a.no_write:
        write(HEADING, section)


if __name__ == "__main__":
    main()

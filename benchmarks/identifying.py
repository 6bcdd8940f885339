"""Does text that names somebody ever pass for harmless?

    python benchmarks/identifying.py [--lines 2000] [--images DIR] [--seed 7]

Draws invented lines onto pictures (those of DIR, or made in code), in the fonts that are
installed, from 7 px on, faint, outlined, turned, blurred and JPEG-damaged, and has them judged
with nothing known of the patient, which is the harder case. Half the boxes are the line's own,
grown by a few pixels as a detector does; every third box of a line that names somebody holds only
a part of it, as when a detector cuts a line off.

*Identifying* are names, numbers, dates, times, sex and age, institutions, addresses and
sentences. One of them called harmless is a leak. *Harmless* are markers and technique factors
that the closed list spells out; how many of them are told as such is what the profile's
option is worth.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from engine.detect.text import TextFinder, TextReader
from engine.detect.text_verdict import Judge, Known, judge_words
from engine.records import Region, TextVerdict
from engine.settings import Settings
from model import invented
from model.phrases import Phrases
from model.writing import Page

NOBODY = Known(())
SCENES = (
    invented.film, invented.ultrasound, invented.slice_, invented.breast, invented.paper,
    invented.screen, invented.skin,
)  # fmt: skip


def backgrounds(folder: Path | None, r: Random, g: np.random.Generator, count: int) -> list:
    """Pictures to write on, each of shape (H, W, 3), uint8, RGB."""
    made = [r.choice(SCENES)(r, g, 480, 640) for _ in range(count)]
    if folder is not None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg"))
        for path in r.sample(paths, min(count, len(paths))):
            picture = cv2.imread(str(path))
            if picture is not None and min(picture.shape[:2]) >= 200:
                scale = 640 / max(picture.shape[:2])
                made.append(cv2.resize(picture, None, fx=scale, fy=scale)[..., ::-1].copy())
    return made


def line_of(p: Phrases, r: Random, naming: bool) -> tuple[str, str]:
    """A kind of text, and one of it."""
    if naming:
        makers = (p.name, p.number, p.date, p.time, p.person, p.institution, p.address, p.sentence)
        make = r.choices(makers, (5, 3, 3, 1, 2, 2, 1, 1))[0]
    else:
        make = r.choice((p.marker, p.marker, p.technique, p.ultrasound))
    return make.__name__, make()


def damaged(r: Random, picture: np.ndarray) -> np.ndarray:
    if r.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), r.uniform(0.4, 1.1))
    if r.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, r.randint(25, 90)]
        picture = cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR)
    return picture


def found(r: Random, box: tuple[int, ...], naming: bool, shape: tuple[int, ...]) -> Region:
    """The box as a detector might give it."""
    x1, y1, x2, y2 = box
    if naming and r.random() < 0.33 and x2 - x1 > 2 * (y2 - y1):
        keep = max(y2 - y1, round((x2 - x1) * r.uniform(0.1, 0.7)))
        x1, x2 = r.choice(((x1, x1 + keep), (x2 - keep, x2)))
    grow = r.randint(0, 3)
    return Region(
        max(0, x1 - grow), max(0, y1 - grow), min(shape[1], x2 + grow), min(shape[0], y2 + grow)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=7)
    a = parser.parse_args()
    r, g = Random(a.seed), np.random.default_rng(a.seed)
    phrases = Phrases(r)
    settings = Settings(threads=2)
    judge = Judge(TextFinder(settings), TextReader(settings))
    pictures = backgrounds(a.images, r, g, 40)
    counts: dict[tuple[str, bool], Counter] = {}
    leaks, spent, judged = [], 0.0, 0
    while judged < a.lines:
        naming = r.random() < 0.6
        page = Page(r.choice(pictures).copy(), r, phrases, "train")
        kind, text = line_of(phrases, r, naming)
        hand = page.hand(low=7.0, high=r.choice((14.0, 24.0, 48.0)), script="la")
        turn = r.choice((0, 0, 0, 0, 90, 270, r.uniform(-3, 3)))
        box = page.line(text, r.uniform(0, 400), r.uniform(10, 440), hand, turn=turn)
        if box is None:
            continue
        picture = np.ascontiguousarray(damaged(r, page.pixels))
        region = found(r, box, naming, picture.shape)
        start = time.perf_counter()
        [judgement] = judge.judge(picture, [region], NOBODY)
        spent += time.perf_counter() - start
        judged += 1
        listed = judge_words(text, NOBODY) is TextVerdict.HARMLESS
        counts.setdefault((kind, listed), Counter())[str(judgement.verdict)] += 1
        if judgement.verdict is TextVerdict.HARMLESS and naming and not listed:
            leaks.append(text)
    print(f"{'kind':12s} {'on the list':12s} {'lines':>6s} {'harmless':>9s} {'identifying':>12s}")
    for (kind, listed), c in sorted(counts.items()):
        print(
            f"{kind:12s} {'yes' if listed else 'no':12s} {c.total():6d} {c['harmless']:9d}"
            f" {c['identifying']:12d}"
        )
    harmless = sum(c["harmless"] for (_, listed), c in counts.items() if listed)
    of = sum(c.total() for (_, listed), c in counts.items() if listed)
    off = sum(c["harmless"] for (_, listed), c in counts.items() if not listed)
    print(f"harmless lines told as such: {harmless} of {of} ({harmless / max(1, of):.2f})")
    print(f"not on the list, called harmless: {off} of {judged - of}")
    print(f"naming somebody, called harmless: {len(leaks)} {leaks[:20]}")
    print(f"{1000 * spent / judged:.0f} ms a line")


if __name__ == "__main__":
    main()

"""What a second look at the whole masked picture finds, and what one at all that changed does.

    python -m benchmarks.second_look [--images FOLDER ...] [--most 60] [--pages 120] [--unseen]

Pictures of labelled folders (``gt.json``, ``coverage.json`` and ``manifest.json`` beside them) and
drawn pages of fonts that no network learned from are looked at under the profile ``general`` and
masked where something was found, proposals too. Then they are looked at twice more: all of it, as
where nobody knows what the first look saw, and only what is not as the first look saw it. A box
is *text* where it covers half of a labelled line of which the masks hide less than 80 %, else it
lies on nothing. Time is that of the processor.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.screening import HIDDEN, known, unseen, write
from engine.detection import Detector, Profile
from engine.geometry import CORNERS, line_steps
from engine.records import Detection, Region
from engine.settings import Settings
from model.backgrounds import read_picture
from model.data import whole_page

HEADING = "## Second look (`benchmarks/second_look.py`)"
GROWN = (0.04, 4)  # share and px, as the profile pads what is found
SEED = 20261201


@dataclass
class Tally:
    """What the looks gave over a set of pictures.

    Args:
        spent_s: Of the processor, for the first look, the whole second one and the near one.
        found: By look and by what lies there.
        alone: What one of the second looks found and the other did not.
    """

    pictures: int = 0
    lines: int = 0
    stopped: Counter[str] = field(default_factory=Counter)
    spent_s: Counter[str] = field(default_factory=Counter)
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    alone: Counter[tuple[str, str]] = field(default_factory=Counter)


def masks(found: Sequence[Detection], width: int, height: int) -> list[Region]:
    """What is masked where all that was found is sealed."""
    grown = (
        d.region.padded(*GROWN)
        .aligned(line_steps(d.region) if d.label == "text" else (1, 1))
        .clipped(width, height)
        for d in found
    )
    return [region for region in grown if region is not None]


def on(box: Detection, lines: Sequence[Region], hidden: Sequence[Region]) -> str:
    """What a box of a second look lies on."""
    if box.label != "text":
        return box.label
    open_lines = [line for line in lines if line.hidden_share(hidden) < HIDDEN]
    hits = any(line.hidden_share([box.region.padded(*GROWN)]) >= 0.5 for line in open_lines)
    return "text" if hits else "nothing"


class Looker:
    """One profile, looking at pictures, with the time that each look takes."""

    def __init__(self, detector: Detector, profile: Profile) -> None:
        self._detector, self._profile = detector, profile

    def add(self, tally: Tally, pixels: np.ndarray, lines: Sequence[Region]) -> None:
        height, width = pixels.shape[:2]
        start = time.process_time()
        found = self._detector.detect(lambda _: pixels, 1, self._profile)
        tally.spent_s["first"] += time.process_time() - start
        hidden = masks(found, width, height)
        masked = pixels.copy()
        for region in hidden:
            masked[region.slices[1:]] = 128
        again: dict[str, list[Detection]] = {}
        for name, seen in (("whole", None), ("near", lambda _: pixels)):
            start = time.process_time()
            again[name] = self._detector.rescan(
                lambda _: masked, 1, hidden, self._profile, seen=seen
            )
            tally.spent_s[name] += time.process_time() - start
            tally.stopped[name] += bool(again[name])
            for box in again[name]:
                tally.found[name, on(box, lines, hidden)] += 1
        for name, other in (("whole", "near"), ("near", "whole")):
            boxes = [d.region.padded(*GROWN) for d in again[other]]
            for box in again[name]:
                if box.region.hidden_share(boxes) < 0.5:
                    what = on(box, lines, hidden)
                    tally.alone[name, what] += 1
                    print(f"  {name} alone: {what} {box.confidence:.2f} {box.region.xyxy}")
        tally.pictures += 1
        tally.lines += len(lines)


def drawn(pages: int) -> Iterator[tuple[str, np.ndarray, list[Region]]]:
    for number in range(pages):
        page = whole_page(SEED, number, "test", [])
        lines = [_region(row) for row in page.truth if row["class"] == "text"]
        yield page.name, np.ascontiguousarray(page.pixels), lines


def labelled(folder: Path, most: int, only: bool) -> Iterator[tuple[str, np.ndarray, list[Region]]]:
    """Pictures of a folder whose text is known, spread over it."""
    truth = known(folder)
    names = sorted(set(truth) & unseen(folder) if only else truth)
    step = max(1, -(-len(names) // most))
    for name in names[::step]:
        pixels = np.ascontiguousarray(read_picture(folder / name)[..., ::-1])
        yield name, pixels, [line for line, _ in truth[name].lines]


def _region(row: dict[str, Any]) -> Region:
    return Region(*(int(row[side]) for side in CORNERS))


def rows(name: str, t: Tally) -> list[str]:
    def cells(which: str) -> str:
        boxes = {what: n for (look, what), n in t.found.items() if look == which}
        text, nothing = boxes.pop("text", 0), boxes.pop("nothing", 0)
        return (
            f"{t.spent_s[which] / t.spent_s['first']:.2f} | {text}"
            f" | {t.alone[which, 'text']} | {nothing} | {sum(boxes.values())}"
            f" | {t.stopped[which]} of {t.pictures}"
        )

    what = f"{name}: {t.pictures} pictures, {t.lines} lines"
    return [f"| {what} | {which} | {cells(which)} |" for which in ("whole", "near")]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.second_look", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="labelled folders")
    parser.add_argument("--most", type=int, default=60, help="pictures of each folder")
    parser.add_argument("--pages", type=int, default=120, help="drawn pages")
    parser.add_argument("--unseen", action="store_true", help="only what nothing learned from")
    parser.add_argument("--no-write", action="store_true", help="print only")
    a = parser.parse_args()
    detector = Detector.open(Settings(threads=1, device="cpu"))
    # In this process, whose processor time is taken.
    looker = Looker(Detector(Settings(threads=1, device="cpu"), detector.profiles),
                    detector.profiles["general"])  # fmt: skip
    looker.add(Tally(), np.full((480, 640, 3), 90, np.uint8), [])  # loads the networks
    sets = [(f"folder {i}", labelled(f, a.most, a.unseen)) for i, f in enumerate(a.images, 1)]
    sets.append(("drawn pages", drawn(a.pages)))
    table = []
    for name, pictures in sets:
        tally = Tally()
        for shown, pixels, lines in pictures:
            print(shown, flush=True)
            looker.add(tally, pixels, lines)
        if tally.pictures:
            table += rows(name, tally)
            print("\n".join(table), flush=True)
    if not table:
        raise SystemExit("There are no pictures.")
    section = "\n".join([
        HEADING, "",
        f"{datetime.now(UTC):%Y-%m-%d}, one processor of {os.cpu_count()}, load"
        f" {os.getloadavg()[0]:.0f}.", "",
        "| set | second look | time, of the first look's | text found | that the other does not"
        " | boxes on nothing | other classes | pictures stopped |",
        "|---|---|---|---|---|---|---|---|", *table, "",
    ])  # fmt: skip
    if not a.no_write:
        write(HEADING, section)
    print(section)


if __name__ == "__main__":
    main()

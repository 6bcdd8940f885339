"""What a department feels of the detector, beside an older state in the same run.

    git worktree add --detach ../before 5dc9777
    make -C ../before .venv/.installed
    python -m benchmarks.goals --peer ../before --images FOLDER ... [--unseen] [--teeth FOLDER]

Each picture is looked at, masked, and looked at again, by either state in a process of its own on
one processor, both at the same time. Folders have ``gt.json``, ``coverage.json`` and
``manifest.json`` beside them; a class counts only in pictures of which it is labelled completely,
but for codes, which count wherever one is labelled.
``--teeth`` is what ``python -m dentdeid.cli synth -o FOLDER -n 60 --seed 2026`` wrote (MIT; no
network has learned from it). Profile ``general``, and ``dermatology`` for pictures with a tattoo.

*Hidden* is by the padded boxes of what is sealed without asking. A picture *stops* where a person
is asked about proposals: in the older state for any, in this one where they are not small doubt
beside something certain. *Again* is one that the second look would stop. *For nothing* is the
masked share of a picture outside of all that is labelled in it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.screening import HERE, SEALED, answers, by_hash, region, unseen, write
from engine.geometry import union_area_px
from engine.records import Region

HEADING = "## Goals (`benchmarks/goals.py`)"
CLASSES = ("text", "face", "barcode", "signature", "handwriting", "stamp", "tattoo")
STATES = ("before", "now")
LEVELS = (0.5, 0.8)


@dataclass(frozen=True)
class Labelled:
    """A picture with what is known of it.

    Args:
        boxes: Class, place, and whether it names somebody.
        free: It shows nothing that is to be sealed, and that is certain.
        group: How hard it is, where that is known.
    """

    path: Path
    boxes: tuple[tuple[str, Region, bool], ...]
    free: bool
    group: str = ""


def of_folder(folder: Path) -> list[Labelled]:
    """The pictures of a folder, in an order by hash."""
    truth, coverage = (
        json.loads((folder.parent / name).read_text()) for name in ("gt.json", "coverage.json")
    )
    found = []
    for path in by_hash(folder):
        rows, covered = truth.get(path.name, []), coverage.get(path.name, [])
        boxes = tuple(
            (row["class"], region(row), bool(row.get("phi")))
            for row in rows
            if row["class"] in covered or row["class"] == "barcode"
        )
        free = not rows and {"text", "face", "barcode"} <= set(covered)
        found.append(Labelled(path, boxes, free))
    return found


def of_teeth(folder: Path) -> list[Labelled]:
    """Pages of ``dentdeid``, by how hard they are."""
    found = []
    for path in sorted((folder / "answer_keys").glob("c*.json")):
        key = json.loads(path.read_text(encoding="utf-8"))
        boxes = tuple(
            ("text", Region(*(round(v) for v in line["bbox"])), bool(line["phi"]))
            for line in key["burned_in"]
        )
        found.append(Labelled(folder / key["raster"], boxes, False, key["difficulty"]))
    return found


@dataclass(frozen=True)
class Seen:
    """What one state says of a labelled picture."""

    picture: Labelled
    answer: dict[str, Any]

    def _rows(self, certain: bool) -> list[list[Any]]:
        return [row for row in self.answer["boxes"] if (row[7] >= SEALED) == certain]

    def _masks(self, certain: bool) -> list[Region]:
        height, width = self.answer["size"]
        padded = (Region(*row[:6]).padded(0.04, 4) for row in self._rows(certain))
        return [mask for r in padded if (mask := r.clipped(width, height)) is not None]

    @property
    def sealed(self) -> bool:
        return bool(self._rows(True))

    @property
    def boxed(self) -> bool:
        return bool(self.answer["boxes"])

    @property
    def stops(self) -> bool:
        """Is a person asked about proposals?"""
        doubted = self._masks(False)
        height, width = self.answer["size"]
        most = self.answer["small_doubt"] * height * width
        small = self.sealed and most and union_area_px([m.xyxy for m in doubted]) <= most
        return bool(doubted) and not small

    @property
    def again(self) -> bool:
        """Would it leave, if the second look did not stop it?"""
        return self.boxed and not self.stops and bool(self.answer["again"])

    def hidden(self) -> list[tuple[str, bool, float]]:
        """Class, whether it names somebody, and the hidden share of all that is labelled."""
        masks = self._masks(True)
        return [(label, names, box.hidden_share(masks)) for label, box, names in self.picture.boxes]

    @property
    def for_nothing(self) -> float:
        """Masked share of the picture, outside of what is labelled."""
        height, width = self.answer["size"]
        masked = np.zeros((height, width), bool)
        for mask in self._masks(True):
            masked[mask.slices[1:]] = True
        for _, box, _ in self.picture.boxes:
            masked[box.padded(0.04, 4).slices[1:]] = False
        return float(masked.mean())


def jobs(pictures: Sequence[Labelled]) -> list[dict[str, Any]]:
    """What either state is asked."""
    return [
        {
            "path": str(picture.path),
            "profile": "dermatology"
            if any(label == "tattoo" for label, _, _ in picture.boxes)
            else "general",
        }
        for picture in pictures
    ]


def hidden_table(states: Sequence[Sequence[Seen]]) -> list[str]:
    """What is hidden of all that is labelled, by class."""
    rows = []
    for label in ("names somebody", *CLASSES):
        cells = []
        for seen in states:
            shares = [
                share
                for one in seen
                for found, names, share in one.hidden()
                if found == label or (names and label == "names somebody")
            ]
            cells += [str(sum(share >= level for share in shares)) for level in LEVELS]
        if shares:
            rows.append(f"| {label} | {len(shares)} | {' | '.join(cells)} |")
    return rows


def care_table(states: Sequence[Sequence[Seen]]) -> list[str]:
    """What is asked of persons, masked for nothing, and spent."""
    free = [[one for one in seen if one.picture.free] for seen in states]
    counted = {
        "pictures that stop for proposals": [sum(s.stops for s in seen) for seen in states],
        "that would stop at the second look": [sum(s.again for s in seen) for seen in states],
        "without anything to seal: with a box": [sum(s.boxed for s in seen) for seen in free],
        "the same: with a sealed box": [sum(s.sealed for s in seen) for seen in free],
    }
    of = [len(states[0]), len(states[0]), len(free[0]), len(free[0])]
    rows = [
        f"| {what} | {total} | {before} | {now} |"
        for (what, (before, now)), total in zip(counted.items(), of, strict=True)
    ]
    for look, name in enumerate(("first", "second")):
        spent = [sum(one.answer["seconds"][look] for one in seen) for seen in states]
        each = [f"{s / len(states[0]):.2f}" for s in spent]
        rows.append(f"| processor s a picture, {name} look | {spent[1] / spent[0]:.2f} |"
                    f" {each[0]} | {each[1]} |")  # fmt: skip
    both = [sum(sum(one.answer["seconds"]) for one in seen) for seen in states]
    rows.append(f"| both looks, now over before | {both[1] / both[0]:.2f} | | |")
    return rows


def teeth_table(states: Sequence[Sequence[Seen]]) -> list[str]:
    """Lines of patients that are hidden to 80 %, by how hard, and what is masked for nothing."""
    rows = []
    for name, seen in zip(STATES, states, strict=True):
        cells = []
        for group in ("standard", "hard"):
            shares = [
                share
                for one in seen
                if one.picture.group == group
                for _, names, share in one.hidden()
                if names
            ]
            cells.append(f"{sum(share >= LEVELS[1] for share in shares)} of {len(shares)}")
        masked = float(np.mean([one.for_nothing for one in seen]))
        stops = sum(one.stops for one in seen)
        rows.append(f"| {name} | {' | '.join(cells)} | {masked:.2%} | {stops} of {len(seen)} |")
    return rows


def looked(peer: Path, pictures: Sequence[Labelled]) -> list[list[Seen]]:
    """What both states say, each on a processor of its own."""
    asked = jobs([p for p in pictures if cv2.haveImageReader(str(p.path))])
    by_path = {str(p.path): p for p in pictures}
    with ThreadPoolExecutor(max_workers=2) as lanes:
        both = list(lanes.map(lambda root: answers(root, asked), (peer, HERE.parent)))
    return [[Seen(by_path[a["job"]["path"]], a) for a in side] for side in both]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.goals", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--peer", type=Path, required=True, help="worktree of an older state")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of pictures")
    parser.add_argument("--most", type=int, default=1000, help="pictures of each folder")
    parser.add_argument("--unseen", action="store_true", help="only what nothing learned from")
    parser.add_argument("--teeth", type=Path, help="pages of dentdeid")
    parser.add_argument("--no-write", action="store_true", help="print only")
    a = parser.parse_args()
    pictures = []
    for folder in a.images:
        found = of_folder(folder)
        if a.unseen:
            chosen = unseen(folder)
            found = [p for p in found if p.path.name in chosen]
        pictures += found[: a.most]
    parts = [
        HEADING, "",
        f"{datetime.now(UTC):%Y-%m-%d}, both states at once on {os.cpu_count()} processors, load"
        f" {os.getloadavg()[0]:.0f}; pictures: {len(pictures)}"
        f"{', of patients and sources that nothing learned from' if a.unseen else ''}.", "",
    ]  # fmt: skip
    if pictures:
        states = looked(a.peer, pictures)
        parts += [
            "| hidden | of | before, to 50 % | to 80 % | now, to 50 % | to 80 % |",
            "|---|---|---|---|---|---|", *hidden_table(states), "",
            "| | of, or ratio | before | now |", "|---|---|---|---|", *care_table(states), "",
        ]  # fmt: skip
    if a.teeth:
        states = looked(a.peer, of_teeth(a.teeth))
        parts += [
            "Teeth, as `dentdeid` draws them: lines of patients hidden to 80 %.", "",
            "| | standard | hard | masked for nothing | stop |", "|---|---|---|---|---|",
            *teeth_table(states), "",
        ]  # fmt: skip
    section = "\n".join(parts)
    print(section)
    if not a.no_write:
        write(HEADING, section)


if __name__ == "__main__":
    main()

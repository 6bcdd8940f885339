"""What the verifiers learn from: boxes that show a class, and what networks took for it.

Positives are drawn, and cut out of labelled pictures. Negatives are hard by construction: what
today's networks find at a very low confidence on pictures that have none of the class, beside
boxes anywhere on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np

from engine.detect.line_verifier import Levels, windows
from engine.detect.text import TextFinder, sides
from engine.detect.text_lines import Line, joined
from engine.detect.verifier import Box, views
from engine.detect.yolo import open_own
from engine.geometry import CORNERS, areas_px, intersections_px
from engine.settings import Settings
from model.backgrounds import Background, read_picture
from model.codes import DAMAGES, SYMBOLOGIES, damaged_code
from model.data import whole_page
from model.writing import SPLITS, split_of

FLOOR = 0.02  # confidence from which a candidate is worth learning from
LINE_FLOOR = 0.05  # the same for lines, of which there are many more
WRITING = ("text", "handwriting", "signature", "stamp")
#: On what kind of page a picture of a modality is drawn over; all others are photographs.
BACKGROUNDS = {"CT": "slice", "MR": "slice", "XA": "slice", "PX": "slice", "CR": "slice",
               "US": "ultrasound", "ECG": "ecg", "MG": "breast"}  # fmt: skip
SCALE = 30.0  # views are kept as int8, this many steps a deviation
SIDES_PX = (420, 640, 900, 1280)  # longer sides of backgrounds


@dataclass(frozen=True)
class Example:
    """One box of a grey picture, and what it is.

    Args:
        kind: For the report.
    """

    grey: np.ndarray
    box: Box
    shows: bool
    kind: str

    def views(self) -> np.ndarray:
        """What a verifier sees of it, shape (1, 2, SIDE_PX, SIDE_PX), float32."""
        return views(self.grey, self.box)[None]


@dataclass(frozen=True)
class LineExample:
    """One line of a grey picture, by the corners of its turned box, and what it is."""

    levels: Levels
    corners: np.ndarray
    shows: bool
    kind: str

    def views(self) -> np.ndarray:
        """What the verifier of text sees of it; see :func:`windows`."""
        return windows(self.levels, self.corners)


@dataclass(frozen=True)
class Labelled:
    """A picture of a folder with its truth.

    Args:
        boxes: Those of the class (of text: all writing); None where the class is not labelled
            completely.
        known: Those of the class or, where there are none, of text and codes.
        modality: As in the manifest; empty where it says none.
    """

    path: Path
    source: str
    boxes: list[Box] | None
    known: list[Box]
    modality: str = ""


def labelled(images: Sequence[Path], label: str) -> list[Labelled]:
    """Pictures of folders with ``gt.json``, ``coverage.json`` and ``manifest.json`` beside them."""
    found = []
    for folder in images:
        truth, coverage, manifest = (
            json.loads((folder.parent / name).read_text())
            for name in ("gt.json", "coverage.json", "manifest.json")
        )
        for path in sorted(folder.iterdir()):
            rows: list[dict[str, Any]] = truth.get(path.name, [])
            mine = [_box(row) for row in rows if row["class"] == label]
            others = WRITING if label == "text" else ("text", "barcode")
            known = [_box(row) for row in rows if row["class"] in others]
            number = manifest.get(path.name, {}).get("patient")
            source = str(number or path.stem.rsplit("_", 1)[0])
            whole = label in coverage.get(path.name, [])
            if label == "text":
                # Lettering that was drawn as a tattoo is writing that nobody boxed as text.
                whole = whole and not any(row.get("lettering") for row in rows)
                mine += [box for box in known if box not in mine]
            modality = str(manifest.get(path.name, {}).get("modality") or "")
            found.append(Labelled(path, source, mine if whole else None, mine or known, modality))
    return found


def _box(row: dict[str, Any]) -> Box:
    x1, y1, x2, y2 = (float(row[corner]) for corner in CORNERS)
    return x1, y1, x2, y2


def shaken(r: Random, box: Box, most: float = 0.15) -> Box:
    """A box as a network might give it: each side elsewhere by up to a share of its length."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    a, b, c, d = (r.uniform(-most, most) for _ in range(4))
    return x1 + a * w, y1 + b * h, x2 + c * w, y2 + d * h


def anywhere(r: Random, width: int, height: int) -> Box:
    """A box of any size and proportion in a picture."""
    side = max(width, height)
    w = min(float(width), max(8.0, side * 10 ** r.uniform(-1.7, 0.0)))
    h = min(float(height), max(8.0, w * 10 ** r.uniform(-1.0, 0.5)))
    x, y = r.uniform(0, width - w), r.uniform(0, height - h)
    return x, y, x + w, y + h


def of_codes(images: Sequence[Path], split: str, seed: int, scale: float) -> Iterator[Example]:
    """Codes, and what was taken for one."""
    r = Random(f"{seed} {split}")
    network = open_own(Settings(threads=1, device="cpu"), ("barcode",))
    share = {"train": 1.0, "val": 0.15, "test": 0.15}[split] * scale
    pictures = [p for p in labelled(images, "barcode") if split_of(p.source) == split]
    free = [p for p in pictures if p.boxes == []]
    for place in pictures:
        picture = read_picture(place.path)
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        codes = np.array(place.known if place.boxes is None else place.boxes).reshape(-1, 4)
        if place.path.name.startswith("bar_"):
            for code in codes.tolist():
                for _ in range(12):
                    yield Example(grey, shaken(r, code), True, "real code")
            continue
        if place.boxes != []:
            continue
        found = network.look(np.ascontiguousarray(picture[..., ::-1]), FLOOR)
        for finding in found:
            for _ in range(4):
                yield Example(grey, shaken(r, finding.xyxy), False, "taken for a code")
        for _ in range(12):
            box = anywhere(r, grey.shape[1], grey.shape[0])
            yield Example(grey, box, False, "anywhere")
        for line in place.known:
            yield Example(grey, shaken(r, line), False, "text")
    for _ in range(round(28 * share)):
        for symbology in SYMBOLOGIES:
            for damage in DAMAGES:
                grey, box = damaged_code(r, symbology, damage, _background(r, free))
                for most in (0.1, 0.2):
                    yield Example(grey, shaken(r, box, most), True, f"drawn {damage}")
    yield from of_columns(split, seed, scale)
    for number in range(round(250 * share)):
        page = whole_page(seed + 1, number, split, [])
        grey = cv2.cvtColor(page.pixels, cv2.COLOR_RGB2GRAY)
        drawn = {
            label: np.array([_box(row) for row in page.truth if row["class"] == label]).reshape(
                -1, 4
            )
            for label in ("text", "barcode")
        }
        for code in drawn["barcode"].tolist():
            yield Example(grey, shaken(r, code), True, "code on a page")
        boxes = [f.xyxy for f in network.look(page.pixels, FLOOR)]
        boxes += [anywhere(r, grey.shape[1], grey.shape[0]) for _ in range(6)]
        boxes += [shaken(r, line) for line in drawn["text"].tolist()]
        for box in boxes:
            if not intersections_px(box, drawn["barcode"]).any():
                yield Example(grey, box, False, "on a page")


def of_columns(split: str, seed: int, scale: float) -> Iterator[Example]:
    """Anatomy in rows, which networks take for bars: invented teeth, and soft stripes."""
    r = Random(f"{seed} {split} columns")
    share = {"train": 1.0, "val": 0.15, "test": 0.15}[split] * scale
    for number in range(round(3000 * share)):
        grey = (_teeth if number % 4 else _stripes)(r)
        height, width = grey.shape
        low, high = sorted((r.uniform(0, 0.45), r.uniform(0.55, 1.0)))
        left, right = (0.0, 1.0) if r.random() < 0.5 else (r.uniform(0, 0.4), r.uniform(0.6, 1.0))
        box = (left * width, low * height, right * width, high * height)
        yield Example(grey, box, False, "columns")
        yield Example(grey, anywhere(r, width, height), False, "columns, anywhere")


def _teeth(r: Random) -> np.ndarray:
    """One or two rows of teeth as on a radiograph, shape (H, W), uint8."""
    pitch, count, rows = r.uniform(14, 90), r.randint(3, 16), r.choice((1, 2, 2))
    tall = pitch * r.uniform(1.8, 3.6)
    height, width = round(rows * tall * 1.1 + 20), round(pitch * count + 20)
    tone = r.uniform(15, 110)
    picture = np.full((height, width), tone, np.float32)
    picture += np.linspace(-1, 1, width, dtype=np.float32) * r.uniform(-20, 20)
    for row in range(rows):
        for i in range(count):
            if r.random() < 0.08:
                continue
            middle, half = 10 + pitch * (i + 0.5), pitch * r.uniform(0.36, 0.52)
            neck, tip = half * r.uniform(0.7, 0.95), half * r.uniform(0.15, 0.6)
            crown = tall * r.uniform(0.25, 0.45)
            shape = np.array(
                [[-half, 0], [half, 0], [neck, crown], [tip, tall * 0.97], [-tip, tall * 0.97],
                 [-neck, crown]]
            )  # fmt: skip
            flips = row == 0 and rows == 2
            y = tall + 8 if flips else height - tall - 8
            for scale, bright in ((1.0, r.uniform(50, 110)), (r.uniform(0.15, 0.4), -40.0)):
                points = shape * scale * (1, -1 if flips else 1) + (middle, y)
                _add(picture, points, bright)
            top = shape[[0, 1, 2, 5]] * (1, -1 if flips else 1) + (middle, y)
            _add(picture, top, r.choice((15.0, 30.0, 80.0)))
    soft = cv2.GaussianBlur(picture, (0, 0), r.uniform(0.5, 0.06 * pitch + 0.5))
    noise = np.random.default_rng(r.getrandbits(64)).standard_normal(soft.shape)
    return np.clip(soft + noise * r.uniform(0, 12), 0, 255).astype(np.uint8)


def _add(picture: np.ndarray, points: np.ndarray, tone: float) -> None:
    layer = np.zeros(picture.shape, np.uint8)
    cv2.fillPoly(layer, [np.round(points).astype(np.int32)], 1)
    picture += layer * np.float32(tone)


def _stripes(r: Random) -> np.ndarray:
    """Soft, even waves, as ribs, folds and interference make them, shape (H, W), uint8."""
    height, width = r.randint(60, 400), r.randint(120, 700)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wave = np.sin(x / r.uniform(2, 14) + r.uniform(0, 0.02) * y + np.sin(y / r.uniform(9, 60)))
    noise = np.random.default_rng(r.getrandbits(64)).standard_normal(wave.shape)
    picture = 128 + wave * r.uniform(20, 90) + noise * r.uniform(0, 15)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _background(r: Random, free: Sequence[Labelled]) -> np.ndarray:
    """A picture without codes, shrunk or enlarged to a usual size."""
    grey = cv2.cvtColor(read_picture(r.choice(free).path), cv2.COLOR_BGR2GRAY)
    fit = r.choice(SIDES_PX[:3]) / max(grey.shape)
    grey = cv2.resize(grey, None, fx=fit, fy=fit)
    return (
        grey
        if min(grey.shape) >= 160
        else cv2.copyMakeBorder(
            grey, 0, max(0, 160 - grey.shape[0]), 0, max(0, 160 - grey.shape[1]), cv2.BORDER_REFLECT
        )
    )


def of_lines(images: Sequence[Path], split: str, seed: int, scale: float) -> Iterator[LineExample]:
    """Writing, and what networks took for text: on real pictures of which all text is known, and
    on pages drawn over those of them that have none."""
    look = _candidates()
    pictures = [p for p in labelled(images, "text") if split_of(p.source) == split]
    for place in pictures:
        if place.boxes is None:
            continue
        picture = np.ascontiguousarray(read_picture(place.path)[..., ::-1])
        yield from _examples(picture, place.boxes, look, "real")
    free = [
        Background(p.path, BACKGROUNDS.get(p.modality, "photo"), p.source)
        for p in labelled(images, "text")
        if p.boxes == [] and p.modality
    ]
    for number in range(round({"train": 800, "val": 60, "test": 60}[split] * scale)):
        page = whole_page(seed + 70, number, split, free)
        drawn = [_box(row) for row in page.truth if row["class"] == "text"]
        yield from _examples(page.pixels, drawn, look, f"{page.name.split('_')[0]} page")


def _candidates() -> Callable[[np.ndarray], list[np.ndarray]]:
    """What today's networks take for text in an RGB picture, from a low confidence on: corners."""
    settings = Settings(threads=1, device="cpu")
    finder, own = TextFinder(settings), open_own(settings, ("text",))

    def look(picture: np.ndarray) -> list[np.ndarray]:
        found = [
            line
            for side in sorted(sides(max(picture.shape[:2])))
            for line in finder.find(picture, side)
        ]
        seen = [Line.upright(f.xyxy, 1.0) for f in own.look(picture, LINE_FLOOR)]
        return [line.corners for line in joined(found) + seen]

    return look


def _examples(
    picture: np.ndarray,
    written: Sequence[Box],
    look: Callable[[np.ndarray], list[np.ndarray]],
    where: str,
) -> Iterator[LineExample]:
    """Candidates that lie on writing or on none, and the writing itself."""
    levels = Levels(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    truth = np.array(written, np.float64).reshape(-1, 4)
    for corners in look(picture):
        box = np.concatenate([corners.min(0), corners.max(0)])
        area, shared = float(areas_px(box)), intersections_px(box, truth)
        lines = areas_px(truth)
        if (shared.sum() > 0.5 * area) or ((shared > 0.7 * lines) & (shared > 0.3 * area)).any():
            yield LineExample(levels, corners, True, f"{where} line")
        elif not shared.any():
            yield LineExample(levels, corners, False, f"{where}, taken for text")
    for line in written:
        yield LineExample(levels, Line.upright(line, 1.0).corners, True, f"{where} line")


MAKERS = {"barcode": of_codes, "text": of_lines}


def draw(label: str, images: Sequence[Path], run: Path, seed: int, scale: float) -> None:
    """Keep the views of all examples, by split."""
    for split in SPLITS:
        seen, shows, kinds = [], [], []
        for example in MAKERS[label](images, split, seed, scale):
            kept = np.clip(np.round(example.views() * SCALE), -127, 127).astype(np.int8)
            seen.append(kept)
            shows += [example.shows] * len(kept)
            kinds += [example.kind] * len(kept)
        np.savez(
            run / f"{split}.npz",
            views=np.concatenate(seen),
            shows=np.array(shows),
            kinds=np.array(kinds),
        )
        print(f"{split}: {sum(shows)} that show it, {len(shows) - sum(shows)} that do not")

"""What the screen learns from: windows of drawn pages and of real pictures, cell by cell.

A cell shows writing or a code, shows none, or does not count: writing that is too large or too
small for the scale at hand is for another scale, and the edges of a box are for nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import cv2
import numpy as np

from engine.detect.screen import CELL_PX
from engine.geometry import CORNERS, areas_px, intersections_px
from model.backgrounds import Background, read_picture
from model.data import whole_page
from model.verifier_data import BACKGROUNDS, candidates, labelled
from model.writing import split_of

SIDE_PX = 256  # of a window
CELLS = SIDE_PX // CELL_PX
LETTERS_PX = (5.0, 44.0)  # heights of lines that a scale has to see
SHOWS, NONE, OPEN = 1, 0, 2
PAGES, PAGE_WINDOWS = 1500, 6  # drawn to learn from, and windows of each
PART = 500  # pages in a file
Boxes = np.ndarray
NOTHING = np.empty((0, 4))
SEEN = 0.5  # share of a line that today's networks must hold, for it to be one


def cells(
    boxes: Boxes, codes: Boxes, left: float, top: float, unseen: Boxes = NOTHING
) -> np.ndarray:
    """What each cell of a window shows.

    Args:
        boxes: Lines of text at the window's scale, shape (N, 4).
        codes: The same for codes, shape (M, 4).
        unseen: The same for lines that nobody sees; they do not count.
        left, top: Of the window, in px of that scale.

    Returns:
        Shape (CELLS, CELLS), uint8: ``SHOWS``, ``NONE`` or ``OPEN``.
    """
    truth = np.zeros((CELLS, CELLS), np.uint8)
    shown: list[tuple[slice, slice]] = []
    for k, box in enumerate([*boxes, *codes, *unseen]):
        x1, y1, x2, y2 = box - (left, top, left, top)
        low = min(x2 - x1, y2 - y1)
        near = _cells(x1 - CELL_PX / 2, y1 - CELL_PX / 2, x2 + CELL_PX / 2, y2 + CELL_PX / 2, 0.0)
        truth[near] = OPEN
        fits = low >= 24 if k >= len(boxes) else LETTERS_PX[0] <= low <= LETTERS_PX[1]
        if fits and k < len(boxes) + len(codes):
            shown.append(_cells(x1, y1, x2, y2, 0.4))
    for place in shown:
        truth[place] = SHOWS
    return truth


def _cells(x1: float, y1: float, x2: float, y2: float, share: float) -> tuple[slice, slice]:
    """Rows and columns of which a box covers more than a share, or which hold its middle."""

    def span(a: float, b: float) -> slice:
        a, b = a / CELL_PX, b / CELL_PX
        first, last = int(np.floor(a + share)), int(np.ceil(b - share))
        if last <= first:
            first = int(np.floor((a + b) / 2))
            last = first + 1
        return slice(min(CELLS, max(0, first)), min(CELLS, max(0, last)))

    return span(y1, y2), span(x1, x2)


def windows(
    r: Random,
    picture: np.ndarray,
    boxes: Boxes,
    codes: Boxes,
    count: int,
    unseen: Boxes = NOTHING,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows of a picture at several scales, with what their cells show.

    Args:
        picture: Shape (H, W, 3), uint8, RGB.
    """
    height, width = picture.shape[:2]
    for _ in range(count):
        line = None
        if len(boxes) and r.random() < 0.75:
            line = boxes[r.randrange(len(boxes))]
            low = max(1.0, float(min(line[2] - line[0], line[3] - line[1])))
            least, most = np.log2(LETTERS_PX[0]), np.log2(LETTERS_PX[1])
            scale = 2.0 ** r.uniform(least, most) / low
            scale = float(np.clip(scale, 0.05, 2.0))
        else:
            # As levels are: the first at the picture's own size, the next at a quarter.
            scale = r.choice((1.0, 1.0, 0.25)) * 2 ** r.uniform(-0.5, 0.5)
            scale = max(scale, SIDE_PX / 4 / max(width, height))
        w, h = max(8, round(width * scale)), max(8, round(height * scale))
        fx, fy = w / width, h / height
        if line is not None:
            cx = r.uniform(line[0], line[2]) * fx + r.uniform(-90, 90)
            cy = (line[1] + line[3]) / 2 * fy + r.uniform(-90, 90)
        else:
            cx, cy = r.uniform(0, w), r.uniform(0, h)
        left = float(np.clip(round(cx - SIDE_PX / 2), 0, max(0, w - SIDE_PX)))
        top = float(np.clip(round(cy - SIDE_PX / 2), 0, max(0, h - SIDE_PX)))
        # Only the part that is shown, and a border around it, is brought to scale.
        around = 8
        x1, y1 = max(0, int(left / fx) - around), max(0, int(top / fy) - around)
        x2 = min(width, int((left + SIDE_PX) / fx) + around + 1)
        y2 = min(height, int((top + SIDE_PX) / fy) + around + 1)
        matrix = np.array([[fx, 0, -left], [0, fy, -top]], np.float64)
        if scale < 0.9:
            whole = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
            seen = whole[int(top) : int(top) + SIDE_PX, int(left) : int(left) + SIDE_PX]
        else:
            part = picture[y1:y2, x1:x2]
            matrix[:, 2] += (x1 * fx, y1 * fy)
            seen = cv2.warpAffine(
                part, matrix, (min(SIDE_PX, w), min(SIDE_PX, h)), flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )  # fmt: skip
        by = np.array([fx, fy, fx, fy])
        truth = cells(boxes * by, codes * by, left, top, unseen * by)
        below, right = SIDE_PX - seen.shape[0], SIDE_PX - seen.shape[1]
        if below or right:
            seen = cv2.copyMakeBorder(seen, 0, below, 0, right, cv2.BORDER_REPLICATE)
            truth[-(-(SIDE_PX - below) // CELL_PX) :] = OPEN
            truth[:, -(-(SIDE_PX - right) // CELL_PX) :] = OPEN
        yield np.ascontiguousarray(seen), truth


def of_pages(
    images: Sequence[Path], split: str, seed: int, first: int, count: int, each: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows of drawn pages, over invented and over real backgrounds of the split."""
    free = [
        Background(p.path, BACKGROUNDS.get(p.modality, "photo"), p.source)
        for p in labelled(images, "text")
        if p.boxes == [] and p.modality
    ]
    look = candidates()
    for number in range(first, first + count):
        r = Random(f"{seed} screen {split} {number}")
        page = whole_page(seed + 160, number, split, free)
        boxes, codes = (
            np.array(
                [[row[corner] for corner in CORNERS] for row in page.truth
                 if row["class"] == label], np.float64,
            ).reshape(-1, 4)
            for label in ("text", "barcode")
        )  # fmt: skip
        # The screen is to see what today's networks see. What is too faint for them would teach it
        # to see writing in noise.
        found = np.array(
            [np.concatenate([c.min(0), c.max(0)]) for c in look(page.pixels)], np.float64
        ).reshape(-1, 4)
        seen = np.array(
            [intersections_px(box, found).sum() >= SEEN * areas_px(box) for box in boxes], bool
        )
        yield from windows(r, page.pixels, boxes[seen], codes, each, boxes[~seen])


def of_real(
    images: Sequence[Path], split: str, seed: int, each: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows of real pictures of which all text is known."""
    codes = {p.path: p.boxes or [] for p in labelled(images, "barcode")}
    for place in labelled(images, "text"):
        if place.boxes is None or split_of(place.source) != split:
            continue
        r = Random(f"{seed} screen {place.path.name}")
        picture = np.ascontiguousarray(read_picture(place.path)[..., ::-1])
        boxes = np.array(place.boxes, np.float64).reshape(-1, 4)
        code = np.array(codes[place.path], np.float64).reshape(-1, 4)
        yield from windows(r, picture, boxes, code, each)


def draw(images: Sequence[Path], run: Path, seed: int, scale: float) -> None:
    """Keep windows with what their cells show, by split and kind."""
    for split, pages, each in (("train", PAGES, 16), ("val", 150, 8), ("test", 150, 8)):
        kept = {"real": _saved(run / f"real_{split}", of_real(images, split, seed, each))}
        count = max(1, round(pages * scale))
        for first in range(0, count, PART):
            made = of_pages(images, split, seed, first, min(PART, count - first), PAGE_WINDOWS)
            name = f"pages_{split}_{first}"
            kept[name] = _saved(run / name, made)
        print(split, ", ".join(f"{number} windows of {name}" for name, number in kept.items()))


def _saved(path: Path, made: Iterator[tuple[np.ndarray, np.ndarray]]) -> int:
    """Keep windows as one array each of pictures and of cells; gives how many."""
    pictures, shows = zip(*made, strict=True)
    np.save(path.with_name(f"{path.name}.pictures.npy"), np.stack(pictures))
    np.save(path.with_name(f"{path.name}.cells.npy"), np.stack(shows))
    return len(pictures)

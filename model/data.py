"""A YOLO data set, drawn: real and invented backgrounds, real overlay layouts, exact boxes.

    python -m model.data --images DIR/images --out runs/set --train 1400

The same seed, fonts and pictures give the same files. The splits share no patient or source
folder, no font family, and the test split has layouts of its own (see :mod:`model.layouts`).
Beside the crops to learn from, ``val_pages`` and ``test_pages`` hold whole pictures with
``gt.json`` and ``coverage.json``, as :mod:`model.evaluate` reads them.

A crop never hides where a line ends: a box is cut only by the crop's border, and a sliver too thin
to be read is taken out of the picture instead of being left there without a label.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np

from engine.geometry import CORNERS
from model.backgrounds import Background, read_folder
from model.codes import code
from model.distractors import distract
from model.evaluate import Whole
from model.invented import INVENTED
from model.layouts import overlay
from model.phrases import Phrases
from model.writing import SPLITS, Page

CLASSES = ("text", "barcode", "thorax")
SIDE = 320
SHAPES = ((SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE), (160, 640))  # (height, width)
ENLARGED = 0.3  # share of training windows that are enlarged, as small pictures are when looked at
BLANK = 0.3  # share of training pages without text
KINDS = {"chest": 3, "film": 2, "slice": 3, "ultrasound": 4, "ecg": 2.5, "photo": 2, "paper": 3.5,
         "breast": 1.5, "endoscopy": 2, "screen": 2}  # fmt: skip
Label = tuple[str, int, int, int, int]


@dataclass(frozen=True)
class Sample:
    """A finished picture with its labels; pixels (H, W, 3), uint8, RGB."""

    pixels: np.ndarray
    labels: list[Label]
    kind: str
    real: bool


def compose(r: Random, split: str, reals: list[Background], whole: bool) -> tuple[Page, str, bool]:
    """One page with background, distractors, text and codes.

    Args:
        whole: The entire picture shrunk to the training side, with text as large as it would be
            read there; otherwise at native scale, to be cropped.
    """
    kind = r.choices(list(KINDS), list(KINDS.values()))[0]
    if whole and r.random() < 0.5:
        kind = "chest"
    mine = [b for b in reals if b.kind == kind and b.split == split]
    needs_real = kind == "chest" or split == "test"
    g = np.random.default_rng(r.getrandbits(64))
    thorax = None
    real = bool(mine) and (needs_real or r.random() < 0.65) and not (whole and kind == "film")
    if real:
        pixels, thorax = _real(r, r.choice(mine), whole)
    else:
        h, w = (
            (SIDE, r.randint(200, SIDE)) if whole else (r.randint(330, 900), r.randint(400, 1200))
        )
        if whole and r.random() < 0.5:
            h, w = w, h
        pixels = INVENTED["film" if kind == "chest" else kind](r, g, h, w)
        kind = "film" if kind == "chest" else kind
    pixels, thorax = _lit(r, pixels), thorax
    page = Page(np.ascontiguousarray(pixels), r, Phrases(r), split)
    if r.random() < 0.6:
        distract(r, page.pixels)
        page.clean = page.pixels.copy()
    if thorax is not None:
        page.boxes.append(("thorax", *thorax))
    if r.random() < {"paper": 0.4, "photo": 0.4, "screen": 0.15}.get(kind, 0.08):
        codes = [b for b in reals if b.kind == "code" and b.split == split]
        for _ in range(r.choice((1, 1, 1, 2, 3))):
            _code(r, page, codes)
    if r.random() < (1 - BLANK if whole or split == "train" else 0.88):
        overlay(page, kind)
    return page, kind, real


def _real(r: Random, background: Background, whole: bool) -> tuple[np.ndarray, tuple | None]:
    pixels, box = background.read(), background.thorax
    h, w = pixels.shape[:2]
    if whole:
        fit = SIDE / max(h, w) * r.choice((1, 1, r.uniform(0.6, 1)))
    elif background.kind == "film":
        # No thorax label: only a corner or edge is ever shown, never the chest.
        ch, cw = round(h * 0.33), round(w * r.uniform(0.33, 1))
        y, x = r.choice((0, 0, h - ch)), r.choice((0, w - cw, r.randint(0, w - cw)))
        if cw > 0.5 * w:
            ch = round(h * 0.2)
        return pixels[y : y + ch, x : x + cw], None
    else:
        fit = r.uniform(0.5, 1.0) if max(h, w) > 900 else r.uniform(0.8, 2.0)
        fit = max(fit, 340 / min(h, w)) if max(h, w) * 340 / min(h, w) < 2200 else fit
    size = (max(16, round(w * fit)), max(16, round(h * fit)))
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if fit < 1 else cv2.INTER_CUBIC)
    if box is not None:
        box = tuple(round(v * fit) for v in box)
        if r.random() < 0.4:  # F33's rotation, done here where the box can follow exactly
            turn = r.uniform(-6, 6)
            m = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), turn, 1)
            pixels = cv2.warpAffine(pixels, m, size, borderValue=(0, 0, 0))
            cx, cy = m @ ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1)
            half = ((box[2] - box[0]) / 2, (box[3] - box[1]) / 2)
            box = (
                round(cx - half[0]),
                round(cy - half[1]),
                round(cx + half[0]),
                round(cy + half[1]),
            )
        box = (max(0, box[0]), max(0, box[1]), min(size[0], box[2]), min(size[1], box[3]))
    return pixels, box


def _lit(r: Random, pixels: np.ndarray) -> np.ndarray:
    """Another window, gamma or polarity; F33's colour jitter is done in training."""
    if r.random() < 0.5:
        table = np.linspace(0, 1, 256) ** r.uniform(0.6, 1.6) * r.uniform(0.55, 1.15) + r.uniform(
            -0.08, 0.08
        )
        pixels = (np.clip(table, 0, 1) * 255).astype(np.uint8)[pixels]
    return 255 - pixels if r.random() < 0.06 else pixels


def _code(r: Random, page: Page, codes: list[Background]) -> None:
    w, h = round(page.width * r.uniform(0.12, 0.8)), round(page.height * r.uniform(0.08, 0.6))
    w, h = min(w, 600), min(h, 400)
    x, y = r.randint(0, max(1, page.width - w - 1)), r.randint(0, max(1, page.height - h - 1))
    picture = None
    if codes and r.random() < 0.5:
        chosen = r.choice(codes)
        x1, y1, x2, y2 = r.choice(chosen.codes)
        cut = chosen.read()[y1:y2, x1:x2]
        picture = cut if min(cut.shape[:2]) > 12 else None
    code(page, (x, y, x + w, y + h), picture)


def crop(page: Page, window: tuple[int, int, int, int]) -> tuple[np.ndarray, list[Label]] | None:
    """Cut ``x1 y1 x2 y2`` out of a page, repairing slivers of text.

    Returns:
        Pixels and labels, or None where a thorax is neither clearly in view nor clearly out.
    """
    x1, y1, x2, y2 = window
    pixels = page.pixels[y1:y2, x1:x2].copy()
    clean = page.clean[y1:y2, x1:x2]
    labels = []
    for name, bx1, by1, bx2, by2 in page.boxes:
        cx1, cy1, cx2, cy2 = max(bx1, x1), max(by1, y1), min(bx2, x2), min(by2, y2)
        if cx1 >= cx2 or cy1 >= cy2:
            continue
        seen = (cx2 - cx1) * (cy2 - cy1) / ((bx2 - bx1) * (by2 - by1))
        cut = (name, cx1 - x1, cy1 - y1, cx2 - x1, cy2 - y1)
        if name == "thorax":
            if 0.35 < seen < 0.75:
                return None
            if seen >= 0.75:
                labels.append(cut)
            continue
        across = min(bx2 - bx1, by2 - by1)
        if (
            min(cx2 - cx1, cy2 - cy1) < (0.45 * across if seen < 1 else 3)
            or min(cx2 - cx1, cy2 - cy1) < 3
        ):
            hole = (slice(max(0, cut[2] - 2), cut[4] + 2), slice(max(0, cut[1] - 2), cut[3] + 2))
            if name == "barcode":
                return None  # part of a code is no code, and there is nothing under it
            pixels[hole] = clean[hole]
            continue
        labels.append(cut)
    return pixels, labels


def damaged(r: Random, pixels: np.ndarray, labels: list[Label]) -> np.ndarray:
    """Noise, blur, resampling and JPEG, gentle where the text is tiny."""
    tiny = any(n == "text" and min(x2 - x1, y2 - y1) < 9 for n, x1, y1, x2, y2 in labels)
    h, w = pixels.shape[:2]
    if r.random() < 0.3:
        g = np.random.default_rng(r.getrandbits(64))
        noise = g.standard_normal((h, w, 1), dtype=np.float32) * r.uniform(1, 5 if tiny else 11)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    if r.random() < 0.3:
        pixels = cv2.GaussianBlur(pixels, (0, 0), r.uniform(0.3, 0.6 if tiny else 1.1))
    if r.random() < 0.25:
        share = r.uniform(0.75 if tiny else 0.5, 0.95)
        small = cv2.resize(
            pixels, (round(w * share), round(h * share)), interpolation=cv2.INTER_AREA
        )
        pixels = cv2.resize(
            small, (w, h), interpolation=r.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC))
        )
    if r.random() < 0.6:
        quality = r.randint(55 if tiny else 22, 95)
        done, coded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        opened = cv2.imdecode(coded, cv2.IMREAD_COLOR) if done else None
        if opened is not None:
            pixels = opened[..., ::-1]
    return np.ascontiguousarray(pixels)


def samples(
    seed: int, number: int, split: str, reals: list[Background], count: int
) -> list[Sample]:
    """The crops of page ``number``: whole and shrunk, or several windows at native scale."""
    r = Random(f"{seed} {split} {number}")
    whole = r.random() < 0.3
    made: list[Sample] = []
    if whole:
        for _ in range(2):
            page, kind, real = compose(r, split, reals, whole=True)
            cut = crop(page, (0, 0, page.width, page.height))
            if cut is None:
                continue
            pixels, labels = _padded(r, *cut)
            made.append(Sample(damaged(r, pixels, labels), labels, kind, real))
        return made
    page, kind, real = compose(r, split, reals, whole=False)
    for _ in range(count * 2):
        if len(made) == count:
            break
        sample = window(r, page, split, kind, real=real)
        if sample is not None:
            made.append(sample)
    return made


def window(
    r: Random,
    page: Page,
    split: str,
    kind: str,
    *,
    real: bool,
    shape: tuple[int, int] | None = None,
) -> Sample | None:
    """One window of a page at native scale or enlarged, mostly around a box.

    Args:
        shape: Height and width, px; by default one of ``SHAPES``.

    Returns:
        None where it would show half a thorax or half a code.
    """
    shape = shape or r.choice(SHAPES if split == "train" else SHAPES[:1])
    zoom = r.uniform(1.2, 2.2) if split == "train" and r.random() < ENLARGED else 1.0
    h, w = min(round(shape[0] / zoom), page.height), min(round(shape[1] / zoom), page.width)
    texts = [b for b in page.boxes if b[0] != "thorax"]
    if texts and r.random() < 0.85:
        _, x1, y1, x2, y2 = r.choice(texts)
        cx, cy = (
            r.uniform(x1, x2) + r.uniform(-0.4, 0.4) * w,
            (y1 + y2) / 2 + r.uniform(-0.45, 0.45) * h,
        )
    else:
        cx, cy = r.uniform(0, page.width), r.uniform(0, page.height)
    x = min(max(0, round(cx - w / 2)), page.width - w)
    y = min(max(0, round(cy - h / 2)), page.height - h)
    cut = crop(page, (x, y, x + w, y + h))
    if cut is None:
        return None
    pixels, labels = cut
    if zoom > 1:  # the damage is the picture's own, so it is enlarged with it
        pixels, labels = enlarged(damaged(r, pixels, labels), labels, zoom)
    pixels, labels = _padded(r, pixels, labels, shape)
    if zoom == 1:
        pixels = damaged(r, pixels, labels)
    return Sample(pixels, labels, kind, real)


def enlarged(
    pixels: np.ndarray, labels: list[Label], zoom: float
) -> tuple[np.ndarray, list[Label]]:
    """A crop as a larger look shows it: blurred strokes, coarse noise."""
    h, w = pixels.shape[:2]
    size = (round(w * zoom), round(h * zoom))
    across, down = size[0] / w, size[1] / h
    boxes = [
        (n, round(a * across), round(b * down), round(c * across), round(d * down))
        for n, a, b, c, d in labels
    ]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), boxes


def _padded(
    r: Random, pixels: np.ndarray, labels: list[Label], shape: tuple[int, int] = (SIDE, SIDE)
) -> tuple[np.ndarray, list[Label]]:
    """Onto an even ground of exactly ``shape``, anywhere on it."""
    h, w = pixels.shape[:2]
    fit = min(1.0, shape[0] / h, shape[1] / w)
    if fit < 1:
        w, h = round(w * fit), round(h * fit)
        pixels = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA)
        labels = [(n, *(round(v * fit) for v in box)) for n, *box in labels]
    if (h, w) == shape:
        return pixels, labels
    sheet = np.full((*shape, 3), r.choice((114, 114, 0)), np.uint8)
    x, y = r.randint(0, shape[1] - w), r.randint(0, shape[0] - h)
    sheet[y : y + h, x : x + w] = pixels
    return sheet, [(n, a + x, b + y, c + x, d + y) for n, a, b, c, d in labels]


def yolo_rows(
    labels: list[Label], width: int, height: int, classes: Sequence[str] = CLASSES
) -> str:
    """``class cx cy w h`` per line, in shares of the picture."""
    rows = []
    for name, x1, y1, x2, y2 in labels:
        values = (
            (x1 + x2) / 2 / width,
            (y1 + y2) / 2 / height,
            (x2 - x1) / width,
            (y2 - y1) / height,
        )
        rows.append(f"{classes.index(name)} " + " ".join(f"{v:.6f}" for v in values))
    return "\n".join(rows)


def _save_crops(job: tuple[int, int, str, list[Background], int, Path]) -> int:
    seed, number, split, reals, count, out = job
    cv2.setNumThreads(1)
    made = samples(seed, number, split, reals, count)
    for k, sample in enumerate(made):
        h, w = sample.pixels.shape[:2]
        stem = f"{sample.kind}_{'real' if sample.real else 'made'}_{number:05d}_{k}"
        cv2.imwrite(
            str(out / "images" / split / f"{stem}.jpg"),
            sample.pixels[..., ::-1],
            [cv2.IMWRITE_JPEG_QUALITY, 97, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111],
        )
        (out / "labels" / split / f"{stem}.txt").write_text(yolo_rows(sample.labels, w, h))
    return len(made)


def whole_page(seed: int, number: int, split: str, reals: list[Background]) -> Whole:
    """Page ``number`` of a split, every third without text, as a third of all pictures are.

    Args:
        reals: Backgrounds; where there are none of a kind, they are invented.
    """
    r = Random(f"{seed} page {split} {number}")
    while True:
        page, kind, real = compose(r, split, reals, whole=False)
        if real or not reals or r.random() < 0.4:
            break
    if number % 3 == 0:
        page.pixels, page.boxes = page.clean, [b for b in page.boxes if b[0] != "text"]
    labels = page.boxes
    name = f"{kind}_{'real' if real else 'made'}_{number:04d}.png"
    truth: list[dict[str, Any]] = []
    for label in labels:
        row = dict(zip(("class", *CORNERS), label, strict=True))
        truth.append(row | ({"patient": True} if label in page.patient else {}))
    known = ["text", "barcode"] if kind == "film" and real else list(CLASSES)
    return Whole(name, damaged(r, page.pixels, labels), truth, known)


def _save_page(job: tuple[int, int, str, list[Background], Path]) -> Whole:
    seed, number, split, reals, out = job
    cv2.setNumThreads(1)
    page = whole_page(seed, number, split, reals)
    cv2.imwrite(str(out / f"{split}_pages" / "images" / page.name), page.pixels[..., ::-1])
    return page


def make(images: Path, out: Path, seed: int, counts: dict[str, int], pages: int, per_page: int,
         workers: int, first: int = 0) -> Path:  # fmt: skip
    """Write the whole set and its ``data.yaml``.

    Args:
        first: Number of the first training page: what lies there already is added to.
        counts: Pages to cut crops from, per split.
        pages: Whole pictures for each of ``val_pages`` and ``test_pages``.
        per_page: Crops per page.
    """
    reals = read_folder(images, out / "clean")
    for split in SPLITS:
        for part in ("images", "labels"):
            (out / part / split).mkdir(parents=True, exist_ok=True)
    # Spawned: a fork inherits the locks of threads that OpenCV and ONNX Runtime started.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for split in SPLITS:
            start = first if split == "train" else 0
            numbers = range(start, start + counts[split])
            jobs = [(seed, n, split, reals, per_page, out) for n in numbers]
            print(f"{split}: {sum(pool.map(_save_crops, jobs, chunksize=8))} crops", flush=True)
        for split in ("val", "test") if pages else ():
            (out / f"{split}_pages" / "images").mkdir(parents=True, exist_ok=True)
            rows = list(
                pool.map(
                    _save_page, [(seed, n, split, reals, out) for n in range(pages)], chunksize=4
                )
            )
            folder = out / f"{split}_pages"
            truth = {page.name: page.truth for page in rows}
            known = {page.name: page.classes for page in rows}
            (folder / "gt.json").write_text(json.dumps(truth, indent=0))
            (folder / "coverage.json").write_text(json.dumps(known, indent=0))
            print(f"{split}_pages: {len(rows)} pictures", flush=True)
    return write_config(out, SPLITS, CLASSES)


def write_config(out: Path, splits: Sequence[str], classes: Sequence[str]) -> Path:
    """``data.yaml`` of a set, by which ultralytics finds its pictures and names its classes."""
    listing = "\n".join(f"  {number}: {name}" for number, name in enumerate(classes))
    config = out / "data.yaml"
    folders = "".join(f"{split}: images/{split}\n" for split in splits)
    config.write_text(f"path: {out.resolve()}\n{folders}names:\n{listing}\n")
    return config


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m model.data", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of real pictures; gt.json, coverage.json and manifest.json lie beside it",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--train", type=int, default=2600, help="pages to cut training crops from")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first training page, to add to a set"
    )
    parser.add_argument("--val", type=int, default=80)
    parser.add_argument("--test", type=int, default=80)
    parser.add_argument(
        "--pages", type=int, default=120, help="whole pictures to evaluate on, per split"
    )
    parser.add_argument("--per-page", type=int, default=3, help="crops per page")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    a = parser.parse_args()
    counts = {"train": a.train, "val": a.val, "test": a.test}
    print(make(a.images, a.out, a.seed, counts, a.pages, a.per_page, a.workers, a.first))


if __name__ == "__main__":
    main()

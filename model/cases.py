"""Kept cases as lessons: opened in memory, split by patient, cut as the network sees them.

Pixels of patients stay in this process's memory. Nothing here writes a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import cv2
import numpy as np

from engine import open_case
from engine.detect.networks import resized
from engine.detect.yolo import TEXT_SIDES_PX
from engine.errors import InputError
from engine.formats.images import Limits, decode, render
from engine.settings import Settings
from engine.store.training_cases import SUFFIX, OpenedCase, held_out
from model.data import SHAPES, Label, Sample, window
from model.phrases import Phrases
from model.writing import Page

#: What is learnt; the thorax, seen at another size, stays with the shipped weights.
LEARNT = ("text", "barcode")
#: Which values of a header name the machine.
MACHINE = ("manufacturer", "model", "software version")
TRIES = 4  # windows drawn for each crop that is wanted


@dataclass(frozen=True)
class Lesson:
    """One frame of a kept case.

    Args:
        name: Neutral, for reports.
        group: Stands for the patient; frames of one group are in one part.
        device: What made the image, in words; empty where the file does not say.
        pixels: Shape (H, W, 3), uint8, RGB.
        boxes: What a person decided should be hidden.
        missed: Those of them that were not found when the image came in.
    """

    name: str
    group: str
    device: str
    pixels: np.ndarray = field(repr=False)
    boxes: tuple[Label, ...]
    missed: tuple[Label, ...] = ()


def read_cases(folder: Path, key_file: Path) -> list[Lesson]:
    """Every exported case of a folder, opened in memory.

    Raises:
        InputError: There is none, or one shows nothing that can be learnt.
        SealBroken: A case was sealed to another key, or altered.
    """
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise InputError("This folder has no exported cases. Run training-export first.")
    return [lesson for path in paths for lesson in lessons(open_case(path.read_bytes(), key_file))]


def lessons(case: OpenedCase) -> list[Lesson]:
    """The frames of a case on which a person's boxes begin, at most eight.

    Raises:
        EngineError: The image does not decode.
    """
    image = decode(case.name, case.original, Limits.of(Settings()))
    frames = sorted({int(b.get("frame", 0)) for b in case.after}) or [0]
    known = {tuple(label) for label in _labels(case.before)}
    found = []
    for frame in frames[:8]:
        here = [b for b in case.after if _on(b, frame)]
        boxes = tuple(_labels(here))
        missed = tuple(b for b in boxes if b not in known)
        pixels = render(image, frame)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, 2)
        name = case.name if frame == 0 else f"{case.name} frame {frame}"
        device = " ".join(value for part, value in case.device if part in MACHINE)
        found.append(Lesson(name, case.group, device, np.ascontiguousarray(pixels), boxes, missed))
    return found


def _on(box: object, frame: int) -> bool:
    assert isinstance(box, dict)
    begin = int(box.get("frame", 0))
    return begin <= frame < int(box.get("frame_end", begin + 1))


def _labels(boxes: Iterable[object]) -> list[Label]:
    found = []
    for box in boxes:
        assert isinstance(box, dict)
        if box["class"] in LEARNT:
            found.append((str(box["class"]), *(int(box[k]) for k in ("x1", "y1", "x2", "y2"))))
    return found  # type: ignore[return-value]


def parted(lessons: Sequence[Lesson]) -> tuple[list[Lesson], list[Lesson]]:
    """Lessons to learn from, and those to measure on: no patient is in both.

    Raises:
        InputError: One of the parts would be empty.
    """
    kept = [lesson for lesson in lessons if held_out(lesson.group)]
    learnt = [lesson for lesson in lessons if not held_out(lesson.group)]
    if not kept or not learnt:
        raise InputError(
            "There are cases of too few patients: one part of them is learnt from, and the rest is"
            " measured on. Export more cases.",
            cases=len(lessons),
            groups=len({lesson.group for lesson in lessons}),
        )
    return learnt, kept


def crops_of(lesson: Lesson, count: int, seed: int) -> list[Sample]:
    """Crops of a case at the sizes at which the network will look at it.

    Args:
        count: How many; fewer where its boxes allow no such window.
    """
    r = Random(f"{seed} {lesson.name}")
    most = max(lesson.pixels.shape[:2])
    sides = sorted({max(min(TEXT_SIDES_PX), min(side, most)) for side in TEXT_SIDES_PX})
    pages = [_page(r, lesson, side) for side in sides]
    made: list[Sample] = []
    for _ in range(count * TRIES):
        if len(made) == count:
            break
        page = pages[len(made) % len(pages)]
        # A line that no square window holds is seen whole in every other window.
        long = any(x2 - x1 > SHAPES[0][1] * 0.8 for _, x1, _, x2, _ in page.boxes)
        shape = SHAPES[-1] if long and len(made) % 2 else None
        sample = window(r, page, "train", "case", real=True, shape=shape)
        if sample is not None:
            made.append(sample)
    return made


def _page(r: Random, lesson: Lesson, side: int) -> Page:
    """A case at one size, with what is under its boxes painted over for repairs at crops' ends."""
    height, width = lesson.pixels.shape[:2]
    scale = side / max(height, width)
    w, h = max(16, round(width * scale)), max(16, round(height * scale))
    page = Page(np.ascontiguousarray(resized(lesson.pixels, w, h)), r, Phrases(r), "train")
    mask = np.zeros((h, w), np.uint8)
    for name, x1, y1, x2, y2 in lesson.boxes:
        box = (round(x1 * w / width), round(y1 * h / height),
               round(x2 * w / width), round(y2 * h / height))  # fmt: skip
        if box[2] > box[0] and box[3] > box[1]:
            page.boxes.append((name, *box))
            mask[max(0, box[1] - 2) : box[3] + 2, max(0, box[0] - 2) : box[2] + 2] = 255
    page.clean = cv2.inpaint(page.pixels, mask, 3, cv2.INPAINT_TELEA) if mask.any() else page.clean
    return page

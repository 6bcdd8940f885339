"""Measure a detector on labelled pictures: what it finds, covers, and hides for nothing.

    python -m model.evaluate --images DIR --truth gt.json --profile general
    python -m model.evaluate --images DIR --truth gt.json --weights model/best.onnx --sides 640 1280

Truth is ``{"file name": [{"class", "x1", "y1", "x2", "y2"}]}`` in pixels, x2 and y2 exclusive.
Where a ``coverage.json`` lies beside it, a class is scored only on the files for which it is
listed: on the others it is unlabelled, not absent. Files that the truth does not name are not
looked at.

A box with ``"patient": true`` names a patient; such lines are counted once more on their own.
Coverage is by the padded boxes of the same class. Nothing is left out of a figure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.detect.detector import Detector, merge
from engine.formats.images import Limits, decode, render
from engine.geometry import CORNERS, Region, coverage
from engine.measure.box_metrics import (
    average_precision,
    false_mask_area_px,
    precision_recall,
)
from engine.records import Detection
from engine.settings import Settings

IOUS = tuple(0.5 + 0.05 * k for k in range(10))
LEVELS = (0.5, 0.8, 0.95)
Look = Callable[[np.ndarray], list[Detection]]


@dataclass(frozen=True)
class Padding:
    """How much a box is grown before it is masked: share of the longer side, and px at least."""

    share: float
    min_px: int

    def grown(self, regions: Sequence[Region], width: int, height: int) -> np.ndarray:
        """Shape (N, 4), float64: padded and clipped to the picture."""
        padded = [r.padded(self.share, self.min_px).clipped(width, height) for r in regions]
        return np.array([p.xyxy for p in padded if p is not None], np.float64).reshape(-1, 4)


@dataclass(frozen=True)
class Whole:
    """A whole picture to evaluate on.

    Args:
        pixels: Shape (H, W, 3), uint8, RGB.
        truth: As in ``gt.json``; lines that name a patient have ``"patient": true``.
        classes: Those that are labelled completely.
    """

    name: str
    pixels: np.ndarray
    truth: list[dict[str, Any]]
    classes: list[str]


@dataclass
class Seen:
    """One picture: the truth, and what was found.

    Args:
        truth: Boxes of shape (M, 4) by class; a class that is not in here is not scored.
        patient: Those text boxes that name a patient, shape (P, 4).
        milliseconds: Of the detection alone.
    """

    path: Path
    width: int
    height: int
    truth: dict[str, np.ndarray]
    found: list[Detection]
    milliseconds: float
    patient: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))

    def boxes(self, label: str) -> np.ndarray:
        return np.array(
            [d.region.xyxy for d in self.found if d.label == label], np.float64
        ).reshape(-1, 4)

    def confidences(self, label: str) -> np.ndarray:
        return np.array([d.confidence for d in self.found if d.label == label], np.float64)

    def masks(self, label: str, confidence: float, padding: Padding) -> np.ndarray:
        """Padded boxes of a class that would be sealed."""
        sealed = [d.region for d in self.found if d.label == label and d.confidence >= confidence]
        return padding.grown(sealed, self.width, self.height)


@dataclass
class Report:
    """Figures by name, in the order of printing; NaN where there is nothing to count."""

    figures: dict[str, float] = field(default_factory=dict)
    misses: list[tuple[Seen, np.ndarray]] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(
            f"{name:44s} {value:10.4g}" if isinstance(value, float) else f"{name:44s} {value:10d}"
            for name, value in self.figures.items()
        )


def measure(pictures: Sequence[Seen], confidence: float, padding: Padding) -> Report:
    """All figures over a set of pictures.

    Args:
        confidence: Boxes of at least this count as sealed; average precision uses all.
    """
    report = Report()
    put = report.figures
    put["pictures"] = len(pictures)
    labels = sorted({label for p in pictures for label, boxes in p.truth.items() if len(boxes)})
    for label in labels:
        scored = [p for p in pictures if label in p.truth]
        found = [p.boxes(label) for p in scored]
        sure = [p.confidences(label) for p in scored]
        true = [p.truth[label] for p in scored]
        at = precision_recall(found, sure, true, confidence, 0.5)
        put[f"{label}: true boxes"] = sum(len(t) for t in true)
        put[f"{label}: precision (IoU 0.5)"] = at.precision
        put[f"{label}: recall (IoU 0.5)"] = at.recall
        precisions = [average_precision(found, sure, true, threshold) for threshold in IOUS]
        put[f"{label}: mAP@0.5"] = precisions[0]
        put[f"{label}: mAP@0.5:0.95"] = float(np.mean(precisions))
        shares = []
        for p in scored:
            masks = p.masks(label, confidence, padding)
            for box in p.truth[label]:
                shares.append(coverage(box, masks))
                if label == "text" and shares[-1] < 0.8:
                    report.misses.append((p, box))
        for level in LEVELS:
            put[f"{label}: covered to {level:.0%}"] = float(np.mean(np.array(shares) >= level))
    named = [
        coverage(box, p.masks("text", confidence, padding)) for p in pictures for box in p.patient
    ]
    if named:
        put["patient data: true boxes"] = len(named)
        for level in LEVELS:
            put[f"patient data: covered to {level:.0%}"] = float(np.mean(np.array(named) >= level))
    wasted = [_wasted_share(p, confidence, padding) for p in pictures]
    put["falsely masked area, mean share"] = float(np.mean(wasted)) if wasted else math.nan
    free = [p for p in pictures if "text" in p.truth and not len(p.truth["text"])]
    masked = sum(bool(len(p.masks("text", confidence, padding))) for p in free)
    put["text-free pictures"] = len(free)
    put["text-free pictures with a text mask"] = masked
    put["text-free pictures with a text mask, share"] = masked / len(free) if free else math.nan
    times = [p.milliseconds for p in pictures]
    put["ms per picture, median"] = float(np.median(times)) if times else math.nan
    put["ms per picture, mean"] = float(np.mean(times)) if times else math.nan
    return report


def _wasted_share(p: Seen, confidence: float, padding: Padding) -> float:
    """Masked area that no true box, grown alike, asks for; thorax, which is wide, apart."""
    labels = [label for label in p.truth if label != "thorax"]
    masks = np.vstack(
        [np.empty((0, 4)), *(p.masks(label, confidence, padding) for label in labels)]
    )
    wanted = [Region(*(int(v) for v in box)) for label in labels for box in p.truth[label]]
    return false_mask_area_px(masks, padding.grown(wanted, p.width, p.height)) / (
        p.width * p.height
    )


def look_at(images: Path, truth_file: Path, look: Look) -> list[Seen]:
    """Run a detector over every picture that the truth names, in the order of their names."""
    truth = json.loads(truth_file.read_text(encoding="utf-8"))
    listing = truth_file.with_name("coverage.json")
    covered = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else None
    classes = sorted({box["class"] for boxes in truth.values() for box in boxes} | {"text"})
    limits = Limits.of(Settings())

    def pictures() -> Iterator[Whole]:
        for name in sorted(truth):
            path = images / name
            if not path.exists():
                raise SystemExit(f"The truth names a picture that is not in {images}: {name}")
            picture = render(decode(name, path.read_bytes(), limits))
            scored = classes if covered is None else covered.get(name, [])
            yield Whole(str(path), in_colour(picture), truth[name], scored)

    return look_over(pictures(), look, classes)


def look_over(pictures: Iterable[Whole], look: Look, classes: Sequence[str]) -> list[Seen]:
    """Run a detector over pictures in memory.

    Args:
        classes: Those that are scored, where a picture's own are complete.
    """
    seen = []
    for whole in pictures:
        scored = [c for c in whole.classes if c in classes]
        boxes = {c: table([b for b in whole.truth if b["class"] == c]) for c in scored}
        patient = table([b for b in whole.truth if b.get("patient") and b["class"] in scored])
        start = time.perf_counter()
        found = look(whole.pixels)
        spent = (time.perf_counter() - start) * 1000
        height, width = whole.pixels.shape[:2]
        seen.append(Seen(Path(whole.name), width, height, boxes, found, spent, patient))
    return seen


def in_colour(picture: np.ndarray) -> np.ndarray:
    """Shape (H, W, 3), C-contiguous."""
    return np.ascontiguousarray(
        np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture
    )


def table(boxes: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Shape (N, 4), float64, of boxes as ``gt.json`` has them."""
    rows = [[b[k] for k in CORNERS] for b in boxes]
    return np.array(rows, np.float64).reshape(-1, 4)


def bare_network(
    weights: Path, sides: Sequence[int], iou: float, floor: float, threads: int
) -> Look:
    """The trained network alone: ``.onnx`` by OpenVINO, ``.pt`` by PyTorch.

    Args:
        sides: Longer sides at which a picture is looked at, px.
        floor: Lowest confidence kept for average precision.
    """
    from engine.detect.networks import CpuModel, ModelInfo
    from engine.detect.yolo import TorchModel, YoloNetwork, _described, _first_output

    data = weights.read_bytes()
    if weights.suffix == ".onnx":
        cpu = CpuModel(data, threads)
        model, names = _first_output(cpu), dict(_described(cpu.metadata)[0])
    else:
        torch_model = TorchModel(data, "cpu")
        model, names = torch_model, dict(torch_model.names)
    labels = tuple(names[i] for i in range(len(names)))
    info = ModelInfo(weights.stem, "", "", "AGPL-3.0", labels, "this project")
    network = YoloNetwork(model, labels, tuple(sides), info)

    def look(picture: np.ndarray) -> list[Detection]:
        found = []
        for f in network.look(picture, floor):
            region = Region.around(f.xyxy, picture.shape[1], picture.shape[0])
            if region is not None:
                found.append(Detection(region, f.label, f.confidence, "yolo"))
        return merge(found, iou)

    return look


def sheet(report: Report, target: Path, cell: int = 220, limit: int = 60) -> None:
    """Picture of the misses: truth green, what was found red, one miss per cell."""
    cells = []
    for seen, box in report.misses[:limit]:
        picture = cv2.imread(str(seen.path))
        if picture is None:  # DICOM
            picture = render(decode(seen.path.name, seen.path.read_bytes(), Limits.of(Settings())))
            picture = (
                np.repeat(picture[..., None], 3, 2)
                if picture.ndim == 2
                else picture[..., ::-1].copy()
            )
        for d in seen.found:
            cv2.rectangle(picture, d.region.xyxy[:2], d.region.xyxy[2:], (0, 0, 255), 1)
        x1, y1, x2, y2 = (int(v) for v in box)
        cv2.rectangle(picture, (x1 - 1, y1 - 1), (x2, y2), (0, 255, 0), 1)
        m = max(24, (x2 - x1) // 6)
        part = picture[max(0, y1 - m) : y2 + m, max(0, x1 - m) : x2 + m]
        fit = min(cell / part.shape[0], cell / part.shape[1], 3.0)
        part = cv2.resize(
            part, (max(1, int(part.shape[1] * fit)), max(1, int(part.shape[0] * fit)))
        )
        frame = np.full((cell, cell, 3), 60, np.uint8)
        frame[: part.shape[0], : part.shape[1]] = part
        cells.append(frame)
    while not cells or len(cells) % 6:
        cells.append(np.full((cell, cell, 3), 60, np.uint8))
    rows = [np.hstack(cells[k : k + 6]) for k in range(0, len(cells), 6)]
    if not cv2.imwrite(str(target), np.vstack(rows)):
        raise SystemExit(f"The sheet of misses could not be written to {target}.")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m model.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--profile", default=None, help="run the whole detector with this profile")
    parser.add_argument("--weights", type=Path, default=None, help="run this network alone")
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[640, 1280], help="with --weights, px"
    )
    parser.add_argument(
        "--confidence", type=float, default=None, help="by default the profile's or the setting"
    )
    parser.add_argument("--floor", type=float, default=0.05, help="with --weights, lowest for mAP")
    parser.add_argument("--sheet", type=Path, default=Path("runs/misses.png"))
    parser.add_argument("--json", type=Path, default=None, help="write the figures here as well")
    a = parser.parse_args()
    settings = Settings.load(os.environ, profile=a.profile)
    padding, confidence = Padding(settings.padding, settings.padding_min_px), a.confidence
    if a.weights is not None:
        look = bare_network(a.weights, a.sides, settings.iou, a.floor, settings.threads)
    else:
        detector = Detector.open(settings)
        profile = detector.profiles[settings.profile]
        confidence = profile.confidence if confidence is None else confidence
        padding = Padding(
            settings.padding if profile.padding is None else profile.padding,
            settings.padding_min_px if profile.padding_min_px is None else profile.padding_min_px,
        )

        def look(picture: np.ndarray) -> list[Detection]:
            return detector.detect(lambda _: picture, 1, profile)

    pictures = look_at(a.images, a.truth, look)
    report = measure(pictures, settings.confidence if confidence is None else confidence, padding)
    print(report)
    a.sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet(report, a.sheet)
    print(f"{len(report.misses)} text boxes covered to less than 80 %; the first are in {a.sheet}")
    if a.json is not None:
        if a.weights is not None:
            measured = {a.weights.stem: hashlib.sha256(a.weights.read_bytes()).hexdigest()}
        else:
            measured = {name: info.sha256 for name, info in detector.opened.items()}
        written = {"networks": measured, "figures": report.figures}
        a.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()

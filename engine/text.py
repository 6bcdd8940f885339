"""Text by PP-OCR (Apache-2.0), which ``rapidocr`` carries: one network finds, one reads.

Finds lines of text of any script, turned or upright. Reading only decides how far a finding
is believed; what a line says is dropped at once and never leaves this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from engine.networks import CpuModel, Finding, ModelInfo, batch, packaged, read_weights, resized
from engine.networks import version as version_of
from engine.settings import Settings

FINDER_SHA256 = "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
READER_SHA256 = "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"

PIXEL_FLOOR = 0.2
UNCLIP = 1.6
SHORTEST_CORE_PX = 3
STRIP_PX = 32
LARGEST_ZOOM = 4  # a thumbnail needs no more: letters of 7 px are 28 px then
HUGE_PX = 2200  # longer side from which small letters drown at the usual sizes

# What is believed. Chosen on drawn text and on real images of which a person said what is
# text; radiographs' wires and connectors and the traces of an ECG set them.
LONG = 2.5  # length over height from which a line has several letters and can be read
SURE_SHORT = 0.70  # finder's confidence that needs no reading: single letters, often mirrored
SURE_LONG = 0.87
LARGE_SHARE = 0.05  # of the picture's area, from which a line must be read to be believed
AGREED = 1.20  # finder's and reader's confidence together
AGREED_LETTER = 1.35  # the same for one letter: wires look like an O or a 7
TURNED = 0.97  # reader's confidence in a letter that it had to turn or mirror
UNREAD = 0.3  # what the confidence of a line that nobody could read is multiplied with


@dataclass(frozen=True, slots=True)
class Line:
    """A line in a picture: corners of its turned box, and how sure the finder was.

    Args:
        corners: Shape (4, 2), float32, x and y in pixels, in order around the box.
        confidence: 0 to 1.
    """

    corners: np.ndarray
    confidence: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The upright box around it: x1, y1, x2, y2."""
        x1, y1 = (float(v) for v in self.corners.min(axis=0))
        x2, y2 = (float(v) for v in self.corners.max(axis=0))
        return x1, y1, x2, y2

    @property
    def thickness_px(self) -> float:
        """Its shorter side."""
        return min(self._sides_px)

    @property
    def length(self) -> float:
        """Longer side over shorter side."""
        return max(self._sides_px) / min(self._sides_px)

    @property
    def _sides_px(self) -> tuple[float, float]:
        a, b, c, _ = self.corners
        return max(1.0, float(np.hypot(*(b - a)))), max(1.0, float(np.hypot(*(c - b))))


class TextFinder:
    """PP-OCRv6 detection: a map of how much each pixel is the core of a line of text.

    Source: Liao et al. 2020, "Real-time Scene Text Detection with Differentiable Binarization".
    """

    def __init__(self, settings: Settings) -> None:
        weights = read_weights(
            packaged("rapidocr", "models", "PP-OCRv6_det_small.onnx"), FINDER_SHA256
        )
        self._model = CpuModel(weights, settings.threads)

    def find(self, picture: np.ndarray, side: int) -> list[Line]:
        """Lines in a picture shown to the network with its longer side at ``side`` pixels.

        The network sees a strip with known text below the picture. It was trained on pages that
        have text; shown a radiograph without any, it takes lungs and grids for text, and faint
        markers are lost among them. Beside real text, in the picture's own tone, it does not.
        """
        height, width = picture.shape[:2]
        scale = side / max(height, width)
        w, h = (max(32, round(v * scale / 32) * 32) for v in (width, height))
        shown = resized(picture, w, h)
        heat = self._model(batch(np.vstack([shown, reference(shown)]), 127.5, 1 / 127.5))[0]
        to_picture = np.array([width / w, height / h], dtype=np.float32)
        return [Line(f.corners * to_picture, f.confidence) for f in lines(heat[0, 0, :h])]


def reference(picture: np.ndarray) -> np.ndarray:
    """A strip of plain text in the mean tone of a picture.

    Returns:
        Shape (STRIP_PX, W, 3), uint8.
    """
    tone = int(picture.mean())
    ink = tone + 50 if tone < 128 else tone - 50
    strip = np.full((STRIP_PX, picture.shape[1], 3), tone, dtype=np.uint8)
    for x in range(10, picture.shape[1], 320):
        cv2.putText(
            strip, "Name 0123", (x, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (ink,) * 3, 2, cv2.LINE_AA
        )
    return strip


def lines(heat: np.ndarray) -> list[Line]:
    """Lines in a text map, in its own pixels.

    Args:
        heat: Shape (H, W), float32, 0 to 1; high in the core of a line, which is thinner than
            the line by a fixed rule of training, so it is grown back.
    """
    mask = (heat > PIXEL_FLOOR).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = []
    for k in range(1, count):
        x, y, w, h, _ = (int(v) for v in stats[k])
        if max(w, h) < SHORTEST_CORE_PX:
            continue
        window = np.s_[y : y + h, x : x + w]
        core = (labels[window] == k).astype(np.uint8)
        contours, _ = cv2.findContours(core, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        (cx, cy), (a, b), angle = cv2.minAreaRect(np.vstack(contours))
        # The mean over the turned box, not over the core, so that a ragged core, which no
        # line of text has, scores low.
        inside = np.zeros_like(core)
        outline = cv2.boxPoints(((cx, cy), (a, b), angle))
        cv2.fillPoly(inside, [np.round(outline).astype(np.int32)], 1)
        confidence = float(np.clip(heat[window][inside > 0].mean(), 0.0, 1.0))
        a, b = a + 1.0, b + 1.0  # contours run through pixel centres
        grow = UNCLIP * a * b / (a + b)  # area * ratio / perimeter, on either side
        corners = cv2.boxPoints(((cx + x + 0.5, cy + y + 0.5), (a + grow, b + grow), angle))
        found.append(Line(corners, confidence))
    return found


class TextReader:
    """PP-OCRv6 recognition: the letters of one line and how sure it is of them."""

    HEIGHT_PX = 48
    WIDEST_PX = 1920

    def __init__(self, settings: Settings) -> None:
        weights = read_weights(
            packaged("rapidocr", "models", "PP-OCRv6_rec_small.onnx"), READER_SHA256
        )
        self._model = CpuModel(weights, settings.threads)
        # Index 0 is "no letter"; the blank comes after the alphabet.
        self._letters = ["", *self._model.metadata["character"].splitlines(), " "]

    def read(self, pictures: list[np.ndarray]) -> list[tuple[str, float]]:
        """Read upright lines.

        Args:
            pictures: Each of shape (H, W, 3), uint8, RGB.

        Returns:
            For each its text and the mean certainty of its letters, 0 to 1; ("", 0) for none.
        """
        read: list[tuple[str, float]] = [("", 0.0)] * len(pictures)
        widths = [
            min(self.WIDEST_PX, max(1, round(self.HEIGHT_PX * p.shape[1] / p.shape[0])))
            for p in pictures
        ]
        order = sorted(range(len(pictures)), key=widths.__getitem__)
        for start in range(0, len(order), 8):
            chosen = order[start : start + 8]
            # What lies beside the line is mid-grey, 0 once normalised.
            shown = np.zeros(
                (len(chosen), 3, self.HEIGHT_PX, max(320, widths[chosen[-1]])), np.float32
            )
            for row, i in enumerate(chosen):
                line = resized(pictures[i], widths[i], self.HEIGHT_PX)
                shown[row, :, :, : widths[i]] = batch(line, 127.5, 1 / 127.5)[0]
            scores = self._model(shown)[0]
            best, sure = scores.argmax(axis=2), scores.max(axis=2)
            for row, i in enumerate(chosen):
                new = np.r_[True, best[row, 1:] != best[row, :-1]] & (best[row] != 0)
                if new.any():
                    text = "".join(self._letters[k] for k in best[row, new])
                    read[i] = (text, float(sure[row, new].mean()))
        return read


class TextNetwork:
    """Finder and reader together: what the finder is not sure of must be read to be believed.

    A line that cannot be read keeps ``UNREAD`` of its confidence, which makes it a proposal at
    most: a person looks at it.
    """

    def __init__(self, settings: Settings) -> None:
        self.finder = TextFinder(settings)
        self.reader = TextReader(settings)
        self.info = ModelInfo(
            name="PP-OCRv6 small, detection and recognition",
            version=version_of("rapidocr"),
            sha256=FINDER_SHA256,
            licence="Apache-2.0",
            classes=("text",),
            source="PaddlePaddle/PaddleOCR, from the package rapidocr",
        )

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        longer = max(picture.shape)
        found = [
            line for side in sorted(sides(longer)) for line in self.finder.find(picture, side)
        ]
        found = joined([line for line in found if line.confidence >= floor])
        area = picture.shape[0] * picture.shape[1]
        unsure = [line for line in found if not _sure(line, area)]
        readings = self._read(picture, unsure)
        believed = dict(zip(map(id, unsure), readings, strict=True))
        findings = []
        for line in found:
            confidence = believed.get(id(line), line.confidence)
            if confidence >= floor:
                findings.append(Finding(*line.box, "text", confidence))
        return findings

    def _read(self, picture: np.ndarray, unsure: list[Line]) -> list[float]:
        """The confidence of each line once the reader has seen it."""
        views: list[np.ndarray] = []
        owners: list[int] = []
        for i, line in enumerate(unsure):
            for view in _views(picture, line):
                views.append(view)
                owners.append(i)
        confidences = [line.confidence * UNREAD for line in unsure]
        # The first view of a line is the plain one, the others are turned or mirrored.
        plain = {i: owners.index(i) for i in set(owners)}
        for k, (text, certainty) in enumerate(self.reader.read(views)):
            i = owners[k]
            found = unsure[i].confidence
            letters = sum(letter.isalnum() for letter in text)
            needed = AGREED_LETTER if letters == 1 else AGREED
            upright = k == plain[i] or unsure[i].length >= LONG
            agreed = found + certainty >= needed and (upright or certainty >= TURNED)
            if letters and agreed:
                confidences[i] = max(confidences[i], (found + certainty) / 2)
        return confidences


def sides(longer_px: int) -> set[int]:
    """Sizes at which a picture is looked at: one for large letters, one for small ones.

    Two sizes find what one loses: on drawn text 0.95 of the lines at the best single size, 0.97
    at these two. Letters of 7 px in a picture of 3000 px need the largest.
    """
    if longer_px > HUGE_PX:
        return {1600, 2560}
    coarse = 640 if longer_px <= 760 else 960
    fine = min(1600, max(960, round(1.6 * longer_px)))
    return {min(side, LARGEST_ZOOM * longer_px) for side in (coarse, fine)}


def joined(found: list[Line]) -> list[Line]:
    """Lines that were found more than once, as one.

    From the most certain on, a line that mostly covers another of about its thickness, or is
    mostly covered by it, takes it in and grows to hold both: at one size the network may see an
    end that it cuts off at the other.
    """
    kept: list[Line] = []
    for line in sorted(found, key=lambda line: -line.confidence):
        for i, other in enumerate(kept):
            alike = 0.5 <= line.thickness_px / other.thickness_px <= 2.0
            if alike and (_mostly_inside(line, other) or _mostly_inside(other, line)):
                x1, y1, x2, y2 = (
                    pick(a, b)
                    for pick, a, b in zip((min, min, max, max), line.box, other.box, strict=True)
                )
                if not _holds(other, line):
                    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)
                    kept[i] = Line(corners, other.confidence)
                break
        else:
            kept.append(line)
    return kept


def _mostly_inside(a: Line, b: Line) -> bool:
    ax1, ay1, ax2, ay2 = a.box
    bx1, by1, bx2, by2 = b.box
    shared = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    return shared > 0.7 * (ax2 - ax1) * (ay2 - ay1)


def _holds(a: Line, b: Line) -> bool:
    ax1, ay1, ax2, ay2 = a.box
    bx1, by1, bx2, by2 = b.box
    return ax1 <= bx1 and ay1 <= by1 and bx2 <= ax2 and by2 <= ay2


def _sure(line: Line, area: int) -> bool:
    x1, y1, x2, y2 = line.box
    if (x2 - x1) * (y2 - y1) > LARGE_SHARE * area:
        return False
    return line.confidence >= (SURE_LONG if line.length >= LONG else SURE_SHORT)


def _views(picture: np.ndarray, line: Line) -> list[np.ndarray]:
    """A line as the reader wants it, upright first, then the other ways it may stand."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = line.box
    left, top = max(0, int(x1)), max(0, int(y1))
    right, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
    if right - left < 2 or bottom - top < 2:
        return []
    if line.length < LONG:
        plain = picture[top:bottom, left:right]
        turned = [np.rot90(v, k) for v in (plain, plain[:, ::-1]) for k in range(4)]
        return [np.ascontiguousarray(view) for view in turned]
    flat = _unrolled(picture, line)
    return [flat, np.ascontiguousarray(flat[::-1, ::-1]), np.ascontiguousarray(flat[:, ::-1])]


def _unrolled(picture: np.ndarray, line: Line) -> np.ndarray:
    """A turned line laid flat, its longer side across."""
    a, b, c, d = line.corners
    if np.hypot(*(b - a)) < np.hypot(*(c - b)):
        a, b, c, d = b, c, d, a
    if a[0] > b[0]:  # from left to right where that can be told
        a, b, c, d = c, d, a, b
    w, h = max(2, round(float(np.hypot(*(b - a))))), max(2, round(float(np.hypot(*(c - b)))))
    target = np.array([[0, 0], [w, 0], [w, h], [0, h]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(np.array([a, b, c, d], dtype=np.float32), target)
    return cv2.warpPerspective(picture, matrix, (w, h), borderMode=cv2.BORDER_REPLICATE)

"""Barcodes and matrix codes: decoded by zxing-cpp, or located by OpenCV (both Apache-2.0).

What is decoded is a code beyond doubt. What is too blurred for that is mostly still located, here
or by MedSec's YOLOv8n; so are rows of teeth. A box without a decoded code in it therefore needs a
verifier that sees a code there. The content of a code never leaves this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from engine.detect.networks import Finding, ModelInfo, resized
from engine.detect.networks import version as version_of
from engine.detect.verifier import Verifier
from engine.geometry import areas_px, intersections_px
from engine.settings import Settings

DECODED = 0.99
LOCATED = 0.60
SHARP_SIDE_PX = 1280  # smaller pictures are also read at twice their size, larger ones located
SAME_BARS = 0.6  # correlation of a row with the decoded rows from which it shows the same bars


# What the verifier says of a box; see model/CARD.md for how they were chosen.
SHOWS_CODE = 0.5  # share from which it is one
MAY_SHOW_CODE = 0.1  # share from which a person is asked
SURELY_CODE = 0.99  # share from which a person is asked about what a network hardly sees
DOUBTED = 0.24  # confidence of a doubted box at most: a proposal in every shipped profile


class CodeReader:
    """All formats that zxing-cpp reads, upright and turned, dark on light and inverted."""

    def __init__(self, settings: Settings) -> None:
        import zxingcpp

        self._read = zxingcpp.read_barcodes
        linear: Any = zxingcpp.BarcodeFormat.AllLinear  # its stubs know only a list here
        self._linear = zxingcpp.barcode_formats_list(linear)
        self.info = ModelInfo(
            name="zxing-cpp and OpenCV",
            version=f"{version_of('zxing-cpp')}, {cv2.__version__}",
            sha256="",
            licence="Apache-2.0",
            classes=("barcode",),
            source="zxing-cpp/zxing-cpp, opencv/opencv",
        )

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        quads = [(quad, DECODED, bars) for quad, bars in self._decoded(grey)]
        longer = max(grey.shape)
        if longer <= SHARP_SIDE_PX:
            quads += [(quad / 2, DECODED, bars) for quad, bars in self._decoded(_scaled(grey, 2.0))]
        scale = min(1.0, SHARP_SIDE_PX / longer)
        quads += [(quad / scale, LOCATED, bars) for quad, bars in _located(_scaled(grey, scale))]
        findings = []
        for quad, confidence, bars in quads:
            if confidence < floor:
                continue
            corners = whole_bars(grey, quad) if bars else quad
            (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0) + 1
            findings.append(
                Finding(float(x1), float(y1), float(x2), float(y2), "barcode", confidence)
            )
        return findings

    def _decoded(self, grey: np.ndarray) -> list[tuple[np.ndarray, bool]]:
        """Corners of each decoded code, shape (4, 2), and whether it is made of bars."""
        found = []
        for code in self._read(grey):
            p = code.position
            quad = [(c.x, c.y) for c in (p.top_left, p.top_right, p.bottom_right, p.bottom_left)]
            found.append((np.array(quad, dtype=np.float32), code.format in self._linear))
        return found


def settled_codes(
    picture: np.ndarray,
    found: Sequence[tuple[str, Finding]],
    floor: float,
    verifier: Callable[[], Verifier],
) -> list[tuple[str, Finding]]:
    """What was found, without boxes of codes that show none.

    A box stays where a decoded code lies in it or covers it, or where the verifier sees a code.
    Where the verifier is in doubt, a box is a proposal: a person decides. So is one below
    ``floor`` of which the verifier is sure, where no other box lies.

    Args:
        picture: Shape (H, W, 3), uint8, RGB.
        found: Everything, with the name of its network; what is no code stays as it is.
        floor: Lowest confidence that is reported, 0 to 1.
        verifier: Opens the verifier; called only where it has to decide.
    """
    codes = [(i, f) for i, (_, f) in enumerate(found) if f.label == "barcode"]
    decoded = np.array([f.xyxy for _, f in codes if f.confidence == DECODED])
    plain = np.array([f.xyxy for _, f in codes if f.confidence >= floor])
    open_ = [
        i
        for i, f in codes
        if not _holds(np.array(f.xyxy), plain if f.confidence < floor else decoded)
    ]
    share_of = {}
    if open_:
        shares = verifier().shares(picture, [found[i][1].xyxy for i in open_])
        share_of = dict(zip(open_, shares.tolist(), strict=True))
    kept = []
    for i, (name, finding) in enumerate(found):
        share = share_of.get(i, 1.0)
        if finding.label == "barcode" and finding.confidence < floor:
            if share_of.get(i, 0.0) < SURELY_CODE or floor > DOUBTED:
                continue
            finding = replace(finding, confidence=DOUBTED)
        elif share < SHOWS_CODE:
            doubted = min(finding.confidence, DOUBTED)
            if share < MAY_SHOW_CODE or doubted < floor:
                continue
            finding = replace(finding, confidence=doubted)
        kept.append((name, finding))
    return kept


def _holds(box: np.ndarray, codes: np.ndarray) -> bool:
    """Does one of some codes cover half of a box, or lie in it and fill a quarter?"""
    codes = codes.reshape(-1, 4)
    shared = intersections_px(box, codes)
    area, others = float(areas_px(box)), areas_px(codes)
    return bool(((shared > 0.5 * area) | ((shared > 0.5 * others) & (shared > 0.25 * area))).any())


def _located(grey: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    """Codes that look like one, decodable or not."""
    found = []
    for detector, bars in ((cv2.barcode.BarcodeDetector(), True), (cv2.QRCodeDetector(), False)):
        there, quads = detector.detectMulti(grey)
        if there:
            found += [(np.asarray(q, np.float32).reshape(4, 2), bars) for q in quads]
    return found


def _scaled(grey: np.ndarray, factor: float) -> np.ndarray:
    height, width = grey.shape
    return resized(grey, max(1, round(width * factor)), max(1, round(height * factor)))


def whole_bars(grey: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """A linear code's box grown along its bars, as far as they go.

    A decoder reports the rows that it used; the rows above and below, beyond a reflection for
    instance, carry the same content and can be scanned as well.

    Args:
        grey: Shape (H, W), uint8.
        quad: Corners, shape (4, 2), x and y, in order around the box.

    Returns:
        Corners, shape (4, 2), not clipped.
    """
    middle = quad.mean(axis=0)
    edges = np.roll(quad, -1, axis=0) - quad
    along, across = (edges[0] - edges[2]) / 2, (edges[1] - edges[3]) / 2
    if _contrast(grey, middle, along) < _contrast(grey, middle, across):
        along, across = across, along
    length = float(np.hypot(*along))
    if length < 16:
        return quad
    across = np.array([-along[1], along[0]]) / length
    half = max(1.0, float(np.abs((quad - middle) @ across).max()))
    step = max(1.0, length / 200)
    reach = int((half + length) / step)
    offsets = np.arange(-reach, reach + 1) * step
    share = np.linspace(-0.5, 0.5, 256)
    points = middle + share[None, :, None] * along + offsets[:, None, None] * across
    rows = cv2.remap(
        grey,
        points[..., 0].astype(np.float32),
        points[..., 1].astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    ).astype(np.float32)
    inside = np.flatnonzero(np.abs(offsets) <= half)
    first, last = inside[0], inside[-1]
    model = _normal(rows[inside].mean(axis=0))
    top = _farthest(rows, model, range(int(first), -1, -1), length / step)
    bottom = _farthest(rows, model, range(int(last), len(rows)), length / step)
    ends = [middle + along * s for s in (-0.5, 0.5)]
    return np.array(
        [
            ends[0] + offsets[top] * across,
            ends[1] + offsets[top] * across,
            ends[1] + offsets[bottom] * across,
            ends[0] + offsets[bottom] * across,
        ]
    )


def _farthest(rows: np.ndarray, model: np.ndarray, order: range, length: float) -> int:
    """The last row, going outward, that still shows the bars; a reflection may interrupt them."""
    reached, shift, since = order[0], 0, 0
    for i in order:
        row = _normal(rows[i])
        # A slanted code drifts sideways from row to row.
        tried = [(float(row @ np.roll(model, s)), s) for s in range(shift - 2, shift + 3)]
        best, at = max(tried)
        if best >= SAME_BARS * len(model):
            reached, shift, since = i, at, 0
        else:
            since += 1
            if since > 0.3 * length:
                break
    return reached


def _normal(row: np.ndarray) -> np.ndarray:
    centred = row - row.mean()
    deviation = float(centred.std())
    return centred / deviation if deviation > 2.0 else np.zeros_like(row)


def _contrast(grey: np.ndarray, middle: np.ndarray, direction: np.ndarray) -> float:
    """How much grey levels change along a line through the middle; most across bars."""
    t = np.linspace(-0.4, 0.4, 128)[:, None]
    points = (middle + t * direction).astype(np.float32)
    line = cv2.remap(grey, points[None, :, 0], points[None, :, 1], cv2.INTER_LINEAR)
    return float(np.abs(np.diff(line.astype(np.float32))).mean())

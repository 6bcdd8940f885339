"""Text by the detection network of PP-OCR (Apache-2.0), which ``rapidocr`` carries.

Finds lines of text of any script, turned or upright. What a line says is never kept.
"""

from __future__ import annotations

import cv2
import numpy as np

from engine.networks import CpuModel, Finding, ModelInfo, batch, packaged, read_weights, resized
from engine.networks import version as version_of
from engine.settings import Settings

SHA256 = "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
SHORTER_SIDE_PX = 736  # smaller pictures are enlarged to it
LONGER_SIDE_PX = 1600  # larger ones are shrunk to it
PIXEL_FLOOR = 0.2
UNCLIP = 1.6
SHORTEST_CORE_PX = 3


class TextNetwork:
    """PP-OCRv6 detection: a map of how much each pixel is the core of a line of text.

    Source: Liao et al. 2020, "Real-time Scene Text Detection with Differentiable Binarization".
    """

    def __init__(self, settings: Settings) -> None:
        weights = read_weights(packaged("rapidocr", "models", "PP-OCRv6_det_small.onnx"), SHA256)
        self._model = CpuModel(weights, settings.threads)
        self.info = ModelInfo(
            name="PP-OCRv6 small, detection",
            version=version_of("rapidocr"),
            sha256=SHA256,
            licence="Apache-2.0",
            classes=("text",),
            source="PaddlePaddle/PaddleOCR, from the package rapidocr",
        )

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        height, width = picture.shape[:2]
        scale = max(1.0, SHORTER_SIDE_PX / min(height, width))
        scale = min(scale, LONGER_SIDE_PX / max(height, width))
        w = max(32, round(width * scale / 32) * 32)
        h = max(32, round(height * scale / 32) * 32)
        heat = self._model(batch(resized(picture, w, h), 127.5, 1 / 127.5))[0][0, 0]
        return [
            Finding(
                box[0] * width / w,
                box[1] * height / h,
                box[2] * width / w,
                box[3] * height / h,
                "text",
                confidence,
            )
            for box, confidence in lines(heat)
            if confidence >= floor
        ]


def lines(heat: np.ndarray) -> list[tuple[tuple[float, float, float, float], float]]:
    """Boxes of the lines in a text map.

    Args:
        heat: Shape (H, W), float32, 0 to 1; high in the core of a line.

    Returns:
        Upright box around each line and the mean of the map over its core. The core is
        thinner than the line by a fixed rule of training, so it is grown back.
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
        # The mean over the upright or turned box, not over the core, so that a ragged
        # core, which no line of text has, scores low.
        inside = np.zeros_like(core)
        outline = cv2.boxPoints(((cx, cy), (a, b), angle))
        cv2.fillPoly(inside, [np.round(outline).astype(np.int32)], 1)
        confidence = float(np.clip(heat[window][inside > 0].mean(), 0.0, 1.0))
        a, b = a + 1.0, b + 1.0  # contours run through pixel centres
        grow = UNCLIP * a * b / (a + b)  # area * ratio / perimeter, on either side
        corners = cv2.boxPoints(((cx, cy), (a + grow, b + grow), angle))
        origin = np.array([x + 0.5, y + 0.5])
        x1, y1 = corners.min(axis=0) + origin
        x2, y2 = corners.max(axis=0) + origin
        found.append(((float(x1), float(y1), float(x2), float(y2)), confidence))
    return found

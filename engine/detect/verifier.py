"""A second opinion on a box: does it show what another network took it for?

Small networks of our own, one a question (:mod:`model.verifier` trains them). Each sees a box
twice: whole, with what surrounds it, and its middle at the picture's own scale. Teeth in a row
look like a barcode only in the first view, a grid only in the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engine.detect.networks import CpuModel, ModelInfo, read_weights, recorded
from engine.installation import MODEL
from engine.settings import Settings

SIDE_PX = 96  # of a view
AROUND = 0.15  # of the box's longer side: what is shown around it
FAINT = 8.0  # grey levels of deviation below which a view is not stretched
AT_ONCE = 64  # boxes in one run

Box = tuple[float, float, float, float]


class Verifier:
    """One such network.

    Args:
        label: The class that it knows.

    Raises:
        DetectorError: Missing or altered.
    """

    def __init__(self, settings: Settings, label: str) -> None:
        name = f"verifier-{label}.onnx"
        sha256 = recorded(MODEL).get(name, "")
        # In f32 everywhere: its thresholds were chosen there, and it is too small to gain.
        self._model = CpuModel(
            read_weights(MODEL / name, sha256), settings.threads, precision="f32"
        )
        self.info = ModelInfo(
            name=f"MedSec verifier, {label}",
            version="1",
            sha256=sha256,
            licence="AGPL-3.0",
            classes=(label,),
            source="trained by this project, see model/CARD.md",
        )

    def shares(self, picture: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
        """How sure the network is of each box.

        Args:
            picture: Shape (H, W, 3), uint8, RGB.
            boxes: x1, y1, x2, y2 in px; they may reach beyond the picture.

        Returns:
            Shape (N,), float32, 0 to 1.
        """
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        return self._said([views(grey, box) for box in boxes])

    def _said(self, shown: Sequence[np.ndarray]) -> np.ndarray:
        """What the network says of views, each of the same shape. Shape (N,), float32, 0 to 1."""
        parts = [
            self._model(np.stack(shown[i : i + AT_ONCE]))[0].reshape(-1)
            for i in range(0, len(shown), AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)


def views(grey: np.ndarray, box: Box) -> np.ndarray:
    """What a verifier sees of a box.

    Args:
        grey: Shape (H, W), uint8.
        box: x1, y1, x2, y2 in px; it may reach beyond the picture.

    Returns:
        Shape (2, SIDE_PX, SIDE_PX), float32, mean 0 and deviation 1 each: the box with its
        surroundings, stretched to a square, and its middle at the picture's own scale.
    """
    height, width = grey.shape
    x1, y1, x2, y2 = box
    around = AROUND * max(x2 - x1, y2 - y1)
    left, top = max(0, int(x1 - around)), max(0, int(y1 - around))
    right = max(left + 1, min(width, int(np.ceil(x2 + around))))
    bottom = max(top + 1, min(height, int(np.ceil(y2 + around))))
    part = grey[min(top, height - 1) : bottom, min(left, width - 1) : right]
    shrinks = part.size > SIDE_PX * SIDE_PX
    whole = cv2.resize(
        part, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    middle = cv2.getRectSubPix(
        grey, (SIDE_PX, SIDE_PX), (float(x1 + x2) / 2 - 0.5, float(y1 + y2) / 2 - 0.5)
    )
    return np.stack([_normal(whole), _normal(middle)])


def _normal(view: np.ndarray) -> np.ndarray:
    values = view.astype(np.float32)
    return np.asarray((values - values.mean()) / max(float(values.std()), FAINT), np.float32)

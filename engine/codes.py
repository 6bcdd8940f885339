"""Barcodes and matrix codes by zxing-cpp (Apache-2.0): a decoder, not a network.

What it decodes is a code beyond doubt. A code that is too blurred, bent or cut to be
decoded may be missed. The content of a code never leaves this module.
"""

from __future__ import annotations

import numpy as np

from engine.networks import Finding, ModelInfo
from engine.networks import version as version_of
from engine.settings import Settings

DECODED = 0.99
DAMAGED = 0.2  # located, but its checksum is wrong: worth a person's look


class CodeReader:
    """All formats that zxing-cpp reads, upright and turned, dark on light and inverted."""

    def __init__(self, settings: Settings) -> None:
        import zxingcpp

        self._read = zxingcpp.read_barcodes
        self.info = ModelInfo(
            name="zxing-cpp",
            version=version_of("zxing-cpp"),
            sha256="",
            licence="Apache-2.0",
            classes=("barcode",),
            source="zxing-cpp/zxing-cpp",
        )

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        findings = []
        for code in self._read(np.ascontiguousarray(picture), return_errors=True):
            confidence = DECODED if code.valid else DAMAGED
            if confidence < floor:
                continue
            p = code.position
            corners = (p.top_left, p.top_right, p.bottom_right, p.bottom_left)
            xs = [corner.x for corner in corners]
            ys = [corner.y for corner in corners]
            findings.append(
                Finding(min(xs), min(ys), max(xs) + 1, max(ys) + 1, "barcode", confidence)
            )
        return findings

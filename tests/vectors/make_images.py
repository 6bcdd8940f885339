"""Makes images-v1.json: files taken apart by version 1 of the parts format.

    python -m tests.vectors.make_images

Run once per version of the format. The file of an old version is never made again: it is the
proof that what was sealed then still opens. Content is invented.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from engine.formats import images
from engine.records import Region
from engine.settings import Settings
from tests import builders


def cases() -> list[dict[str, Any]]:
    """Two overlapping regions on one file of each way of sealing."""
    grey, colour = builders.radiograph(24, 20), builders.radiograph(32, 32, colour=True)
    twelve, still = builders.radiograph(24, 20, bits=12), np.stack([grey] * 3)
    files = {
        "PNG grey": builders.pillow(grey, "PNG"),
        "PNG palette": builders.pillow(colour[:16, :16], "PNG", "P"),
        "JPEG 4:2:0": builders.jpeg(colour),
        "JPEG grey optimised": builders.jpeg(grey, optimize=True),
        "DICOM native": builders.dicom(twelve, bits=12),
        "DICOM still cine": builders.dicom(still),
        "DICOM RLE": builders.dicom(grey, syntax=builders.RLELossless),
        "DICOM JPEG": builders.dicom(grey, syntax=builders.JPEGBaseline8Bit),
        "BMP": builders.pillow(grey[:8, :8], "BMP"),
    }
    return [_case(name, data) for name, data in files.items()]


def _case(name: str, data: bytes) -> dict[str, Any]:
    image = images.decode(name, data, images.Limits.of(Settings()))
    size = (image.width, image.height, image.frames)
    boxes = (Region(0, 0, 16, 16, 0, image.frames), Region(8, 8, 20, 18))
    regions = [r for b in boxes if (r := b.aligned(image.grid).clipped(*size)) is not None]
    made = images.dissect(image, regions, bytes(range(32)))
    return {
        "name": name,
        "regions": [dataclasses.astuple(r) for r in regions],
        "original": _text(data),
        "masked": _text(made.masked),
        "stored": _text(images.for_storage(made.masked)),
        "patches": [_text(p) for p in made.patches],
        "remainder": _text(made.remainder),
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


if __name__ == "__main__":
    target = Path(__file__).with_name("images-v1.json")
    target.write_text(json.dumps({"cases": cases()}, indent=1) + "\n")

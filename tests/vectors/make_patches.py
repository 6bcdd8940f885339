"""Makes patches-v1.json: patches of each coder for what is large, as first written.

    python -m tests.vectors.make_patches

Run once. Small patches are in images-v1.json; here the limit is lowered, so that small pictures
are coded as large ones are. Content is invented.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from unittest import mock

from engine.formats import patches
from tests import builders


def main() -> None:
    grey, colour = builders.radiograph(64, 48), builders.radiograph(64, 48, colour=True)
    twelve = builders.radiograph(64, 48, bits=12)
    pictures = {
        "8 bit": grey[None],
        "12 bit": twelve[None],
        "12 bit, signed": twelve[None].astype("<i2") - 1024,
        "colour": colour[None],
    }
    cases = []
    with mock.patch.object(patches, "_LARGE_BYTES", 0):
        for name, pixels in pictures.items():
            patch = patches.encode(pixels)
            assert patch[0] == patches.JPEGXL, name
            cases.append(
                {
                    "name": name,
                    "dtype": pixels.dtype.str,
                    "shape": list(pixels.shape),
                    "pixels": base64.b64encode(pixels.tobytes()).decode(),
                    "patch": base64.b64encode(patch).decode(),
                }
            )
    target = Path(__file__).with_name("patches-v1.json")
    target.write_text(json.dumps({"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What calls of commands have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests import builders


def where(place: Path) -> list[str]:
    """Options that name the data folder and the root key."""
    return ["--data", str(place / "data"), "--key", str(place / "root.key")]


def labelled(text: str) -> np.ndarray:
    """A radiograph with a name on it."""
    pixels = builders.radiograph(640, 480)
    builders.write_text(pixels, text, (16, 16), scale=0.9)
    return pixels

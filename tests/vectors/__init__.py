"""Frozen vectors of every format there was; see :mod:`tests.vectors.make`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load(name: str) -> Any:
    """One file of vectors, such as ``sealed-v1``."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))

"""Which release of MedSec this is, and where its files lie: a checkout or an installed wheel."""

from __future__ import annotations

import importlib.metadata
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "model"
#: Unmodified networks of others; model/vendor/README.md says whose and under which licence.
VENDOR = MODEL / "vendor"


@cache
def version() -> str:
    """The number in ``pyproject.toml``, which is written nowhere else.

    A checkout is asked first: beside it, another release may be installed.
    """
    project = ROOT / "pyproject.toml"
    if project.exists():
        table = tomllib.loads(project.read_text(encoding="utf-8"))
        return str(table["project"]["version"])
    return importlib.metadata.version("medsec")

"""The sets that come with the project, on which a learned version must not be worse.

- *real*: the files that ``model/real/gt.json`` names, out of the packages pydicom-data and
  deid-data, labelled by looking;
- *drawn*: pages of the test split of :mod:`model.data`, whose fonts and layouts no training saw.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine.errors import SettingsError
from engine.formats.images import Limits, decode, render
from engine.settings import Settings
from model.data import CLASSES, whole_page
from model.evaluate import Whole, in_colour

REAL = Path(__file__).resolve().parent / "real"
PACKAGES = ("data_store", "deid_data", "pydicom")
DRAWN_SEED = 11
DRAWN_PAGES = 24


def packaged_file(name: str) -> Path:
    """A data file of one of the packages, wherever in it.

    Raises:
        SettingsError: It is not there.
    """
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            found = next(Path(folder).rglob(name), None)
            if found is not None:
                return found
    raise SettingsError(
        f"The file {name} of the packages pydicom-data and deid-data is missing. Install what"
        " training needs: requirements-train.txt."
    )


def real_pictures(count: int = 0) -> Iterator[Whole]:
    """The labelled files, or the first so many. Raises SettingsError where one is missing."""
    truth = json.loads((REAL / "gt.json").read_text(encoding="utf-8"))
    covered = json.loads((REAL / "coverage.json").read_text(encoding="utf-8"))
    limits = Limits.of(Settings())
    for name in sorted(truth)[: count or None]:
        picture = render(decode(name, packaged_file(name).read_bytes(), limits))
        yield Whole(name, in_colour(picture), truth[name], covered.get(name, []))


def drawn_pages(count: int = DRAWN_PAGES, seed: int = DRAWN_SEED) -> Iterator[Whole]:
    """The same pages on every machine with the same fonts."""
    for number in range(count):
        page = whole_page(seed, number, "test", [])
        pixels: np.ndarray = np.ascontiguousarray(page.pixels)
        yield Whole(page.name, pixels, page.truth, [c for c in CLASSES if c != "thorax"])


def shipped(pages: int = DRAWN_PAGES, files: int = 0) -> dict[str, Callable[[], Iterator[Whole]]]:
    """Each set by its name."""
    return {"real": lambda: real_pictures(files), "drawn": lambda: drawn_pages(pages)}

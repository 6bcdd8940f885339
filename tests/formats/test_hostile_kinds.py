"""Hostile files of telephones', scanners' and programs' formats, as in ``test_hostile``."""

from __future__ import annotations

import numpy as np
import pytest

from tests import photographs
from tests.formats.test_hostile import run, use


@pytest.fixture(scope="module")
def seeds() -> dict[str, bytes]:
    tiffs = photographs.tiff_kinds().items()
    return photographs.converted_kinds() | {f"TIFF {name}": data for name, data in tiffs}


def test_hostile_files_end_in_a_result_or_a_named_error(seeds: dict[str, bytes]) -> None:
    ends = run(range(500), seeds)
    assert sum(ends.values()) == 500
    assert ends["result"] > 30, "all refused: the inputs are no test"
    assert ends["CorruptImage"] > 30


@pytest.mark.slow
def test_many_more_hostile_files_end_in_a_result_or_a_named_error(seeds: dict[str, bytes]) -> None:
    assert sum(run(range(20_000, 24_000), seeds).values()) == 4_000


@pytest.mark.parametrize(
    "name", ["HEIC", "AVIF alpha", "JPEG XL boxes", "JPEG 2000", "GIF moving", "JPEG CMYK"]
)
def test_a_file_cut_anywhere_is_refused_or_whole(seeds: dict[str, bytes], name: str) -> None:
    data = seeds[name]
    for cut in np.linspace(1, len(data) - 1, 12).astype(int):
        assert use(data[:cut]) in ("CorruptImage", "UnsupportedFormat", "result")

"""TIFF and BMP: no second copy of the pixels is sealed where their coding can be repeated."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile

from engine.errors import SealBroken
from engine.formats import raster, recoding
from engine.records import Format, Region
from tests import builders

GREY = builders.labelled(width=161, height=123)[0]
COLOUR = builders.labelled(width=161, height=123, colour=True)[0]
DEEP = builders.radiograph(161, 123, bits=16)
BOXES = [Region(3, 2, 90, 40), Region(50, 20, 161, 123)]


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


REPEATED = {
    "TIFF": builders.pillow(GREY, "TIFF", description="Musterfrau Erika"),
    "TIFF 16": builders.pillow(DEEP, "TIFF"),
    "TIFF RGBA": builders.pillow(COLOUR, "TIFF", "RGBA"),
    "TIFF bilevel": builders.pillow(GREY, "TIFF", "1"),
    "TIFF palette": builders.pillow(COLOUR, "TIFF", "P"),
    "TIFF deflate by libtiff": builders.pillow(COLOUR, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF deflate with differences": tiff(DEEP, compression="zlib", predictor=True),
    "TIFF LZW with differences": tiff(COLOUR, compression="lzw", predictor=True, photometric="rgb"),
    "TIFF big-endian": tiff(DEEP, byteorder=">"),
    "TIFF big": tiff(DEEP, bigtiff=True),
    "TIFF in strips": tiff(COLOUR, rowsperstrip=7, photometric="rgb"),
    "TIFF pages": tiff(np.stack([DEEP, DEEP[::-1]]), photometric="minisblack"),
    "BMP": builders.pillow(COLOUR, "BMP"),
    "BMP grey": builders.pillow(GREY, "BMP"),
}
WHOLE = {
    "TIFF tiled": tiff(GREY, tile=(32, 32)),
    "TIFF fax": builders.pillow(GREY, "TIFF", "1", compression="group4"),
    "TIFF JPEG": builders.pillow(COLOUR, "TIFF", compression="jpeg"),
    "TIFF planes": tiff(np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate"),
    "BMP palette": builders.pillow(COLOUR, "BMP", "P"),
    "BMP 32 bit": builders.pillow(COLOUR, "BMP", "RGBA"),
    "WebP": builders.pillow(COLOUR, "WEBP", lossless=True),
}


def kind_of(name: str) -> Format:
    return {"TIFF": Format.TIFF, "BMP": Format.BMP, "WebP": Format.WEBP}[name.split()[0]]


@pytest.mark.parametrize("name", REPEATED)
def test_a_coding_that_can_be_repeated_is_not_sealed_twice(name: str) -> None:
    data = REPEATED[name]
    masked, coded, parts = raster.dissect(kind_of(name), data, BOXES)
    assert raster.assemble(masked, BOXES, dict(enumerate(coded)), parts) == data
    assert "whole" not in parts
    assert sum(map(len, parts.values())) < 0.1 * len(data) + 2_000
    assert b"Musterfrau" not in masked


@pytest.mark.parametrize("name", WHOLE)
def test_any_other_coding_is_sealed_whole(name: str) -> None:
    data = WHOLE[name]
    _, _, parts = raster.dissect(kind_of(name), data, BOXES)
    assert parts == {"whole": data}


def test_all_that_is_around_the_pixels_says_nothing_of_them() -> None:
    other = builders.differing_inside(DEEP, BOXES)
    one, two = (raster.dissect(Format.TIFF, tiff(p), BOXES)[2] for p in (DEEP, other))
    assert one == two


@pytest.mark.parametrize("wrong", [{}, {"recipe": b"["}, {"recipe": b"{}"}, {"recipe": b"7"}])
def test_parts_that_make_no_sense_are_a_named_error(wrong: dict[str, bytes]) -> None:
    pixels, _, _ = raster.decode(Format.TIFF, REPEATED["TIFF"], 10_000, 1 << 30)
    parts = recoding.take(Format.TIFF, REPEATED["TIFF"], pixels)
    assert parts is not None
    with pytest.raises(SealBroken):
        recoding.give({**parts, **wrong} if wrong else {}, pixels)

"""PNG, TIFF, BMP and WebP: every kind of PNG comes back to the byte, whoever wrote it."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from itertools import pairwise
from typing import Any
from unittest import mock

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from engine.errors import CorruptImage, SealBroken, UnsupportedFormat
from engine.formats import images, patches, png, png_seal, raster
from engine.records import Format, Region
from engine.settings import Settings
from tests import builders, vectors

LIMITS = images.Limits.of(Settings())
GREY = builders.labelled(width=90, height=61)[0]
COLOUR = builders.labelled(width=90, height=61, colour=True)[0]
BOXES = [Region(5, 4, 60, 30), Region(40, 20, 90, 61)]


def restored(data: bytes, regions: list[Region] = BOXES) -> bytes:
    """What a PNG's own parts give, without the whole file that is sealed where they do not."""
    masked, coded, parts = png_seal.dissect(data, regions)
    return png_seal.assemble(masked, regions, dict(enumerate(coded)), parts)


def opened(data: bytes) -> bytes:
    """The whole way, as the engine goes it."""
    made = images.dissect(images.decode("any.png", data, LIMITS), BOXES, bytes(32))
    return images.assemble(made.masked, BOXES, dict(enumerate(made.patches)), made.remainder)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def handmade(
    depth: int,
    colour: int,
    *,
    interlaced: bool = False,
    level: int = 6,
    pieces: int = 1,
    filters: int | None = None,
    seed: int = 3,
    size: tuple[int, int] = (37, 23),
) -> tuple[bytes, np.ndarray]:
    """A PNG of any kind, and the samples in it."""
    rng = np.random.default_rng(seed)
    channels = png.CHANNELS[colour]
    top = (1 << depth) - 1
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    pixels = rng.integers(0, top, shape, endpoint=True).astype(
        np.uint16 if depth == 16 else np.uint8
    )
    pixels[: size[1] // 2] = top // 3  # something that compresses
    header = png.Header(size[0], size[1], depth, colour, interlaced)
    count = sum(-(-(size[1] - y0) // dy) for _, y0, _, dy in header.passes())
    types = (
        rng.integers(0, 5, count).astype(np.uint8)
        if filters is None
        else np.full(count, filters, np.uint8)
    )
    stream = zlib.compress(png.filtered(pixels, header, types), level)
    cuts = np.linspace(0, len(stream), pieces + 1).astype(int)
    parts = [_chunk(b"IDAT", stream[a:b]) for a, b in pairwise(cuts)]
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, int(interlaced))
    palette = _chunk(b"PLTE", bytes(range(256)) * 3) if colour == png.PALETTE else b""
    if colour == png.PALETTE:
        palette = _chunk(b"PLTE", (bytes(range(256)) * 3)[: 3 << depth])
    return b"".join(
        [png.SIGNATURE, _chunk(b"IHDR", head), palette, *parts, _chunk(b"IEND", b"")]
    ), pixels


EVERY_KIND = [
    (depth, colour)
    for colour, depths in png._DEPTHS.items()
    for depth in depths
]  # fmt: skip


@pytest.mark.parametrize(("depth", "colour"), EVERY_KIND)
@pytest.mark.parametrize("interlaced", [False, True])
def test_every_kind_of_png_is_read_and_comes_back(
    depth: int, colour: int, interlaced: bool
) -> None:
    data, pixels = handmade(depth, colour, interlaced=interlaced)
    regions = [Region(3, 2, 20, 12), Region(10, 8, 37, 23)]
    assert np.array_equal(png.samples(data, png.parse(data)), pixels)
    assert restored(data, regions) == data
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert theirs is not None
    if depth >= 8 and colour in (png.GREY, png.RGB, png.RGBA):
        order = {2: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}
        ours = pixels if pixels.ndim == 2 else pixels[..., order[pixels.shape[2]]]
        assert np.array_equal(theirs, ours)


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("filters", [0, 1, 4])
def test_any_level_of_zlib_is_found_again(level: int, filters: int) -> None:
    data, _ = handmade(8, png.RGB, level=level, pieces=3, filters=filters, size=(200, 150))
    assert restored(data) == data


PILLOW = [
    {}, {"optimize": True}, {"compress_level": 1}, {"compress_level": 9}, {"compress_type": 3},
    {"compress_type": 1},
]  # fmt: skip


@pytest.mark.parametrize("options", PILLOW)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "I;16"])
def test_what_pillow_writes_comes_back_to_the_byte(mode: str, options: dict[str, Any]) -> None:
    pixels = COLOUR if mode not in ("I;16",) else builders.radiograph(90, 61, bits=16)
    data = builders.pillow(pixels, "PNG", None if mode == "I;16" else mode, **options)
    assert restored(data) == data


@pytest.mark.parametrize(
    "strategy",
    [
        cv2.IMWRITE_PNG_STRATEGY_DEFAULT,
        cv2.IMWRITE_PNG_STRATEGY_FILTERED,
        cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_STRATEGY_FIXED,
    ],
)
@pytest.mark.parametrize(
    "pixels", [GREY, COLOUR, builders.radiograph(90, 61, bits=16)], ids=["8", "RGB", "16"]
)
def test_what_opencv_writes_comes_back_to_the_byte(pixels: np.ndarray, strategy: int) -> None:
    data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_STRATEGY, strategy])[1].tobytes()
    assert opened(data) == data


def test_a_stream_that_zlib_did_not_write_comes_back_too() -> None:
    rows = png.filtered(GREY, png.header_of(GREY))
    stream = bytes(imagecodecs.deflate_encode(rows, 12))  # another coder
    head = struct.pack(">IIBBBBB", 90, 61, 8, 0, 0, 0, 0)
    note = _chunk(b"tEXt", b"Author\0Musterfrau")
    data = b"".join(
        [png.SIGNATURE, _chunk(b"IHDR", head), note, _chunk(b"IDAT", stream), _chunk(b"IEND", b"")]
    )
    assert opened(data) == data
    assert b"Musterfrau" not in png_seal.dissect(data, BOXES)[0]


def test_data_behind_the_end_comes_back_but_is_not_shared() -> None:
    data = builders.png(GREY) + b"Musterfrau"
    assert restored(data) == data
    assert b"Musterfrau" not in png_seal.dissect(data, BOXES)[0]


def test_a_transparent_colour_does_not_make_the_fill_transparent() -> None:
    for key in range(0, 256, 1):
        note = _chunk(b"tRNS", struct.pack(">H", key))
        plain = builders.png(GREY)
        at = plain.index(b"IDAT") - 4
        data = plain[:at] + note + plain[at:]
        if key % 16 in (4, 9, 12, 13):
            masked = png_seal.dissect(data, [Region(0, 0, 40, 40)])[0]
            fill = png.samples(masked, png.parse(masked))[:40, :40]
            assert key not in fill


def test_a_full_palette_is_masked_with_two_of_its_own_colours() -> None:
    indices = np.arange(256, dtype=np.uint8).repeat(20).reshape(64, 80)
    picture = Pillow.fromarray(indices).convert("P")
    picture.putpalette([v for i in range(256) for v in (i, 255 - i, i)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = buffer.getvalue()
    regions = [Region(0, 0, 10, 10)]
    masked = png_seal.dissect(data, regions)[0]
    assert len(np.unique(png.samples(masked, png.parse(masked))[:10, :10])) == 2
    assert restored(data, regions) == data


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.replace(b"IHDR", b"IHDX"),
        lambda d: d[:33] + d[33:].replace(b"IDAT", b"XDAT"),
        lambda d: d[:24] + b"\x07" + d[25:],  # no such depth
        lambda d: d[:25] + b"\x05" + d[26:],  # no such colour
        lambda d: d[:16] + struct.pack(">I", 5000) + d[20:],  # wider than its rows
        lambda d: d[:60] + bytes(20) + d[80:],
    ],
)
def test_a_damaged_png_is_a_named_error(damage: Any) -> None:
    data = damage(builders.png(GREY))
    with pytest.raises(CorruptImage):
        png.samples(data, png.parse(data))


def test_pages_of_a_tiff_are_frames() -> None:
    pixels = builders.cine()[0]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="minisblack", compression="lzw")
    read, grid, facts = raster.decode(Format.TIFF, buffer.getvalue(), 10_000, 1 << 30)
    assert np.array_equal(read, pixels)
    assert grid == (1, 1)
    assert facts["colour"] == "grey"


@pytest.mark.parametrize(
    "options",
    [{"compression": "zlib", "predictor": True}, {"compression": "packbits"}, {"tile": (16, 16)},
     {"planarconfig": "separate"}, {"byteorder": ">"}, {"bigtiff": True}, {"rowsperstrip": 7}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_of_many_layouts_is_read(options: dict[str, Any], bits: int) -> None:
    pixels = builders.radiograph(64, 48, bits=bits, colour=True)
    options = dict(options)
    front = {k: options.pop(k) for k in ("byteorder", "bigtiff") if k in options}
    stored = np.moveaxis(pixels, -1, 0) if options.get("planarconfig") == "separate" else pixels
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stored, photometric="rgb", **front, **options)
    read, _, _ = raster.decode(Format.TIFF, buffer.getvalue(), 10_000, 1 << 30)
    assert np.array_equal(read[0], pixels)
    assert read.dtype == pixels.dtype


def test_inverted_tiff_is_shown_inverted() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, GREY, photometric="miniswhite")
    from engine.records import Image

    read, grid, facts = raster.decode(Format.TIFF, buffer.getvalue(), 10_000, 1 << 30)
    image = Image("a", Format.TIFF, b"", read, grid, facts)
    assert np.array_equal(images.render(image, 0)[..., 0], 255 - GREY)


def test_unusual_tiff_is_refused() -> None:
    with pytest.raises(UnsupportedFormat):
        raster.decode(Format.TIFF, builders.pillow(COLOUR, "TIFF", "LAB"), 10_000, 1 << 30)


# --- patches ---------------------------------------------------------------------------------

TYPES = ["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<f8", ">u2", ">i2"]


@given(
    st.sampled_from(TYPES), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20),
    st.sampled_from([0, 1, 2, 3, 4]), st.integers(0, 2**32 - 1), st.booleans(), st.booleans(),
)  # fmt: skip
@settings(max_examples=250, deadline=None)
def test_a_patch_of_any_shape_and_type_comes_back(
    kind: str,
    frames: int,
    height: int,
    width: int,
    channels: int,
    seed: int,
    still: bool,
    large: bool,
) -> None:
    rng = np.random.default_rng(seed)
    shape = (frames, height, width) + ((channels,) if channels else ())
    raw = rng.integers(0, 256, (int(np.prod(shape)) * 8,), dtype=np.uint8)
    dtype = np.dtype(kind)
    pixels = raw[: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape).copy()
    if still:
        pixels[:] = pixels[0]
    with mock.patch.object(patches, "_LARGE_BYTES", 0 if large else 1 << 18):
        patch = patches.encode(pixels)
    back = patches.decode(patch)
    assert back.shape == pixels.shape
    assert back.tobytes() == pixels.astype(dtype.newbyteorder("<")).tobytes()
    assert back.flags.writeable


@pytest.mark.parametrize("case", vectors.load("patches-v1")["cases"], ids=lambda c: c["name"])
def test_a_large_patch_that_was_coded_once_opens_for_ever(case: dict[str, Any]) -> None:
    back = patches.decode(base64.b64decode(case["patch"]))
    assert back.dtype.str == case["dtype"]
    assert list(back.shape) == case["shape"]
    assert back.tobytes() == base64.b64decode(case["pixels"])


def test_a_large_picture_takes_little_more_than_half_and_comes_back() -> None:
    pixels = builders.radiograph(600, 500, bits=12)[None]
    patch = patches.encode(pixels)
    assert patch[0] == patches.JPEGXL
    assert len(patch) < 0.6 * pixels.nbytes
    assert np.array_equal(patches.decode(patch), pixels)
    with pytest.raises(SealBroken):
        patches.decode(patch[:-1])


def test_a_still_overlay_costs_one_frame() -> None:
    frame = builders.radiograph(80, 30)
    once = len(patches.encode(frame[None]))
    often = len(patches.encode(np.repeat(frame[None], 50, axis=0)))
    assert often < 1.3 * once


@pytest.mark.parametrize("colour", [False, True])
def test_what_was_drawn_is_coded_as_a_drawing(colour: bool) -> None:
    bars = np.repeat(np.random.default_rng(4).integers(0, 2, 90), 4).astype(np.uint8) * 255
    code = np.repeat(bars[None], 400, axis=0)
    pixels = np.repeat(code[..., None], 3, axis=2) if colour else code
    patch = patches.encode(pixels[None])
    assert len(patch) < 200
    assert np.array_equal(patches.decode(patch)[0], pixels)


def test_a_broken_patch_or_container_is_a_named_error() -> None:
    patch = patches.encode(GREY[None])
    packed = patches.pack({"a": b"one" * 500, "b": b""})
    assert patches.unpack(packed) == {"a": b"one" * 500, "b": b""}
    for wrong in (b"", b"\0", patch[:-1], patch + b"\0", b"\x09" + patch[1:], bytes(60)):
        with pytest.raises(SealBroken):
            patches.decode(wrong)
    for wrong in (b"", b"\x02\0\0", packed[:-1], packed[:20], packed[:3] + b"\xff" + packed[4:]):
        with pytest.raises(SealBroken):
            patches.unpack(wrong)

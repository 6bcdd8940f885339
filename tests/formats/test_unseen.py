"""What no viewer shows is in no masked file, and comes back byte for byte.

A name is planted at every place that a format leaves open (:mod:`tests.formats.planted`). It must
not be in the masked file: not as bytes, not in anything compressed in it, and not in its pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from engine.formats import dicom_file, images, png, unseen
from engine.records import Image, Region
from engine.settings import Settings
from tests.formats import planted, planted_dicom, test_hostile

LIMITS = images.Limits.of(Settings(max_decoded_mb=64))
KEY = bytes(32)
#: What a viewer shows of these is another thing than their pixels, and goes as a whole.
SHOWN_AS_WELL = ("DICOM: overlay", "DICOM: bits below")
FILES = planted.pictures() | planted_dicom.files()


def inflated(data: bytes) -> Iterator[bytes]:
    """Everything in a file that inflates."""
    if data.startswith(png.SIGNATURE):
        yield zlib.decompressobj().decompress(png.deflated(data, png.parse(data)))
    if dicom_file.looks_like(data):
        yield dicom_file.parse(data).body
    at = -1
    while (at := data.find(b"\x78", at + 1)) >= 0:
        try:
            yield zlib.decompressobj().decompress(data[at:], 1 << 20)
        except zlib.error:
            continue


def planes(image: Image) -> Iterator[bytes]:
    """Stored values of each channel, each of their bytes by itself."""
    pixels = image.pixels if image.pixels.ndim == 4 else image.pixels[..., None]
    for channel in range(pixels.shape[3]):
        values = np.ascontiguousarray(pixels[..., channel])
        steps = values.view(np.uint8).reshape(-1, values.dtype.itemsize)
        yield from (steps[:, n].tobytes() for n in range(steps.shape[1]))
    yield pixels.tobytes()


def places(data: bytes) -> list[bytes]:
    """All that can be read from a file."""
    image = images.decode("any", data, LIMITS)
    facts = [v for v in image.properties.values() if isinstance(v, bytes)]
    facts += [v.tobytes() for v in image.properties.values() if isinstance(v, np.ndarray)]
    return [data, *inflated(data), *planes(image), *facts]


def pieces(size: int = 6) -> set[bytes]:
    """Parts of the name long enough to know it by, also with every other byte missing."""
    name = planted.NAME
    return {name[i : i + size] for i in range(len(name) - size + 1)}


def says_the_name(data: bytes) -> bool:
    found = places(data)
    wide = [part[::2] for part in found] + [part[1::2] for part in found]
    return any(piece in part for part in (*found, *wide) for piece in pieces())


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_says_where_nobody_looks_is_not_in_the_masked_file(name: str) -> None:
    data = FILES[name]
    image = images.decode("any", data, LIMITS)
    corner = Region(image.width - 16, image.height - 9, image.width, image.height)
    aligned = corner.aligned(image.grid).clipped(image.width, image.height, image.frames)
    assert aligned is not None
    for regions in ([], [aligned]):
        made = images.dissect(image, regions, KEY)
        assert not says_the_name(made.masked)
        back = images.assemble(made.masked, regions, dict(enumerate(made.patches)), made.remainder)
        assert back == data
        masked = images.decode("any", made.masked, LIMITS)
        assert masked.pixels.shape == image.pixels.shape
        if not regions and name not in SHOWN_AS_WELL:
            before, after = (images.render(i).astype(int) for i in (image, masked))
            assert np.abs(before - after).max() <= (12 if image.grid > (2, 1) else 0)
        elif regions:  # one region opened alone brings back what it shows, and nothing unseen
            part = images.assemble(made.masked, regions, dict(enumerate(made.patches)), None)
            opened = images.decode("any", part, LIMITS)
            height, width = images.whole_blocks(image)
            one, other = images.shown(image, 0), images.shown(opened, 0)
            floats = one.dtype.kind == "f"
            assert np.array_equal(one[:height, :width], other[:height, :width], equal_nan=floats)
            assert not says_the_name(part)


def test_every_plant_is_found_in_the_original_or_hidden_by_its_coding() -> None:
    """The search that finds nothing in masked files does find things."""
    lost = [name for name, data in FILES.items() if not says_the_name(data)]
    assert lost == [  # one to four letters, every tenth byte, or seven bits of each
        "PNG: words as gAMA", "PNG: words as sRGB", "PNG: words as sBIT", "PNG: words as tRNS",
        "PNG: bits behind a row", "JPEG: density", "BMP: behind the rows",
        "BMP: fourth byte of a pixel", "DICOM: bits above JPEGLosslessSV1",
    ]  # fmt: skip


def test_damaged_files_with_a_name_end_in_a_result_or_a_named_error_and_keep_it() -> None:
    ends = test_hostile.run(range(300), FILES)
    assert sum(ends.values()) == 300
    assert ends["result"] > 60
    assert ends["CorruptImage"] > 30


@pytest.mark.slow
def test_many_more_damaged_files_with_a_name_keep_it() -> None:
    assert sum(test_hostile.run(range(30_000, 36_000), FILES).values()) == 6_000


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_are_kept_to_the_step_that_their_opacity_shows(dtype: type) -> None:
    top = int(np.iinfo(dtype).max)
    some: np.ndarray = np.unique(np.linspace(0, top, 256).astype(dtype))
    pixels = np.stack(np.meshgrid(some, some), axis=-1)
    plain = unseen.opaque_enough(pixels)

    def over(ground: float, rgba: np.ndarray) -> np.ndarray:
        share = rgba[..., 1] / top
        return np.asarray((rgba[..., 0] * share + ground * (1 - share)) / (top // 255))

    assert np.array_equal(np.round(over(0, pixels)), np.round(over(0, plain)))
    assert np.abs(over(top, pixels) - over(top, plain)).max() <= 1.01
    assert np.array_equal(unseen.opaque_enough(plain), plain)
    assert not plain[plain[..., 1] == 0].any()
    full = pixels[..., 1] == top
    assert np.array_equal(plain[full], pixels[full])

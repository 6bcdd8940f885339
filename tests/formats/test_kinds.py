"""Formats of telephones, scanners and programs: taken, masked as PNG or TIFF, given back to the
byte; and for what is not taken, a sentence that says what to do."""

from __future__ import annotations

import io
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from engine.formats import images
from engine.records import Dissection, Image, Region
from engine.settings import Settings
from tests import photographs

LIMITS = images.Limits.of(Settings())
KEY = bytes(32)
CONVERTED = photographs.converted_kinds()
TIFFS = photographs.tiff_kinds()
ALL = {**CONVERTED, **TIFFS}
#: On the label, over it, and on the wound.
BOXES = (Region(8, 8, 56, 24), Region(32, 16, 80, 48), Region(64, 40, 100, 64))


@cache
def taken(name: str) -> tuple[Image, list[Region], Dissection]:
    """A file, three boxes on its first frame, and its parts."""
    image = images.decode(name, ALL[name], LIMITS)
    fitted = [box.aligned(image.grid).clipped(image.width, image.height, 1) for box in BOXES]
    regions = [box for box in fitted if box is not None]
    return image, regions, images.dissect(image, regions, KEY)


def outside(image: Image, regions: list[Region]) -> np.ndarray:
    free = np.ones(image.pixels.shape[:3], bool)
    for region in regions:
        free[region.slices] = False
    return free


def shown(image: Image) -> np.ndarray:
    """All frames without what no viewer shows."""
    return np.stack([images.shown(image, frame) for frame in range(image.frames)])


@pytest.mark.parametrize("name", CONVERTED)
def test_formats_are_known_by_their_content_before_and_after_masking(name: str) -> None:
    image, _, made = taken(name)
    assert images.sniff(ALL[name]) == image.format == photographs.format_of(name)
    assert images.sniff(made.masked) == ("TIFF" if name.endswith("moving") else "PNG")


@pytest.mark.parametrize("name", ALL)
def test_the_file_comes_back_to_the_byte_and_is_proven_from_what_is_stored(name: str) -> None:
    image, regions, made = taken(name)
    covered = images.Covered(regions, dict(enumerate(made.patches)), made.remainder)
    proof = images.prove(image, made.masked, made.compact, covered, LIMITS)
    assert proof.data == ALL[name]
    whole, part = images.restore(name, proof.stored, covered, LIMITS, [2])
    assert whole.data == ALL[name]
    assert part is not None
    opened = outside(image, [regions[0], regions[1]])
    assert np.array_equal(shown(part)[opened], shown(image)[opened], equal_nan=True)
    hidden = ~outside(image, regions[:1])
    assert np.array_equal(shown(part)[hidden], shown(proof.masked)[hidden], equal_nan=True)


@pytest.mark.parametrize("name", ALL)
def test_the_masked_picture_is_the_same_outside_the_boxes_and_a_mask_inside(name: str) -> None:
    image, regions, made = taken(name)
    masked = images.decode("m", made.masked, LIMITS)
    assert (masked.pixels.shape, masked.pixels.dtype) == (image.pixels.shape, image.pixels.dtype)
    free = outside(image, regions)
    assert np.array_equal(masked.pixels[free], shown(image)[free], equal_nan=True)
    before, after = images.render(image), images.render(masked)
    inside = before[8:24, 8:56].astype(int), after[8:24, 8:56].astype(int)
    assert np.ptp(inside[1]) > 20, "a mask that nobody can see"
    assert abs(inside[0] - inside[1]).mean() > 20
    grey = inside[1].mean(axis=2)
    assert len(np.unique(grey.round())) <= 2, "more than the two tones of the mask"


@pytest.mark.parametrize("name", ALL)
def test_nothing_but_the_picture_is_in_the_masked_file(name: str) -> None:
    _, _, made = taken(name)
    for words in (b"Quastenberg", b"GPS", b"Exif", b"adobe", b"ICC_PROFILE", b"iCCP"):
        assert words not in made.masked
    for patch in made.patches:
        assert photographs.PLANTED not in patch


@pytest.mark.parametrize("name", ALL)
def test_another_program_reads_the_masked_file_the_same(name: str) -> None:
    image, _, made = taken(name)
    masked = images.decode("m", made.masked, LIMITS)
    high, wide = image.properties.get("sizes", [[image.height, image.width]])[0]
    if image.pixels.dtype.itemsize > 2:  # measured values: few programs read these
        done, pages = cv2.imdecodemulti(
            np.frombuffer(made.masked, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_ANYDEPTH
        )
        assert done
        assert len(pages) == image.frames
        theirs = pages[0][..., ::-1] if pages[0].ndim == 3 else pages[0]
        assert np.array_equal(theirs, masked.pixels[0], equal_nan=True)
        return
    with Pillow.open(io.BytesIO(made.masked)) as picture:
        assert getattr(picture, "n_frames", 1) == image.frames
        assert (picture.height, picture.width) == (high, wide)
        theirs = np.asarray(picture)
    if theirs.dtype == masked.pixels.dtype:
        assert np.array_equal(theirs, masked.pixels[0, :high, :wide])
    else:  # it shows colours of 16 bits with 8
        assert image.pixels.dtype == np.uint16 or name.startswith("fax")

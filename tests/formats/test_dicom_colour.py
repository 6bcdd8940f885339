"""Colours: what is shown is what common readers show, for the original and the masked file.

The truth is the picture that was drawn. pydicom and dcmtk are asked too, where they read a file and
believe the stream's markers before the header, as both can.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.pixels import pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from engine.formats import images
from tests import builders
from tests.formats.dicom_files import KEY, both_ways, corner, even, items, read, with_pixels

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
DCMJ2PNM = shutil.which("dcmj2pnm")
INK = (235, 230, 220)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """pydicom, which is compared with, warns about headers that contradict the stream."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def wound(width: int = 96, height: int = 64) -> np.ndarray:
    """A colour picture in which false colours are far from right ones."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = (190, 90, 85)
    pixels[height // 2 :] = (240, 200, 160)
    pixels[20:44, 40:80] = INK
    return pixels


RGB = wound()


def ybr(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]])


def stream(planes: np.ndarray, markers: str, sampling: str = "444") -> bytes:
    """A baseline JPEG of three planes as they are, with these markers and no others."""
    if sampling == "420":  # by a coder that makes YCbCr of RGB itself
        coded = bytes(imagecodecs.jpeg8_encode(RGB, level=95, subsampling="420"))
    else:
        coded = bytes(
            imagecodecs.jpeg8_encode(
                planes, level=95, colorspace="rgb", outcolorspace="rgb", subsampling="444"
            )
        )
    out, at = [coded[:2]], 2
    ids = b"RGB" if markers == "ids" else b"\1\2\3"
    if markers.startswith("JFIF"):
        out.append(b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0")
    if "Adobe" in markers:
        out.append(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([int(markers[-1])]))
    while True:
        marker, end = coded[at + 1], at + 2 + int.from_bytes(coded[at + 2 : at + 4])
        segment = bytearray(coded[at:end])
        if marker in (0xC0, 0xDA):
            first, step = (10, 3) if marker == 0xC0 else (5, 2)
            for i in range(3):
                segment[first + step * i] = ids[i]
        if not 0xE0 <= marker <= 0xEF:
            out.append(bytes(segment))
        at = end
        if marker == 0xDA:
            return even(b"".join(out) + coded[at:])


def baseline(frame: bytes, says: str) -> bytes:
    made = builders.dicom(RGB, syntax=JPEGBaseline8Bit, PhotometricInterpretation=says)
    return with_pixels(made, items([frame]))


def shown(data: bytes) -> np.ndarray:
    return images.render(read(data))


def by_dcmtk(data: bytes, tmp_path: Path, *options: str) -> np.ndarray:
    assert DCMJ2PNM is not None
    source, target = tmp_path / "a.dcm", tmp_path / "a.ppm"
    source.write_bytes(data)
    subprocess.run(
        [DCMJ2PNM, *options, str(source), str(target)], check=True, capture_output=True, timeout=60
    )
    return np.asarray(cv2.imread(str(target), cv2.IMREAD_UNCHANGED)[..., ::-1])


def near(a: np.ndarray, b: np.ndarray, most: int = 6) -> bool:
    """Equal but for the rounding of a lossy coder; edges of boxes are left out."""
    return bool(np.percentile(np.abs(a.astype(int) - b.astype(int)), 85) <= most)


#: Markers of a stream whose planes are YCbCr (True) or RGB, where a header may say anything.
MARKED = [
    ("JFIF", True), ("Adobe1", True), ("JFIF+Adobe1", True), ("Adobe0", False), ("ids", False),
]  # fmt: skip


@pytest.mark.parametrize(("markers", "is_ybr"), MARKED)
@pytest.mark.parametrize("says", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_markers_of_a_jpeg_stream_come_before_the_header(
    markers: str, is_ybr: bool, says: str, tmp_path: Path
) -> None:
    data = baseline(stream(ybr(RGB) if is_ybr else RGB, markers), says)
    assert near(shown(data), RGB)
    assert np.abs(shown(data)[30, 60].astype(int) - INK).max() < 6
    _, masked = both_ways(data)
    right = np.s_[16:, 16:]
    assert near(images.render(masked)[right], RGB[right])
    # whoever believes the header alone sees them in the masked file too
    assert near(pixel_array(io.BytesIO(masked.data))[right], RGB[right])
    if "Adobe" not in markers:  # which pydicom does not read
        assert near(pixel_array(io.BytesIO(data)), RGB)
    if DCMJ2PNM:
        assert near(by_dcmtk(data, tmp_path, "+cg"), RGB)
        assert near(by_dcmtk(masked.data, tmp_path, "+cg")[right], RGB[right])
        assert near(by_dcmtk(masked.data, tmp_path)[right], RGB[right])


@pytest.mark.parametrize(("planes", "says"), [(RGB, "RGB"), (ybr(RGB), "YBR_FULL")])
def test_a_stream_without_markers_is_what_the_header_says(planes: np.ndarray, says: str) -> None:
    data = baseline(stream(planes, ""), says)
    assert near(shown(data), RGB)
    assert near(pixel_array(io.BytesIO(data)), RGB)
    _, masked = both_ways(data)
    assert near(images.render(masked)[16:, 16:], RGB[16:, 16:])


@pytest.mark.parametrize("markers", ["JFIF", ""])
@pytest.mark.parametrize("says", ["RGB", "YBR_FULL", "YBR_FULL_422", None])
def test_planes_of_half_size_are_chroma(markers: str, says: str | None) -> None:
    made = builders.dicom(RGB, syntax=JPEGBaseline8Bit, PhotometricInterpretation=says)
    data = with_pixels(made, items([stream(RGB, markers, "420")]))
    assert near(shown(data), RGB)
    _, masked = both_ways(data)
    assert near(images.render(masked)[16:, 16:], RGB[16:, 16:])


@pytest.mark.parametrize("says", ["RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT"])
@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("deep", [False, True])
def test_the_transform_of_jpeg_2000_comes_before_the_header(
    says: str, transform: bool, deep: bool
) -> None:
    is_ybr = says == "YBR_FULL" and not transform
    planes = ybr(RGB) if is_ybr else RGB
    planes = planes.astype(np.uint16) * 257 if deep else planes
    frame = imagecodecs.jpeg2k_encode(
        planes, level=0, codecformat="j2k", reversible=True, mct=transform
    )
    made = builders.dicom(planes, syntax=JPEG2000Lossless, PhotometricInterpretation=says)
    data = with_pixels(made, items([even(bytes(frame))]))
    assert near(shown(data), RGB, 2)
    _, masked = both_ways(data)
    assert near(images.render(masked)[16:, 16:], RGB[16:, 16:], 2)


@pytest.mark.parametrize("says", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless, HTJ2KLossless]
)
def test_lossless_frames_keep_their_colours_through_a_mask(
    syntax: str, says: str, deep: bool, planar: int
) -> None:
    planes = ybr(RGB) if says == "YBR_FULL" else RGB
    planes = planes.astype(np.uint16) * 257 if deep else planes
    if says == "YBR_FULL" and syntax == HTJ2KLossless:
        coded = imagecodecs.htj2k_encode(
            np.ascontiguousarray(np.moveaxis(planes, -1, 0)), reversible=True, planar=True
        )
    elif says == "YBR_FULL" and syntax == JPEGLosslessSV1:
        coded = imagecodecs.jpeg8_encode(
            planes,
            lossless=True,
            predictor=1,
            bitspersample=8 * planes.itemsize,
            colorspace="unknown",
            outcolorspace="unknown",
        )
    else:
        coded = builders.LOSSLESS[syntax](planes)
    made = builders.dicom(
        planes, syntax=syntax, PhotometricInterpretation=says, PlanarConfiguration=planar
    )
    data = with_pixels(made, items([even(bytes(coded))]))
    assert near(shown(data), RGB, 2)
    image, masked = both_ways(data)
    assert near(images.render(masked)[16:, 16:], RGB[16:, 16:], 2)
    assert masked.properties["transfer_syntax"] == syntax
    assert np.array_equal(image.pixels[0], planes)


@pytest.mark.parametrize("says", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_native_colours_are_what_the_header_says(
    syntax: str, says: str, planar: int, deep: bool
) -> None:
    planes = ybr(RGB) if says == "YBR_FULL" else RGB
    planes = planes.astype(np.uint16) * 257 if deep else planes
    stored = np.moveaxis(planes, -1, 0) if planar else planes
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = builders.dicom(
        planes,
        syntax=syntax,
        PhotometricInterpretation=says,
        PlanarConfiguration=planar,
        PixelData=np.ascontiguousarray(stored).astype(planes.dtype.newbyteorder(order)).tobytes(),
    )
    assert near(shown(data), RGB, 2)
    _, masked = both_ways(data)
    assert near(images.render(masked)[16:, 16:], RGB[16:, 16:], 2)


SAMPLE_FILES = sorted(p.name for p in SAMPLES.glob("*.dcm") if "color" in p.name or "rgb" in p.name)


def _theirs(data: bytes) -> np.ndarray | None:
    """The first frame as pydicom shows it; None where it cannot, or only by other functions."""
    try:
        frames = pixel_array(io.BytesIO(data))
    except (AttributeError, ValueError):
        return None
    if frames.dtype != np.uint8 or frames.shape[-1] != 3:
        return None
    return frames if frames.ndim == 3 else frames[0]


def test_colour_samples_are_shown_as_pydicom_shows_them() -> None:
    compared = 0
    for name in SAMPLE_FILES:
        data = (SAMPLES / name).read_bytes()
        right = _theirs(data)
        if right is None:
            continue
        compared += 1
        image = read(data)
        assert near(images.render(image), right, 2), name
        made = images.dissect(image, corner(image), KEY)
        seen = images.render(read(made.masked))
        down, across = image.grid[1] + 16, image.grid[0] + 16
        if image.height > down and image.width > across:
            assert near(seen[down:, across:], right[down:, across:], 2), name
    assert compared >= 15

"""What a coder with loss leaves beside a box, and the attack that reads it.

Who has the masked picture writes each of 40 names into the box, codes the guess with the same
encoder, and compares the pixels that can be seen. Here the guesser even knows every pixel but the
name. Each codec is tried eight times, with the mask as it was (rounded out to blocks) and as it is.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSNearLossless,
)

from engine.formats import images, residue
from engine.records import Detection, Image, Region
from engine.seal import pipeline
from engine.settings import Settings
from tests import builders

LIMITS = images.Limits.of(Settings())
LINE = Region(75, 157, 250, 176)  # tight around the letters
SIDE = 400
CHANCE = 19.5  # mean rank of one among 40, from 0
NAMES = [
    f"{a}{b} {c}" for a in ("MU", "FI", "WAGN", "KO", "NO") for b in ("LLER", "WAK", "ER", "TO")
    for c in ("ANNA", "JAN")
]  # fmt: skip
#: The attack finds no name beside these coders' blocks on this picture.
QUIET = {"AVIF", "JPEG XL"}

Code = Callable[[np.ndarray], bytes]
Decode = Callable[[bytes], np.ndarray]


def _j2k(db: int, levels: int) -> Code:
    return lambda a: imagecodecs.jpeg2k_encode(
        a, level=db, codecformat="j2k", reversible=False, mct=False, resolutions=levels + 1
    )


def _htj2k(pixels: np.ndarray) -> bytes:
    return bytes(imagecodecs.htj2k_encode(pixels, level=0.01, reversible=False))


def _near(pixels: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpegls_encode(pixels, level=2, out=4 * pixels.nbytes + 1024))


def _jpeg(pixels: np.ndarray) -> bytes:
    return builders.jpeg(pixels, quality=60)


def _webp(pixels: np.ndarray) -> bytes:
    return builders.pillow(np.repeat(pixels[..., None], 3, 2), "WEBP", quality=50)


def _avif(pixels: np.ndarray) -> bytes:
    colour = np.ascontiguousarray(np.repeat(pixels[..., None], 3, 2))
    return bytes(imagecodecs.avif_encode(colour, level=60, speed=10, numthreads=1))


def _jxl(pixels: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(pixels, distance=3, effort=3, numthreads=1))


def _pillow(data: bytes) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(data)).convert("L"))


def dicom_of(data: bytes, syntax: str, pixels: np.ndarray) -> bytes:
    return builders.dicom(pixels, syntax=syntax, fragments=[data + b"\0" * (len(data) % 2)])


def earlier(data: bytes, method: str) -> bytes:
    """Pixels that were once coded so, and are stored natively now."""
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionMethod": method}
    return builders.dicom(_pillow(data), syntax=ExplicitVRLittleEndian, **lossy)


#: Encoder, its decoder, how the file is called, and the file around what it wrote.
CODECS: dict[str, tuple[Code, Decode, str, Callable[[bytes, np.ndarray], bytes]]] = {
    "JPEG 2000, 42 dB": (
        _j2k(42, 5), imagecodecs.jpeg2k_decode, "a.dcm", lambda d, p: dicom_of(d, JPEG2000, p)),
    "JPEG 2000, 36 dB": (
        _j2k(36, 4), imagecodecs.jpeg2k_decode, "a.dcm", lambda d, p: dicom_of(d, JPEG2000, p)),
    "JPEG 2000 file": (
        lambda p: imagecodecs.jpeg2k_encode(p, level=42, codecformat="jp2", reversible=False),
        imagecodecs.jpeg2k_decode, "a.jp2", lambda d, p: d),
    "HTJ2K": (_htj2k, imagecodecs.htj2k_decode, "a.dcm", lambda d, p: dicom_of(d, HTJ2K, p)),
    "near-lossless JPEG-LS": (
        _near, imagecodecs.jpegls_decode, "a.dcm", lambda d, p: dicom_of(d, JPEGLSNearLossless, p)),
    "JPEG before, native now": (
        _jpeg, _pillow, "a.dcm", lambda d, p: earlier(d, "ISO_10918_1")),
    "WebP": (_webp, _pillow, "a.webp", lambda d, p: d),
    "AVIF": (_avif, lambda d: imagecodecs.avif_decode(d)[..., 1], "a.avif", lambda d, p: d),
    "JPEG XL": (_jxl, imagecodecs.jpegxl_decode, "a.jxl", lambda d, p: d),
}  # fmt: skip


def picture(name: str) -> np.ndarray:
    """White letters on an even dark ground, as many consoles burn them in."""
    pixels = np.full((SIDE, SIDE), 20, np.uint8)
    at = (LINE.x1 + 1, LINE.y2 - 3)
    cv2.putText(pixels, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA)
    return pixels


@functools.cache
def guesses(codec: str) -> np.ndarray:
    """What each name looks like after the coder, shape (40, height, width)."""
    code, decode, _, _ = CODECS[codec]
    return np.stack([np.asarray(decode(code(picture(name)))) for name in NAMES]).astype(np.int16)


def ranks(codec: str, sealed: Region) -> list[float]:
    """Place of the right name among all, in eight trials; equals share their places."""
    seen = guesses(codec).copy()
    seen[:, sealed.y1 : sealed.y2, sealed.x1 : sealed.x2] = 0
    found = []
    for truth in range(1, 40, 5):
        off = np.abs(seen - seen[truth]).sum(axis=(1, 2))
        better, equal = (off < off[truth]).sum(), (off == off[truth]).sum() - 1
        found.append(float(better + equal / 2))
    return found


def opened(codec: str) -> Image:
    code, _, name, around = CODECS[codec]
    pixels = picture(NAMES[0])
    return images.decode(name, around(code(pixels), pixels), LIMITS)


@pytest.mark.parametrize("codec", CODECS)
def test_a_name_cannot_be_guessed_from_what_a_coder_left_beside_its_box(codec: str) -> None:
    image = opened(codec)
    [box] = pipeline.plan(image, [Detection(LINE, "text", 1.0)], 0.04, 4)
    # The mean of eight ranks by chance, and twice its deviation.
    assert abs(np.mean(ranks(codec, box.region)) - CHANCE) < 2 * 4.1
    # The attack is one: with boxes that are rounded out to blocks only, it finds the name.
    found = np.mean(ranks(codec, LINE.aligned(image.grid)))
    assert found < CHANCE / 2 or codec in QUIET


def test_a_name_on_black_above_unknown_tissue_cannot_be_guessed() -> None:
    """The guesser has the masked picture alone, codes it again, and compares what comes out."""
    first: list[float] = []
    now: list[float] = []
    for trial in range(8):
        original = builders.radiograph(256, 256, seed=trial)
        original[:48] = 0
        truth = 5 * trial + 1
        coded = _coded_again(_with_name(original, NAMES[truth]))
        for reach, places in ((0, first), (residue.wavelet_px(_htj2k(original)), now)):
            sealed = Region(24, 8, 208, 40).padded(0, reach).aligned((8, 8)).clipped(256, 256)
            assert sealed is not None
            guessed = coded.copy()
            guessed[: sealed.y2, sealed.x1 : sealed.x2] = 0
            off = []
            for name in NAMES:
                again = _coded_again(_with_name(guessed, name)).astype(np.int16)
                again[sealed.slices[1:]] = coded[sealed.slices[1:]]
                off.append(int(np.abs(again - coded)[: sealed.y2 + 24].sum()))
            equal = sum(o == off[truth] for o in off) - 1
            places.append(sum(o < off[truth] for o in off) + equal / 2)
    assert np.mean(first) < 4
    assert abs(np.mean(now) - CHANCE) < 2 * 4.1


def _with_name(pixels: np.ndarray, name: str) -> np.ndarray:
    out = pixels.copy()
    cv2.putText(out, name, (28, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA)
    return out


def _coded_again(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(imagecodecs.htj2k_decode(_htj2k(pixels)))


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "4:4:4"},
        {"sampling": "4:2:2"},
        {"sampling": "4:2:0"},
        {"sampling": "4:2:0", "progressive": True},
        {"sampling": "4:2:0", "optimize": True},
    ],
    ids=str,
)
def test_a_masked_jpeg_is_the_same_for_every_name(options: dict[str, object]) -> None:
    """Its blocks are masked as they are coded, and no block depends on another."""
    made = set()
    for name in NAMES[:6]:
        colour = np.repeat(picture(name)[..., None], 3, 2)
        image = images.decode("a.jpg", builders.jpeg(colour, quality=60, **options), LIMITS)
        [box] = pipeline.plan(image, [Detection(LINE, "text", 1.0)], 0.04, 4)
        made.add(images.dissect(image, [box.region], bytes(32)).masked)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("attributes", "reach"),
    [
        ({}, (0, False)),
        ({"LossyImageCompression": "00"}, (0, False)),
        ({"LossyImageCompression": "01"}, (18, False)),
        ({"LossyImageCompressionMethod": "ISO_10918_1"}, (18, False)),
        ({"LossyImageCompressionMethod": "ISO_15444_1"}, (124, False)),
        ({"LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"]}, (124, False)),
        ({"LossyImageCompressionMethod": "ISO_14495_1"}, (0, True)),
    ],
    ids=str,
)
def test_what_an_earlier_coder_lost_is_covered_where_the_header_says_so(
    attributes: dict[str, object], reach: tuple[int, bool]
) -> None:
    if "LossyImageCompressionMethod" in attributes:
        attributes = {"LossyImageCompression": "01", **attributes}
    data = builders.dicom(builders.radiograph(64, 64), **attributes)
    facts = images.decode("a.dcm", data, LIMITS).properties
    px, follows = reach
    assert facts["residue_follows"] is follows
    assert facts["residue_px"] == (px if not follows else 18)


def test_the_coder_of_now_is_not_counted_twice() -> None:
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionMethod": "ISO_10918_1"}
    data = builders.dicom(builders.radiograph(64, 64), syntax=JPEGBaseline8Bit, **lossy)
    assert images.decode("a.dcm", data, LIMITS).properties["residue_px"] == 0


def test_the_reach_of_wavelets_follows_their_levels() -> None:
    pixels = builders.radiograph(256, 256)
    for levels, reach in ((1, 4), (3, 28), (5, 124)):
        assert residue.wavelet_px(_j2k(42, levels)(pixels)) == reach
    assert residue.wavelet_px(b"") == residue.wavelet_px(b"\xff\x4f\xff\x51\x00") == 124


def test_only_a_jpeg_ls_that_loses_reaches_further() -> None:
    pixels = builders.radiograph(64, 64)
    assert residue.near(_near(pixels)) == 2
    assert residue.near(bytes(imagecodecs.jpegls_encode(pixels))) == 0
    assert residue.near(b"") == residue.near(b"\xff\xda") == 1

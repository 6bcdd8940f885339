"""Transfer syntaxes and layouts that are rare: JPEG XL, frames as cells, packed bits."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import (
    HTJ2K,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import dicom_file, dicom_pixels, images, jxl_size
from engine.records import Region
from tests import builders
from tests.formats.dicom_files import (
    both_ways,
    even,
    items,
    read,
    same,
    with_pixels,
    with_syntax,
)
from tests.formats.test_dicom_colour import RGB, near, ybr

GREY = np.stack([builders.radiograph(96, 64, seed=i) for i in range(3)])
TWELVE = np.stack([builders.radiograph(96, 64, bits=12, seed=i) for i in range(3)])
SIGNED = TWELVE.astype(np.int16) - 1024
JXL_LOSSLESS, JXL_RECOMPRESSION, JXL = (f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112))
DEFLATED, PLAIN = "1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.1.98"


def _jxl(frame: np.ndarray) -> bytes:
    plain = frame.view(f"u{frame.itemsize}")
    return even(bytes(imagecodecs.jpegxl_encode(plain, lossless=True)))


def _deflated(frame: np.ndarray) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return even(engine.compress(frame.tobytes()) + engine.flush())


def _coded(
    syntax: str, pixels: np.ndarray, coder: Callable[[np.ndarray], bytes], **kind: Any
) -> bytes:
    colour = pixels.shape[-1] == 3
    stack = pixels if pixels.ndim == (4 if colour else 3) else pixels[None]
    made = with_pixels(
        builders.dicom(pixels, **kind), items([coder(np.ascontiguousarray(f)) for f in stack])
    )
    return with_syntax(made, syntax)


@pytest.mark.parametrize(
    ("syntax", "coder"),
    [
        (JXL_LOSSLESS, _jxl),
        (JXL, _jxl),
        (DEFLATED, _deflated),
        (PLAIN, lambda f: even(f.tobytes())),
    ],
    ids=["JPEG XL lossless", "JPEG XL", "deflated", "plain"],
)
@pytest.mark.parametrize(
    "pixels", [GREY, TWELVE, SIGNED, RGB, GREY[0]], ids=["8", "12", "signed", "RGB", "one"]
)
def test_frames_of_new_transfer_syntaxes_are_sealed_and_come_back(
    syntax: str, coder: Callable[[np.ndarray], bytes], pixels: np.ndarray
) -> None:
    bits = 12 if pixels is TWELVE else None
    data = _coded(syntax, pixels, coder, bits=bits)
    image, masked = both_ways(data)
    assert same(image.pixels.reshape(pixels.shape), pixels)
    assert masked.properties["transfer_syntax"] == syntax
    assert same(masked.pixels[:, 20:, 20:], image.pixels[:, 20:, 20:])


def test_recompressed_jpeg_is_shown_in_its_colours_and_masked_as_jpeg_xl() -> None:
    made = builders.dicom(RGB, PhotometricInterpretation="YBR_FULL_422")
    jpeg = builders.jpeg(RGB, quality=95, sampling="4:4:4")
    frame = even(bytes(imagecodecs.jpegxl_encode_jpeg(jpeg)))
    data = with_syntax(with_pixels(made, items([frame])), JXL_RECOMPRESSION)
    image, masked = both_ways(data)
    assert near(images.render(image), RGB)
    assert near(images.render(masked)[20:, 20:], RGB[20:, 20:])
    assert masked.properties["transfer_syntax"] == JXL


@pytest.mark.parametrize(
    "shape", [(64, 96), (16, 16), (61, 43), (8, 256), (1, 300), (2000, 3), (90, 160)]
)
def test_the_size_of_jpeg_xl_is_known_from_its_head(shape: tuple[int, int]) -> None:
    frame = bytes(imagecodecs.jpegxl_encode(np.zeros(shape, np.uint8), lossless=True))
    boxed = bytes(
        imagecodecs.jpegxl_encode(np.zeros(shape, np.uint8), lossless=True, usecontainer=True)
    )
    for data in (frame, boxed):
        assert jxl_size.looks_like(data)
        assert jxl_size.size_px(data) == shape[::-1]


def test_a_frame_of_jpeg_xl_that_is_larger_than_its_header_says_is_not_decoded() -> None:
    data = _coded(JXL_LOSSLESS, GREY[0], lambda f: _jxl(np.zeros((4000, 4000), np.uint8)))
    with pytest.raises(CorruptImage, match="does not match the header"):
        read(data)


def test_a_deflated_frame_is_read_no_further_than_its_size() -> None:
    bomb = _deflated(np.zeros((4000, 4000), np.uint8))
    image = read(_coded(DEFLATED, GREY[0], lambda f: bomb))
    assert image.pixels.shape == (1, 64, 96)


def _packed(pixels: np.ndarray, bits: int) -> bytes:
    """Cells without regard to bytes, the lowest bit first, by plain arithmetic."""
    value = 0
    for place, cell in enumerate(pixels.reshape(-1).tolist()):
        value |= (cell & ((1 << bits) - 1)) << place * bits
    return value.to_bytes(-(-pixels.size * bits // 8), "little")


@pytest.mark.parametrize(
    ("bits", "signed"), [(12, False), (12, True), (10, False), (14, True), (4, False), (15, False)]
)
def test_packed_cells_are_sealed_and_the_masked_file_has_whole_bytes(
    bits: int, signed: bool
) -> None:
    pixels = builders.radiograph(41, 30, bits=bits).astype(np.int16 if signed else np.uint16)
    pixels = pixels - (1 << bits - 1) if signed else pixels
    made = builders.dicom(
        pixels,
        BitsAllocated=bits,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelData=even(_packed(pixels, bits)),
    )
    image, masked = both_ways(made)
    assert same(image.pixels[0].astype(np.int64), pixels.astype(np.int64))
    assert same(masked.pixels[0, 20:].astype(np.int64), pixels[20:].astype(np.int64))
    again = dicom_file.parse(masked.data)
    assert dicom_pixels.layout_of(again).allocated in (8, 16)


@pytest.mark.parametrize("bits", [17, 24, 40])
def test_wider_odd_cells_are_refused_by_name(bits: int) -> None:
    made = builders.dicom(GREY[0], BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
    with pytest.raises(UnsupportedFormat, match=f"samples of {bits} bits"):
        read(made)


def _as_422(planes: np.ndarray) -> bytes:
    pairs = planes.reshape(-1, 2, 3)
    return np.stack([pairs[:, 0, 0], pairs[:, 1, 0], pairs[:, 0, 1], pairs[:, 0, 2]], 1).tobytes()


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_ybr_full_422_of_three_bytes_a_pixel_is_shown_right(
    frames: int, planar: int, syntax: str
) -> None:
    for planes in (ybr(RGB), RGB):
        stack = np.stack([planes] * frames)
        stored = np.moveaxis(stack, -1, 1) if planar else stack
        data = builders.dicom(
            stack,
            syntax=syntax,
            PhotometricInterpretation="YBR_FULL_422",
            PlanarConfiguration=planar,
            PixelData=np.ascontiguousarray(stored).tobytes(),
        )
        image, masked = both_ways(data)
        assert near(images.render(image), RGB, 2)
        assert near(images.render(masked)[20:, 20:], RGB[20:, 20:], 2)


def test_ybr_full_422_of_two_bytes_a_pixel_is_shown_right() -> None:
    value = _as_422(ybr(RGB))
    data = builders.dicom(RGB, PhotometricInterpretation="YBR_FULL_422", PixelData=value)
    image, masked = both_ways(data)
    assert near(images.render(image), RGB, 2)
    assert near(images.render(masked)[20:, 20:], RGB[20:, 20:], 2)


def test_ybr_full_422_whose_colours_cannot_be_told_is_refused_by_name() -> None:
    pixels = np.full((64, 96, 3), 128, np.uint8)
    pixels[0, :] = (250, 20, 20)  # one per cent is no colour of YCbCr
    with pytest.raises(UnsupportedFormat, match="three bytes a pixel"):
        read(builders.dicom(pixels, PhotometricInterpretation="YBR_FULL_422"))


@pytest.mark.parametrize(
    ("syntax", "predictor"), [(JPEGLosslessSV1, 1), *((JPEGLossless, p) for p in range(1, 8))]
)
@pytest.mark.parametrize("shift", [0, 1])
def test_jpeg_lossless_of_any_predictor_and_point_transform_comes_back(
    syntax: str, predictor: int, shift: int
) -> None:
    frame = bytearray(
        imagecodecs.jpeg8_encode(
            TWELVE[0] >> shift, lossless=True, predictor=predictor, bitspersample=12 - shift
        )
    )
    frame[frame.index(b"\xff\xc3") + 4] = 12  # precision before the point transform
    scan = frame.index(b"\xff\xda")
    frame[scan + 1 + int.from_bytes(frame[scan + 2 : scan + 4])] = shift
    data = with_syntax(
        with_pixels(builders.dicom(TWELVE[0], bits=12), items([even(bytes(frame))])), syntax
    )
    image, masked = both_ways(data)
    assert same(image.pixels[0], TWELVE[0] >> shift << shift)
    assert same(masked.pixels[:, 20:], image.pixels[:, 20:])


@pytest.mark.parametrize("syntax", [HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL])
@pytest.mark.parametrize("pixels", [GREY[0], RGB], ids=["grey", "RGB"])
def test_high_throughput_jpeg_2000_comes_back(syntax: str, pixels: np.ndarray) -> None:
    frame = bytes(imagecodecs.htj2k_encode(pixels, reversible=True))
    made = builders.dicom(pixels)
    image, masked = both_ways(with_syntax(with_pixels(made, items([even(bytes(frame))])), syntax))
    assert same(image.pixels[0], pixels)
    assert same(masked.pixels[0, 20:], pixels[20:])


def test_twelve_bit_jpeg_comes_back() -> None:
    frame = bytes(imagecodecs.jpeg8_encode(TWELVE[0], level=95, bitspersample=12))
    made = with_pixels(builders.dicom(TWELVE[0], bits=12), items([even(frame)]))
    image, masked = both_ways(with_syntax(made, JPEGExtended12Bit))
    assert np.abs(image.pixels[0].astype(int) - TWELVE[0]).max() < 200
    assert same(masked.pixels[:, 20:, 20:], image.pixels[:, 20:, 20:])


@pytest.mark.parametrize("kind", ["FloatPixelData", "DoubleFloatPixelData"])
def test_float_pixels_are_sealed_and_come_back(kind: str) -> None:
    wide = np.dtype("<f4" if kind == "FloatPixelData" else "<f8")
    values = GREY[0].astype(wide) / 255
    made = builders.dicom(
        GREY[0],
        PixelData=None,
        BitsStored=None,
        HighBit=None,
        PixelRepresentation=None,
        BitsAllocated=8 * wide.itemsize,
        **{kind: values.tobytes()},
    )
    image, masked = both_ways(made, [Region(0, 0, 16, 16)])
    assert same(image.pixels[0], values)
    assert same(masked.pixels[0, 20:], values[20:])


@pytest.mark.parametrize("stored", [8, 12, 16])
@pytest.mark.parametrize(
    "syntax", [*sorted(set(builders.LOSSLESS) - {RLELossless}), JPEGBaseline8Bit, JXL_LOSSLESS]
)
def test_a_stream_of_8_bits_in_cells_of_16_is_read(syntax: str, stored: int) -> None:
    coder = {**builders.LOSSLESS, JXL_LOSSLESS: _jxl}.get(syntax, builders.jpeg)
    made = builders.dicom(GREY[0].astype(np.uint16), bits=stored)
    data = with_syntax(with_pixels(made, items([even(bytes(coder(GREY[0])))])), syntax)
    image, masked = both_ways(data)
    assert image.pixels.dtype == np.uint16
    assert np.abs(image.pixels[0].astype(int) - GREY[0]).max() < 20
    assert same(masked.pixels[0, 20:, 20:], image.pixels[0, 20:, 20:])
    assert masked.properties["transfer_syntax"] == syntax


@pytest.mark.parametrize("syntax", [f"1.2.840.10008.1.2.4.{n}" for n in (51, 53, 55)])
@pytest.mark.parametrize("pixels", [GREY[0], RGB], ids=["grey", "RGB"])
def test_progressive_jpeg_of_retired_syntaxes_is_sealed(syntax: str, pixels: np.ndarray) -> None:
    frame = even(builders.jpeg(pixels, quality=95, progressive=True, sampling="4:4:4"))
    data = with_syntax(with_pixels(builders.dicom(pixels), items([frame])), syntax)
    image, masked = both_ways(data)
    assert near(images.render(image), RGB) if pixels is RGB else near(image.pixels[0], pixels)
    assert same(masked.pixels[0, 20:, 20:], image.pixels[0, 20:, 20:])


def test_native_pixels_in_the_colours_of_video_are_refused_by_name() -> None:
    half = RGB.tobytes()[: RGB.size // 2]
    with pytest.raises(UnsupportedFormat, match="YBR_PARTIAL_420"):
        read(builders.dicom(RGB, PhotometricInterpretation="YBR_PARTIAL_420", PixelData=half))
    both_ways(builders.dicom(RGB, PhotometricInterpretation="YBR_PARTIAL_420"))


def test_ybr_partial_422_keeps_its_range_whatever_its_size() -> None:
    full = ybr(RGB).astype(np.float64)
    planes = np.empty_like(full)
    planes[..., 0] = full[..., 0] * 219 / 255 + 16
    planes[..., 1:] = (full[..., 1:] - 128) * 224 / 255 + 128
    stored = planes.round().astype(np.uint8)
    for value in (stored.tobytes(), _as_422(stored)):
        data = builders.dicom(RGB, PhotometricInterpretation="YBR_PARTIAL_422", PixelData=value)
        image, masked = both_ways(data)
        assert near(images.render(image), RGB, 3)
        assert near(images.render(masked)[20:, 20:], RGB[20:, 20:], 3)


def _cells(syntax: str, raw: list[bytes], pixels: np.ndarray, **kind: Any) -> bytes:
    coded = [_deflated(np.frombuffer(r, np.uint8)) if syntax == DEFLATED else even(r) for r in raw]
    return with_syntax(with_pixels(builders.dicom(pixels, **kind), items(coded)), syntax)


@pytest.mark.parametrize("syntax", [DEFLATED, PLAIN])
@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (_as_422(ybr(RGB)), {"PhotometricInterpretation": "YBR_FULL_422"}),
        (ybr(RGB).tobytes(), {"PhotometricInterpretation": "YBR_FULL_422"}),
        (ybr(RGB).tobytes(), {"PhotometricInterpretation": "YBR_FULL"}),
        (np.moveaxis(RGB, -1, 0).tobytes(), {"PlanarConfiguration": 1}),
    ],
    ids=["422", "422 of three bytes", "YBR", "planes"],
)
def test_frames_as_cells_are_shown_in_their_colours(
    syntax: str, raw: bytes, kind: dict[str, Any]
) -> None:
    image, masked = both_ways(_cells(syntax, [raw], RGB, **kind))
    assert near(images.render(image), RGB, 2)
    assert near(images.render(masked)[20:, 20:], RGB[20:, 20:], 2)
    assert masked.properties["transfer_syntax"] == syntax


@pytest.mark.parametrize("syntax", [DEFLATED, PLAIN])
def test_frames_as_cells_keep_no_bits_that_are_not_pixels(syntax: str) -> None:
    junk = TWELVE | np.uint16(0xA000)
    image, masked = both_ways(_cells(syntax, [f.tobytes() for f in junk], TWELVE, bits=12))
    assert (image.pixels >> 12 == 10).all()
    assert not (masked.pixels >> 12).any()


@pytest.mark.parametrize("syntax", [DEFLATED, PLAIN])
def test_frames_of_single_bits_come_back(syntax: str) -> None:
    bits = (GREY > 128).astype(np.uint8)
    raw = [np.packbits(f.reshape(-1), bitorder="little").tobytes() for f in bits]
    data = _cells(syntax, raw, GREY, BitsAllocated=1, BitsStored=1, HighBit=0)
    image, masked = both_ways(data)
    assert same(image.pixels, bits)
    assert masked.properties["transfer_syntax"] == syntax


def test_a_person_is_told_of_native_frames_that_no_header_counts() -> None:
    (note,) = images.notes(read(builders.dicom(GREY, NumberOfFrames=2)))
    assert "more frames than its header says" in note
    assert images.notes(read(builders.dicom(GREY))) == ()

"""Photographs of telephones and other kinds: upright, in the right colours, the primary picture
only, and refused by their header where they are too large."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps

from engine.errors import CorruptImage, ImageTooLarge, UnsupportedFormat
from engine.formats import colours, converted, images, isobmff, jpeg2000, jxl, raster
from engine.formats.limits import check_size
from engine.records import Format
from engine.settings import Settings
from tests import photographs

LIMITS = images.Limits.of(Settings())
FILES = photographs.converted_kinds()


def pixels_of(data: bytes) -> np.ndarray:
    return images.decode("any", data, LIMITS).pixels[0]


def far(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference in levels of 255."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def turned(orientation: int) -> np.ndarray:
    """What a viewer shows of the photograph under an EXIF orientation."""
    picture = Pillow.fromarray(photographs.wound())
    picture.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))


# --- upright ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JPEG XL", "CMYK JPEG"])
def test_pictures_are_upright_and_turned_once(kind: str, orientation: int) -> None:
    if kind == "JPEG XL":
        data = photographs.jxl_turned(FILES["JPEG XL"], orientation)
        assert far(pixels_of(data), turned(orientation)) == 0
        return
    if kind == "CMYK JPEG":
        data = photographs.cmyk_jpeg(orientation)
    else:
        data = photographs.photograph(kind, orientation, quality=95)
    assert far(pixels_of(data), turned(orientation)) < 3


def test_the_exif_orientation_of_a_heic_is_a_copy_for_others() -> None:
    file = pillow_heif.HeifFile()
    file.add_frombytes(
        "RGB", (photographs.WIDTH, photographs.HEIGHT), photographs.wound().tobytes()
    )
    buffer = io.BytesIO()
    file.save(buffer, quality=-1)
    plain = buffer.getvalue()
    assert isobmff.primary(plain).turns == 0
    assert far(pixels_of(plain), photographs.wound()) < 2


# --- colours ------------------------------------------------------------------------------------


def as_viewers_show(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    shown = ImageCms.profileToProfile(
        Pillow.fromarray(pixels), ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
    )  # fmt: skip
    return np.asarray(shown)


COLOURED = [
    "HEIC", "HEIC lossy", "HEIC 10 bit", "HEIC halved colours", "AVIF", "AVIF 12 bit",
    "AVIF halved colours", "JPEG XL", "JPEG XL lossy", "JPEG XL of a JPEG", "JPEG 2000",
    "JPEG 2000 lossy", "JPEG CMYK", "JPEG YCCK", "JPEG 12 bit RGB", "JPEG lossless RGB",
    "JPEG arithmetic", "JPEG progressive arithmetic", "TIFF CMYK", "TIFF CMYK planes",
    "TIFF luma and chroma",
]  # fmt: skip


@pytest.mark.parametrize("name", COLOURED)
def test_the_colours_are_those_of_the_photograph(name: str) -> None:
    data = FILES.get(name) or photographs.tiff_kinds()[name.removeprefix("TIFF ")]
    shown = images.render(images.decode("a", data, LIMITS))
    assert far(shown, photographs.wound()) < 6


def test_a_gif_has_the_colours_of_its_palette() -> None:
    with Pillow.open(io.BytesIO(FILES["GIF"])) as picture:
        assert np.array_equal(pixels_of(FILES["GIF"]), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_display_p3_photograph_has_the_colours_that_viewers_show(kind: str) -> None:
    icc = photographs.display_p3()
    data = photographs.photograph(kind, icc_profile=icc, quality=95)
    expected = as_viewers_show(photographs.wound(), icc)
    assert far(expected, photographs.wound()) > 3, "the profile changes nothing"
    assert far(pixels_of(data), expected) < 2


def test_code_points_of_display_p3_give_the_same_colours_as_its_profile() -> None:
    data = bytes(imagecodecs.avif_encode(photographs.wound(), 100, primaries=12, transfer=13))
    said = isobmff.primary(data)
    assert (said.primaries, said.transfer) == (12, 13)
    plain = imagecodecs.cms_profile(
        "rgb", whitepoint=(0.3127, 0.3290, 1.0), gamma=2.2,
        primaries=(0.680, 0.320, 1.0, 0.265, 0.690, 1.0, 0.150, 0.060, 1.0),
    )  # fmt: skip
    assert far(pixels_of(data), as_viewers_show(photographs.wound(), plain)) < 2


def test_a_profile_that_is_srgb_or_none_changes_no_value() -> None:
    wound = photographs.wound()
    for icc in (imagecodecs.cms_profile("srgb"), b"", b"no profile at all", bytes(200)):
        assert colours.from_profile(wound, bytes(icc)) is wound
    assert colours.from_profile(wound, photographs.display_p3()[:150]) is wound


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_high_range_keeps_light_in_order_and_grey_grey(transfer: int) -> None:
    ramp = np.repeat(np.arange(65536, dtype=np.uint16).reshape(256, 256, 1), 3, axis=2)
    shown = colours.from_code_points(ramp, 9, transfer)
    flat = shown.reshape(-1, 3).astype(int)
    assert np.abs(flat[:, :1] - flat).max() <= 40
    assert (np.diff(flat[:, 0]) >= -40).all()
    assert flat[0, 0] == 0
    assert flat[-1, 0] == 65535


@pytest.mark.parametrize("name", ["JPEG CMYK", "JPEG YCCK"])
def test_inks_are_shown_as_pillow_shows_them(name: str) -> None:
    with Pillow.open(io.BytesIO(FILES[name])) as picture:
        assert picture.mode == "CMYK"
        assert far(pixels_of(FILES[name]), np.asarray(picture.convert("RGB"))) < 3
    assert far(pixels_of(FILES[name]), photographs.wound()) < 12


def test_a_broken_profile_of_a_press_does_not_stop_a_picture() -> None:
    inks = photographs.cmyk(photographs.wound())
    broken = bytes(16) + b"CMYK" + bytes(200)
    assert np.array_equal(colours.from_cmyk(inks, broken), colours.from_cmyk(inks, b""))


def test_values_of_10_and_12_bits_are_kept_to_the_step() -> None:
    for bits in (10, 12):
        stored = photographs.deep() >> (16 - bits)
        seen = pixels_of(FILES[f"AVIF {bits} bit"])
        assert seen.dtype == np.uint16
        back = np.round(seen.astype(float) * ((1 << bits) - 1) / 65535).astype(int)
        assert np.abs(back - stored).max() <= 2
    for bits in (12, 16):  # this coder says of more than 8 bits that they are linear
        light = (photographs.deep() >> (16 - bits)) / ((1 << bits) - 1)
        curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        seen = pixels_of(FILES[f"JPEG XL {bits}"])
        assert np.abs(seen.astype(int) - np.round(65535 * curve)).max() <= 2
    assert np.array_equal(pixels_of(FILES["JPEG 2000 16"]), photographs.deep()[..., 0])
    steps = converted.full_range(np.arange(1024, dtype=np.uint16), 10)
    assert len(np.unique(steps)) == 1024
    assert (steps[0], steps[-1]) == (0, 65535)


# --- which picture ------------------------------------------------------------------------------


def test_only_the_primary_picture_of_a_heic_is_taken() -> None:
    file = pillow_heif.HeifFile()
    for pixels in (255 - photographs.wound(), photographs.wound()):
        file.add_frombytes("RGB", (photographs.WIDTH, photographs.HEIGHT), pixels.tobytes())
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, primary_index=1)
    image = images.decode("burst.heic", buffer.getvalue(), LIMITS)
    assert image.frames == 1
    assert far(image.pixels[0], photographs.wound()) < 2


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith("moving")])
def test_every_frame_of_an_animation_is_there(name: str) -> None:
    image = images.decode("a", FILES[name], LIMITS)
    wound = photographs.wound()
    if name.startswith("JPEG XL"):
        expected = [wound, 255 - wound]
    else:
        expected = [wound // (i + 1) for i in range(3)]
    assert image.frames == len(expected)
    for frame, one in zip(image.pixels, expected, strict=True):
        assert far(frame[..., :3], one) < 6


# --- headers ------------------------------------------------------------------------------------


def _patched(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    at = data.index(mark) + offset
    return data[:at] + value + data[at + len(value) :]


def _jxl_of(side: int) -> bytes:
    """The first bytes of a square JPEG XL."""
    bits, value = 0, 0
    for field, count in ((0, 1), (3, 2), (side - 1, 30), (1, 3), (1, 1)):
        value |= field << bits
        bits += count
    return b"\xff\x0a" + value.to_bytes(8, "little") + bytes(20)


def _tiff_of(data: bytes, width: int) -> bytes:
    """A TIFF whose first page says another width."""
    entry = struct.pack("<HHI", 256, 4, 1)
    return _patched(data, entry, 8, struct.pack("<I", width))


HUGE = struct.pack(">II", 30_000, 32_000)
TOO_LARGE: dict[str, tuple[Format, Callable[[], bytes]]] = {
    "HEIC": (Format.HEIC, lambda: _patched(FILES["HEIC"], b"ispe", 8, HUGE)),
    "AVIF": (Format.AVIF, lambda: _patched(FILES["AVIF"], b"ispe", 8, HUGE)),
    "AVIF of many frames": (
        Format.AVIF,
        lambda: _patched(FILES["AVIF moving"], b"stsz", 12, struct.pack(">I", 90_000_000)),
    ),
    "JPEG XL": (Format.JPEG_XL, lambda: _jxl_of(1 << 29)),
    "JPEG 2000": (
        Format.JPEG_2000,
        lambda: _patched(FILES["JPEG 2000"], b"\xff\x4f\xff\x51", 8, HUGE),
    ),
    "GIF": (Format.GIF, lambda: _patched(FILES["GIF"], b"GIF", 6, b"\xff\xff\xff\xff")),
    "CMYK": (Format.JPEG, lambda: _patched(FILES["JPEG CMYK"], b"\xff\xc0", 5, b"\xff" * 4)),
    "12 bit": (Format.JPEG, lambda: _patched(FILES["JPEG 12 bit"], b"\xff\xc1", 5, b"\xff" * 4)),
    "lossless": (
        Format.JPEG,
        lambda: _patched(FILES["JPEG lossless"], b"\xff\xc3", 5, b"\xff" * 4),
    ),
    "arithmetic": (
        Format.JPEG,
        lambda: _patched(FILES["JPEG arithmetic"], b"\xff\xc9", 5, b"\xff" * 4),
    ),
    "TIFF float": (
        Format.TIFF,
        lambda: _tiff_of(photographs.tiff_kinds()["float"], 2_000_000),
    ),
    "TIFF pages": (
        Format.TIFF,
        lambda: _tiff_of(photographs.tiff_kinds()["pages of two sizes"], 2_000_000),
    ),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_picture_that_claims_too_much_is_refused_before_it_is_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, make = TOO_LARGE[name]
    data = make()

    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    for decoder in ("avif_decode", "jpegxl_decode", "jpeg2k_decode", "jpeg8_decode"):
        monkeypatch.setattr(imagecodecs, decoder, decoded)
    monkeypatch.setattr(pillow_heif, "open_heif", decoded)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", decoded)
    monkeypatch.setattr(Pillow.Image, "convert", decoded)
    assert images.sniff(data) is kind
    with pytest.raises(ImageTooLarge):
        raster.decode(kind, data, 20_000, 1 << 30)


def test_a_thumbnail_that_claims_too_much_is_refused_too() -> None:
    data = photographs.heic(photographs.wound(), more=[photographs.wound()[:48, :64]])
    at = data.rindex(b"ispe") + 8
    assert data.index(b"ispe") + 8 != at, "one size only"
    with pytest.raises(ImageTooLarge):
        images.decode("a", data[:at] + HUGE + data[at + 8 :], LIMITS)


@pytest.mark.parametrize(
    ("width", "height", "extra"),
    [(8, 8, 0), (64, 48, 0), (256, 256, 0), (100, 75, 1), (513, 9, 0), (3000, 2, 1), (9000, 1, 0)],
)
def test_the_header_of_a_jpeg_xl_is_read_as_the_library_reads_it(
    width: int, height: int, extra: int
) -> None:
    pixels = np.zeros((height, width, 3 + extra), np.uint8)
    for how in ({"lossless": True}, {"distance": 2.0}, {"lossless": True, "usecontainer": True}):
        header = jxl.parse(bytes(imagecodecs.jpegxl_encode(pixels, **how)))
        assert (header.width, header.height, header.extra) == (width, height, extra)
        assert header.lossy == ("distance" in how)
        assert (header.primaries, header.transfer, header.animated) == (1, 13, False)


def test_the_header_of_a_jpeg_2000_is_read_as_the_library_reads_it() -> None:
    for name in (n for n in FILES if n.startswith("JPEG 2000")):
        header = jpeg2000.parse(FILES[name])
        assert (header.width, header.height) == (photographs.WIDTH, photographs.HEIGHT)
        assert header.lossy == name.endswith("lossy")
        assert set(header.depths) == {16 if name.endswith("16") else 8}


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\x08meta",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\x04meta",
        b"\0\0\0\x18ftypavif\0\0\0\0mif1avif\0\0\1\0meta" + bytes(20),
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"\xff\x0a",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\xff\x4f\xff\x51\0\x29",
        b"GIF89a",
    ],
)
def test_a_beginning_alone_is_damaged(data: bytes) -> None:
    with pytest.raises(CorruptImage):
        images.decode("a", data, LIMITS)


def test_a_loop_of_derived_pictures_ends() -> None:
    data = FILES["HEIC burst"]
    looped = data.replace(b"hvc1\0", b"iden\0")
    with pytest.raises((CorruptImage, UnsupportedFormat)):
        images.decode("a", looped, LIMITS)


def test_sizes_that_are_none_are_damage() -> None:
    with pytest.raises(CorruptImage):
        check_size(0, 5, 1, 1, 100, 100)

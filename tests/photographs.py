"""Pictures of the kinds that telephones, scanners and programs write, made by code.

The people are invented. Each file has words in its metadata where the kind has room for them.
"""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import jpeglib
import numpy as np
import pillow_heif
import tifffile
from PIL import Image as Pillow
from PIL import ImageCms

from engine.formats import jxl
from engine.records import Format
from tests import builders

#: In the metadata of every file that has some, and in no pixel that is read as text.
PLANTED = b"Quastenberg"
_EXIF_WORDS = {0x010E: "Quastenberg, Ottilie", 0x013B: "Dr. Quastenberg"}
WIDTH, HEIGHT = 112, 80


@cache
def wound(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A photograph, (height, width, 3) uint8: skin, a wound to the right, a light label on top."""
    y, x = np.mgrid[:height, :width]
    pixels = np.empty((height, width, 3), np.float64)
    pixels[:] = (206, 160, 136)
    pixels += np.random.default_rng(7).normal(0, 4, (height, width, 1))
    far = np.hypot((x - width * 0.7) / (width * 0.15), (y - height * 0.65) / (height * 0.2))
    pixels -= np.clip(1.2 - far, 0, 1)[..., None] * (90, 120, 100)
    pixels[height // 10 : height // 4, width // 12 : width // 2] = (248, 248, 244)
    made = pixels.clip(0, 255).astype(np.uint8)
    return made


def deep() -> np.ndarray:
    """The photograph with 16 bits, all of them in use."""
    noise = np.random.default_rng(5).integers(0, 257, (HEIGHT, WIDTH, 3))
    return np.minimum(wound().astype(np.uint32) * 257 + noise, 65535).astype(np.uint16)


def see_through() -> np.ndarray:
    """The photograph with opacity: none at the left edge, all on the right."""
    alpha = np.broadcast_to(
        np.linspace(0, 300, WIDTH).clip(0, 255).astype(np.uint8), wound().shape[:2]
    )
    return np.dstack([wound(), alpha])


def exif(orientation: int = 1) -> bytes:
    """A block with words about a person, an orientation and a place."""
    made = Pillow.Exif()
    for tag, words in _EXIF_WORDS.items():
        made[tag] = words
    made[0x0112] = orientation
    made.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 14.0), 3: "E", 4: (11.0, 34.0, 31.0)})
    return made.tobytes()


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:creator xmlns:dc="http://purl.org/dc/elements/1.1/">'
    b"Quastenberg</dc:creator></x:xmpmeta>"
)


@cache
def display_p3() -> bytes:
    """The profile of telephones, under a description that names a person."""
    profile = imagecodecs.cms_profile(
        "rgb",
        whitepoint=(0.3127, 0.3290, 1.0),
        primaries=(0.680, 0.320, 1.0, 0.265, 0.690, 1.0, 0.150, 0.060, 1.0),
        gamma=2.2,
    )
    assert ImageCms.getProfileName(io.BytesIO(profile)) is not None
    return bytes(profile)


def heic(
    pixels: np.ndarray, *, lossless: bool = True, more: Sequence[np.ndarray] = (), **how: Any
) -> bytes:
    """A HEIC file of one primary picture, and of others that no viewer shows."""
    file = pillow_heif.HeifFile()
    for one in (pixels, *more):
        mode = {(2, 1): "L", (3, 3): "RGB", (3, 4): "RGBA"}[
            one.ndim, one.shape[2] if one.ndim == 3 else 1
        ]
        if one.dtype == np.uint16:
            mode = {"L": "I;16", "RGB": "RGB;16", "RGBA": "RGBA;16"}[mode]
        file.add_frombytes(mode, (one.shape[1], one.shape[0]), np.ascontiguousarray(one).tobytes())
    buffer = io.BytesIO()
    file.save(buffer, quality=-1 if lossless else 70, primary_index=0, exif=exif(), xmp=XMP, **how)
    return buffer.getvalue()


def photograph(
    kind: str, orientation: int = 1, pixels: np.ndarray | None = None, **how: Any
) -> bytes:
    """A file of Pillow's, with words in EXIF and XMP."""
    buffer = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.register_heif_opener()
    picture = Pillow.fromarray(wound() if pixels is None else pixels)
    picture.save(buffer, kind, exif=exif(orientation), **how)
    return buffer.getvalue()


def moving(kind: str, count: int = 3, **how: Any) -> bytes:
    """An animation: the photograph, ever darker."""
    frames = [Pillow.fromarray((wound() // (i + 1)).astype(np.uint8)) for i in range(count)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=80, **how)
    return buffer.getvalue()


def jxl_turned(data: bytes, orientation: int) -> bytes:
    """A JPEG XL codestream whose header says another orientation.

    Args:
        data: A bare codestream without such fields (ISO/IEC 18181-1, D.3).
    """
    fields = _Fields(data[2:])
    fields.copy_size()
    assert not fields.take(1), "no fields at all"
    fields.put(0, 1)
    assert not fields.take(1), "fields of this kind already"
    fields.put(1, 1)
    fields.put(orientation - 1, 3)
    fields.put(0, 3)
    start = fields.at
    fields.copy_rest_of_metadata()
    assert fields.at > start
    fields.put(1, 1)  # tone mapping: as usual
    extensions = fields.take(2)
    assert not extensions
    fields.put(0, 2)
    usual = fields.take(1)
    assert usual
    fields.put(1, 1)
    return b"\xff\x0a" + fields.finished()


class _Fields(jxl.Bits):
    """Fields of a codestream that are written again while they are read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._all, self.at, self._out = data, 0, []

    def take(self, count: int) -> int:
        value = super().u(count)
        self.at += count
        return value

    def put(self, value: int, count: int) -> None:
        self._out += [value >> i & 1 for i in range(count)]

    def u(self, count: int) -> int:
        value = self.take(count)
        self.put(value, count)
        return value

    def copy_size(self) -> None:
        jxl.read_size(self)

    def copy_rest_of_metadata(self) -> None:
        jxl.read_samples(self)

    def finished(self) -> bytes:
        out = np.packbits(np.array(self._out, np.uint8), bitorder="little").tobytes()
        return out + self._all[-(-self.at // 8) :]


def jpeg_arithmetic(pixels: np.ndarray, *, progressive: bool = False) -> bytes:
    """Coded by arithmetic instead of Huffman's tables."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.jpg"
        jpeglib.from_spatial(pixels).write_spatial(
            str(path), flags=["+ARITH_CODE"] + (["+PROGRESSIVE_MODE"] if progressive else [])
        )
        return path.read_bytes()


def with_words(jpeg: bytes, orientation: int = 1) -> bytes:
    """A JPEG with a comment and EXIF data about a person."""
    block = exif(orientation)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(PLANTED)) + PLANTED
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + comment + jpeg[2:]


def tiff(
    pages: Sequence[np.ndarray], photometrics: Sequence[str] | None = None, **how: Any
) -> bytes:
    """A TIFF of pages that may differ, each with a description."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for number, page in enumerate(pages):
            photometric = None if photometrics is None else photometrics[number]
            file.write(
                page, photometric=photometric, description=PLANTED.decode(), metadata=None, **how
            )
    return buffer.getvalue()


def fax(*sizes: tuple[int, int]) -> bytes:
    """Pages of black letters on white, coded as faxes are, each of its own size."""
    pages = []
    for width, height in sizes:
        page = np.full((height, width), 255, np.uint8)
        builders.write_text(page, "ANNA DOE", (8, 8), scale=0.5)
        pages.append(Pillow.fromarray(255 - page if page[0, 0] < 128 else page).convert("1"))
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", compression="group4", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def cmyk(pixels: np.ndarray) -> np.ndarray:
    """Inks of a picture, 0 for none, shape (height, width, 4)."""
    return np.asarray(Pillow.fromarray(pixels).convert("CMYK"))


def _avif(pixels: np.ndarray, **how: Any) -> bytes:
    return bytes(imagecodecs.avif_encode(pixels, 100, speed=10, **how))


def _jxl(pixels: np.ndarray, **how: Any) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(pixels, **{"lossless": True, **how}))


def _jp2(pixels: np.ndarray, form: str = "jp2") -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat=form, reversible=True))


def _jpeg(pixels: np.ndarray, level: int | None = 95, **how: Any) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level, **how))


def cmyk_jpeg(orientation: int = 1) -> bytes:
    """A JPEG of inks, as programs of printers write it."""
    buffer = io.BytesIO()
    Pillow.fromarray(wound()).convert("CMYK").save(buffer, "JPEG", quality=95)
    return with_words(buffer.getvalue(), orientation)


@cache
def converted_kinds() -> dict[str, bytes]:
    """Files whose masked file is of another format: the name begins with that of their own."""
    grey, deep_grey, alpha = wound()[..., 1], deep()[..., 0], see_through()
    inks = 255 - cmyk(wound())
    lossless = {"lossless": True, "level": None}
    return {
        "HEIC": heic(wound()),
        "HEIC lossy": heic(wound(), lossless=False),
        "HEIC alpha": heic(alpha),
        "HEIC 10 bit": heic(deep()),
        "HEIC grey": heic(grey),
        "HEIC halved colours": heic(wound(), lossless=False, chroma=420),
        "HEIC burst": heic(wound(), more=[255 - wound()]),
        "AVIF": photograph("AVIF", xmp=XMP),
        "AVIF alpha": photograph("AVIF", pixels=alpha),
        "AVIF grey": _avif(grey),
        "AVIF halved colours": _avif(wound(), pixelformat="yuv420"),
        "AVIF profile": photograph("AVIF", icc_profile=display_p3()),
        "AVIF 10 bit": _avif(deep() >> 6, bitspersample=10),
        "AVIF 12 bit": _avif(deep() >> 4, bitspersample=12),
        "AVIF moving": moving("AVIF"),
        "JPEG XL": _jxl(wound()),
        "JPEG XL lossy": _jxl(wound(), lossless=False, distance=1.0),
        "JPEG XL of a JPEG": bytes(imagecodecs.jpegxl_encode_jpeg(_jpeg(wound()))),
        "JPEG XL boxes": _jxl(grey, usecontainer=True),
        "JPEG XL alpha": _jxl(alpha),
        "JPEG XL 16": _jxl(deep()),
        "JPEG XL 12": _jxl(deep() >> 4, bitspersample=12),
        "JPEG XL moving": _jxl(np.stack([wound(), 255 - wound()])),
        "JPEG 2000": _jp2(wound()),
        "JPEG 2000 lossy": photograph("JPEG2000", irreversible=True, quality_layers=[20]),
        "JPEG 2000 bare": _jp2(grey, "j2k"),
        "JPEG 2000 16": _jp2(deep_grey),
        "JPEG 2000 alpha": _jp2(alpha),
        "GIF": builders.pillow(wound(), "GIF", "P", comment=PLANTED),
        "GIF moving": moving("GIF", comment=PLANTED),
        "WebP moving": moving("WEBP"),
        "JPEG CMYK": cmyk_jpeg(),
        "JPEG YCCK": _jpeg(inks, colorspace="CMYK", outcolorspace="YCCK"),
        "JPEG 12 bit": with_words(_jpeg(deep_grey >> 4, bitspersample=12)),
        "JPEG 12 bit RGB": _jpeg(deep() >> 4, bitspersample=12),
        "JPEG lossless": with_words(_jpeg(grey, **lossless)),
        "JPEG lossless RGB": _jpeg(wound(), **lossless),
        "JPEG lossless 10 bit": _jpeg(deep_grey >> 6, **lossless, bitspersample=10),
        "JPEG lossless 16": _jpeg(deep_grey, **lossless, bitspersample=16),
        "JPEG arithmetic": with_words(jpeg_arithmetic(wound())),
        "JPEG progressive arithmetic": jpeg_arithmetic(wound(), progressive=True),
    }


def format_of(name: str) -> str:
    """The format that the name of a file of :func:`converted_kinds` begins with."""
    return max((kind for kind in Format if name.startswith(kind)), key=len)


@cache
def tiff_kinds() -> dict[str, bytes]:
    """TIFF files of kinds that most programs write seldom."""
    grey, colour = wound()[..., 1].copy(), wound()
    values = grey.astype(np.float32) / 100 - 1
    holes = values.copy()
    holes[40:50, 10:30] = np.nan
    short, deep_grey = colour[: HEIGHT // 2], deep()[..., 0]
    opaque = np.dstack([grey, see_through()[..., 3]])
    planes = np.moveaxis(cmyk(colour), -1, 0)
    return {
        "fax of two lengths": fax((WIDTH, HEIGHT), (WIDTH, HEIGHT // 2), (WIDTH - 20, HEIGHT)),
        "pages of two sizes": tiff([grey, grey[:50]], compression="zlib"),
        "pages of kinds": tiff(
            [grey > 128, colour, deep_grey], ["minisblack", "rgb", "minisblack"]
        ),
        "pages with alpha": tiff([see_through(), colour], ["rgb", "rgb"]),
        "float": tiff([values]),
        "float with holes": tiff([holes], compression="zlib"),
        "double": tiff([values.astype(np.float64)] * 2),
        "half": tiff([values.astype(np.float16)]),
        "float colours": tiff([colour.astype(np.float32) / 255], ["rgb"]),
        "32 bits": tiff([grey.astype(np.uint32) * 70_000]),
        "32 bits signed": tiff([grey.astype(np.int32) * 70_000 - 5_000_000]),
        "CMYK": tiff([cmyk(colour), cmyk(short)], ["separated", "separated"]),
        "CMYK planes": tiff([planes], ["separated"], planarconfig="separate"),
        "luma and chroma": builders.pillow(wound(), "TIFF", "YCbCr"),
        "grey with alpha": tiff([opaque], ["minisblack"], extrasamples=[2]),
        "JPEG of 12 bit": tiff([deep_grey >> 4], compression="jpeg", bitspersample=12),
    }

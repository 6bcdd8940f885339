"""Files in which one name can be read, but only in one of the ways in which viewers show a file."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pydicom
import tifffile
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine.formats import png
from tests import builders

NAME = "QUASTENBERG OTTILIE"
_HIGH, _WIDE = 72, 260


def _stencil() -> np.ndarray:
    drawn = np.zeros((_HIGH, _WIDE), np.uint8)
    cv2.putText(drawn, NAME, (12, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_8)
    return drawn > 0


#: Pixels of the name, shape (height, width), bool.
LETTERS = _stencil()


@dataclass(frozen=True)
class Hidden:
    """A file, the frame with the name, and whether people are shown it at first sight."""

    make: Callable[[], bytes]
    frame: int = 0
    at_first_sight: bool = False


def letters(on: Any, ground: Any, dtype: type = np.uint8) -> np.ndarray:
    """A picture of two values or colours."""
    picture = np.empty((_HIGH, _WIDE, *np.shape(on)), dtype)
    picture[...] = ground
    picture[LETTERS] = on
    return picture


def beside(picture: np.ndarray, value: Any, share: float = 0.5) -> np.ndarray:
    """A picture with a strip of one value on its right: padding."""
    strip = np.empty((_HIGH, round(_WIDE * share / (1 - share)), *picture.shape[2:]), picture.dtype)
    strip[...] = value
    return np.concatenate([picture, strip], axis=1)


def ramp(picture: np.ndarray, low: int, high: int) -> np.ndarray:
    """A picture over a strip with every value of a range, as anatomy has."""
    strip = np.linspace(low, high, 60 * picture.shape[1]).reshape(60, -1)
    return np.concatenate([picture, strip.astype(picture.dtype)])


def hot(picture: np.ndarray, value: int, count: int = 9) -> np.ndarray:
    """A picture with single pixels of a value far from all others."""
    picture = picture.copy()
    for i in range(count):
        picture[3 + 2 * (i % 3), 5 + 9 * i] = value
    return picture


def _png(pixels: np.ndarray, colour: int, *chunks: tuple[bytes, bytes], depth: int = 8) -> bytes:
    header = png.Header(pixels.shape[1], pixels.shape[0], depth, colour, False)
    return png.write(pixels, header, chunks)


def _colours(*entries: tuple[int, ...]) -> tuple[bytes, bytes]:
    return b"PLTE", bytes(v for entry in entries for v in entry)


def _tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **{"photometric": "minisblack", **options})
    return buffer.getvalue()


def _webp(pixels: np.ndarray) -> bytes:
    return builders.pillow(pixels, "WEBP", lossless=True, exact=True)


def _rgba(on: tuple[int, ...], ground: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return letters(on, ground, dtype)


def under_white(picture: np.ndarray) -> np.ndarray:
    """A picture with alpha over white stripes on nothing, for which people are shown black."""
    stripes = np.zeros((60, *picture.shape[1:]), picture.dtype)
    stripes[:, np.arange(picture.shape[1]) // 4 % 2 == 0] = np.iinfo(picture.dtype).max
    return np.concatenate([picture, stripes])


def _black(dtype: type = np.uint8) -> np.ndarray:
    """Black letters on nothing, which black ground hides."""
    top = np.iinfo(dtype).max
    return under_white(_rgba((0, 0, 0, top), (0, 0, 0, 0), dtype))


def _windows(*pairs: tuple[float, float]) -> dict[str, Any]:
    return {"WindowCenter": [c for c, _ in pairs], "WindowWidth": [w for _, w in pairs]}


def _table(first: int, body: np.ndarray) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(body), first, 16]
    item.add_new(0x00283006, "OW", body.astype("<u2").tobytes())
    return item


def _step_table(size: int, at: int) -> Dataset:
    """A table that is white from one value on."""
    return _table(0, np.where(np.arange(size) >= at, 65535, 0))


def _per_frame(data: bytes, *windows: tuple[float, float]) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(data))
    groups = []
    for centre, width in windows:
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, width
        group.FrameVOILUTSequence = Sequence([voi])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return _saved(ds)


def _saved(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def _overlays(pixels: np.ndarray, *planes: np.ndarray, **attributes: Any) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(builders.dicom(pixels, **attributes)))
    for number, shown in enumerate(planes):
        base = 0x60000000 + number * 0x20000
        packed = np.packbits(shown.reshape(-1), bitorder="little").tobytes()
        ds.add_new(base | 0x0010, "US", shown.shape[0])
        ds.add_new(base | 0x0011, "US", shown.shape[1])
        ds.add_new(base | 0x0040, "CS", "G")
        ds.add_new(base | 0x0050, "SS", [1, 1])
        ds.add_new(base | 0x0100, "US", 1)
        ds.add_new(base | 0x0102, "US", 0)
        ds.add_new(base | 0x3000, "OW", packed + b"\0" * (len(packed) % 2))
    return _saved(ds)


def _palette_dicom(pixels: np.ndarray, colours: np.ndarray) -> bytes:
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for place, name in enumerate(("Red", "Green", "Blue")):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        entries = colours[:, place].astype("<u2") * 257
        attributes[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    return builders.dicom(pixels, **attributes)


def _stack(*frames: np.ndarray) -> np.ndarray:
    return np.stack(frames)


_FLAT = letters(300, 300, np.uint16)
_BLOCK = np.ones((_HIGH, _WIDE), bool)
_GREYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
_TWINS = _GREYS.copy()
_TWINS[200] = _TWINS[40]

PICTURES: dict[str, Hidden] = {
    # black letters on nothing, and white ones; the ground decides
    "PNG RGBA black": Hidden(lambda: builders.png(_black())),
    "PNG RGBA black alone": Hidden(
        lambda: builders.png(_rgba((0, 0, 0, 255), (0, 0, 0, 0))), at_first_sight=True
    ),
    "PNG RGBA white": Hidden(
        lambda: builders.png(_rgba((255, 255, 255, 255), (255, 255, 255, 0))), at_first_sight=True
    ),
    "PNG RGBA under alpha 0": Hidden(lambda: builders.png(_rgba((255, 255, 255, 0), (0, 0, 0, 0)))),
    "PNG RGBA 16": Hidden(
        lambda: builders.png(_black(np.uint16))
    ),
    "PNG grey+alpha": Hidden(lambda: _png(under_white(letters((0, 255), (0, 0))), png.GREY_ALPHA)),
    "PNG grey+alpha 16": Hidden(
        lambda: _png(under_white(letters((0, 65535), (0, 0), np.uint16)), png.GREY_ALPHA, depth=16)
    ),
    "PNG palette, clear entry": Hidden(
        lambda: _png(letters(1, 0), png.PALETTE, _colours((0, 0, 0), (0, 0, 0)), (b"tRNS", b"\0")),
        at_first_sight=True,
    ),
    "PNG palette, half clear": Hidden(
        lambda: _png(
            letters(1, 0), png.PALETTE, _colours((0, 0, 0), (6, 0, 0)), (b"tRNS", b"\x40\xff")
        ),
        at_first_sight=True,
    ),
    "PNG palette, twin entries": Hidden(
        lambda: _png(letters(0, 1), png.PALETTE, _colours((90, 9, 9), (90, 9, 9)))
    ),
    "PNG grey, clear level": Hidden(
        lambda: _png(letters(3, 0), png.GREY, (b"tRNS", struct.pack(">H", 0))),
        at_first_sight=True,
    ),
    "PNG grey 16, clear level": Hidden(
        lambda: _png(
            letters(90, 7, np.uint16), png.GREY, (b"tRNS", struct.pack(">H", 7)), depth=16
        ),
        at_first_sight=True,
    ),
    "PNG RGB, clear colour": Hidden(
        lambda: _png(
            letters((0, 0, 2), (0, 0, 1)), png.RGB, (b"tRNS", struct.pack(">3H", 0, 0, 1))
        ),
        at_first_sight=True,
    ),
    "PNG RGB 16, clear colour": Hidden(
        lambda: _png(
            letters((0, 0, 200), (0, 0, 100), np.uint16), png.RGB,
            (b"tRNS", struct.pack(">3H", 0, 0, 100)), depth=16,
        ),
        at_first_sight=True,
    ),
    "PNG grey of few levels": Hidden(lambda: builders.png(letters(5, 0))),
    "PNG grey, padded": Hidden(lambda: builders.png(beside(letters(5, 0), 255))),
    "PNG grey 16 of few levels": Hidden(
        lambda: builders.png(letters(900, 300, np.uint16)), at_first_sight=True
    ),
    "PNG grey 16, padded": Hidden(
        lambda: builders.png(beside(letters(900, 300, np.uint16), 65535))
    ),
    "PNG grey 16, hot pixels": Hidden(
        lambda: builders.png(hot(ramp(letters(900, 300, np.uint16), 0, 1000), 65535)),
        at_first_sight=True,
    ),
    "PNG grey 16, two far groups": Hidden(
        lambda: builders.png(ramp(letters(60_200, 60_000, np.uint16), 0, 5000))
    ),
    "PNG RGB of few levels": Hidden(lambda: builders.png(letters((6, 6, 3), (2, 0, 0)))),
    "PNG RGB 16 of few levels": Hidden(
        lambda: builders.png(letters((900, 900, 300), (300, 300, 300), np.uint16))
    ),
    "PNG RGB 16, padded": Hidden(
        lambda: builders.png(beside(letters((900, 900, 300), (300, 300, 300), np.uint16), 65535))
    ),
    "PNG by its gamma": Hidden(
        lambda: _png(
            beside(letters((7, 7, 7), (1, 1, 1)), 255), png.RGB,
            (b"gAMA", struct.pack(">I", 100_000)),
        )
    ),
    "WebP RGBA black": Hidden(lambda: _webp(_black())),
    "WebP RGBA under alpha 0": Hidden(lambda: _webp(_rgba((255, 255, 255, 0), (0, 0, 0, 0)))),
    "WebP RGB of few levels": Hidden(lambda: _webp(letters((6, 6, 6), (1, 1, 1)))),
    "TIFF RGBA straight": Hidden(
        lambda: _tiff(_black(), photometric="rgb", extrasamples=[2])
    ),
    "TIFF RGBA associated": Hidden(
        lambda: _tiff(_black(), photometric="rgb", extrasamples=[1])
    ),
    "TIFF RGBA before it was multiplied": Hidden(
        lambda: _tiff(_rgba((5, 5, 5, 5), (0, 0, 0, 5)), photometric="rgb", extrasamples=[1])
    ),
    "TIFF RGBA with a channel of no meaning": Hidden(
        lambda: _tiff(_rgba((255, 0, 0, 0), (0, 0, 0, 0)), photometric="rgb", extrasamples=[0]),
        at_first_sight=True,
    ),
    "TIFF RGBA in a channel of no meaning": Hidden(
        lambda: _tiff(
            _rgba((255, 255, 255, 200), (255, 255, 255, 9)), photometric="rgb", extrasamples=[0]
        )
    ),
    "TIFF RGBA 16": Hidden(
        lambda: _tiff(
            _black(np.uint16), photometric="rgb", extrasamples=[2]
        )
    ),
    "TIFF grey 16, padded": Hidden(lambda: _tiff(beside(letters(900, 300, np.uint16), 65535))),
    "TIFF inverted grey 16, padded": Hidden(
        lambda: _tiff(beside(letters(900, 300, np.uint16), 65535), photometric="miniswhite")
    ),
    "TIFF signed 16, padded": Hidden(
        lambda: _tiff(beside(letters(-900, -1300, np.int16), 32_767))
    ),
    "TIFF float, padded": Hidden(
        lambda: _tiff(beside(letters(0.9, 0.3, np.float32), -32_768.0))
    ),
    "TIFF float, no numbers": Hidden(
        lambda: _tiff(letters(np.nan, 0.3, np.float32)), at_first_sight=True
    ),
    "TIFF palette, twin entries": Hidden(
        lambda: _tiff(
            letters(200, 40), photometric="palette", colormap=_TWINS.T.astype(np.uint16) * 257
        )
    ),
    "TIFF, last of its pages": Hidden(
        lambda: _tiff(
            _stack(
                ramp(_FLAT, 0, 65_000), ramp(_FLAT, 0, 65_000),
                np.pad(letters(900, 300, np.uint16), ((0, 60), (0, 0)), constant_values=65_535),
            )
        ),
        2,
    ),
    "BMP of few levels": Hidden(lambda: builders.pillow(letters((6, 6, 6), (1, 1, 1)), "BMP")),
    "BMP grey, padded": Hidden(lambda: builders.pillow(beside(letters(7, 1), 255), "BMP")),
    "JPEG of few levels": Hidden(
        lambda: builders.jpeg(letters(25, 3), quality=98), at_first_sight=True
    ),
}  # fmt: skip

_BEYOND = letters(2600, 2200, np.uint16)
DICOMS: dict[str, Hidden] = {
    "above the window": Hidden(
        lambda: builders.dicom(ramp(_BEYOND, 0, 2000), bits=12, **_windows((500, 800)))
    ),
    "below the window": Hidden(
        lambda: builders.dicom(
            ramp(letters(500, 10, np.uint16), 0, 4000), bits=12, **_windows((3000, 800))
        )
    ),
    "at the second window": Hidden(
        lambda: builders.dicom(
            ramp(letters(1040, 1000, np.uint16), 0, 4000), bits=12,
            **_windows((3000, 800), (1020, 80)),
        )
    ),
    "inverted, at the second window": Hidden(
        lambda: builders.dicom(
            ramp(letters(1040, 1000, np.uint16), 0, 4000), bits=12,
            PhotometricInterpretation="MONOCHROME1", **_windows((3000, 800), (1020, 80)),
        )
    ),
    "at the window of another frame": Hidden(
        lambda: _per_frame(
            builders.dicom(
                _stack(
                    ramp(letters(1040, 1000, np.uint16), 0, 4000),
                    *[ramp(letters(1000, 1000, np.uint16), 0, 4000)] * 2,
                ),
                bits=12,
            ),
            (3000, 800), (3000, 900), (1020, 80),
        )
    ),
    "on the first of three frames": Hidden(
        lambda: builders.dicom(
            _stack(*(ramp(p, 0, 1000) for p in (_BEYOND, _FLAT, _FLAT))), bits=12,
            **_windows((500, 1000)),
        )
    ),
    "on the last of three frames": Hidden(
        lambda: builders.dicom(
            _stack(*(ramp(p, 0, 1000) for p in (_FLAT, _FLAT, _BEYOND))), bits=12,
            **_windows((500, 1000)),
        ),
        2,
    ),
    "at the second table": Hidden(
        lambda: builders.dicom(
            ramp(letters(1010, 1000, np.uint16), 0, 4000), bits=12,
            VOILUTSequence=Sequence([_step_table(4096, 3000), _step_table(4096, 1005)]),
        )
    ),
    "at a window beside a table": Hidden(
        lambda: builders.dicom(
            ramp(letters(1040, 1000, np.uint16), 0, 4000), bits=12,
            VOILUTSequence=Sequence([_step_table(4096, 3000)]), **_windows((1020, 80)),
        )
    ),
    "before the modality's table": Hidden(
        lambda: builders.dicom(
            letters(200, 40), ModalityLUTSequence=Sequence([_flattening()]),
            **_windows((20_000, 40_000)),
        )
    ),
    "beside padding that is declared": Hidden(
        lambda: builders.dicom(
            beside(letters(200, 100, np.int16), -30_000), bits=16, PixelPaddingValue=-30_000
        ),
        at_first_sight=True,
    ),
    "beside padding that is not": Hidden(
        lambda: builders.dicom(beside(letters(200, 100, np.int16), -30_000), bits=16)
    ),
    "beside hot pixels": Hidden(
        lambda: builders.dicom(hot(ramp(letters(200, 100, np.uint16), 0, 300), 65_535)),
        at_first_sight=True,
    ),
    "beside hot pixels, with a window": Hidden(
        lambda: builders.dicom(
            hot(ramp(letters(200, 100, np.uint16), 0, 300), 65_535), **_windows((30_000, 60_000))
        )
    ),
    "in a type that is hardly used": Hidden(
        lambda: builders.dicom(letters(200, 100, np.uint16), **_windows((32_768, 65_536)))
    ),
    "in 32 levels of 8 bits": Hidden(
        lambda: builders.dicom(letters(9, 4), **_windows((128, 256)))
    ),
    "under an overlay": Hidden(
        lambda: _overlays(letters(200, 20), _BLOCK, **_windows((128, 256)))
    ),
    "in an overlay": Hidden(
        lambda: _overlays(letters(20, 20), LETTERS, **_windows((128, 256))), at_first_sight=True
    ),
    "in an overlay under another": Hidden(
        lambda: _overlays(letters(20, 20), LETTERS, _BLOCK, **_windows((128, 256)))
    ),
    "in two equal overlays": Hidden(
        lambda: _overlays(letters(20, 20), LETTERS, LETTERS, **_windows((128, 256))),
        at_first_sight=True,
    ),
    "in an overlay over stripes": Hidden(
        lambda: _overlays(
            np.where(np.arange(_WIDE) % 2, np.uint8(255), np.uint8(0))[None].repeat(_HIGH, 0),
            LETTERS, **_windows((128, 256)),
        ),
        at_first_sight=True,
    ),
    "in a palette with twins": Hidden(lambda: _palette_dicom(letters(200, 40), _TWINS)),
    "in RGB of few levels": Hidden(lambda: builders.dicom(letters((6, 6, 6), (1, 1, 1)))),
    "in YBR of few levels": Hidden(
        lambda: builders.dicom(
            letters((6, 128, 128), (1, 128, 128)), PhotometricInterpretation="YBR_FULL"
        )
    ),
}  # fmt: skip


def _flattening() -> Dataset:
    """A modality table that makes the name and its ground one value."""
    body = np.arange(256) * 100
    body[200] = body[40]
    item = _table(0, body)
    item.ModalityLUTType = "US"
    return item


HIDDEN: dict[str, Hidden] = {**PICTURES, **{f"DICOM {k}": v for k, v in DICOMS.items()}}

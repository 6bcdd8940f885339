"""Pictures other than DICOM.

All but TIFF, BMP and WebP have their own modules. For TIFF, BMP and WebP, the masked file is newly
written without loss and without metadata. If the original coding can be reproduced
(:mod:`engine.formats.recoding`), everything except the pixels is sealed, otherwise the whole
original, so that the restored file is always identical byte for byte.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from engine.errors import CorruptImage, ImageTooLarge, SealBroken, UnsupportedFormat
from engine.formats import (
    animation,
    dicom_document,
    exif,
    heif,
    jpeg,
    jpeg2000,
    jpeg_file,
    jpeg_rare,
    jxl,
    mask,
    patches,
    png,
    png_seal,
    raster_view,
    recoding,
    residue,
    tiff_pages,
    unseen,
)
from engine.formats.limits import check_scans, check_size
from engine.records import Format, Region

Read = tuple[np.ndarray, tuple[int, int], dict[str, Any]]
_MAX_PAGES = 10_000
_DAMAGED = "This file is damaged: its picture cannot be decoded."
_COLOURS = {
    png.GREY: "grey",
    png.RGB: "rgb",
    png.PALETTE: "palette",
    png.GREY_ALPHA: "grey+alpha",
    png.RGBA: "rgba",
}


def decode(kind: Format, data: bytes, max_side_px: int, max_decoded_bytes: int) -> Read:
    """Read a picture into stored values: pixels, block grid and facts, as in an ``Image``.

    Raises:
        CorruptImage, ImageTooLarge, UnsupportedFormat: With what is wrong and what to do.
    """
    readers = {
        Format.PNG: _decode_png,
        Format.JPEG: _decode_jpeg,
        Format.TIFF: _decode_tiff,
        Format.BMP: _decode_pillow,
        Format.WEBP: _decode_pillow,
        Format.HEIC: heif.decode,
        Format.AVIF: heif.decode,
        Format.JPEG_XL: jxl.decode,
        Format.JPEG_2000: jpeg2000.decode,
        Format.GIF: animation.decode,
        Format.DOCUMENT: dicom_document.decode,
    }
    pixels, grid, properties = readers[kind](data, max_side_px, max_decoded_bytes)
    facts: dict[str, Any] = {
        "modality": "",
        "spacing_mm": None,
        "spacing_from": "",
        "lossy": False,
        "orientation": 1,
        "alpha": raster_view.STRAIGHT,
    }
    facts |= properties
    return pixels, grid, facts | residue.of_picture(kind, data, facts)


def _decode_png(data: bytes, max_side_px: int, max_bytes: int) -> Read:
    header = png.parse(data)
    size = png.CHANNELS[header.colour] * (2 if header.depth == 16 else 1)
    check_size(header.width, header.height, 1, size, max_side_px, max_bytes)
    facts: dict[str, Any] = {"bits": header.depth, "colour": _COLOURS[header.colour]}
    if header.colour == png.PALETTE:
        facts |= {"palette": header.palette, "palette_alpha": header.alpha}
    facts |= {"transparent": header.transparent, "gamma": png.gamma(data, header)}
    facts["orientation"] = png.orientation(data, header)
    return png.samples(data, header)[None], (1, 1), facts


def _decode_jpeg(data: bytes, max_side_px: int, max_bytes: int) -> Read:
    header = jpeg_file.parse(data, rare=True)
    if header.is_rare:
        return jpeg_rare.decode(data, header, max_side_px, max_bytes)
    channels = len(header.components)
    check_scans(data)
    check_size(header.width, header.height, 1, channels, max_side_px, max_bytes)
    facts = {
        "bits": 8,
        "colour": "grey" if channels == 1 else "rgb",
        "lossy": True,
        "orientation": header.orientation,
    }
    return jpeg_pixels(data)[None], header.mcu, facts


def jpeg_pixels(data: bytes) -> np.ndarray:
    """Decoded samples of a JPEG: shape (height, width) or (height, width, 3), uint8.

    Raises:
        CorruptImage: It cannot be decoded.
    """
    try:
        return np.asarray(imagecodecs.jpeg8_decode(data))
    except (RuntimeError, ValueError) as err:
        raise CorruptImage("This JPEG file is damaged: its picture cannot be decoded.") from err


@contextmanager
def _pillow_errors() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Pillow.DecompressionBombError as err:
        raise ImageTooLarge("This picture has too many pixels. Send a smaller one.") from err
    except (CorruptImage, UnsupportedFormat, ImageTooLarge):
        raise
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, EOFError) as err:
        raise CorruptImage(_DAMAGED) from err
    except Exception as err:
        raise CorruptImage(_DAMAGED) from err


def _decode_pillow(data: bytes, max_side_px: int, max_bytes: int) -> Read:
    with _pillow_errors():
        picture = Pillow.open(io.BytesIO(data), formats=("BMP", "WEBP"))
        if getattr(picture, "n_frames", 1) > 1:
            return animation.decode(data, max_side_px, max_bytes)
        check_size(picture.width, picture.height, 1, 4, max_side_px, max_bytes)
        modes = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "LA": "RGBA"}
        if picture.mode not in modes:
            raise UnsupportedFormat(f"Pictures of kind {picture.mode} are not supported.")
        mode = modes[picture.mode]
        turned = exif.orientation_of(picture.info.get("exif", b""))
        pixels = np.asarray(picture.convert(mode))
    lossy = data[8:12] == b"WEBP" and b"VP8 " in data[:64]
    facts = {"bits": 8, "colour": {"L": "grey", "RGB": "rgb", "RGBA": "rgba"}[mode]}
    facts |= {"lossy": lossy, "orientation": turned}
    return pixels[None], (16, 16) if lossy else (1, 1), facts


def _check_chain(data: bytes) -> None:
    """Walk a TIFF's chain of directories once: the reader would follow a loop for ever.

    Raises:
        CorruptImage: It loops, leaves the file or is too long.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    where, count, entry, at = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    seen: set[int] = set()
    try:
        (offset,) = struct.unpack_from(order + where, data, at)
        while offset:
            if offset in seen or len(seen) >= _MAX_PAGES:
                raise CorruptImage(
                    "This TIFF file is damaged: its page list is circular. Export it again."
                )
            seen.add(offset)
            (entries,) = struct.unpack_from(order + count, data, offset)
            place = offset + struct.calcsize(count) + entries * entry
            (offset,) = struct.unpack_from(order + where, data, place)
    except struct.error as err:
        raise CorruptImage("This TIFF file ends too early: send the complete file.") from err


def _decode_tiff(data: bytes, max_side_px: int, max_bytes: int) -> Read:
    _check_chain(data)
    with _pillow_errors(), tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
        if len(pages) != len(file.pages):
            pages = [page.aspage() for page in file.pages]
        if not pages:
            raise CorruptImage("This TIFF file contains no picture. Choose another file.")
        first = pages[0]
        tiff_pages.refuse(pages, data)
        said = {"orientation": _tiff_orientation(pages), "alpha": _tiff_alpha(pages)}
        if tiff_pages.wanted(pages):
            stack, grid, facts = tiff_pages.decode(pages, max_side_px, max_bytes)
            return stack, grid, facts | said
        assert first.dtype is not None
        size = first.samplesperpixel * first.dtype.itemsize
        check_size(first.imagewidth, first.imagelength, len(pages), size, max_side_px, max_bytes)
        frames = []
        for page in pages:
            # into zeros: where strips are missing, the reader leaves what was in memory
            pixels = page.asarray(out=np.zeros(page.shape, page.dtype))
            if pixels.dtype == bool:
                pixels = pixels.astype(np.uint8)
            if page.planarconfig == 2 and page.samplesperpixel > 1:
                pixels = np.moveaxis(pixels, 0, -1)
            shape: tuple[int, ...] = (first.imagelength, first.imagewidth)
            shape += (first.samplesperpixel,) if first.samplesperpixel > 1 else ()
            if pixels.shape != shape:
                raise CorruptImage(
                    "This TIFF file is damaged: its page headers are not valid. Export it again."
                )
            frames.append(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
        facts = {"bits": first.bitspersample, "colour": _tiff_colour(first), **said}
        if first.photometric == 3 and first.colormap is not None:
            facts["colormap"] = np.asarray(first.colormap)
        lossy = residue.lossy_tiff([page.compression for page in pages])
        stack = np.stack(frames) if len(frames) > 1 else frames[0][None]
        return (
            stack,
            (16, 16) if lossy else (1, 1),
            facts | {"lossy": lossy > 0, "compression": lossy},
        )


#: What TIFF's tag 338 says of the fourth channel.
_EXTRA_SAMPLES = {
    raster_view.UNSPECIFIED: 0,
    raster_view.ASSOCIATED: 1,
    raster_view.STRAIGHT: 2,
}


def _tiff_alpha(pages: Sequence[Any]) -> str:
    """What the pages that have one say of their alpha; unspecified where they differ."""
    said = {int(page.extrasamples[0]) for page in pages if page.extrasamples}
    number = said.pop() if len(said) == 1 else 0
    return next((n for n, v in _EXTRA_SAMPLES.items() if v == number), raster_view.UNSPECIFIED)


def _tiff_orientation(pages: Sequence[Any]) -> int:
    """Which way up all pages are; 1 where they differ."""
    said = {page.tags.valueof(274, 1) for page in pages}
    value = said.pop() if len(said) == 1 else 1
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _tiff_colour(page: Any) -> str:
    if page.photometric == 3:
        return "palette"
    if page.samplesperpixel == 1:
        return "grey inverted" if page.photometric == 0 else "grey"
    return "rgb" if page.samplesperpixel == 3 else "rgba"


def dissect(
    kind: Format, data: bytes, regions: Sequence[Region]
) -> tuple[bytes, tuple[bytes, ...], dict[str, bytes]]:
    """Mask a picture: the masked file, a patch per region, and the parts of the remainder."""
    if kind is Format.PNG:
        return png_seal.dissect(data, regions)
    if kind is Format.JPEG and not jpeg_file.parse(data, rare=True).is_rare:
        made = jpeg.dissect(data, regions)
        return made.data, made.patches, {"bones": made.bones, "edges": made.edges}
    pixels, _, facts = decode(kind, data, 1 << 30, 1 << 40)
    if facts.get("converted") and len(pixels) == 1:
        return *png_seal.mask_samples(pixels, regions), {"whole": data}
    if facts.get("converted"):
        kind, facts = Format.TIFF, {**facts, "lossy": True}
    lifted = [patches.encode(mask.lift(pixels, regions, i)) for i in range(len(regions))]
    if "colormap" in facts:  # the masked file has the colours that it shows, and no other
        table = np.ascontiguousarray(facts["colormap"], "<u2").tobytes()
        lifted = [patches.pack({"pixels": part, "colormap": table}) for part in lifted]
    parts = None if facts["lossy"] else recoding.take(kind, data, pixels)
    plain, facts = _as_shown(pixels, facts)
    if parts and pixels.dtype.kind != "f":
        parts["unseen"] = unseen.difference(pixels, plain, regions)
    _fill(plain, regions, facts)
    return (
        _write(kind, plain, _with_colours_of(plain, facts)),
        tuple(lifted),
        parts or {"whole": data},
    )


def _as_shown(pixels: np.ndarray, facts: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """A copy of the pixels with nothing that no viewer shows, and its facts."""
    if "colormap" in facts:
        table = (facts["colormap"].T >> 8).astype(np.uint8)
        first, _ = unseen.one_of_each(table)
        return first.astype(pixels.dtype)[pixels], facts | {"colormap": table.T.astype("u2") * 257}
    # Colours that were multiplied by their alpha are all seen, on black.
    veiled = facts["colour"] in ("grey+alpha", "rgba") and facts["alpha"] == raster_view.STRAIGHT
    if veiled and pixels.dtype.kind == "u":
        return unseen.opaque_enough(pixels), facts
    plain = pixels.copy()
    if plain.dtype.kind == "f":  # what is no number has bits that say nothing
        plain[np.isnan(plain)] = np.nan
    return plain, facts


def _with_colours_of(pixels: np.ndarray, facts: dict[str, Any]) -> dict[str, Any]:
    """Facts with a palette in which only what these pixels use is left."""
    if "colormap" not in facts:
        return facts
    used = np.zeros(facts["colormap"].shape[1], bool)
    used[np.unique(pixels)] = True
    return facts | {"colormap": np.where(used, facts["colormap"], 0).astype("u2")}


def shown(pixels: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """Pixels in the form in which two pictures that look alike are equal.

    Args:
        pixels: One frame of a picture, or all, as :func:`decode` gives them.
    """
    if "palette" in facts:
        return unseen.opaque_enough(png.expand(pixels, facts["palette"], facts["palette_alpha"]))
    if "colormap" in facts:
        table = (facts["colormap"].T >> 8).astype(np.uint8)
        return np.ascontiguousarray(table[np.minimum(pixels, len(table) - 1)])
    return _as_shown(pixels, dict(facts))[0]


def _fill(pixels: np.ndarray, regions: Sequence[Region], facts: Mapping[str, Any]) -> None:
    if pixels.dtype.kind == "f":
        tiff_pages.fill_floats(pixels, regions)
        return
    for region in regions:
        low, high = 0.0, float((1 << min(int(facts["bits"]), 8 * pixels.dtype.itemsize)) - 1)
        if pixels.dtype.kind == "i":
            low, high = float(np.iinfo(pixels.dtype).min), float(np.iinfo(pixels.dtype).max)
        if pixels.dtype.itemsize > 1 and "colormap" not in facts:
            free = pixels[region.frame][mask.outside(pixels.shape[1:3], regions, region.frame)]
            if free.size and int(free.max()) - int(free.min()) > 16:
                low, high = float(free.min()), float(free.max())
        dark, light = (round(t) for t in mask.tones(low, high))
        if "colormap" in facts:
            lightness = facts["colormap"].mean(axis=0) / 65535
            dark, light = (int(abs(lightness - t).argmin()) for t in mask.tones(0, 1))
        if facts["bits"] == 1:
            dark, light = 0, 1
        tone = np.where(mask.pattern(region.height, region.width), light, dark)
        target = pixels[region.slices]
        if pixels.ndim == 3:
            target[...] = tone
        else:
            target[..., :3] = tone[..., None]
            target[..., 3:] = np.iinfo(pixels.dtype).max


def _write(kind: Format, pixels: np.ndarray, facts: Mapping[str, Any]) -> bytes:
    """A new file of the format, without loss and without metadata but which way up it is."""
    buffer = io.BytesIO()
    orientation = int(facts["orientation"])
    if kind is Format.TIFF:
        extra = [_EXTRA_SAMPLES[facts["alpha"]]]
        turned = [(274, "H", 1, orientation, True)] if orientation != 1 else ()
        photometric = {"grey": 1, "grey inverted": 0, "palette": 3}.get(facts["colour"], 2)
        with tifffile.TiffWriter(buffer) as file:
            for number, whole in enumerate(pixels):
                page = tiff_pages.own_size(whole, number, facts)
                bilevel = facts["bits"] == 1 and page.dtype == np.uint8
                file.write(
                    page.astype(bool) if bilevel else page,
                    photometric=photometric,
                    compression="zlib",
                    predictor=page.dtype.itemsize > 1 and not bilevel,
                    colormap=facts.get("colormap"),
                    metadata=None,
                    software="",
                    extrasamples=extra if page.ndim == 3 and page.shape[2] == 4 else None,
                    extratags=turned,
                )
    elif kind is Format.BMP:
        Pillow.fromarray(pixels[0]).save(buffer, "BMP")
    else:
        block = exif.block_of(orientation) if orientation != 1 else b""
        Pillow.fromarray(pixels[0]).save(
            buffer, "WEBP", lossless=True, quality=60, exact=True, exif=block
        )
    return buffer.getvalue()


def assemble(
    masked: bytes,
    regions: Sequence[Region],
    coded: Mapping[int, bytes],
    parts: Mapping[str, bytes] | None,
) -> bytes:
    """Put patches back into a masked picture.

    Raises:
        SealBroken: A part does not belong to this image.
    """
    try:
        if masked[:8] == png.SIGNATURE:
            return png_seal.assemble(masked, regions, coded, parts)
        if masked[:2] == b"\xff\xd8":
            if parts is None:
                return jpeg.assemble(masked, regions, coded, None)
            edges = parts.get("edges", b"")
            return jpeg.assemble(masked, regions, coded, parts["bones"], edges)
        kind = {b"RI": Format.WEBP, b"BM": Format.BMP}.get(masked[:2], Format.TIFF)
        pixels, _, facts = decode(kind, masked, 1 << 30, 1 << 40)
    except (CorruptImage, UnsupportedFormat, ImageTooLarge) as err:
        raise SealBroken("The masked file was changed. Restore the image from a backup.") from err
    pixels = pixels.copy()
    if parts is not None:
        unseen.put_back(pixels, parts.get("unseen", b""))
    elif "colormap" in facts and coded:
        return _open_palette(kind, pixels, facts, regions, coded)
    for index, patch in coded.items():
        part = patches.decode(_bare(patch))
        if part.shape != pixels[regions[index].slices].shape:
            raise SealBroken(
                "A sealed region does not match its image. Restore the image from a backup."
            )
        mask.lay(pixels, regions, index, part)
    return _write(kind, pixels, facts) if parts is None else recoding.give(parts, pixels)


def _bare(patch: bytes) -> bytes:
    """The coded pixels of a patch, without the palette that newer ones carry."""
    try:
        return patches.unpack(patch)["pixels"]
    except SealBroken:
        return patch


def _open_palette(
    kind: Format,
    pixels: np.ndarray,
    facts: Mapping[str, Any],
    regions: Sequence[Region],
    coded: Mapping[int, bytes],
) -> bytes:
    """A partly opened palette picture: its patches bring colours that the masked file lacks."""
    colours = shown(pixels, facts)
    for index, patch in coded.items():
        try:
            table = np.frombuffer(patches.unpack(patch)["colormap"], "<u2").reshape(3, -1)
        except SealBroken:  # an older patch, whose masked file has all colours
            table = facts["colormap"]
        part = patches.decode(_bare(patch))
        if part.shape != pixels[regions[index].slices].shape:
            raise SealBroken(
                "A sealed region does not match its image. Restore the image from a backup."
            )
        mask.lay(colours, regions, index, shown(part, {"colormap": table}))
    plain = {name: value for name, value in facts.items() if name != "colormap"}
    return _write(kind, colours, plain | {"colour": "rgb", "bits": 8})

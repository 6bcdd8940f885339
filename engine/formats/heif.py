"""HEIC and AVIF, as telephones store photographs (ISO/IEC 23008-12).

Reads the primary picture only, turned as the file says: the EXIF orientation is a copy for other
programs, and by the standard it is not applied. Depth maps, thumbnails, gain maps and the frames of
a live picture are no part of the masked file. AVIF sequences give all their frames.
"""

from __future__ import annotations

import io
import warnings

import imagecodecs
import numpy as np

from engine.errors import UnsupportedFormat
from engine.formats import converted, isobmff
from engine.formats.converted import Read
from engine.formats.limits import check_part, check_size

_CODINGS = {"hvc1": "HEIC", "hev1": "HEIC", "av01": "AVIF"}
_PREMULTIPLIED = ("RGBa", "RGBa;16")


def decode(data: bytes, max_side_px: int, max_bytes: int) -> Read:
    """Read the picture that viewers show.

    Raises:
        CorruptImage, ImageTooLarge, UnsupportedFormat: With what is wrong and what to do.
    """
    said = isobmff.primary(data)
    coding = _CODINGS.get(said.coding)
    if coding is None:
        raise UnsupportedFormat(
            "The picture in this file is coded in an unusual way. Export it as JPEG or PNG."
        )
    # Twice four: samples may have more than 8 bits and an alpha channel.
    for width, height in said.sizes:
        check_part(width, height, 1, 8, max_side_px, max_bytes)
    frames = max(1, said.frames) if coding == "AVIF" else 1
    check_size(said.width, said.height, frames, 8, max_side_px, max_bytes)
    if coding == "AVIF":
        return _avif(data, said)
    return _heic(data, said)


def _heic(data: bytes, said: isobmff.Primary) -> Read:
    import pillow_heif  # 20 MB of library that no other format needs

    options = pillow_heif.options
    options.THUMBNAILS = options.AUX_IMAGES = options.DEPTH_IMAGES = False
    options.DECODE_THREADS = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = pillow_heif.open_heif(
                io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False
            )
            picture = file[file.primary_index]
            bits = int(str(picture.info.get("bit_depth", 8)))
            samples = np.asarray(picture)
            mode = str(picture.mode)
    except MemoryError:
        raise
    except Exception as err:  # the library translates few of its errors
        raise converted.damaged(err) from err
    pixels = converted.full_range(samples, bits)
    if mode in _PREMULTIPLIED and pixels.ndim == 3:
        pixels = converted.plain_alpha(pixels)
    pixels = converted.in_srgb(pixels, said.icc, said.primaries, said.transfer)
    return converted.reading([pixels], lossy=True)


def _avif(data: bytes, said: isobmff.Primary) -> Read:
    try:
        # A sequence without an index gives all its frames, below each other.
        index = None if said.frames > 1 else 0
        samples = np.asarray(imagecodecs.avif_decode(data, index, numthreads=1))
    except (RuntimeError, ValueError, IndexError) as err:
        raise converted.damaged(err) from err
    several = said.frames > 1 and samples.shape[0] == said.frames
    shown = []
    for frame in samples if several else samples[None]:
        bits = 8 if frame.dtype == np.uint8 else said.bits or 10
        pixels = converted.full_range(frame, bits)
        pixels = converted.in_srgb(pixels, said.icc, said.primaries, said.transfer)
        turned = np.rot90(pixels, said.turns)
        if said.mirror is not None:
            turned = turned[::-1] if said.mirror == 0 else turned[:, ::-1]
        shown.append(turned)
    return converted.reading(shown, lossy=True)

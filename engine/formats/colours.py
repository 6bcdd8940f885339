"""Colours of other spaces as sRGB, which is what screens and programs take values for that say
nothing: Display P3 of telephones, BT.2020, profiles, and CMYK of printers.

Only for pictures whose masked file is newly made (:mod:`engine.formats.converted`). A profile is
used and never copied: its text may name a person.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
from PIL import Image as Pillow
from PIL import ImageCms

_BAND_PX = 1 << 20
_NEAR = 2  # of 255: a profile that moves no colour further is sRGB under some name

#: To linear sRGB from linear RGB of other primaries (D65 white), by their code points.
#: Source: computed from the chromaticities of ITU-T H.273, table 2.
_MATRICES = {
    9: np.array([[1.660491, -0.587641, -0.072850],
                 [-0.124550, 1.132900, -0.008349],
                 [-0.018151, -0.100579, 1.118730]]),
    12: np.array([[1.224940, -0.224940, 0.0],
                  [-0.042057, 1.042057, 0.0],
                  [-0.019638, -0.078636, 1.098274]]),
}  # fmt: skip
_SDR_WHITE_NITS = 203.0  # ITU-R BT.2408: white of a page in a high-range picture
_PEAK_NITS = 1000.0


def _srgb_to_linear(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _from_linear(v: np.ndarray) -> np.ndarray:
    v = np.clip(v, 0.0, 1.0)
    return np.asarray(np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055))


def _pq(v: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, relative to the white of a page, its highlights rolled off."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    p = v ** (1 / m2)
    return _rolled_off(10_000 * (np.maximum(p - c1, 0) / (c2 - c3 * p)) ** (1 / m1))


def _hlg(v: np.ndarray) -> np.ndarray:
    """ARIB STD-B67 for a screen of 1000 nits, as :func:`_pq`; per channel, without mixing."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(v <= 0.5, v**2 / 3, (np.exp((v - c) / a) + b) / 12)
    return _rolled_off(_PEAK_NITS * scene**1.2)


def _rolled_off(nits: np.ndarray) -> np.ndarray:
    """Light to 0 to 1: as it is up to half of a page's white, then ever flatter to the peak."""
    x = nits / _SDR_WHITE_NITS
    top = _PEAK_NITS / _SDR_WHITE_NITS
    over = np.clip((x - 0.5) / (top - 0.5), 0, 1)
    return np.where(x <= 0.5, x, 0.5 + 0.5 * (1 - (1 - over) ** (top * 2 - 1)))


#: Transfer functions by their code points (ITU-T H.273, table 3); others are taken for sRGB.
_TRANSFERS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    4: lambda v: v**2.2,
    5: lambda v: v**2.8,
    8: lambda v: v,
    16: _pq,
    18: _hlg,
}


def from_code_points(pixels: np.ndarray, primaries: int, transfer: int) -> np.ndarray:
    """sRGB of a picture whose space is named by code points (ISO/IEC 23091-2).

    Args:
        pixels: Shape (height, width, 3 or 4), uint8 or uint16; a fourth channel stays.

    Returns:
        The same array where nothing is to be done; else a new one of its shape and type.
    """
    matrix, linear = _MATRICES.get(primaries), _TRANSFERS.get(transfer)
    if (matrix is None and linear is None) or pixels.ndim != 3 or pixels.shape[2] < 3:
        return pixels
    top = np.iinfo(pixels.dtype).max
    levels = np.arange(top + 1, dtype=np.float64) / top
    table = (linear or _srgb_to_linear)(levels).astype(np.float32)
    out = pixels.copy()
    rows = max(1, _BAND_PX // pixels.shape[1])
    for start in range(0, len(pixels), rows):
        band = table[pixels[start : start + rows, :, :3]]
        if matrix is not None:
            band = band @ matrix.T.astype(np.float32)
        out[start : start + rows, :, :3] = np.round(_from_linear(band) * top)
    return out


def from_profile(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    """sRGB of a picture with an ICC profile, as :func:`from_code_points`.

    A profile that is not for RGB, or that the library does not take, changes nothing: the values
    are then shown as they are, as viewers do.
    """
    if icc[16:20] != b"RGB " or pixels.ndim != 3 or pixels.shape[2] < 3:
        return pixels
    try:
        srgb = imagecodecs.cms_profile("srgb")
        steps = np.linspace(0, 255, 6).astype(np.uint8)
        probe = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        moved = imagecodecs.cms_transform(probe, icc, srgb, colorspace="rgb", outcolorspace="rgb")
        if int(np.abs(moved.astype(int) - probe).max()) <= _NEAR:
            return pixels
        out = pixels.copy()
        rows = max(1, _BAND_PX // pixels.shape[1])
        for start in range(0, len(pixels), rows):
            band = np.ascontiguousarray(pixels[start : start + rows, :, :3])
            out[start : start + rows, :, :3] = imagecodecs.cms_transform(
                band, icc, srgb, colorspace="rgb", outcolorspace="rgb"
            )
        return out
    except (RuntimeError, ValueError):
        return pixels


def from_cmyk(inks: np.ndarray, icc: bytes) -> np.ndarray:
    """sRGB of four inks.

    Args:
        inks: Shape (height, width, 4), uint8; 0 is no ink.
        icc: Profile of the press; where there is none, or none that can be used, each colour is
            what the ink and black leave of it, as viewers show it.

    Returns:
        Shape (height, width, 3), uint8.
    """
    picture = Pillow.fromarray(np.ascontiguousarray(inks), "CMYK")
    if icc[16:20] == b"CMYK":
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            shown = ImageCms.profileToProfile(
                picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB",
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )  # fmt: skip
            if shown is not None:
                return np.asarray(shown)
        except (ImageCms.PyCMSError, OSError, ValueError, struct.error):
            pass
    return np.asarray(picture.convert("RGB"))

"""How far beyond a box the pixels of a lossy source depend on what is under it.

A coder with loss works on blocks, wavelets or predictions. What it lost beside a name depends on
the name: who has the masked picture can write guesses into the box, code them alike, and see under
which guess the pixels beside the box come out as they are. So masks reach as far as the coder does.
``tests/seal/test_residue.py`` makes that attack; SECURITY.md says what is covered and what is not.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import HTJ2K, JPEG2000, JPEGExtended12Bit, JPEGLSNearLossless

from engine.formats.dicom_file import text
from engine.formats.dicom_pixels import JPEG_DCT
from engine.records import Format

#: A decoder carries halved colour over the edge of a block ("fancy upsampling").
JPEG_PX = 2
#: Blocks whose grid is not known any more, and the colour beyond them.
EARLIER_JPEG_PX = 16 + JPEG_PX
#: Macroblock and loop filter of VP8.
WEBP_PX = 16
#: Largest common block of HEVC, AV1 and JPEG XL, and the filters at its edge.
BLOCKS_PX = 64
#: Wavelets reach 4 px to each side for each px of the level before: 9/7, and 2 px: 5/3.
_REACH = {0: 4, 1: 2}
_USUAL_LEVELS = 5
_COD, _SOT, _SOS = 0xFF52, 0xFF90, b"\xff\xda"
#: Compressions of a TIFF page that lose nothing, by their numbers.
_LOSSLESS_TIFF = frozenset(
    (1, 2, 3, 4, 5, 8, 32771, 32773, 32809, 32946, 34925, 34926, 50000, 34933)
)
_TIFF_PX = {
    6: JPEG_PX, 7: JPEG_PX, 34892: JPEG_PX, 34927: WEBP_PX, 50001: WEBP_PX,
}  # fmt: skip

#: Nothing beyond the box; see :func:`of_picture`.
NONE: Mapping[str, Any] = {"residue_px": 0, "residue_follows": False}


def of_picture(kind: Format, data: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """How far masks must reach beyond a box of a decoded picture.

    Args:
        facts: Of the pixels: ``lossy``, and ``converted`` where they are not coded alike.

    Returns:
        ``residue_px``: px on all sides. ``residue_follows``: all that the coder read after the box
        depends on it too.
    """
    if not facts.get("lossy"):
        return dict(NONE)
    if kind is Format.JPEG:  # its blocks are masked as they are coded
        return _px(JPEG_PX if facts.get("converted") else 0)
    if kind is Format.TIFF:
        return _px(_TIFF_PX.get(int(facts.get("compression", 0)), wavelet_px()))
    if kind is Format.JPEG_2000:
        return _px(wavelet_px(data))
    return _px(WEBP_PX if kind in (Format.WEBP, Format.GIF) else BLOCKS_PX)


def of_dicom(header: Dataset, syntax: str, frames: Sequence[bytes]) -> dict[str, Any]:
    """How far masks must reach in a DICOM file: what this coder lost, and earlier ones.

    Args:
        frames: As they are coded; empty where they are native.
    """
    earlier = _methods(header)
    px, follows = 0, False
    if frames and syntax in (JPEG2000, HTJ2K):
        px, earlier = max(map(wavelet_px, frames)), earlier[:-1]
    elif frames and syntax == JPEGLSNearLossless:
        follows, earlier = any(near(frame) for frame in frames), earlier[:-1]
    elif frames and syntax in JPEG_DCT:
        # Blocks are masked as they are coded, but for 12 bits, which are decoded.
        px, earlier = JPEG_PX if syntax == JPEGExtended12Bit else 0, earlier[:-1]
    for method in earlier:
        px = max(px, wavelet_px() if method.startswith("ISO_15444") else EARLIER_JPEG_PX)
        follows |= method == "ISO_14495_1"
    return {"residue_px": px, "residue_follows": follows}


def lossy_tiff(compressions: Sequence[int]) -> int:
    """The first number of a TIFF compression that may lose something; 0 without one."""
    return next((int(c) for c in compressions if int(c) not in _LOSSLESS_TIFF), 0)


def _px(reach: int) -> dict[str, Any]:
    return {"residue_px": reach, "residue_follows": False}


def _methods(header: Dataset) -> list[str]:
    """Lossy steps that the header names, in their order."""
    if text(header, "LossyImageCompression") != "01":
        return []
    return re.findall(r"\w+", text(header, "LossyImageCompressionMethod")) or ["unknown"]


def wavelet_px(codestream: bytes = b"") -> int:
    """Reach of the wavelets of a JPEG 2000 codestream, of the usual 9/7 in 5 levels without one.

    A hidden pixel takes part in coefficients up to ``4 * (2 ** levels - 1)`` px away (9/7, whose
    longer filter has 9 taps). Source: ITU-T T.800, annexes A.6.1 and F.
    """
    levels, kernel = _USUAL_LEVELS, 0
    at = codestream.find(b"\xff\x4f\xff\x51") + 2
    try:
        while at >= 2:
            marker, size = struct.unpack_from(">HH", codestream, at)
            if marker == _COD:
                levels, kernel = codestream[at + 9], codestream[at + 13]
                break
            if marker == _SOT:
                break
            at += 2 + size
    except (struct.error, IndexError):
        pass  # the usual reach
    return _REACH.get(kernel, 4) * ((1 << min(levels, 32)) - 1)


def near(codestream: bytes) -> int:
    """How far from the original a JPEG-LS frame's values may be; 1 where that is not readable."""
    at = codestream.find(_SOS)
    try:
        return codestream[at + 5 + 2 * codestream[at + 4]] if at >= 0 else 1
    except IndexError:
        return 1

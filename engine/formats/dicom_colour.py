"""The colours that a compressed frame really holds, whatever the header says.

Devices write RGB into the header of JPEG streams that hold YCbCr, and the other way round. Common
readers believe the stream's own markers before the header, and so does MedSec. Stored values are
those of the stream's planes; only how they are shown, and what the masked file's header says,
follows from here.

Source: JFIF 1.02 (APP0 means YCbCr); Adobe technical note 5116 (APP14 transform); libjpeg's
``default_decompress_parms`` (component identifiers); ISO/IEC 15444-1 A.6.1 (multiple component
transform, which decoders undo).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

from pydicom.uid import UID, JPEG2000Lossless

from engine.formats.dicom_pixels import (
    JPEG_DCT,
    JPEG_LS,
    JPEG_RETIRED,
    JPEG_WHOLE,
    JPEG_XL,
    JXL_LOSSLESS,
    WAVELET,
    Layout,
)

RGB, YBR = "RGB", "YBR_FULL"
NOT_RGB = ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420")
_RGB = ("RGB", "YBR_RCT", "YBR_ICT")
_FRAME_HEADERS = frozenset((0xF7, *range(0xC0, 0xD0))) - {0xC4, 0xC8, 0xCC}


def shown_as(frame: bytes, layout: Layout, syntax: UID) -> str:
    """The photometric interpretation in which a decoded frame is to be shown.

    Returns:
        The header's own where the stream agrees or says nothing, else ``RGB`` or ``YBR_FULL``.
    """
    said = layout.photometric
    if layout.samples != 3:
        return said
    found = None
    if syntax in WAVELET:
        found = RGB if _component_transform(frame) else None
    elif syntax in JPEG_XL:
        found = None if syntax == JXL_LOSSLESS else RGB  # libjxl undoes its own transform
    elif syntax in JPEG_DCT | JPEG_RETIRED | JPEG_WHOLE | JPEG_LS:
        found = _of_markers(frame, said)
    if found is None or (found == RGB and said in _RGB) or (found == YBR and said in NOT_RGB):
        return said
    return found


def corrected(layout: Layout, shown: Sequence[str], syntax: UID) -> Layout:
    """The layout with the photometric interpretation that a new header must say.

    Args:
        shown: Of every frame. Where they differ, the header stays, and the streams say it.
    """
    if not shown or len(set(shown)) > 1 or shown[0] == layout.photometric:
        return layout
    says = shown[0]
    if says == RGB and syntax in WAVELET:
        says = "YBR_RCT" if syntax == JPEG2000Lossless else "YBR_ICT"
    return replace(layout, photometric=says)


def _component_transform(frame: bytes) -> bool:
    """Whether a JPEG 2000 codestream says that its planes were RGB before they were coded."""
    at = 2 if frame[:2] == b"\xff\x4f" else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF and frame[at + 1] != 0x90:
        if frame[at + 1] == 0x52:
            return frame[at + 8] == 1
        at += 2 + int.from_bytes(frame[at + 2 : at + 4])
    return False


def _of_markers(frame: bytes, said: str) -> str | None:
    jfif, adobe, ids, sampling, lossy = _markers(frame)
    if jfif:
        return YBR
    if adobe is not None:
        return YBR if adobe else RGB
    if ids.upper() == b"RGB":
        return RGB
    if said not in _RGB and said not in NOT_RGB:  # the header says nothing of colours
        return YBR if lossy else RGB
    return YBR if len(set(sampling)) > 1 else None  # only chroma is stored at half size


def _markers(frame: bytes) -> tuple[bool, int | None, bytes, tuple[int, ...], bool]:
    """JFIF, transform of Adobe, identifiers and sampling factors of the planes, DCT or not."""
    jfif, adobe = False, None
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4])
        body = frame[at + 4 : end]
        if marker == 0xE0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker in _FRAME_HEADERS and len(body) >= 6:
            planes = list(struct.iter_unpack("3B", body[6 : 6 + len(body[6:]) // 3 * 3]))
            ids, sampling = bytes(p[0] for p in planes), tuple(p[1] for p in planes)
            return jfif, adobe, ids, sampling, marker in (0xC0, 0xC1, 0xC2)
        elif marker == 0xDA:
            break
        at = end
    return jfif, adobe, b"", (), False

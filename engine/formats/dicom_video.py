"""Video in DICOM (MPEG-2, MPEG-4, HEVC): sealed whole, and a few of its frames shown.

No coder here masks a part of a video and leaves the rest as it was. So nothing of the stream, its
sound included, is in the masked file: that has the header, and as many neutral pictures as frames
were taken. A video that cannot be decoded is sealed all the same.

The decoder is the FFmpeg inside OpenCV, from memory, in the sandbox.

Source: PS3.5 A.4.5 to A.4.11; the stream is one, cut into fragments at will (PS3.5 8.2.5 to 8.2.9).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from pydicom.uid import RLELossless

from engine.errors import CorruptImage
from engine.formats import dicom_native
from engine.formats.dicom_codecs import encode_frame
from engine.formats.dicom_file import DicomFile, encapsulate
from engine.formats.dicom_pixels import Layout
from engine.formats.dicom_view import display_of
from engine.records import Region

FRAMES = 8  # that are taken, evenly spaced
_SEARCHED = 4_500  # frames from the start, which are decoded to find them: 3 minutes at 25 a second


#: The patch of a region of a video, whose pixels nobody puts back one by one.
NOTHING = b"video"


def taken(layout: Layout) -> Layout:
    """The layout of the frames that are taken of a video."""
    return replace(
        layout, frames=min(FRAMES, layout.frames), samples=3, allocated=8, stored=8, high_bit=7,
        signed=False, planar=0, photometric="RGB",
    )  # fmt: skip


def read(file: DicomFile, layout: Layout) -> tuple[np.ndarray, bool]:
    """Some frames of a video, as they are shown.

    Args:
        layout: Of the whole video.

    Returns:
        Shape (frames, rows, columns, 3), uint8, RGB, and whether it could be decoded. Where it
        could not the frames are grey.
    """
    few = taken(layout)
    frames = _decoded(file, layout)
    if not frames:
        return np.full((few.frames, *few.shape), 128, np.uint8), False
    # Of a stream that ends early the last frame stands for those behind it.
    return np.stack([frames[min(i, len(frames) - 1)] for i in range(few.frames)]), True


def _decoded(file: DicomFile, layout: Layout) -> list[np.ndarray]:
    stream = b"".join(file.body[a:b] for a, b in file.pixel.fragments[1:])
    few = taken(layout)
    searched = min(layout.frames, _SEARCHED)
    wanted = sorted({searched * i // few.frames for i in range(few.frames)})
    frames: list[np.ndarray] = []
    try:
        source: Any = io.BytesIO(stream)  # which OpenCV's types do not name
        video: Any = cv2.VideoCapture(source, cv2.CAP_FFMPEG, [])
        size = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not video.isOpened() or size != (layout.columns, layout.rows):
            return []
        for index in range(searched):
            if not wanted or not video.grab():
                break
            if index == wanted[0]:
                wanted.pop(0)
                done, picture = video.retrieve()
                if not done or picture.shape != few.shape:
                    break
                frames.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    except cv2.error:
        return frames
    return frames


def dissect(
    file: DicomFile, layout: Layout, regions: Sequence[Region], identity_key: bytes
) -> tuple[bytes, tuple[bytes, ...], dict[str, bytes]]:
    """A masked file of neutral pictures; patches hold nothing, and the original is sealed whole."""
    few = taken(layout)
    dicom_native.check_inside(few, regions)
    cells = np.zeros((1, *few.shape), np.uint8)
    whole = [Region(0, 0, few.columns, few.rows)]
    dicom_native.fill(cells, few, display_of(file.header), whole)
    frame = encode_frame(cells[0], few, RLELossless)
    if frame is None:
        raise CorruptImage("A neutral picture in place of this video cannot be written.")
    value = encapsulate([frame] * few.frames)
    masked = dicom_native.build(file, few, identity_key, RLELossless, value, list(cells))
    return masked, tuple(NOTHING for _ in regions), {"whole": file.data}

"""How large a picture may be, checked from its header before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import CorruptImage, ImageTooLarge

#: Passes over its blocks that a JPEG may take. Encoders make ten, and libjpeg's own script at most
#: as many; each one costs a decoder as much as a picture of its own.
MOST_SCANS = 100
#: Items of sequences in a DICOM header: an enhanced image of 10,000 frames has 100,000.
MOST_ITEMS = 250_000


@dataclass(frozen=True)
class Extent:
    """How much a picture is, as its header says.

    Args:
        width, height: Of a frame, in px.
        decoded_bytes: Of the stored values of all frames.
    """

    width: int
    height: int
    frames: int
    decoded_bytes: int

    @property
    def frame_px(self) -> int:
        """Pixels of one frame."""
        return self.width * self.height


class Measured(BaseException):
    """Ends the reading of a file where its extent is known, before anything is decoded.

    No ``Exception``: readers take each of these for damage.
    """

    def __init__(self, extent: Extent) -> None:
        super().__init__()
        self.extent = extent


#: Is a file only measured? A decoder's process does one thing at a time.
_measuring = False


def measure(read: Callable[[], object]) -> Extent:
    """The extent of what a reader is about to decode. Only for processes that do one thing.

    Args:
        read: Reads a file, and calls :func:`measured` before it decodes anything.

    Raises:
        InputError: What the reader refuses.
    """
    global _measuring
    _measuring = True
    try:
        read()
    except Measured as known:
        return known.extent
    finally:
        _measuring = False
    raise CorruptImage("This file is damaged: it contains no picture. Choose another file.")


def measured(extent: Extent) -> None:
    """Where only the extent is asked for, reading ends here. Raises Measured."""
    if _measuring:
        raise Measured(extent)


def check_size(
    width: int, height: int, frames: int, pixel_bytes: int, max_side_px: int, max_bytes: int
) -> None:
    """Refuse what would be too large, before it is decoded; this is all that will be.

    Args:
        pixel_bytes: Of one pixel as it is decoded.

    Raises:
        CorruptImage: No width or no height.
        ImageTooLarge: Over a limit.
    """
    check_part(width, height, frames, pixel_bytes, max_side_px, max_bytes)
    measured(Extent(width, height, frames, width * height * frames * pixel_bytes))


def check_part(
    width: int, height: int, frames: int, pixel_bytes: int, max_side_px: int, max_bytes: int
) -> None:
    """As :func:`check_size`, of a part of what will be decoded."""
    if width < 1 or height < 1 or frames < 1:
        raise CorruptImage(
            "This file is damaged: its picture has no width or height. Export it again."
        )
    if max(width, height) > max_side_px or width * height * frames * pixel_bytes > max_bytes:
        pages = f", {frames} pages" if frames > 1 else ""
        raise ImageTooLarge(
            f"The picture is too large: {width} x {height} px{pages}. The limit is {max_side_px} px"
            f" per side and {max_bytes >> 20} MB decoded. Export it in a smaller size or in parts.",
            width=width,
            height=height,
            frames=frames,
        )


def check_scans(data: bytes) -> None:
    """Refuse to take in a JPEG of so many scans that decoding it is an attack.

    Like :func:`check_items`, only while a file is measured: what was taken in once stays readable.

    Raises:
        ImageTooLarge: Over ``MOST_SCANS``. Within a scan FF is followed by 00: the marker is one.
    """
    scans = data.count(b"\xff\xda") if _measuring else 0
    if scans > MOST_SCANS:
        raise ImageTooLarge(
            f"This JPEG file is made of {scans} scans; the limit is {MOST_SCANS}. Save it again as"
            " an ordinary JPEG.",
            scans=scans,
        )


def check_items(body: bytes, *, little: bool) -> None:
    """Refuse to take in a DICOM file of so many items that reading it is an attack.

    Args:
        body: The data set, inflated. Fragments of frames count too.

    Raises:
        ImageTooLarge: Over ``MOST_ITEMS``.
    """
    mark = b"\xfe\xff\x00\xe0" if little else b"\xff\xfe\xe0\x00"
    items = body.count(mark) if _measuring else 0
    if items > MOST_ITEMS:
        raise ImageTooLarge(
            f"This DICOM file has {items} items; the limit is {MOST_ITEMS}. Export it again, or"
            " send the recording in parts.",
            items=items,
        )

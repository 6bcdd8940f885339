"""Overlay planes (60xx,xxxx): graphics and text that a viewer draws over the pixels.

They are not in the masked file at all, and come back with the header. But detectors and
people must see what a viewer would show, so they are drawn into every rendered frame.

Source: PS3.3 C.9.2 and C.9.3; PS3.5 8.1.2 for planes in unused bits of the pixels (retired).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from engine.formats.dicom_file import quiet

GROUPS = range(0x6000, 0x6020, 2)
_ROWS, _COLUMNS, _FRAMES, _ORIGIN, _FIRST = 0x0010, 0x0011, 0x0015, 0x0050, 0x0051
_ALLOCATED, _BIT, _DATA = 0x0100, 0x0102, 0x3000

Overlay = Mapping[str, Any]


def overlays_of(header: Dataset) -> tuple[Overlay, ...]:
    """The planes of a header, as plain values; one that makes no sense is left out.

    Returns:
        Of each: ``top`` and ``left`` (pixel of its first bit, from 0, may be negative), ``first``
        and ``count`` (frames of the image it belongs to; count 0 is all), and either ``rows``,
        ``columns`` and ``bits`` (packed, row by row, lowest bit first) or ``bit`` (of a cell).
    """
    found = []
    for group in GROUPS:
        try:
            with quiet():
                plane = _plane(header, group << 16)
        except Exception:  # noqa: BLE001, S112 - values of vendors raise anything
            continue
        if plane is not None:
            found.append(plane)
    return tuple(found)


def _plane(header: Dataset, base: int) -> Overlay | None:
    def value(element: int, default: Any = None) -> Any:
        held = header.get(base | element)
        return default if held is None or held.value in (None, "") else held.value

    top, left = (int(v) - 1 for v in value(_ORIGIN, (1, 1)))
    count = int(value(_FRAMES, 0))
    place = {"top": top, "left": left, "first": int(value(_FIRST, 1)) - 1, "count": count}
    data = value(_DATA)
    if data is None:
        bit = int(value(_BIT, 0))
        embedded = int(value(_ALLOCATED, 1)) > 1 and 0 < bit < 32
        return {**place, "bit": bit} if embedded else None
    rows, columns = int(value(_ROWS)), int(value(_COLUMNS))
    bits = bytes(data)
    if rows < 1 or columns < 1 or rows * columns * max(1, count) > 8 * len(bits):
        return None
    return {**place, "rows": rows, "columns": columns, "bits": bits}


def on_frame(overlays: Sequence[Overlay], frame: int) -> list[Overlay]:
    """The planes that belong to a frame."""
    return [p for p in overlays if not p["count"] or 0 <= frame - p["first"] < p["count"]]


def draw(rgb: np.ndarray, stored: np.ndarray, overlays: Sequence[Overlay], frame: int) -> None:
    """Draw the planes of one frame into its picture, in place.

    White, as viewers do, but black where the picture below is mostly bright: text must be
    found wherever it stands. What other planes drew there does not count, or two equal ones
    would cancel each other.

    Args:
        rgb: Shape (height, width, 3), uint8.
        stored: Cells of that frame with all their bits.
    """
    below = rgb.copy()
    for plane in on_frame(overlays, frame):
        shown, where = _shown(rgb.shape, stored, plane, frame)
        if shown.any():
            rgb[where][shown] = 0 if np.median(below[where][shown]) > 127 else 255


def alone(stored: np.ndarray, plane: Overlay, frame: int) -> np.ndarray:
    """One plane, white on black, as if the pixels below were not there."""
    rgb = np.zeros((*stored.shape[:2], 3), np.uint8)
    shown, where = _shown(rgb.shape, stored, plane, frame)
    rgb[where][shown] = 255
    return rgb


_Where = tuple[slice, slice]


def _shown(
    shape: Sequence[int], stored: np.ndarray, plane: Overlay, frame: int
) -> tuple[np.ndarray, _Where]:
    """The part of a plane that lies on a picture of a shape, and where that part is."""
    if "bit" in plane:
        if stored.ndim != 2 or stored.dtype.kind not in "ui":
            return np.zeros((0, 0), bool), (slice(0), slice(0))
        return (stored >> plane["bit"] & 1).astype(bool), (slice(None), slice(None))
    return _placed(shape, plane, frame - plane["first"] if plane["count"] else 0)


def _placed(shape: Sequence[int], plane: Overlay, number: int) -> tuple[np.ndarray, _Where]:
    rows, columns, size = plane["rows"], plane["columns"], plane["rows"] * plane["columns"]
    first = number * size
    packed = np.frombuffer(plane["bits"], np.uint8)[first // 8 : -(-(first + size) // 8)]
    flat = np.unpackbits(packed, bitorder="little")[first % 8 :][:size]
    top, left = plane["top"], plane["left"]
    shown = flat.reshape(rows, columns).astype(bool)[max(0, -top) :, max(0, -left) :]
    down, across = max(0, top), max(0, left)
    high = max(0, min(shown.shape[0], shape[0] - down))
    wide = max(0, min(shown.shape[1], shape[1] - across))
    return shown[:high, :wide], (slice(down, down + high), slice(across, across + wide))

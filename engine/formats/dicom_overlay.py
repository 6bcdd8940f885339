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


def draw(rgb: np.ndarray, stored: np.ndarray, overlays: Sequence[Overlay], frame: int) -> None:
    """Draw the planes of one frame into its picture, in place.

    White, as viewers do, but black where the picture below is mostly bright: text must be
    found wherever it stands.

    Args:
        rgb: Shape (height, width, 3), uint8.
        stored: Cells of that frame with all their bits.
    """
    below = rgb.copy()  # judged without what other planes drew: two equal ones must both show
    for plane in overlays:
        number = frame - plane["first"]
        if plane["count"] and not 0 <= number < plane["count"]:
            continue
        if "bit" in plane:
            if stored.ndim != 2 or stored.dtype.kind not in "ui":
                continue
            shown = (stored >> plane["bit"] & 1).astype(bool)
            target, ground = rgb, below
        else:
            shown, target = _placed(rgb, plane, number if plane["count"] else 0)
            _, ground = _placed(below, plane, number if plane["count"] else 0)
        if shown.any():
            target[shown] = 0 if np.median(ground[shown]) > 127 else 255


def _placed(rgb: np.ndarray, plane: Overlay, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of a plane that lies on the picture, and the part of the picture under it."""
    rows, columns, size = plane["rows"], plane["columns"], plane["rows"] * plane["columns"]
    first = number * size
    packed = np.frombuffer(plane["bits"], np.uint8)[first // 8 : -(-(first + size) // 8)]
    flat = np.unpackbits(packed, bitorder="little")[first % 8 :][:size]
    shown = flat.reshape(rows, columns).astype(bool)
    top, left = plane["top"], plane["left"]
    shown = shown[max(0, -top) :, max(0, -left) :]
    target = rgb[max(0, top) :, max(0, left) :]
    high, wide = min(shown.shape[0], target.shape[0]), min(shown.shape[1], target.shape[1])
    return shown[:high, :wide], target[:high, :wide]

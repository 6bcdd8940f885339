"""Samples of a JPEG that no viewer shows: those of its last blocks beyond the picture.

A JPEG is coded in whole blocks. Where its width or height is no multiple of them, the last blocks
reach beyond what is shown. Encoders fill that with the last pixels; but programs that crop without
loss leave there what they cut off, up to seven rows of a name. In a masked file the last blocks are
written anew from what they show, continued by its last row and column; what they were is sealed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.errors import SealBroken
from engine.formats import patches
from engine.formats.jpeg_file import Coefficients, Component, Header
from engine.records import Region


def dct_matrix() -> np.ndarray:
    """The matrix of the cosine transform of eight samples, shape (8, 8), orthonormal."""
    u, x = np.mgrid[:8, :8]
    matrix = 0.5 * np.cos((2 * x + 1) * u * np.pi / 16)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix)


DCT = dct_matrix()


def quantised(spectrum: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Coefficients as a baseline file can hold them, int16."""
    return np.clip(np.round(spectrum / steps), -1023, 1023).astype(np.int16)


def take(coefficients: Coefficients, regions: Sequence[Region]) -> bytes:
    """Write the last blocks anew, in place, but for those under regions, which are masked.

    Returns:
        What :func:`give` needs; empty where nothing changed.
    """
    parts: dict[str, bytes] = {}
    header = coefficients.header
    for number, component in enumerate(header.components):
        plane = coefficients.planes[number]
        before = plane.copy()
        free = np.ones(plane.shape[:2], bool)
        for region in regions:
            free[header.window(component, region)] = False
        steps = np.maximum(coefficients.quantisers[component.quantiser], 1).astype(np.float64)
        rows, columns = (size % 8 for size in shown(header, component))
        if columns:
            _continue(plane[:-1, -1] if rows else plane[:, -1], 8, columns, steps)
        if rows:
            _continue(plane[-1, :-1] if columns else plane[-1], rows, 8, steps)
        if rows and columns:
            _continue(plane[-1, -1:], rows, columns, steps)
        plane[~free] = before[~free]
        for name, last in (("column", np.s_[:, -1]), ("row", np.s_[-1])):
            change = before[last] - plane[last]
            if change.any():
                parts[f"{number} {name}"] = patches.encode(change)
            before[last] = plane[last]  # the corner counts once
    return patches.pack(parts) if parts else b""


def give(coefficients: Coefficients, packed: bytes) -> None:
    """Put the original's last blocks back, in place.

    Raises:
        SealBroken: They are not of this image.
    """
    for name, change in patches.unpack(packed).items() if packed else ():
        number, which = name.split()
        plane = coefficients.planes[int(number)]
        last = plane[:, -1] if which == "column" else plane[-1]
        difference = patches.decode(change)
        if difference.shape != last.shape:
            raise SealBroken(
                "A sealed part does not match its image. Restore the image from a backup."
            )
        last += difference.astype(np.int16)


def shown(header: Header, component: Component) -> tuple[int, int]:
    """Rows and columns of samples of a component that the picture uses."""
    if len(header.components) == 1:
        return header.height, header.width
    high = max(c.v for c in header.components)
    wide = max(c.h for c in header.components)
    return -(-header.height * component.v // high), -(-header.width * component.h // wide)


def _continue(blocks: np.ndarray, rows: int, columns: int, steps: np.ndarray) -> None:
    """Blocks, shape (n, 64), of which only the first rows and columns stay as they are shown."""
    spectrum = (blocks * steps).reshape(-1, 8, 8)
    # As whole levels, as a viewer shows them: finer ones would tell what stood beside them.
    samples = np.clip(np.round(DCT.T @ spectrum @ DCT), -128, 127)
    samples[:, rows:] = samples[:, rows - 1 : rows]
    samples[:, :, columns:] = samples[:, :, columns - 1 : columns]
    blocks[...] = quantised((DCT @ samples @ DCT.T).reshape(-1, 64), steps)

"""What a person would see of a DICOM frame: grey or colour, 8 bit, from stored values.

Modality LUT, then VOI LUT or window, then photometric interpretation (PS3.3 C.7.6.3, C.11.1,
C.11.2). Without a window, the values between the 0.5th and the 99.5th percentile are shown.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    convert_color_space,
)
from pydicom.uid import ExplicitVRLittleEndian

from engine.formats.dicom_file import number, quiet, text, write_data_set

_DISPLAY = (
    "PhotometricInterpretation", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "PixelPaddingValue", "PresentationLUTShape",
)  # fmt: skip


def display_of(header: Dataset) -> tuple[Dataset, ...]:
    """The elements that say how to show the pixels, and no other: one data set for all
    frames, or one per frame where they differ (enhanced multi-frame)."""
    with quiet():
        common = Dataset()
        _take(common, header)
        for group in _items(header, "SharedFunctionalGroupsSequence"):
            _take_groups(common, group)
        per_frame = []
        for group in _items(header, "PerFrameFunctionalGroupsSequence"):
            one = Dataset()
            one.update(common)
            _take_groups(one, group)
            per_frame.append(one)
        return tuple(per_frame) or (common,)


def shown_as(displays: tuple[Dataset, ...], colours: Sequence[str]) -> tuple[Dataset, ...]:
    """The same with the colours that the frames really hold.

    Args:
        colours: Photometric interpretation of each frame, or one for all.
    """
    if len(set(colours)) == 1:
        colours = colours[:1]
    count = max(len(displays), len(colours))
    said = [text(display, "PhotometricInterpretation").upper() for display in displays]
    if len(colours) == 1 and set(said) == set(colours):
        return displays
    out = []
    for index in range(count):
        one = Dataset()
        one.update(displays[min(index, len(displays) - 1)])
        one.PhotometricInterpretation = colours[min(index, len(colours) - 1)]
        out.append(one)
    return tuple(out)


def pack_display(display: Dataset) -> bytes:
    """The elements of one frame as explicit little endian bytes."""
    return write_data_set(display, ExplicitVRLittleEndian)


def unpack_display(packed: bytes) -> Dataset:
    with quiet():
        display = read_dataset(io.BytesIO(packed), is_implicit_VR=False, is_little_endian=True)
        display.set_original_encoding(False, True, "iso8859")
        return display


def _items(data_set: Dataset, keyword: str) -> Sequence[Dataset]:
    try:
        return list(data_set.get(keyword) or ())
    except Exception:  # noqa: BLE001 - values of vendors raise anything
        return ()


def _take(target: Dataset, source: Dataset) -> None:
    for keyword in _DISPLAY:
        try:
            if keyword in source and source[keyword].value not in (None, ""):
                target.add(source[keyword])
        except Exception:  # noqa: BLE001, S112 - values of vendors raise anything
            continue


def _take_groups(target: Dataset, group: Dataset) -> None:
    for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
        for item in _items(group, name)[:1]:
            _take(target, item)


def render(
    stored: np.ndarray, display: Dataset, window: tuple[float, float] | None = None
) -> np.ndarray:
    """One frame as a person would see it.

    Args:
        stored: Shape (height, width) or (height, width, samples).
        display: From :func:`display_of`.
        window: Centre and width in units of the modality; by default the file's own.

    Returns:
        Shape (height, width, 3), uint8, RGB.
    """
    with quiet():
        photometric = text(display, "PhotometricInterpretation").upper()
        if photometric == "PALETTE COLOR" and stored.ndim == 2:
            return _eight_bit(_palette(stored, display))
        if stored.ndim == 3:
            return _colour(stored, display, photometric)
        grey = _by_table(stored, display, window)
        if photometric == "MONOCHROME1":
            grey = 255 - grey
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


def content_window(stored: np.ndarray, display: Dataset) -> tuple[float, float] | None:
    """Centre and width at which :func:`render` shows a grey frame whose file has no window."""
    with quiet():
        own = display.get("VOILUTSequence") or number(display, "WindowCenter") is not None
        if own or stored.ndim == 3 or "PALETTE" in text(display, "PhotometricInterpretation"):
            return None
        values, counts, _ = _occurring(stored)
        low, high = _content_range(modality_values(values, display), counts, values, display)
    return ((low + high + 1) / 2, high - low + 1) if high > low else None


def _by_table(
    stored: np.ndarray, display: Dataset, window: tuple[float, float] | None
) -> np.ndarray:
    """The grey of each value that occurs, worked out once, then looked up for every pixel."""
    values, counts, places = _occurring(stored)
    return _grey(values, counts, display, window)[places]


def _occurring(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Values that may occur, how often each does, and where each pixel's is among them."""
    low, high = int(stored.min()), int(stored.max())
    if stored.dtype.kind not in "ui" or high - low >= stored.size:
        return stored, np.ones(stored.shape, np.int64), ...
    # A difference that overflows comes out right when its bits are read without a sign.
    places = (stored - stored.dtype.type(low)).view(f"u{stored.dtype.itemsize}")
    counts = np.bincount(places.reshape(-1), minlength=high - low + 1)
    return np.arange(low, high + 1).astype(stored.dtype), counts, places


def significant(stored: np.ndarray, display: Dataset) -> np.ndarray:
    """Cells without the bits that hold no pixel value (overlays of old, garbage)."""
    bits = int(number(display, "BitsStored", 0) or 0)
    cell = 8 * stored.dtype.itemsize
    high = int(number(display, "HighBit", bits - 1) or 0)
    if stored.dtype.kind not in "ui" or not 1 <= bits < cell or high != bits - 1:
        return stored
    # up to the top of the cell and back: the sign follows by itself
    spare = np.array(cell - bits, stored.dtype)
    return np.asarray((stored << spare) >> spare)


def modality_values(stored: np.ndarray, display: Dataset) -> np.ndarray:
    """Stored values in units of the modality (Hounsfield, optical density, ...), float64."""
    with quiet():
        try:
            return np.asarray(apply_modality_lut(stored, display), dtype=np.float64)
        except Exception:  # noqa: BLE001 - a broken table is shown as if it were not there
            return stored.astype(np.float64)


def _grey(
    stored: np.ndarray,
    counts: np.ndarray,
    display: Dataset,
    window: tuple[float, float] | None,
) -> np.ndarray:
    """Values as they are shown, uint8, each of which occurs ``counts`` times."""
    values = modality_values(stored, display)
    if window is not None:
        return _windowed(values, *window)
    try:
        if display.get("VOILUTSequence"):
            table = apply_voi_lut(values.astype(np.int32), display)
            bits = int(display.VOILUTSequence[0].LUTDescriptor[2]) or 16
            return _scaled(table.astype(np.float64), 0.0, float((1 << bits) - 1))
    except Exception:  # noqa: BLE001, S110 - a broken table is shown as if it were not there
        pass
    centre, width = number(display, "WindowCenter"), number(display, "WindowWidth")
    if centre is not None and width is not None and width > 0:
        if text(display, "VOILUTFunction").upper() == "SIGMOID":
            with np.errstate(over="ignore"):
                return _scaled(1 / (1 + np.exp(-4 * (values - centre) / width)), 0.0, 1.0)
        return _windowed(values, centre, width)
    return _by_content(values, counts, stored, display)


def _by_content(
    values: np.ndarray, counts: np.ndarray, stored: np.ndarray, display: Dataset
) -> np.ndarray:
    return _scaled(values, *_content_range(values, counts, stored, display))


def _content_range(
    values: np.ndarray, counts: np.ndarray, stored: np.ndarray, display: Dataset
) -> tuple[float, float]:
    padding = number(display, "PixelPaddingValue")
    shown = counts > 0
    if (real := shown & (np.isfinite(values) if padding is None else stored != padding)).any():
        shown = real
    low, high = _percentiles(values[shown], counts[shown], (0.5, 99.5))
    if high <= low:
        low, high = float(values[shown].min()), float(values[shown].max())
    return low, high


def _percentiles(
    values: np.ndarray, counts: np.ndarray, percents: Sequence[float]
) -> Iterator[float]:
    """As NumPy's ``percentile`` of every value repeated as often as it occurs."""
    order = np.argsort(values)
    ordered, last = values[order], np.cumsum(counts[order]) - 1
    for percent in percents:
        rank = last[-1] * percent / 100
        below, above = ordered[np.searchsorted(last, (np.floor(rank), np.ceil(rank)))]
        yield float(below + (above - below) * (rank - np.floor(rank)))


def _windowed(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """The linear VOI function of PS3.3 C.11.2.1.2.1."""
    if width <= 1:
        return np.where(values <= centre - 0.5, 0, 255).astype(np.uint8)
    return _scaled(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if not np.isfinite(low) or not np.isfinite(high) or high <= low:
        return np.full(values.shape, 0, np.uint8)
    with np.errstate(invalid="ignore"):
        unit = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    return np.round(unit * 255).astype(np.uint8)


def _palette(stored: np.ndarray, display: Dataset) -> np.ndarray:
    try:
        return np.asarray(apply_color_lut(stored, display))[..., :3]
    except Exception:  # noqa: BLE001 - a broken palette is shown as grey
        grey = _by_content(
            stored.astype(np.float64), np.ones(stored.shape, np.int64), stored, display
        )
        return np.repeat(grey[..., None], 3, axis=2)


def _colour(stored: np.ndarray, display: Dataset, photometric: str) -> np.ndarray:
    most = 8 * stored.dtype.itemsize
    bits = min(max(1, int(number(display, "BitsStored", most) or most)), most)
    eight = stored[..., :3]
    if bits != 8 or eight.dtype != np.uint8:
        eight = _scaled(eight.astype(np.float64), 0.0, float((1 << bits) - 1))
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        return np.asarray(convert_color_space(eight, "YBR_FULL", "RGB"))
    if photometric in ("YBR_PARTIAL_422", "YBR_PARTIAL_420"):
        luma = (eight[..., :1].astype(np.float64) - 16) * 255 / 219
        chroma = (eight[..., 1:].astype(np.float64) - 128) * 255 / 224 + 128
        full = np.clip(np.concatenate([luma, chroma], axis=-1), 0, 255).round().astype(np.uint8)
        return np.asarray(convert_color_space(full, "YBR_FULL", "RGB"))
    return np.ascontiguousarray(eight)


def _eight_bit(rgb: np.ndarray) -> np.ndarray:
    if rgb.dtype == np.uint8:
        return np.ascontiguousarray(rgb)
    return (rgb.astype(np.uint32) >> 8).astype(np.uint8)


def palette_luma(display: Dataset) -> tuple[int, np.ndarray] | None:
    """First mapped value and the lightness (0 to 1) of each entry of a palette."""
    try:
        with quiet():
            descriptor = display.RedPaletteColorLookupTableDescriptor
            count, first = int(descriptor[0]) or 1 << 16, int(descriptor[1])
            word = np.uint8 if first + count <= 256 else np.uint16
            entries = np.arange(first, first + count).astype(word)[None]
            rgb = _eight_bit(np.asarray(apply_color_lut(entries, display))[..., :3])[0]
    except Exception:  # noqa: BLE001 - a broken palette is shown as grey
        return None
    return first, rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255

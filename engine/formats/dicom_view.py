"""What a person would see of a DICOM frame: grey or colour, 8 bit, from stored values.

Modality LUT, then VOI LUT or window, then photometric interpretation (PS3.3 C.7.6.3, C.11.1,
C.11.2). Without a window, the values between the 0.5th and the 99.5th percentile are shown.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial

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
from engine.formats.tones import (
    AS_SHOWN,
    Showing,
    content_range,
    occurring,
    ranges,
    scaled,
    stretched,
    windowed,
    without_palette,
)

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


_MOST_WINDOWS = 16


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


@lru_cache(maxsize=256)
def unpack_display(packed: bytes) -> Dataset:
    """The inverse of :func:`pack_display`; kept, and not to be changed."""
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


def showings(
    stored: np.ndarray, display: Dataset, windows: Sequence[tuple[float, float]], least: float
) -> list[Showing]:
    """Every way in which viewers may show a frame, in no window that a person sets by hand.

    The file's own way first, as :func:`render`; then the ranges of the frame's values, every
    window and table of the frame, the windows of other frames (viewers carry one from frame to
    frame), and stored values where a table or a palette stands between these and the screen.

    Args:
        windows: From :func:`distinct_windows`.
        least: See :func:`engine.formats.tones.ranges`.
    """
    with quiet():
        photometric = text(display, "PhotometricInterpretation").upper()
        if photometric == "PALETTE COLOR" and stored.ndim == 2:
            return list(_palette_showings(stored, display))
        if stored.ndim == 3:
            return list(_colour_showings(stored, display, least))
        return list(_grey_showings(stored, display, windows, least))


def _grey_showings(
    stored: np.ndarray, display: Dataset, windows: Sequence[tuple[float, float]], least: float
) -> Iterator[Showing]:
    values, counts, places = occurring(stored)
    inverted = text(display, "PhotometricInterpretation").upper() == "MONOCHROME1"

    def showing(name: str, grey: np.ndarray, tonal: bool = True) -> Showing:
        if inverted:
            grey = 255 - grey
        table = grey if grey.ndim == 1 else None
        return Showing(name, lambda: cv2.cvtColor(grey[places], cv2.COLOR_GRAY2RGB), table, tonal)

    yield showing(AS_SHOWN, _grey(values, counts, display, None))
    units = modality_values(values, display)
    for name, low, high in ranges(units, counts, least):
        yield showing(name, scaled(units, low, high))
    for centre, width in dict.fromkeys([*windows_of(display), *windows]):
        yield showing(f"window {centre:g} {width:g}", windowed(units, centre, width))
    yield from (showing(*found, tonal=False) for found in _by_own_tables(units, display))
    if "ModalityLUTSequence" in display:
        for name, low, high in ranges(values, counts, least):
            grey = scaled(values.astype(np.float64), low, high)
            yield showing(f"stored {name}", grey, tonal=False)


def windows_of(display: Dataset) -> tuple[tuple[float, float], ...]:
    """The windows of a display, each as centre and width."""
    found = []
    try:
        centres, widths = display.get("WindowCenter"), display.get("WindowWidth")
        if centres is not None and widths is not None:
            for centre, width in zip(np.atleast_1d(centres), np.atleast_1d(widths), strict=False):
                found.append((float(centre), float(width)))
    except (TypeError, ValueError):
        return ()
    return tuple(found)


def distinct_windows(displays: Sequence[Dataset]) -> tuple[tuple[float, float], ...]:
    """The windows of all frames, without those that show hardly other contrasts than another.

    Films have one for every frame, each worked out from its values.
    """
    kept: list[tuple[float, float]] = []
    for centre, width in dict.fromkeys(w for display in displays for w in windows_of(display)):
        if len(kept) < _MOST_WINDOWS and not any(
            abs(centre - c) <= w / 8 and 0.8 <= width / w <= 1.25 for c, w in kept if w > 0
        ):
            kept.append((centre, width))
    return tuple(kept)


def _by_own_tables(units: np.ndarray, display: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Values by each VOI table of a display."""
    for index in range(len(_items(display, "VOILUTSequence"))):
        try:
            table = apply_voi_lut(units.astype(np.int32), display, index)
        except Exception:  # noqa: BLE001, S112 - a broken table is shown as if it were not there
            continue
        low, high = float(table.min()), float(table.max())
        yield f"table {index + 1}", scaled(table.astype(np.float64), low, high)


def _palette_showings(stored: np.ndarray, display: Dataset) -> Iterator[Showing]:
    """By its palette, and where that gives one colour to several values, by these."""
    yield Showing(AS_SHOWN, lambda: render(stored, display))
    yield from without_palette(stored, lambda used: _palette(used[None], display)[0])


def _colour_showings(stored: np.ndarray, display: Dataset, least: float) -> Iterator[Showing]:
    """At the type's range, and where that is hardly used, at what is used of it."""
    yield Showing(AS_SHOWN, lambda: render(stored, display))
    ybr = text(display, "PhotometricInterpretation").upper().startswith("YBR")
    if stored.dtype.kind != "u":
        return
    light = stored[..., :1] if ybr else stored[..., :3]  # the first channel of YBR is lightness
    bits = int(number(display, "BitsStored", 0) or 0) or 8 * stored.dtype.itemsize
    share = 255.0 / ((1 << bits) - 1)
    for name, low, high in stretched(light, least):
        if ybr:
            make = partial(_relit, stored, display, low * share, high * share)
        else:
            make = partial(scaled, stored[..., :3].astype(np.float64), low, high)
        yield Showing(name, make, tonal=True)


def _relit(stored: np.ndarray, display: Dataset, low: float, high: float) -> np.ndarray:
    """A colour frame with other greys black and white."""
    return scaled(render(stored, display).astype(np.float64), low, high)


def content_window(stored: np.ndarray, display: Dataset) -> tuple[float, float] | None:
    """Centre and width at which :func:`render` shows a grey frame whose file has no window."""
    with quiet():
        own = display.get("VOILUTSequence") or number(display, "WindowCenter") is not None
        if own or stored.ndim == 3 or "PALETTE" in text(display, "PhotometricInterpretation"):
            return None
        values, counts, _ = occurring(stored)
        low, high = _content_range(modality_values(values, display), counts, values, display)
    return ((low + high + 1) / 2, high - low + 1) if high > low else None


def _by_table(
    stored: np.ndarray, display: Dataset, window: tuple[float, float] | None
) -> np.ndarray:
    """The grey of each value that occurs, worked out once, then looked up for every pixel."""
    values, counts, places = occurring(stored)
    return _grey(values, counts, display, window)[places]


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
        return windowed(values, *window)
    try:
        if display.get("VOILUTSequence"):
            table = apply_voi_lut(values.astype(np.int32), display)
            bits = int(display.VOILUTSequence[0].LUTDescriptor[2]) or 16
            return scaled(table.astype(np.float64), 0.0, float((1 << bits) - 1))
    except Exception:  # noqa: BLE001, S110 - a broken table is shown as if it were not there
        pass
    centre, width = number(display, "WindowCenter"), number(display, "WindowWidth")
    if centre is not None and width is not None and width > 0:
        if text(display, "VOILUTFunction").upper() == "SIGMOID":
            with np.errstate(over="ignore"):
                return scaled(1 / (1 + np.exp(-4 * (values - centre) / width)), 0.0, 1.0)
        return windowed(values, centre, width)
    return _by_content(values, counts, stored, display)


def _by_content(
    values: np.ndarray, counts: np.ndarray, stored: np.ndarray, display: Dataset
) -> np.ndarray:
    return scaled(values, *_content_range(values, counts, stored, display))


def _content_range(
    values: np.ndarray, counts: np.ndarray, stored: np.ndarray, display: Dataset
) -> tuple[float, float]:
    padding = number(display, "PixelPaddingValue")
    shown = counts > 0
    if (real := shown & (np.isfinite(values) if padding is None else stored != padding)).any():
        shown = real
    return content_range(values[shown], counts[shown])


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
        eight = scaled(eight.astype(np.float64), 0.0, float((1 << bits) - 1))
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


def palette_colours(display: Dataset, count: int) -> np.ndarray | None:
    """Colours in which the values from 0 on are shown, shape (count, 3), uint8; None where there
    is no palette that can be read."""
    try:
        with quiet():
            values = np.arange(count).astype(np.uint8 if count <= 256 else np.uint16)[None]
            return _eight_bit(np.asarray(apply_color_lut(values, display))[..., :3])[0]
    except Exception:  # noqa: BLE001 - a broken palette is shown as grey
        return None


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

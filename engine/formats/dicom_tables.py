"""Tables in a DICOM header through which stored values are shown, with what they show and no more.

A palette or a lookup table has entries for values that no pixel has, several entries that look
alike, and more bits than a display; a colour profile has words. A masked file gets tables made
anew from what its own pixels use. A table that cannot be read goes.

Source: PS3.3 C.7.6.3.1.5 (palettes), C.11.1 and C.11.2 (tables), C.11.15 (profiles).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from engine.formats import dicom_view, icc, unseen
from engine.formats.dicom_file import DicomFile, deflate, quiet, write_data_set
from engine.formats.dicom_pixels import Layout

_PROFILE, _TABLE_DATA, _ALPHA, _DEPTH = 0x00282000, 0x00283006, 0x00281204, 16
_COLOURS = ("Red", "Green", "Blue")
_PALETTE = frozenset((*range(0x00281101, 0x00281105), *range(0x00281201, 0x00281205),
                      *range(0x00281221, 0x00281225)))  # fmt: skip
_TABLES = ("ModalityLUTSequence", "VOILUTSequence")

#: Gives the stored values that occur in the masked pixels, in ascending order.
Occurring = Callable[[], np.ndarray]


def alike(header: Dataset, layout: Layout) -> np.ndarray | None:
    """For each stored value of a palette picture, the first value that is shown in its colour.

    Returns:
        Shape (values,); None where every value is shown in a way of its own.
    """
    plain = not layout.signed and layout.high_bit == layout.stored - 1 and layout.stored <= _DEPTH
    if layout.photometric != "PALETTE COLOR" or layout.samples > 1 or not plain:
        return None
    colours = dicom_view.palette_colours(dicom_view.display_of(header)[0], 1 << layout.stored)
    if colours is None:
        return None
    first, _ = unseen.one_of_each(colours)
    return first.astype(layout.dtype)


def occurring(frames: Iterable[np.ndarray]) -> np.ndarray:
    """The values that occur in some frames, ascending, in their own type."""
    seen: np.ndarray | None = None
    for frame in frames:
        if frame.dtype.itemsize > 2 or frame.dtype.kind == "f":
            values = np.unique(frame)
            seen = values if seen is None else np.union1d(seen, values)
            continue
        if seen is None:
            seen = np.zeros(1 << (8 * frame.dtype.itemsize), bool)
        seen[np.ascontiguousarray(frame).view(f"u{frame.dtype.itemsize}")] = True
        kind = frame.dtype
    if seen is None:
        return np.zeros(0, np.uint8)
    if seen.dtype != bool:
        return seen
    return np.sort(np.flatnonzero(seen).astype(f"u{kind.itemsize}").view(kind))


def settle(clean: Dataset, header: Dataset, layout: Layout, values: Occurring) -> None:
    """Make the tables of a masked header anew, in place.

    Args:
        clean: De-identified; written with the masked pixels.
        header: The original's.
        values: Asked only where there is a table.
    """
    with quiet():
        _profiles(clean, ())
        display = dicom_view.display_of(header)[0]
        if any(tag in clean for tag in _PALETTE):
            _palette(clean, display, values)
        if any(name in clean for name in _TABLES):
            found = values() if layout.samples == 1 and layout.dtype.kind in "ui" else None
            for name in _TABLES:
                _tables(clean, name, display, found)
                if name == _TABLES[0] and found is not None:
                    found = dicom_view.modality_values(found, display)


def settle_nested(clean: Dataset) -> None:
    """Colour profiles without their words, and no table below the top, in place; the tables on top
    are those of a masked file already."""
    with quiet():
        _profiles(clean, ())


def pack(header: Dataset, syntax: UID) -> bytes:
    """The tables of an original's header, for the patches of its regions; empty where there is
    none. The masked file lacks what only a region shows."""
    tables = Dataset()
    with quiet():
        for tag in _PALETTE:
            if tag in header:
                tables.add(header[tag])
        for name in _TABLES:
            if name in header:
                tables.add(header[name])
        return write_data_set(tables, syntax) if len(tables) else b""


def open_up(file: DicomFile, tables: bytes, pixels: np.ndarray, layout: Layout) -> bytes:
    """The file with the tables that its pixels are shown through, once some regions are open.

    Args:
        tables: From :func:`pack`.
        pixels: Of this file, all frames.
    """
    with quiet():
        implicit = file.syntax == ImplicitVRLittleEndian
        little = file.syntax != ExplicitVRBigEndian
        own = read_dataset(io.BytesIO(tables), is_implicit_VR=implicit, is_little_endian=little)
        own.set_original_encoding(implicit, little, "iso8859")
        header = file.header
        for tag in (*_PALETTE, *(tag_for_keyword(name) for name in _TABLES)):
            if tag in header:
                del header[tag]
        header.update(own)
        for name in ("RescaleSlope", "RescaleIntercept"):
            if name in header:
                own.add(header[name])
        settle(header, own, layout, lambda: occurring(pixels))
        body = write_data_set(header, file.syntax) + file.body[file.pixel.start :]
    return file.data[: file.meta_end] + (deflate(body) if file.deflated else body)


def _profiles(data_set: Dataset, path: tuple[int, ...]) -> None:
    """Profiles without their words, at any depth, and no table where none is shown through."""
    elsewhere = path not in ((0x00283000,), (0x00283010,))
    for element in list(data_set):
        tag = int(element.tag)
        if tag == _PROFILE:
            plain = icc.without_words(bytes(element.value or b""))
            if plain is None:
                del data_set[element.tag]
            else:
                element.value = plain + bytes(len(plain) % 2)
        elif tag == _ALPHA or (tag in _PALETTE and path) or (tag == _TABLE_DATA and elsewhere):
            del data_set[element.tag]
        elif element.VR == "SQ":
            for item in element.value:
                _profiles(item, (*path, tag))


def _palette(clean: Dataset, display: Dataset, values: Occurring) -> None:
    try:
        descriptor = display.RedPaletteColorLookupTableDescriptor
        count, first = int(descriptor[0]) or 1 << _DEPTH, int(descriptor[1])
    except (AttributeError, TypeError, ValueError, IndexError):
        count, first = 0, 0
    colours = dicom_view.palette_colours(display, first + count) if count and first >= 0 else None
    for tag in _PALETTE:
        if tag in clean:
            del clean[tag]
    if colours is None:
        return
    used = np.zeros(count, bool)
    used[np.clip(values().astype(np.int64) - first, 0, count - 1)] = True
    table = np.where(used[:, None], colours[first : first + count], 0).astype("<u2") * 257
    for channel, name in enumerate(_COLOURS):
        setattr(clean, f"{name}PaletteColorLookupTableDescriptor", [count % (1 << 16), first, 16])
        clean.add_new(_PALETTE_DATA[name], "OW", table[:, channel].tobytes())


_PALETTE_DATA = {"Red": 0x00281201, "Green": 0x00281202, "Blue": 0x00281203}


def _tables(clean: Dataset, name: str, display: Dataset, inputs: np.ndarray | None) -> None:
    """Tables of one sequence, with entries that no value reaches like the one before them."""
    if name not in clean:
        return
    try:
        if inputs is None or not len(inputs):
            raise ValueError("no value is shown through it")
        for item in clean[name].value:
            _reached(item, np.asarray(inputs, np.float64), display)
    except Exception:  # noqa: BLE001 - values of vendors raise anything
        del clean[name]


def _reached(item: Dataset, inputs: np.ndarray, display: Dataset) -> None:
    descriptor, data = item.LUTDescriptor, item.LUTData
    count, first, bits = int(descriptor[0]) or 1 << _DEPTH, int(descriptor[1]), int(descriptor[2])
    little = display.original_encoding[1] is not False
    if isinstance(data, bytes):
        wide = len(data) >= 2 * count
        entries = np.frombuffer(data, ("<u2" if little else ">u2") if wide else np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(data)).astype(np.uint16)
    entries = entries[:count]
    if len(entries) < count:
        raise ValueError("shorter than it says")
    whole = np.round(inputs)
    reached = np.zeros(count, bool)
    reached[np.clip(whole - first, 0, count - 1).astype(np.int64)] = True
    last = np.maximum.accumulate(np.where(reached, np.arange(count), -1))
    last[last < 0] = int(np.argmax(reached))
    plain = entries[last].astype(np.uint16) & np.uint16((1 << min(max(bits, 1), 16)) - 1)
    item.LUTDescriptor = [count % (1 << 16), first, bits]
    item.add_new(_TABLE_DATA, "OW", plain.astype("<u2" if little else ">u2").tobytes())

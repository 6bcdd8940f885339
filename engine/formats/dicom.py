"""DICOM: decode, mask stored values, de-identify, and restore the original file.

The masked file is a DICOM in the original's transfer syntax, de-identified to PS3.15. The
restored file is byte for byte the original: its header is sealed, native pixels and JPEG
coefficients are put back, and the original bytes of other modified compressed frames are sealed
too, because no encoder reproduces the bytes of another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from engine.errors import CorruptImage, ImageTooLarge, SealBroken, UnsupportedFormat
from engine.formats import (
    dicom_colour,
    dicom_frames,
    dicom_native,
    dicom_overlay,
    dicom_tables,
    dicom_video,
    dicom_view,
    jpeg_file,
    patches,
    residue,
)
from engine.formats.dicom_file import DicomFile, number, parse, text
from engine.formats.dicom_header import shows_head
from engine.formats.dicom_pixels import (
    JPEG_DCT,
    LOSSY,
    NATIVE,
    VIDEO,
    Layout,
    layout_of,
    native,
    payload,
)
from engine.formats.limits import Extent, measured
from engine.formats.stand_ins import may_be_stand_in
from engine.formats.tones import LOSSY_NOISE, Showing
from engine.records import Image, Region


def decode(
    file: DicomFile, max_side_px: int, max_decoded_bytes: int
) -> tuple[np.ndarray, tuple[int, int], dict[str, Any]]:
    """Read the picture of a DICOM file: pixels, block grid and facts, as in an ``Image``.

    Raises:
        CorruptImage, UnsupportedFormat: With what is wrong and what to do.
        ImageTooLarge: The header promises more than the limits; nothing was decoded.
    """
    layout = layout_of(file)
    video = file.syntax in VIDEO
    stream, layout = layout, dicom_video.taken(layout) if video else layout
    if max(layout.rows, layout.columns) > max_side_px or layout.decoded_bytes > max_decoded_bytes:
        many = f", {layout.frames} frames" if layout.frames > 1 else ""
        raise ImageTooLarge(
            f"The image is too large: {layout.columns} x {layout.rows} px{many}."
            f" The limit is {max_side_px} px per side and {max_decoded_bytes >> 20} MB decoded."
            + (" Send a level of lower resolution." if _is_slide(file.header) else ""),
            width=layout.columns,
            height=layout.rows,
            frames=layout.frames,
        )
    measured(Extent(layout.columns, layout.rows, layout.frames, layout.decoded_bytes))
    grid = (2, 1) if layout.halved else (1, 1)
    shown = [layout.photometric]
    dead: list[int] = []
    surplus: bytes | memoryview = b""
    if video:
        pixels, known = dicom_video.read(file, stream)
        facts = _properties(file, layout, shown, dead)
        facts |= {"lossy": True, "sealed_frames": tuple(range(layout.frames))}
        return pixels, grid, {**facts, "whole": "video" if known else "unreadable video"}
    if file.syntax in NATIVE:
        pixels = native(file.value, layout)
        surplus = file.value[layout.value_bytes :][layout.value_bytes // layout.frames - 1 :]
    else:
        frames, surplus = payload(file)
        pixels, dead = dicom_frames.decode_all(frames, layout, file.syntax)
        shown = [dicom_colour.shown_as(frame, layout, file.syntax) for frame in frames]
        if file.syntax in LOSSY:
            grid = _block_grid(frames[_first_alive(layout, dead)], file)
    facts = _properties(file, layout, shown, dead, surplus=bool(surplus))
    coded = [] if file.syntax in NATIVE else frames
    return pixels, grid, facts | residue.of_dicom(file.header, str(file.syntax), coded)


def _first_alive(layout: Layout, dead: Sequence[int]) -> int:
    return next(i for i in range(layout.frames) if i not in dead)


def _block_grid(frame: bytes, file: DicomFile) -> tuple[int, int]:
    if file.syntax in JPEG_DCT:
        try:
            return jpeg_file.parse(frame).mcu
        except (CorruptImage, UnsupportedFormat):
            return (8, 8)  # 12 bit, which only the frame decoder reads
    return (8, 8)


def _properties(
    file: DicomFile,
    layout: Layout,
    shown: Sequence[str],
    dead: Sequence[int],
    *,
    surplus: bool = False,
) -> dict[str, Any]:
    header = file.header
    spacing, spacing_from = _spacing(header)
    displays = dicom_view.shown_as(dicom_view.display_of(header), shown)
    return {
        "bits": layout.stored,
        "colour": shown[0],
        "dead_frames": tuple(dead),
        "sealed_frames": tuple(range(layout.frames)) if _is_label(header) else tuple(dead),
        "whole": "label" if _is_label(header) else "",
        "surplus_frames": surplus,
        "looked_at": _looked_at(header, layout.frames),
        "frames": layout.frames,
        "modality": text(header, "Modality")[:16],
        "spacing_mm": spacing,
        "spacing_from": spacing_from,
        "lossy": file.syntax in LOSSY or text(header, "LossyImageCompression") == "01",
        "transfer_syntax": str(file.syntax),
        "transfer_syntax_name": file.syntax.name,
        "frame_time_ms": number(header, "FrameTime"),
        "windows": dicom_view.windows_of(displays[0]),
        "frame_windows": dicom_view.distinct_windows(displays),
        "recognizable_head": shows_head(header),
        "display": tuple(dicom_view.pack_display(d) for d in displays),
        "overlays": dicom_overlay.overlays_of(header),
    }


#: Tiles of a slide that are looked at, evenly spaced. There are thousands, of tissue.
TILES = 64


def _is_slide(header: Dataset) -> bool:
    return text(header, "SOPClassUID") == "1.2.840.10008.5.1.4.1.1.77.1.6"


def _looked_at(header: Dataset, frames: int) -> tuple[int, ...]:
    """Frames that detectors look at: of a slide some of its tiles, of all others every one."""
    if not _is_slide(header) or frames <= TILES:
        return tuple(range(frames))
    return tuple(frames * i // TILES for i in range(TILES))


def _is_label(header: Dataset) -> bool:
    """Whether this is the picture of a specimen's label, or of a whole slide with its label.

    Source: PS3.3 C.8.12.4.1.1 (Image Type, value 3) and C.8.12.4.1.12 (Specimen Label in Image).
    """
    kinds = text(header, "ImageType").upper()
    slide = _is_slide(header)
    labelled = text(header, "SpecimenLabelInImage").upper() == "YES"
    return labelled or "'LABEL'" in kinds or (slide and ("OVERVIEW" in kinds or "MACRO" in kinds))


#: Attributes that say how large a pixel is, and of what: in the patient (or calibrated, for
#: projections), on the detector, or on the film that was scanned (PS3.3 10.7.1.3, C.8.1.2).
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


def _spacing(header: Any) -> tuple[tuple[float, float] | None, str]:
    """Millimetres from row to row and from column to column, and which attribute says so."""
    for keyword in _SPACINGS:
        values = header.get(keyword) if keyword in header else None
        if values is not None and not isinstance(values, str) and len(values) == 2:
            down, across = float(values[0]), float(values[1])
            if 0 < down < 1000 and 0 < across < 1000:
                return (down, across), keyword
    return None, ""


def render(image: Image, frame: int, window: tuple[float, float] | None) -> np.ndarray:
    """One frame as a person would see it: shape (height, width, 3), uint8, RGB."""
    rgb = dicom_view.render(significant(image, frame), _display(image, frame), window)
    overlays = image.properties["overlays"]
    if overlays:
        rgb = rgb.copy()
        dicom_overlay.draw(rgb, image.pixels[frame], overlays, frame)
    return rgb


def showings(image: Image, frame: int) -> Iterator[Showing]:
    """Every way in which viewers may show a frame: see :func:`engine.formats.dicom_view.showings`.

    Overlays can be switched on and off one by one, so that neither they nor what they cover can
    hide the other.
    """
    least = LOSSY_NOISE if image.properties["lossy"] else 0.0
    windows = image.properties["frame_windows"]
    bare = dicom_view.showings(significant(image, frame), _display(image, frame), windows, least)
    planes = dicom_overlay.on_frame(image.properties["overlays"], frame)
    if planes:
        own = bare.pop(0)
        # not tonal: it shows more than the greys of values
        yield Showing(own.name, lambda: render(image, frame, None), own.table)
        yield Showing("without overlays", own.picture)
        cells = image.pixels[frame]
        for place, plane in enumerate(planes, 1):
            yield Showing(
                f"overlay {place} alone",
                lambda plane=plane: dicom_overlay.alone(cells, plane, frame),  # type: ignore[misc]
            )
    yield from bare


def content_window(image: Image, frame: int) -> tuple[float, float] | None:
    """Centre and width at which a frame is shown whose file has no window."""
    return dicom_view.content_window(significant(image, frame), _display(image, frame))


def significant(image: Image, frame: int) -> np.ndarray:
    """Stored values of one frame without bits that hold no pixel value."""
    return dicom_view.significant(image.pixels[frame], _display(image, frame))


def shown(image: Image, frame: int) -> np.ndarray:
    """One frame in the form in which two that look alike are equal."""
    cells = significant(image, frame)
    bits, high = (number(_display(image, frame), name) for name in ("BitsStored", "HighBit"))
    if bits and high and cells.dtype.kind == "u" and bits < high + 1 < 8 * cells.dtype.itemsize + 1:
        low = int(high) + 1 - int(bits)  # bits below the value, which no viewer should show
        cells = cells & cells.dtype.type(((1 << int(bits)) - 1) << low)
    if image.properties["colour"] == "PALETTE COLOR" and cells.dtype.kind == "u":
        count = int(cells.max()) + 1
        colours = dicom_view.palette_colours(_display(image, frame), count)
        if colours is not None:
            return np.asarray(colours[cells])
    return cells


def _display(image: Image, frame: int) -> Dataset:
    displays = image.properties["display"]
    return dicom_view.unpack_display(displays[min(frame, len(displays) - 1)])


def patient_hints(header: Dataset) -> dict[str, Any]:
    """Who the header says it is, for filling in a record. Sensitive.

    Returns:
        ``id``, ``name``, ``age``, ``birth_date``, ``sex``; only what is there. A number that
        stands for nobody is not.
    """
    named = text(header, "PatientID")[:50]
    hints: dict[str, Any] = {
        "id": "" if may_be_stand_in(named) else named,
        "name": ", ".join(
            part.strip() for part in text(header, "PatientName").split("=")[0].split("^")[:2]
            if part.strip()
        )[:100],
        "birth_date": text(header, "PatientBirthDate"),
        "sex": text(header, "PatientSex"),
        "age": _age_years(text(header, "PatientAge")),
    }  # fmt: skip
    if hints["age"] is None:
        born, seen = text(header, "PatientBirthDate"), text(header, "StudyDate")
        if len(born) == 8 and len(seen) == 8 and born.isdecimal() and seen.isdecimal():
            years = (int(seen) - int(born)) // 10_000
            hints["age"] = years if 0 <= years < 150 else None
    return {key: value for key, value in hints.items() if value not in ("", None)}


def _age_years(age: str) -> int | None:
    if len(age) == 4 and age[:3].isdecimal() and age[3] in "DWMY":
        return (
            int(age[:3]) if age[3] == "Y" else int(age[:3]) // {"D": 365, "W": 52, "M": 12}[age[3]]
        )
    return None


def dissect(
    data: bytes, regions: Sequence[Region], identity_key: bytes
) -> tuple[bytes, tuple[bytes, ...], dict[str, bytes]]:
    """Mask stored values and de-identify: masked file, patches, and the remainder's parts.

    Raises:
        ValueError: A region is outside or not on the image's grid.
    """
    file = parse(data)
    layout = layout_of(file)
    if file.syntax in VIDEO:
        return dicom_video.dissect(file, layout, regions, identity_key)
    part = dicom_native if file.syntax in NATIVE else dicom_frames
    masked, coded, parts = part.dissect(file, layout, regions, identity_key)
    tables = dicom_tables.pack(file.header, file.syntax)
    if tables:
        coded = tuple(patches.pack({"patch": patch, "tables": tables}) for patch in coded)
    return masked, coded, parts


def assemble(
    masked: bytes,
    regions: Sequence[Region],
    coded: Mapping[int, bytes],
    parts: Mapping[str, bytes] | None,
) -> bytes:
    """Put patches back; with all of them and the remainder's parts, the original file.

    Raises:
        SealBroken: A part does not belong to this image.
    """
    if parts is not None and "whole" in parts:
        return parts["whole"]
    try:
        file = parse(masked)
        layout = layout_of(file)
    except (CorruptImage, UnsupportedFormat) as err:
        raise SealBroken("The masked file was changed. Restore the image from a backup.") from err
    coded = {index: patch for index, patch in coded.items() if patch != dicom_video.NOTHING}
    part = dicom_native if file.syntax in NATIVE else dicom_frames
    bare, tables = _without_tables(coded)
    whole = part.assemble(file, layout, regions, bare, parts)
    if parts is not None or not tables:
        return whole
    opened = parse(whole)
    pixels, _, _ = decode(opened, 1 << 30, 1 << 40)
    return dicom_tables.open_up(opened, tables, pixels, layout)


def _without_tables(coded: Mapping[int, bytes]) -> tuple[dict[int, bytes], bytes]:
    """Patches without the tables that those of a file with tables carry, and the tables."""
    bare, tables = dict(coded), b""
    for index, patch in coded.items():
        with suppress(SealBroken):  # one of a file without tables, or of an older version
            carried = patches.unpack(patch)
            if "tables" in carried:
                bare[index], tables = carried["patch"], carried["tables"]
    return bare, tables

"""Uncompressed DICOM: mask stored values in place, and restore the same bytes.

Works on one copy of the pixel data, whatever the number of frames. Bits of a cell that
are not part of the pixel value (retired overlays, garbage) are cleared in the masked file and
restored later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from engine.errors import SealBroken
from engine.formats import dicom_tables, mask, patches
from engine.formats.dicom_file import (
    DicomFile,
    deflate,
    element,
    number,
    parse,
    quiet,
    text,
    write_header,
)
from engine.formats.dicom_header import deidentify, file_meta
from engine.formats.dicom_pixels import (
    LOSSY,
    NATIVE,
    Layout,
    layout_of,
    native,
    store_native,
)
from engine.formats.dicom_view import display_of, palette_luma
from engine.records import Region


def dissect(
    file: DicomFile, layout: Layout, regions: Sequence[Region], identity_key: bytes
) -> tuple[bytes, tuple[bytes, ...], dict[str, bytes]]:
    """The masked file, a patch per region, and the parts of the remainder."""
    check_inside(layout, regions)
    pixels = native(file.value, layout)
    coded = tuple(patches.encode(mask.lift(pixels, regions, i)) for i in range(len(regions)))
    if layout.packed:
        return _unpacked(file, layout, pixels.copy(), regions, coded, identity_key)
    value = bytearray(file.value[: layout.value_bytes])
    cells = _writable(value, layout)
    unused = clear_unused(cells, layout, regions, dicom_tables.alike(file.header, layout))
    fill(cells, layout, display_of(file.header), regions)
    if not _in_place(layout):
        value = bytearray(store_native(cells, layout))
    masked = build(file, layout, identity_key, file.syntax, value, cells)
    end = file.pixel.value + layout.value_bytes
    parts = {
        "head": file.body[: file.pixel.value] if file.deflated else file.data[: file.pixel.value],
        "tail": file.body[end:],
        "unused": unused,
    }
    if file.deflated:
        parts["meta"] = file.data[: file.meta_end]
        parts["deflate"] = _deflate_level(file)
    return masked, coded, parts


def _unpacked(
    file: DicomFile,
    layout: Layout,
    cells: np.ndarray,
    regions: Sequence[Region],
    coded: tuple[bytes, ...],
    identity_key: bytes,
) -> tuple[bytes, tuple[bytes, ...], dict[str, bytes]]:
    """A masked file with whole bytes a cell, which every viewer reads; the original is sealed
    whole."""
    wide = replace(layout, allocated=8 * layout.dtype.itemsize)
    clear_unused(cells, wide, regions, dicom_tables.alike(file.header, wide))
    fill(cells, wide, display_of(file.header), regions)
    pixel = replace(file.pixel, vr="OB" if wide.allocated == 8 else "OW")
    masked = build(
        replace(file, pixel=pixel),
        wide,
        identity_key,
        file.syntax,
        store_native(cells, wide),
        cells,
    )
    return masked, coded, {"whole": file.data}


def assemble(
    file: DicomFile,
    layout: Layout,
    regions: Sequence[Region],
    coded: Mapping[int, bytes],
    parts: Mapping[str, bytes] | None,
) -> bytes:
    """Put patches back into a masked native file."""
    value = bytearray(file.value[: layout.value_bytes])
    cells = _writable(value, layout)
    for index, patch in coded.items():
        lay(cells, regions, index, patches.decode(patch))
    if parts is not None and parts["unused"]:
        for name, packed in patches.unpack(parts["unused"]).items():
            frame = cells[int(name)]
            residual = np.frombuffer(imagecodecs.zstd_decode(packed), f"<u{layout.dtype.itemsize}")
            frame[...] = (
                frame.astype(layout.dtype).view(residual.dtype) ^ residual.reshape(frame.shape)
            ).view(layout.dtype)
    body = bytes(value) if _in_place(layout) else store_native(cells, layout)
    if parts is None:
        whole = b"".join(
            [file.body[: file.pixel.value], body, file.body[file.pixel.value + len(body) :]]
        )
        return file.data[: file.meta_end] + deflate(whole) if file.deflated else whole
    whole = b"".join([parts["head"], body, parts["tail"]])
    if "meta" in parts:
        return parts["meta"] + deflate(whole, parts["deflate"][0])
    return whole


def lay(cells: np.ndarray, regions: Sequence[Region], index: int, part: np.ndarray) -> None:
    """Put one opened patch back in place.

    Raises:
        SealBroken: It does not fit.
    """
    target = cells[regions[index].slices]
    same_type = (part.dtype.kind, part.dtype.itemsize) == (cells.dtype.kind, cells.dtype.itemsize)
    if part.shape != target.shape or not same_type:
        raise SealBroken(
            "A sealed region does not match its image. Restore the image from a backup."
        )
    mask.lay(cells, regions, index, part)


def check_inside(layout: Layout, regions: Sequence[Region]) -> None:
    """Regions must lie within the picture, and on even columns where chroma is shared."""
    for region in regions:
        inside = region.clipped(layout.columns, layout.rows, layout.frames) == region
        if not inside or (layout.halved and (region.x1 % 2 or region.x2 % 2)):
            raise ValueError(f"region {region.xyxy} is not inside or not aligned")


def _in_place(layout: Layout) -> bool:
    return not (layout.allocated == 1 or layout.halved or layout.swapped)


def _writable(value: bytearray, layout: Layout) -> np.ndarray:
    cells = native(value, layout)
    return cells if cells.flags.writeable else cells.copy()


def clear_unused(
    cells: np.ndarray, layout: Layout, regions: Sequence[Region], alike: np.ndarray | None = None
) -> bytes:
    """Make equal what is shown alike, in place: bits beyond the stored ones are cleared (sign bits
    are extended), values of one colour become one value, and what is no number one of its kind.

    Args:
        alike: From :func:`engine.formats.dicom_tables.alike`.

    Returns:
        Per frame what was there outside the regions, packed; empty where nothing was.
    """
    word = np.dtype(f"u{layout.dtype.itemsize}")
    kept = {}
    if not layout.unused_mask and alike is None and layout.dtype.kind != "f":
        return b""
    for index in range(len(cells)):
        raw = np.ascontiguousarray(cells[index], dtype=layout.dtype).view(word)
        plain = raw & word.type(~layout.unused_mask & ((1 << 8 * word.itemsize) - 1))
        if layout.signed and layout.unused_mask:
            sign = (raw >> word.type(layout.high_bit)) & word.type(1)
            above = layout.unused_mask & ~((1 << layout.high_bit) - 1)
            plain |= sign * word.type(above)
        if alike is not None:
            plain = alike.view(word)[plain]
        if layout.dtype.kind == "f":
            nothing = np.array(np.nan, layout.dtype).view(word)
            plain[np.isnan(raw.view(layout.dtype))] = nothing
        residual = raw ^ plain
        if not residual.any():
            continue
        cells[index] = plain.view(layout.dtype)
        for region in regions:  # patches hold whole cells
            if region.frame <= index < region.frame_end:
                residual[region.slices[1:]] = 0
        packed = imagecodecs.zstd_encode(residual.astype(word.newbyteorder("<")).tobytes(), 3)
        kept[str(index)] = bytes(packed)
    return patches.pack(kept) if kept else b""


def fill(
    cells: np.ndarray, layout: Layout, displays: Sequence[Dataset], regions: Sequence[Region]
) -> None:
    """Draw the mask into stored values, in place."""
    tones = {}  # one for all boxes of a frame: of pixels outside every box
    for region in regions:
        if region.frame not in tones:
            display = displays[min(region.frame, len(displays) - 1)]
            tones[region.frame] = _tones(cells, layout, display, regions, region.frame)
        dark, light = tones[region.frame]
        shape = mask.pattern(region.height, region.width)
        tone = np.where(shape, light, dark)
        target = cells[region.slices]
        if layout.samples == 1:
            target[...] = tone
        elif layout.photometric.startswith("YBR") and layout.photometric not in (
            "YBR_RCT",
            "YBR_ICT",
        ):
            target[..., 0] = tone
            target[..., 1:] = 1 << (layout.stored - 1)  # neutral colour
        else:
            target[...] = tone[..., None]


def _tones(
    cells: np.ndarray, layout: Layout, display: Dataset, regions: Sequence[Region], frame: int
) -> tuple[float, float]:
    """Darker and lighter stored value: from the window or from pixels outside every box."""
    if layout.stored == 1:
        return 0, 1
    low, high = _range(layout)
    if layout.photometric == "PALETTE COLOR":
        luma = palette_luma(display)
        if luma is not None:
            first, shades = luma
            dark, light = mask.tones(0.0, 1.0)
            return first + int(abs(shades - dark).argmin()), first + int(
                abs(shades - light).argmin()
            )
    if layout.samples > 1:
        dark, light = mask.tones(low, high)
        return round(dark), round(light)
    shown = _shown_range(cells, display, regions, frame)
    if layout.dtype.kind == "f":
        return mask.tones(*(shown or (0.0, 1.0)))
    if shown is not None and shown[1] - shown[0] >= 4:
        low, high = max(low, shown[0]), min(high, shown[1])
    dark, light = mask.tones(low, high)
    return round(dark), round(light)


def _range(layout: Layout) -> tuple[float, float]:
    if layout.dtype.kind == "f":
        return 0.0, 1.0
    half = 1 << (layout.stored - 1)
    shift = layout.high_bit + 1 - layout.stored
    if layout.signed:
        return float(-half), float(half - 1)
    return 0.0, float((2 * half - 1) << shift)


def _shown_range(
    cells: np.ndarray, display: Dataset, regions: Sequence[Region], frame: int
) -> tuple[float, float] | None:
    """Stored values that a viewer shows from black to white."""
    centre, width = number(display, "WindowCenter"), number(display, "WindowWidth")
    slope = number(display, "RescaleSlope", 1.0) or 1.0
    intercept = number(display, "RescaleIntercept", 0.0) or 0.0
    if (
        centre is not None
        and width is not None
        and width > 1
        and "ModalityLUTSequence" not in display
    ):
        ends = sorted(((centre + sign * width / 2) - intercept) / slope for sign in (-1, 1))
        if ends[1] - ends[0] >= 4:
            return ends[0], ends[1]
    free = mask.outside(cells.shape[1:3], regions, frame)
    seen = cells[frame][free]
    seen = seen[np.isfinite(seen)] if seen.dtype.kind == "f" else seen
    if not seen.size:
        return None
    low, high = np.percentile(seen, (1, 99))
    return (float(low), float(high)) if high > low else None


def _extremes(cells: np.ndarray, layout: Layout) -> tuple[int, int] | None:
    """Smallest and largest stored value of the masked pixels."""
    if layout.keyword != "PixelData" or layout.allocated not in (8, 16):
        return None
    return int(cells.min()), int(cells.max())


def build(
    file: DicomFile,
    layout: Layout,
    identity_key: bytes,
    syntax: UID,
    value: bytes | bytearray,
    cells: np.ndarray | Iterable[np.ndarray],
) -> bytes:
    """A de-identified file around masked pixel data, encapsulated where the syntax wants that.

    Args:
        cells: The masked pixels of all frames, as an array if the data are native.
    """
    encapsulated = syntax not in NATIVE
    clean = deidentify(file.header, identity_key)
    _describe(clean, layout)
    coded = len(value) if encapsulated else sum(b - a for a, b in file.pixel.fragments[1:])
    _tell_loss(clean, file, layout, coded)
    dicom_tables.settle(clean, file.header, layout, lambda: dicom_tables.occurring(cells))
    least_most = _extremes(cells, layout) if isinstance(cells, np.ndarray) else None
    if least_most is not None:
        vr = "SS" if layout.signed else "US"
        for tag, found in zip((0x00280106, 0x00280107), least_most, strict=True):
            if tag in file.header:
                clean.add_new(tag, vr, found)
    with quiet():
        front, body = write_header(clean, file_meta(file.meta, clean), syntax)
    vr = (
        "OB"
        if encapsulated
        else file.pixel.vr
        if file.pixel.vr in ("OB", "OW", "OF", "OD")
        else "OW"
    )
    padded = bytes(value) + b"\0" * (len(value) % 2)
    head = element(file.pixel.tag, vr, None if encapsulated else len(padded), syntax)
    whole = b"".join([body, head, padded])
    if syntax == DeflatedExplicitVRLittleEndian:
        return front + deflate(whole)
    return front + whole


def _tell_loss(clean: Dataset, file: DicomFile, layout: Layout, coded_bytes: int) -> None:
    """What was lossy once stays so in whatever transfer syntax; senders forget to say it.

    Ratios are kept to two digits: an exact one tells the length of what was compressed, hidden
    pixels included.
    """
    if "LossyImageCompressionRatio" in clean:
        try:
            said = [float(v) for v in np.atleast_1d(clean.LossyImageCompressionRatio)]
            clean.LossyImageCompressionRatio = [_two_digits(v) for v in said]
        except (TypeError, ValueError):  # not a number
            del clean.LossyImageCompressionRatio
    if file.syntax in LOSSY and text(clean, "LossyImageCompression") != "01":
        clean.LossyImageCompression = "01"
        clean.LossyImageCompressionMethod = LOSSY[file.syntax]
        clean.LossyImageCompressionRatio = _two_digits(layout.decoded_bytes / max(1, coded_bytes))


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def compress(masked: bytes) -> bytes | None:
    """A masked native file for storage: its header, and its frames by a lossless coder.

    Returns:
        None where the file is compressed already.
    """
    file = parse(masked)
    if file.syntax not in NATIVE or file.deflated:
        return None
    layout = layout_of(file)
    cells = native(file.value, layout) if _in_place(layout) else None
    end = file.pixel.value + (layout.value_bytes if cells is not None else 0)
    frames = {} if cells is None else {str(i): patches.encode(f[None]) for i, f in enumerate(cells)}
    shape = (layout.samples, layout.planar, int(layout.big_endian))
    return patches.pack(
        {
            "head": masked[: file.pixel.value],
            "tail": masked[end:],
            "layout": bytes(shape),
            "frames": patches.pack(frames),
        }
    )


def decompress(stored: bytes) -> bytes:
    """The very bytes that :func:`compress` was given.

    Raises:
        SealBroken: Not such a container.
    """
    parts = patches.unpack(stored)
    samples, planar, big = parts["layout"]
    out = [parts["head"]]
    for packed in patches.unpack(parts["frames"]).values():
        cells = patches.decode(packed)[0]
        if samples > 1 and planar == 1:
            cells = np.moveaxis(cells, -1, 0)
        if big:
            cells = cells.astype(cells.dtype.newbyteorder(">"))
        out.append(np.ascontiguousarray(cells).tobytes())
    return b"".join([*out, parts["tail"]])


def _describe(clean: Dataset, layout: Layout) -> None:
    """Say plainly how the pixels are stored, also where the original left it to be guessed."""
    clean.Rows, clean.Columns = layout.rows, layout.columns
    clean.SamplesPerPixel = layout.samples
    clean.PhotometricInterpretation = layout.photometric
    clean.BitsAllocated = layout.allocated
    if "NumberOfFrames" in clean or layout.frames > 1:
        clean.NumberOfFrames = layout.frames
    if layout.samples > 1:
        clean.PlanarConfiguration = layout.planar
    if layout.keyword == "PixelData":
        clean.BitsStored, clean.HighBit = layout.stored, layout.high_bit
        clean.PixelRepresentation = int(layout.signed)


def _deflate_level(file: DicomFile) -> bytes:
    """The level at which our deflate writes the original's stream again, as one byte."""
    stream = file.data[file.meta_end :]
    for level in (6, 9, 1, 2, 3, 4, 5, 7, 8, 0):
        if deflate(file.body, level) == stream:
            return bytes([level])
    return b"\x06"

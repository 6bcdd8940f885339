"""Compressed DICOM: every frame is coded anew, also where it has no box.

A codestream can hold anything in comments, boxes, unused tables, between its parts and behind its
end, so that none is passed on as it came. JPEG (DCT) frames are masked in their coefficients.
Frames of a lossless or wavelet syntax are decoded, masked and encoded again without loss; their
original bytes are sealed, unless a coder that is here writes them again from the restored pixels.
Where the syntax has no such encoder (12-bit JPEG), the masked file is uncompressed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydicom.uid import UID, ExplicitVRLittleEndian

from engine.errors import CorruptImage, SealBroken, UnsupportedFormat
from engine.formats import dicom_colour, dicom_native, dicom_tables, jpeg, jpeg_file, mask, patches
from engine.formats.dicom_codecs import (
    decode_frames,
    encode_frame,
    repeat_frame,
    repeating_coder,
)
from engine.formats.dicom_file import DicomFile, encapsulate
from engine.formats.dicom_pixels import (
    JPEG_DCT,
    JXL,
    JXL_RECOMPRESSION,
    Layout,
    payload,
    store_native,
)
from engine.formats.dicom_view import display_of
from engine.records import Region


def decode_all(
    frames: Sequence[bytes], layout: Layout, syntax: UID
) -> tuple[np.ndarray, list[int]]:
    """All frames, shape (frames, rows, columns[, samples]); one that cannot be decoded is zero.

    Returns:
        The frames, and the indices of those that cannot be decoded.

    Raises:
        CorruptImage: None of them can be decoded.
    """
    pixels = np.zeros((layout.frames, *layout.shape), layout.dtype)
    dead: list[int] = []
    for index, cells in _each(frames, layout, syntax):
        if cells is None:
            dead.append(index)
        else:
            pixels[index] = cells
    return pixels, dead


def _each(
    frames: Sequence[bytes], layout: Layout, syntax: UID
) -> Iterator[tuple[int, np.ndarray | None]]:
    """Every frame with its number; None for one that cannot be decoded.

    Raises:
        CorruptImage: None of them can be decoded.
    """
    first: CorruptImage | None = None
    alive = False
    for index in range(layout.frames):
        try:
            cells = next(decode_frames(frames, layout, syntax, [index]))
        except CorruptImage as err:
            first = first or err
            yield index, None
        else:
            alive = True
            yield index, cells
    if first is not None and not alive:
        raise first


def dissect(
    file: DicomFile, layout: Layout, regions: Sequence[Region], identity_key: bytes
) -> tuple[bytes, tuple[bytes, ...], dict[str, bytes]]:
    """The masked file, a patch per region, and the parts of the remainder."""
    dicom_native.check_inside(layout, regions)
    frames, surplus = payload(file)
    shown = [dicom_colour.shown_as(frame, layout, file.syntax) for frame in frames]
    said = dicom_colour.corrected(layout, shown, file.syntax)
    originals: dict[str, bytes] = {}
    coders: dict[str, bytes] = {}
    edges: dict[str, bytes] = {}
    masked = [b""] * layout.frames
    made_of_blocks = _by_coefficients(file, layout, frames, masked, regions, edges)
    if made_of_blocks is not None:
        coded, bones, originals = made_of_blocks
    else:
        lifted = _Lifted(layout, regions)
        displays = display_of(file.header)
        alike = dicom_tables.alike(file.header, layout)
        whole = Region(0, 0, layout.columns, layout.rows)
        repeats = True
        for index, cells in _each(frames, layout, file.syntax):
            here = [whole] if cells is None else [r for _, r in _on_frame(regions, index)]
            covered = np.zeros((1, *layout.shape), layout.dtype) if cells is None else cells[None]
            covered = covered.copy()
            spare = dicom_native.clear_unused(covered, layout, here, alike)
            coder = None
            if cells is not None:
                lifted.take(index, cells)
                if repeats and not spare:  # all frames of a file come from one coder
                    coder = repeating_coder(frames[index], cells, layout, file.syntax)
                repeats = coder is not None
            if coder is None:
                originals[str(index)] = frames[index]
            else:
                coders[str(index)] = coder.encode()
            if coder is not None and not here and said == layout:
                masked[index] = frames[index]  # these pixels and this coder give no other bytes
                continue
            drawn = replace(layout, photometric=shown[index])
            dicom_native.fill(covered, drawn, displays[min(index, len(displays) - 1) :], here)
            made = encode_frame(covered[0], said, file.syntax)
            if made is None:
                return _decompressed(file, said, frames, regions, identity_key)
            masked[index] = made
        coded, bones = lifted.patches(), b""
    value = encapsulate(masked)
    # A frame coded anew is no recompressed JPEG.
    syntax = JXL if file.syntax == JXL_RECOMPRESSION else file.syntax
    pixels = (next(decode_frames(masked, said, syntax, [i])) for i in range(layout.frames))
    file_out = dicom_native.build(file, said, identity_key, syntax, value, pixels)
    table, *fragments = file.pixel.fragments
    parts = {
        "head": file.body[: file.pixel.value],
        "lengths": np.array([b - a for a, b in fragments], "<u4").tobytes(),
        "tail": file.body[fragments[-1][1] :],
        "sizes": np.array([len(f) for f in frames], "<u8").tobytes(),
        "bones": bones,
        "edges": patches.pack(edges),
        "frames": patches.pack(originals),
        "coders": patches.pack(coders),
        "colours": layout.photometric.encode(),
        "surplus": surplus,
    }
    if table[0] > file.pixel.value:  # a writer may leave the table out
        parts["table"] = file.body[table[0] : table[1]]
    return file_out, coded, parts


def _by_coefficients(
    file: DicomFile,
    layout: Layout,
    frames: Sequence[bytes],
    masked: list[bytes],
    regions: Sequence[Region],
    edges: dict[str, bytes],
) -> tuple[tuple[bytes, ...], bytes, dict[str, bytes]] | None:
    """Mask JPEG frames in their coefficients, in ``masked``; with their last blocks in ``edges``.

    Returns:
        Patches, bones, and frames that are kept whole; None where the frames are of another kind.
    """
    if file.syntax not in JPEG_DCT:
        return None
    dead = [index for index, cells in _each(frames, layout, file.syntax) if cells is None]
    alive = [index for index in range(layout.frames) if index not in dead]
    originals = {str(index): frames[index] for index in dead}
    made = list(masked)
    try:
        if not all(jpeg_file.parse(frames[i]).sof in (0xC0, 0xC1) for i in alive):
            return None
        coded, bones = _dissect_jpeg(frames, made, regions, alive, originals, edges)
        if dead:  # in their place one that is a mask and nothing else
            whole = Region(0, 0, layout.columns, layout.rows)
            cover = jpeg.dissect(frames[alive[0]], [whole]).data
            for index in dead:
                made[index] = cover
    except (CorruptImage, UnsupportedFormat):  # of 12 bits, or more loosely written than that
        return None
    masked[:] = made
    return coded, bones, originals


def _on_frame(regions: Sequence[Region], frame: int) -> list[tuple[int, Region]]:
    return [
        (number, replace(r, frame=0, frame_end=1))
        for number, r in enumerate(regions)
        if r.frame <= frame < r.frame_end
    ]


def _dissect_jpeg(
    frames: Sequence[bytes],
    masked: list[bytes],
    regions: Sequence[Region],
    alive: Sequence[int],
    originals: dict[str, bytes],
    edges: dict[str, bytes],
) -> tuple[tuple[bytes, ...], bytes]:
    """Mask coefficients of the frames that can be decoded, in ``masked``."""
    scans: list[dict[str, bytes]] = [{} for _ in regions]
    bones = {}
    for index in alive:
        here = _on_frame(regions, index)
        boxes = [r for _, r in here]
        made = jpeg.dissect(frames[index], boxes)
        masked[index] = made.data
        for (number, _), patch in zip(here, made.patches, strict=True):
            scans[number][str(index)] = patch
        scanned = dict(enumerate(made.patches))
        back = jpeg.assemble(made.data, boxes, scanned, made.bones, made.edges)
        if back == frames[index]:
            bones[str(index)], edges[str(index)] = made.bones, made.edges
        else:
            originals[str(index)] = frames[index]
    return tuple(patches.pack(s) for s in scans), patches.pack(bones)


class _Lifted:
    """What is under each region, gathered frame by frame so that one is decoded at a time."""

    def __init__(self, layout: Layout, regions: Sequence[Region]) -> None:
        self._regions = regions
        self._parts = [
            np.zeros((r.frame_count, r.height, r.width, *layout.shape[2:]), layout.dtype)
            for r in regions
        ]

    def take(self, index: int, pixels: np.ndarray) -> None:
        here = _on_frame(self._regions, index)
        boxes = [r for _, r in here]
        for place, (number, _) in enumerate(here):
            part = mask.lift(pixels[None], boxes, place)
            self._parts[number][index - self._regions[number].frame] = part[0]

    def patches(self) -> tuple[bytes, ...]:
        return tuple(patches.encode(part) for part in self._parts)


def _decompressed(
    file: DicomFile,
    layout: Layout,
    frames: Sequence[bytes],
    regions: Sequence[Region],
    identity_key: bytes,
) -> tuple[bytes, tuple[bytes, ...], dict[str, bytes]]:
    """An uncompressed masked file; the original is sealed whole."""
    cells, dead = decode_all(frames, layout, file.syntax)
    plain = replace(
        layout, planar=0, photometric=_decoded_photometric(layout), swapped=False, halved=False
    )
    coded = tuple(patches.encode(mask.lift(cells, regions, i)) for i in range(len(regions)))
    dicom_native.clear_unused(cells, plain, (), dicom_tables.alike(file.header, plain))
    covers = [Region(0, 0, layout.columns, layout.rows, f, f + 1) for f in dead]
    dicom_native.fill(cells, plain, display_of(file.header), [*regions, *covers])
    vr = "OB" if layout.allocated == 8 else "OW"
    masked = dicom_native.build(
        replace(file, pixel=replace(file.pixel, vr=vr)),
        plain,
        identity_key,
        ExplicitVRLittleEndian,
        store_native(cells, plain),
        cells,
    )
    return masked, coded, {"whole": file.data}


def _decoded_photometric(layout: Layout) -> str:
    if layout.photometric in ("YBR_RCT", "YBR_ICT"):
        return "RGB"
    return "YBR_FULL" if layout.photometric == "YBR_FULL_422" else layout.photometric


def assemble(
    file: DicomFile,
    layout: Layout,
    regions: Sequence[Region],
    coded: Mapping[int, bytes],
    parts: Mapping[str, bytes] | None,
) -> bytes:
    """Put patches back into a masked compressed file."""
    frames, _ = payload(file)
    touched = sorted({f for i in coded for f in range(regions[i].frame, regions[i].frame_end)})
    if parts is None:
        for index in touched:
            frames[index] = _open_frame(frames, index, layout, file, regions, coded)
        head, tail = file.body[: file.pixel.value], file.body[file.pixel.end :]
        return b"".join([head, encapsulate(frames), tail])
    originals = patches.unpack(parts["frames"])
    coders = patches.unpack(parts["coders"]) if "coders" in parts else {}
    bones = patches.unpack(parts["bones"]) if parts["bones"] else {}
    spans = patches.unpack(parts["spans"]) if "spans" in parts else {}
    edges = patches.unpack(parts["edges"]) if "edges" in parts else {}
    sizes = np.frombuffer(parts["sizes"], "<u8")
    before = replace(layout, photometric=parts.get("colours", layout.photometric.encode()).decode())
    for index in range(len(frames)):
        name = str(index)
        if name in originals:
            frames[index] = originals[name]
        elif name in bones:
            here = _on_frame(regions, index)
            scans = {
                place: patches.unpack(coded[number])[name] for place, (number, _) in enumerate(here)
            }
            boxes, last = [r for _, r in here], edges.get(name, b"")
            frames[index] = jpeg.assemble(frames[index], boxes, scans, bones[name], last)
        elif name in coders:
            pixels = _open_pixels(frames, index, layout, file, regions, coded)
            frames[index] = repeat_frame(coders[name].decode(), pixels, before, file.syntax)
        elif index in touched:
            frames[index] = _open_frame(frames, index, layout, file, regions, coded)
        elif name in spans:
            frames[index] = unstrip(frames[index], spans[name])
        frames[index] = frames[index][: int(sizes[index])].ljust(int(sizes[index]), b"\0")
    stream, at = b"".join([*frames, parts.get("surplus", b"")]), 0
    out = [parts["head"], _item(parts["table"]) if "table" in parts else b""]
    for length in np.frombuffer(parts["lengths"], "<u4").tolist():
        out.append(_item(stream[at : at + length]))
        at += length
    return b"".join([*out, parts["tail"]])


def _item(body: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body


def _open_frame(
    frames: Sequence[bytes],
    index: int,
    layout: Layout,
    file: DicomFile,
    regions: Sequence[Region],
    coded: Mapping[int, bytes],
) -> bytes:
    """A masked frame with the patches that are there put back, in its own syntax."""
    here = _on_frame(regions, index)
    boxes = [r for _, r in here]
    if file.syntax in JPEG_DCT:
        scans = {
            place: planes[str(index)]
            for place, (number, _) in enumerate(here)
            if number in coded and str(index) in (planes := patches.unpack(coded[number]))
        }
        return jpeg.assemble(frames[index], boxes, scans, None)
    pixels = _open_pixels(frames, index, layout, file, regions, coded)
    made = encode_frame(pixels, layout, file.syntax)
    if made is None:
        raise SealBroken(
            "A restored frame cannot be written in the file's transfer syntax. Tell your"
            " administrator."
        )
    return made


def _open_pixels(
    frames: Sequence[bytes],
    index: int,
    layout: Layout,
    file: DicomFile,
    regions: Sequence[Region],
    coded: Mapping[int, bytes],
) -> np.ndarray:
    """Stored values of a masked frame with the patches that are there put back."""
    here = _on_frame(regions, index)
    boxes = [r for _, r in here]
    cells = next(decode_frames(frames, layout, file.syntax, [index]))[None].copy()
    for place, (number, _) in enumerate(here):
        if number in coded:
            part = patches.decode(coded[number])
            start = index - regions[number].frame
            dicom_native.lay(cells, boxes, place, part[start : start + 1])
    return np.asarray(cells[0])


def unstrip(frame: bytes, removed: bytes) -> bytes:
    """A codestream with its comments again, which an earlier release cut out where no box is."""
    for start, body in patches.unpack(removed).items():  # ascending, as they were removed
        frame = frame[: int(start)] + body + frame[int(start) :]
    return frame

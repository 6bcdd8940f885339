"""Which fragments of encapsulated pixel data make up which frame.

Offset tables are wrong in files of many writers, so they are only one witness. Where codestreams
have a signature, a frame starts where one stands; tables are believed where each of their entries
is the start of an item.

Source: PS3.5 A.4 (fragments, Basic Offset Table), PS3.3 C.7.6.3.1.8 (Extended Offset Table).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

from engine.errors import CorruptImage

#: First bytes of a frame: JPEG and JPEG-LS; JPEG 2000; JPEG XL, bare and in boxes; JP2 boxes.
_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\xff\x4f\xff\x51",
    b"\xff\x0a",
    b"\0\0\0\x0cJXL ",
    b"\0\0\0\x0cjP  ",
)
_HEAD_BYTES = 8  # tag and length of an item


_RLE_HEAD_BYTES = 64  # PS3.5 G.5: the first segment lies directly behind the head


def starts_frame(fragment: bytes) -> bool:
    """Whether a codestream with a signature begins here, or the head of an RLE frame."""
    if fragment.startswith(_SIGNATURES):
        return True
    if len(fragment) < _HEAD_BYTES:
        return False
    segments, first = struct.unpack_from("<II", fragment)
    return 1 <= segments <= 15 and first == _RLE_HEAD_BYTES


def group(
    body: bytes,
    fragments: Sequence[tuple[int, int]],
    table: bytes,
    extended: bytes,
    frames: int,
) -> list[list[int]]:
    """Indices of the fragments of each frame, in order; every fragment is in one.

    Args:
        body: What the spans count in.
        fragments: (start, end) of the bytes of each item behind the offset table.
        table: The Basic Offset Table; may be empty or wrong.
        extended: The Extended Offset Table; as well.
        frames: As the header says, at least 1.

    Returns:
        As many as ``frames``, or more where the file holds more. An empty fragment in front
        belongs to the first frame.

    Raises:
        CorruptImage: Fewer than the header says, or they cannot be told apart.
    """
    filled = [i for i, (start, end) in enumerate(fragments) if end > start]
    if not filled:
        raise CorruptImage("This DICOM file is damaged: it has no compressed frame.")
    signed = [
        i
        for i in filled
        if starts_frame(body[fragments[i][0] : min(fragments[i][1], fragments[i][0] + 16)])
    ]
    # No coder writes a signature inside a frame: more of them than frames are more frames.
    if signed[:1] == filled[:1] and len(signed) >= frames:
        return _split(signed, len(fragments))
    for starts in (
        _from_table(fragments, table, "<I"),
        _from_table(fragments, extended, "<Q"),
        filled,
        list(range(len(fragments))),  # each an item of its own, also one without bytes
        filled[:1],
    ):
        if len(starts) == frames:
            return _split(starts, len(fragments))
    raise CorruptImage(
        "This DICOM file is damaged: the number of frames differs from its header. Export it"
        " again.",
        expected=frames,
        found=len(signed) or len(filled),
    )


def _from_table(fragments: Sequence[tuple[int, int]], table: bytes, entry: str) -> list[int]:
    """Fragments at which frames start by a table; empty where any of its entries is wrong."""
    size = struct.calcsize(entry)
    if not table or len(table) % size:
        return []
    base = fragments[0][0] - _HEAD_BYTES
    places = {start - _HEAD_BYTES - base: i for i, (start, _) in enumerate(fragments)}
    offsets = [offset for (offset,) in struct.iter_unpack(entry, table)]
    ascending = all(a < b for a, b in pairwise(offsets))
    if offsets[0] or not ascending or any(offset not in places for offset in offsets):
        return []
    return [places[offset] for offset in offsets]


def _split(starts: Sequence[int], count: int) -> list[list[int]]:
    ends = [*starts[1:], count]
    return [
        list(range(0 if first else start, end))
        for first, start, end in zip([True, *[False] * len(starts)], starts, ends, strict=False)
    ]

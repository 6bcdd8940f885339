"""Offset tables that are wrong, fragments of any kind, frames that are damaged or not counted."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from engine.errors import CorruptImage
from engine.formats import images
from engine.records import Region
from engine.seal import pipeline
from tests import builders
from tests.formats.dicom_files import KEY, both_ways, even, items, read, same, with_pixels

CINE = np.stack([builders.radiograph(96, 64, seed=i) for i in range(3)])
SYNTAXES = (JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless, RLELossless, HTJ2KLossless)


def _coded(syntax: str, pixels: np.ndarray = CINE) -> list[bytes]:
    coder = builders.LOSSLESS.get(syntax, lambda f: builders.jpeg(f))
    return [even(bytes(coder(np.ascontiguousarray(f)))) for f in pixels]


def _file(syntax: str, value: bytes, frames: int = 3, **attributes: object) -> bytes:
    made = builders.dicom(CINE, syntax=syntax, NumberOfFrames=frames, **attributes)
    return with_pixels(made, value)


def _offsets(fragments: list[bytes], head: int = 8) -> list[int]:
    return [sum(head + len(f) for f in fragments[:i]) for i in range(len(fragments))]


def _longs(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


TABLES: dict[str, Callable[[list[bytes]], bytes]] = {
    "counted without heads": lambda f: _longs(_offsets(f, 0)),
    "from the table's own head": lambda f: _longs([8 + o for o in _offsets(f)]),
    "the first only": lambda f: _longs([0]),
    "one too few": lambda f: _longs(_offsets(f)[:-1]),
    "one too many": lambda f: _longs([*_offsets(f), 1 << 20]),
    "zeros": lambda f: _longs([0] * len(f)),
    "backwards": lambda f: _longs(_offsets(f)[::-1]),
    "garbage": lambda f: b"\xa5" * 4 * len(f),
    "no whole entries": lambda f: b"\0\0\0\0\x10\0",
    "big endian": lambda f: struct.pack(f">{len(f)}I", *_offsets(f)),
    "sizes": lambda f: _longs([len(x) for x in f]),
    "right": lambda f: _longs(_offsets(f)),
    "empty": lambda f: b"",
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("table", TABLES)
def test_frames_are_found_whatever_the_offset_table_says(syntax: str, table: str) -> None:
    frames = _coded(syntax)
    right = read(_file(syntax, items(frames))).pixels
    image, masked = both_ways(_file(syntax, items(frames, TABLES[table](frames))))
    assert same(image.pixels, right)
    assert masked.frames == 3


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("table", ["empty", "garbage", "counted without heads", "zeros"])
def test_frames_in_pieces_are_found_whatever_the_offset_table_says(syntax: str, table: str) -> None:
    frames = _coded(syntax)
    pieces = [part for f in frames for part in (f[:40], f[40:90], f[90:])]
    image, _ = both_ways(_file(syntax, items(pieces, TABLES[table](frames))))
    assert same(image.pixels, read(_file(syntax, items(frames))).pixels)


@pytest.mark.parametrize("entry", ["right", "zeros", "garbage", "counted without heads"])
def test_frames_are_found_whatever_the_extended_offset_table_says(entry: str) -> None:
    frames = _coded(JPEGBaseline8Bit)
    offsets = {
        "right": _offsets(frames),
        "zeros": [0] * 3,
        "garbage": [1 << 60, 5, 7],
        "counted without heads": _offsets(frames, 0),
    }[entry]
    tables = {
        "ExtendedOffsetTable": struct.pack("<3Q", *offsets),
        "ExtendedOffsetTableLengths": struct.pack("<3Q", *(len(f) for f in frames)),
    }
    image, _ = both_ways(_file(JPEGBaseline8Bit, items(frames), **tables))
    assert same(image.pixels, read(_file(JPEGBaseline8Bit, items(frames))).pixels)


@pytest.mark.parametrize(
    ("fragments", "table"),
    [
        (lambda f: [b"", *f], b""),
        (lambda f: [f[0], b"", f[1], b"", f[2], b""], b""),
        (lambda f: f, None),  # no offset table at all
    ],
    ids=["empty in front", "empty between", "no table"],
)
def test_empty_fragments_and_a_missing_table_come_back(
    fragments: Callable[[list[bytes]], list[bytes]], table: bytes | None
) -> None:
    frames = _coded(JPEGBaseline8Bit)
    data = _file(JPEGBaseline8Bit, items(fragments(frames), table))
    image, _ = both_ways(data)
    assert same(image.pixels, read(_file(JPEGBaseline8Bit, items(frames))).pixels)


@pytest.mark.parametrize("tail", [b"", b"Musterfrau Erika", b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0Erik"])
@pytest.mark.parametrize("end", [True, False])
def test_what_follows_the_frames_comes_back_and_is_not_shared(tail: bytes, end: bool) -> None:
    frames = _coded(JPEGBaseline8Bit)
    data = _file(JPEGBaseline8Bit, items(frames, end=end) + tail)
    image, masked = both_ways(data)
    assert image.frames == 3
    assert b"Erik" not in masked.data


def test_frames_in_a_value_of_defined_length_come_back() -> None:
    frames = _coded(JPEGBaseline8Bit)
    made = builders.dicom(CINE, syntax=JPEGBaseline8Bit)
    image, _ = both_ways(with_pixels(made, items(frames), defined=True))
    assert same(image.pixels, read(_file(JPEGBaseline8Bit, items(frames))).pixels)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("said", [1, 2])
def test_frames_that_no_header_counts_are_not_in_the_masked_file(syntax: str, said: int) -> None:
    frames = _coded(syntax)
    image, masked = both_ways(_file(syntax, items(frames), frames=said))
    assert (image.frames, masked.frames) == (said, said)
    assert frames[2][-80:-20] not in masked.data


def test_fewer_frames_than_the_header_says_are_refused() -> None:
    with pytest.raises(CorruptImage, match="number of frames"):
        read(_file(JPEGBaseline8Bit, items(_coded(JPEGBaseline8Bit)), frames=4))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda f: b"Musterfrau Erika" * 8,
    "empty": lambda f: b"",
    "cut in its head": lambda f: f[:20],
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_dead_frame_is_sealed_whole_and_the_others_work(
    syntax: str, damage: str, place: int
) -> None:
    frames = _coded(syntax)
    right = read(_file(syntax, items(frames))).pixels
    broken = [*frames]
    broken[place] = DAMAGE[damage](frames[place])
    table = _longs(_offsets(broken))
    data = _file(syntax, items(broken, table))
    image, masked = both_ways(data)
    assert image.properties["dead_frames"] == (place,)
    assert [str(place + 1) in note for note in images.notes(image)] == [True]
    alive = [i for i in range(3) if i != place]
    assert same(image.pixels[alive], right[alive])
    assert same(masked.pixels[alive, 20:], right[alive, 20:])
    assert masked.properties["dead_frames"] == ()
    assert b"Musterfrau" not in masked.data
    (box,) = pipeline.sealed_whole(image)
    assert box.region == Region(0, 0, 96, 64, place, place + 1)


def test_a_frame_of_another_size_is_a_dead_one() -> None:
    frames = _coded(JPEGBaseline8Bit)
    frames[1] = even(builders.jpeg(builders.radiograph(64, 96)))
    image, masked = both_ways(_file(JPEGBaseline8Bit, items(frames)))
    assert image.properties["dead_frames"] == (1,)
    assert frames[1][200:260] not in masked.data


def test_a_cine_of_dead_frames_only_is_refused() -> None:
    with pytest.raises(CorruptImage):
        read(_file(JPEGBaseline8Bit, items([b"\xff\xd8\xff\xe0garb"] * 3)))


def test_a_dead_frame_stays_out_of_a_partly_opened_picture() -> None:
    frames = _coded(JPEGBaseline8Bit)
    frames[1] = DAMAGE["garbage"](b"")
    image = read(_file(JPEGBaseline8Bit, items(frames)))
    regions = [Region(0, 0, 16, 16, 0, 3), Region(0, 0, 96, 64, 1, 2)]
    made = images.dissect(image, regions, KEY)
    part = images.assemble(made.masked, regions, {0: made.patches[0]}, None)
    assert b"Musterfrau" not in part
    assert same(read(part).pixels[[0, 2]], image.pixels[[0, 2]])


def test_a_person_is_told_of_frames_that_no_header_counts() -> None:
    frames = _coded(JPEG2000Lossless)
    (note,) = images.notes(read(_file(JPEG2000Lossless, items(frames), frames=2)))
    assert "more frames than its header says" in note

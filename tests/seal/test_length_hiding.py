"""Lengths of sealed regions: they depend on boxes and on one coarse class, and nothing is lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.crypto.vault import pad_length
from engine.errors import SealBroken
from engine.seal import length_hiding

MASKED_BYTES = 100_000
LABELS = ["text", "text", "thorax", "barcode", "text"]
VOLUMES = [4_000, 900, 400_000, 22_500, 12_000]


def contents(seed: int, *sizes: int) -> list[bytes]:
    return [random.Random(seed + i).randbytes(size) for i, size in enumerate(sizes)]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 10_000), st.binary(max_size=900)),
             max_size=9),
    st.integers(0, 200_000),
)  # fmt: skip
def test_what_was_split_is_joined(regions: list[tuple[str, int, bytes]], masked: int) -> None:
    labels, volumes, patches = zip(*regions, strict=True) if regions else ((), (), ())
    pieces = length_hiding.split(labels, volumes, patches, masked)
    assert length_hiding.join(labels, dict(enumerate(pieces))) == dict(enumerate(patches))


def test_a_class_opens_without_the_others() -> None:
    patches = contents(1, 700, 30, 90_000, 1_200, 400)
    pieces = length_hiding.split(LABELS, VOLUMES, patches, MASKED_BYTES)
    text = {i: pieces[i] for i in (0, 1, 4)}
    assert length_hiding.join(LABELS, text) == {i: patches[i] for i in (0, 1, 4)}
    assert b"".join(text.values()).find(patches[3][:40]) < 0


def test_names_that_fit_the_public_length_all_have_the_same() -> None:
    lengths = set()
    for name in range(0, 3_000, 150):
        patches = contents(name, 400 + name, 20, 90_000, 900, 99)
        pieces = length_hiding.split(LABELS, VOLUMES, patches, MASKED_BYTES)
        lengths.add(tuple(map(len, pieces)))
    assert len(lengths) == 1


def test_longer_contents_show_no_more_than_their_class() -> None:
    sizes = range(20_000, 40_000, 37)
    seen = {
        tuple(
            map(
                len,
                length_hiding.split(["text"] * 3, [900, 9_000, 90_000], [b"x" * n, b"", b""], 0),
            )
        )
        for n in sizes
    }
    steps = {length_hiding.length_class(n + 12, 256) for n in sizes}
    assert len(seen) == len(steps) <= 3  # an octave in steps of a half
    by_rank = [
        length_hiding.split(["text"] * 2, [500, 500], patches, 0)
        for patches in ([b"x" * 9_000, b""], [b"", b"x" * 9_000], [b"x" * 4_500] * 2)
    ]
    assert len({tuple(map(len, pieces)) for pieces in by_rank}) == 1, "which region is the fuller"


def test_pieces_have_lengths_that_the_vault_does_not_grow() -> None:
    for seed in range(40):
        patches = contents(seed, 50 * seed, 30, 3_000 * seed, 1_200, 400)
        for piece in length_hiding.split(LABELS, VOLUMES, patches, MASKED_BYTES):
            assert pad_length(len(piece) + 8) == len(piece) + 8


def test_a_length_class_costs_a_half_at_most_beyond_the_public_length() -> None:
    for content in (*range(0, 5_000, 7), 60_000, 70_000, 1_000_000, 50_000_000):
        for public in (0, 1_000, 300_000):
            size = length_hiding.length_class(content, public)
            assert content <= size <= max(public, length_hiding.SMALLEST_BYTES, content * 3 / 2 + 1)


@pytest.mark.parametrize("pieces", [{0: b"", 1: b""}, {0: b"\0\0"}, {0: b"\xff" * 90, 1: b"x"}])
def test_pieces_that_do_not_belong_together_are_a_named_error(pieces: dict[int, bytes]) -> None:
    with pytest.raises(SealBroken):
        length_hiding.join(["text", "text"], pieces)


def test_a_stream_of_version_2_is_read_for_ever() -> None:
    pieces = {0: bytes.fromhex("0000000461626364000000"), 2: bytes.fromhex("0265660000000000")}
    assert length_hiding.join(["text", "face", "text"], pieces) == {0: b"abcd", 2: b"ef"}

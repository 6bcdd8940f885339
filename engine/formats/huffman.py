"""JPEG entropy coding: coefficients to bits, for any Huffman tables (ITU-T T.81, annex F).

Vectorised, so that the exact bits of an original scan can be written again from its own
tables, which no JPEG library offers. Reading goes through ``jpeglib``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

ZIGZAG = np.array(
    [
        0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34,
        27, 20, 13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44,
        51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    ]
)  # fmt: skip
EOB, ZRL = 0x00, 0xF0
_CHUNK_BLOCKS = 1 << 15


@dataclass(frozen=True)
class Table:
    """A Huffman table as in a DHT segment.

    Args:
        counts: 16 counts of codes by length 1..16.
        symbols: The symbols in order of code.
    """

    counts: tuple[int, ...]
    symbols: tuple[int, ...]

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Code and length per symbol value, each shape (256,); length 0 where there is none."""
        code = np.zeros(256, np.int64)
        length = np.zeros(256, np.int64)
        value, at = 0, 0
        for bits, count in enumerate(self.counts, start=1):
            for symbol in self.symbols[at : at + count]:
                code[symbol], length[symbol] = value, bits
                value += 1
            at += count
            value <<= 1
        return code, length

    def segment(self, kind: int, slot: int) -> bytes:
        """Body of a DHT entry; kind 0 for DC, 1 for AC."""
        return bytes([kind << 4 | slot, *self.counts, *self.symbols])


@dataclass(frozen=True)
class Tokens:
    """Symbols of a scan in order.

    Args:
        symbol: Huffman symbol, 0..255.
        extra, extra_bits: Bits that follow the code.
        slot: Which table: 2 * component of the scan, plus 1 for AC.
        segment: Restart interval that the token belongs to, not decreasing.
    """

    symbol: np.ndarray
    extra: np.ndarray
    extra_bits: np.ndarray
    slot: np.ndarray
    segment: np.ndarray


def blocks_of_scan(
    components: Sequence[np.ndarray], sampling: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Blocks in the order of an MCU-interleaved scan, or of a scan of one component.

    Args:
        components: Per component, shape (rows, columns, 64), int16, zigzag order.
        sampling: Per component (horizontal, vertical) factors.

    Returns:
        Blocks, shape (MCUs, blocks per MCU, 64), and the component of each block of an MCU.
        Where an MCU sticks out, blocks are filled in as libjpeg does: the DC of the block
        before, nothing else.
    """
    if len(components) == 1:
        return components[0].reshape(-1, 1, 64), np.zeros(1, np.int64)
    mcu_rows = max(-(-c.shape[0] // v) for c, (_, v) in zip(components, sampling, strict=True))
    mcu_columns = max(-(-c.shape[1] // h) for c, (h, _) in zip(components, sampling, strict=True))
    parts, owner = [], []
    for number, (c, (h, v)) in enumerate(zip(components, sampling, strict=True)):
        rows, columns = mcu_rows * v, mcu_columns * h
        full = np.zeros((rows, columns, 64), np.int16)
        full[: c.shape[0], : c.shape[1]] = c
        real = np.zeros((rows, columns), bool)
        real[: c.shape[0], : c.shape[1]] = True
        blocks = _by_mcu(full, mcu_rows, mcu_columns, v, h).reshape(-1, 64)
        flags = _by_mcu(real[..., None], mcu_rows, mcu_columns, v, h).reshape(-1)
        if not flags.all():
            last = np.maximum.accumulate(np.where(flags, np.arange(flags.size), 0))
            blocks[:, 0] = blocks[last, 0]
        parts.append(blocks.reshape(-1, h * v, 64))
        owner += [number] * (h * v)
    return np.concatenate(parts, axis=1), np.array(owner)


def _by_mcu(grid: np.ndarray, rows: int, columns: int, v: int, h: int) -> np.ndarray:
    return np.ascontiguousarray(
        grid.reshape(rows, v, columns, h, grid.shape[-1]).transpose(0, 2, 1, 3, 4)
    )


def tokenize(blocks: np.ndarray, owner: np.ndarray, restart: int = 0) -> Iterator[Tokens]:
    """Symbols of a sequential scan, some thousand MCUs at a time to bound memory.

    Args:
        blocks: Shape (MCUs, blocks per MCU, 64), int16, zigzag order.
        owner: Component of each block of an MCU.
        restart: MCUs per restart interval; 0 for none.
    """
    step = max(1, _CHUNK_BLOCKS // blocks.shape[1])
    dc_before = np.zeros(int(owner.max()) + 1, np.int32)
    for first in range(0, len(blocks), step):
        part = blocks[first : first + step]
        interval = np.arange(first, first + len(part)) // (restart or len(blocks))
        yield _tokens(part, owner, interval, dc_before, bool(restart and first % restart == 0))
        for number in range(len(dc_before)):
            dc_before[number] = part[-1, owner == number][-1, 0]


def _tokens(
    blocks: np.ndarray, owner: np.ndarray, interval: np.ndarray, dc_before: np.ndarray, anew: bool
) -> Tokens:
    mcus, per_mcu = blocks.shape[:2]
    flat = blocks.reshape(-1, 64).astype(np.int32)
    component = np.tile(owner, mcus)
    segment = np.repeat(interval, per_mcu)
    # differences of DC, per component, starting anew with each restart interval
    difference = np.empty(len(flat), np.int32)
    for number in range(len(dc_before)):
        mine = np.flatnonzero(component == number)
        dc, part = flat[mine, 0], segment[mine]
        before = np.concatenate([[0 if anew else dc_before[number]], dc[:-1]])
        before[np.concatenate([[False], part[1:] != part[:-1]])] = 0
        difference[mine] = dc - before
    dc_size = _size(difference)
    # AC: runs of zeros and values
    block, k = np.divmod(np.flatnonzero(flat[:, 1:] != 0), 63)  # far faster than in two axes
    k += 1
    value = flat[block, k]
    previous = np.concatenate([[0], k[:-1]])[: len(k)]
    previous[np.flatnonzero(np.diff(block, prepend=-1))] = 0
    run = k - previous - 1
    ac_size = _size(value)
    last = np.zeros(len(flat), np.int64)
    last[block] = k  # indices ascend, so the last one stays
    ends = np.flatnonzero(last < 63)
    skips = np.repeat(np.arange(len(block)), run // 16)
    # order: block, then position in it; a DC first, an EOB last, ZRLs before their value
    place = np.concatenate(
        [
            np.arange(len(flat)) * 256,
            block * 256 + k * 2 + 1,
            block[skips] * 256 + k[skips] * 2,
            ends * 256 + 255,
        ]
    )
    order = np.argsort(place, kind="stable")
    zrl, eob = np.full(len(skips), ZRL), np.full(len(ends), EOB)
    none = np.zeros(len(skips) + len(ends), np.int64)
    symbol = np.concatenate([dc_size, (run % 16) << 4 | ac_size, zrl, eob])
    extra_bits = np.concatenate([dc_size, ac_size, none])
    number_ = np.concatenate([difference, value, none])
    at = np.concatenate([np.arange(len(flat)), block, block[skips], ends])
    is_ac = np.arange(len(at)) >= len(flat)
    extra = np.where(number_ < 0, number_ - 1, number_) & ((1 << extra_bits) - 1)
    return Tokens(
        symbol[order],
        extra[order],
        extra_bits[order],
        (2 * component[at] + is_ac)[order],
        segment[at][order],
    )


def _size(values: np.ndarray) -> np.ndarray:
    """Number of bits of the magnitude (T.81 table F.1)."""
    return np.frexp(np.abs(values).astype(np.float64))[1].astype(np.int64)


def write(scan: Iterable[Tokens], tables: Sequence[Table | None]) -> bytes:
    """Entropy-coded bytes with stuffing, padding and restart markers.

    Args:
        tables: By slot, as in :class:`Tokens`.

    Raises:
        ValueError: A symbol occurs for which a table has no code.
    """
    codes = np.zeros((len(tables), 256), np.int64)
    lengths = np.zeros((len(tables), 256), np.int64)
    for slot, table in enumerate(tables):
        if table is not None:
            codes[slot], lengths[slot] = table.codes()
    out: list[bytes] = []
    segment, carry, carry_bits = 0, 0, 0
    for tokens in scan:
        length = lengths[tokens.slot, tokens.symbol]
        if not length.all():
            raise ValueError("a symbol has no Huffman code")
        # the bits left over from before stand first, and padding between restart intervals
        numbers = np.concatenate([[segment], tokens.segment])
        bits = np.concatenate([[carry_bits], length + tokens.extra_bits])
        value = codes[tokens.slot, tokens.symbol] << tokens.extra_bits | tokens.extra
        value = np.concatenate([[carry], value])
        turns = np.flatnonzero(np.diff(numbers)) + 1
        totals = np.add.reduceat(bits, np.append(0, turns))
        pads = -totals[:-1] % 8
        bits, value = np.insert(bits, turns, pads), np.insert(value, turns, (1 << pads) - 1)
        packed = _pack_bits(value, bits)
        begin = 0
        for end in np.cumsum((totals[:-1] + pads) // 8):
            out += [_stuffed(packed[begin:end]), bytes([0xFF, 0xD0 + segment % 8])]
            begin, segment = end, segment + 1
        carry_bits = int(totals[-1] % 8)
        end = begin + int(totals[-1] // 8)
        out.append(_stuffed(packed[begin:end]))
        carry = int(packed[end]) >> (8 - carry_bits) if carry_bits else 0
    if carry_bits:
        out.append(_stuffed(np.array([carry << (8 - carry_bits) | 0xFF >> carry_bits], np.uint8)))
    return b"".join(out)


def _stuffed(packed: np.ndarray) -> bytes:
    return packed.tobytes().replace(b"\xff", b"\xff\x00")


def _pack_bits(value: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Concatenate bit strings of up to 32 bits, most significant first: uint8."""
    end = np.cumsum(bits)
    start = end - bits
    word, shift = start >> 5, 64 - (start & 31) - bits
    wide = value.astype(np.uint64) << shift.astype(np.uint64)
    count = int(end[-1] >> 5) + 2 if len(end) else 0
    # strings do not overlap, so sums are unions, and sums below 2**32 are exact in a double
    high = np.bincount(word, weights=(wide >> np.uint64(32)).astype(np.float64), minlength=count)
    low = np.bincount(
        word + 1, weights=(wide & np.uint64(0xFFFFFFFF)).astype(np.float64), minlength=count
    )
    words = (high + low).astype(np.uint32).astype(">u4")
    return words.view(np.uint8)[: int(end[-1] + 7) // 8]


def best_tables(scan: Iterable[Tokens], slots: int, shared: Sequence[int]) -> list[Table | None]:
    """Tables that code these tokens in the fewest bits (T.81 annex K.2).

    Args:
        slots: Number of slots, twice the components.
        shared: For each slot, the slot whose table it uses.
    """
    counts = np.zeros((slots, 256), np.int64)
    for tokens in scan:
        both = np.bincount(tokens.slot * 256 + tokens.symbol, minlength=slots * 256)
        np.add.at(counts, np.asarray(shared), both.reshape(slots, 256))
    made = [_best(row) if row.any() else None for row in counts]
    return [made[shared[slot]] for slot in range(slots)]


def _best(frequency: np.ndarray) -> Table:
    weight = [*frequency.tolist(), 1]  # the last stands for the all-ones code, which is reserved
    size = [0] * 257
    chain = [-1] * 257
    while True:
        live = sorted((w, -i) for i, w in enumerate(weight) if w)[:2]
        if len(live) < 2:
            break
        (w1, i1), (w2, i2) = live
        a, b = -i1, -i2
        weight[a], weight[b] = w1 + w2, 0
        for root in (a, b):
            at = root
            while True:
                size[at] += 1
                if chain[at] < 0:
                    break
                at = chain[at]
        at = a
        while chain[at] >= 0:
            at = chain[at]
        chain[at] = b
    lengths = [0] * 260
    for bits in size:
        lengths[bits] += bits > 0
    for bits in range(259, 16, -1):  # no code may be longer than 16 bits
        while lengths[bits]:
            shorter = bits - 2
            while not lengths[shorter]:
                shorter -= 1
            lengths[bits] -= 2
            lengths[bits - 1] += 1
            lengths[shorter + 1] += 2
            lengths[shorter] -= 1
    longest = 16
    while not lengths[longest]:
        longest -= 1
    lengths[longest] -= 1  # the reserved code
    order = sorted((size[symbol], symbol) for symbol in range(256) if size[symbol])
    return Table(tuple(lengths[1:17]), tuple(symbol for _, symbol in order))

"""Does sealed data look like random data? Byte entropy, chi-square, NPCR, UACI, correlation.

Each figure comes with what random bytes of the same length would give, because the
length decides: 1 KiB of perfect ciphertext reaches 7.81 bits per byte, never 7.99.
A good figure shows that nothing obvious is wrong; it does not prove a cipher safe.
Nothing here encrypts: the tests take bytes, or a function that encrypts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy  # its parts load when they are first used, which takes a third of a start

#: Share of byte positions in which two independent random strings differ, in percent.
NPCR_IDEAL_PERCENT = 100 * 255 / 256
#: Mean absolute difference of two independent random bytes as a share of 255, in percent.
UACI_IDEAL_PERCENT = 100 * (256**2 - 1) / (3 * 256) / 255
#: Fewest bytes for a chi-square test: five expected in each of 256 classes.
CHI_SQUARE_MIN_BYTES = 5 * 256

_EXACT_BELOW = 16_384
_CHUNK_BYTES = 1 << 20

Data = bytes | bytearray | memoryview | np.ndarray


def byte_histogram(data: Data) -> np.ndarray:
    """How often each byte value occurs.

    Args:
        data: Bytes, or an array of any shape and fixed-size dtype, whose stored bytes
            are counted. Large arrays are read in parts: memory stays within a few MB,
            plus one frame where the array is not contiguous.

    Returns:
        Shape (256,), int64.
    """
    counts = np.zeros(65_536, np.int64)
    last = np.zeros(256, np.int64)
    for part in _parts(data):
        # Counting pairs needs half the steps; the two halves of a pair are summed below.
        even = part[: part.size // 2 * 2].view(np.uint16)
        counts += np.bincount(even, minlength=65_536)
        if part.size % 2:
            last[part[-1]] += 1
    pairs = counts.reshape(256, 256)
    return np.asarray(pairs.sum(axis=0) + pairs.sum(axis=1) + last)


def _parts(data: Data) -> Iterator[np.ndarray]:
    if isinstance(data, np.ndarray) and not data.flags.c_contiguous and data.ndim > 1:
        for frame in data:
            yield from _parts(np.ascontiguousarray(frame))
        return
    if isinstance(data, np.ndarray):
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    else:
        flat = np.frombuffer(data, np.uint8)
    for start in range(0, flat.size, _CHUNK_BYTES):
        yield flat[start : start + _CHUNK_BYTES]


def histogram_entropy_bits(counts: np.ndarray) -> float:
    """Shannon entropy of counted values: ``-sum(p * log2(p))`` with ``p = count / total``.

    Args:
        counts: Shape (K,), integers, at least one above 0.

    Returns:
        Bits per value, 0 to log2(K).

    Raises:
        ValueError: Nothing was counted.

    Source: Shannon 1948, section 6.
    """
    seen = counts[counts > 0]
    if not seen.size:
        raise ValueError("entropy of nothing is undefined")
    shares = seen / seen.sum()
    # "+ 0.0" turns the -0.0 of a constant into 0.0.
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def byte_entropy_bits(data: Data) -> float:
    """Shannon entropy of the histogram of bytes.

    Args:
        data: Bytes, or an array whose stored bytes are measured: a uint16 pixel counts
            as two bytes, so pixels and ciphertext are measured with one ruler.

    Returns:
        Bits per byte, 0 to 8. Compare with :func:`byte_entropy_band_bits`.

    Raises:
        ValueError: No bytes.

    Source: Shannon 1948, section 6.
    """
    return histogram_entropy_bits(byte_histogram(data))


@functools.lru_cache(maxsize=4096)
def _byte_entropy_moments(length: int) -> tuple[float, float]:
    """Mean and variance of the byte entropy of ``length`` uniform random bytes.

    ``H = 8 - (1/N) * sum over the 256 values of D(X)`` with ``m = N/256`` and
    ``D(x) = x log2(x/m) - (x - m)/ln 2``, since the counts X add up to N. Each X is
    binomial(N, 1/256) and two of them together are multinomial, so both moments are finite
    sums, computed as such below 16,384 bytes (counts of probability under 1e-18 are left
    out). From there on two terms of the mean's expansion and the variance of the chi-square
    that 2 N ln 2 (8 - H) approaches; where they meet, the band's ends differ by 1.2e-5 bits.
    """
    if length == 1:
        return 0.0, 0.0
    if length >= _EXACT_BELOW:
        unit = 1 / (2 * length * math.log(2))
        return 8 - 255 * unit - 65_535 * unit / (6 * length), 2 * 255 * unit**2
    count = np.arange(length + 1)
    share = _binomial(count, length, 1 / 256)
    count, share = count[share > 1e-18], share[share > 1e-18]
    term = scipy.special.kl_div(count, length / 256) / math.log(2)
    mean = float(share @ term)
    # Given the first count, the second is binomial over the bytes that are left.
    joint = share[:, None] * _binomial(count[None, :], (length - count)[:, None], 1 / 255)
    covariance = float(term @ joint @ term) - mean**2
    variance = float(share @ term**2) - mean**2
    total = 256 * variance + 256 * 255 * covariance
    return 8 - 256 * mean / length, total / length**2


def _binomial(k: np.ndarray, n: int | np.ndarray, p: float) -> np.ndarray:
    """Binomial probabilities; 0 where k > n."""
    with np.errstate(invalid="ignore"):
        logs = (
            scipy.special.gammaln(n + 1)
            - scipy.special.gammaln(k + 1)
            - scipy.special.gammaln(np.maximum(n - k, 0) + 1)
            + k * math.log(p)
            + (n - k) * math.log1p(-p)
        )
    return np.where(k <= n, np.exp(logs), 0.0)


def expected_byte_entropy_bits(length: int) -> float:
    """Mean byte entropy of that many uniform random bytes.

    Exact below 16,384 bytes, from there on ``8 - 255 / (2 N ln 2) - 65535 / (12 N^2 ln 2)``,
    right to 1e-6 bits. The first two terms alone, Miller and Madow's well-known correction,
    are 0.00003 too high at 16 KiB, 0.0005 at 4 KiB and 0.012 at 1 KiB (7.820 instead of
    7.809), and of no use below 256 bytes.

    Args:
        length: Bytes, at least 1.

    Returns:
        Bits per byte.

    Raises:
        ValueError: Length under 1.

    Source: Miller 1955, "Note on the bias of information estimates"; Harris 1975 for the
    next term; the exact sum follows from the definition.
    """
    if length < 1:
        raise ValueError(f"a length of {length} bytes has no entropy")
    return _byte_entropy_moments(length)[0]


@functools.lru_cache(maxsize=4096)
def byte_entropy_band_bits(length: int, share: float = 0.999) -> tuple[float, float]:
    """Where the byte entropy of random bytes of this length lies, nearly always.

    The distance from the greatest possible entropy is taken as gamma distributed with
    the exact mean and variance; for long data this is the chi-square of the likelihood
    ratio test. In simulations of 64 to 65,536 bytes at most 1 in 1,000 fell below the
    0.999 band. Under 256 bytes the entropy takes few values and the upper end is simply
    log2(length), which all-different bytes reach.

    Args:
        length: Bytes, at least 1.
        share: Of random strings that lie inside; half of the rest lies on each side.

    Returns:
        Lower and upper end in bits per byte. With the default 1 of 1,000 good
        ciphertexts lies outside: a single one is no alarm, many are.

    Raises:
        ValueError: Length under 1, or share not between 0 and 1.

    Source: Wilks 1938 for the limit.
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share} is not between 0 and 1")
    mean = expected_byte_entropy_bits(length)
    variance = _byte_entropy_moments(length)[1]
    top = math.log2(min(length, 256))
    tail = (1 - share) / 2
    gap = top - mean
    if length == 1:  # one byte has no entropy, and no spread
        return 0.0, 0.0
    form, scale = gap**2 / variance, variance / gap
    low = top - float(scipy.special.gammaincinv(form, 1 - tail)) * scale
    high = top - float(scipy.special.gammaincinv(form, tail)) * scale if length >= 256 else top
    # Entropy is never negative; the approximation may be for two or three bytes.
    return max(low, 0.0), high


class ChiSquare(NamedTuple):
    """Statistic with 255 degrees of freedom, and the share of random data above it."""

    statistic: float
    p_value: float


def chi_square_uniformity(data: Data) -> ChiSquare:
    """Pearson's test that all 256 byte values are equally frequent.

    Random bytes give a p-value that is itself uniform between 0 and 1: one in a hundred
    good ciphertexts is under 0.01. Images give 0.

    Raises:
        ValueError: Under 1,280 bytes, where the test says nothing.

    Source: Pearson 1900; Cochran 1954 for the least expected count of five.
    """
    counts = byte_histogram(data)
    total = int(counts.sum())
    if total < CHI_SQUARE_MIN_BYTES:
        raise ValueError(f"{total} bytes are too few: chi-square needs {CHI_SQUARE_MIN_BYTES}")
    expected = total / 256
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return ChiSquare(statistic, float(scipy.special.chdtrc(255, statistic)))


#: Steps (rows, columns) from a value to its neighbour.
NEIGHBOURS = {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1)}


def neighbour_correlation(values: Data, direction: str = "horizontal") -> float:
    """Pearson correlation of each value with its neighbour.

    Args:
        values: Bytes or shape (N,), where the next one is the neighbour, or shape (H, W).
        direction: ``horizontal``, ``vertical`` or ``diagonal``; bytes have only the first.

    Returns:
        -1 to 1; NaN where the values are constant. n random pairs give 0 with a standard
        deviation of 1/sqrt(n); pictures give more than 0.9.

    Raises:
        ValueError: More than two dimensions, no pair of neighbours, or no such direction.
    """
    if direction not in NEIGHBOURS:
        raise ValueError(f"direction {direction!r} is not one of {', '.join(NEIGHBOURS)}")
    array = values if isinstance(values, np.ndarray) else np.frombuffer(values, np.uint8)
    if array.ndim > 2:
        raise ValueError(f"expected shape (N,) or (H, W), found {array.shape}")
    grid = np.atleast_2d(array)
    down, right = NEIGHBOURS[direction]
    height, width = grid.shape
    if height <= down or width <= right:
        raise ValueError(f"shape {array.shape} has no {direction} neighbours")
    a = grid[: height - down, : width - right].astype(np.float64).ravel()
    b = grid[down:, right:].astype(np.float64).ravel()
    a -= a.mean()
    b -= b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


class Difference(NamedTuple):
    """How two byte strings of one length differ, in percent; ideals for random ones."""

    npcr_percent: float  # 99.609375
    uaci_percent: float  # 33.4635
    bits_percent: float  # 50


def difference(a: bytes, b: bytes) -> Difference:
    """NPCR, UACI and share of differing bits of two byte strings.

    NPCR (number of pixels change rate) is the share of positions that differ. UACI
    (unified average changing intensity) is the mean of ``|a - b| / 255``.

    Raises:
        ValueError: Empty or of different length.

    Source: Wu, Noonan, Agaian 2011, "NPCR and UACI randomness tests for image encryption".
    """
    if not a or len(a) != len(b):
        raise ValueError(f"cannot compare {len(a)} with {len(b)} bytes")
    first, second = np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)
    distance = np.abs(first.astype(np.int16) - second.astype(np.int16))
    return Difference(
        npcr_percent=100 * float(np.count_nonzero(distance)) / len(a),
        uaci_percent=100 * float(distance.mean()) / 255,
        bits_percent=100 * float(np.bitwise_count(first ^ second).sum()) / (8 * len(a)),
    )


def npcr_lowest_percent(length: int, significance: float = 0.001) -> float:
    """NPCR that independent random strings fall below with this probability.

    Source: Wu, Noonan, Agaian 2011, equation 12 (normal approximation of the binomial).
    """
    spread = 100 * math.sqrt(255 / length) / 256
    return NPCR_IDEAL_PERCENT + float(scipy.special.ndtri(significance)) * spread


def uaci_band_percent(length: int, significance: float = 0.001) -> tuple[float, float]:
    """UACI between which independent random strings lie, but for this probability.

    Source: Wu, Noonan, Agaian 2011, equations 15 to 17.
    """
    top = 255
    variance = (top + 2) * (top**2 + 2 * top + 3) / (18 * (top + 1) ** 2 * top * length)
    reach = -float(scipy.special.ndtri(significance / 2)) * 100 * math.sqrt(variance)
    return UACI_IDEAL_PERCENT - reach, UACI_IDEAL_PERCENT + reach


def plaintext_sensitivity(
    encrypt: Callable[[bytes], bytes], plaintext: bytes, bit: int = 0
) -> Difference:
    """What changes in the whole ciphertext when one bit of the plaintext does.

    ``encrypt`` is called twice as it is used in earnest, so with a fresh IV each time:
    the figure is about a whole fresh encryption. With one and the same IV, CBC spreads a
    change forward only, and NPCR depends on where the bit was.

    Args:
        encrypt: Plaintext to ciphertext, without header.
        plaintext: Not empty.
        bit: Which bit is flipped, counted from the lowest bit of the first byte.
    """
    return difference(encrypt(plaintext), encrypt(_flipped(plaintext, bit)))


def key_sensitivity(
    encrypt: Callable[[bytes, bytes], bytes], key: bytes, plaintext: bytes, bit: int = 0
) -> Difference:
    """What changes in the ciphertext when one bit of the key does.

    Args:
        encrypt: Key and plaintext to ciphertext, with one and the same IV on both calls;
            with fresh IVs everything differs even under equal keys.
        bit: Which bit of the key is flipped, counted from the lowest of its first byte.
    """
    return difference(encrypt(key, plaintext), encrypt(_flipped(key, bit), plaintext))


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)

"""Ciphertext figures against closed forms, SciPy, simulation and real AES."""

from __future__ import annotations

import math
import os
from collections import Counter

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.padding import PKCS7
from scipy import stats

from engine import metrics
from engine.measure.randomness_tests import byte_histogram


def aes_cbc(key: bytes, iv: bytes, plaintext: bytes) -> bytes:
    padder, encryptor = PKCS7(128).padder(), Cipher(AES256(key), modes.CBC(iv)).encryptor()
    padded = padder.update(plaintext) + padder.finalize()
    return encryptor.update(padded) + encryptor.finalize()


def counted_entropy(data: bytes) -> float:
    """Shannon's formula spelled out, without NumPy."""
    return -sum(c / len(data) * math.log2(c / len(data)) for c in Counter(data).values())


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        (b"\x07" * 100, 0.0),  # one value tells nothing
        (b"\x00\xff" * 50, 1.0),  # a fair coin
        (b"\x00\x00\x00\x01", 2 - 0.75 * math.log2(3)),  # 3:1
        (bytes(range(256)), 8.0),  # all values once
        (b"a", 0.0),
    ],
)
def test_byte_entropy_is_what_shannon_says(data, bits):
    assert metrics.byte_entropy_bits(data) == pytest.approx(bits, abs=1e-12)
    assert str(metrics.byte_entropy_bits(data))[0] != "-"


def test_byte_entropy_counts_every_byte_of_odd_lengths_and_large_arrays():
    rng = np.random.default_rng(1)
    for length in (1, 2, 3, 257, (1 << 20) - 1, (1 << 20) + 3):
        data = rng.normal(100, 9, length).astype(np.uint8).tobytes()
        counts = Counter(data)
        assert byte_histogram(data).tolist() == [counts[v] for v in range(256)]
        assert metrics.byte_entropy_bits(data) == pytest.approx(counted_entropy(data))


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i2", "<u4"])
def test_byte_entropy_of_an_array_is_that_of_its_bytes_however_it_lies_in_memory(dtype):
    rng = np.random.default_rng(2)
    frames = rng.integers(0, 100, (3, 20, 31)).astype(dtype)
    expected = counted_entropy(frames.tobytes())
    assert metrics.byte_entropy_bits(frames) == pytest.approx(expected)
    assert metrics.byte_entropy_bits(frames[:, ::-1, ::-1]) == pytest.approx(expected)
    part = frames[1:, 3:9, 4:20]
    assert metrics.byte_entropy_bits(part) == pytest.approx(counted_entropy(part.tobytes()))


def test_byte_entropy_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing"):
        metrics.byte_entropy_bits(b"")


@pytest.mark.parametrize(
    ("length", "bits"),
    [
        (1, 0.0),
        (2, 255 / 256),  # 1 bit unless both bytes are equal
        # three different: log2 3; two equal: log2 3 - 2/3; all equal: 0
        (
            3,
            (255 * 254 * math.log2(3) + 3 * 255 * (math.log2(3) - 2 / 3)) / 256**2,
        ),
    ],
)
def test_expected_entropy_of_few_bytes_is_the_mean_over_all_of_them(length, bits):
    assert metrics.expected_byte_entropy_bits(length) == pytest.approx(bits, abs=1e-12)


@pytest.mark.parametrize("length", [16, 100, 256, 1024, 4096, 30_000])
def test_expected_entropy_and_band_hold_in_simulation(length):
    rng = np.random.default_rng(length)
    rounds = 8000 if length < 5000 else 2000
    counts = rng.multinomial(length, [1 / 256] * 256, size=rounds)
    entropies = stats.entropy(counts, base=2, axis=1)
    error = entropies.std() / math.sqrt(rounds)
    assert abs(entropies.mean() - metrics.expected_byte_entropy_bits(length)) < 4 * error
    low, high = metrics.byte_entropy_band_bits(length)
    assert np.count_nonzero(entropies < low) <= rounds * 0.0015
    assert np.count_nonzero(entropies > high + 1e-12) <= rounds * 0.0025
    # ... and the band is no wider than it must be: half of it does not hold them.
    middle = metrics.expected_byte_entropy_bits(length)
    assert np.mean((entropies < middle - (middle - low) / 4) | (entropies > high)) > 0.05


def test_the_usual_approximation_holds_for_long_data_only():
    def usual(n: int) -> float:
        return 8 - 255 / (2 * n * math.log(2))

    for length, error in ((1024, 0.0117), (4096, 0.0005), (16_384, 0.00003), (10**7, 0)):
        found = usual(length) - metrics.expected_byte_entropy_bits(length)
        assert found == pytest.approx(error, rel=0.1, abs=1e-9)


def test_exact_and_long_formula_of_the_band_meet():
    exact, expansion = (metrics.expected_byte_entropy_bits(n) for n in (16_383, 16_384))
    slope = 255 / (2 * 16_384**2 * math.log(2))
    assert expansion - exact == pytest.approx(slope, abs=5e-7)
    below, above = (
        metrics.byte_entropy_band_bits(16_383),
        metrics.byte_entropy_band_bits(16_384),
    )
    assert below == pytest.approx(above, abs=1.3e-5)
    long = metrics.byte_entropy_band_bits(10**7)
    ends = stats.chi2.ppf([0.9995, 0.0005], 255) / (2 * 10**7 * math.log(2))
    assert long == pytest.approx(tuple(8 - ends), abs=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 17, 255, 256, 257])
def test_the_band_of_few_bytes_stays_within_what_is_possible(length):
    low, high = metrics.byte_entropy_band_bits(length)
    assert 0 <= low <= metrics.expected_byte_entropy_bits(length) <= high
    assert high <= math.log2(min(length, 256)) + 1e-12


def test_a_length_or_share_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="0 bytes"):
        metrics.expected_byte_entropy_bits(0)
    with pytest.raises(ValueError, match="share"):
        metrics.byte_entropy_band_bits(100, 1.0)


def test_real_ciphertext_lies_in_the_band_and_text_does_not():
    sealed = aes_cbc(os.urandom(32), os.urandom(16), b"the same sentence again. " * 400)
    low, high = metrics.byte_entropy_band_bits(len(sealed), 1 - 1e-9)
    assert low <= metrics.byte_entropy_bits(sealed) <= high
    assert metrics.byte_entropy_bits(b"the same sentence again. " * 400) < low


def test_chi_square_is_scipys():
    rng = np.random.default_rng(3)
    for data in (rng.bytes(5000), rng.normal(128, 70, 5000).astype(np.uint8).tobytes()):
        expected = stats.chisquare(np.bincount(np.frombuffer(data, np.uint8), minlength=256))
        found = metrics.chi_square_uniformity(data)
        assert found.statistic == pytest.approx(expected.statistic)
        assert found.p_value == pytest.approx(expected.pvalue)


def test_chi_square_p_values_of_ciphertext_are_uniform_and_those_of_text_are_zero():
    key = bytes(range(32))
    p_values = [
        metrics.chi_square_uniformity(aes_cbc(key, bytes([i, *[0] * 15]), bytes(4096))).p_value
        for i in range(200)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4
    assert metrics.chi_square_uniformity(b"plain text " * 500).p_value == 0


def test_chi_square_refuses_data_that_is_too_short_to_say_anything():
    with pytest.raises(ValueError, match="1280"):
        metrics.chi_square_uniformity(bytes(1279))
    assert metrics.chi_square_uniformity(bytes(range(256)) * 5) == (0.0, 1.0)


def test_neighbour_correlation_is_pearsons():
    rng = np.random.default_rng(4)
    smooth = np.cumsum(rng.normal(0, 9, (40, 50)), axis=1).astype(np.int16)
    pairs = {
        "horizontal": (smooth[:, :-1], smooth[:, 1:]),
        "vertical": (smooth[:-1], smooth[1:]),
        "diagonal": (smooth[:-1, :-1], smooth[1:, 1:]),
    }
    for direction, (a, b) in pairs.items():
        expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        assert metrics.neighbour_correlation(smooth, direction) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (bytes(range(100)), 1.0),  # a ramp
        (b"\x00\xff" * 50, -1.0),  # a saw
        (np.array([[1, 2], [3, 4]]), 1.0),  # rows are not joined end to end
    ],
)
def test_neighbour_correlation_of_plain_cases(values, expected):
    assert metrics.neighbour_correlation(values) == pytest.approx(expected)


def test_neighbour_correlation_is_nothing_for_constants_and_near_zero_for_ciphertext():
    assert math.isnan(metrics.neighbour_correlation(bytes(100)))
    sealed = aes_cbc(bytes(32), bytes(16), bytes(100_000))
    assert abs(metrics.neighbour_correlation(sealed)) < 5 / math.sqrt(len(sealed))


@pytest.mark.parametrize(
    ("values", "direction", "message"),
    [
        (b"abc", "upwards", "not one of"),
        (b"abc", "vertical", "no vertical"),
        (np.zeros((2, 2, 2)), "horizontal", "expected shape"),
        (b"a", "horizontal", "no horizontal"),
    ],
)
def test_neighbour_correlation_refuses_what_has_no_neighbours(values, direction, message):
    with pytest.raises(ValueError, match=message):
        metrics.neighbour_correlation(values, direction)


def test_difference_by_hand():
    # 1 of 4 positions differs; |0 - 255| / 255 = 1, over 4; 8 of 32 bits
    found = metrics.difference(b"\x00abc", b"\xffabc")
    assert found == (25.0, 25.0, 25.0)
    # |1 - 2| = 1 twice over 2 bytes; bits 01 and 10 differ in two places
    assert metrics.difference(b"\x01\x02", b"\x02\x01") == pytest.approx((100, 100 / 255, 25))
    assert metrics.difference(b"same", b"same") == (0, 0, 0)


def test_difference_refuses_lengths_that_do_not_match():
    with pytest.raises(ValueError, match="3 with 4"):
        metrics.difference(b"abc", b"abcd")
    with pytest.raises(ValueError, match="0 with 0"):
        metrics.difference(b"", b"")


def test_ideals_are_the_means_over_all_pairs_of_bytes():
    a, b = np.divmod(np.arange(65_536), 256)
    assert np.mean(a != b) * 100 == pytest.approx(metrics.NPCR_IDEAL_PERCENT)
    assert np.mean(np.abs(a - b)) / 255 * 100 == pytest.approx(metrics.UACI_IDEAL_PERCENT)
    assert pytest.approx(99.6094, abs=5e-5) == metrics.NPCR_IDEAL_PERCENT
    assert pytest.approx(33.4635, abs=5e-5) == metrics.UACI_IDEAL_PERCENT


def test_limits_of_npcr_and_uaci_are_those_of_the_paper():
    # Wu et al. 2011, tables for a 256 x 256 picture of 8 bits
    for significance, npcr, low, high in (
        (0.05, 99.5693, 33.2824, 33.6447),
        (0.01, 99.5527, 33.2255, 33.7016),
        (0.001, 99.5341, 33.1594, 33.7677),
    ):
        assert metrics.npcr_lowest_percent(65_536, significance) == pytest.approx(npcr, abs=6e-5)
        assert metrics.uaci_band_percent(65_536, significance) == pytest.approx(
            (low, high), abs=6e-5
        )


def test_a_fresh_encryption_changes_wholly_when_one_bit_does():
    def fresh(plaintext: bytes) -> bytes:
        return aes_cbc(bytes(32), os.urandom(16), plaintext)

    found = metrics.plaintext_sensitivity(fresh, bytes(65_536), bit=8 * 40_000)
    length = 65_552
    low, high = metrics.uaci_band_percent(length, 1e-9)
    assert found.npcr_percent > metrics.npcr_lowest_percent(length, 1e-9)
    assert low < found.uaci_percent < high
    assert found.bits_percent == pytest.approx(50, abs=0.5)


def test_a_reused_iv_shows_in_npcr():
    def reused(plaintext: bytes) -> bytes:
        return aes_cbc(bytes(32), bytes(16), plaintext)

    found = metrics.plaintext_sensitivity(reused, bytes(65_536), bit=8 * 32_768)
    assert found.npcr_percent == pytest.approx(49.8, abs=0.3)  # forward only


def test_one_bit_of_the_key_changes_half_of_the_bits():
    def encrypt(key: bytes, plaintext: bytes) -> bytes:
        return aes_cbc(key, bytes(16), plaintext)

    for bit in (0, 100, 255):
        found = metrics.key_sensitivity(encrypt, bytes(32), bytes(65_536), bit)
        assert found.bits_percent == pytest.approx(50, abs=0.5)
        assert found.npcr_percent > metrics.npcr_lowest_percent(65_552, 1e-9)


def test_a_cipher_that_ignores_its_key_is_found_out():
    found = metrics.key_sensitivity(lambda key, text: text, bytes(32), b"plain")
    assert found == (0, 0, 0)

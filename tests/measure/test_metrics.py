"""One image before and after sealing, figure by figure."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from engine import metrics
from engine.records import Region


def image(frames: int = 3, height: int = 120, width: int = 160) -> np.ndarray:
    """12 bits stored in 16, from dark to bright with noise."""
    rng = np.random.default_rng(8)
    ramp = np.linspace(500, 3000, width)
    return (ramp + rng.normal(0, 80, (frames, height, width))).astype(np.uint16)


def rendered(pixels: np.ndarray) -> np.ndarray:
    return np.repeat((pixels[0] >> 4).astype(np.uint8)[..., None], 3, axis=2)


REGIONS = [Region(10, 10, 60, 30), Region(40, 20, 100, 50, 0, 2), Region(0, 100, 20, 120, 2)]


def sealed_image() -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    original = image()
    masked = original.copy()
    for region in REGIONS:
        masked[region.slices] = 700
    rng = np.random.default_rng(9)
    return original, masked, [rng.bytes(2000), rng.bytes(7000), rng.bytes(900)]


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        (np.full((4, 4), 77, np.uint8), 0.0),
        (np.array([[0, 65535]], np.uint16), 1.0),
        (np.array([-1, 0, 1, 2], np.int16), 2.0),
        (np.array([-1, -1, 5, 5], np.int8), 1.0),
        (np.array([[10**9, 3, 3, 10**9]], np.int32), 1.0),
        (np.arange(65536).astype(">u2").reshape(4, 128, 128), 16.0),
        (np.arange(256, dtype=np.uint8).reshape(16, 16).T, 8.0),
    ],
)
def test_entropy_counts_stored_values(values, bits):
    assert metrics.entropy_bits(values) == pytest.approx(bits, abs=1e-12)


def test_entropy_is_shannons_sum():
    values = image()
    _, counts = np.unique(values, return_counts=True)
    shares = counts / counts.sum()
    assert metrics.entropy_bits(values) == pytest.approx(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.zeros((0, 3), np.uint8)])
def test_entropy_of_nothing_countable_is_refused(wrong):
    with pytest.raises(ValueError, match=r"integers|nothing"):
        metrics.entropy_bits(wrong)


def test_masked_share_counts_each_pixel_once_over_all_frames():
    plane = np.zeros((3, 120, 160), bool)
    for region in REGIONS:
        plane[region.slices] = True
    assert metrics.masked_share(REGIONS, 3, 120, 160) == pytest.approx(plane.mean(), abs=1e-15)
    assert metrics.masked_share([], 3, 120, 160) == 0
    assert metrics.masked_share([Region(0, 0, 160, 120, 0, 3)], 3, 120, 160) == 1


@pytest.mark.parametrize(
    "outside", [Region(150, 0, 161, 5), Region(0, 119, 5, 121), Region(0, 0, 5, 5, 2, 4)]
)
def test_a_box_that_reaches_out_of_the_image_is_refused(outside):
    with pytest.raises(ValueError, match="not within"):
        metrics.masked_share([outside], 3, 120, 160)


def test_assessment_holds_what_each_definition_gives():
    original, masked, sealed = sealed_image()
    before, after = rendered(original), rendered(masked)
    found = metrics.assess(original, masked, sealed, REGIONS, before, after)
    together = b"".join(sealed)
    assert found.entropy_original_bits == metrics.byte_entropy_bits(original.tobytes())
    assert found.entropy_masked_bits == metrics.byte_entropy_bits(masked.tobytes())
    assert found.entropy_sealed_bits == pytest.approx(metrics.byte_entropy_bits(together))
    assert found.entropy_sealed_expected_bits == metrics.expected_byte_entropy_bits(9900)
    assert (
        found.entropy_sealed_low_bits,
        found.entropy_sealed_high_bits,
    ) == metrics.byte_entropy_band_bits(9900)
    assert found.entropy_sealed_low_bits < found.entropy_sealed_bits
    assert found.ssim == metrics.ssim(before, after) < 1
    assert found.psnr_db == metrics.psnr_db(before, after) < 60
    assert found.histogram_correlation == metrics.histogram_correlation(before, after)
    assert found.fingerprint == metrics.fingerprint(before)
    assert found.average_hash_distance_bits == metrics.hash_distance_bits(
        metrics.average_hash(before), metrics.average_hash(after)
    )
    assert found.perceptual_hash_distance_bits == metrics.hash_distance_bits(
        metrics.perceptual_hash(before), metrics.perceptual_hash(after)
    )
    assert found.masked_share == metrics.masked_share(REGIONS, 3, 120, 160)


def test_assessment_measures_every_region_on_its_own():
    original, masked, sealed = sealed_image()
    found = metrics.assess(
        original, masked, sealed, REGIONS, rendered(original), rendered(masked)
    ).regions
    assert [r["area_px"] for r in found] == [1000, 1800, 400]
    assert [r["frames"] for r in found] == [1, 2, 1]
    for row, region, data in zip(found, REGIONS, sealed, strict=True):
        assert row["sealed_bytes"] == len(data)
        under = original[region.slices].tobytes()
        assert row["entropy_before_bits"] == pytest.approx(metrics.byte_entropy_bits(under))
        assert row["entropy_after_bits"] == metrics.byte_entropy_bits(data)
        assert row["expected_bits"] == metrics.expected_byte_entropy_bits(len(data))
        assert row["expected_low_bits"] < row["expected_bits"] < row["expected_high_bits"]


def test_an_image_without_regions_has_no_sealed_entropy():
    original = image()
    found = metrics.assess(original, original, [], [], rendered(original), rendered(original))
    for value in (
        found.entropy_sealed_bits,
        found.entropy_sealed_expected_bits,
        found.entropy_sealed_low_bits,
        found.entropy_sealed_high_bits,
    ):
        assert math.isnan(value)
    assert (found.ssim, found.psnr_db, found.masked_share) == (1, math.inf, 0)
    assert found.regions == ()


def test_assessment_refuses_what_does_not_belong_together():
    original, masked, sealed = sealed_image()
    picture = rendered(original)
    with pytest.raises(ValueError, match="equal pixels"):
        metrics.assess(original, masked[:2], sealed, REGIONS, picture, picture)
    with pytest.raises(ValueError, match="sealed bytes of 2"):
        metrics.assess(original, masked, sealed[:2], REGIONS, picture, picture)
    with pytest.raises(ValueError, match="not within"):
        metrics.assess(original, masked, [b"x"], [Region(0, 0, 161, 5)], picture, picture)
    with pytest.raises(ValueError, match="equal shapes"):
        metrics.assess(original, masked, sealed, REGIONS, picture, picture[1:])


def test_many_frames_need_no_more_memory_than_one():
    original = image(frames=60, height=500, width=500)
    masked = original.copy()
    picture = rendered(original)
    tracemalloc.start()
    metrics.assess(original, masked, [], [], picture, picture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert original.nbytes == 30_000_000
    assert peak < 15_000_000

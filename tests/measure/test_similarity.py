"""Similarity against closed forms, OpenCV, scikit-image on whole pictures and PIL."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from PIL import Image as Picture
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from engine import metrics


def scene(height: int = 300, width: int = 421, seed: int = 5) -> np.ndarray:
    """A smooth colour picture with some noise, uint8."""
    rng = np.random.default_rng(seed)
    picture = gaussian_filter(rng.normal(0, 1, (height, width, 3)), (9, 9, 0))
    picture = 128 + 40 * picture / picture.std() + rng.normal(0, 4, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def masked(picture: np.ndarray) -> np.ndarray:
    changed = picture.copy()
    changed[20:60, 30:200] = 90
    changed[250:, 380:] = 91
    return changed


def wang(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 13 of the paper for every whole 11 x 11 window, by OpenCV."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    kernel = cv2.getGaussianKernel(11, 1.5)

    def mean(v: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(v, cv2.CV_64F, kernel, kernel)[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    top = (2 * mx * my + c1) * (2 * vxy + c2)
    return float((top / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


@pytest.mark.parametrize("shape", [(300, 421), (138, 138), (139, 266), (11, 300), (64, 11)])
def test_ssim_in_tiles_is_ssim_of_the_whole(shape):
    a = scene(*shape)
    b = masked(a) if min(shape) > 60 else a[::-1].copy()
    whole = structural_similarity(
        a, b, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert metrics.ssim(a, b) == pytest.approx(whole, abs=1e-12)
    grey = a[..., 0], b[..., 0]
    assert metrics.ssim(*grey) == pytest.approx(wang(*grey), abs=1e-9)


def test_ssim_of_grey_as_three_channels_is_that_of_one():
    a = scene()[..., 0]
    b = masked(a)
    three = np.repeat(a[..., None], 3, axis=2), np.repeat(b[..., None], 3, axis=2)
    assert metrics.ssim(*three) == metrics.ssim(a, b) < 1


def test_ssim_of_constants_is_the_luminance_term():
    # without variance: (2 * 100 * 150 + c1) / (100^2 + 150^2 + c1), c1 = 6.5025
    a, b = np.full((40, 40), 100, np.uint8), np.full((40, 40), 150, np.uint8)
    expected = (2 * 100 * 150 + 6.5025) / (100**2 + 150**2 + 6.5025)
    assert metrics.ssim(a, b) == pytest.approx(expected)
    assert metrics.ssim(a[:5, :3], b[:5, :3]) == pytest.approx(expected)


def test_ssim_of_a_tiny_picture_is_one_window():
    a = np.array([[0, 255], [255, 0]], np.uint8)
    # means 127.5, variances 16256.25, covariance -16256.25: c2 = 58.5225
    expected = (-2 * 16256.25 + 58.5225) / (2 * 16256.25 + 58.5225)
    assert metrics.ssim(a, 255 - a) == pytest.approx(expected)
    assert metrics.ssim(a, a) == 1


def test_equal_pictures_are_alike_in_every_way():
    a = scene()
    assert metrics.ssim(a, a.copy()) == 1
    assert metrics.psnr_db(a, a.copy()) == math.inf
    assert metrics.histogram_correlation(a, a.copy()) == pytest.approx(1, abs=1e-12)
    assert metrics.fingerprint(a) == metrics.fingerprint(a.copy())


def test_psnr_by_hand_and_by_opencv():
    a = np.zeros((10, 10), np.uint8)
    b = a.copy()
    b[0, 0] = 255  # mean square 650.25: 255^2 / 650.25 = 100
    assert metrics.psnr_db(a, b) == pytest.approx(20)
    assert metrics.psnr_db(a, ~a) == 0  # the greatest difference there is
    c = scene()
    assert metrics.psnr_db(c, masked(c)) == pytest.approx(cv2.PSNR(c, masked(c)))


def test_colour_histogram_counts_eight_levels_per_bin():
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 0] = (7, 8, 255)
    red, green, blue = np.reshape(metrics.colour_histogram(picture), (3, 32)) * 12
    assert red[0] == pytest.approx(4)  # 7 is still in the first bin
    assert green[:2] == pytest.approx([3, 1])  # 8 is in the second
    assert (blue[0], blue[31]) == pytest.approx((3, 1))
    assert sum(metrics.colour_histogram(scene())) == pytest.approx(1)


def test_colour_histogram_of_grey_is_that_of_three_equal_channels():
    grey = scene()[..., 1]
    three = np.repeat(grey[..., None], 3, axis=2)
    assert metrics.colour_histogram(grey) == metrics.colour_histogram(three)


def test_histogram_correlation_is_opencvs():
    a = scene()
    b = masked(a)

    def histogram(picture: np.ndarray) -> np.ndarray:
        parts = [cv2.calcHist([picture], [c], None, [32], [0, 256]) for c in range(3)]
        return np.concatenate(parts).astype(np.float32)

    expected = cv2.compareHist(histogram(a), histogram(b), cv2.HISTCMP_CORREL)
    assert metrics.histogram_correlation(a, b) == pytest.approx(expected, abs=1e-6)
    assert metrics.histogram_correlation(a, b) < 1


def test_histogram_correlation_of_opposites_is_negative_and_of_flat_ones_undefined():
    dark = np.tile(np.arange(128, dtype=np.uint8), (4, 1))
    assert metrics.histogram_correlation(dark, dark + 128) == pytest.approx(-1)
    flat = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert math.isnan(metrics.histogram_correlation(flat, flat))


def test_average_hash_by_hand():
    picture = np.zeros((80, 80, 3), np.uint8)
    picture[:40] = 255  # the upper 4 of 8 rows are bright
    assert metrics.average_hash(picture) == "ffffffff00000000"
    picture[:, 40:] = 0  # ... and now only their left half
    assert metrics.average_hash(picture) == "f0f0f0f000000000"


def test_perceptual_hash_is_the_sign_of_low_frequencies():
    picture = scene()
    small = np.asarray(Picture.fromarray(picture).convert("L").resize((32, 32), 1), float)
    low = dctn(small, type=2)[:8, :8]
    bits = "".join("1" if v else "0" for v in (low > np.median(low)).ravel())
    assert metrics.perceptual_hash(picture) == f"{int(bits, 2):016x}"


def test_hashes_of_any_size_are_sixteen_digits():
    for shape in ((1, 1), (3, 500), (640, 480, 3)):
        picture = np.zeros(shape, np.uint8)
        assert len(metrics.average_hash(picture)) == len(metrics.perceptual_hash(picture)) == 16


@pytest.mark.parametrize(
    ("a", "b", "bits"),
    [
        ("0" * 16, "0" * 16, 0),
        ("0" * 16, "f" * 16, 64),
        ("0" * 15 + "1", "0" * 15 + "6", 3),  # 0001 and 0110
    ],
)
def test_hash_distance_counts_bits(a, b, bits):
    assert metrics.hash_distance_bits(a, b) == bits


@pytest.mark.parametrize(("a", "b"), [("0" * 15, "0" * 16), ("x" * 16, "0" * 16), ("", "")])
def test_hash_distance_refuses_what_is_no_hash(a, b):
    with pytest.raises(ValueError, match="16"):
        metrics.hash_distance_bits(a, b)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 4)), "uint8"),
        (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), "expected uint8"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), "equal shapes"),
        (np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8), "without pixels"),
    ],
)
def test_pictures_that_cannot_be_compared_are_refused(a, b, message):
    for measure in (metrics.ssim, metrics.psnr_db):
        with pytest.raises(ValueError, match=message):
            measure(a, b)

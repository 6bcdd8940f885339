"""How alike two pictures are: SSIM, PSNR, histogram correlation, perceptual hashes.

Pictures are renderings: uint8, (H, W) or (H, W, 3), with a peak of 255. Stored values of
16 bits are not compared, since their peak is a matter of opinion (12 bits in 16).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import imagehash
import numpy as np
from PIL import Image as Picture

from engine.records import Fingerprint

_PEAK = 255
_BINS = 32
_TILE_PX = 128
#: Wang's window: Gaussian, sigma 1.5, 11 x 11.
_SSIM_WINDOW_PX = 11
_GAUSSIAN = cv2.getGaussianKernel(_SSIM_WINDOW_PX, 1.5, cv2.CV_64F)
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def check_pair(a: np.ndarray, b: np.ndarray) -> None:
    """Two renderings that can be compared pixel by pixel.

    Raises:
        ValueError: Not uint8, not (H, W) or (H, W, 3), empty, or of different shapes.
    """
    for picture in (a, b):
        if picture.dtype != np.uint8 or not (
            picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
        ):
            raise ValueError(
                f"expected uint8 of shape (H, W) or (H, W, 3), found {picture.dtype}"
                f" of {picture.shape}"
            )
        if not picture.size:
            raise ValueError("a picture without pixels cannot be compared")
    if a.shape != b.shape:
        raise ValueError(f"expected equal shapes, found {a.shape} and {b.shape}")


def _tiles(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Top, bottom, left, right of each tile: bounded memory, and equal tiles cost nothing."""
    for y, x in itertools.product(range(0, height, _TILE_PX), range(0, width, _TILE_PX)):
        yield y, min(y + _TILE_PX, height), x, min(x + _TILE_PX, width)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity, as its authors defined it, at full resolution.

    Gaussian window of 11 x 11 px and sigma 1.5, K1 = 0.01, K2 = 0.03, range 255; windows
    that would reach over the edge are left out. Colour is the mean of the channels. The
    picture is worked through in tiles, on all processors, and where a window sees no
    difference its value is exactly 1 and not computed: that changes the time, not the result.

    Args:
        a: Shape (H, W) or (H, W, 3), uint8.
        b: The same shape.

    Returns:
        -1 to 1; 1 for equal pictures. With a side under 11 px there is no whole window:
        then the picture is the one window, all its pixels weighted alike.

    Raises:
        ValueError: Another type or shape.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, DOI 10.1109/TIP.2003.819861.
    The tests compare with scikit-image's ``structural_similarity``, which takes five times as long.
    """
    check_pair(a, b)
    first, second = np.atleast_3d(a), np.atleast_3d(b)
    height, width, channels = first.shape
    if min(height, width) < _SSIM_WINDOW_PX:
        return float(np.mean([_one_window(first[..., c], second[..., c]) for c in range(channels)]))
    margin = _SSIM_WINDOW_PX - 1
    rows, columns = height - margin, width - margin

    def lost(tile: tuple[int, int, int, int]) -> float:
        top, bottom, left, right = tile
        x = first[top : bottom + margin, left : right + margin]
        y = second[top : bottom + margin, left : right + margin]
        if np.array_equal(x, y):
            return 0.0
        return (1 - _tile_ssim(x, y)) * (bottom - top) * (right - left)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return float(1 - sum(pool.map(lost, _tiles(rows, columns))) / (rows * columns))


def _tile_ssim(x: np.ndarray, y: np.ndarray) -> float:
    # A grey picture rendered as RGB has three equal channels: one of them says it all.
    if x.shape[2] == 3 and all((p == p[..., :1]).all() for p in (x, y)):
        x, y = x[..., :1], y[..., :1]
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = _weighted(x), _weighted(y)
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance = _weighted(x * y) - product
    variances = _weighted(x * x + y * y) - squares
    return float(
        (
            (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
        ).mean()
    )


def _weighted(values: np.ndarray) -> np.ndarray:
    """Gaussian means of all windows that lie whole within a tile."""
    edge = _SSIM_WINDOW_PX // 2
    blurred = cv2.sepFilter2D(values, cv2.CV_64F, _GAUSSIAN, _GAUSSIAN)
    return blurred[edge:-edge, edge:-edge]


def _one_window(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = x.mean(), y.mean()
    covariance = ((x - mean_x) * (y - mean_y)).mean()
    return float(
        (2 * mean_x * mean_y + _C1)
        * (2 * covariance + _C2)
        / ((mean_x**2 + mean_y**2 + _C1) * (x.var() + y.var() + _C2))
    )


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio: ``10 log10(255^2 / mean squared difference)``.

    Args:
        a: Shape (H, W) or (H, W, 3), uint8.
        b: The same shape.

    Returns:
        Decibels over all pixels and channels; infinite where nothing differs.

    Raises:
        ValueError: Another type or shape.

    Source: ITU-T J.340.
    """
    check_pair(a, b)
    squares = 0
    for top, bottom, left, right in _tiles(*a.shape[:2]):
        x, y = a[top:bottom, left:right], b[top:bottom, left:right]
        if not np.array_equal(x, y):
            squares += int(np.square(x.astype(np.int32) - y).sum(dtype=np.int64))
    return 10 * math.log10(_PEAK**2 * a.size / squares) if squares else math.inf


def _picture(rgb: np.ndarray) -> Picture.Image:
    check_pair(rgb, rgb)
    return Picture.fromarray(np.ascontiguousarray(rgb))


def colour_histogram(rgb: np.ndarray) -> tuple[float, ...]:
    """Colour histogram: 32 bins of 8 levels for red, then green, then blue.

    Args:
        rgb: Shape (H, W, 3), or (H, W) for grey, which counts as three equal channels;
            uint8.

    Returns:
        96 shares of all counts; each colour sums to 1/3, all of them to 1.

    Source: Swain and Ballard 1991, with one axis per colour instead of a joint cube, of
    which a grey picture would fill only the diagonal.
    """
    levels = np.array(_picture(rgb).histogram(), np.float64).reshape(-1, _BINS, 256 // _BINS)
    counts = np.broadcast_to(levels.sum(axis=2), (3, _BINS)).reshape(-1)
    return tuple(float(share) for share in counts / counts.sum())


def histogram_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two pictures' :func:`colour_histogram`, over the 96 bins.

    Args:
        a: Shape (H, W, 3) or (H, W), uint8.
        b: Of any size.

    Returns:
        -1 to 1; NaN where one of them fills all bins alike, which has no correlation.

    Source: OpenCV's HISTCMP_CORREL, except that OpenCV answers 1 where it is undefined.
    """
    return share_correlation(colour_histogram(a), colour_histogram(b))


def share_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson correlation of two histograms that are there already; NaN for a flat one."""
    x, y = np.array(a) - np.mean(a), np.array(b) - np.mean(b)
    scale = math.sqrt(float(x @ x) * float(y @ y))
    # Rounding may leave the last digit over 1, which no correlation is.
    return max(-1.0, min(1.0, float(x @ y) / scale)) if scale > 1e-15 else math.nan


def average_hash(rgb: np.ndarray) -> str:
    """Which of 8 x 8 shrunken pixels are brighter than their mean, as 16 hex digits.

    Args:
        rgb: Shape (H, W, 3) or (H, W), uint8.

    Source: Krawetz 2011, "Looks like it"; ImageHash ``average_hash``.
    """
    return str(imagehash.average_hash(_picture(rgb).convert("L")))


def perceptual_hash(rgb: np.ndarray) -> str:
    """Which of the 8 x 8 lowest frequencies of a 32 x 32 cosine transform exceed their
    median, as 16 hex digits.

    Args:
        rgb: Shape (H, W, 3) or (H, W), uint8.

    Source: Krawetz 2011, "Looks like it"; ImageHash ``phash``.
    """
    return str(imagehash.phash(_picture(rgb).convert("L")))


def hash_distance_bits(a: str, b: str) -> int:
    """Bits that differ between two hashes: 0 (alike) to 64; unrelated pictures about 32.

    Raises:
        ValueError: Not 16 hex digits each.
    """
    if len(a) != 16 or len(b) != 16:
        raise ValueError("a hash is 16 hex digits")
    return (int(a, 16) ^ int(b, 16)).bit_count()


def fingerprint(rgb: np.ndarray) -> Fingerprint:
    """Colour histogram, average hash and perceptual hash (F39). Keep it sealed.

    Args:
        rgb: Shape (H, W, 3) or (H, W), uint8.
    """
    return Fingerprint(colour_histogram(rgb), average_hash(rgb), perceptual_hash(rgb))

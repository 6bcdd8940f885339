"""Metrics of an image, before and after sealing.

Every figure follows its definition exactly, without scaling, clipping or smoothing. Figures
computed from hidden pixels allow guesses of these pixels to be tested, so the caller encrypts an
:class:`Assessment` with the image's key.

The figures themselves have modules of their own, which this one gathers:
:mod:`engine.similarity`, :mod:`engine.randomness_tests`, :mod:`engine.box_metrics` and
:mod:`engine.aggregates`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from engine.aggregates import (
    ALL,
    Percentiles,
    Throughput,
    percentiles,
    suppress_small,
    throughput,
)
from engine.box_metrics import (
    PrecisionRecall,
    average_precision,
    coverage,
    false_mask_area_px,
    iou,
    precision_recall,
    union_area_px,
)
from engine.randomness_tests import (
    CHI_SQUARE_MIN_BYTES,
    NPCR_IDEAL_PERCENT,
    UACI_IDEAL_PERCENT,
    ChiSquare,
    Difference,
    byte_entropy_band_bits,
    byte_entropy_bits,
    byte_histogram,
    chi_square_uniformity,
    difference,
    expected_byte_entropy_bits,
    histogram_entropy_bits,
    key_sensitivity,
    neighbour_correlation,
    npcr_lowest_percent,
    plaintext_sensitivity,
    uaci_band_percent,
)
from engine.records import Assessment, Region
from engine.similarity import (
    average_hash,
    check_pair,
    colour_histogram,
    fingerprint,
    hash_distance_bits,
    histogram_correlation,
    perceptual_hash,
    psnr_db,
    share_correlation,
    ssim,
)

__all__ = [
    "ALL",
    "CHI_SQUARE_MIN_BYTES",
    "NPCR_IDEAL_PERCENT",
    "UACI_IDEAL_PERCENT",
    "ChiSquare",
    "Difference",
    "Percentiles",
    "PrecisionRecall",
    "Throughput",
    "assess",
    "average_hash",
    "average_precision",
    "byte_entropy_band_bits",
    "byte_entropy_bits",
    "chi_square_uniformity",
    "colour_histogram",
    "coverage",
    "difference",
    "entropy_bits",
    "expected_byte_entropy_bits",
    "false_mask_area_px",
    "fingerprint",
    "hash_distance_bits",
    "histogram_correlation",
    "iou",
    "key_sensitivity",
    "masked_share",
    "neighbour_correlation",
    "npcr_lowest_percent",
    "percentiles",
    "perceptual_hash",
    "plaintext_sensitivity",
    "precision_recall",
    "psnr_db",
    "ssim",
    "suppress_small",
    "throughput",
    "uaci_band_percent",
    "union_area_px",
]


def entropy_bits(values: np.ndarray) -> float:
    """Shannon entropy of the histogram of stored values.

    Args:
        values: Any shape, integers of up to 32 bits. Channels and frames are counted
            together; a 12-bit image in uint16 is measured as it is stored.

    Returns:
        Bits per value: 0 to 8 (uint8), 16 (uint16) or log2(values.size). Not rescaled.

    Raises:
        ValueError: Empty or not of integers.

    Source: Shannon 1948, section 6.
    """
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"expected integers, found {values.dtype}")
    if values.dtype.itemsize > 2:
        return histogram_entropy_bits(np.unique(values, return_counts=True)[1])
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    counts = np.zeros(1 << 8 * values.dtype.itemsize, np.int64)
    for frame in values if values.ndim > 1 else (values,):
        flat = np.ascontiguousarray(frame).reshape(-1)
        stored = flat.astype(flat.dtype.newbyteorder("="), copy=False).view(unsigned)
        counts += np.bincount(stored, minlength=counts.size)
    return histogram_entropy_bits(counts)


def masked_share(regions: Sequence[Region], frames: int, height: int, width: int) -> float:
    """Share of pixels under at least one box, over all frames; overlaps counted once.

    Args:
        regions: Boxes within the image.

    Returns:
        0 to 1; exact.

    Raises:
        ValueError: A box reaches out of the image.
    """
    for region in regions:
        if region.x2 > width or region.y2 > height or region.frame_end > frames:
            raise ValueError(
                f"box {region.xyxy} on frames {region.frame}..{region.frame_end} is not within"
                f" {width} x {height} px and {frames} frames"
            )
    cuts = sorted({cut for r in regions for cut in (r.frame, r.frame_end)})
    covered = sum(
        (end - start) * union_area_px([r.xyxy for r in regions if r.frame <= start < r.frame_end])
        for start, end in itertools.pairwise(cuts)
    )
    return covered / (frames * height * width)


def assess(
    original_pixels: np.ndarray,
    masked_pixels: np.ndarray,
    sealed: Sequence[bytes],
    regions: Sequence[Region],
    original_rgb: np.ndarray,
    masked_rgb: np.ndarray,
) -> Assessment:
    """Measure one image before and after sealing.

    Entropies are of all stored values; similarity is of the one rendered frame that is
    passed in, as displayed, because the peak of stored values is ambiguous (12 bits in 16).
    Similarity of other frames is not measured.

    Args:
        original_pixels: Shape (F, H, W) or (F, H, W, C), stored values.
        masked_pixels: The same shape and dtype, after masking.
        sealed: Per region what was stored for it: IV, ciphertext and tag. A readable
            header is no ciphertext and would count against it: leave it out.
        regions: Boxes as sealed (padded), in the order of ``sealed``.
        original_rgb: The rendered frame before, (H, W, 3) or (H, W), uint8.
        masked_rgb: The same frame after.

    Returns:
        Without regions the entropies of sealed data are NaN: nothing was sealed. Each
        entry of ``regions`` holds ``area_px``, ``frames``, ``sealed_bytes``,
        ``entropy_before_bits`` (stored values under the box), ``entropy_after_bits``
        (sealed bytes), ``expected_bits``, ``expected_low_bits`` and ``expected_high_bits``
        (random bytes of that length). NaN and infinity are values here: write them as
        such, or as null, never as 0.

    Raises:
        ValueError: Shapes or counts do not fit, or a box reaches out of the image.
    """
    if original_pixels.shape != masked_pixels.shape or original_pixels.dtype != masked_pixels.dtype:
        raise ValueError(
            f"expected equal pixels, found {original_pixels.dtype} of {original_pixels.shape}"
            f" and {masked_pixels.dtype} of {masked_pixels.shape}"
        )
    if len(sealed) != len(regions):
        raise ValueError(f"{len(regions)} regions, but sealed bytes of {len(sealed)}")
    check_pair(original_rgb, masked_rgb)
    frames, height, width = original_pixels.shape[:3]
    share = masked_share(regions, frames, height, width)
    histograms = [byte_histogram(data) for data in sealed]
    total = np.asarray(sum(histograms, np.zeros(256, np.int64)))
    length = int(total.sum())
    low, high = byte_entropy_band_bits(length) if length else (math.nan, math.nan)
    before, after = fingerprint(original_rgb), fingerprint(masked_rgb)
    return Assessment(
        entropy_original_bits=byte_entropy_bits(original_pixels),
        entropy_masked_bits=byte_entropy_bits(masked_pixels),
        entropy_sealed_bits=histogram_entropy_bits(total) if length else math.nan,
        entropy_sealed_expected_bits=expected_byte_entropy_bits(length) if length else math.nan,
        entropy_sealed_low_bits=low,
        entropy_sealed_high_bits=high,
        ssim=ssim(original_rgb, masked_rgb),
        psnr_db=psnr_db(original_rgb, masked_rgb),
        histogram_correlation=share_correlation(before.colour_histogram, after.colour_histogram),
        average_hash_distance_bits=hash_distance_bits(before.average_hash, after.average_hash),
        perceptual_hash_distance_bits=hash_distance_bits(
            before.perceptual_hash, after.perceptual_hash
        ),
        masked_share=share,
        fingerprint=before,
        regions=tuple(
            _region(original_pixels, region, data, counts)
            for region, data, counts in zip(regions, sealed, histograms, strict=True)
        ),
    )


def _region(
    pixels: np.ndarray, region: Region, data: bytes, counts: np.ndarray
) -> Mapping[str, float]:
    low, high = byte_entropy_band_bits(len(data))
    return {
        "area_px": region.area_px,
        "frames": region.frame_count,
        "sealed_bytes": len(data),
        "entropy_before_bits": byte_entropy_bits(pixels[region.slices]),
        "entropy_after_bits": histogram_entropy_bits(counts),
        "expected_bits": expected_byte_entropy_bits(len(data)),
        "expected_low_bits": low,
        "expected_high_bits": high,
    }

"""Front door of :mod:`engine.measure`: what the other packages use of it.

Every number that a page shows is computed behind it, by definition and unadjusted.
"""

from __future__ import annotations

from engine.geometry import coverage, iou, union_area_px
from engine.measure.aggregates import (
    Percentiles,
    Throughput,
    percentiles,
    throughput,
)
from engine.measure.assessment import (
    assess,
    entropy_bits,
    masked_share,
)
from engine.measure.box_metrics import (
    PrecisionRecall,
    average_precision,
    false_mask_area_px,
    precision_recall,
)
from engine.measure.coarse import (
    coarse_bytes,
    coarse_column,
    coarse_confidence,
    coarse_log,
    coarse_ms,
    coarse_times,
)
from engine.measure.disclosure import (
    SMALLEST_GROUP,
    kind_of_image,
    published,
)
from engine.measure.randomness_tests import (
    CHI_SQUARE_MIN_BYTES,
    NPCR_IDEAL_PERCENT,
    UACI_IDEAL_PERCENT,
    ChiSquare,
    Difference,
    byte_entropy_band_bits,
    byte_entropy_bits,
    chi_square_uniformity,
    difference,
    expected_byte_entropy_bits,
    key_sensitivity,
    neighbour_correlation,
    npcr_lowest_percent,
    plaintext_sensitivity,
    uaci_band_percent,
)
from engine.measure.similarity import (
    average_hash,
    colour_histogram,
    fingerprint,
    hash_distance_bits,
    histogram_correlation,
    perceptual_hash,
    psnr_db,
    ssim,
)

__all__ = [
    "CHI_SQUARE_MIN_BYTES",
    "NPCR_IDEAL_PERCENT",
    "SMALLEST_GROUP",
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
    "coarse_bytes",
    "coarse_column",
    "coarse_confidence",
    "coarse_log",
    "coarse_ms",
    "coarse_times",
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
    "kind_of_image",
    "masked_share",
    "neighbour_correlation",
    "npcr_lowest_percent",
    "percentiles",
    "perceptual_hash",
    "plaintext_sensitivity",
    "precision_recall",
    "psnr_db",
    "published",
    "ssim",
    "throughput",
    "uaci_band_percent",
    "union_area_px",
]

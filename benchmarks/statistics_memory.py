"""What the tables of *Statistics* hold in memory, an image.

    python -m benchmarks.statistics_memory [--images 20000]

Made-up numbers of images with three regions each, 20 images a patient, in the columns of a real
one; no database and no key stands behind them. Memory is what Python, NumPy and Arrow have
allocated: afterwards, and at its highest while the tables are made from nothing. Then one image
more is released, and they are made again.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa

from engine import Detection, Region
from engine.operations.measured_numbers import MeasuredNumbers
from engine.records import ImageState, SealedRegion
from engine.store.figures import Release

REGIONS = 3
_OF_IMAGE = (
    "entropy_original_bits", "entropy_masked_bits", "entropy_sealed_bits",
    "entropy_sealed_expected_bits", "ssim", "psnr_db", "histogram_correlation", "masked_share",
    "entropy_sealed_low_bits", "entropy_sealed_high_bits",
)  # fmt: skip
_OF_REGION = (
    "entropy_before_bits", "entropy_after_bits", "expected_bits", "expected_low_bits",
    "expected_high_bits",
)  # fmt: skip
_STAGES = (
    "decode", "detect", "read", "encrypt_draft", "store_draft", "mask", "encrypt", "prove",
    "rescan", "assess", "store",
)  # fmt: skip
_LABELS = ("text", "barcode", "face")


class Released:
    """Images that were released, as the catalog and the log would tell of them."""

    def __init__(self, images: int) -> None:
        self.images = images

    def name(self, number: int) -> str:
        return f"im_{number:024x}"

    def newest(self, _: object) -> int:
        return self.images

    def tags(self, _: object) -> dict[str, bytes]:
        return {self.name(n): n.to_bytes(32, "big") for n in range(self.images)}

    def releases(self) -> Iterator[Release]:
        for n in range(self.images):
            yield Release(self.name(n), f"pt_{n // 20:024x}", _day(n), "CT", _LABELS)

    def many(
        self, _: object, image_ids: Sequence[str]
    ) -> Iterator[tuple[SimpleNamespace, list[SealedRegion]]]:
        for image_id in image_ids:
            number = int(image_id[3:], 16)
            yield (
                SimpleNamespace(
                    image_id=image_id, version=1, state=ImageState.RELEASED, modality="CT",
                    format="DICOM", profile="general", uploaded_at=_day(number), confidence=0.75,
                    region_count=REGIONS, stored_bytes=6_000_000 + number, times_ms={},
                    tag=number.to_bytes(32, "big"),
                ),
                [
                    SealedRegion("rg", Detection(Region(0, 0, 8, 8), label, 0.75), 7000, 1.0)
                    for label in _LABELS
                ],
            )  # fmt: skip

    def facts(self, _: object, row: SimpleNamespace) -> dict[str, Any]:
        some = random.Random(row.image_id)
        return {
            "assessment": {
                **{name: some.uniform(0.0, 8.0) for name in _OF_IMAGE},
                "average_hash_distance_bits": some.randrange(64),
                "perceptual_hash_distance_bits": some.randrange(64),
                "fingerprint": {},
                "regions": [
                    {
                        **{name: some.uniform(0.0, 8.0) for name in _OF_REGION},
                        "area_px": some.randrange(10**5), "frames": 1,
                        "sealed_bytes": some.randrange(10**5),
                    }
                    for _ in range(REGIONS)
                ],
            },
            "size_bytes": 8_000_000 + some.randrange(10**5),
            "confidences": [some.random() for _ in range(REGIONS)],
            "encrypt_ms": [some.uniform(0.1, 9.0) for _ in range(REGIONS)],
            "times_ms": {stage: some.uniform(0.1, 900.0) for stage in _STAGES},
        }  # fmt: skip


def _day(number: int) -> datetime:
    return datetime(2020, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(minutes=number)


def numbers_of(released: Released) -> MeasuredNumbers:
    context = SimpleNamespace(
        access=None,
        catalog=SimpleNamespace(released_tags=released.tags, many=released.many),
        database=SimpleNamespace(read=lambda: None),
        figures=released,
        hierarchy=SimpleNamespace(image_keys=lambda _, ids: ((i, b"") for i in ids)),
        host=SimpleNamespace(random=os.urandom),
    )
    stored = SimpleNamespace(open_facts=released.facts)
    return MeasuredNumbers(cast(Any, context), cast(Any, None), cast(Any, stored))


def _measured(what: str, images: int, work: Callable[[], object]) -> None:
    gc.collect()
    tracemalloc.reset_peak()
    began = time.process_time()
    work()
    spent = time.process_time() - began
    gc.collect()
    held, highest = (size / images for size in tracemalloc.get_traced_memory())
    arrow = pa.total_allocated_bytes() / images
    print(
        f"{what}: {spent:.1f} s of a processor (traced); bytes an image: {held + arrow:,.0f} held,"
        f" {highest + arrow:,.0f} at its highest; {arrow:,.0f} of them Arrow's, as held"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    images = parser.parse_args().images
    warm = numbers_of(Released(40))
    warm.all()  # what libraries load is no part of it
    released = Released(images)
    numbers = numbers_of(released)
    tracemalloc.start()
    _measured("from nothing", images, numbers.all)
    released.images += 1
    _measured("one image more", images, numbers.all)


if __name__ == "__main__":
    main()

"""What is looked at, and what becomes of the boxes before they are sealed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from engine.crypto.vault import encrypt, seal_field
from engine.formats import images
from engine.formats.views import View, views_of
from engine.records import Detection, Region, SealedRegion
from engine.seal import pipeline
from engine.settings import Settings
from tests import builders
from tests.fakes import FakeHost

LAST = [a + b for a in ("MU", "SCHWI", "FI", "WAGNE", "KO", "LARS", "NO", "TI") for b in
        ("LLER", "WALSKI", "N", "TO", "MEYER")]  # fmt: skip
FIRST = [a + b for a in ("Ja", "Eri", "Wilhelmi", "Li", "Od") for b in ("n", "ka", "na")]
LIMITS = images.Limits.of(Settings())


def test_a_turned_photograph_is_looked_at_upright_and_boxes_come_back() -> None:
    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[10:20, 90:110] = 255  # upper right as stored
    data = builders.pillow(pixels, "JPEG", exif=_exif(6), quality=95)
    image = images.decode("a.jpg", data, LIMITS)

    def detect(view: View) -> list[Detection]:
        picture = view.picture(0)
        assert picture.shape == (120, 80, 3)  # a quarter turn
        ys, xs = np.nonzero(picture[..., 0] > 128)
        box = Region(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        return [Detection(box, "text", 0.9, "x")]

    [found] = pipeline.look(views_of(image), detect)
    near = np.abs(np.array(found.region.xyxy) - (90, 10, 110, 20)).max()
    assert near <= 4


def _exif(orientation: int) -> bytes:
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def test_text_that_the_window_of_a_dicom_hides_is_looked_at_too() -> None:
    pixels = np.full((60, 80), 1000, np.uint16)
    pixels[20:30, 20:50] = 1500  # visible only outside the window
    pixels[0, 0] = 4000
    data = builders.dicom(pixels, bits=12, WindowCenter=100, WindowWidth=200)
    image = images.decode("a.dcm", data, LIMITS)
    seen: list[int] = []

    def detect(view: View) -> list[Detection]:
        seen.append(len(np.unique(view.picture(0))))
        return []

    pipeline.look(views_of(image), detect)
    assert seen == [3]  # the full range shows three tones; its own window is all white
    whole = builders.dicom(builders.radiograph(), WindowCenter=128, WindowWidth=256)
    plain = images.decode("b.dcm", whole, LIMITS)
    seen.clear()
    pipeline.look(views_of(plain), detect)
    assert len(seen) == 1


@pytest.mark.parametrize(("detections", "planned"), [
    # a found box is padded by 4 px at least, 4 % of the longer side
    ([Detection(Region(50, 50, 60, 60), "face", 0.9, "x")], [(46, 46, 64, 64)]),
    ([Detection(Region(50, 50, 250, 60), "face", 0.9, "x")], [(42, 42, 258, 68)]),
    # a found line of text goes out to steps of its height, 16 px along it and 4 px across
    ([Detection(Region(50, 50, 250, 60), "text", 0.9, "x")], [(32, 40, 272, 68)]),
    ([Detection(Region(50, 50, 60, 200), "text", 0.9, "x")], [(44, 32, 68, 208)]),
    # a person's box is taken as drawn
    ([Detection(Region(50, 50, 60, 60), "text", 1.0)], [(50, 50, 60, 60)]),
    # clipped at the border
    ([Detection(Region(0, 0, 10, 10), "face", 0.9, "x")], [(0, 0, 14, 14)]),
    # identifiers own their pixels before anatomy
    (
        [
            Detection(Region(0, 0, 300, 200), "thorax", 1.0),
            Detection(Region(9, 9, 20, 20), "text", 1.0),
        ],
        [(9, 9, 20, 20), (0, 0, 300, 200)],
    ),
])  # fmt: skip
def test_boxes_are_padded_clipped_and_ordered(
    detections: list[Detection], planned: list[tuple[int, int, int, int]]
) -> None:
    image = images.decode("a.png", builders.png(builders.radiograph(320, 240)), LIMITS)
    made = pipeline.plan(image, detections, 0.04, 4)
    assert [d.region.xyxy for d in made] == planned


def test_how_wide_a_hidden_line_is_tells_little_of_which_name_it_is() -> None:
    """In bits, over 600 names in a font with letters of different widths."""
    font = ImageFont.load_default(28)
    names = [f"{last}, {first}" for last in LAST for first in FIRST]
    boxes = [[round(v) for v in font.getbbox(name)] for name in names]
    found = [
        Detection(Region(40 + x1, 60 + y1, 40 + x2, 60 + y2), "text", 0.9, "net")
        for x1, y1, x2, y2 in boxes
    ]
    image = images.decode("a.png", builders.png(builders.radiograph(640, 200)), LIMITS)
    sealed = [pipeline.plan(image, [d], 0.04, 4)[0].region for d in found]
    padded = [d.region.padded(0.04, 4) for d in found]
    assert len(names) == 600
    assert _bits([r.xyxy for r in padded]) > 6
    assert _bits([r.xyxy for r in sealed]) < 3.5
    cost = sum(r.area_px for r in sealed) / sum(r.area_px for r in padded)
    assert cost < 1.6


def _bits(values: list[tuple[int, int, int, int]]) -> float:
    counts = np.array([*Counter(values).values()])
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def test_boxes_of_a_jpeg_are_rounded_out_to_its_blocks() -> None:
    colour = builders.radiograph(320, 240, colour=True)
    image = images.decode("a.jpg", builders.jpeg(colour), LIMITS)
    [made] = pipeline.plan(image, [Detection(Region(17, 17, 30, 30), "text", 1.0)], 0.04, 4)
    assert made.region.xyxy == (16, 16, 32, 32)


def test_a_container_of_version_1_still_opens_whole_and_in_part(tmp_path: Path) -> None:
    """Regions sealed patch by patch, each padded to the volume of its box."""
    host, subject = FakeHost(tmp_path), pipeline.Subject("im_old", 1, bytes(32), bytes(32))
    pixels, region = builders.labelled(width=320, height=300)
    image = images.decode("old.png", builders.png(pixels), LIMITS)
    boxes = [
        Detection(region, "text", 0.9, "net"),
        Detection(Region(100, 200, 180, 260), "thorax", 0.8, "net"),
    ]
    made = images.dissect(image, [b.region for b in boxes], subject.identity_key)
    container, regions = b"", []
    for number, (box, patch) in enumerate(zip(boxes, made.patches, strict=True)):
        identity = subject.identity(f"rg_{number}", box.label, box.region)
        sealed = encrypt(subject.key, identity, patch, host.random, subject.image_id)
        regions.append((SealedRegion(f"rg_{number}", box, len(sealed), 0.1), len(container)))
        container += sealed
    start = len(container)
    context = subject.context(pipeline.REMAINDER)
    container += seal_field(subject.key, context, made.remainder, host.random)
    assert container.startswith(b"MSEC")

    def opened(permitted: Callable[[str], bool]) -> pipeline.Restored:
        files = pipeline.SealedFiles(images.for_storage(made.masked), container, regions, start)
        original = pipeline.Original(
            "old.png", images.pixel_digest(image.pixels), hashlib.sha256(image.data).digest()
        )
        return pipeline.restore(files, original, subject, host, LIMITS, permitted)

    whole = opened(lambda label: True)
    assert (whole.image.data, whole.proof) == (image.data, "bytes")
    part = opened(lambda label: label == "thorax")
    assert part.partial
    assert np.array_equal(part.image.pixels[0, 200:260, 100:180], pixels[200:260, 100:180])
    new = pipeline.seal(image, boxes, subject, host, LIMITS)
    assert new.container.startswith(b"MSC2")
    assert len(new.container) < len(container)

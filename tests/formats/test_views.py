"""What is released was looked at in every way in which a common viewer may show it."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom.dataset import Dataset

from engine.detection import Detector
from engine.formats import dicom_view, images
from engine.formats.images import Limits
from engine.formats.views import View, views_of
from engine.records import Detection, Image, Region
from engine.seal import pipeline
from engine.settings import Settings
from tests import builders
from tests.formats.hidden_names import HIDDEN, LETTERS

LIMITS = Limits.of(Settings())
KEY = b"secret of one patient, 32 bytes."


def read(data: bytes) -> Image:
    return images.decode("any", data, LIMITS)


def contrast(picture: np.ndarray) -> float:
    """How far letters stand out from what is around them, in grey levels of 255."""
    high, wide = LETTERS.shape
    near = cv2.dilate(LETTERS.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    part = picture[:high, :wide].astype(float)
    return float(abs(part[LETTERS].mean(0) - part[near & ~LETTERS].mean(0)).max())


def seen(image: Image, frame: int) -> dict[str, float]:
    """Contrast of the name in each view that holds its frame."""
    return {
        view.name: contrast(view.picture(view.numbers.index(frame)))
        for view in views_of(image)
        if frame in view.numbers
    }


@pytest.mark.parametrize("name", HIDDEN)
def test_a_name_that_only_one_rendering_shows_is_among_what_is_looked_at(name: str) -> None:
    hidden = HIDDEN[name]
    found = seen(read(hidden.make()), hidden.frame)
    assert max(found.values()) >= 20, found
    shown = contrast(images.render(read(hidden.make()), hidden.frame))
    assert (shown >= 15) if hidden.at_first_sight else (shown < 8), found


PLAIN: dict[str, Any] = {
    "PNG grey": lambda: builders.png(builders.radiograph(400, 300)),
    "PNG RGB": lambda: builders.png(builders.radiograph(400, 300, colour=True)),
    "PNG grey 16": lambda: builders.png(builders.radiograph(400, 300, bits=16)),
    "PNG grey 12 of 16": lambda: builders.png(builders.radiograph(400, 300, bits=12)),
    "PNG RGBA, opaque": lambda: builders.png(
        np.dstack([builders.radiograph(400, 300, colour=True), np.full((300, 400), 255, np.uint8)])
    ),
    "PNG palette": lambda: builders.pillow(
        builders.radiograph(400, 300, colour=True), "PNG", "P"
    ),
    "JPEG": lambda: builders.jpeg(builders.radiograph(400, 300, colour=True)),
    "JPEG of a drawing": lambda: builders.jpeg(
        np.kron(np.indices((30, 40)).sum(0) % 2, np.ones((10, 10))).astype(np.uint8) * 255
    ),
    "TIFF": lambda: builders.pillow(builders.radiograph(400, 300), "TIFF"),
    "WebP": lambda: builders.pillow(builders.radiograph(400, 300, colour=True), "WEBP"),
    "DICOM without a window": lambda: builders.dicom(
        builders.radiograph(400, 300, bits=12), bits=12
    ),
    "DICOM at its full range": lambda: builders.dicom(
        builders.radiograph(400, 300, bits=12), bits=12, WindowCenter=2048, WindowWidth=4096
    ),
    "DICOM at two windows": lambda: builders.dicom(
        builders.radiograph(400, 300, bits=12), bits=12, WindowCenter=[2048, 2000],
        WindowWidth=[4096, 3600],
    ),
    "DICOM RGB": lambda: builders.dicom(builders.radiograph(400, 300, colour=True)),
    "DICOM cine": lambda: builders.dicom(builders.cine(colour=True)[0]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_a_picture_that_every_viewer_shows_alike_costs_one_look(name: str) -> None:
    image = read(PLAIN[name]())
    [view] = views_of(image)
    assert view.numbers == tuple(range(image.frames))


def test_only_frames_that_show_something_new_are_looked_at_again() -> None:
    hidden = HIDDEN["DICOM on the last of three frames"]
    first, other = views_of(read(hidden.make()))
    assert (first.numbers, other.numbers) == ((0, 1, 2), (2,))


def test_a_window_for_every_frame_of_a_long_film_is_no_look_for_every_frame() -> None:
    """Windows of frames that differ little are one; each frame has its own anyway."""
    displays = []
    for number in range(300):
        display = Dataset()
        display.WindowCenter, display.WindowWidth = 1000 + number / 10, 2000 - number / 10
        displays.append(display)
    assert dicom_view.distinct_windows(displays) == ((1000.0, 2000.0),)
    for number, display in enumerate(displays):
        display.WindowCenter = 1000 * number
    assert len(dicom_view.distinct_windows(displays)) == 16


def test_what_masks_show_is_nothing_new() -> None:
    """A mask has tones that another window shows otherwise; nobody has to look at it again."""
    pixels = builders.radiograph(400, 300, bits=12)
    boxes = [Region(40, 40, 200, 120)]
    pixels[boxes[0].slices[1:]] = 4095
    pixels[60:100, 60:180] = 0
    image = read(builders.dicom(pixels, bits=12, WindowCenter=100, WindowWidth=200))
    assert len(views_of(image)) > len(views_of(image, [Region(0, 0, 400, 300)])) == 1
    assert [v.name for v in views_of(image, boxes)] == ["as shown", "full range"]


CT, CAPTURED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("modality", "sop_class", "scene"),
    [("CT", CT, False), ("MR", "1.2.840.10008.5.1.4.1.1.4", False), ("CT", CAPTURED, True),
     ("CT", f"{CAPTURED}.2", True), ("CT", "1.2.3.4.5", True), ("MR", CT, True),
     ("DX", "1.2.840.10008.5.1.4.1.1.1.1", True), ("", CT, True)],
)  # fmt: skip
def test_only_sections_by_class_and_modality_show_no_scene(
    modality: str, sop_class: str, scene: bool
) -> None:
    pixels = builders.radiograph(80, 60, bits=12)
    data = builders.dicom(pixels, bits=12, modality=modality, SOPClassUID=sop_class)
    assert [view.scene for view in views_of(read(data))] == [scene]


def test_a_picture_without_a_header_may_show_a_scene() -> None:
    data = io.BytesIO()
    Pillow.new("L", (40, 30)).save(data, "PNG")
    assert [view.scene for view in views_of(read(data.getvalue()))] == [True]


def test_regions_go_into_a_view_and_come_back() -> None:
    image = read(builders.dicom(np.zeros((9, 40, 60), np.uint8)))
    view = View(image, "some frames", (2, 3, 7))
    boxes = [Region(1, 2, 30, 20, 0, 9), Region(5, 5, 9, 9, 3, 7), Region(5, 5, 9, 9, 4, 7)]
    placed = view.placed(boxes)
    assert [(r.frame, r.frame_end) for r in placed] == [(0, 3), (1, 2)]
    back = view.found([Detection(r, "text", 0.9, "net") for r in placed])
    assert [(d.region.frame, d.region.frame_end) for d in back] == [(2, 8), (3, 4)]


def exif(orientation: int) -> Any:
    block = Pillow.Exif()
    block[0x0112] = orientation
    return block


def turned(kind: str, pixels: np.ndarray, orientation: int) -> bytes:
    options: dict[str, Any] = {"exif": exif(orientation)}
    if kind == "TIFF":
        options = {"tiffinfo": {274: orientation}}
    if kind == "WEBP":
        options["lossless"] = True
    return builders.pillow(pixels, kind, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_looked_at_upright_and_its_masked_file_is_shown_upright(
    kind: str, orientation: int
) -> None:
    pixels = builders.radiograph(96, 64, colour=True)
    pixels[8:24, 56:88] = (250, 20, 20)
    image = read(turned(kind, pixels, orientation))
    assert image.properties["orientation"] == orientation
    [view] = views_of(image)
    picture = view.picture(0)
    red = (picture[..., 0] > 180) & (picture[..., 1] < 90)
    ys, xs = np.nonzero(red)
    box = Region(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    [found] = pipeline.look([view], lambda view: [Detection(box, "text", 0.9, "net")])
    assert np.abs(np.subtract(found.region.xyxy, (56, 8, 88, 24))).max() <= 2
    assert view.placed([found.region]) == [box]
    masked = images.dissect(image, [Region(48, 0, 96, 32)], KEY).masked
    assert Pillow.open(io.BytesIO(masked)).getexif().get(0x0112, 1) == orientation
    assert read(masked).properties["orientation"] == orientation


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.open(Settings())


@pytest.mark.parametrize("name", [
    "PNG RGBA black", "PNG grey 16, two far groups", "TIFF RGBA associated",
    "DICOM in an overlay under another", "DICOM on the last of three frames",
    "DICOM at the second table",
])  # fmt: skip
def test_the_networks_find_it(detector: Detector, name: str) -> None:
    hidden = HIDDEN[name]
    profile = replace(detector.profiles["general"], networks=("ppocr",), classes=("text",))
    found = pipeline.look(
        views_of(read(hidden.make())),
        lambda view: detector.detect(view.picture, view.frames, profile),
    )
    ys, xs = np.nonzero(LETTERS)
    name_box = Region(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    there = name_box.on_frames(hidden.frame)
    assert there.hidden_share([d.region for d in found if profile.seals(d)]) > 0.9


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_the_second_look_paints_masks_where_they_are(detector: Detector, orientation: int) -> None:
    """A name that is masked is not found again, however the picture is stored."""
    upright = builders.radiograph(240, 160, colour=True)
    region = builders.write_text(upright, "MUSTERFRAU ERIKA", (20, 30))
    back = {6: 8, 8: 6}.get(orientation, orientation)
    stored = images.upright(upright, back)
    data = builders.pillow(stored, "JPEG", exif=exif(orientation), quality=92)
    image = read(data)
    profile = replace(detector.profiles["general"], networks=("ppocr",), classes=("text",))
    planned = pipeline.plan(
        image,
        pipeline.look(
            views_of(image), lambda view: detector.detect(view.picture, view.frames, profile)
        ),
        0.04,
        4,
    )
    hidden = [d.region for d in planned]
    size = image.width, image.height
    assert images.from_upright(region, orientation, *size).hidden_share(hidden) > 0.9
    masked = read(images.dissect(image, hidden, KEY).masked)
    again = pipeline.look(
        views_of(masked, hidden),
        lambda view: detector.rescan(view.picture, view.frames, view.placed(hidden), profile),
    )
    assert again == []

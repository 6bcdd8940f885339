"""Overlay planes: seen by people and detectors, in no masked file, and back again."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from engine.formats import images
from engine.formats.views import View, views_of
from engine.records import Detection, Image, Region
from engine.seal import pipeline
from engine.settings import Settings
from tests import builders

LIMITS = images.Limits.of(Settings())
KEY = b"secret of one patient, 32 bytes."
BOX = [Region(0, 0, 16, 16)]


def read(data: bytes) -> Image:
    return images.decode("any.dcm", data, LIMITS)


def plane(width: int = 96, height: int = 32, text: str = "DOE JANE") -> np.ndarray:
    drawn = np.zeros((height, width), np.uint8)
    builders.write_text(drawn, text, (2, 8), scale=0.5)
    return drawn > 0


def with_overlay(
    pixels: np.ndarray, shown: np.ndarray, group: int = 0x6000, *, origin: Any = (1, 1),
    count: int = 0, first: int = 0, **attributes: Any,
) -> bytes:  # fmt: skip
    """A DICOM file with one overlay plane: shape (height, width) or (count, height, width)."""
    ds = pydicom.dcmread(io.BytesIO(builders.dicom(pixels, **attributes)))
    base = group << 16
    packed = np.packbits(shown.reshape(-1), bitorder="little").tobytes()
    ds.add_new(base | 0x0010, "US", shown.shape[-2])
    ds.add_new(base | 0x0011, "US", shown.shape[-1])
    if count:
        ds.add_new(base | 0x0015, "IS", count)
        ds.add_new(base | 0x0051, "US", first)
    ds.add_new(base | 0x0040, "CS", "G")
    ds.add_new(base | 0x0050, "SS", list(origin))
    ds.add_new(base | 0x0100, "US", 1)
    ds.add_new(base | 0x0102, "US", 0)
    ds.add_new(base | 0x3000, "OW", packed + b"\0" * (len(packed) % 2))
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def drawn(data: bytes, frame: int = 0) -> np.ndarray:
    """Which pixels look other than without their overlay."""
    image = read(data)
    plain = pydicom.dcmread(io.BytesIO(data))
    for tag in [t for t in plain.keys() if t.group >> 8 == 0x60]:  # noqa: SIM118 (no reading)
        del plain[tag]
    buffer = io.BytesIO()
    plain.save_as(buffer)
    bare = images.render(read(buffer.getvalue()), frame)
    return np.asarray((images.render(image, frame) != bare).any(axis=2))


DARK = np.full((60, 120), 9, np.uint8)
DARK[40:, 60:] = 200


@pytest.mark.parametrize("group", [0x6000, 0x601E])
def test_an_overlay_is_drawn_where_it_says(group: int) -> None:
    shown = plane()
    expected = np.zeros(DARK.shape, bool)
    expected[4:36, 9:105] = shown
    assert np.array_equal(drawn(with_overlay(DARK, shown, group, origin=(5, 10))), expected)


@pytest.mark.parametrize("origin", [(-9, -19), (40, 90), (-5, 100), (60, 120)])
def test_an_overlay_over_the_edge_is_cut_off_there(origin: tuple[int, int]) -> None:
    shown = plane()
    canvas = np.zeros((300, 400), bool)
    top, left = origin[0] - 1 + 100, origin[1] - 1 + 100
    canvas[top : top + 32, left : left + 96] = shown
    seen = drawn(with_overlay(DARK, shown, origin=origin))
    assert np.array_equal(seen, canvas[100:160, 100:220])


def test_an_overlay_on_bright_pixels_is_dark() -> None:
    shown = plane()
    picture = images.render(read(with_overlay(np.full((60, 120), 250, np.uint8), shown,
                                              WindowCenter=128, WindowWidth=256)))  # fmt: skip
    assert (picture[:32, :96][shown] == 0).all()


def test_an_overlay_of_some_frames_is_drawn_on_these() -> None:
    stack = np.stack([DARK] * 4)
    shown = np.stack([plane(text="ONE"), plane(text="TWO")])
    data = with_overlay(stack, shown, count=2, first=2)
    seen = [drawn(data, frame) for frame in range(4)]
    assert not seen[0].any()
    assert not seen[3].any()
    assert np.array_equal(seen[1][:32, :96], shown[0])
    assert np.array_equal(seen[2][:32, :96], shown[1])
    everywhere = with_overlay(stack, plane())
    assert all(drawn(everywhere, frame).any() for frame in range(4))


def test_an_overlay_in_unused_bits_is_drawn_and_does_not_spoil_the_grey() -> None:
    twelve = builders.radiograph(120, 60, bits=12)
    shown = np.zeros(twelve.shape, bool)
    shown[:32, :96] = plane()
    cells = twelve | shown.astype(np.uint16) << 13
    window = {"WindowCenter": 1000, "WindowWidth": 2000}
    data = builders.dicom(cells, bits=12, **window)
    ds = pydicom.dcmread(io.BytesIO(data))
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 13)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    seen = images.render(read(buffer.getvalue()))
    plain = images.render(read(builders.dicom(twelve, bits=12, **window)))
    assert np.array_equal(seen[~shown], plain[~shown])
    assert (seen[shown] != plain[shown]).any(axis=1).all()
    signed = builders.dicom((cells ^ 0x0800).astype(np.int16), bits=12, **window)
    assert len(np.unique(images.render(read(signed)))) > 50
    full = in_full(read(buffer.getvalue()))
    assert np.array_equal(full, in_full(read(builders.dicom(twelve, bits=12))))


def in_full(image: Image) -> np.ndarray:
    found = images.showings(image, 0)
    return next(s.picture() for s in found if s.name == "full range")


def test_two_equal_overlays_do_not_cancel_each_other() -> None:
    once = with_overlay(DARK, plane())
    ds = pydicom.dcmread(io.BytesIO(once))
    for tag in [t for t in ds.keys() if t.group == 0x6000]:  # noqa: SIM118 (no reading)
        ds.add_new(tag + 0x20000, ds[tag].VR, ds[tag].value)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    two = read(buffer.getvalue())
    assert len(two.properties["overlays"]) == 2
    assert np.array_equal(images.render(two), images.render(read(once)))


def test_an_overlay_and_what_it_covers_are_both_looked_at() -> None:
    """A filled plane over text in the pixels, and over the text of another plane."""
    flat = np.full((60, 120), 9, np.uint8)
    text = flat.copy()
    text[:32, :96][plane()] = 240
    block = np.ones((40, 110), bool)
    names = [v.name for v in views_of(read(with_overlay(text, block)))]
    assert names == ["as shown", "without overlays"]
    ds = pydicom.dcmread(io.BytesIO(with_overlay(flat, plane())))
    other = pydicom.dcmread(io.BytesIO(with_overlay(flat, block, 0x6002)))
    for tag in [t for t in other.keys() if t.group == 0x6002]:  # noqa: SIM118 (no reading)
        ds.add_new(tag, other[tag].VR, other[tag].value)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    names = [v.name for v in views_of(read(buffer.getvalue()))]
    assert names == ["as shown", "overlay 1 alone"]


def test_a_detector_sees_the_text_of_an_overlay() -> None:
    data, looked = with_overlay(DARK, plane(), origin=(5, 10)), []

    def detect(view: View) -> list[Detection]:
        looked.append(view.picture(0))
        return []

    pipeline.look(views_of(read(data)), detect)
    assert (looked[0][4:36, 9:105][plane()] == 255).all()


def test_an_overlay_is_in_no_masked_file_and_comes_back() -> None:
    sample = get_testdata_file("examples_overlay.dcm")
    assert isinstance(sample, str)
    with open(sample, "rb") as file:
        real = file.read()
    for data in (with_overlay(DARK, plane()), real):
        image = read(data)
        made = images.dissect(image, BOX, KEY)
        packed = bytes(pydicom.dcmread(io.BytesIO(data))[0x60003000].value).strip(b"\0")
        assert packed in data
        assert packed not in made.masked
        assert not [e for e in pydicom.dcmread(io.BytesIO(made.masked)).iterall()
                    if e.tag.group >> 8 == 0x60]  # fmt: skip
        assert images.assemble(made.masked, BOX, {0: made.patches[0]}, made.remainder) == data
        partial = read(images.assemble(made.masked, BOX, {0: made.patches[0]}, None))
        assert not partial.properties["overlays"]
    assert drawn(real).any()


@pytest.mark.parametrize(
    "broken",
    [{0x60000010: 60_000}, {0x60000011: 0}, {0x60000050: [-30_000, 30_000]}, {0x60000015: "-3"},
     {0x60000015: "2000000000"}, {0x60000051: 0}, {0x60003000: b""}, {0x60000102: 200}],
)  # fmt: skip
def test_an_overlay_that_makes_no_sense_does_no_harm(broken: dict[int, Any]) -> None:
    ds = pydicom.dcmread(io.BytesIO(with_overlay(DARK, plane())))
    vrs = {0x60000050: "SS", 0x60000015: "IS", 0x60003000: "OW"}
    for tag, value in broken.items():
        ds.add_new(tag, vrs.get(tag, "US"), value)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    assert images.render(read(buffer.getvalue())).shape == (60, 120, 3)

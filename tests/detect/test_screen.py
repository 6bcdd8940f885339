"""The screen: at the second look, others look only where it cannot exclude writing and codes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.detect import looking, screen
from engine.detect.barcodes import CodeReader
from engine.detect.detector import Detector, Profile
from engine.detect.faces import FaceNetwork
from engine.detect.looking import Ask, NetworksHere
from engine.detect.networks import Finding
from engine.detect.screen import Screen, joined_areas, levels
from engine.detect.text import TextFinder
from engine.detect.yolo import YoloNetwork
from engine.errors import DetectorError
from engine.geometry import Region
from engine.settings import Settings

EVERY = ("yolov8n", "ppocr", "zxing")
FACES = ("centerface",)
Picture = np.ndarray


def anatomy(height: int = 480, width: int = 640, seed: int = 1) -> Picture:
    """Soft shapes and grain, as a section has."""
    g = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(g.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 24)
    shown = 90 + 60 * smooth / float(np.abs(smooth).max()) + g.normal(0, 1, (height, width))
    return np.repeat(np.clip(shown, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def written(
    picture: Picture, words: str, x: int, y: int, px: int, tone: int = 240
) -> tuple[Picture, Region]:
    """A picture with a line whose capitals are so many px tall, and where it is."""
    scale = px / 22  # of FONT_HERSHEY_SIMPLEX
    thick = max(1, round(px / 10))
    (wide, tall), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    drawn = picture.copy()
    at, ink = (x, y + tall), (tone,) * 3
    cv2.putText(drawn, words, at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thick, cv2.LINE_AA)
    return drawn, Region(x, y, x + wide, y + tall)


@pytest.fixture(scope="module")
def cheap() -> Screen:
    return Screen(Settings(threads=1))


@pytest.fixture(scope="module")
def here() -> NetworksHere:
    return NetworksHere(Settings(threads=1))


@pytest.mark.parametrize("px", [8, 12, 20, 40, 90])
@pytest.mark.parametrize("tone", [240, 8])
def test_it_cannot_exclude_a_line_of_any_size(cheap: Screen, px: int, tone: int) -> None:
    picture, line = written(anatomy(), "NOWAK 79", 30, 60, px, tone)
    areas = cheap.areas(picture)
    assert areas is None or any(area.hull(line) == area for area in areas)


def test_it_cannot_exclude_red_letters_on_a_green_as_dark(cheap: Screen) -> None:
    picture = np.full((300, 400, 3), (0, 110, 0), np.uint8)
    cv2.putText(picture, "NOWAK JAN", (60, 150), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (216, 0, 0), 2)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    assert int(grey.max()) - int(grey.min()) < 4
    assert cheap.areas(picture) != []


@pytest.mark.parametrize("shape", [(480, 640), (96, 96), (700, 1100), (12, 300)])
def test_it_excludes_what_shows_none_at_every_size(cheap: Screen, shape: tuple[int, int]) -> None:
    assert cheap.areas(np.full((*shape, 3), 70, np.uint8)) == []
    if min(shape) > 90:
        assert cheap.areas(anatomy(*shape)) == []


def test_small_pictures_are_enlarged_and_large_ones_seen_at_quarters_too() -> None:
    assert levels(300, 200) == [2.0, 0.5]
    assert levels(2000, 1500) == [1.0, 0.25, 0.0625]
    assert levels(2000, 40) == [1.0]


def test_networks_that_cost_more_are_not_asked_where_nothing_is(
    here: NetworksHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def listened(name: str) -> Callable[..., list[Finding]]:
        def look(*_: object) -> list[Finding]:
            asked.append(name)
            return []

        return look

    monkeypatch.setattr(TextFinder, "find", listened("ppocr"))
    monkeypatch.setattr(YoloNetwork, "_look_at", listened("yolov8n"))
    monkeypatch.setattr(CodeReader, "_look_at", listened("zxing"))
    monkeypatch.setattr(FaceNetwork, "_look_at", listened("centerface"))
    first = Ask((*EVERY, *FACES), 0.1, weigh_text=True)
    here.look(first, anatomy())
    assert set(asked) == {*EVERY, *FACES}  # the first look is at everything
    second = replace(first, again=True)
    asked.clear()
    here.look(second, anatomy())
    assert set(asked) == set(FACES)
    asked.clear()
    # Where nothing is masked, what looks at the same sizes again would see the same again.
    here.look(replace(second, masked=False), anatomy())
    assert asked == []
    here.look(second, written(anatomy(), "NOWAK", 30, 30, 20)[0])
    assert set(asked) == {*EVERY, *FACES}


def test_a_look_at_areas_finds_what_a_look_at_everything_does(
    here: NetworksHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, line = written(anatomy(900, 1200), "NOWAK JAN 1979", 40, 30, 16)
    picture, other = written(picture, "ID 4711", 1000, 850, 14)
    shown: list[int] = []
    find = TextFinder.find

    def measured(self: TextFinder, seen: Picture, side: int, part: bool = False) -> list[object]:
        shown.append(seen.shape[0] * seen.shape[1])
        return list(find(self, seen, side, part))

    monkeypatch.setattr(TextFinder, "find", measured)
    found = here.look(Ask(EVERY, 0.25, weigh_text=True, again=True), picture)
    assert 0 < max(shown) < 0.3 * 900 * 1200
    for wanted in (line, other):
        boxes = [Region.around(f.xyxy, 1200, 900) for _, f in found if f.label == "text"]
        assert any(box and box.intersection_px(wanted) > 0.8 * wanted.area_px for box in boxes)


def test_what_an_area_cuts_off_is_looked_for_everywhere(
    here: NetworksHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, line = written(anatomy(), "NOWAK JAN 1979-08-30", 100, 200, 20)
    half = Region(0, 150, line.x1 + line.width // 2, 300)
    monkeypatch.setattr(Screen, "areas", lambda self, shown: [half])
    found = here.look(Ask(("ppocr",), 0.25, weigh_text=True, again=True), picture)
    boxes = [Region.around(f.xyxy, 640, 480) for _, f in found]
    assert any(box and box.intersection_px(line) > 0.9 * line.area_px for box in boxes)


def test_what_a_learned_version_sees_counts_beside_the_screen(
    here: NetworksHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = YoloNetwork(lambda batch: np.zeros((1, 6, 1)), ("text", "barcode"), (640,), None)  # type: ignore[arg-type]
    monkeypatch.setattr(taught, "look", lambda *_: [Finding(50, 60, 150, 80, "text", 0.9)])
    monkeypatch.setattr(here, "_network", lambda name, own=None: taught)
    own = looking.OwnVersion("v", hashlib.sha256(b"").hexdigest(), b"")
    ask = Ask(("yolov8n",), 0.1, weigh_text=True, own=own)
    areas = here._doubtful(ask, anatomy())
    assert areas is not None
    assert any(area.hull(Region(50, 60, 150, 80)) == area for area in areas)
    assert here._doubtful(Ask(("yolov8n",), 0.1, True), anatomy()) == []


def test_what_lies_beside_a_mask_is_looked_at_closely(here: NetworksHere) -> None:
    plain = np.full((480, 640, 3), 70, np.uint8)
    ask = Ask(EVERY, 0.1, weigh_text=True, again=True)
    assert here._doubtful(ask, plain) == []
    areas = here._doubtful(replace(ask, masks=((200, 200, 260, 216), (-90, 0, -40, 20))), plain)
    assert areas is not None
    assert any(area.hull(Region(160, 160, 300, 256)) == area for area in areas)


def test_areas_are_joined_where_one_look_costs_less_than_two() -> None:
    near = [(100.0, 100.0, 200.0, 120.0), (210.0, 100.0, 300.0, 120.0)]
    assert joined_areas([], near, (2000, 3000)) == [Region(100, 100, 300, 120)]
    far = [(0.0, 0.0, 400.0, 100.0), (2600.0, 1900.0, 3000.0, 2000.0)]
    assert joined_areas([], far, (2000, 3000)) == [
        Region(0, 0, 400, 100), Region(2600, 1900, 3000, 2000),
    ]  # fmt: skip
    assert joined_areas([], [], (2000, 3000)) == []
    assert joined_areas([], [(0.0, 0.0, 2900.0, 1900.0)], (2000, 3000)) is None
    # Beyond the picture, or at its border.
    assert joined_areas([], [(-50.0, -50.0, 40.0, 30.0)], (2000, 3000)) == [Region(0, 0, 40, 30)]


def test_a_picture_full_of_specks_is_looked_at_whole() -> None:
    boxes = [(float(x), float(y), x + 2.0, y + 2.0) for x in range(0, 900, 40)
             for y in range(0, 900, 40)]  # fmt: skip
    assert joined_areas([], boxes, (900, 900)) is None


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (screen.MODEL / screen.WEIGHTS).read_bytes()
    (tmp_path / screen.WEIGHTS).write_bytes(data[:-1] + b"\0")
    sums = (screen.MODEL / "SHA256SUMS").read_text()
    (tmp_path / "SHA256SUMS").write_text(sums)
    monkeypatch.setattr(screen, "MODEL", tmp_path)
    with pytest.raises(DetectorError, match="changed"):
        Screen(Settings(threads=1))


def test_a_screen_that_fails_stops_the_picture(
    here: NetworksHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Screen, picture: Picture) -> None:
        raise ValueError("no map")

    monkeypatch.setattr(Screen, "areas", fails)
    with pytest.raises(DetectorError, match="person's look"):
        here.look(Ask(("ppocr",), 0.1, weigh_text=True, again=True), anatomy())


def test_small_faces_are_looked_for_unless_the_file_excludes_a_scene(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides: list[int] = []
    said: list[Finding] = []

    def seen(self: FaceNetwork, picture: Picture, side: int) -> list[Finding]:
        sides.append(side)
        return list(said)

    monkeypatch.setattr(FaceNetwork, "_look_at", seen)
    detector = Detector(Settings(threads=1), {})
    profile = Profile("p", "P", ("face",), FACES)

    def asked(picture: Picture, scene: bool) -> list[int]:
        sides.clear()
        detector.detect(lambda _: picture, 1, profile, scene=scene)
        return list(sides)

    grey = anatomy()
    coloured = grey.copy()
    coloured[0, 0] = (90, 91, 90)
    assert asked(grey, scene=True) == [256, 640]
    assert asked(grey, scene=False) == [256]
    assert asked(coloured, scene=False) == [256, 640]  # the file is not believed
    said.append(Finding(10, 10, 60, 60, "face", 0.1))  # less than is reported
    assert asked(grey, scene=False) == [256, 640]


def test_a_second_look_at_what_nobody_masked_asks_no_network_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asks: list[Ask] = []

    def heard(self: NetworksHere, ask: Ask, picture: Picture) -> list[tuple[str, Finding]]:
        asks.append(ask)
        return []

    monkeypatch.setattr(NetworksHere, "look", heard)
    detector = Detector(Settings(threads=1), {})
    profile = Profile("p", "P", ("face",), FACES)
    detector.detect(lambda _: anatomy(), 1, profile)
    detector.rescan(lambda _: anatomy(), 1, [Region(9, 9, 40, 40)], profile)
    detector.rescan(lambda _: anatomy(), 1, [], profile)
    assert [(ask.again, ask.masked) for ask in asks] == [(False, True), (True, True), (True, False)]
    assert [ask.masks for ask in asks] == [(), ((9, 9, 40, 40),), ()]

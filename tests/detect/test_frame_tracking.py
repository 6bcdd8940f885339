"""Frames: what must be looked at, and boxes through time."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from engine.detect.detector import Detector, Profile
from engine.detect.frame_tracking import BLOCK_PX, CONTEXT_PX, Tracks, Watch, grouped
from engine.detect.looking import NETWORKS
from engine.detect.networks import Finding, ModelInfo
from engine.records import Detection, Region
from engine.settings import Settings

H, W = 240, 320
PROFILE = Profile("film", "Film", ("text",), ("scripted",))


class RedFinder:
    """A network that finds red boxes and counts the pixels it was shown."""

    info = ModelInfo("red", "1", "", "none", ("text",), "a test")

    def __init__(self) -> None:
        self.looked_px = 0

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        self.looked_px += picture.shape[0] * picture.shape[1]
        rows, columns = np.nonzero((picture[..., 0] > 240) & (picture[..., 1] < 30))
        if not len(rows):
            return []
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return [Finding(*(float(v) for v in box), "text", 0.9)]


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch) -> RedFinder:
    network = RedFinder()
    monkeypatch.setitem(NETWORKS, "scripted", lambda settings: network)
    return network


def detector() -> Detector:
    return Detector(Settings(), {"film": PROFILE})


def blank(value: int = 20) -> np.ndarray:
    return np.full((H, W, 3), value, dtype=np.uint8)


def marked(picture: np.ndarray, x: int, y: int, w: int = 40, h: int = 10) -> np.ndarray:
    picture = picture.copy()
    picture[y : y + h, x : x + w] = (255, 0, 0)
    return picture


def test_a_still_overlay_is_one_detection_over_all_frames(red: RedFinder) -> None:
    picture = marked(blank(), 30, 40)
    found = detector().detect(lambda i: picture, 12, PROFILE)
    assert [d.region for d in found] == [Region(30, 40, 70, 50, 0, 12)]


def test_a_still_film_is_looked_at_once(red: RedFinder) -> None:
    detector().detect(lambda i: blank(), 50, PROFILE)
    assert red.looked_px == H * W


def test_what_shows_on_one_frame_only_is_found_on_that_frame(red: RedFinder) -> None:
    def frame(i: int) -> np.ndarray:
        return marked(blank(), 200, 100) if i == 7 else blank()

    found = detector().detect(frame, 20, PROFILE)
    assert [d.region for d in found] == [Region(200, 100, 240, 110, 7, 8)]


def test_a_single_frame_is_found_over_moving_anatomy(red: RedFinder) -> None:
    rng = np.random.default_rng(3)
    frames = [rng.integers(0, 200, (H, W, 3), dtype=np.uint8) for _ in range(9)]
    frames[4] = marked(frames[4], 100, 60)
    found = detector().detect(lambda i: frames[i], 9, PROFILE)
    assert [d.region for d in found] == [Region(100, 60, 140, 70, 4, 5)]


def test_a_slow_fade_is_noticed_although_no_two_frames_differ_much(red: RedFinder) -> None:
    """From background to red in steps of 5 grey levels, which one frame alone would hide."""

    def frame(i: int) -> np.ndarray:
        picture = blank(0)
        picture[50:60, 50:90, 0] = min(255, 5 * i)
        return picture

    found = detector().detect(frame, 60, PROFILE)
    assert found
    assert found[0].region.xyxy == (50, 50, 90, 60)
    assert found[0].region.frame_end == 60


def test_a_box_that_a_network_loses_for_a_while_is_sealed_in_between(red: RedFinder) -> None:
    def frame(i: int) -> np.ndarray:
        return blank(20 + i * 10) if 3 <= i < 6 else marked(blank(20 + i * 10), 30, 40)

    found = detector().detect(frame, 9, PROFILE)
    assert found[0].region == Region(30, 40, 70, 50, 0, 9)


def test_a_clock_that_changes_in_its_place_is_one_detection_and_costs_little(
    red: RedFinder,
) -> None:
    def frame(i: int) -> np.ndarray:
        picture = marked(blank(), 30, 40, 60, 10)
        picture[42:48, 80:86] = (255, 0, 0) if i % 2 else (20, 20, 20)
        return picture

    found = detector().detect(frame, 30, PROFILE)
    assert [d.region.frame_count for d in found] == [30]
    assert red.looked_px < 30 * H * W * 0.5


def test_frames_are_not_kept(red: RedFinder) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def frame(i: int) -> np.ndarray:
        nonlocal most
        gc.collect()
        most = max(most, sum(r() is not None for r in alive))
        picture = blank(i % 200)
        alive.append(weakref.ref(picture))
        return picture

    detector().detect(frame, 40, PROFILE)
    assert most <= 2


def test_progress_runs_from_start_to_end(red: RedFinder) -> None:
    told: list[float] = []
    detector().detect(lambda i: blank(), 4, PROFILE, lambda stage, share: told.append(share))
    assert told == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("changed", "news"),
    [
        ((0, 0, 1, 1), False),  # one pixel: noise
        ((100, 100, 102, 102), True),  # the smallest stroke
        ((111, 111, 113, 113), True),  # the same across the seam of four blocks
        ((100, 100, 101, 107), True),  # a thin digit
    ],
)
def test_a_change_as_large_as_a_stroke_is_news(
    changed: tuple[int, int, int, int], news: bool
) -> None:
    watch = Watch()
    watch.news(blank())
    picture = blank()
    x1, y1, x2, y2 = changed
    picture[y1:y2, x1:x2] = 60
    areas = watch.news(picture)
    assert bool(areas) is news
    if areas:
        assert areas[0].x1 <= max(0, x1 - 16)
        assert areas[0].x2 >= min(W, x2 + 16)


def test_only_blocks_that_are_asked_for_are_news_and_the_others_remain_so() -> None:
    watch = Watch()
    watch.news(blank())
    picture = marked(marked(blank(), 20, 20), 250, 200)
    where = np.zeros((H // BLOCK_PX, W // BLOCK_PX), bool)
    where[:4, :8] = True
    [area] = watch.news(picture, where=where)
    assert area.intersection_px(Region(20, 20, 60, 30)) == 400
    assert watch.same(picture, Region(20, 20, 60, 30))
    assert not watch.same(picture, Region(240, 195, 300, 220))
    [other] = watch.news(picture)
    assert other.intersection_px(Region(250, 200, 290, 210)) == 400


def test_the_first_frame_and_a_frame_of_another_size_are_looked_at_whole() -> None:
    watch = Watch()
    assert watch.news(blank()) == [Region(0, 0, W, H)]
    assert watch.news(blank()) == []
    assert watch.news(np.zeros((H + 1, W, 3), np.uint8)) == [Region(0, 0, W, H + 1)]


def test_a_frame_that_changed_mostly_is_looked_at_whole() -> None:
    watch = Watch()
    watch.news(blank(0))
    picture = blank(0)
    picture[:200] = 90
    assert watch.news(picture) == [Region(0, 0, W, H)]


def test_an_area_takes_in_whole_boxes_that_it_touches() -> None:
    area, box = Region(0, 0, 50, 50), Region(40, 40, 200, 60, 0, 9)
    joined = grouped([area], [box], W, H)
    assert joined == [Region(0, 0, 200 + CONTEXT_PX, 60 + CONTEXT_PX)]


def test_areas_that_meet_are_joined_and_others_are_not() -> None:
    a, b, c = Region(0, 0, 50, 50), Region(40, 40, 90, 90), Region(200, 200, 220, 220)
    assert grouped([a, b, c], [], W, H) == [a.hull(b), c]


def test_what_is_outside_the_looked_at_area_goes_on() -> None:
    tracks = Tracks(0.45)
    there = Detection(Region(0, 0, 10, 10), "text", 0.5, "x")
    tracks.advance(0, [Region(0, 0, W, H)], [there])
    tracks.advance(1, [Region(100, 100, 120, 120)], [])
    tracks.advance(2, [Region(0, 0, 20, 20)], [])
    assert [d.region for d in tracks.close()] == [Region(0, 0, 10, 10, 0, 2)]

"""Films: looked at together, then by glances, and closely where a glance is not enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest

from engine.detect.detector import Detector, Profile
from engine.detect.films import FULLY, SAMPLE, Eyes, _standing_in, search_film
from engine.detect.frame_tracking import BLOCK_PX, Watch
from engine.detect.looking import NETWORKS
from engine.detect.networks import Finding, ModelInfo
from engine.detect.strokes import Strokes
from engine.records import Detection, Region
from engine.settings import Settings

H, W, FRAMES = 240, 320, 30
NAME = Region(100, 60, 140, 70)
PROFILE = Profile("film", "Film", ("text", "face"), ("ppocr", "faces"))


def boxes(picture: np.ndarray, channel: int, label: str) -> list[Finding]:
    """The box around all that is bright in one channel alone."""
    others = np.delete(picture, channel, axis=2).max(axis=2)
    rows, columns = np.nonzero((picture[..., channel] > 240) & (others < 30))
    if not len(rows):
        return []
    ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return [Finding(*(float(v) for v in ends), label, 0.9)]


class Reader:
    """Finds red boxes, and glances at them unless told not to see; counts both."""

    info = ModelInfo("red", "1", "", "none", ("text",), "a test")

    def __init__(self) -> None:
        self.looks, self.glances, self.blind = 0, 0, False

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        self.looks += 1
        return boxes(picture, 0, "text")

    def glance(self, picture: np.ndarray, again: bool) -> list[Finding]:
        self.glances += 1
        return [] if self.blind else boxes(picture, 0, "text")


class Faces:
    """Finds blue boxes, which are faces here."""

    info = ModelInfo("blue", "1", "", "none", ("face",), "a test")

    def __init__(self) -> None:
        self.looks = 0

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        self.looks += 1
        return boxes(picture, 2, "face")


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    network = Reader()
    monkeypatch.setitem(NETWORKS, "ppocr", lambda settings: network)
    return network


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> Faces:
    network = Faces()
    monkeypatch.setitem(NETWORKS, "faces", lambda settings: network)
    return network


def anatomy(brightest: int = 80) -> list[np.ndarray]:
    """Frames on which everything moves."""
    rng = np.random.default_rng(3)
    return [rng.integers(40, brightest, (H, W, 3), dtype=np.uint8) for _ in range(FRAMES)]


def drawn(picture: np.ndarray, box: Region, tone: tuple[int, int, int] = (255, 0, 0)) -> None:
    """Strokes of 2 px, as of letters, from end to end of a box."""
    for x in (*range(box.x1, box.x2 - 2, 6), box.x2 - 2):
        picture[box.y1 : box.y2, x : x + 2] = tone


def found(frames: list[np.ndarray], profile: Profile = PROFILE) -> list[Detection]:
    detector = Detector(Settings(), {"film": profile})
    return detector.detect(lambda i: frames[i], len(frames), profile)


def test_what_stands_on_all_frames_is_looked_at_once(reader: Reader, faces: Faces) -> None:
    frames = anatomy()
    for frame in frames:
        drawn(frame, NAME)
    [name] = found(frames)
    assert name.region == NAME.on_frames(0, FRAMES)
    assert reader.looks == 1
    # Whether it can glance at all, the darkest and the brightest, and some of the frames.
    assert reader.glances == 3 + FRAMES // FULLY


@pytest.mark.parametrize("box", [NAME, Region(280, 228, 320, 240)], ids=["middle", "corner"])
def test_what_moving_anatomy_shows_on_one_frame_alone_is_found_on_it(
    reader: Reader, faces: Faces, box: Region
) -> None:
    frames = anatomy()
    drawn(frames[17], box)
    [name] = found(frames)
    assert name.region == box.on_frames(17)
    assert reader.looks == 3  # the third time, whether it is really gone on the next frame


def test_a_line_that_grows_out_of_a_known_one_is_looked_at(reader: Reader, faces: Faces) -> None:
    frames = anatomy()
    for frame in frames:
        drawn(frame, NAME)
    longer = replace(NAME, x2=NAME.x2 + 30)
    drawn(frames[9], longer)
    [name] = found(frames)
    assert name.region == longer.on_frames(0, FRAMES)


def test_what_no_stroke_pointed_at_is_taken_to_be_there_since_the_last_whole_frame(
    reader: Reader, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = anatomy()
    for i in range(FULLY + 4, FULLY + 9):
        drawn(frames[i], NAME)
        drawn(frames[i + 5], NAME)
    blind = np.zeros((H // BLOCK_PX, W // BLOCK_PX), bool)
    monkeypatch.setattr(Strokes, "risen", lambda strokes, picture: blind)
    [name] = found(frames)
    assert name.region == NAME.on_frames(FULLY + 1, 2 * FULLY + 4)


def test_the_second_look_sees_whole_frames_that_the_first_one_did_not(
    reader: Reader, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = anatomy()
    drawn(frames[FULLY // 2], NAME)  # seen by nobody else
    blind = np.zeros((H // BLOCK_PX, W // BLOCK_PX), bool)
    monkeypatch.setattr(Strokes, "risen", lambda strokes, picture: blind)
    assert found(frames) == []
    detector = Detector(Settings(), {"film": PROFILE})
    mask = [Region(0, 0, 20, 10, 0, FRAMES)]
    [name] = detector.rescan(lambda i: frames[i], FRAMES, mask, PROFILE)
    assert name.region.frame <= FULLY // 2 < name.region.frame_end


def test_a_glance_that_misses_what_was_there_is_not_believed(reader: Reader, faces: Faces) -> None:
    frames = anatomy()[:12]
    for frame in frames[5:8]:
        drawn(frame, NAME)
    seen: list[Finding] = []

    def glance(picture: np.ndarray, again: bool) -> list[Finding]:
        there = [] if seen else boxes(picture, 0, "text")
        seen.extend(there)
        return there

    reader.glance = glance  # type: ignore[method-assign]
    [name] = found(frames)
    assert name.region == NAME.on_frames(5, 8)


def test_faces_are_looked_for_at_samples_and_in_each_scene(reader: Reader, faces: Faces) -> None:
    frames = anatomy(200)
    scene = frames[20:]
    for frame in scene:
        frame[:] = frame // 4
        frame[NAME.slices[1:]] = (0, 0, 255)
    [face] = found(frames)
    # From the sample before the cut on, to be sure.
    before = (20 - 1) // SAMPLE * SAMPLE
    assert face.region == NAME.on_frames(before + 1, FRAMES)
    # All frames together; samples before the cut, and at it: after it nothing changes.
    assert faces.looks == 1 + len(range(0, 20, SAMPLE)) + 1


def test_where_nobody_can_glance_all_networks_look_at_each_frame(
    monkeypatch: pytest.MonkeyPatch, faces: Faces
) -> None:
    frames = anatomy()
    drawn(frames[17], NAME, (0, 0, 255))
    profile = replace(PROFILE, networks=("faces",))
    [face] = found(frames, profile)
    assert face.region == NAME.on_frames(17)
    assert faces.looks == 3 + FRAMES


def test_the_second_look_for_faces_is_at_frames_on_which_masks_begin(
    reader: Reader, faces: Faces
) -> None:
    frames = anatomy(200)
    hidden = [NAME.on_frames(0, FRAMES), NAME.on_frames(8, 12)]
    detector = Detector(Settings(), {"film": PROFILE})
    assert detector.rescan(lambda i: frames[i], FRAMES, hidden, PROFILE) == []
    assert faces.looks == 1 + 2


def test_what_only_the_darkest_show_is_found_where_it_stands(reader: Reader, faces: Faces) -> None:
    frames = anatomy()
    for i, frame in enumerate(frames):
        drawn(frame, NAME, (255, 60 * (i % 2), 0))  # red only where the background lets it be
    [name] = found(frames)
    assert name.region == NAME.on_frames(0, FRAMES)
    assert reader.looks == 2


def test_a_code_is_looked_for_where_anything_changed_since_the_last_sample() -> None:
    frames = anatomy()
    code = Region(200, 160, 240, 200)
    for i in (SAMPLE + 1, SAMPLE + 2, SAMPLE + 3, SAMPLE + 4):
        drawn(frames[i], code, (0, 255, 0))  # it comes between two samples, and stays
    shown: dict[int, list[Region]] = {}

    def sample(picture: np.ndarray, areas: Sequence[Region], i: int) -> list[Detection]:
        shown[i] = list(areas)
        return []

    eyes = Eyes(lambda *_: [], sample, lambda *_: [], lambda d: True)
    search_film(lambda i: frames[i], FRAMES, eyes, 0.5, lambda share: None)
    at = min(i for i in shown if i >= SAMPLE + 1)
    assert any(code.intersection_px(area) == code.area_px for area in shown[at])


@pytest.mark.parametrize("stands", [True, False])
def test_streaks_of_what_moves_are_glanced_at_but_not_read(stands: bool) -> None:
    mean, brightest = (np.full((H, W, 3), 60, np.uint8) for _ in range(2))
    drawn(brightest, NAME, (240, 240, 240))
    if stands:
        drawn(mean, NAME, (160, 160, 160))
    watch, read = Watch(), []
    watch.news(mean)

    def look(picture: np.ndarray, area: Region, i: int) -> list[Detection]:
        read.append(area)
        return [Detection(NAME, "text", 0.9, "ppocr")]

    eyes = Eyes(look, lambda *_: [], lambda picture, area: [NAME], lambda d: True)
    lines = _standing_in(brightest, mean, watch, [], eyes)
    assert [d.region for d in lines] == ([NAME] if stands else [])
    assert len(read) == stands
    assert _standing_in(brightest, mean, watch, [NAME], eyes) == []
    assert len(read) == stands  # what is known is not read again


def test_what_was_looked_at_closely_as_it_is_is_not_looked_at_again(
    reader: Reader, faces: Faces
) -> None:
    """A glance takes a tick for text, the networks do not, and beside it everything moves."""
    frames = anatomy()
    for frame in frames:
        frame[NAME.padded(0.0, 8).slices[1:]] = 60
    tick = [Finding(*(float(v) for v in NAME.xyxy), "text", 0.9)]
    at = NAME.padded(0.0, 8)

    def glance(picture: np.ndarray, again: bool) -> list[Finding]:
        return tick if picture.shape[:2] == (H, W) else []

    reader.glance = glance  # type: ignore[method-assign]
    assert found(frames) == []
    assert reader.looks == 1
    frames[FULLY][at.slices[1:]] = 120
    assert found(frames) == []
    assert reader.looks == 1 + 3  # the mean, there, and where it is again as it was


def test_a_line_that_a_part_of_a_frame_cuts_off_is_glanced_at_on_the_whole(
    reader: Reader, faces: Faces
) -> None:
    frames = anatomy()
    low = Region(40, 100, 280, 110)  # so faint but for its middle that it is no news
    faint = frames[17][low.slices[1:]]
    faint[:] = 60
    drawn(frames[17], low, (255, 20, 20))
    before = frames[16][low.slices[1:]]
    before[:] = faint
    frames[16][low.y1 : low.y2, 150:170] = 60
    [name] = found(frames[15:])
    assert name.region.xyxy == low.xyxy


def test_a_name_on_one_frame_of_a_moving_picture_is_found_by_the_real_networks() -> None:
    detector = Detector.open(Settings())
    rng = np.random.default_rng(11)
    wide = cv2.GaussianBlur(rng.integers(0, 255, (300, 640, 3), dtype=np.uint8), (0, 0), 4)
    wide = cv2.normalize(wide, None, 20, 190, cv2.NORM_MINMAX)
    frames = [np.ascontiguousarray(wide[:, 12 * i : 12 * i + 400]) for i in range(8)]
    for frame in frames:
        cv2.putText(frame, "NOWAK JAN", (12, 24), 0, 0.6, (240, 240, 240), 1, cv2.LINE_AA)
    cv2.putText(frames[5], "EWA 1971", (300, 290), 0, 0.6, (240, 240, 240), 1, cv2.LINE_AA)
    regions = [
        d.region
        for d in detector.detect(lambda i: frames[i], 8, detector.profiles["ultrasound"])
        if d.confidence >= 0.25
    ]
    assert any(
        r.frame_count == 8 and r.intersection_px(Region(12, 8, 110, 24, 0, 8)) for r in regions
    )
    once = [r for r in regions if r.frame <= 5 < r.frame_end and r.x1 < 310 and r.y1 < 285 < r.y2]
    assert once

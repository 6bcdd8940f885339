"""Films: looked at together, then by glances, and closely where a glance is not enough."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from engine.detect.detector import Detector, Profile
from engine.detect.films import SAMPLE
from engine.detect.looking import NETWORKS
from engine.detect.networks import Finding, ModelInfo
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


def anatomy() -> list[np.ndarray]:
    """Frames on which everything moves."""
    rng = np.random.default_rng(3)
    return [rng.integers(40, 200, (H, W, 3), dtype=np.uint8) for _ in range(FRAMES)]


def drawn(picture: np.ndarray, box: Region, tone: tuple[int, int, int] = (255, 0, 0)) -> None:
    picture[box.slices[1:]] = tone


def found(frames: list[np.ndarray], profile: Profile = PROFILE) -> list[Detection]:
    detector = Detector(Settings(), {"film": profile})
    return detector.detect(lambda i: frames[i], len(frames), profile)


def test_what_stands_on_all_frames_is_looked_at_once(reader: Reader, faces: Faces) -> None:
    frames = anatomy()
    for frame in frames:
        drawn(frame, NAME)
    [name] = found(frames)
    assert name.region == NAME.on_frames(0, FRAMES)
    assert reader.looks == 3  # mean, darkest, brightest
    assert reader.glances == FRAMES


@pytest.mark.parametrize("box", [NAME, Region(280, 228, 320, 240)], ids=["middle", "corner"])
def test_what_moving_anatomy_shows_on_one_frame_alone_is_found_on_it(
    reader: Reader, faces: Faces, box: Region
) -> None:
    frames = anatomy()
    drawn(frames[17], box)
    [name] = found(frames)
    assert name.region == box.on_frames(17)
    assert reader.looks == 5  # the third time, whether it is really gone on the next frame


def test_a_line_that_grows_out_of_a_known_one_is_looked_at(reader: Reader, faces: Faces) -> None:
    frames = anatomy()
    for frame in frames:
        drawn(frame, NAME)
    longer = replace(NAME, x2=NAME.x2 + 30)
    drawn(frames[9], longer)
    [name] = found(frames)
    assert name.region == longer.on_frames(0, FRAMES)


def test_a_glance_that_misses_what_was_there_is_not_believed(reader: Reader, faces: Faces) -> None:
    frames = anatomy()[:12]
    for frame in frames[5:8]:
        drawn(frame, NAME)
    look, seen = reader.look, iter(range(99))

    def glance(picture: np.ndarray, again: bool) -> list[Finding]:
        return boxes(picture, 0, "text") if next(seen) == 5 else []

    reader.glance, reader.look = glance, look  # type: ignore[method-assign]
    [name] = found(frames)
    assert name.region == NAME.on_frames(5, 8)


def test_faces_are_looked_for_at_samples_and_in_each_scene(reader: Reader, faces: Faces) -> None:
    frames = anatomy()
    scene = frames[20:]
    for frame in scene:
        frame[:] = frame // 4
        drawn(frame, NAME, (0, 0, 255))
    [face] = found(frames)
    # From the sample before the cut on, to be sure.
    before = (20 - 1) // SAMPLE * SAMPLE
    assert face.region == NAME.on_frames(before + 1, FRAMES)
    # All frames together; samples before the cut, at it, and after it.
    assert faces.looks == 3 + len(range(0, 20, SAMPLE)) + len(range(20, FRAMES, SAMPLE))


def test_where_nobody_can_glance_all_networks_look_at_each_frame(
    monkeypatch: pytest.MonkeyPatch, faces: Faces
) -> None:
    frames = anatomy()
    drawn(frames[17], NAME, (0, 0, 255))
    profile = replace(PROFILE, networks=("faces",))
    [face] = found(frames, profile)
    assert face.region == NAME.on_frames(17)
    assert faces.looks == 3 + FRAMES


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

"""The verifier of lines: how it sees them, and what follows from what it says."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from engine.detect import text
from engine.detect.line_verifier import (
    HEIGHT_PX,
    MOST_WINDOWS,
    WIDTH_PX,
    Levels,
    LineVerifier,
    windows,
)
from engine.detect.networks import Finding
from engine.detect.text import TextNetwork
from engine.detect.text_lines import Line
from engine.settings import Settings

WORDS = "NOWAK JAN 1971"


@pytest.fixture(scope="module")
def network() -> TextNetwork:
    return TextNetwork(Settings(threads=1))


def written(scale: float, words: str = WORDS) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture with a line of text, and the line's corners."""
    (w, h), below = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, 1 + round(scale))
    picture = np.full((h * 9, w + h * 12), 60, np.uint8)
    x, y = h * 6, h * 5
    cv2.putText(
        picture, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, 220, 1 + round(scale), cv2.LINE_AA
    )
    return picture, Line.upright((x, y - h, x + w, y + below), 1.0).corners


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two views, -1 to 1."""
    return float((one * other).mean() / (one.std() * other.std()))


@pytest.mark.parametrize("scale", [0.6, 2.0, 7.0])
def test_letters_of_any_size_are_shown_at_one_size(scale: float) -> None:
    picture, corners = written(1.0, "NOWAK")
    larger, at = written(scale, "NOWAK")
    one, other = windows(Levels(picture), corners), windows(Levels(larger), at)
    assert one.shape == other.shape == (1, 2, HEIGHT_PX, WIDTH_PX)
    assert alike(one[0, 0], other[0, 0]) > 0.6  # strokes are not equally thick


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_line_is_laid_flat(turns: int) -> None:
    picture, corners = written(0.7, "NOWAK")
    upright = windows(Levels(picture), corners)
    middle = np.array([picture.shape[1] - 1, picture.shape[0] - 1]) / 2
    turned = np.ascontiguousarray(np.rot90(picture, turns))
    centre = np.array([turned.shape[1] - 1, turned.shape[0] - 1]) / 2
    quarter = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), turns)
    seen = windows(Levels(turned), (corners - middle) @ quarter + centre)
    shown = max(alike(upright[0, 0], view) for view in (seen[0, 0], seen[0, 0, ::-1, ::-1]))
    assert shown > 0.95


def test_a_long_line_is_seen_in_several_windows_and_a_letter_in_one() -> None:
    picture, corners = written(0.5, WORDS * 4)
    assert len(windows(Levels(picture), corners)) == MOST_WINDOWS
    picture, corners = written(0.5, "L")
    assert len(windows(Levels(picture), corners)) == 1


def test_a_box_that_reaches_out_of_the_picture_is_seen_all_the_same() -> None:
    picture, _ = written(0.5)
    line = Line.upright((-20, -9, 50, 6), 1.0)
    seen = windows(Levels(picture), line.corners)
    assert np.isfinite(seen).all()


def test_the_shipped_verifier_tells_writing_from_noise_and_edges(network: TextNetwork) -> None:
    verifier = network.verifier
    g = np.random.default_rng(3)
    said = []
    for scale in (0.4, 1.0, 3.0):
        picture, corners = written(scale)
        noisy = np.clip(picture + g.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
        said.append(float(verifier.lines(np.repeat(noisy[..., None], 3, 2), [corners])[0]))
    assert min(said) > text.WRITING
    smooth = cv2.GaussianBlur(g.integers(0, 255, (300, 400), dtype=np.uint8), (0, 0), 7)
    anatomy = cv2.normalize(smooth, None, 20, 230, cv2.NORM_MINMAX)
    cv2.ellipse(anatomy, (200, 150), (120, 90), 20, 0, 360, 240, 5)
    boxes = [(40.0, 40.0, 140.0, 70.0), (180.0, 40.0, 330.0, 90.0), (100.0, 200.0, 160.0, 260.0)]
    lines = [Line.upright(box, 1.0).corners for box in boxes]
    assert max(verifier.lines(np.repeat(anatomy[..., None], 3, 2), lines)) < text.DOUBTFUL


@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        ((255, 0, 0), (76, 76, 76)),
        ((0, 201, 0), (190, 90, 70)),
        ((255, 40, 255), (128, 128, 128)),
        ((255, 255, 255), (76, 76, 76)),
    ],
)
def test_writing_is_seen_in_colours_that_are_equally_dark(
    network: TextNetwork, ink: tuple[int, ...], ground: tuple[int, ...]
) -> None:
    picture = np.full((200, 500, 3), ground, np.uint8)
    cv2.putText(picture, WORDS, (40, 110), cv2.FONT_HERSHEY_SIMPLEX, 1.0, ink, 2, cv2.LINE_AA)
    line = Line.upright((40, 86, 310, 118), 1.0).corners
    assert network.verifier.lines(picture, [line])[0] > text.WRITING


def test_what_has_no_contrast_is_as_likely_as_not(network: TextNetwork) -> None:
    line = Line.upright((40, 86, 310, 118), 1.0).corners
    blank = np.full((200, 500, 3), 90, np.uint8)
    assert network.verifier.lines(blank, [line])[0] == text.DOUBTFUL


def test_no_lines_cost_nothing(network: TextNetwork) -> None:
    assert network.verifier.lines(np.zeros((9, 9, 3), np.uint8), []).shape == (0,)


class Says:
    """A verifier that says what it is told of every line."""

    def __init__(self, share: float) -> None:
        self.share = share

    def lines(self, picture: np.ndarray, corners: list[np.ndarray]) -> np.ndarray:
        return np.full(len(corners), self.share)


class Reads:
    """A reader that reads the same in every picture, and counts them."""

    def __init__(self, said: str, certainty: float) -> None:
        self.said, self.certainty, self.asked = said, certainty, 0

    def read(self, pictures: list[np.ndarray]) -> list[tuple[str, float]]:
        self.asked += len(pictures)
        return [(self.said, self.certainty)] * len(pictures)


@pytest.mark.parametrize(
    ("share", "finder", "read", "confidence", "asks"),
    [
        (0.0, 0.99, ("NOWAK", 0.99), None, False),  # no writing: dropped unread, whoever saw it
        (text.NOTHING, 0.60, ("NOWAK", 0.99), 0.795, True),  # doubt: read, and believed
        (text.NOTHING, 0.60, ("I", 0.99), None, True),  # a bone is read as a letter
        (text.UNLIKELY, 0.60, ("I", 0.99), 0.795, True),
        (text.NOTHING, 0.25, ("NOWAK", 0.99), None, False),  # seen faintly: not worth reading
        (text.FAINT, 0.25, ("NOWAK", 0.99), 0.62, True),
        (text.NOTHING, 0.60, ("", 0.0), None, True),  # neither read nor seen by the verifier
        (text.NOTHING, 0.99, ("", 0.0), 0.24, True),  # the finder is sure: a person decides
        (text.UNLIKELY, 0.99, ("", 0.0), 0.99, False),  # the finder is sure, and may be right
        (text.DOUBTFUL, 0.60, ("", 0.0), 0.15, True),  # writing that nobody can read: a proposal
        (text.WRITING, text.BELIEVED, ("", 0.0), text.BELIEVED, False),  # needs no reading
        (text.WRITING, 0.60, ("", 0.0), 0.15, True),  # must be read: an ECG looks like it too
    ],
)
def test_what_the_verifier_says_decides_what_is_read_and_believed(
    network: TextNetwork,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    finder: float,
    read: tuple[str, float],
    confidence: float | None,
    asks: bool,
) -> None:
    reader: Any = Reads(*read)
    monkeypatch.setattr(network, "reader", reader)
    monkeypatch.setattr(network, "verifier", Says(share))
    line = Line.upright((100, 100, 240, 120), finder)
    monkeypatch.setattr(network, "_find", lambda picture: [line])
    found = network.look(np.zeros((600, 800, 3), np.uint8), 0.05)
    assert [f.confidence for f in found] == pytest.approx(
        [] if confidence is None else [confidence]
    )
    assert bool(reader.asked) is asks


@pytest.mark.parametrize(("taught", "confidence"), [(False, None), (True, 0.9)])
def test_the_verifier_does_not_outvote_a_network_that_people_taught(
    network: TextNetwork, monkeypatch: pytest.MonkeyPatch, taught: bool, confidence: float | None
) -> None:
    reader: Any = Reads("", 0.0)
    monkeypatch.setattr(network, "reader", reader)
    monkeypatch.setattr(network, "verifier", Says(0.0))
    monkeypatch.setattr(network, "_find", lambda picture: [])
    picture = np.zeros((600, 800, 3), np.uint8)
    witnessed = [Finding(100, 100, 240, 120, "text", 0.9), Finding(9, 9, 60, 20, "text", 0.4)]
    found = network.settle(picture, 0.05, witnessed, taught)
    assert [f.confidence for f in found] == ([] if confidence is None else [confidence])


def test_anatomy_as_a_whole_is_read_even_if_it_looks_like_writing(
    network: TextNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader: Any = Reads("O", 0.99)
    monkeypatch.setattr(network, "reader", reader)
    monkeypatch.setattr(network, "verifier", Says(1.0))
    line = Line.upright((50, 50, 500, 300), 0.9)
    monkeypatch.setattr(network, "_find", lambda picture: [line])
    found = network.look(np.zeros((600, 800, 3), np.uint8), 0.05)
    assert reader.asked
    assert [f.confidence <= text.UNREAD_MOST for f in found] == [True]


def test_a_glance_passes_over_what_shows_no_writing(
    network: TextNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line.upright((100, 100, 240, 120), 0.9)
    monkeypatch.setattr(network.finder, "find", lambda picture, side: [line])
    for share, seen in ((0.0, 0), (text.NOTHING, 1)):
        monkeypatch.setattr(network, "verifier", Says(share))
        assert len(network.glance(np.zeros((600, 800, 3), np.uint8), False)) == seen


def test_it_is_named_where_networks_are_listed() -> None:
    verifier = LineVerifier(Settings(threads=1))
    assert verifier.info.classes == ("text",)
    assert verifier.info.sha256

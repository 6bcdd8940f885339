"""Lines found twice, in pieces or by two networks, and who is believed."""

from __future__ import annotations

import numpy as np
import pytest

from engine.detect import text
from engine.detect.detector import Detector, Profile
from engine.detect.looking import NETWORKS
from engine.detect.networks import LEVELS, Finding, ModelInfo, batch, by_level
from engine.detect.text_lines import Line, joined, support, united
from engine.settings import Settings

PICTURE = np.full((400, 600, 3), 90, np.uint8)


def line(*row: float) -> Line:
    """Out of x1, y1, x2, y2 and the confidence."""
    return Line.upright(row[:4], row[4])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        # the same line at two sizes, each cutting another end: one that holds both
        ([(10, 10, 100, 30, 0.9), (20, 10, 110, 30, 0.8)], [(10, 10, 110, 30)]),
        # a letter inside a much thicker box is a line of its own
        ([(10, 10, 300, 200, 0.9), (20, 20, 40, 34, 0.8)], [(10, 10, 300, 200), (20, 20, 40, 34)]),
        # side by side: both
        ([(10, 10, 90, 30, 0.9), (120, 10, 190, 30, 0.8)], [(10, 10, 90, 30), (120, 10, 190, 30)]),
    ],
)  # fmt: skip
def test_a_line_found_twice_is_one_that_holds_both(
    given: list[tuple[float, ...]], kept: list[tuple[float, ...]]
) -> None:
    assert [found.box for found in joined([line(*row) for row in given])] == kept


@pytest.mark.parametrize(
    ("seen", "agreed"),
    [
        ([], 0.0),
        ([(12, 10, 98, 30, 0.7)], 0.7),
        # two pieces that together cover the line
        ([(10, 10, 50, 30, 0.6), (52, 10, 100, 30, 0.8)], 0.8),
        # one letter of it
        ([(10, 10, 24, 30, 0.8)], 0.0),
        # something small within a stroke
        ([(40, 14, 46, 18, 0.9)], 0.0),
        # a large thing around it, of another size in both ways
        ([(0, 0, 400, 300, 0.9)], 0.0),
        # elsewhere
        ([(10, 60, 100, 80, 0.9)], 0.0),
    ],
)
def test_a_witness_agrees_with_what_it_saw_at_the_same_size(
    seen: list[tuple[float, ...]], agreed: float
) -> None:
    table = np.array(seen).reshape(-1, 5)
    box = np.array([[10.0, 10, 100, 30]])
    assert support(box, table[:, :4], table[:, 4])[0] == agreed


@pytest.mark.parametrize(
    ("boxes", "groups"),
    [
        ([(0, 0, 50, 10), (55, 1, 99, 11)], [[0, 1]]),  # a space between
        ([(0, 0, 50, 10), (45, 1, 99, 11)], [[0, 1]]),  # overlapping ends
        ([(0, 0, 50, 10), (75, 1, 99, 11)], [[0], [1]]),  # another column
        ([(0, 0, 50, 10), (0, 13, 50, 23)], [[0], [1]]),  # the next line
        ([(0, 0, 50, 10), (52, 0, 99, 40)], [[0], [1]]),  # another height
        ([(0, 0, 10, 50), (1, 55, 11, 99)], [[0, 1]]),  # a line that runs down
        ([(0, 0, 10, 10), (0, 14, 10, 24)], [[0], [1]]),  # digits of a scale, one above the other
        ([(0, 0, 50, 10), (100, 0, 150, 10), (52, 0, 97, 10)], [[0, 1, 2]]),  # by way of the third
    ],
)
def test_pieces_of_one_line_belong_together(
    boxes: list[tuple[int, ...]], groups: list[list[int]]
) -> None:
    found = united(np.array(boxes, float))
    assert sorted(sorted(group) for group in found) == groups


class Scripted(text.TextNetwork):
    """Finds and reads what a test says; counts what was read."""

    def __init__(self, found: list[Line], says: str = "", certainty: float = 0.0) -> None:
        super().__init__(Settings(threads=1))
        self.found = found
        self.asked = 0
        network = self

        class Reader:
            def read(self, pictures: list[np.ndarray]) -> list[tuple[str, float]]:
                network.asked += len(pictures)
                return [(says, certainty)] * len(pictures)

        self.reader = Reader()  # type: ignore[assignment]
        # It may be writing: networks and reader decide.
        self.verifier.lines = lambda picture, corners: np.full(len(corners), 0.7)  # type: ignore[method-assign]

    def _find(self, picture: np.ndarray) -> list[Line]:
        return list(self.found)


WORD, LETTER = (50, 50, 150, 70), (50, 50, 70, 75)
LARGE = (20, 20, 400, 300)


@pytest.mark.parametrize(
    ("box", "ours", "witness", "reading", "believed", "read"),
    [
        (WORD, 0.6, 0.75, None, True, False),  # both agree
        (WORD, 0.88, 0.0, None, False, True),  # a grid of which the finder alone is sure
        (WORD, 0.95, 0.0, None, True, False),  # the finder is very sure
        (WORD, 0.5, 0.0, ("NOWAK", 0.8), True, True),
        (WORD, 0.25, 0.3, ("NOWAK", 0.9), True, True),  # faint, half seen, but legible
        (WORD, 0.25, 0.0, ("NOWAK", 0.9), False, True),
        (WORD, 0.0, 0.85, None, True, False),  # only the witness saw it, and is very sure
        (WORD, 0.0, 0.5, ("NOWAK", 0.9), True, True),
        (WORD, 0.0, 0.5, None, False, True),
        (LETTER, 0.74, 0.22, None, True, False),  # a lead letter that the witness half saw
        (LETTER, 0.76, 0.0, None, True, False),  # a tilted lead letter with initials
        (LETTER, 0.74, 0.0, None, False, True),  # a clip
        (LETTER, 0.70, 0.0, ("L", 0.99), True, True),
        (LETTER, 0.5, 0.35, None, True, False),  # tiny, seen by both
        (LARGE, 0.9, 0.0, ("O", 0.9), False, True),  # a skull is read as an O
        (LARGE, 0.9, 0.0, ("NOWAK", 0.9), True, True),
    ],
)
def test_what_one_network_sees_alone_must_be_read(
    box: tuple[int, ...],
    ours: float,
    witness: float,
    reading: tuple[str, float] | None,
    believed: bool,
    read: bool,
) -> None:
    network = Scripted([line(*box, ours)] if ours else [], *(reading or ("", 0.0)))
    x1, y1, x2, y2 = (float(v) for v in box)
    seen = [Finding(x1, y1, x2, y2, "text", witness)] if witness else []
    found = network.settle(PICTURE, 0.1, seen)
    assert [f for f in found if f.confidence >= 0.25] == ([] if not believed else found[:1])
    assert bool(network.asked) == read
    # What is not believed is shown to a person if either network was at all sure, but for anatomy
    # of which the verifier is not sure either.
    assert believed or ours < 0.4 or len(found) == (box != LARGE)


@pytest.mark.parametrize(
    ("box", "ours", "share", "views"),
    [
        (LETTER, 0.25, 0.5, 0),  # seen faintly, and like no letter
        (LETTER, 0.25, 0.6, 1),
        (LETTER, 0.38, 0.5, 1),  # like no letter: read upright alone
        (LETTER, 0.38, 0.6, 8),
        (LETTER, 0.5, 0.5, 8),  # a marker in a ring, mirrored
        (LETTER, 0.15, 0.9, 0),  # no reading could make it believed
        (WORD, 0.25, 0.1, 3),
        (WORD, 0.25, 0.04, 0),
    ],
)
def test_letters_that_look_like_none_are_hardly_read(
    box: tuple[int, ...], ours: float, share: float, views: int
) -> None:
    network = Scripted([line(*box, ours)])
    network.verifier.lines = lambda picture, corners: np.full(len(corners), share)  # type: ignore[method-assign]
    network.settle(PICTURE, 0.1, [])
    assert network.asked == views


class Narrow(Scripted):
    """Reads an L, but only in a view that leaves out the ring around it."""

    def __init__(self, found: list[Line], certainty: float) -> None:
        super().__init__(found)

        class Reader:
            def read(self, pictures: list[np.ndarray]) -> list[tuple[str, float]]:
                return [("L", certainty) if max(p.shape) < 30 else ("", 0.0) for p in pictures]

        self.reader = Reader()  # type: ignore[assignment]


@pytest.mark.parametrize(("certainty", "believed"), [(0.99, True), (0.9, False)])
def test_a_letter_in_a_ring_is_read_as_each_size_showed_it(
    certainty: float, believed: bool
) -> None:
    ring, letter = line(50, 50, 100, 100, 0.55), line(60, 60, 88, 85, 0.54)
    (whole,) = joined([ring, letter])
    assert [part.box for part in whole.parts] == [ring.box, letter.box]
    (found,) = Narrow([whole], certainty).settle(PICTURE, 0.1, [])
    assert (found.confidence >= 0.25) == believed
    assert (found.x1, found.y1, found.x2, found.y2) == ring.box
    assert joined([ring])[0].parts == ()


def test_both_ends_of_a_line_are_hidden_where_each_network_cut_another() -> None:
    network = Scripted([line(50, 50, 200, 70, 0.9)])
    seen = [Finding(48.0, 49.0, 120.0, 71.0, "text", 0.8),
            Finding(118.0, 49.0, 240.0, 71.0, "text", 0.85)]  # fmt: skip
    (found,) = network.settle(PICTURE, 0.1, seen)
    assert found.x1 <= 50
    assert found.x2 >= 240


def test_a_witness_counts_as_it_is_where_nobody_weighs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Witness:
        info = ModelInfo("w", "1", "", "none", ("text",), "a test")

        def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
            return [Finding(50.0, 50.0, 150.0, 70.0, "text", 0.4)]

    monkeypatch.setitem(NETWORKS, "yolov8n", lambda settings: Witness())
    monkeypatch.setitem(NETWORKS, "ppocr", lambda settings: Scripted([]))
    alone = Profile("a", "A", ("text",), ("yolov8n",))
    both = Profile("b", "B", ("text",), ("yolov8n", "ppocr"))
    detector = Detector(Settings(), {"a": alone, "b": both})
    assert [d.confidence for d in detector.detect(lambda i: PICTURE, 1, alone)] == [0.4]
    weighed = detector.detect(lambda i: PICTURE, 1, both)
    assert [d.source for d in weighed] == ["ppocr"]
    assert weighed[0].confidence < 0.25


# From pixels to a map, and from a map to lines


@pytest.mark.parametrize(("mean", "scale"), [(127.5, 1 / 127.5), (0.0, 1.0)])
def test_what_a_network_is_shown_is_computed_level_by_level(mean: float, scale: float) -> None:
    picture = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)
    shown = (picture.astype(np.float32) - np.float32(mean)) * np.float32(scale)
    np.testing.assert_array_equal(batch(picture, mean, scale), shown.transpose(2, 0, 1)[None])
    ours = by_level(picture, LEVELS / 255)
    np.testing.assert_array_equal(ours[0], picture.transpose(2, 0, 1).astype(np.float32) / 255)


@pytest.mark.parametrize("at", [(0, 0), (7, 12), (301, 403)])  # odd and even, row and column
def test_a_line_lies_where_its_core_is_however_empty_the_map(at: tuple[int, int]) -> None:
    heat = np.zeros((320, 480), np.float32)
    assert text.lines(heat) == []
    heat[at[0] : at[0] + 4, at[1] : at[1] + 40] = 0.8
    (line,) = text.lines(heat)
    grow = text.UNCLIP * 40 * 4 / 44 / 2
    x, y = at[1] - grow, at[0] - grow
    box = (x, y, at[1] + 40 + grow, at[0] + 4 + grow)
    np.testing.assert_allclose(line.box, box, rtol=0, atol=0.01)
    assert line.confidence == pytest.approx(0.8)


def test_lines_keep_their_order_where_the_map_around_them_is_left_out() -> None:
    heat = np.zeros((60, 90), np.float32)
    for y, x in ((21, 33), (20, 51), (29, 17), (41, 65)):
        heat[y : y + 3, x : x + 9] = 0.5 + x / 200
    full = heat.copy()
    full[0, 0] = full[-1, -1] = 1.0  # too short to be lines, but nothing is left out
    assert [line.box for line in text.lines(heat)] == [line.box for line in text.lines(full)]

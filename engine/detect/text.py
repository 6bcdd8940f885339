"""Text by PP-OCR (Apache-2.0): one network finds, one of ours verifies, one reads.

Finds lines of text of any script, turned or upright. The verifier drops what shows no writing.
Reading, which costs most, only decides how far a finding is believed; what a line says is dropped
at once and never leaves this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import cv2
import numpy as np

from engine.detect.finder_graph import rewrite
from engine.detect.line_verifier import LineVerifier
from engine.detect.networks import CpuModel, Finding, ModelInfo, batch, read_weights, resized
from engine.detect.text_lines import Line, joined, support, table, united
from engine.geometry import Region, areas_px, hull, intersections_px
from engine.installation import VENDOR
from engine.settings import Settings

FINDER = VENDOR / "PP-OCRv6_det_small.onnx"
FINDER_SHA256 = "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
READER = VENDOR / "PP-OCRv6_rec_small.onnx"
READER_SHA256 = "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"
VERSION = "3.10.0"  # of RapidOCR, which converted both

PIXEL_FLOOR = 0.2
UNCLIP = 1.6
SHORTEST_CORE_PX = 3
SMALLEST_LETTER_PX = 5  # height; no font is legible below
STRIP_PX = 32
LARGEST_ZOOM = 4  # a thumbnail needs no more: letters of 7 px are 28 px then
GLANCE_PX = 640  # side to which a small picture is enlarged for a glance
AGAIN = 0.8  # of that size, at the second glance
HUGE_PX = 2200  # longer side from which small letters drown at the usual sizes

# What is believed. Chosen on drawn text and on real images of which a person said what is
# text; radiographs' wires, springs and connectors, and grids and traces of ECGs set them.
LOWEST = 0.2  # finder's confidence from which reading can still make it believed
LONG = 2.5  # length over height from which a line has several letters and can be read
SURE_SHORT = 0.70  # finder's confidence that needs no reading: single letters, often mirrored
SURE_LONG = 0.87
LARGE_SHARE = 0.05  # of the picture's area, from which a line must be read to be believed:
SEVERAL = 3  # so many letters
READ_LARGE = 0.80  # so surely; anatomy as a whole is read as an O or an 8
AGREED = 1.20  # finder's and reader's confidence together
AGREED_LETTER = 1.35  # the same for one letter: wires look like an O or a 7
TURNABLE = AGREED_LETTER - 1.0  # finders' confidence from which turning a letter can help
TURNABLE_UNLIKE = 0.4  # the same for what the verifier does not take for a letter
TURNED = 0.97  # reader's confidence in a letter that it had to turn or mirror
UNREAD = 0.25  # what the confidence of a line that nobody could read is multiplied with
UNREAD_MOST = 0.24  # and what it is then at most

# With a second network as witness, grids that the finder alone is sure of are read first.
SURE_ALONE = 0.93  # finder's confidence that needs neither witness nor reading
SURE_LETTER = 0.75  # the same for lead letters with initials, tilted and mirrored; also springs
SURE_WITNESS = 0.68  # the witness's, where the finder saw nothing
AGREE_OURS = 0.50  # both confidences that need no reading
AGREE_WITNESS = 0.70
#: The same for single letters: together so much, if the witness has at least so much.
AGREE_LETTER = ((0.10, 0.95), (0.30, 0.80))
LARGE_WITNESS = 0.30  # the witness's, from which a large line needs no long reading
ENDS = 0.25  # the witness's, from which the ends that it saw of a believed line count
AGREEING = 0.30  # how much of the witness's confidence counts beside the reader's

# What the verifier says; see model/CARD.md for how these were chosen.
NOTHING = 0.01  # share below which a line is none, whoever saw it
FAINT = 0.05  # share below which nobody reads what the networks see faintly,
SEEN_FAINTLY = 0.3  # that is, with less confidence than this
UNLIKELY = 0.10  # share below which networks are not sure without reading, and a letter is none
#: Share below which what nobody could read is dropped. Up to it, nobody reads single letters that
#: the networks see faintly.
DOUBTFUL = 0.5
WRITING = 0.95  # share from which a line that a network believes needs no reading
BELIEVED = 0.8  # confidence of the finder, or of the witness, for that


class TextFinder:
    """PP-OCRv6 detection: a map of how much each pixel is the core of a line of text.

    Source: Liao et al. 2020, "Real-time Scene Text Detection with Differentiable Binarization".
    """

    def __init__(self, settings: Settings) -> None:
        weights = read_weights(FINDER, FINDER_SHA256)
        self._model = CpuModel(weights, settings.threads, rewrite=rewrite)

    def find(self, picture: np.ndarray, side: int) -> list[Line]:
        """Lines in a picture shown to the network with its longer side at ``side`` pixels.

        The network sees a strip with known text below the picture. It was trained on pages that
        have text; shown a radiograph without any, it takes lungs and grids for text, and faint
        markers are lost among them. Beside real text, in the picture's own tone, it does not.
        """
        height, width = picture.shape[:2]
        if min(height, width) < SMALLEST_LETTER_PX:  # stretched to the network's least, noise
            return []
        scale = side / max(height, width)
        w, h = (max(32, round(v * scale / 32) * 32) for v in (width, height))
        shown = resized(picture, w, h)
        heat = self._model(batch(np.vstack([shown, reference(shown)]), 127.5, 1 / 127.5))[0]
        to_picture = np.array([width / w, height / h], dtype=np.float32)
        return [Line(f.corners * to_picture, f.confidence) for f in lines(heat[0, 0, :h])]


def reference(picture: np.ndarray) -> np.ndarray:
    """A strip of plain text in the mean tone of a picture.

    Returns:
        Shape (STRIP_PX, W, 3), uint8.
    """
    tone = int(picture.mean())
    ink = tone + 50 if tone < 128 else tone - 50
    strip = np.full((STRIP_PX, picture.shape[1], 3), tone, dtype=np.uint8)
    for x in range(10, picture.shape[1], 320):
        cv2.putText(
            strip, "Name 0123", (x, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (ink,) * 3, 2, cv2.LINE_AA
        )
    return strip


def lines(heat: np.ndarray) -> list[Line]:
    """Lines in a text map, in its own pixels.

    Args:
        heat: Shape (H, W), float32, 0 to 1; high in the core of a line, which is thinner than
            the line by a fixed rule of training, so it is grown back.
    """
    mask = (heat > PIXEL_FLOOR).astype(np.uint8)
    left, top, wide, tall = cv2.boundingRect(mask)
    # Most of a map is empty. OpenCV scans blocks of 2 x 2: an even start keeps the cores' order.
    wide, left = wide + left % 2, left - left % 2
    tall, top = tall + top % 2, top - top % 2
    mask, heat = (a[top : top + tall, left : left + wide] for a in (mask, heat))
    if not mask.size:
        return []
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = []
    for k in range(1, count):
        x, y, w, h, _ = (int(v) for v in stats[k])
        if max(w, h) < SHORTEST_CORE_PX:
            continue
        window = np.s_[y : y + h, x : x + w]
        core = (labels[window] == k).astype(np.uint8)
        contours, _ = cv2.findContours(core, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        (cx, cy), (a, b), angle = cv2.minAreaRect(np.vstack(contours))
        # The mean over the turned box, not over the core, so that a ragged core, which no
        # line of text has, scores low.
        inside = np.zeros_like(core)
        outline = cv2.boxPoints(((cx, cy), (a, b), angle))
        cv2.fillPoly(inside, [np.round(outline).astype(np.int32)], 1)
        confidence = float(np.clip(heat[window][inside > 0].mean(), 0.0, 1.0))
        a, b = a + 1.0, b + 1.0  # contours run through pixel centres
        grow = UNCLIP * a * b / (a + b)  # area * ratio / perimeter, on either side
        centre = (cx + (x + left) + 0.5, cy + (y + top) + 0.5)
        corners = cv2.boxPoints((centre, (a + grow, b + grow), angle))
        found.append(Line(corners, confidence))
    return found


class TextReader:
    """PP-OCRv6 recognition: the letters of one line and how sure it is of them."""

    HEIGHT_PX = 48
    WIDEST_PX = 1920
    STEP_PX = 320  # a line is shown with a border up to the next multiple

    def __init__(self, settings: Settings) -> None:
        weights = read_weights(READER, READER_SHA256)
        self._model = CpuModel(weights, settings.threads)
        # Index 0 is "no letter"; the blank comes after the alphabet.
        self._letters = ["", *self._model.metadata["character"].splitlines(), " "]

    def read(self, pictures: list[np.ndarray]) -> list[tuple[str, float]]:
        """Read upright lines.

        Args:
            pictures: Each of shape (H, W, 3), uint8, RGB.

        Returns:
            For each its text and the mean certainty of its letters, 0 to 1; ("", 0) for none.
        """
        widths = [
            min(self.WIDEST_PX, max(1, round(self.HEIGHT_PX * p.shape[1] / p.shape[0])))
            for p in pictures
        ]
        read = [("", 0.0)] * len(pictures)
        # By width, because the network makes itself ready anew for another; and one by one, which
        # takes no longer than several at once: that is another shape whenever their number differs.
        for i in sorted(range(len(pictures)), key=widths.__getitem__):
            read[i] = self._read(resized(pictures[i], widths[i], self.HEIGHT_PX))
        return read

    def _read(self, line: np.ndarray) -> tuple[str, float]:
        width = line.shape[1]
        # What lies beside the line is mid-grey, 0 once normalised. The network sees it, too: how
        # surely it reads must not depend on which other lines are read.
        padded = -(-width // self.STEP_PX) * self.STEP_PX
        shown = np.zeros((1, 3, self.HEIGHT_PX, padded), np.float32)
        shown[:, :, :, :width] = batch(line, 127.5, 1 / 127.5)
        scores = self._model(shown)[0][0]
        best, sure = scores.argmax(axis=1), scores.max(axis=1)
        new = np.r_[True, best[1:] != best[:-1]] & (best != 0)
        if not new.any():
            return "", 0.0
        return "".join(self._letters[k] for k in best[new]), float(sure[new].mean())


class TextNetwork:
    """Finder and reader together: what is not beyond doubt must be read to be believed.

    A line that cannot be read keeps ``UNREAD`` of its confidence, which makes it a proposal at
    most: a person looks at it.
    """

    def __init__(self, settings: Settings) -> None:
        self.finder = TextFinder(settings)
        self.reader = TextReader(settings)
        self.verifier = LineVerifier(settings)
        self._sides = sides
        self._whole_px = 0
        self.info = ModelInfo(
            name="PP-OCRv6 small, detection and recognition",
            version=VERSION,
            sha256=FINDER_SHA256,
            licence="Apache-2.0",
            classes=("text",),
            source="PaddlePaddle/PaddleOCR, converted by RapidAI/RapidOCR",
        )

    def rescaled(self) -> TextNetwork:
        again = copy(self)
        again._sides = sides_again
        return again

    def part_of(self, whole_px: int) -> TextNetwork:
        """See :class:`engine.detect.networks.Zoomed`."""
        part = copy(self)
        part._whole_px = whole_px
        return part

    def glance(self, picture: np.ndarray, again: bool) -> list[Finding]:
        """At one size, about that of the picture, and without reading."""
        shown = max(picture.shape[:2])
        longer = self._whole_px or shown
        side = min(max(longer, GLANCE_PX), LARGEST_ZOOM * longer, HUGE_PX) * shown / longer
        found = self.finder.find(picture, round(side * AGAIN if again else side))
        shares = self.verifier.lines(picture, [line.corners for line in found])
        found = [line for line, share in zip(found, shares, strict=True) if share >= NOTHING]
        return [_finding(np.array(line.box), line.confidence) for line in found]

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        found = self._find(picture)
        sure = [_sure_alone(line, picture.shape) for line in found]
        other, vouched = np.zeros(len(found)), np.zeros(len(found), bool)
        return _findings(found, self._settled(picture, found, sure, other, vouched), floor)

    def settle(
        self,
        picture: np.ndarray,
        floor: float,
        witnessed: Sequence[Finding],
        taught: bool = False,
    ) -> list[Finding]:
        """What another network took for text, and this one, weighed against each other.

        Where both agree, nothing is read. What only one saw must be read to be believed, or
        it must be very sure.

        Args:
            witnessed: Text that the other network found, from a low confidence on.
            taught: The other network learned from what people sealed, which the verifier has not
                seen: where it is sure, the verifier cannot outvote it.

        Returns:
            All text, from this network and from the other.
        """
        found = self._find(picture)
        boxes = np.array([f.xyxy for f in witnessed]).reshape(-1, 4)
        confidences = np.array([f.confidence for f in witnessed])
        agreed = support(table(found), boxes, confidences)
        area = picture.shape[0] * picture.shape[1]
        sure = [
            _sure_together(line, float(other), area)
            for line, other in zip(found, agreed, strict=True)
        ]
        # What the other network saw alone.
        ours = np.array([line.confidence for line in found])
        known = support(boxes, table(found), ours) > 0.0
        shared = list(found)
        found += [Line.upright(boxes[i], float(confidences[i])) for i in np.flatnonzero(~known)]
        sure += [bool(c >= SURE_WITNESS) for c in confidences[~known]]
        alone = int((~known).sum())
        vouched = np.r_[agreed > 0, np.ones(alone, bool)] & taught
        weights = self._settled(picture, found, sure, np.r_[agreed, np.zeros(alone)], vouched)
        # What it saw of a believed line may reach farther at an end.
        for i in np.flatnonzero(known & (confidences >= ENDS)):
            best = int(intersections_px(boxes[i], table(shared)).argmax())
            if weights[best] > UNREAD_MOST:
                found.append(Line.upright(boxes[i], float(confidences[i])))
                weights.append(weights[best])
        return _findings(found, weights, floor)

    def _find(self, picture: np.ndarray) -> list[Line]:
        shown = max(picture.shape[:2])
        longer = self._whole_px or shown
        found = [
            line
            for side in sorted(self._sides(longer))
            for line in self.finder.find(picture, round(side * shown / longer))
        ]
        return joined([line for line in found if line.confidence >= LOWEST])

    def _settled(
        self,
        picture: np.ndarray,
        found: list[Line],
        sure: list[bool],
        other: np.ndarray,
        vouched: np.ndarray,
    ) -> list[float]:
        """The confidence of each line, once verifier and reader have seen it.

        Args:
            sure: Whether networks are sure of each line, without either of them.
            other: How sure another network is of each line, shape (N,).
            vouched: Whether a network that was taught by people saw each line, shape (N,).

        Returns:
            0 for what shows no writing.
        """
        area = picture.shape[0] * picture.shape[1]
        shares = self.verifier.lines(picture, [line.corners for line in found])
        shares = np.where(np.array(sure, bool) & vouched, np.maximum(shares, UNLIKELY), shares)
        seen = [
            _Seen(line, float(y), certain, float(share), _share(line, area) > LARGE_SHARE)
            for line, y, certain, share in zip(found, other, sure, shares, strict=True)
        ]
        confidences = [line.confidence for line in seen]
        unsure = [i for i, line in enumerate(seen) if line.worth_reading]
        views = {i: _views(picture, found[i]) for i in unsure}
        # Upright first: what is read so need not be turned, nor what no reading could save.
        for turned in (False, True):
            asked = [
                (i, view) for i in unsure for view in (views[i][1:] if turned else views[i][:1])
            ]
            readings = self.reader.read([view for _, view in asked])
            for (i, _), (text, certainty) in zip(asked, readings, strict=True):
                if seen[i].read_as(text, certainty, turned):
                    confidences[i] = max(confidences[i], (found[i].confidence + certainty) / 2)
            unsure = [i for i in unsure if confidences[i] <= UNREAD_MOST and seen[i].worth_turning]
        return [
            0.0 if own <= UNREAD_MOST and not line.worth_asking else own
            for own, line in zip(confidences, seen, strict=True)
        ]


@dataclass(frozen=True)
class _Seen:
    """A line with what finder, witness and verifier say of it.

    Args:
        witness: The other network's confidence; 0 where it saw nothing.
        sure: Both are sure, or one of them very.
        share: The verifier's.
        large: Of anatomy's size.
    """

    line: Line
    witness: float
    sure: bool
    share: float
    large: bool

    @property
    def believed(self) -> float:
        return max(self.line.confidence, self.witness)

    @property
    def strength(self) -> float:
        return self.line.confidence + AGREEING * self.witness

    @property
    def settled(self) -> bool:
        """Text, whatever it reads."""
        writing = self.share >= WRITING and self.believed >= BELIEVED and not self.large
        return writing or (self.sure and self.share >= UNLIKELY)

    @property
    def confidence(self) -> float:
        """Before it is read."""
        return self.believed if self.settled else min(UNREAD_MOST, self.line.confidence * UNREAD)

    @property
    def worth_reading(self) -> bool:
        if self.settled or self.strength + 1.0 < AGREED:  # no reading could make it believed
            return False
        if self.believed >= SEEN_FAINTLY:
            return self.share >= NOTHING
        return self.share >= FAINT and not self.unlike_letter

    @property
    def worth_turning(self) -> bool:
        """Is it read otherwise than upright, too?"""
        if self.line.length >= LONG:
            return True
        return self.strength >= (TURNABLE_UNLIKE if self.unlike_letter else TURNABLE)

    @property
    def unlike_letter(self) -> bool:
        """A letter's shape, but the verifier does not take it for one."""
        return self.line.length < LONG and self.share <= DOUBTFUL

    @property
    def worth_asking(self) -> bool:
        """Is a person asked about it where nobody could read it?

        Where networks were sure, or where it looks like writing; of anatomy as a whole, a part
        often does.
        """
        least = NOTHING if self.sure else WRITING if self.large else DOUBTFUL
        return self.share >= least

    def read_as(self, text: str, certainty: float, turned: bool) -> bool:
        """Does a reading make it believed?

        Args:
            certainty: The reader's, 0 to 1.
            turned: Read otherwise than upright.
        """
        letters = _letters(text)
        if letters == 1 and self.share < UNLIKELY:
            return False
        if self.large and self.witness < LARGE_WITNESS:
            return letters >= SEVERAL and certainty >= READ_LARGE
        upright = not turned or self.line.length >= LONG
        return _read(text, certainty, min(1.0, self.strength), upright)


def _read(text: str, certainty: float, strength: float, upright: bool) -> bool:
    """Does a reading make a line believed?

    Args:
        strength: How sure its finders were together, 0 to 1.
        upright: Read without turning or mirroring, or several letters long.
    """
    letters = _letters(text)
    needed = AGREED_LETTER if letters == 1 else AGREED
    return bool(letters) and strength + certainty >= needed and (upright or certainty >= TURNED)


def _letters(text: str) -> int:
    return sum(letter.isalnum() for letter in text)


def _findings(found: list[Line], confidences: list[float], floor: float) -> list[Finding]:
    """Believed pieces of one line as one finding; what is not believed, box by box."""
    boxes = table(found)
    believed = [i for i, c in enumerate(confidences) if c > UNREAD_MOST and c >= floor]
    findings = []
    for group in united(boxes[believed]):
        members = [believed[k] for k in group]
        best = max(confidences[i] for i in members)
        findings.append(_finding(hull(boxes[members]), best))
    held = np.array([f.xyxy for f in findings]).reshape(-1, 4)
    for i, confidence in enumerate(confidences):
        if floor <= confidence <= UNREAD_MOST:
            hidden = intersections_px(boxes[i], held) > 0.7 * areas_px(boxes[i])
            if not hidden.any():
                findings.append(_finding(boxes[i], confidence))
    return findings


def _finding(box: np.ndarray, confidence: float) -> Finding:
    x1, y1, x2, y2 = (float(v) for v in box)
    return Finding(x1, y1, x2, y2, "text", confidence)


def sides(longer_px: int) -> set[int]:
    """Sizes at which a picture is looked at: one for large letters, one for small ones.

    Two sizes find what one loses: on drawn text 0.95 of the lines at the best single size, 0.97
    at these two. Letters of 7 px in a picture of 3000 px need the largest.
    """
    if longer_px > HUGE_PX:
        return {1600, 2560}
    coarse = 640 if longer_px <= 760 else 960
    fine = min(1600, max(960, round(1.6 * longer_px)))
    return {min(side, LARGEST_ZOOM * longer_px) for side in (coarse, fine)}


def sides_again(longer_px: int) -> set[int]:
    """The size of a second look: between those of the first.

    Beside the masks the picture is the one that was looked at before, so the same sizes would
    see the same things.
    """
    first = sides(longer_px)
    return {round(math.prod(first) ** (1 / len(first)))}


def _share(line: Line, area: int) -> float:
    return float(areas_px(line.box)) / area


def _sure_alone(line: Line, shape: tuple[int, ...]) -> bool:
    """Beyond doubt where no other network was asked."""
    if _share(line, shape[0] * shape[1]) > LARGE_SHARE:
        return False
    return line.confidence >= (SURE_LONG if line.length >= LONG else SURE_SHORT)


def _sure_together(line: Line, other: float, area: int) -> bool:
    """Beyond doubt where a second network was asked and is so sure."""
    if _share(line, area) > LARGE_SHARE:
        return False
    if line.length < LONG:
        if line.confidence >= SURE_LETTER:
            return True
        both = line.confidence + other
        if any(other >= witness and both >= least for witness, least in AGREE_LETTER):
            return True
    agreed = line.confidence >= AGREE_OURS and other >= AGREE_WITNESS
    return agreed or line.confidence >= SURE_ALONE


def _views(picture: np.ndarray, line: Line) -> list[np.ndarray]:
    """A line as the reader wants it, upright first, then the other ways it may stand, and as
    each size showed it: around a letter, the box of one may hold a ring, that of another none."""
    apart = [view for part in line.parts for view in _standing(picture, part)[:1]]
    return _standing(picture, line) + apart


def _standing(picture: np.ndarray, line: Line) -> list[np.ndarray]:
    height, width = picture.shape[:2]
    region = Region.around(line.box, width, height)
    if region is None or min(region.width, region.height) < 2:
        return []
    if line.length < LONG:
        plain = picture[region.slices[1:]]
        turned = [np.rot90(v, k) for v in (plain, plain[:, ::-1]) for k in range(4)]
        return [np.ascontiguousarray(view) for view in turned]
    flat = _unrolled(picture, line)
    return [flat, np.ascontiguousarray(flat[::-1, ::-1]), np.ascontiguousarray(flat[:, ::-1])]


def _unrolled(picture: np.ndarray, line: Line) -> np.ndarray:
    """A turned line laid flat, its longer side across."""
    a, b, c, d = line.corners
    if np.hypot(*(b - a)) < np.hypot(*(c - b)):
        a, b, c, d = b, c, d, a
    if a[0] > b[0]:  # from left to right where that can be told
        a, b, c, d = c, d, a, b
    w, h = max(2, round(float(np.hypot(*(b - a))))), max(2, round(float(np.hypot(*(c - b)))))
    target = np.array([[0, 0], [w, 0], [w, h], [0, h]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(np.array([a, b, c, d], dtype=np.float32), target)
    return cv2.warpPerspective(picture, matrix, (w, h), borderMode=cv2.BORDER_REPLICATE)

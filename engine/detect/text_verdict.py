"""Does a line of burned-in text identify a person?

The recognised text is compared with the patient record, the DICOM header and patterns. Only the
verdict leaves this module: the text is never stored, logged or returned.

A line is harmless only if it consists entirely of terms of a closed list (side markers, technique
factors, scales), was read twice with high confidence, and is alone in its box. Everything else is
sealed: identifying text, and text that cannot be classified.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np

from engine.geometry import Region, shared_sides_px
from engine.records import TextVerdict

if TYPE_CHECKING:  # opened by whoever judges: importing them costs a second
    from engine.detect.text import TextFinder, TextReader

CERTAIN = 0.92  # the reader's, for a line that may stay visible
ALIKE = 0.8  # of two words from which one is taken for a misreading of the other
LETTER_WIDTH = (0.16, 0.95)  # narrowest and widest mean letter, as a share of its line's height
SLACK = 0.9  # of the height: what a box may be wider than its letters
CONTEXT = 1.0  # of the height: how far beside a line it is looked whether it goes on
READ_PX = 36  # height of a line when lines are counted in it

# --- what may stay -----------------------------------------------------------------------------

#: Which side of a patient a marker names.
SIDES = {"L": "L", "LT": "L", "LEFT": "L", "R": "R", "RT": "R", "RIGHT": "R"}
_LETTERS = "[LRAPHSI]"  # sides and directions; not F and M, which say the sex
_MARKERS = (
    "LT|RT|LEFT|RIGHT|AP|PA|LAT|LATERAL|OBL|OBLIQUE|AXIAL|SAGITTAL|CORONAL|SUPINE|PRONE|ERECT|"
    "UPRIGHT|STANDING|SITTING|SEATED|RECUMBENT|DECUB|DECUBITUS|PORTABLE|MOBILE|BEDSIDE|"
    "WEIGHT BEARING|WEIGHTBEARING|LCC|RCC|LMLO|RMLO|[LR][ -]?MLO|[LR][ -]?CC|MLO|"
    "AVR|AVL|AVF|V[1-6]|II|III|2D|3D"
)
_N1 = r"\d(?:[.,]\d{1,2})?"
_N3 = r"[-+]?\d{1,3}(?:[.,]\d{1,3})?"
_N4 = r"-?\d{1,4}"
_UNITS = "KVP|KV|MAS|MA|MSEC|MS|SEC|MM/SEC|MM/S|MM/MV|MM|CM/S|CM/SEC|M/S|KHZ|MHZ|HZ|DB|FPS|MGY|%|°"
_TERMS = (
    rf"{_N3}\s?(?:{_UNITS})",
    r"\d{1,2}(?:[.,]\d{1,3})?\s?CM",  # no body height
    rf"(?:KVP|KV|MAS|MA)\s?[:=]?\s?{_N3}",
    rf"(?:MI|TIS|TIB|TIC|TI)\s?[:=]?\s?{_N1}",
    rf"(?:TR|TE|TI)\s?[:=]?\s?{_N4}(?:\s?MS)?",
    rf"(?:FA|NEX|THK|FOV|SP|GAIN|GN|DR|FR|FRQ|FREQ|PWR|PRF|WF|ZOOM|MAG|DEPTH|SID|ROT|TILT|SPEED|"
    rf"SCALE|SLICE|FRAME)\s?[:=.]?\s?{_N3}\s?(?:{_UNITS}|CM|X)?",
    r"(?:SE|IM|IMG)\s?[:=.]?\s?\d{1,3}(?:\s?/\s?\d{1,3})?",
    rf"(?:WW|W)\s?[:=]?\s?{_N4}[\s,/]*(?:WL|WC|L|C)\s?[:=]?\s?{_N4}",
    rf"(?:WL|WC|L|C)\s?[:=]?\s?{_N4}[\s,/]*(?:WW|W)\s?[:=]?\s?{_N4}",
    r"(?:0[.,]\d{1,2}|1[.,]5|3(?:[.,]0)?|7)\s?T",
)
_KINDS = (
    re.compile(f"(?P<letter>{_LETTERS})"),
    *(re.compile(f"(?P<marker>{marker})") for marker in _MARKERS.split("|")),
    *(re.compile(f"(?P<value>{term})") for term in _TERMS),
)
_GAP = re.compile(r"[\s,;/|]+")

# --- what names somebody -----------------------------------------------------------------------

_MONTHS = (
    "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC|MAI|MRZ|OKT|DEZ|FEV|AVR|JUIN|AOU|ENE|ABR|AGO|"
    "DIC|GEN|GIU|LUG|SET|OTT"
)
_TELLING = re.compile(
    r"\d{1,4}\s?[./\-]\s?\d{1,2}\s?[./\-]\s?\d{2,4}"  # dates
    rf"|\d{{1,2}}[ .\-/]?(?:{_MONTHS})[A-Z]*[ .,\-/]*\d{{2,4}}"
    rf"|(?:{_MONTHS})[A-Z]*[ .]\s?\d{{1,2}}\b"
    r"|\d{1,2}:\d{2}"  # times
    r"|\d{5,}|\d{3,}[-/ ]\d{3,}"  # numbers of patients, orders, telephones
    r"|\b\d{1,3}\s?(?:Y|YR|YRS|YEARS?|Y/?O|JAHRE?|ANS|ANNI)\b"
    r"|\b(?:PATIENT\w*|PAT|NAME|NOM|VORNAME|NACHNAME|DOB|D\.?O\.?B|BIRTH\w*|BORN|GEB\w*|ID|PID|MRN|"
    r"ACC\w*|SEX|AGE|ALTER|DR(?!\s?[:=]?\s?\d)|PROF|MD|PHYSICIAN|REF\w*|HOSPITAL\w*|HOPITAL|OSPEDALE|KLINI\w*|CLINI\w*|"
    r"KRANKENHAUS|MEDICAL|CENT(?:ER|RE)|INSTITUT\w*|UNIVERSI\w*|CHU|RADIOLOG\w*|IMAGING|WARD|ROOM|BED|"
    r"TEL|PHONE|STREET|STR|ROAD|AVENUE|PLATZ|WEG|CITY|OPERATOR|TECH\w*)\b"
    r"|\w[,^]\s?\w{2,}\^?|@|WWW\.|HTTP"
)
#: Letters and digits that readers take for one another.
_CONFUSED = str.maketrans("OQDILJSZBG", "0001115286")


@dataclass(frozen=True)
class Known:
    """Known patient data to compare with. Sensitive; kept for one call only.

    Args:
        values: Names, numbers, dates and institutions as the record and the header have them.
    """

    values: tuple[str, ...]

    def __repr__(self) -> str:
        return "Known(...)"

    @classmethod
    def of(cls, values: Iterable[object]) -> Known:
        """From a record's or a header's values; empty ones are left out."""
        return cls(tuple(dict.fromkeys(str(v) for v in values if str(v).strip())))


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a line.

    Args:
        side: ``L`` or ``R`` where it is a harmless side marker. Says what is under the box:
            sensitive where the box is sealed.
    """

    verdict: TextVerdict
    side: str = ""


UNKNOWN = Judgement(TextVerdict.UNKNOWN)


def judge_words(text: str, known: Known) -> TextVerdict:
    """Classify a line of text by its content alone.

    Returns:
        HARMLESS only where the closed list spells it out from end to end and nothing of it is
        known of the patient; IDENTIFYING if it identifies a person; else UNKNOWN.
    """
    plain = _plain(text)
    if not any(c.isalnum() for c in plain):
        return TextVerdict.UNKNOWN
    if _TELLING.search(plain) or _known(plain, known.values):
        return TextVerdict.IDENTIFYING
    if _spelled_out(plain) and not _initials(plain, known.values):
        return TextVerdict.HARMLESS
    return TextVerdict.UNKNOWN


class Judge:
    """Reads and classifies lines. Thread-safe, like its networks."""

    def __init__(self, finder: TextFinder, reader: TextReader) -> None:
        self._finder = finder
        self._reader = reader

    def judge(
        self, picture: np.ndarray, regions: Sequence[Region], known: Known
    ) -> list[Judgement]:
        """Judge lines of one frame.

        Args:
            picture: Shape (H, W, 3), uint8, RGB.
            regions: Boxes of text in it, before padding; their frames are not asked.

        Returns:
            One for each region.

        Raises:
            DetectorError: A network failed.
        """
        alone = self._readings(picture, regions, lambda r: _part(picture, r, 0.08, 0.08))
        named = [
            any(judge_words(text, known) is TextVerdict.IDENTIFYING for text, _ in readings)
            for readings in alone
        ]
        # Identifying text is identifying whatever text is beside it.
        open_ = [r for r, identifying in zip(regions, named, strict=True) if not identifying]
        beside = iter(self._readings(picture, open_, lambda r: _context(picture, r)))
        return [
            Judgement(TextVerdict.IDENTIFYING)
            if identifying
            else self._judged(picture, region, readings, next(beside), known)
            for region, readings, identifying in zip(regions, alone, named, strict=True)
        ]

    def _readings(
        self,
        picture: np.ndarray,
        regions: Sequence[Region],
        view: Callable[[Region], np.ndarray],
    ) -> list[list[tuple[str, float]]]:
        """For each region what is read in each way in which it may stand."""
        owners = [(i, turn) for i, region in enumerate(regions) for turn in _turns(region)]
        views = [np.ascontiguousarray(np.rot90(view(regions[i]), turn)) for i, turn in owners]
        readings: list[list[tuple[str, float]]] = [[] for _ in regions]
        for (i, _), reading in zip(owners, self._reader.read(views), strict=True):
            readings[i].append(reading)
        return readings

    def _judged(
        self,
        picture: np.ndarray,
        region: Region,
        alone: Sequence[tuple[str, float]],
        beside: Sequence[tuple[str, float]],
        known: Known,
    ) -> Judgement:
        """Classify a box, read alone and with the text beside it."""
        around = [judge_words(text, known) for text, _ in beside]
        if TextVerdict.IDENTIFYING in around:
            return Judgement(TextVerdict.IDENTIFYING)
        for (text, sure), (_, sure_beside), verdict in zip(alone, beside, around, strict=True):
            if (
                judge_words(text, known) is verdict is TextVerdict.HARMLESS
                and min(sure, sure_beside) >= CERTAIN
                and _fits(text, region)
                and self._single_line(picture, region)
            ):
                return Judgement(TextVerdict.HARMLESS, _side(text))
        return UNKNOWN

    def _single_line(self, picture: np.ndarray, region: Region) -> bool:
        """Is there one line in the box, and no second one that the reader passed over?"""
        height = min(region.width, region.height)
        part = _part(picture, region, CONTEXT, 0.5)
        side = round(max(part.shape[:2]) * READ_PX / height)
        wide, tall = _margin(region, CONTEXT, 0.5)
        around = region.grown(wide, tall)
        left, top = region.x1 - around.x1, region.y1 - around.y1
        box = Region(left, top, left + region.width, top + region.height)
        inside = 0
        for line in self._finder.find(part, max(32, min(side, 1600))):
            across, down = shared_sides_px(line.box, box.xyxy)
            # What lies beside the box has a box of its own; what reaches well into it counts.
            inside += bool(across > 0.1 * height and down > 0.2 * height)
        return inside == 1


# --- words -------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Capitals without accents, in their compatible forms."""
    decomposed = unicodedata.normalize("NFKD", text).upper()
    return "".join(c for c in decomposed if not unicodedata.combining(c)).strip()


def _spelled_out(plain: str) -> bool:
    """Does this line consist of terms of the closed list only?

    One single letter at most: letters one after the other may spell a name.
    """
    at, letters, markers = 0, 0, 0
    while at < len(plain):
        ends = [
            m
            for kind in _KINDS
            if (m := kind.match(plain, at))
            and (m.end() == len(plain) or _GAP.match(plain, m.end()) or _value_then_word(plain, m))
        ]
        if not ends:
            return False
        longest = max(ends, key=lambda m: m.end())
        letters += longest.lastgroup == "letter"
        markers += longest.lastgroup == "marker"
        at = longest.end()
        gap = _GAP.match(plain, at)
        at = gap.end() if gap else at
    return letters <= 1 and markers <= 3


def _value_then_word(plain: str, match: re.Match[str]) -> bool:
    """Readers lose blanks between a number and the next word."""
    last, after = plain[match.end() - 1], plain[match.end()]
    return match.lastgroup == "value" and (last.isdigit() or last == "%") and after.isalpha()


def _known(plain: str, values: Sequence[str]) -> bool:
    """Does the line contain known patient data, allowing for misread letters?"""
    words, digits, whole = _words(plain), _digits(plain), _canonical(plain)
    for value in values:
        telling = _plain(value)
        compact = _canonical(telling)
        if len(compact) >= 4 and compact in whole:
            return True
        if set(_digits(telling)) & set(digits):
            return True
        if any(_alike(a, b) for a in _words(telling) for b in words):
            return True
    return False


def _words(plain: str) -> list[str]:
    return re.findall(r"[^\W\d_]{2,}", plain)


def _digits(plain: str) -> list[str]:
    return re.findall(r"\d{3,}", plain)


def _canonical(plain: str) -> str:
    """Letters and digits that look alike made one, all else left out."""
    return "".join(c for c in plain if c.isalnum()).translate(_CONFUSED)


def _alike(a: str, b: str) -> bool:
    if min(len(a), len(b)) < 4:
        return a == b
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= ALIKE


def _initials(plain: str, values: Sequence[str]) -> bool:
    """Could a short word of the line be initials of a name?"""
    short = [Counter(w) for w in _words(plain) if len(w) <= 3]
    return any(w <= Counter(n[0] for n in _words(_plain(v))) for v in values for w in short)


def _side(text: str) -> str:
    sides = {SIDES[w] for w in re.findall(r"[A-Z]+", _plain(text)) if w in SIDES}
    return sides.pop() if len(sides) == 1 else ""


# --- geometry ----------------------------------------------------------------------------------


def _fits(text: str, region: Region) -> bool:
    """Are there as many letters as the box has room for? A name that was read as its first
    letter alone leaves most of its box unread."""
    letters = sum(not c.isspace() for c in text)
    length = max(region.width, region.height) / min(region.width, region.height)
    low, high = LETTER_WIDTH
    return low * letters <= length <= high * letters + SLACK


def _turns(region: Region) -> tuple[int, ...]:
    """Quarter turns in which a box may be read: as it lies, or a tall one either way."""
    return (1, 3) if region.height > 1.5 * region.width else (0,)


def _margin(region: Region, along: float, across: float) -> tuple[float, float]:
    """Pixels beside a box, to either side and above: shares of its line's height."""
    height = min(region.width, region.height)
    if region.height > 1.5 * region.width:
        along, across = across, along
    return along * height, across * height


def _part(picture: np.ndarray, region: Region, along: float, across: float) -> np.ndarray:
    """A box with a margin, clipped to the picture."""
    return picture[region.grown(*_margin(region, along, across)).slices[1:]]


def _context(picture: np.ndarray, region: Region) -> np.ndarray:
    """A box with what is written beside it, should the line go on there."""
    return _part(picture, region, CONTEXT, 0.12)

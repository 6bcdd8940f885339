"""What a DICOM header says of people, and where else in the file it is quoted.

The rules of PS3.15 say which attributes go. This finds the values of those attributes in the
attributes that stay: names in any script, order and spelling, whole words where they are short;
numbers with and without separators; dates in any form and calendar; unique identifiers inside text
and addresses. Values are collected at every depth of the data set, under every character set in
which they may stand. What cannot be judged with certainty counts as a quote.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from engine.formats.calendars import Dates, Day, gregorian, read_day
from engine.formats.clinical_words import (
    CLINICAL,
    GENERIC,
    PARTICLES,
    PLACEHOLDERS,
    SHORT_WORDS,
    TERMS,
)
from engine.formats.dicom_file import text
from engine.formats.dicom_values import NUMBERS, declared, packed, values_of
from engine.formats.spellings import folded, plain, readings, romanised

_TEXT = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
_ASCII_ONLY = frozenset(("AE", "AS", "CS", "DS", "IS", "UI", "UR"))
_FORMS = {
    "DS": re.compile(r" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? *"),
    "IS": re.compile(r" *[+-]?\d+ *"),
    "AS": re.compile(r"\d{3}[DWMY]"),
}
_BYTES = frozenset(("OB", "OW", "OF", "OD", "OL", "OV"))
#: Keywords of attributes with a rule in PS3.15 that hold a number of somebody or something.
_NUMBER_OF = re.compile(
    r"(ID|IDs|Identifier|Number|Numbers|Telephone\w*|Telecom\w*|Barcode\w*|Locator)$"
    r"|^(OtherPatientIDs|AccessionNumber|IssuerOf|Insurance)"
)
_PLACE_OF = re.compile(
    r"Address|Residence|^Institution|DepartmentName$|^StationName$|Location$|Occupation"
    r"|Organization"
)
#: Names, whatever their value representation says.
_NAMES = frozenset((0x00100010, 0x00101001, 0x00101005, 0x00101060, 0x00102297))
#: Where a UID stands in text: of several numbers, or under the root of a hash.
_UID = re.compile(r"(?<![\d.])[0-2](?:\.\d+){5,}|(?<![\d.])2\.25\.\d{8,}")
_CLASS = re.compile(r"[0-2](?:\.(?:0|[1-9]\d*)){3,}")
_GLUED = re.compile(r"\d(?:[\s./_:-]{0,2}\d)*")
#: Longest text of a rule's value that is looked for as a whole.
_LONGEST = 64
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


class Traces:
    """The values of one file that must not be quoted in what is left of it.

    Args:
        header: The original, with private elements.
        rules: Tags that PS3.15 takes away; their values name somebody.
        record: What the hospital's own record calls the patient, number and name.
    """

    def __init__(
        self, header: Dataset, rules: Mapping[int, str], record: Iterable[str] = ()
    ) -> None:
        self._whole: set[str] = set()  # words that count when they stand alone
        self._inside: set[str] = set()  # words that count inside a longer one
        self._long: set[str] = set()  # words that count across separators too
        self._short: set[str] = set()  # one or two letters
        self._codes: set[str] = set()  # short numbers with letters
        self._alnum: set[str] = set()
        self._digits: set[str] = set()
        self._uids: set[str] = set()
        self._instances: set[str] = set()
        #: Does the file say in a known way how its texts are coded? Else only ASCII is believed.
        self.sure = declared(header)
        days: set[Day] = set()
        others: set[Day] = set()
        self._born: set[Day] = set()
        for tag, vr, said, guessed in values_of(header):
            if guessed:
                if vr == "PN" or tag in _NAMES:
                    self._name(said, guessed=True)
            else:
                self._take(tag, vr, said, tag in rules, days)
        self._alternative(header, days, others)
        for said in record:
            self._name(said)
            self._number(said)
        self._dates = Dates(days, others, self._born)
        self._numbers = {int(d) for d in self._digits if len(d) <= 19} | self._dates.numbers
        self._judged: dict[tuple[str, str], bool] = {}

    # --- collecting ---------------------------------------------------------------------------

    def _take(self, tag: int, vr: str, said: str, ruled: bool, days: set[Day]) -> None:
        if vr == "PN" or tag in _NAMES:
            self._name(said)
        elif vr in ("DA", "DT"):
            day = read_day(said)
            if day is not None:
                days.add(day)
                if "Birth" in keyword_for_tag(tag):
                    self._born.add(day)
            else:
                self._name(said)  # something else was typed into it
        elif vr == "UI":
            uid = said.strip("\0 ")
            if not standard(uid) and len(uid) >= 8:
                self._uids.add(uid)
                if "Instance" in keyword_for_tag(tag) and "Class" not in keyword_for_tag(tag):
                    self._instances.add(uid)
        elif vr in _TEXT or vr in ("IS", "DS"):
            keyword = keyword_for_tag(tag)
            patient = tag >> 16 == 0x0010 and vr in ("LO", "SH", "LT", "ST", "UC")
            if not (ruled or patient):
                return
            if _PLACE_OF.search(keyword):
                self._place(said)
            elif _NUMBER_OF.search(keyword) or (patient and keyword in ("", "PatientID")):
                self._number(said)

    def _alternative(self, header: Dataset, days: set[Day], others: set[Day]) -> None:
        """(0010,0033) and (0010,0034): dates in the calendar that (0010,0035) names."""
        calendar = text(header, "PatientAlternativeCalendar")
        for keyword in (
            "PatientBirthDateInAlternativeCalendar",
            "PatientDeathDateInAlternativeCalendar",
        ):
            said = text(header, keyword)
            day = read_day(said)
            if day is not None:
                others.add(day)
                meant = gregorian(day, calendar)
                if meant is not None:
                    days.add(meant)
                    self._born.add(meant)
            elif len(said) >= 6:
                self._phrase(said)

    def _phrase(self, said: str) -> None:
        together = _letters(folded(said))
        if 6 <= len(together) <= _LONGEST:
            self._long.add(together)

    def _name(self, said: str, guessed: bool = False) -> None:
        """A person's name: each part, and parts written together.

        Args:
            guessed: Perhaps another character set's: short parts would be found anywhere.
        """
        for place, reading in enumerate(readings(said)):
            least = 4 if guessed or place > 1 or "\ufffd" in reading else 1
            for group in reading.split("="):
                # As it is written: Doe is no "do", to which it folds.
                parts = [p for p in _parts(group) if p.casefold() not in PARTICLES]
                parts = [p for p in parts if len(p) >= least or (_CJK.search(p) and len(p) > 1)]
                for part in parts:
                    self._word(part)
                self._together([folded(p) for p in parts[:6]])
                for component in group.split("^"):  # "van der Berg" as one word
                    self._phrase(component)
                undivided = re.sub("['\u2019`\u00b4]", "", group)
                if undivided != group:
                    for part in _parts(undivided):
                        self._word(part)

    def _together(self, parts: list[str]) -> None:
        for first in parts:
            for second in parts:
                if first == second:
                    continue
                joined = first + second
                if _CJK.search(joined) or len(joined) >= 6:
                    self._long.add(joined)
                elif len(joined) >= 4:
                    self._whole.add(joined)
                if len(first) >= 4 and not _CJK.search(joined):
                    self._whole |= {first + second[0], second[0] + first}

    def _word(self, part: str) -> None:
        form = folded(part)
        if not form or form in PLACEHOLDERS:
            return
        for latin in romanised(part):
            self._plain_word(folded(latin), len(latin))
        if "đ" in part.lower():
            self._plain_word(folded(part.lower().replace("đ", "dj")), len(part) + 1)
        if _CJK.search(form):
            (self._long if len(form) >= 2 else self._whole).add(form)
        else:
            self._plain_word(form, len(part))

    def _plain_word(self, form: str, length: int) -> None:
        if form in PARTICLES and length == len(form):
            return
        if length >= 6 and len(form) >= 5:
            self._long.add(form)
        elif length >= 5:
            self._inside.add(form)
        elif length >= 3:
            self._whole.add(form)
        elif length == 2 and len(form) == 2:
            self._short.add(form)

    def _number(self, said: str) -> None:
        for reading in readings(said):
            form = _letters(plain(reading))
            digits = re.sub(r"\D", "", form).lstrip("0")
            if "(0)" in reading:  # a trunk prefix, which nobody dials from abroad
                self._number(reading.replace("(0)", ""))
            if any(c.isdecimal() for c in form):
                if len(form) >= 5 and not form.isdecimal():
                    self._alnum.add(form)
                elif len(form) >= 3:
                    self._codes.add(form)
            if len(digits) >= 5:
                self._digits.add(digits)
                if len(digits) >= 9:  # of a telephone: without the country, and the area
                    self._digits |= {digits[-8:], digits[-7:]}
            elif len(digits) == 4 and form.isdecimal():
                self._codes.add(digits)
            for word in re.findall(r"[^\W\d_]+", reading):  # some number patients by their names
                if len(word) >= 4 and folded(word) not in GENERIC:
                    self._word(word)

    def _place(self, said: str) -> None:
        for reading in readings(said):
            words = re.findall(r"[^\W\d_]+", reading)
            if any(len(w) > 2 and folded(w) not in GENERIC for w in words):
                self._phrase(reading)
            for word in words:
                form = folded(word)
                if len(word) >= 4 and form not in GENERIC and form not in CLINICAL:
                    (self._inside if len(word) >= 5 else self._whole).add(form)
            for digits in re.findall(r"\d{5,}", plain(reading)):
                self._digits.add(digits)

    def is_class(self, value: Any) -> bool:
        """Is a value the identifier of a class: well formed, and neither of an instance of this
        file nor with a number of somebody in it?"""
        values = [value] if isinstance(value, str) else list(value or ())
        return all(_CLASS.fullmatch(uid) and (standard(uid) or self._impersonal(uid))
                   for uid in map(str, values))  # fmt: skip

    def _impersonal(self, uid: str) -> bool:
        parts = uid.split(".")
        return (
            len(uid) <= 64
            and uid not in self._instances
            and not any(n in part for n in self._digits for part in parts if len(n) >= 5)
            and not any(self._dates.quoted(part) for part in parts if len(part) >= 6)
        )

    # --- finding ------------------------------------------------------------------------------

    def in_element(self, element: DataElement) -> bool:
        """Does an element that stays quote somebody, or hold what nobody can judge?"""
        vr, value = element.VR, element.value
        if value is None or vr == "SQ":
            return False
        if isinstance(value, (bytes, bytearray, memoryview)) or vr in _BYTES:
            return isinstance(value, (bytes, bytearray)) and self.in_bytes(bytes(value))
        several = not isinstance(value, str) and hasattr(value, "__iter__")
        values = [str(v) for v in value] if several else [_said(value)]
        if vr in _FORMS:
            form = _FORMS[vr]
            return any(v.strip("\0 ") and (not form.fullmatch(v.strip("\0")) or self._is(v))
                       for v in values)  # fmt: skip
        if vr in NUMBERS:
            coded = packed(vr, value if several else [value])
            large = vr != "AT" and any(self._is(v, least=100_000) for v in values)
            return large or self.in_bytes(coded)
        if vr == "CS":
            values = [v for v in values if v.strip("\0 ") not in TERMS]
        return any(self.quoted(v, vr) for v in [*values, *([" ".join(values)] if several else ())])

    def _is(self, value: str, least: int = 1_000) -> bool:
        """Is a number one of those that must not be quoted?"""
        digits = re.sub(r"\D", "", value).lstrip("0")
        if len(digits) >= 6 and digits in self._digits:  # "553.0917"
            return True
        try:
            number = float(value)
        except ValueError:
            return True
        if number != number or abs(number) < least or not number.is_integer():
            return False
        return int(abs(number)) in self._numbers or (str(int(abs(number))) in self._codes)

    def quoted(self, said: str, vr: str = "LO") -> bool:
        """Does a text quote somebody, or hold what nobody can judge?"""
        known = self._judged.get((vr, said))
        if known is None:
            known = self._judged[vr, said] = self._quoted(said.strip("\0 "), vr)
        return known

    def _quoted(self, said: str, vr: str) -> bool:
        if not said.isascii() and (vr in _ASCII_ONLY or not self.sure or "\ufffd" in said):
            return True
        if any(unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in "\t\r\n\f" for c in said):
            return True
        return any(self._in(reading) for reading in readings(said))

    def _in(self, said: str) -> bool:
        dotted = re.sub(r"(?<=\d)[-_/,:](?=\d)", ".", said)
        if _UID.search(said) or any(uid in dotted for uid in self._uids):
            return True
        if self._dates.quoted(said):
            return True
        return self._number_in(said) or self._name_in(said)

    def _number_in(self, said: str) -> bool:
        form = plain(said)
        together = _letters(form)
        if any(n in together for n in self._alnum):
            return True
        words = re.findall(r"[^\W_]+", form)
        pairs = [a + b for a, b in pairwise(words) if not (a + b).isdecimal()]
        if self._codes.intersection(words) or self._codes.intersection(pairs):
            return True
        if self._digits.intersection(n.lstrip("0") for n in re.findall(r"\d+", form)):
            return True
        for run in _GLUED.findall(form):
            digits = re.sub(r"\D", "", run)
            for number in self._digits:
                if number in digits if len(number) >= 6 else number == digits.lstrip("0"):
                    return True
        return bool(self._codes & {_letters(w) for w in form.split()})

    def _name_in(self, said: str) -> bool:
        raw = _words_of(said)
        forms = {folded(w): w for w in raw}
        if forms.keys() & self._whole:
            return True
        short = forms.keys() & self._short
        # "li." is left in German; so written, a name of two letters needs another one beside it.
        if len(short) > 1 or any(not forms[s].islower() or s not in SHORT_WORDS for s in short):
            return True
        together = _letters(folded(said))
        if any(name in together for name in self._long):
            return True
        cut = re.findall(r"([^\W\d_]{4,})\.", said)  # abbreviated: "Quast."
        names = self._long | self._inside
        if any(n.startswith(folded(c)) for c in cut if folded(c) not in CLINICAL for n in names):
            return True
        for form in forms:
            if form in self._inside or form in self._long:
                return True
            if len(form) < 5 or form in CLINICAL:
                continue
            if any(name in form for name in self._inside):
                return True
            # A name cut off by the length of a field.
            if len(form) >= 6 and any(name.startswith(form) for name in self._long):
                return True
        return False

    def in_bytes(self, value: bytes) -> bool:
        """Do bytes that stay, of a table for instance, quote somebody in letters?"""
        for stretch in (value, value[::2], value[1::2]):
            for run in re.findall(rb"[\x20-\x7e\x80-\xff]{5,}", stretch):
                if b" " * 5 in run or len(set(run)) < 4:
                    continue
                for said in (run.decode("latin-1"), run.decode("utf-8", "ignore")):
                    together = _letters(folded(said))
                    if any(len(n) >= 5 and n in together for n in self._long | self._inside):
                        return True
                    together = _letters(plain(said))
                    if any(len(n) >= 6 and n in together for n in self._alnum | self._digits):
                        return True
        return False


def standard(uid: str) -> bool:
    """Is an identifier one of the standard's own, which names nobody?"""
    return UID(uid).name != uid


def _said(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _letters(said: str) -> str:
    return "".join(c for c in said if c.isalnum())


def _parts(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", unicodedata.normalize("NFKC", name))


@lru_cache(maxsize=2048)
def _words_of(said: str) -> tuple[str, ...]:
    """Words, and the parts of one in which capitals begin anew."""
    found = []
    for word in _parts(said):
        found.append(word)
        parts = re.findall(
            r"[A-Z\u00c0-\u00de]+(?![a-z\u00df-\u00ff])|[A-Z\u00c0-\u00de]?[a-z\u00df-\u00ff]+",
            word,
        )
        found += parts if len(parts) > 1 else []
    return tuple(dict.fromkeys(found))

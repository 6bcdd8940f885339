"""Dates as people write them: in any order, with month names, and in the calendars in use.

A date is a triple of year, month and day. ``Dates`` knows some and finds them in a text. Calendars:
Gregorian, Julian, Buddhist, Minguo, Japanese eras, Islamic (tabular, a day earlier and later
too, because sightings differ), Solar Hijri and Hebrew.

Source of the arithmetic: Richards, in Explanatory Supplement to the Astronomical Almanac, 3rd
edition, chapter 15; Reingold and Dershowitz, Calendrical Calculations, for Hebrew.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import pairwise

from engine.formats.spellings import folded

Day = tuple[int, int, int]

_MONTHS = (
    "january januar janvier enero gennaio janeiro januari tammikuu styczen stycznia leden "
    "ledna ocak январь января ianuarie ιανουαριος",
    "february februar fevrier febrero febbraio fevereiro februari helmikuu luty lutego unor "
    "unora subat февраль февраля februarie φεβρουαριος feber",
    "march marz mars marzo marco maart maerz maaliskuu marzec marca brezen brezna mart март "
    "марта martie μαρτιος",
    "april avril abril aprile huhtikuu kwiecien kwietnia duben dubna nisan апрель апреля "
    "aprilie απριλιος",
    "may mai mayo maggio maio mei maj toukokuu maja kveten kvetna mayis май мая μαιος",
    "june juni juin junio giugno junho kesakuu czerwiec czerwca cerven cervna haziran июнь "
    "июня iunie ιουνιος",
    "july juli juillet julio luglio julho heinakuu lipiec lipca cervenec cervence temmuz июль "
    "июля iulie ιουλιος",
    "august aout agosto augustus augusti elokuu sierpien sierpnia srpen srpna agustos август "
    "августа αυγουστος",
    "september septembre septiembre settembre setembro syyskuu wrzesien wrzesnia zari eylul "
    "сентябрь сентября septembrie σεπτεμβριος",
    "october oktober octobre octubre ottobre outubro lokakuu pazdziernik pazdziernika rijen "
    "rijna ekim октябрь октября octombrie οκτωβριος",
    "november novembre noviembre novembro marraskuu listopad listopada listopadu kasim ноябрь "
    "ноября noiembrie νοεμβριος",
    "december dezember decembre diciembre dicembre dezembro joulukuu grudzien grudnia "
    "prosinec prosince aralik декабрь декабря decembrie δεκεμβριος",
)
_OTHERS = (
    # Islamic
    "muharram", "safar", "rabi1", "rabi2", "jumada1", "jumada2", "rajab", "shaban", "ramadan",
    "shawwal", "dhulqada", "dhulhijja",
    # Solar Hijri
    "farvardin", "ordibehesht", "khordad", "tir", "mordad", "shahrivar", "mehr", "aban", "azar",
    "dey", "bahman", "esfand",
    # Hebrew, counted from Nisan
    "nisan", "iyar", "sivan", "tammuz", "av", "elul", "tishri", "heshvan", "kislev", "tevet",
    "shevat", "adar",
)  # fmt: skip
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
#: First days of the eras from Meiji on, and how they are abbreviated.
_ERAS = (date(1868, 1, 25), date(1912, 7, 30), date(1926, 12, 25), date(1989, 1, 8),
         date(2019, 5, 1))  # fmt: skip
_KANJI = {c: i for i, c in enumerate("〇一二三四五六七八九")}
_ARABIC_YEAR = (227013, 354.36667)  # first day of the Islamic calendar as an ordinal, days a year


def _month_names() -> dict[str, set[int]]:
    """Months by each prefix of three letters or more of their names."""
    found: dict[str, set[int]] = {}
    for number, names in enumerate(_MONTHS, 1):
        for name in map(folded, names.split()):
            for end in range(min(3, len(name)), len(name) + 1):
                found.setdefault(name[:end], set()).add(number)
    found |= {name: {number} for number, name in enumerate(_ROMAN, 1)}
    for place, name in enumerate(_OTHERS):
        found.setdefault(folded(name.rstrip("12")), set()).add(place % 12 + 1)
    return found


_NAMES = _month_names()


# --- calendars --------------------------------------------------------------------------------


def in_calendars(day: Day) -> set[Day]:
    """A Gregorian day in every calendar, with eras and two-digit years as further years."""
    try:
        ordinal = date(*day).toordinal()
    except (ValueError, OverflowError):
        return {day}
    year, month, dom = day
    found = {day, (year + 543, month, dom), _julian(ordinal), _solar_hijri(ordinal)}
    if year > 1911:
        found.add((year - 1911, month, dom))
    found |= {_islamic(ordinal + shift) for shift in (-1, 0, 1)}
    hebrew = _hebrew(ordinal)
    found |= {hebrew, (hebrew[0], (hebrew[1] + 5) % 12 + 1, hebrew[2])}  # counted from Tishri too
    begun = [era for era in _ERAS if era.toordinal() <= ordinal]
    if begun:
        found.add((year - begun[-1].year + 1, month, dom))
    return found


def gregorian(day: Day, calendar: str) -> Day | None:
    """A day of another calendar, named as in (0010,0035), as Gregorian; None where unknown."""
    year, month, dom = day
    name = calendar.upper()
    if "BUDDH" in name or "THAI" in name:
        return year - 543, month, dom
    if "ROC" in name or "MINGUO" in name or "TAIWAN" in name:
        return year + 1911, month, dom
    to, guess = None, 0
    if "ISLAM" in name or "HIJRI" in name or "MUSLIM" in name:
        to, guess = _islamic, int(_ARABIC_YEAR[0] + (year - 1) * _ARABIC_YEAR[1])
    if "PERSIAN" in name or "IRAN" in name or "SOLAR" in name or "JALALI" in name:
        to, guess = _solar_hijri, int((year + 621) * 365.2425)
    if "HEBREW" in name or "JEWISH" in name:
        to, guess = _hebrew, int((year - 3761) * 365.2425)
    if "JULIAN" in name:
        to, guess = _julian, int(year * 365.2425) - 366
    if to is None:
        return None
    for ordinal in range(max(1, guess - 420), min(guess + 800, date.max.toordinal())):
        if to(ordinal) == day:
            found = date.fromordinal(ordinal)
            return found.year, found.month, found.day
    return None


def _julian(ordinal: int) -> Day:
    julian_day = ordinal + 1721425
    c = julian_day + 32082
    d = (4 * c + 3) // 1461
    e = c - 1461 * d // 4
    m = (5 * e + 2) // 153
    return d - 4800 + m // 10, m + 3 - 12 * (m // 10), e - (153 * m + 2) // 5 + 1


def _islamic(ordinal: int) -> Day:
    julian_day = ordinal + 1721425
    n = julian_day - 1948440 + 10632
    cycle = (n - 1) // 10631
    n = n - 10631 * cycle + 354
    j = (10985 - n) // 5316 * (50 * n // 17719) + n // 5670 * (43 * n // 15238)
    n = n - (30 - j) // 15 * (17719 * j // 50) - j // 16 * (15238 * j // 43) + 29
    month = 24 * n // 709
    return 30 * cycle + j - 30, month, n - 709 * month // 24


def _solar_hijri(ordinal: int) -> Day:
    """By the 33-year rule, which holds from 1800 to 2256 Gregorian."""
    year = date.fromordinal(ordinal).year - 621
    while True:
        first = _solar_new_year(year)
        if first <= ordinal:
            break
        year -= 1
    rest = ordinal - first
    if rest < 186:
        return year, rest // 31 + 1, rest % 31 + 1
    return year, (rest - 186) // 30 + 7, (rest - 186) % 30 + 1


def _solar_new_year(year: int) -> int:
    leaps = (8 * year + 21) // 33
    return 226894 + 365 * (year - 1) + leaps + 1


def _hebrew_new_year(year: int) -> int:
    months = (235 * year - 234) // 19
    parts = 12084 + 13753 * months
    day = 29 * months + parts // 25920
    return day + 1 if 3 * (day + 1) % 7 < 3 else day


def _hebrew_start(year: int) -> int:
    before, here, after = (_hebrew_new_year(year + shift) for shift in (-1, 0, 1))
    late = 2 if after - here == 356 else 1 if here - before == 382 else 0
    return here + late - 1373427


def _hebrew(ordinal: int) -> Day:
    """Months counted from Nisan, Adar and Adar I as 12."""
    year = int((ordinal + 1373427) / 365.246822) + 1
    while _hebrew_start(year + 1) <= ordinal:
        year += 1
    while _hebrew_start(year) > ordinal:
        year -= 1
    length = _hebrew_start(year + 1) - _hebrew_start(year)
    leap = (7 * year + 1) % 19 < 7
    lengths = [(7, 30), (8, 30 if length % 10 == 5 else 29), (9, 29 if length % 10 == 3 else 30),
               (10, 29), (11, 30)]  # fmt: skip
    lengths += [(12, 30), (13, 29)] if leap else [(12, 29)]
    lengths += [(1, 30), (2, 29), (3, 30), (4, 29), (5, 30), (6, 29)]
    rest = ordinal - _hebrew_start(year)
    for month, days in lengths:
        if rest < days:
            return year, month, rest + 1
        rest -= days
    raise AssertionError("a Hebrew year ended early")


# --- in text ----------------------------------------------------------------------------------


def read_day(text: str) -> Day | None:
    """The day that a DICOM date, or a text that begins with one, names; None where it is none."""
    digits = re.match(r"(\d{4})[-./ ]?(\d{1,2})[-./ ]?(\d{1,2})", plain_digits(text).strip())
    if digits is None:
        return None
    year, month, dom = map(int, digits.groups())
    return (year, month, dom) if 1 <= month <= 13 and 1 <= dom <= 31 else None


def plain_digits(text: str) -> str:
    """A text with the digits of all scripts as ASCII, Chinese numerals in dates too."""
    wide = unicodedata.normalize("NFKC", text).replace("元年", "1年")
    wide = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in wide)
    return re.sub(
        r"[〇一二三四五六七八九十]+(?=[年月日])", lambda m: str(_kanji_number(m[0])), wide
    )


def _kanji_number(said: str) -> int:
    if "十" not in said:
        return int("".join(str(_KANJI[c]) for c in said))
    tens, _, ones = said.partition("十")
    first = _KANJI.get(tens[-1], 1) if tens else 1
    return first * 10 + (_KANJI.get(ones[0], 0) if ones else 0)


class Dates:
    """Days that must not be quoted.

    Args:
        days: Gregorian.
        others: As they stand in a file, of whatever calendar.
        born: Those of which month and year alone, or the day of the year, are a quote too.
    """

    def __init__(
        self, days: Iterable[Day], others: Iterable[Day] = (), born: Iterable[Day] = ()
    ) -> None:
        gregorian_days = set(days)
        self._triples = set(others)
        for day in gregorian_days:
            self._triples |= in_calendars(day)
        full = {f for y, m, d in self._triples for f in _orders(f"{y:04d}", f"{m:02d}", f"{d:02d}")}
        self._eight = {f for f in full if len(f) == 8}
        self._pairs: set[tuple[int, int]] = set()
        self._seven: set[str] = set()
        for year, month, dom in born:
            self._pairs |= {(year, month), (month, year)}
            with contextlib.suppress(ValueError):
                of_year = date(year, month, dom).timetuple().tm_yday
                self._pairs.add((year, of_year))
                self._seven.add(f"{year:04d}{of_year:03d}")
        self._six = {
            f
            for y, m, d in self._triples
            if y < 100 or (y, m, d) in gregorian_days
            for f in _orders(f"{y % 100:02d}", f"{m:02d}", f"{d:02d}")
        }
        self._orders = {
            order
            for y, m, d in self._triples
            for year in {y, y % 100}
            for order in ((year, m, d), (d, m, year), (m, d, year), (year, d, m))
        }

    @property
    def numbers(self) -> set[int]:
        """The days as whole numbers of eight or six digits, in the usual orders."""
        return {int(n) for n in self._eight | self._six}

    def quoted(self, text: str) -> bool:
        """Does a text name one of the days?"""
        if not self._triples:
            return False
        wide = plain_digits(text)
        for run in re.findall(r"\d{6,}", wide):
            if run in self._six or run in self._seven:
                return True
            if any(run[at : at + 8] in self._eight for at in range(len(run) - 7)):
                return True
        return any(self._named(run) for run in _runs(wide))

    def _named(self, run: list[frozenset[int]]) -> bool:
        if any((a, b) in self._pairs for one, two in pairwise(run)
               for a in one for b in two):  # fmt: skip
            return True
        return any(
            (a, b, c) in self._orders
            for one, two, three in zip(run, run[1:], run[2:], strict=False)
            for a in one
            for b in two
            for c in three
        )


def _orders(year: str, month: str, day: str) -> tuple[str, ...]:
    return year + month + day, day + month + year, month + day + year


def _runs(text: str) -> Iterator[list[frozenset[int]]]:
    """Numbers and months that follow each other with nothing but small words between."""
    run: list[frozenset[int]] = []
    for token in re.findall(r"\d+|[^\W\d_]+", text):
        if token.isdecimal():
            if len(token) <= 4:
                run.append(frozenset((int(token),)))
                continue
        else:
            months = _NAMES.get(folded(token))
            if months is not None:
                run.append(frozenset(months))
                continue
            if len(token) <= 5:
                continue
        if len(run) >= 2:
            yield run
        run = []
    if len(run) >= 2:
        yield run

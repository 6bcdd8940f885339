"""Dates of one patient, all shifted by the same number of days for one recipient.

How many days is a keyed hash: the same patient has another shift for another recipient, intervals
stay, and without the key nobody can undo it. Times of day stay as they are.

Source: PS3.15 annex E.3.6; PS3.5 6.2 for DA and DT.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from datetime import date, timedelta

from pydicom.dataelem import DataElement

#: Backwards by one to ten years, so that no date lies in the future.
_LEAST, _MOST = 366, 3652
_DA = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_DT = re.compile(r"(\d{4})(\d{2})(\d{2})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?(?:[+-]\d{4})?")
_TM = re.compile(r"\d{2}(?::?\d{2}(?::?\d{2}(?:\.\d{1,6})?)?)?")


@dataclass(frozen=True)
class Shift:
    """By how many days, backwards."""

    days: int = field(repr=False)

    @classmethod
    def of(cls, key: bytes) -> Shift:
        """The shift of one patient for one recipient.

        Args:
            key: Secret of both.
        """
        drawn = hmac.new(key, b"medsec/dates", hashlib.sha256).digest()
        return cls(_LEAST + int.from_bytes(drawn[:8]) % (_MOST - _LEAST + 1))

    def day(self, year: str, month: str, day: str) -> str:
        """A day as DICOM writes it. Raises ValueError, OverflowError."""
        moved = date(int(year), int(month), int(day)) - timedelta(days=self.days)
        return f"{moved.year:04}{moved.month:02}{moved.day:02}"


def shifted(element: DataElement, shift: Shift) -> DataElement | None:
    """A date, or date and time, on another day, a time as it is; None where it is none of these.

    Time zones go: they say where somebody is.
    """
    vr, value = element.VR, element.value
    if vr not in ("DA", "DT", "TM") or value is None or value == "":
        return None
    several = not isinstance(value, str) and hasattr(value, "__iter__")
    values = [str(v).strip("\0 ") for v in (value if several else [value])]
    try:
        moved = [_moved(vr, said, shift) for said in values]
    except (ValueError, OverflowError):
        return None
    return DataElement(element.tag, vr, moved if len(moved) > 1 else moved[0])


def _moved(vr: str, said: str, shift: Shift) -> str:
    """Raises ValueError where it is not of its form."""
    form = {"DA": _DA, "DT": _DT, "TM": _TM}[vr].fullmatch(said)
    if form is None:
        raise ValueError("not a date or time")
    if vr == "TM":
        return said
    return shift.day(*form.groups()[:3]) + ((form[4] or "") if vr == "DT" else "")

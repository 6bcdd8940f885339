"""Does a file's header name the patient under whose record it is to come in?

Number, name and date of birth are compared, each only where both sides say something. Names are
compared by their words, without accents, in any order: one side may have more of them. A record
holds an age: the person must have been so old at some time between the study and now, or a year
off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.formats.spellings import folded
from engine.records import Patient

_SLACK_YEARS = 1


def differences(patient: Patient, hints: Mapping[str, Any]) -> tuple[str, ...]:
    """In what a header differs from a record: of ``number``, ``name`` and ``birth date``.

    Args:
        hints: As of :func:`engine.formats.images.patient_hints`; empty for other files.
    """
    number, name = str(hints.get("id", "")).strip(), str(hints.get("name", ""))
    said = {
        "number": bool(number) and number.casefold() != patient.id.strip().casefold(),
        "name": _other_name(_words(name), _words(patient.name)),
        "birth date": _other_age(hints, patient),
    }
    return tuple(what for what, differs in said.items() if differs)


def _words(name: str) -> set[str]:
    return {folded(word) for word in re.findall(r"[^\W\d_]+", name)}


def _other_name(one: set[str], other: set[str]) -> bool:
    return bool(one and other) and not (one <= other or other <= one)


def _other_age(hints: Mapping[str, Any], patient: Patient) -> bool:
    born = re.sub(r"\D", "", str(hints.get("birth_date", "")))
    if patient.age is None or len(born) != 8:
        return False
    now = (int(f"{patient.updated_at:%Y%m%d}") - int(born)) // 10_000
    then = hints.get("age")
    ages = [now, then if isinstance(then, int) else now]
    return not min(ages) - _SLACK_YEARS <= patient.age <= max(ages) + _SLACK_YEARS

"""Patient numbers that stand for no patient, as de-identified files have them.

Everybody's number is the same then: a record under it would be of many people.
"""

from __future__ import annotations

import re

from engine.formats.spellings import folded, plain

_SAID = (
    "anon anonym anonyme anonymus anonymous anonymize anonymized anonymise anonymised "
    "anonymisiert anonymisé anónimo anonimo anonimizado anonimizzato anonymisation "
    "anonymization deidentified deid pseudonymized pseudonymised unknown unbekannt inconnu "
    "desconocido desconhecido sconosciuto onbekend nieznany none null nil nan na undefined "
    "unspecified unnamed noname removed entfernt deleted gelöscht redacted masked hidden "
    "withheld blanked cleared empty blank missing default placeholder confidential available "
    "applicable no not id nr number pid patient patientid patid patientennummer"
)
#: Words for nobody and for what was removed, alone or joined.
_WORDS = frozenset(map(folded, _SAID.split()))
#: In a file, so many of one character are taken for a stand-in.
_REPEATED = 3


def is_stand_in(number: str) -> bool:
    """Does a patient number, by itself, name nobody?

    It has no letter or digit (``***``, ``-``), only zeros or only the letter X, or only words of
    those who removed it (``N/A``, ``Patient ID removed``).
    """
    words = re.findall(r"[^\W_]+", plain(number))
    joined = "".join(words)
    if not joined.strip("0") or not joined.strip("x"):
        return True
    return folded(joined) in _WORDS or all(folded(word) in _WORDS for word in words)


def may_be_stand_in(number: str) -> bool:
    """Is a number in a file, by itself, perhaps one: also one character again and again?

    A person may mean 111 or 7777. Of a file with it, a person has to say whose it is.
    """
    joined = re.sub(r"[\W_]", "", plain(number))
    return is_stand_in(number) or (len(joined) >= _REPEATED and len(set(joined)) == 1)

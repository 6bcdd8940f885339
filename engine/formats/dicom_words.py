"""Texts without the words that name somebody: names, numbers, dates, addresses.

Words are found in three ways: the values of the file's own header and of the hospital's record
(:mod:`engine.formats.dicom_traces`), their spellings and combinations; patterns of what names
somebody whoever it is (a title with a name, a telephone number, an address of a mailbox, a date);
and, where what is left still quotes somebody, the whole text goes.
"""

from __future__ import annotations

import re

from engine.formats.dicom_traces import Traces

#: Most words that are judged together: a date in words, a number in groups, a name of many parts.
_TOGETHER = 6
#: Longest text that is cleaned word by word; a longer one is no descriptor, and goes.
_LONGEST = 10_240
_NAME = r"[A-Z\u00c0-\u00de][\w'\u2019.-]*"
_TITLES = r"(?:Dr|Prof|Mr|Mrs|Ms|Miss|Mme|Herrn?|Frau|Sir|Schwester|Pfleger|Nurse)"
_SIGNED = (
    r"(?:physician|referrer|technologist|radiologist|doctor|surgeon|attending|performed by|read by"
    r"|seen by|signed by|dictated by|requested by|reviewed by|verified by|referred by)"
)
_ROLES = (
    rf"(?:{_SIGNED}|patient(?:in)?|patient name|referring|operator|reader|arzt|\u00e4rztin|nurse"
    r"|contact|attn)"
)
_MONTH = r"(?:jan|feb|m[a\u00e4]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-z]*"
_PATTERNS = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"\S{65,}", 0),  # a word that nobody types: coded bytes
        (r"https?://\S+|www\.\S+", re.I),  # addresses of pages and mailboxes
        (r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+", 0),
        (r"[^\W\d_]+(?:\^+[^\W\d_]+)+\^*", 0),  # a name as DICOM writes it
        (rf"\b{_TITLES}\b\.?(?:\s+(?:med|dent|rer|nat|phil|h\.?c)\b\.?)*(?:\s+{_NAME}){{1,3}}", 0),
        (rf"\b(?i:{_ROLES})\s*[:=]\s*{_NAME}(?:,?\s+{_NAME}){{0,3}}", 0),
        (rf"\b(?i:{_SIGNED})\s+{_NAME}(?:\s+{_NAME})+", 0),
        (r"\b\d{3}-\d{2}-\d{4}\b", 0),  # social security number of the United States
        (r"\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b", 0),  # dates
        (r"\b\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})\b", 0),
        (r"\b(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{4,6})?\b", 0),
        (rf"\b\d{{1,2}}\.?(?:st|nd|rd|th)?[ -]{_MONTH}\.?,?[ -]\d{{2,4}}\b", re.I),
        (rf"\b{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}\b", re.I),
        (r"(?i:\b(?:mrn|ssn|pid|pat\.? ?id|patient ?id|acc(?:ession)?|dob|born|geb|case|fall)\b)"
         r"\.?\s*(?:no|nr|number|#)?\.?\s*[:#=]?\s*[\w-]*\d[\w./-]*", 0),
        (r"\+\d[\d ()./-]{6,}\d", 0),  # telephone numbers
        (r"\(\d{2,5}\)\s?\d[\d ./-]{4,}\d", 0),
        (r"\b\d{3}[-. ]\d{3}[-. ]\d{4}\b", 0),
        (r"\b(?:tel|fax|phone|mobile|pager)\b\.?\s*[:#]?\s*[\d+(][\d ()./-]{3,}\d", re.I),
        (r"\b\d{1,5}[a-z]?\s+(?:[A-Z][\w.-]+\s+){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive"
         r"|Dr|Boulevard|Blvd|Way|Court|Ct|Place|Square)\b\.?(?:,?\s+[A-Z][\w-]+)?"
         r"(?:,?\s+[A-Z]{2})?(?:\s+\d{5}(?:-\d{4})?)?", 0),
        (r"\b[A-Z\u00c4\u00d6\u00dc][\w\u00e4\u00f6\u00fc\u00df-]*(?:stra(?:\u00dfe|sse)|str\.|weg|platz|gasse|allee)\s+\d{1,4}[a-z]?"
         r"(?:,?\s+\d{5}\s+[A-Z]\w+)?", 0),
        (r"\b[A-Z]{0,4}\d{7,}[A-Z]?\b", 0),  # numbers too long to measure anything
        (r"(?<![\d.])[0-2](?:\.\d+){5,}", 0),  # unique identifiers
    )
)  # fmt: skip
_EDGES = " \t,;:/|_-#=&+^\\"


def cleaned(said: str, traces: Traces) -> str:
    """A text without what names somebody; empty where nothing else is left, or where in doubt."""
    if len(said) > _LONGEST:
        return ""
    for pattern in _PATTERNS:
        said = pattern.sub(" ", said)
    if traces.quoted(said):
        said = _without_quotes(said, traces)
    return _tidy(said)


def _without_quotes(said: str, traces: Traces) -> str:
    """Without the fewest neighbouring words that quote somebody, again and again."""
    words = re.findall(r"\S+", said)
    gone = True
    while gone and words:
        gone = False
        for count in range(1, min(_TOGETHER, len(words)) + 1):
            at = next(
                (i for i in range(len(words) - count + 1)
                 if traces.quoted(" ".join(words[i : i + count]))),
                None,
            )  # fmt: skip
            if at is not None:
                words[at : at + count] = _halved(words[at], traces) if count == 1 else []
                gone = True
                break
    left = " ".join(words)
    return "" if traces.quoted(left) else left


def _halved(word: str, traces: Traces) -> list[str]:
    """Of a word of several parts ("CT_Muster_Thorax"), those that quote nobody."""
    parts = re.split(r"[_/\\,;:|()\[\]=-]+", word)
    if len(parts) == 1:
        return []
    left = " ".join(p for p in parts if p and not traces.quoted(p))
    return [] if not left or traces.quoted(left) else left.split()


def _tidy(said: str) -> str:
    said = re.sub(r"[ \t]+", " ", said)
    said = re.sub(r"\(\s*\)|\[\s*\]", "", said)
    said = re.sub(r"\s+([,;:])", r"\1", said)
    said = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", said)
    return re.sub(r" {2,}", " ", said).strip(_EDGES)

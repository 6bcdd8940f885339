"""The file in which a learned version travels: its card in one line of JSON, then its ONNX.

``medsec learn`` writes it on the machine that trains; an administrator gives it to the server. It
holds weights and figures, and no picture. What it says is checked; what it cannot be checked for
here, how the network does on the shipped sets, is why a second administrator looks at it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.detect.own_versions import LICENCE, OwnVersion, version_name
from engine.errors import CandidateWorse, InputError

SUFFIX = ".medsec-network"
_HEAD = b"MEDSEC-NETWORK 1\n"
MOST_CARD_BYTES = 100_000
MOST_ROWS = 500

#: Figures of a set, by name, of two versions.
Figures = Mapping[str, float]


@dataclass(frozen=True)
class SetFigures:
    """How two versions do on one set of pictures.

    Args:
        shipped: Does everybody have this set? Else it is made of kept cases.
        base, candidate: Figures of ``model.evaluate``.
        lost: Lines that name a patient, of which the candidate hides less than the base does.
    """

    shipped: bool
    base: Figures
    candidate: Figures
    lost: int


@dataclass(frozen=True)
class NetworkCard:
    """What is known of a learned version.

    Args:
        base: Name of the version that it was learned from.
        made_at: As the clock of the machine that trained said, ISO 8601.
        made_by: Release of MedSec.
        data: Counts of what it was learned from.
        training: Values of the training.
        sets: Figures by the name of a set.
    """

    sha256: str
    base: str
    made_at: str
    made_by: str
    licence: str
    data: Mapping[str, float]
    training: Mapping[str, float]
    devices: Mapping[str, int]
    sets: Mapping[str, SetFigures]

    @property
    def name(self) -> str:
        """The version's name."""
        return version_name(self.sha256)

    def to_json(self) -> dict[str, Any]:
        return {
            "sha256": self.sha256,
            "base": self.base,
            "made_at": self.made_at,
            "made_by": self.made_by,
            "licence": self.licence,
            "data": dict(self.data),
            "training": dict(self.training),
            "devices": dict(self.devices),
            "sets": {
                name: {
                    "shipped": found.shipped,
                    "base": _finite(found.base),
                    "candidate": _finite(found.candidate),
                    "lost": found.lost,
                }
                for name, found in self.sets.items()
            },
        }

    @classmethod
    def from_json(cls, said: Any) -> NetworkCard:
        """Raises InputError where it is no card."""
        try:
            sets = {
                _word(name): SetFigures(
                    bool(found["shipped"]),
                    _numbers(found["base"]),
                    _numbers(found["candidate"]),
                    int(found["lost"]),
                )
                for name, found in _rows(said["sets"])
            }
            return cls(
                sha256=str(said["sha256"])[:64],
                base=_word(said["base"]),
                made_at=_word(said["made_at"]),
                made_by=_word(said["made_by"]),
                licence=_word(said["licence"]),
                data=_numbers(said["data"]),
                training=_numbers(said["training"]),
                devices={_word(name): int(count) for name, count in _rows(said["devices"])},
                sets=sets,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise InputError(_NO_FILE) from err

    def refuse_worse(self) -> None:
        """Raises CandidateWorse where it hides less of what names a patient, on a shipped set."""
        lost = {n: found.lost for n, found in self.sets.items() if found.lost and found.shipped}
        if lost:
            raise CandidateWorse(
                "This version hides less of a line that names a patient than the one in force. It"
                " is not taken. Learn from more cases, or with another seed.",
                **lost,
            )


@dataclass(frozen=True)
class LearnedFile:
    """A version with its card."""

    card: NetworkCard
    version: OwnVersion = field(repr=False)

    @classmethod
    def made(cls, card: NetworkCard, onnx: bytes) -> LearnedFile:
        return cls(card, OwnVersion(card.name, card.sha256, onnx))

    def to_bytes(self) -> bytes:
        text = json.dumps(self.card.to_json(), ensure_ascii=True).encode()
        return _HEAD + text + b"\n" + self.version.onnx


_NO_FILE = "This is not a version of MedSec's network. Choose the file that medsec learn wrote."


def read_learned(data: bytes) -> LearnedFile:
    """Read such a file.

    Raises:
        InputError: It is none, or was altered.
    """
    if not data.startswith(_HEAD):
        raise InputError(_NO_FILE)
    end = data.find(b"\n", len(_HEAD), len(_HEAD) + MOST_CARD_BYTES)
    if end < 0:
        raise InputError(_NO_FILE)
    try:
        said = json.loads(data[len(_HEAD) : end])
    except (ValueError, RecursionError) as err:
        raise InputError(_NO_FILE) from err
    card, onnx = NetworkCard.from_json(said), data[end + 1 :]
    if hashlib.sha256(onnx).hexdigest() != card.sha256:
        raise InputError("The network does not match its card. Copy the file again.")
    if card.licence != LICENCE:
        raise InputError(f"A version of MedSec's network is under {LICENCE}.")
    return LearnedFile.made(card, onnx)


def _rows(said: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if len(said) > MOST_ROWS:
        raise ValueError("too many rows")
    return list(said.items())


def _word(said: object) -> str:
    if not isinstance(said, str) or len(said) > 200:
        raise ValueError("not a short text")
    return said


def _numbers(said: Mapping[str, Any]) -> dict[str, float]:
    found = {_word(name): float(value) for name, value in _rows(said)}
    return _finite(found)


def _finite(found: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}

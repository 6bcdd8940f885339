"""Learned versions for tests: the shipped weights with another description, and cards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx

from engine.detect.detector import Profile
from engine.detect.learned_files import LearnedFile, NetworkCard, SetFigures
from engine.detect.own_versions import LICENCE, shipped_name
from engine.errors import DetectorError
from engine.installation import MODEL
from engine.records import Detection
from engine.settings import Settings
from tests.fakes import ScriptedDetector


@cache
def weights(number: int = 1) -> bytes:
    """A network that finds what the shipped one finds, under another digest."""
    model = onnx.load(str(MODEL / "best.onnx"))
    model.metadata_props.add(key="cycle", value=str(number))
    return model.SerializeToString()


def learned(number: int = 1, lost: int = 0, **given: Any) -> LearnedFile:
    """A version as ``medsec learn`` writes it."""
    content = weights(number)
    figures = {"text: covered to 80%": 0.9}
    facts: dict[str, Any] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "base": shipped_name(),
        "made_at": "2026-01-01T00:00:00+00:00",
        "made_by": "MedSec 0",
        "licence": LICENCE,
        "data": {"frames learnt from": 8.0, "patients": 4.0},
        "training": {"epochs": 1.0},
        "devices": {"ACME Dotter": 8},
        "sets": {
            "held-out cases": SetFigures(False, {"text: covered to 80%": 0.1}, figures, 0),
            "real": SetFigures(True, figures, figures, lost),
        },
    }
    return LearnedFile.made(NetworkCard(**{**facts, **given}), content)


class VersionedDetector(ScriptedDetector):
    """Finds what a test says of each version; an exception class makes one fail.

    Args:
        by_version: By the name of a learned version; others find ``found``.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.by_version: Mapping[str, list[Detection] | type[DetectorError]] = {}

    def detect(
        self,
        frame: Callable[[int], np.ndarray],
        frames: int,
        profile: Profile,
        progress: Callable[[str, float], None] | None = None,
        scene: bool = True,
    ) -> list[Detection]:
        found = self.by_version.get(self.version, self.found)
        if isinstance(found, type):
            raise found("This version does not run.")
        return list(found)

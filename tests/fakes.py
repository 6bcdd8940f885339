"""Stand-ins for the outside world: a host with a clock to turn and repeatable randomness."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from engine.detect.detector import Detector, Profile
from engine.detect.text_verdict import Judgement, Known
from engine.errors import DetectorError
from engine.host import FileStore, Folder, Host
from engine.records import Detection, Region, TextVerdict
from engine.settings import Settings


class FakeHost(Host):
    """Real files, but a clock and randomness that tests control."""

    def __init__(self, files: Path | FileStore, seed: str = "seed") -> None:
        super().__init__(files)
        self.clock = datetime(2026, 1, 1, 12, 0, 0)  # noqa: DTZ001 (UTC without zone, as stored)
        self._seed = seed
        self.drawn = 0

    def path(self, address: str) -> Path:
        """Where a stored file lies."""
        assert isinstance(self.files, Folder)
        return self.files.root / address[:2] / address

    def now(self) -> datetime:
        return self.clock

    def advance(self, **delta: float) -> None:
        self.clock += timedelta(**delta)

    def random(self, count: int) -> bytes:
        out = b""
        while len(out) < count:
            self.drawn += 1
            out += hashlib.sha256(f"{self._seed}/{self.drawn}".encode()).digest()
        return out[:count]


class ScriptedDetector(Detector):
    """Finds what a test tells it to, so that the rules around a detector can be tested.

    Args:
        found: What ``detect`` answers; an exception class makes it fail.
        left: What ``rescan`` answers, one list per call; then nothing.
    """

    def __init__(
        self,
        settings: Settings,
        found: Sequence[Detection] | type[DetectorError] = (),
        left: Sequence[Sequence[Detection]] = (),
    ) -> None:
        super().__init__(settings, Detector.open(settings).profiles)
        self.found = found
        self.left = list(left)
        #: What ``judge`` answers for a box: the verdict, and the side of a marker.
        self.verdicts: dict[tuple[int, ...], tuple[TextVerdict, str] | tuple[TextVerdict]] = {}
        self.known = Known(())  # what it was told of the patient

    def detect(
        self,
        frame: Callable[[int], np.ndarray],
        frames: int,
        profile: Profile,
        progress: Callable[[str, float], None] | None = None,
        scene: bool = True,
    ) -> list[Detection]:
        if isinstance(self.found, type):
            raise self.found("The network does not run.")
        assert frame(0).dtype == np.uint8
        # It is asked for each way in which the image can be shown, some of fewer frames.
        return [
            replace(d, region=d.region.on_frames(d.region.frame, min(d.region.frame_end, frames)))
            for d in self.found
            if d.region.frame < frames
        ]

    def judge(
        self, picture: np.ndarray, regions: Sequence[Region], known: Known
    ) -> list[Judgement]:
        assert picture.dtype == np.uint8
        self.known = known
        return [Judgement(*self.verdicts.get(r.xyxy, (TextVerdict.UNKNOWN,))) for r in regions]

    def rescan(
        self,
        frame: Callable[[int], np.ndarray],
        frames: int,
        hidden: Sequence[Region],
        profile: Profile,
        scene: bool = True,
    ) -> list[Detection]:
        return list(self.left.pop(0)) if self.left else []

"""Learn from kept cases: fine-tune, measure beside the version in force, and write a candidate.

    python cli.py learn DIR --to-key FILE --out candidate.medsec-network

Runs where exported cases may be opened. Patients' pixels stay in memory. What is written is the
weights and a card of figures. A candidate that hides less of a line that names a patient, on a set
that ships with the project, is refused.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import numpy as np

from engine.detect.detector import Detector
from engine.detect.learned_files import SUFFIX, LearnedFile, NetworkCard, SetFigures, read_learned
from engine.detect.own_versions import LICENCE, OwnVersion, shipped_name, version_name
from engine.errors import InputError
from engine.geometry import CORNERS, coverage
from engine.host import forbid_core_dumps
from engine.installation import MODEL, version
from engine.records import Detection
from engine.settings import Settings
from model.cases import Lesson, crops_of, parted, read_cases
from model.data import Sample, samples
from model.evaluate import LEVELS, Padding, Seen, Whole, look_over, measure
from model.joined import joined, learned_part
from model.memory_training import FineTuning, fine_tune
from model.shipped_sets import DRAWN_PAGES, shipped

Tell = Callable[[str], None]
HELD_OUT = "held-out cases"
#: Figures of a card.
KEPT = (
    "pictures", "text: true boxes", "text: precision (IoU 0.5)", "text: recall (IoU 0.5)",
    "text: covered to 50%", "text: covered to 80%", "text: covered to 95%",
    "barcode: true boxes", "barcode: covered to 80%", "patient data: true boxes",
    "patient data: covered to 50%", "patient data: covered to 80%", "patient data: covered to 95%",
    "falsely masked area, mean share", "text-free pictures",
    "text-free pictures with a text mask",
)  # fmt: skip


@dataclass(frozen=True)
class Learning:
    """How much is learnt and measured.

    Args:
        crops: Cut from each frame of a case.
        drawn: Drawn crops for each of these, so that nothing is forgotten.
        pages: Drawn pages that are measured on.
        files: Of the real set, that are measured on; 0 takes all.
        profile: Of the whole detector that is measured.
    """

    tuning: FineTuning = FineTuning()
    crops: int = 8
    drawn: float = 0.5
    pages: int = DRAWN_PAGES
    files: int = 0
    profile: str = "general"


def learn(folder: Path, key_file: Path, how: Learning, tell: Tell) -> LearnedFile:
    """A candidate from a folder of exported cases.

    Args:
        folder: As ``training-export`` wrote it; if the version in force is a learned one, it lies
            there too.

    Raises:
        InputError: No cases, or of too few patients.
        SealBroken: A case was sealed to another key, or altered.
        CandidateWorse: It hides less of what names a patient, on a shipped set.
        SettingsError: A package that training needs is missing.
    """
    forbid_core_dumps()
    base = version_in_force(folder)
    learnt, kept = parted(read_cases(folder, key_file))
    tell(f"{len(learnt)} frames to learn from, {len(kept)} to measure on")
    own = [crop for lesson in learnt for crop in crops_of(lesson, how.crops, how.tuning.seed)]
    if not own:
        raise InputError("No case shows text or a code that could be learnt.")
    drawn = drawn_crops(round(len(own) * how.drawn), how.tuning.seed)
    tell(f"{len(own)} crops of cases and {len(drawn)} drawn ones")
    with _weights(base) as start:
        tuned = fine_tune([*own, *drawn], start, how.tuning)
    data = {
        "patients": len({lesson.group for lesson in (*learnt, *kept)}),
        "frames learnt from": len(learnt),
        "frames measured on": len(kept),
        "crops of cases": len(own),
        "drawn crops": len(drawn),
    }
    devices = Counter(lesson.device or "unnamed" for lesson in learnt)
    onnx = joined((MODEL / "best.onnx").read_bytes(), tuned)
    sha256 = hashlib.sha256(onnx).hexdigest()
    found = OwnVersion(version_name(sha256), sha256, onnx)
    card = NetworkCard(
        sha256=sha256,
        base=shipped_name() if base is None else base.name,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        made_by=f"MedSec {version()}",
        licence=LICENCE,
        data=data,
        training={k: float(v) for k, v in asdict(how.tuning).items() if not isinstance(v, str)},
        devices=devices,
        sets=_Measuring(base, kept, how).beside(found, tell),
    )
    card.refuse_worse()
    return LearnedFile.made(card, onnx)


def version_in_force(folder: Path) -> OwnVersion | None:
    """The learned version that was exported with the cases; None where the shipped one is in force.

    Raises:
        InputError: There are several, or one was altered.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise InputError("The folder has several versions. Keep the one that is in force.")
    return read_learned(files[0].read_bytes()).version if files else None


@contextmanager
def _weights(base: OwnVersion | None) -> Iterator[Path]:
    """A file of the weights to start from."""
    if base is None:
        yield MODEL / "best.pt"
        return
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(learned_part(base.onnx))
        file.flush()
        yield Path(file.name)


def drawn_crops(count: int, seed: int) -> list[Sample]:
    """Crops of drawn pages, of other pages for each seed."""
    made: list[Sample] = []
    first = Random(seed).randrange(10**6)
    number = 0
    while len(made) < count:
        made += samples(seed, first + number, "train", [], 3)
        number += 1
    return made[:count]


class _Measuring:
    """Versions on the held-out cases and on every shipped set, as a whole detector.

    Args:
        base: Measured once; all others are held against it.
    """

    def __init__(self, base: OwnVersion | None, kept: Sequence[Lesson], how: Learning) -> None:
        settings = Settings(threads=how.tuning.threads, profile=how.profile)
        self._detector = Detector.open(settings)
        self._profile = self._detector.profiles[how.profile]
        share, least = self._profile.padding, self._profile.padding_min_px
        self._padding = Padding(
            settings.padding if share is None else share,
            settings.padding_min_px if least is None else least,
        )
        cases = [as_whole(lesson) for lesson in kept]
        sets = {name: list(draw()) for name, draw in shipped(how.pages, how.files).items()}
        self._sets = {HELD_OUT: cases, **sets}
        self._base = {name: self._seen(base, whole) for name, whole in self._sets.items()}

    def _seen(self, own: OwnVersion | None, pictures: Sequence[Whole]) -> list[Seen]:
        runs = self._detector.running(own)

        def look(picture: np.ndarray) -> list[Detection]:
            boxes = runs.detect(lambda _: picture, 1, self._profile)
            return [d for d in boxes if self._profile.seals(d)]

        return look_over(pictures, look, ("text", "barcode"))

    def beside(self, found: OwnVersion, tell: Tell) -> dict[str, SetFigures]:
        """A version's figures beside those of the base."""
        table = {}
        for name, pictures in self._sets.items():
            both = (self._base[name], self._seen(found, pictures))
            figures = [measure(seen, 0.0, self._padding).figures for seen in both]
            # Of what nothing was found, there is no precision.
            before, after = (
                {k: float(f[k]) for k in KEPT if math.isfinite(f.get(k, math.nan))} for f in figures
            )
            lost = lost_lines(*both, self._padding)
            table[name] = SetFigures(name != HELD_OUT, before, after, lost)
            tell(f"{name}: {_line(table[name])}")
        return table


def _line(found: SetFigures) -> str:
    key = "text: covered to 80%"
    before, after = found.base.get(key, 1.0), found.candidate.get(key, 1.0)
    return f"lines covered {before:.3f} -> {after:.3f}, lines of patients lost {found.lost}"


def as_whole(lesson: Lesson) -> Whole:
    """A held-out case as :mod:`model.evaluate` measures it; each of its boxes names a patient."""
    truth = [
        {"class": name, **dict(zip(CORNERS, box, strict=True)), "patient": name == "text"}
        for name, *box in lesson.boxes
    ]
    return Whole(lesson.name, lesson.pixels, truth, ["text", "barcode"])


def lost_lines(base: Sequence[Seen], candidate: Sequence[Seen], padding: Padding) -> int:
    """Lines that name a patient and of which the candidate hides a smaller level than the base."""
    lost = 0
    for before, after in zip(base, candidate, strict=True):
        masks = [seen.masks("text", 0.0, padding) for seen in (before, after)]
        for box in before.patient:
            levels = [sum(coverage(box, m) >= level for level in LEVELS) for m in masks]
            lost += levels[1] < levels[0]
    return lost

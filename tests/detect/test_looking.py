"""Networks look at pixels in a process without keys, and only boxes and verdicts come back."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engine.detect import looking
from engine.detect.detector import Detector, Profile
from engine.detect.looking import Ask, NetworksApart
from engine.detect.text_verdict import Known
from engine.errors import CorruptImage, DetectorError, ImageTooLarge, MachineOverloaded
from engine.formats import sandbox
from engine.host import Folder
from engine.operations import worker
from engine.operations.worker import WorkerSetup
from engine.records import Detection, Region
from engine.settings import Settings

ROOT = Path(__file__).parents[2]
PROFILE = Profile("p", "P", ("text", "barcode"), ("ppocr", "yolov8n", "zxing"))
ASK = Ask(("ppocr",), 0.1, True)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    noise = np.random.default_rng(0).normal(90, 20, (320, 512)).clip(0, 255).astype(np.uint8)
    drawn = np.stack([cv2.GaussianBlur(noise, (0, 0), 3)] * 3, axis=2)
    for row, words in enumerate(("NOWAK^JAN 1979-08-30", "ID 4711 ST MARY", "L", "kVp 80")):
        at = (20, 40 + 60 * row)
        cv2.putText(drawn, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255,) * 3, 2)
    return drawn


def look(detector: Detector, picture: np.ndarray) -> tuple[list[Detection], ...]:
    found = detector.detect(lambda _: picture, 1, PROFILE)
    left = detector.rescan(lambda _: picture, 1, [found[0].region], PROFILE)
    return found, left


def test_the_process_without_keys_sees_what_this_one_sees(picture: np.ndarray) -> None:
    settings = Settings(threads=2)
    apart, here = Detector(settings, {}, apart=True), Detector(settings, {})
    assert isinstance(apart.looking, NetworksApart)
    assert look(apart, picture) == look(here, picture) != ([], [])
    boxes = [d.region for d in look(here, picture)[0]]
    known = Known(("Jan Nowak",))
    judged = apart.judge(picture, boxes, known)
    assert judged == here.judge(picture, boxes, known)
    assert {"identifying", "harmless"} <= {str(j.verdict) for j in judged}
    assert apart.opened == here.opened


def test_what_was_read_stays_in_that_process(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    receive = sandbox._receive

    def heard(channel: Any) -> Any:
        said.append(receive(channel))
        return said[-1]

    monkeypatch.setattr(sandbox, "_receive", heard)
    apart = Detector(Settings(threads=2), {}, apart=True)
    found = apart.detect(lambda _: picture, 1, PROFILE)
    apart.judge(picture, [d.region for d in found], Known(("Jan Nowak",)))
    assert len(said) >= 3
    text = json.dumps(said).lower()
    assert "identifying" in text  # so this is where its answers pass
    for words in ("nowak", "jan", "1979", "4711", "kvp"):
        assert words not in text


def test_a_server_never_loads_what_looks_at_pixels() -> None:
    code = (
        "import sys, numpy, engine\n"
        "from engine.detection import Detector\n"
        "detector = Detector.open(engine.Settings(threads=1))\n"
        "picture = numpy.zeros((64, 64, 3), numpy.uint8)\n"
        "detector.detect(lambda i: picture, 1, detector.profiles['general'])\n"
        "assert detector.opened\n"
        "loaded = {'torch', 'openvino', 'zxingcpp', 'onnx'} & set(sys.modules)\n"
        "sys.exit(', '.join(loaded) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_that_process_is_confined_like_decoders() -> None:
    from engine.formats import images

    assert looking._SANDBOX.held() == images.confinement()


def test_workers_of_a_batch_look_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_HERE", None)
    settings = Settings()
    WorkerSetup.of(settings, {"p": PROFILE}, partial(Folder, tmp_path), 1)()
    assert worker._HERE is not None
    assert isinstance(worker._HERE.context.detector.looking, NetworksApart)


class Taken:
    """A process that was taken over, and says what a test tells it to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def call(self, *_: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def apart(answer: Any) -> NetworksApart:
    return NetworksApart(1, Taken(answer))  # type: ignore[arg-type]


RIGHT = ("ppocr", "text", 1.0, 2.0, 3.0, 4.0, 0.5)


def test_a_right_answer_is_taken() -> None:
    [(name, finding)] = apart((RIGHT,)).look(ASK, np.zeros((9, 9, 3), np.uint8))
    assert (name, finding.label, *finding.xyxy, finding.confidence) == RIGHT


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "boxes",
        {"boxes": ()},
        (None,),
        (RIGHT[:-1],),
        ((*RIGHT, 0.1),),
        (("yolov8n", *RIGHT[1:]),),  # a network that was not asked
        (("ppocr", 7, *RIGHT[2:]),),
        ((*RIGHT[:2], math.nan, *RIGHT[3:]),),
        ((*RIGHT[:2], math.inf, *RIGHT[3:]),),
        ((*RIGHT[:2], 1e9, *RIGHT[3:]),),
        ((*RIGHT[:2], True, *RIGHT[3:]),),
        ((*RIGHT[:2], "1", *RIGHT[3:]),),
        ((*RIGHT[:-1], 1.5),),
        ((*RIGHT[:-1], -0.5),),
        (RIGHT,) * (looking.MOST_FOUND + 1),
    ],
    ids=lambda _: "",
)
def test_nonsense_from_that_process_makes_a_person_look(answer: Any) -> None:
    with pytest.raises(DetectorError):
        apart(answer).look(ASK, np.zeros((9, 9, 3), np.uint8))


@pytest.mark.parametrize(
    "answer",
    [None, (), (("harmless", ""),) * 2, (("harmless", "X"),), (("fine", ""),), ("harmless",)],
)
def test_verdicts_that_are_none_make_a_person_look(answer: Any) -> None:
    with pytest.raises(DetectorError):
        apart(answer).judge(np.zeros((9, 9, 3), np.uint8), [Region(0, 0, 5, 5)], Known(()))


@pytest.mark.parametrize("answer", [None, ("a", "b"), ("n", "1", "", "", "text", "s"), (1,) * 6])
def test_a_network_that_does_not_say_what_it_is_is_not_used(answer: Any) -> None:
    with pytest.raises(DetectorError):
        apart(answer).open("ppocr")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (CorruptImage("it crashed"), DetectorError),
        (ImageTooLarge("it took too much memory"), DetectorError),
        (DetectorError("altered"), DetectorError),
        (MachineOverloaded("no memory now"), MachineOverloaded),  # another try may do
    ],
)
def test_a_process_that_fails_makes_a_person_look(raised: Exception, kind: type) -> None:
    with pytest.raises(kind):
        apart(raised).look(ASK, np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(kind):
        apart(raised).judge(np.zeros((9, 9, 3), np.uint8), [Region(0, 0, 5, 5)], Known(()))

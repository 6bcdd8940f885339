"""Second opinions: a box that another network took for a code must show one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest

from engine.detect import barcodes, verifier
from engine.detect.barcodes import settled_codes
from engine.detect.looking import CODES_FROM, VERIFIERS, Ask, NetworksHere
from engine.detect.networks import Finding
from engine.detect.verifier import Verifier, views
from engine.errors import DetectorError
from engine.settings import Settings
from model.codes import SYMBOLOGIES, damaged_code

PICTURE = np.full((400, 600, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def codes() -> Verifier:
    return Verifier(Settings(threads=1), "barcode")


class Says:
    """A verifier that says what it is told, and counts how often it is asked."""

    def __init__(self, *shares: float) -> None:
        self.told, self.asked = shares, 0

    def shares(self, picture: np.ndarray, boxes: Sequence[verifier.Box]) -> np.ndarray:
        assert len(boxes) == len(self.told)
        self.asked += 1
        return np.array(self.told, np.float32)

    def open(self) -> Callable[[], Verifier]:
        return lambda: self  # type: ignore[return-value]


def found(x1: float, y1: float, x2: float, y2: float, sure: float, label: str = "barcode",
          network: str = "yolov8n") -> tuple[str, Finding]:  # fmt: skip
    return network, Finding(x1, y1, x2, y2, label, sure)


def test_a_box_with_a_decoded_code_needs_no_second_opinion() -> None:
    decoded = found(100, 100, 200, 200, barcodes.DECODED, network="zxing")
    boxes = [decoded, found(95, 95, 210, 205, 0.4), found(120, 120, 180, 180, 0.15)]
    assert settled_codes(PICTURE, boxes, 0.1, Says().open()) == boxes


def test_a_decoded_code_does_not_vouch_for_a_box_far_larger_than_itself() -> None:
    decoded = found(100, 100, 120, 120, barcodes.DECODED, network="zxing")
    boxes = [decoded, found(50, 50, 400, 300, 0.9)]
    assert settled_codes(PICTURE, boxes, 0.1, Says(0.0).open()) == [decoded]


@pytest.mark.parametrize(
    ("share", "side", "kept"),
    [
        (barcodes.SHOWS_CODE, 200, 0.9),  # shows a code: as it was
        (barcodes.MAY_SHOW_CODE, 40, barcodes.DOUBTED),  # doubt: a proposal
        (barcodes.MAY_SHOW_CODE, 200, barcodes.DOUBTED),  # large doubt goes to a person as well
        (barcodes.MAY_SHOW_CODE / 2, 40, None),  # shows none
    ],
)
def test_what_the_verifier_says_decides(share: float, side: int, kept: float | None) -> None:
    box = found(10, 10, 10 + side, 10 + side, 0.9)
    settled = settled_codes(PICTURE, [box], 0.1, Says(share).open())
    assert [f.confidence for _, f in settled] == ([] if kept is None else [kept])


def test_doubt_never_raises_a_confidence() -> None:
    box = found(10, 10, 50, 50, 0.12)
    said = Says(barcodes.MAY_SHOW_CODE)
    assert settled_codes(PICTURE, [box], 0.1, said.open()) == [box]


def test_what_a_network_hardly_sees_counts_where_the_verifier_is_sure() -> None:
    box, sure = found(10, 10, 50, 50, 0.03), barcodes.SURELY_CODE + 0.001
    settled = settled_codes(PICTURE, [box], 0.1, Says(sure).open())
    assert [f.confidence for _, f in settled] == [barcodes.DOUBTED]  # a person is asked
    assert settled_codes(PICTURE, [box], 0.25, Says(sure).open()) == []
    assert settled_codes(PICTURE, [box], 0.1, Says(barcodes.SURELY_CODE - 0.01).open()) == []
    for other in (found(5, 5, 55, 55, barcodes.DECODED, network="zxing"), found(5, 5, 45, 45, 0.6)):
        shares = [] if other[0] == "zxing" else [1.0]
        assert settled_codes(PICTURE, [other, box], 0.1, Says(*shares).open()) == [other]


def test_the_verifier_is_asked_about_codes_that_a_network_hardly_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And text is as it was: what is seen of it below the floor is not reported."""
    asked: list[float] = []
    hardly = [found(10, 10, 50, 50, 0.03)[1], found(60, 10, 90, 50, 0.03, "text")[1]]

    class Network:
        def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
            asked.append(floor)
            return [f for f in hardly if f.confidence >= floor]

    networks = NetworksHere(Settings(threads=1))
    monkeypatch.setattr(networks, "_network", lambda *_: Network())
    monkeypatch.setattr(networks, "_verifier", lambda _: Says(0.999))
    for name, floor, least in (("yolov8n", 0.1, CODES_FROM), ("nudenet", 0.1, 0.1)):
        seen = networks.look(Ask((name,), floor, weigh_text=True), PICTURE)
        assert asked.pop() == least
        assert [f.label for _, f in seen] == ["barcode"] * (name == "yolov8n")


def test_other_classes_are_not_asked_about() -> None:
    boxes = [found(10, 10, 300, 300, 0.3, "text"), found(0, 0, 9, 9, 0.9, "face", "centerface")]
    assert settled_codes(PICTURE, boxes, 0.1, Says().open()) == boxes


@pytest.mark.parametrize("symbology", sorted(SYMBOLOGIES))
def test_the_verifier_knows_drawn_codes_of_every_kind(codes: Verifier, symbology: str) -> None:
    r = Random(f"a test {symbology}")
    shares = []
    for _ in range(8):
        grey, box = damaged_code(r, symbology, "none", PICTURE[..., 0])
        shares += codes.shares(np.repeat(grey[..., None], 3, 2), [box]).tolist()
    assert np.mean(np.array(shares) >= barcodes.SHOWS_CODE) >= 7 / 8


def test_a_box_may_reach_beyond_the_picture_and_be_of_any_size() -> None:
    grey = np.random.default_rng(1).integers(0, 255, (50, 70), np.uint8)
    for box in ((-9.5, -3.0, 12.0, 8.0), (0, 0, 70, 50), (68.9, 48.9, 90, 90), (5, 5, 5.5, 5.2)):
        seen = views(grey, box)
        assert seen.shape == (2, verifier.SIDE_PX, verifier.SIDE_PX)
        assert seen.dtype == np.float32
        assert np.isfinite(seen).all()


def test_contrast_does_not_matter_to_what_is_seen() -> None:
    grey = np.random.default_rng(2).integers(0, 200, (80, 80)).astype(np.uint8)
    faint = (grey // 4 + 100).astype(np.uint8)
    box = (10.0, 10.0, 70.0, 70.0)
    assert np.corrcoef(views(grey, box).ravel(), views(faint, box).ravel())[0, 1] > 0.99


@pytest.mark.parametrize("fault", ["missing", "altered"])
def test_an_altered_verifier_is_refused(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHA256SUMS", "verifier-barcode.onnx"):
        shutil.copy(verifier.MODEL / name, tmp_path / name)
    weights = tmp_path / "verifier-barcode.onnx"
    if fault == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(verifier, "MODEL", tmp_path)
    with pytest.raises(DetectorError):
        Verifier(Settings(threads=1), "barcode")


def test_verifiers_are_named_with_version_licence_and_checksum() -> None:
    networks = NetworksHere(Settings(threads=1))
    for name, (label, _) in VERIFIERS.items():
        info = networks.open(name)
        assert info.classes == (label,)
        assert len(info.sha256) == 64
        assert info.version
        assert info.licence

"""The project's own network and NudeNet's head, on the weights that are shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.detect.detector import Detector
from engine.detect.looking import NETWORKS
from engine.detect.networks import ModelInfo
from engine.detect.yolo import YoloNetwork, apart, open_own
from engine.errors import DetectorError
from engine.settings import Settings
from tests import builders

SAMPLES = Path(__file__).parents[2] / "demo" / "samples"


def picture(name: str) -> np.ndarray:
    from PIL import Image as Pillow

    return np.asarray(Pillow.open(SAMPLES / name).convert("RGB"))


@pytest.mark.parametrize("name", ["chest-1.jpg", "chest-2.jpg"])
def test_the_chest_profile_finds_the_lungs(name: str) -> None:
    network = NETWORKS["yolov8n-thorax"](Settings(threads=1))
    found = network.look(picture(name), 0.25)
    assert {f.label for f in found} == {"thorax"}
    best = max(found, key=lambda f: f.confidence)
    assert best.x2 - best.x1 > 400
    assert best.y2 - best.y1 > 300


def test_drawn_text_is_found_by_the_projects_own_network() -> None:
    pixels = builders.radiograph(640, 480)
    region = builders.write_text(pixels, "NOWAK JAN 1979-08-30", (20, 20), scale=0.7)
    rgb = np.repeat(pixels[..., None], 3, axis=2)
    found = NETWORKS["yolov8n"](Settings(threads=1)).look(rgb, 0.25)
    assert any(f.label == "text" and f.x1 < region.x1 + 40 and f.y1 < region.y2 for f in found)
    assert all(f.label in ("text", "barcode") for f in found)


def test_a_tilted_lead_marker_with_initials_is_sealed() -> None:
    detector = Detector.open(Settings(threads=1))
    pixels = picture("chest-1.jpg")
    found = detector.detect(lambda i: pixels, 1, detector.profiles["general"])
    marker = [d for d in found if d.label == "text" and d.confidence >= 0.25]
    assert len(marker) == 1
    assert marker[0].region.x1 <= 945
    assert marker[0].region.x2 >= 990


def test_of_boxes_that_nearly_coincide_the_most_certain_is_kept() -> None:
    boxes = np.array([[50, 50, 40, 10], [51, 50, 40, 10], [50, 90, 40, 10], [50, 50, 40, 10]])
    confidences = np.array([0.6, 0.9, 0.3, 0.5])
    classes = np.array([0, 0, 0, 1])  # the last is of another class, and stays
    assert sorted(apart(boxes.astype(float), confidences, classes)) == [1, 2, 3]
    assert apart(np.empty((0, 4)), np.empty(0), np.empty(0)) == []


def test_a_part_of_a_picture_is_seen_at_the_scale_of_the_whole() -> None:
    shown: list[tuple[int, ...]] = []

    def model(batch: np.ndarray) -> np.ndarray:
        shown.append(batch.shape[2:])
        return np.zeros((1, 5, 1), np.float32)

    info = ModelInfo("", "", "", "", ("text",), "")
    network = YoloNetwork(model, ("text",), (640, 1280), info, (960,))
    part = np.zeros((128, 320, 3), np.uint8)
    network.look(part, 0.1)
    network.part_of(640).look(part, 0.1)
    network.part_of(2560).look(part, 0.1)
    network.rescaled().part_of(2560).look(part, 0.1)
    assert shown == [(256, 640), (128, 320), (64, 96), (64, 160), (64, 128)]


def test_weights_that_are_not_the_recorded_ones_are_refused(tmp_path: Path) -> None:
    from engine.detect.yolo import WEIGHTS

    for name in ("SHA256SUMS", "best.onnx"):
        (tmp_path / name).write_bytes((WEIGHTS / name).read_bytes())
    content = bytearray((tmp_path / "best.onnx").read_bytes())
    content[1000] ^= 1
    (tmp_path / "best.onnx").write_bytes(content)
    with pytest.raises(DetectorError):
        open_own(Settings(threads=1), folder=tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(DetectorError):
        open_own(Settings(threads=1), folder=tmp_path)


def test_every_shipped_profile_opens_all_of_its_networks() -> None:
    settings = Settings(threads=1)
    profiles = Detector.open(settings).profiles
    assert {"general", "chest", "dermatology", "ultrasound", "dental"} <= set(profiles)
    for name in {n for p in profiles.values() for n in p.networks}:
        network = NETWORKS[name](settings)
        assert network.info.version
        assert network.info.licence

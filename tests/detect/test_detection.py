"""Profiles, merging, and the ready-made networks on pictures drawn here."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engine.detect import barcodes, text
from engine.detect.detector import (
    Detector,
    Profile,
    _surroundings,
    load_profiles,
    merge,
)
from engine.detect.faces import FaceNetwork
from engine.detect.finder_graph import rewrite
from engine.detect.looking import NETWORKS
from engine.detect.networks import CpuModel, Finding, ModelInfo, read_weights, recorded
from engine.errors import DetectorError, SettingsError
from engine.records import Detection, Region
from engine.settings import Settings

GENERAL = Profile(
    "general",
    "General",
    ("text", "barcode", "face"),
    ("yolov8n", "ppocr", "zxing", "centerface"),
)
#: Those of its networks that look for such things. What else a picture holds, others cannot take
#: away: boxes of another class are never merged with these.
CODES = replace(GENERAL, networks=("yolov8n", "zxing"))
FACES = replace(GENERAL, networks=("yolov8n", "centerface"))
TABLE: dict[str, Any] = {"title": "T", "classes": ["text"], "networks": ["ppocr"]}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(Settings(threads=2), {"general": GENERAL})


def anatomy(width: int = 900, height: int = 700, seed: int = 1) -> np.ndarray:
    """A soft grey picture with noise, as an image without overlay has; (H, W, 3), uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(30, 160, (6, 8)).astype(np.float32)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(soft + rng.normal(0, 4, soft.shape), 0, 255).astype(np.uint8)
    return np.repeat(noisy[..., None], 3, axis=2)


def written(
    picture: np.ndarray, words: str, x: int, y: int, scale: float = 0.7, tone: int = 255
) -> Region:
    """Write on the picture; the box of the ink."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    before = picture.copy()
    cv2.putText(picture, words, (x, y), font, scale, (tone,) * 3, 1, cv2.LINE_AA)
    rows, columns = np.nonzero((picture != before).any(axis=2))
    return Region(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def covers(found: list[Detection], box: Region, label: str = "text", share: float = 0.8) -> bool:
    under = np.zeros((box.height, box.width), dtype=bool)
    for d in found:
        r = d.region.padded(0.04, 4)
        if d.label == label and d.confidence >= 0.25:
            under[r.slices_within(box)[1:]] = True
    return bool(under.mean() >= share)


# Profiles


def test_a_profile_takes_from_the_settings_what_it_leaves_out() -> None:
    settings = Settings(confidence=0.4, proposal_confidence=0.2, iou=0.3)
    profile = Profile.from_table("p", TABLE, settings)
    assert (profile.confidence, profile.proposal_confidence, profile.iou) == (0.4, 0.2, 0.3)
    assert profile.padding is None
    assert profile.padding_min_px is None
    assert profile.rescan


def test_a_profile_may_say_it_all() -> None:
    table = TABLE | {
        "confidence": 0.5, "proposal_confidence": 0.3, "iou": 0.6, "padding": 0.1,
        "padding_min_px": 9, "rescan": False, "description": "D",
    }  # fmt: skip
    profile = Profile.from_table("p", table)
    assert profile == Profile("p", "T", ("text",), ("ppocr",), 0.5, 0.3, 0.6, 0.1, 9, False, "D")


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},  # unknown key
        {"confidence": "high"},  # wrong type
        {"confidence": True},  # a bool is not a number
        {"rescan": 1},  # nor a number a bool
        {"classes": "text"},  # not a list
        {"classes": [1]},  # not of names
        {"classes": []},  # nothing to seal
        {"networks": []},
        {"networks": ["psychic"]},  # nobody made it
        {"confidence": 1.5},
        {"padding": -0.1},
        {"padding_min_px": -1},
        {"confidence": 0.2, "proposal_confidence": 0.3},  # seals less certain than it proposes
    ],
)
def test_a_wrong_profile_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Profile.from_table("p", TABLE | change)


@pytest.mark.parametrize("missing", ["title", "classes", "networks"])
def test_an_incomplete_profile_is_refused(missing: str) -> None:
    with pytest.raises(SettingsError, match=missing):
        Profile.from_table("p", {k: v for k, v in TABLE.items() if k != missing})


def test_profiles_are_files_named_after_themselves(tmp_path: Path) -> None:
    (tmp_path / "eye.toml").write_text('title = "Eye"\nclasses = ["text"]\nnetworks = ["ppocr"]\n')
    assert load_profiles(tmp_path)["eye"].title == "Eye"


def test_a_broken_or_empty_folder_of_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        load_profiles(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"\xff = ")
    with pytest.raises(SettingsError):
        load_profiles(tmp_path)


def test_a_start_profile_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError):
        Detector.open(Settings(profile="astrology"))


def test_shipped_profiles_name_only_networks_that_can_find_their_classes() -> None:
    profiles = Detector.open(Settings()).profiles.values()
    named = {name for profile in profiles for name in profile.networks}
    classes = {name: NETWORKS[name](Settings(threads=1)).info.classes for name in named}
    for profile in profiles:
        known = {c for name in profile.networks for c in classes[name]}
        assert set(profile.classes) <= known, profile.name


# Geometry


def box(
    x1: int, y1: int, x2: int, y2: int, c: float, label: str = "text", source: str = "a"
) -> Detection:
    return Detection(Region(x1, y1, x2, y2), label, c, source)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        # far apart: both
        ([box(0, 0, 9, 9, 0.5), box(50, 0, 59, 9, 0.6)],
         [box(50, 0, 59, 9, 0.6), box(0, 0, 9, 9, 0.5)]),
        # the same place, one network: the more certain
        ([box(0, 0, 10, 10, 0.5), box(0, 0, 10, 9, 0.9)], [box(0, 0, 10, 9, 0.9)]),
        # the same place, two networks: the more certain, grown to hold both
        ([box(0, 0, 10, 10, 0.5, source="b"), box(2, 0, 12, 9, 0.9)], [box(0, 0, 12, 10, 0.9)]),
        # another label never goes
        ([box(0, 0, 10, 10, 0.5, "face"), box(0, 0, 10, 10, 0.9)],
         [box(0, 0, 10, 10, 0.9), box(0, 0, 10, 10, 0.5, "face")]),
        # overlapping by less than the threshold: both, so no pixel is lost
        ([box(0, 0, 10, 10, 0.9), box(6, 0, 16, 10, 0.5)],
         [box(0, 0, 10, 10, 0.9), box(6, 0, 16, 10, 0.5)]),
        # a small one wholly inside adds nothing
        ([box(0, 0, 90, 90, 0.9), box(5, 5, 9, 9, 0.5)], [box(0, 0, 90, 90, 0.9)]),
        # a large one around a more certain small one does
        ([box(0, 0, 90, 90, 0.5), box(5, 5, 9, 9, 0.9)],
         [box(5, 5, 9, 9, 0.9), box(0, 0, 90, 90, 0.5)]),
    ],
)  # fmt: skip
def test_merge(given: list[Detection], kept: list[Detection]) -> None:
    assert merge(given) == kept
    assert merge(list(reversed(given))) == kept


def test_merge_keeps_frames_apart() -> None:
    a = Detection(Region(0, 0, 9, 9, 0, 1), "text", 0.9, "a")
    b = Detection(Region(0, 0, 9, 9, 1, 2), "text", 0.8, "a")
    assert merge([a, b]) == [a, b]


def test_merge_never_uncovers_a_pixel_of_another_network() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        given = []
        for i in range(6):
            x, y = (int(v) for v in rng.integers(0, 40, 2))
            w, h = (int(v) for v in rng.integers(3, 30, 2))
            given.append(box(x, y, x + w, y + h, float(rng.uniform(0.1, 1)), source=str(i)))
        before, after = (np.zeros((80, 80), dtype=bool) for _ in range(2))
        for plane, boxes in ((before, given), (after, merge(given))):
            for d in boxes:
                plane[d.region.slices[1:]] = True
        assert not (before & ~after).any()


# Weights


def test_missing_or_altered_weights_are_a_detector_error(tmp_path: Path) -> None:
    path = tmp_path / "w.onnx"
    with pytest.raises(DetectorError):
        read_weights(path, "0" * 64)
    path.write_bytes(b"weights")
    assert read_weights(path, hashlib.sha256(b"weights").hexdigest()) == b"weights"
    path.write_bytes(b"Weights")
    with pytest.raises(DetectorError, match="was changed"):
        read_weights(path, hashlib.sha256(b"weights").hexdigest())


def test_bytes_that_are_no_network_are_a_detector_error() -> None:
    with pytest.raises(DetectorError):
        CpuModel(b"not a network", threads=1)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_a_network_leaves_it_to_the_system_where_its_threads_run() -> None:
    """Two workers that both claim the first processor are no faster than one."""
    weights = (Path(__file__).parents[2] / "model" / "best.onnx").read_bytes()
    network, over = CpuModel(weights, threads=1), threading.Event()

    def look() -> None:
        while not over.is_set():
            network(np.zeros((1, 3, 320, 320), np.float32))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            over.wait(0.02)
            assert os.sched_getaffinity(looking.native_id or 0) == os.sched_getaffinity(0)
    finally:
        over.set()
        looking.join()


def test_an_altered_network_stops_the_image_and_is_not_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text, "FINDER_SHA256", "0" * 64)
    fresh = Detector(Settings(threads=1), {"general": GENERAL})
    with pytest.raises(DetectorError):
        fresh.detect(lambda i: anatomy(), 1, GENERAL)


def test_a_network_that_is_not_there_is_a_detector_error(detector: Detector) -> None:
    profile = Profile("p", "P", ("text",), ("missing",))
    with pytest.raises(DetectorError):
        detector.detect(lambda i: anatomy(), 1, profile)


@pytest.mark.parametrize("answer", [ZeroDivisionError, float("nan"), float("inf")])
def test_a_network_that_fails_or_talks_nonsense_is_a_detector_error(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        info = ModelInfo("broken", "1", "", "none", ("text",), "a test")

        def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
            if answer is ZeroDivisionError:
                raise answer
            return [Finding(answer, 0.0, 9.0, 9.0, "text", 0.5)]

    monkeypatch.setitem(NETWORKS, "broken", lambda settings: Broken())
    profile = Profile("p", "P", ("text",), ("broken",))
    with pytest.raises(DetectorError):
        Detector(Settings(), {"p": profile}).detect(lambda i: anatomy(), 1, profile)


def test_the_engine_is_imported_without_any_network() -> None:
    code = (
        "import engine.detection, sys;"
        "bad = {'torch', 'ultralytics', 'openvino', 'zxingcpp', 'rapidocr', 'onnxruntime'};"
        "bad &= set(sys.modules);"
        "sys.exit(', '.join(bad) or 0)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_the_about_line_names_every_network_in_use(detector: Detector) -> None:
    models = {m.name: m for m in detector.models}
    assert any("PP-OCR" in name for name in models)
    assert any("CenterFace" in name for name in models)
    assert any("zxing" in name for name in models)
    assert all(m.version and m.licence and m.classes and m.source for m in models.values())


# What is found


@pytest.mark.parametrize(
    ("words", "scale", "tone"),
    [
        ("NOWAK^JAN 1979-08-30", 0.8, 255),
        ("Dr. Ada Lovelace, ID 4711", 0.4, 255),  # capitals of 9 px
        ("Geb.: 12.03.1961", 0.7, 0),  # dark on grey
        ("St. Mary Hospital", 0.7, 215),  # grey on grey
        ("L", 2.0, 255),  # a side marker
    ],
)
def test_text_is_found_whole(detector: Detector, words: str, scale: float, tone: int) -> None:
    picture = anatomy()
    line = written(picture, words, 60, 120, scale, tone)
    assert covers(detector.detect(lambda i: picture, 1, GENERAL), line)


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_turned_text_is_found(detector: Detector, quarter_turns: int) -> None:
    picture = anatomy()
    written(picture, "MUELLER, HANS 1950-01-02", 200, 300)
    turned = np.ascontiguousarray(np.rot90(picture, quarter_turns))
    marked = np.rot90(picture != anatomy(), quarter_turns).any(axis=2)
    rows, columns = np.nonzero(marked)
    line = Region(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    assert covers(detector.detect(lambda i: turned, 1, GENERAL), line)


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_without_text_is_not_masked(detector: Detector, seed: int) -> None:
    picture = anatomy(1000, 800, seed)
    found = detector.detect(lambda i: picture, 1, GENERAL)
    assert [d for d in found if d.confidence >= 0.25] == []


def test_the_trace_of_an_ecg_is_not_taken_for_text(detector: Detector) -> None:
    picture = np.full((500, 1200, 3), 250, dtype=np.uint8)
    picture[::25] = picture[:, ::25] = (250, 200, 200)
    x = np.arange(1200)
    beat = 120 * np.exp(-(((x % 240) - 120) ** 2) / 40) - 30 * np.exp(
        -(((x % 240) - 140) ** 2) / 80
    )
    points = np.stack([x, 250 - beat], axis=1).astype(np.int32)
    cv2.polylines(picture, [points], False, (20, 20, 20), 2, cv2.LINE_AA)
    found = detector.detect(lambda i: picture, 1, GENERAL)
    assert [d for d in found if d.confidence >= 0.25] == []


def test_faces_are_found_upright_turned_and_filling_the_picture(detector: Detector) -> None:
    from skimage.data import astronaut

    for picture in (astronaut(), np.rot90(astronaut()), astronaut()[40:220, 150:300]):
        upright = np.ascontiguousarray(picture)
        found = detector.detect(lambda i, p=upright: p, 1, FACES)  # type: ignore[misc]
        assert any(d.label == "face" and d.confidence > 0.5 for d in found)


def test_what_hardly_looks_like_a_face_is_not_even_a_proposal() -> None:
    network = NETWORKS["centerface"](Settings(threads=1))
    heat, rest = np.zeros((1, 1, 8, 8)), np.zeros((1, 2, 8, 8))
    heat[0, 0, 2, 2], heat[0, 0, 5, 5] = 0.15, 0.3
    network._model = lambda batch: [heat, rest, rest, rest]  # type: ignore[attr-defined]
    found = network.look(np.zeros((32, 32, 3), np.uint8), 0.10)
    assert {f.confidence for f in found} == {0.3}


def test_the_box_of_a_face_holds_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS["centerface"](Settings(threads=1))
    heat, size = np.zeros((1, 1, 16, 16)), np.zeros((1, 2, 16, 16))
    heat[0, 0, 8, 8] = 0.9
    size[0, :, 8, 8] = np.log(5.0)  # cells of 4 px: brow to lip, and cheek to cheek
    answer = [heat, size, np.zeros((1, 2, 16, 16)), np.zeros(1)]
    monkeypatch.setattr(network, "_model", lambda _: answer)
    (found,) = network.look(np.zeros((64, 64, 3), np.uint8), 0.10)
    middle, reach = 34.0, 10 + 20 / 4
    low, high = middle - reach, middle + reach
    assert found.xyxy == pytest.approx((low, low, high, high))


def bars(words: str, code: str) -> np.ndarray:
    import zxingcpp

    made = zxingcpp.create_barcode(words, getattr(zxingcpp.BarcodeFormat, code))
    return np.array(zxingcpp.write_barcode_to_image(made, scale=3))


@pytest.mark.parametrize("code", ["Code128", "QRCode", "DataMatrix", "PDF417"])
@pytest.mark.parametrize("shrink", [1.0, 0.5])
def test_codes_are_found(detector: Detector, code: str, shrink: float) -> None:
    image = bars("PID 4711 NOWAK", code)
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    picture = anatomy()
    h, w = small.shape[:2]
    picture[200 : 200 + h, 150 : 150 + w] = small[..., None] if small.ndim == 2 else small
    inside = Region(150 + w // 8, 200 + h // 8, 150 + w - w // 8, 200 + h - h // 8)
    assert covers(detector.detect(lambda i: picture, 1, CODES), inside, "barcode", 0.98)


def test_a_code_is_covered_on_both_sides_of_a_reflection() -> None:
    image = bars("PID 4711 NOWAK", "Code128")
    tall = np.repeat(image[image.shape[0] // 2][None], 160, axis=0)
    picture = np.full((400, 800), 240, dtype=np.uint8)
    h, w = tall.shape
    picture[100 : 100 + h, 50 : 50 + w] = tall
    picture[150:175] = 255  # the reflection
    rgb = np.repeat(picture[..., None], 3, axis=2)
    found = barcodes.CodeReader(Settings()).look(rgb, 0.25)
    assert min(f.y1 for f in found) <= 103
    assert max(f.y2 for f in found) >= 257


def test_a_blurred_code_is_located_although_it_cannot_be_decoded() -> None:
    image = bars("PID 4711 NOWAK", "Code128")
    tall = np.repeat(image[image.shape[0] // 2][None], 150, axis=0)
    picture = np.full((400, 800), 240, dtype=np.uint8)
    picture[100:250, 50 : 50 + tall.shape[1]] = tall
    blurred = cv2.GaussianBlur(picture, (0, 0), 2.2)
    reader = barcodes.CodeReader(Settings())
    assert not reader._decoded(blurred)
    found = reader.look(np.repeat(blurred[..., None], 3, axis=2), 0.25)
    assert any(f.confidence == barcodes.LOCATED for f in found)


def test_classes_that_the_profile_does_not_seal_are_left_out(detector: Detector) -> None:
    picture = anatomy()
    written(picture, "NOWAK^JAN 1979-08-30", 60, 120)
    faces_only = Profile("f", "F", ("face",), ("ppocr", "centerface"))
    assert detector.detect(lambda i: picture, 1, faces_only) == []


def test_a_tiny_picture_and_a_ribbon_do_no_harm(detector: Detector) -> None:
    for shape in ((1, 1, 3), (16, 16, 3), (3, 900, 3), (900, 3, 3)):
        picture = np.zeros(shape, dtype=np.uint8)
        assert detector.detect(lambda i, p=picture: p, 1, GENERAL) == []  # type: ignore[misc]


@pytest.mark.parametrize(
    "picture", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))]
)
def test_a_picture_of_another_kind_is_a_programming_mistake(
    detector: Detector, picture: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="expected"):
        detector.detect(lambda i: picture, 1, GENERAL)


def test_threads_find_the_same_as_one_alone(detector: Detector) -> None:
    pictures = [anatomy(600, 400, seed) for seed in range(3)]
    for i, picture in enumerate(pictures):
        written(picture, f"PATIENT {i} 1960-01-0{i + 1}", 40, 60 + 40 * i)
    alone = [detector.detect(lambda i, p=p: p, 1, GENERAL) for p in pictures]  # type: ignore[misc]
    fresh = Detector(Settings(threads=2), {"general": GENERAL})
    together: dict[int, list[Detection]] = {}

    def run(k: int) -> None:
        together[k] = fresh.detect(lambda i: pictures[k], 1, GENERAL)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[k] for k in range(3)] == alone


def test_half_precision_finds_the_same_boxes() -> None:
    """The finder as it runs, in bf16, against the vendor's graph in f32: IoU 0.97 for each line."""
    picture = anatomy()
    for i in range(5):
        written(picture, f"NOWAK JAN {i} 1979-08-30", 40, 80 + 90 * i, 0.5 + 0.2 * i)
    shown = cv2.resize(picture, (928, 704))
    batch = np.vstack([shown, text.reference(shown)]).astype(np.float32).transpose(2, 0, 1)[None]
    weights = read_weights(text.FINDER, text.FINDER_SHA256)
    boxes = []
    for precision, change in (("f32", None), ("bf16", rewrite)):
        model = CpuModel(weights, 2, precision=precision, rewrite=change)
        heat = model((batch - 127.5) / 127.5)[0]
        boxes.append(
            sorted(line.box for line in text.lines(heat[0, 0, :704]) if line.confidence > 0.5)
        )
    assert len(boxes[0]) == len(boxes[1]) == 5
    for a, b in zip(*boxes, strict=True):
        shared = (min(a[2], b[2]) - max(a[0], b[0])) * (min(a[3], b[3]) - max(a[1], b[1]))
        both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        assert shared / both >= 0.97


# The second look


def masked(picture: np.ndarray, regions: list[Region]) -> np.ndarray:
    """A mask with a mark that could be read as text."""
    picture = picture.copy()
    for r in regions:
        picture[r.slices[1:]] = 128
        cv2.putText(picture, "SEALED", (r.x1 + 4, r.y2 - 6), 0, 0.6, (255, 255, 255), 1)
    return picture


def test_the_second_look_finds_what_was_left_out_and_not_the_masks(detector: Detector) -> None:
    picture = anatomy()
    first = written(picture, "NOWAK^JAN 1979-08-30", 60, 120).padded(0.04, 4)
    second = written(picture, "KOWALSKA^EWA", 400, 400).padded(0.04, 4)
    both = masked(picture, [first, second])
    assert detector.rescan(lambda i: both, 1, [first, second], GENERAL) == []
    one = masked(picture, [first])
    left = detector.rescan(lambda i: one, 1, [first], GENERAL)
    assert len(left) == 1
    assert left[0].region.intersection_px(second) > 0.8 * left[0].region.area_px


def test_the_second_look_finds_the_end_of_a_line_that_sticks_out(detector: Detector) -> None:
    picture = anatomy()
    line = written(picture, "NOWAK^JAN 1979-08-30", 60, 120, 1.0)
    half = Region(line.x1 - 4, line.y1 - 4, line.x1 + line.width // 2, line.y2 + 4)
    left = detector.rescan(lambda i: masked(picture, [half]), 1, [half], GENERAL)
    assert any(d.region.x2 > line.x2 - 10 for d in left)


def test_a_mask_on_one_frame_does_not_excuse_text_on_another(detector: Detector) -> None:
    picture = anatomy(500, 300)
    line = written(picture, "NOWAK^JAN 1979-08-30", 60, 120).padded(0.04, 4)
    frames = [masked(picture, [line]), picture]
    left = detector.rescan(lambda i: frames[i], 2, [line], GENERAL)
    assert any(d.region.frame <= 1 < d.region.frame_end for d in left)


# The repository's own network


class Sized:
    """A network that says at which size it looked."""

    info = ModelInfo("sized", "1", "", "MIT", ("text",), "")

    def __init__(self, asked: list[str], size: str = "usual") -> None:
        self.asked, self.size = asked, size

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        self.asked.append(self.size)
        return []

    def rescaled(self) -> Sized:
        return Sized(self.asked, "other")


@pytest.mark.parametrize("box", [
    Region(10, 12, 30, 40),
    Region(0, 0, 20, 9),  # in a corner
    Region(1, 20, 60, 50),  # up to the edge on the right
    Region(0, 30, 60, 50),  # from edge to edge
])  # fmt: skip
def test_a_mask_is_painted_over_in_the_tone_of_the_three_pixels_around_it(box: Region) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    rows, columns = np.mgrid[:50, :60]
    near = (rows >= box.y1 - 3) & (rows < box.y2 + 3) & (columns >= box.x1 - 3)
    near &= columns < box.x2 + 3
    near[box.slices[1:]] = False
    assert np.array_equal(_surroundings(picture, box), np.median(picture[near], axis=0))
    assert np.array_equal(_surroundings(picture, Region(0, 0, 60, 50)), np.zeros(3))


def test_the_second_look_takes_other_sizes_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setitem(NETWORKS, "ppocr", lambda settings: Sized(asked))
    made = Detector(Settings(), {})
    profile = Profile("p", "P", ("text",), ("ppocr",))
    made.detect(lambda i: anatomy(), 1, profile)
    made.rescan(lambda i: anatomy(), 1, [], profile)
    assert asked == ["usual", "other"]


def test_a_part_of_a_frame_is_searched_for_text_at_the_scale_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scales: list[float] = []

    def find(self: text.TextFinder, picture: np.ndarray, side: int) -> list[object]:
        scales.append(round(side / max(picture.shape[:2]), 2))
        return []

    monkeypatch.setattr(text.TextFinder, "find", find)
    made = Detector(Settings(), {})
    profile = Profile("p", "P", ("text",), ("ppocr",))
    frames = [np.full((480, 640, 3), 60, np.uint8) for _ in range(2)]
    frames[1][200:240:4, 300:360] = 200
    made.detect(lambda i: frames[i], 2, profile)
    assert scales == [1.0, 1.6] * 2


def test_small_faces_are_looked_for_unless_the_file_excludes_a_scene(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides: list[int] = []
    said: list[Finding] = []

    def seen(self: FaceNetwork, picture: np.ndarray, side: int) -> list[Finding]:
        sides.append(side)
        return list(said)

    monkeypatch.setattr(FaceNetwork, "_look_at", seen)
    made = Detector(Settings(threads=1), {})
    profile = Profile("p", "P", ("face",), ("centerface",))

    def asked(picture: np.ndarray, scene: bool) -> list[int]:
        sides.clear()
        made.detect(lambda _: picture, 1, profile, scene=scene)
        made.rescan(lambda _: picture, 1, [], profile, scene)
        return list(sides)

    grey = np.full((700, 900, 3), 90, np.uint8)
    coloured = grey.copy()
    coloured[0, 0] = (90, 91, 90)
    assert asked(grey, scene=True) == [256, 640] * 2
    assert asked(grey, scene=False) == [256, 384] * 2
    assert asked(coloured, scene=False) == [256, 640] * 2  # the file is not believed
    said.append(Finding(10, 10, 60, 60, "face", 0.1))  # less than is reported
    assert asked(grey, scene=False) == [256, 384, 256, 640] * 2


@pytest.mark.parametrize("longer_px", [7, 64, 512, 700, 1600, 2200, 2201, 9000])
def test_the_size_of_the_second_look_lies_between_those_of_the_first(longer_px: int) -> None:
    least, most = min(text.sides(longer_px)), max(text.sides(longer_px))
    (again,) = text.sides_again(longer_px)
    assert least < again < most or least == again == most


class Touch:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pt_file_that_is_not_recorded_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.detect import yolo

    proof = tmp_path / "loaded"
    (tmp_path / "best.pt").write_bytes(pickle.dumps(Touch(proof)))
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  best.pt\n")
    monkeypatch.setattr(yolo, "on_gpu", lambda settings: True)
    with pytest.raises(DetectorError):
        yolo.open_own(Settings(), folder=tmp_path)
    assert not proof.exists()


def test_a_gpu_that_is_asked_for_and_not_there_is_a_detector_error() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DetectorError, match="GPU"):
        NETWORKS["yolov8n"](Settings(device="cuda"))


@pytest.mark.slow
def test_pytorch_and_openvino_find_the_same() -> None:
    """The switch between CPU and GPU changes the speed, not the boxes."""
    from engine.detect import yolo

    picture = anatomy(640, 480)
    for i in range(3):
        written(picture, f"NOWAK JAN {i} 1979-08-30", 40, 80 + 120 * i, 0.8)
    cpu = yolo.open_own(Settings(threads=2))
    sums = recorded(yolo.WEIGHTS)
    module = yolo.TorchModel(read_weights(yolo.WEIGHTS / "best.pt", sums["best.pt"]), "cpu")
    own = yolo.YoloNetwork(module, cpu._labels, cpu._sides, cpu.info)
    found = [
        merge(
            Detection(region, f.label, f.confidence, "x")
            for f in network.look(picture, 0.25)
            if (region := Region.around(f.xyxy, 640, 480))
        )
        for network in (cpu, own)
    ]
    assert len(found[0]) == len(found[1]) > 0
    for a in found[0]:
        best = max(found[1], key=lambda b: a.region.iou(b.region))
        assert a.region.iou(best.region) > 0.9
        assert abs(a.confidence - best.confidence) < 0.05

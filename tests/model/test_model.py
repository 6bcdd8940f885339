"""The pipeline behind best.pt: what it draws, learns from, measures and ships. No real training."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

from engine.records import Detection, Region
from model import data, evaluate, layouts, writing
from model.backgrounds import Background, painted_over, read_folder
from model.phrases import Phrases

PADDING = evaluate.Padding(0.04, 4)
# Imported where it is used: it takes seconds, and each worker of the suite imports this file.
if find_spec("torch") is None:
    pytest.skip("no PyTorch is installed", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("fonts")


def page_of(
    split: str = "train", seed: str = "1", size: tuple[int, int] = (400, 500)
) -> writing.Page:
    r = Random(seed)
    return writing.Page(np.full((*size, 3), 90, np.uint8), r, Phrases(r), split)


def folder_of(tmp_path: Path) -> Path:
    """A folder like the one real pictures come in: two chests, one without a label, one code."""
    images = tmp_path / "images"
    images.mkdir()
    g = np.random.default_rng(1)
    for name in ("cxr_a.png", "nih_00000001_000.png", "bar_qr-1_1.png", "dcm_slice.png"):
        noise = cv2.GaussianBlur(g.integers(60, 120, (512, 512, 3)).astype(np.uint8), (0, 0), 5)
        cv2.imwrite(str(images / name), noise)
    box = {"x1": 60, "y1": 60, "x2": 450, "y2": 450}
    truth = {
        "cxr_a.png": [{"class": "thorax", **box}],
        "bar_qr-1_1.png": [{"class": "barcode", "x1": 10, "y1": 10, "x2": 90, "y2": 90}],
    }
    coverage = {"cxr_a.png": ["thorax"], "bar_qr-1_1.png": ["barcode?"]}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "coverage.json").write_text(json.dumps(coverage))
    (tmp_path / "manifest.json").write_text(json.dumps({"cxr_a.png": {"patient": "7"}}))
    return images


# ---- drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [f for fs in layouts.BY_KIND.values() for f in fs[:1]])
def test_every_pixel_of_ink_lies_in_a_box(layout: layouts.Layout) -> None:
    page = page_of(seed=layout.__name__)
    layout(page)
    outside = (page.pixels != page.clean).any(2)
    for _, x1, y1, x2, y2 in page.boxes:
        outside[y1:y2, x1:x2] = False
    assert not outside.any()


def test_a_box_touches_the_ink_on_all_four_sides() -> None:
    page = page_of()
    hand = writing.Hand(page.hand(script="la").file, "la", 20.0, (255, 255, 255))
    box = page.line("HAMBURG", 50, 60, hand)
    assert box is not None
    x1, y1, x2, y2 = box
    ink = (page.pixels != page.clean).any(2)
    ys, xs = np.nonzero(ink)
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x1, y1, x2, y2)


def test_text_is_never_written_over_text_or_over_the_edge() -> None:
    page = page_of()
    hand = writing.Hand(page.hand(script="la").file, "la", 20.0, (255, 255, 255))
    assert page.line("FIRST", 50, 60, hand) is not None
    assert page.line("SECOND", 55, 62, hand) is None
    assert page.line("THIRD", 490, 60, hand) is None
    assert len(page.boxes) == 1


@pytest.mark.parametrize("grey", [0, 90, 128, 255])
def test_even_faint_text_can_be_seen(grey: int) -> None:
    page = page_of()
    page.line("VISIBLE", 50, 60, writing.Hand(page.hand(script="la").file, "la", 20.0, (grey,) * 3))
    apart = np.abs(page.pixels.astype(int) - page.clean).max()
    assert apart >= 20


def test_the_same_seed_draws_the_same_pictures(tmp_path: Path) -> None:
    reals = read_folder(folder_of(tmp_path), tmp_path / "clean")
    first, second = (data.samples(3, 5, "train", reals, 3) for _ in range(2))
    assert [s.labels for s in first] == [s.labels for s in second]
    assert all((a.pixels == b.pixels).all() for a, b in zip(first, second, strict=True))
    assert first, "this page gives crops"


def test_crops_keep_to_shapes_and_labels_to_crops() -> None:
    for number in range(12):
        for sample in data.samples(1, number, "train", [], 3):
            h, w = sample.pixels.shape[:2]
            assert (h, w) in {(320, 320), (160, 640)}
            for name, x1, y1, x2, y2 in sample.labels:
                assert name in data.CLASSES
                assert 0 <= x1 < x2 <= w, sample.labels
                assert 0 <= y1 < y2 <= h, sample.labels


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((0, 0, 320, 320), [("text", 100, 100, 200, 120)]),  # whole
        ((150, 0, 470, 320), [("text", 0, 100, 50, 120)]),  # cut in the middle: up to the border
        ((0, 110, 320, 390), [("text", 100, 0, 200, 10)]),  # half a line still reads
        ((0, 116, 320, 390), []),  # a sliver does not, and is taken out
    ],
)
def test_a_crop_cuts_a_box_only_at_its_border(
    window: tuple[int, int, int, int], expected: list[data.Label]
) -> None:
    page = page_of(size=(400, 500))
    page.pixels[100:120, 100:200] = 255
    page.boxes.append(("text", 100, 100, 200, 120))
    cut = data.crop(page, window)
    assert cut is not None
    pixels, labels = cut
    assert labels == expected
    assert bool((pixels == 255).any()) == bool(expected)


@pytest.mark.parametrize(
    ("window", "usable", "labelled"),
    [
        ((0, 0, 500, 400), True, True),  # all of it in view
        ((0, 0, 250, 400), False, False),  # half of it: neither a chest nor none
        ((400, 0, 500, 400), True, False),  # a corner of it
    ],
)
def test_half_a_thorax_is_neither_example_nor_counterexample(
    window: tuple[int, int, int, int], usable: bool, labelled: bool
) -> None:
    page = page_of(size=(400, 500))
    page.boxes.append(("thorax", 20, 20, 480, 380))
    cut = data.crop(page, window)
    assert (cut is not None) == usable
    assert bool(cut and cut[1]) == labelled


def test_a_chest_without_thorax_label_is_never_shown_whole(tmp_path: Path) -> None:
    reals = read_folder(folder_of(tmp_path), tmp_path / "clean")
    film = next(b for b in reals if b.kind == "film")
    for seed in range(20):
        pixels, box = data._real(Random(seed), film, whole=False)
        assert box is None
        assert pixels.shape[0] * pixels.shape[1] < 0.25 * 512 * 512


def test_only_complete_labels_are_learnt_from(tmp_path: Path) -> None:
    kinds = {b.path.name: b for b in read_folder(folder_of(tmp_path), tmp_path / "clean")}
    assert kinds["cxr_a.png"].thorax == (60, 60, 450, 450)
    assert kinds["nih_00000001_000.png"].thorax is None
    assert kinds["bar_qr-1_1.png"].codes == ((10, 10, 90, 90),)


def test_a_film_marker_that_nobody_labelled_is_painted_over() -> None:
    film = np.full((600, 600, 3), 60, np.uint8)
    cv2.putText(film, "L", (520, 80), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 4)
    assert painted_over(film, [], film=True, thorax=(100, 150, 500, 550)).max() < 90
    assert film.max() == 255, "the given picture stays as it was"


def test_a_line_that_its_font_cannot_write_is_not_drawn() -> None:
    page = page_of()
    before = page.pixels.copy()
    for files in writing.installed_fonts()["la"].values():
        hand = writing.Hand(files[0], "la", 20.0, (255, 255, 255))
        assert page.line("ward \U0010fffd", 200, 50, hand) is None, files[0]
    assert not page.boxes
    assert np.array_equal(page.pixels, before)


def test_splits_share_no_font_no_layout_and_no_patient() -> None:
    fonts = writing.installed_fonts()["la"]
    families = {s: {f for f in fonts if writing.split_of(f) == s} for s in writing.SPLITS}
    assert all(families.values())
    assert sum(map(len, families.values())) == len(fonts)
    known = {f for fs in layouts.BY_KIND.values() for f in fs}
    assert not known & set(layouts.TEST_ONLY)
    one, two = (Background(Path(n), "chest", "cxr 7") for n in ("a.png", "b.png"))
    assert one.split == two.split


def test_hands_take_only_fonts_of_their_split() -> None:
    files = {
        s: {page_of(s, str(k)).hand(script="la").file for k in range(40)} for s in ("train", "test")
    }
    assert not files["train"] & files["test"]


def test_labels_are_written_as_shares_of_the_picture() -> None:
    rows = data.yolo_rows([("barcode", 32, 16, 96, 48), ("text", 0, 0, 320, 160)], 320, 160)
    assert rows.splitlines() == [
        "1 0.200000 0.200000 0.200000 0.200000",
        "0 0.500000 0.500000 1.000000 1.000000",
    ]


def test_a_drawn_line_that_names_a_patient_is_marked_so() -> None:
    page = page_of()
    hand = page.hand(script="la", low=12)
    name = page.phrases.identity()
    box = page.line(name, 20, 20, hand)
    page.line("12 cm", 20, 200, hand)
    assert box is not None
    assert page.patient == {("text", *box)}


def test_an_enlarged_crop_keeps_its_boxes_on_the_ink() -> None:
    pixels = np.zeros((100, 160, 3), np.uint8)
    pixels[30:50, 40:90] = 255
    larger, labels = data.enlarged(pixels, [("text", 40, 30, 90, 50)], 1.75)
    assert larger.shape == (175, 280, 3)
    ((_, x1, y1, x2, y2),) = labels
    assert larger[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() == 255
    larger[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1] = 0
    assert larger.max() == 0


@pytest.mark.parametrize("layout", [layouts.letters, layouts.leads])
def test_letters_and_leads_are_short_and_all_in_boxes(layout: layouts.Layout) -> None:
    page = page_of(seed="3", size=(600, 800))
    layout(page)
    assert page.boxes
    outside = (page.pixels != page.clean).any(2)
    for _, x1, y1, x2, y2 in page.boxes:
        outside[y1:y2, x1:x2] = False
    assert not outside.any()


# ---- measuring -----------------------------------------------------------------------------------


def seen(
    truth: dict[str, list], found: list[tuple[str, tuple, float]], ms: float = 10.0
) -> evaluate.Seen:
    boxes = {k: np.array(v, np.float64).reshape(-1, 4) for k, v in truth.items()}
    detections = [Detection(Region(*xyxy), label, sure) for label, xyxy, sure in found]
    return evaluate.Seen(Path("x.png"), 200, 100, boxes, detections, ms)


def test_figures_agree_with_a_hand_worked_example() -> None:
    pictures = [
        # Found: one exactly (IoU 1), one half (IoU 0.5), one needlessly; missed: one.
        seen(
            {"text": [(10, 10, 50, 20), (60, 10, 100, 20), (10, 60, 50, 70)]},
            [
                ("text", (10, 10, 50, 20), 0.9),
                ("text", (60, 10, 80, 20), 0.8),
                ("text", (150, 80, 160, 90), 0.3),
            ],
        ),
        seen({"text": []}, [("text", (5, 5, 15, 15), 0.2)], ms=30.0),  # below the threshold
        seen({"text": []}, [("text", (5, 5, 15, 15), 0.4)], ms=20.0),
        seen({"thorax": [(0, 0, 100, 100)]}, []),  # text is not labelled here
    ]
    figures = evaluate.measure(pictures, 0.25, evaluate.Padding(0.0, 0)).figures
    assert figures["pictures"] == 4
    assert figures["text: true boxes"] == 3
    assert figures["text: precision (IoU 0.5)"] == pytest.approx(2 / 4)
    assert figures["text: recall (IoU 0.5)"] == pytest.approx(2 / 3)
    # Two hits come first, so precision is 1 up to recall 2/3: 67 of COCO's 101 recall points.
    assert figures["text: mAP@0.5"] == pytest.approx(67 / 101)
    # Above IoU 0.5 only one hit is left, up to recall 1/3: 34 points; the mean over ten thresholds.
    assert figures["text: mAP@0.5:0.95"] == pytest.approx((67 + 9 * 34) / 101 / 10)
    assert figures["text: covered to 50%"] == pytest.approx(2 / 3)
    assert figures["text: covered to 80%"] == pytest.approx(1 / 3)
    assert figures["thorax: recall (IoU 0.5)"] == 0.0
    assert figures["text-free pictures"] == 2
    assert figures["text-free pictures with a text mask"] == 1
    # 100 px of 20,000 in the first and the third picture, of four.
    assert figures["falsely masked area, mean share"] == pytest.approx(2 * 100 / 20_000 / 4)
    assert figures["ms per picture, median"] == 15.0


def test_padding_counts_for_coverage_but_not_for_precision() -> None:
    picture = seen({"text": [(20, 20, 60, 30)]}, [("text", (24, 20, 56, 30), 0.9)])
    bare = evaluate.measure([picture], 0.25, evaluate.Padding(0.0, 0)).figures
    padded = evaluate.measure([picture], 0.25, PADDING).figures
    assert (bare["text: covered to 95%"], padded["text: covered to 95%"]) == (0.0, 1.0)
    assert bare["text: mAP@0.5:0.95"] == padded["text: mAP@0.5:0.95"]


def test_lines_that_name_a_patient_are_counted_on_their_own(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 200, 3), 40, np.uint8))
    name = {"class": "text", "x1": 10, "y1": 10, "x2": 60, "y2": 24, "patient": True}
    scale = {"class": "text", "x1": 150, "y1": 80, "x2": 160, "y2": 90}
    (tmp_path / "gt.json").write_text(json.dumps({"a.png": [name, scale]}))
    found = [Detection(Region(10, 10, 60, 24), "text", 0.9)]
    pictures = evaluate.look_at(tmp_path, tmp_path / "gt.json", lambda picture: found)
    figures = evaluate.measure(pictures, 0.25, PADDING).figures
    assert figures["text: covered to 80%"] == 0.5
    assert figures["patient data: true boxes"] == 1
    assert figures["patient data: covered to 80%"] == 1.0


def test_nothing_to_count_is_nan_and_no_error() -> None:
    figures = evaluate.measure([], 0.25, PADDING).figures
    assert math.isnan(figures["ms per picture, mean"])
    assert math.isnan(figures["text-free pictures with a text mask, share"])


def test_misses_are_shown_and_unlabelled_classes_left_out(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 200, 3), 40, np.uint8))
    truth = {"a.png": [{"class": "text", "x1": 10, "y1": 10, "x2": 60, "y2": 24},
                       {"class": "barcode", "x1": 90, "y1": 10, "x2": 160, "y2": 60}]}  # fmt: skip
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "coverage.json").write_text(json.dumps({"a.png": ["text"]}))
    pictures = evaluate.look_at(tmp_path, tmp_path / "gt.json", lambda picture: [])
    assert set(pictures[0].truth) == {"text"}
    report = evaluate.measure(pictures, 0.25, PADDING)
    assert len(report.misses) == 1
    evaluate.sheet(report, tmp_path / "misses.png")
    shown = cv2.imread(str(tmp_path / "misses.png")).astype(int)
    assert (shown[..., 1] - shown[..., 2]).max() > 100, "the true box is drawn in green"
    (tmp_path / "a.png").unlink()
    with pytest.raises(SystemExit, match="not in"):
        evaluate.look_at(tmp_path, tmp_path / "gt.json", lambda picture: [])


# ---- learning ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
    made = 0
    for number in range(60):
        for k, sample in enumerate(data.samples(1, number, "train", [], 2)):
            split = "train" if made % 5 else "val"
            stem = f"{number}_{k}"
            cv2.imwrite(str(folder / "images" / split / f"{stem}.jpg"), sample.pixels[..., ::-1])
            h, w = sample.pixels.shape[:2]
            (folder / "labels" / split / f"{stem}.txt").write_text(
                data.yolo_rows(sample.labels, w, h)
            )
            made += 1
        if made > 48:
            break
    names = "".join(f"  {k}: {name}\n" for k, name in enumerate(data.CLASSES))
    (folder / "data.yaml").write_text(
        f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n{names}"
    )
    return folder


def test_batches_hold_one_shape_and_each_epoch_is_another_draw() -> None:
    from model.train import SameShape

    shapes = [(320, 320)] * 21 + [(160, 640)] * 9
    order = SameShape(shapes, batch=4, count=0, seed=1)
    first, second = list(order), list(order)
    assert len(first) == len(order) == 28
    assert all(len({shapes[i] for i in first[k : k + 4]}) == 1 for k in range(0, 28, 4))
    assert first != second
    assert list(SameShape(shapes, 4, 0, 1)) == first
    assert len(list(SameShape(shapes, 4, 9, 1))) == 8


def test_a_warm_start_reproduces_the_network_it_came_from() -> None:
    import onnxruntime
    import torch

    from model import train

    model = train.DetectionModel("yolov8n.yaml", nc=18, verbose=False)
    assert train.warm_start(model, train.nudenet_weights()) == len(model.state_dict()) == 355
    picture = np.random.default_rng(0).random((1, 3, 160, 192), np.float32)
    with torch.no_grad():
        ours = model.eval()(torch.from_numpy(picture))[0].numpy()
    session = onnxruntime.InferenceSession(str(train.nudenet_weights()))
    theirs = session.run(None, {"images": picture})[0]
    assert np.abs(ours - theirs).max() < 1e-3
    other = train.DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    assert train.warm_start(other, train.nudenet_weights()) == 349


def test_a_later_cycle_starts_from_the_weights_of_an_earlier_one(tmp_path: Path) -> None:
    import torch

    from model import train

    earlier = train.DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    torch.save({"ema": None, "model": earlier.half()}, tmp_path / "best.pt")
    later = train.DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    assert train.take_weights(later, tmp_path / "best.pt") == 355
    kept = earlier.float().state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in later.state_dict().items())
    with pytest.raises(SystemExit, match="classes"):
        train.take_weights(
            train.DetectionModel("yolov8n.yaml", nc=2, verbose=False), tmp_path / "best.pt"
        )


def test_recalibration_changes_the_statistics_and_not_the_output(tiny_set: Path) -> None:
    import torch

    from model import train

    model = train.DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    train.warm_start(model, train.nudenet_weights())
    picture = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        before = model.eval()(picture)[0]
        crops = train.Crops(tiny_set / "images" / "train", train.RandomHSV(0, 0, 0))
        train.recalibrate(model, crops, count=4)
        after = model.eval()(picture)[0]
    assert (before - after).abs().max() < 0.05  # px
    assert not torch.allclose(model.model[0].bn.running_mean, torch.zeros(16))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_one_epoch_trains_exports_and_is_found_again(tiny_set: Path, tmp_path: Path) -> None:
    from model import export, train

    overrides = train.RECIPE | {
        "model": "yolov8n.yaml",
        "data": str(tiny_set / "data.yaml"),
        "epochs": 1,
        "batch": 8,
        "project": str(tmp_path),
        "name": "run",
        "device": "cpu",
    }
    best = train.train(overrides, 8, train.nudenet_weights(), threads=1, bfloat16=True)
    sums = export.ship(best, tmp_path)
    assert set(sums) == {"best.pt", "best.onnx"}
    recorded = (tmp_path / "SHA256SUMS").read_text().split()
    assert recorded == [sums["best.pt"], "best.pt", sums["best.onnx"], "best.onnx"]
    for name in sums:
        assert str(tmp_path).encode() not in (tmp_path / name).read_bytes(), "paths of the machine"
    look = {name: evaluate.bare_network(tmp_path / name, [320], 0.45, 0.0005, 1) for name in sums}
    picture = np.full((200, 300, 3), 128, np.uint8)
    found = [look[name](picture) for name in ("best.pt", "best.onnx")]
    assert found[0], "the floor lets something through"
    for label in data.CLASSES:  # order and merging may differ where confidences are equal
        best = [max((d.confidence for d in f if d.label == label), default=0.0) for f in found]
        assert best[0] == pytest.approx(best[1], abs=1e-3)

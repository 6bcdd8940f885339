"""The pipeline behind the verifiers: what is drawn, how it is exported and recorded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
import pytest

from engine.detect.networks import CpuModel, recorded
from engine.detect.verifier import SIDE_PX
from engine.geometry import areas_px, intersections_px
from model.codes import DAMAGES, damaged_code

# Imported where it is used: it takes seconds, and each worker of the suite imports this file.
if find_spec("torch") is None:
    pytest.skip("no PyTorch is installed", allow_module_level=True)

GREY = np.full((300, 500), 120, np.uint8)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_code_lies_in_its_box(damage: str) -> None:
    picture, box = damaged_code(Random(f"a {damage}"), "DataMatrix", damage, GREY)
    again, same = damaged_code(Random(f"a {damage}"), "DataMatrix", damage, GREY)
    assert (picture == again).all()
    assert box == same
    x1, y1, x2, y2 = (round(v) for v in box)
    assert 0 <= x1 < x2 <= 500
    assert 0 <= y1 < y2 <= 300
    assert picture[y1:y2, x1:x2].std() > 4
    far = np.ones_like(picture, bool)
    far[max(0, y1 - 60) : y2 + 60, max(0, x1 - 60) : x2 + 60] = False
    if damage != "noisy" and far.any():
        assert np.abs(picture[far].astype(int) - 120).max() <= 8  # only its label is drawn


def test_a_shaken_box_still_shows_most_of_what_it_held() -> None:
    from model import verifier_data

    r = Random(4)
    for _ in range(200):
        box = (100.0, 100.0, 300.0, 160.0)
        shaken = verifier_data.shaken(r, box)
        assert intersections_px(shaken, np.array([box]))[0] >= 0.48 * areas_px(box)


def tiny(folder: Path) -> None:
    """Noise that shows nothing, stripes that show something."""
    g = np.random.default_rng(1)
    views = g.integers(-60, 60, (80, 2, SIDE_PX, SIDE_PX)).astype(np.int8)
    views[:40, :, :, ::4] = 110
    shows = np.arange(80) < 40
    kinds = np.where(shows, "stripes", "noise")
    for split in ("train", "val", "test"):
        np.savez(folder / f"{split}.npz", views=views, shows=shows, kinds=kinds)


def test_training_goes_on_where_it_was_interrupted_and_ships_what_it_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from model import verifier, verifier_data

    tiny(tmp_path)
    monkeypatch.setattr(verifier, "EPOCH_BATCHES", 3)
    monkeypatch.setattr(verifier, "BATCH", 16)
    verifier.train(tmp_path, 1e-6, 7)
    spent = torch.load(tmp_path / "last.pt", weights_only=True)["spent"]
    net = verifier.train(tmp_path, spent / 60 + 1e-6, 7)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 2
    views, _, _ = verifier.load(tmp_path, "test")
    ours = verifier.shares_of(net, views[:3])
    shipped = CpuModel(verifier.export(net, SIDE_PX, SIDE_PX), 1, precision="f32")
    theirs = shipped(views[:3].astype(np.float32) / verifier_data.SCALE)[0]
    assert np.abs(ours - theirs.reshape(-1)).max() < 1e-3
    assert "stripes" in verifier.report(net, tmp_path)


def test_a_verifier_is_recorded_beside_what_ships_already(tmp_path: Path) -> None:
    from model import verifier

    verifier.record({"best.pt": b"one"}, tmp_path)
    verifier.record({"verifier-barcode.onnx": b"two"}, tmp_path)
    digests = verifier.record({"best.pt": b"three"}, tmp_path)
    assert set(recorded(tmp_path)) == {"best.pt", "verifier-barcode.onnx"}
    assert recorded(tmp_path)["best.pt"] == digests["best.pt"]

"""The pipeline behind the screen: what its cells mean, what is drawn, how it is exported."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from engine.detect.networks import CpuModel
from engine.detect.screen import CELL_PX, normalised

torch = pytest.importorskip("torch")

from model import screen, screen_data  # noqa: E402
from model.screen_data import CELLS, NONE, OPEN, SHOWS, SIDE_PX  # noqa: E402

NOTHING = np.empty((0, 4))


def test_cells_of_a_line_show_writing_and_those_around_it_do_not_count() -> None:
    cells = screen_data.cells(np.array([[64.0, 80.0, 160.0, 96.0]]), NOTHING, 0, 0)
    assert (cells[10:12, 8:20] == SHOWS).all()
    assert (cells[9, 8:20] == OPEN).all()
    assert (cells[:9] == NONE).all()
    assert cells.shape == (CELLS, CELLS)


def test_a_letter_smaller_than_a_cell_has_one() -> None:
    cells = screen_data.cells(np.array([[101.0, 101.0, 106.0, 106.0]]), NOTHING, 0, 0)
    assert np.argwhere(cells == SHOWS).tolist() == [[12, 12]]


@pytest.mark.parametrize("height", [3.0, 60.0])
def test_writing_for_another_scale_does_not_count(height: float) -> None:
    box = np.array([[40.0, 40.0, 200.0, 40.0 + height]])
    cells = screen_data.cells(box, NOTHING, 0, 0)
    assert not (cells == SHOWS).any()
    assert (cells == OPEN).any()
    assert (screen_data.cells(NOTHING, box, 0, 0) == SHOWS).any() == (height > 24)


def test_windows_hold_what_their_cells_say_at_every_scale() -> None:
    picture = np.full((700, 900, 3), 40, np.uint8)
    boxes = np.array([[300.0, 350.0, 500.0, 390.0]])
    picture[350:390, 300:500] = 220
    shown = 0
    for seen, cells in screen_data.windows(Random(3), picture, boxes, NOTHING, 60):
        assert seen.shape == (SIDE_PX, SIDE_PX, 3)
        tones = seen[..., 0].reshape(CELLS, CELL_PX, CELLS, CELL_PX).max((1, 3))
        assert (tones[cells == SHOWS] > 120).all()
        assert (tones[cells == NONE] < 120).all()
        shown += int((cells == SHOWS).any())
    assert shown > 20


def test_lines_that_no_network_sees_do_not_count() -> None:
    line = np.array([[64.0, 80.0, 160.0, 96.0]])
    cells = screen_data.cells(NOTHING, NOTHING, 0, 0, line)
    assert not (cells == SHOWS).any()
    assert (cells[10:12, 8:20] == OPEN).all()


def test_variations_move_cells_with_their_picture() -> None:
    picture = np.full((SIDE_PX, SIDE_PX, 3), 60, np.uint8)
    cells = np.full((CELLS, CELLS), NONE, np.uint8)
    picture[40:56, 16:96], cells[5:7, 2:12] = 230, SHOWS
    g = np.random.default_rng(5)
    for _ in range(40):
        seen, shown = screen.varied(g, picture, cells)
        tones = seen.astype(float).mean(2).reshape(CELLS, CELL_PX, CELLS, CELL_PX).mean((1, 3))
        inside, outside = tones[shown == SHOWS], tones[shown == NONE]
        assert abs(inside.mean() - outside.mean()) > 15


def test_training_goes_on_where_it_was_interrupted_and_ships_what_it_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = np.random.default_rng(1)
    pictures = g.integers(90, 110, (12, SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
    cells = np.full((12, CELLS, CELLS), NONE, np.uint8)
    pictures[:6, 64:80, 64:160:4], cells[:6, 8:10, 8:20] = 250, SHOWS
    for split in ("train", "val", "test"):
        for kind in screen.KINDS:
            np.save(tmp_path / f"{kind}_{split}.pictures.npy", pictures)
            np.save(tmp_path / f"{kind}_{split}.cells.npy", cells)
    monkeypatch.setattr(screen, "EPOCH_BATCHES", 2)
    monkeypatch.setattr(screen, "BATCH", 4)
    screen.train(tmp_path, 1e-6, 7)
    spent = torch.load(tmp_path / "last.pt", weights_only=True)["spent"]
    net = screen.train(tmp_path, spent / 60 + 1e-6, 7)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 2
    seen = normalised(pictures[0])[None]
    ours = torch.sigmoid(net(torch.from_numpy(seen))).detach().numpy()
    theirs = CpuModel(screen.export(net), 1, precision="f32")(seen)[0]
    assert np.abs(ours - theirs).max() < 1e-3
    report = screen.report(net, tmp_path)
    assert "6 lines" in report
    assert "6 empty" in report


def test_without_windows_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="draw first"):
        screen.train(tmp_path, 1.0, 7)

"""How pictures with tattoos are drawn, and what the shipped network makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

pytest.importorskip("resvg_py", reason="drawing tattoos needs requirements-train.txt")

from engine.detect.looking import NETWORKS
from engine.geometry import Region
from engine.settings import Settings
from model import tattoos
from model.data import SIDE
from model.invented import skin

pytestmark = pytest.mark.usefixtures("fonts")

SEALED = 0.4  # in the profile ``dermatology``
STAR = '<path fill="currentColor" d="m12 2 3 7h7l-5 5 2 7-7-4-7 4 2-7-5-5h7z"/>'
#: Names that fall into the splits for training and for validation.
SETS = {"width": 24, "height": 24, "icons": {f"star-{n}": {"body": STAR} for n in range(40)}}


@pytest.fixture
def designs(tmp_path: Path) -> tattoos.Designs:
    folder = tmp_path / "designs" / "stars"
    folder.mkdir(parents=True)
    (folder / "icons.json").write_text(json.dumps(SETS))
    return tattoos.Designs(tmp_path / "designs")


def folder_of(tmp_path: Path) -> Path:
    """Skin, a section and a tattoo, as real pictures come in."""
    images = tmp_path / "images"
    images.mkdir()
    g = np.random.default_rng(1)
    for name in ("skin.png", "section.png", "tattoo.png"):
        cv2.imwrite(str(images / name), skin(Random(2), g, 240, 360))
    box = {"class": "tattoo", "x1": 9, "y1": 9, "x2": 60, "y2": 60}
    (tmp_path / "gt.json").write_text(json.dumps(
        {"skin.png": [], "section.png": [], "tattoo.png": [box]}
    ))  # fmt: skip
    covered = {path.name: ["tattoo"] for path in images.iterdir()}
    (tmp_path / "coverage.json").write_text(json.dumps(covered))
    (tmp_path / "manifest.json").write_text(json.dumps({
        "skin.png": {"patient": "1", "modality": "XC"},
        "section.png": {"patient": "2", "modality": "CT"},
        "tattoo.png": {"patient": "3", "modality": "XC"},
    }))  # fmt: skip
    return images


def test_ink_lies_in_its_box_and_on_skin(designs: tattoos.Designs) -> None:
    for seed in range(6):
        r = Random(f"ink {seed}")
        picture = np.full((SIDE, SIDE, 3), (225, 180, 155), np.uint8)
        on = np.zeros(picture.shape[:2], bool)
        on[:, :200] = True
        before = picture.copy()
        box = tattoos.inked(r, picture, tattoos.design(r, "train", designs), on)
        changed = np.abs(picture.astype(int) - before).max(axis=2) > 60
        if box is None:
            assert not changed.any()
            continue
        x1, y1, x2, y2 = box
        inside = np.zeros_like(changed)
        inside[max(0, y1 - 3) : y2 + 3, max(0, x1 - 3) : x2 + 3] = True
        assert changed.any()
        assert not (changed & ~inside).any()
        assert not changed[:, 200:].any()


def test_a_set_is_written_as_training_reads_it(tmp_path: Path, designs: tattoos.Designs) -> None:
    config = tattoos.make(
        folder_of(tmp_path), designs, tmp_path / "out", {"train": 8, "val": 4}, seed=3
    )
    assert "0: tattoo" in config.read_text()
    labels = sorted((tmp_path / "out" / "labels" / "train").iterdir())
    rows = [line.split() for path in labels for line in path.read_text().splitlines()]
    assert len(labels) == 8
    assert rows
    assert {row[0] for row in rows} == {"0"}
    assert all(0 <= float(v) <= 1 for row in rows for v in row[1:])
    pictures = sorted((tmp_path / "out" / "images" / "train").iterdir())
    shown = cv2.imread(str(pictures[0]))
    assert shown is not None
    assert shown.shape == (SIDE, SIDE, 3)


def test_pictures_with_tattoos_are_no_ground_to_draw_on(tmp_path: Path) -> None:
    assert [p.path.name for p in tattoos.reals(folder_of(tmp_path))] == ["section.png", "skin.png"]


def test_splits_share_no_design(designs: tattoos.Designs) -> None:
    train, val = (set(designs.of(split)) for split in ("train", "val"))
    assert train
    assert val
    assert not train & val


def test_without_designs_of_a_split_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no designs"):
        tattoos.Designs(tmp_path).of("train")


def test_the_shipped_network_finds_ink_on_skin_and_none_where_there_is_none(
    designs: tattoos.Designs,
) -> None:
    network = NETWORKS["yolov8n-tattoo"](Settings(threads=1))
    found, drawn, bare = 0, 0, 0
    for seed in range(12):
        r = Random(f"shown {seed}")
        picture = skin(r, np.random.default_rng(seed), 420, 560)
        bare += bool(network.look(picture, SEALED))
        on = np.ones(picture.shape[:2], bool)
        box = tattoos.inked(r, picture, tattoos.design(r, "val", designs), on)
        if box is not None:
            drawn += 1
            boxes = (Region.around(f.xyxy, 560, 420) for f in network.look(picture, SEALED))
            found += Region(*box).hidden_share([b for b in boxes if b]) >= 0.8
    assert drawn >= 8
    assert found >= 0.7 * drawn
    assert bare <= 2

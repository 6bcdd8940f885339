"""The benchmark's own bookkeeping: what it puts where, and what it counts as bare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import detection, goals, screening
from engine.records import Detection, Region


def test_a_new_section_takes_the_place_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\n## Vault\n\nfast\n\n## Other\n\nkept\n")
    monkeypatch.setattr(detection, "RESULTS", results)
    for figure in ("0.1", "0.2"):
        detection.write_section(f"{detection.HEADING}\n\n{figure}\n")
        results.write_text(results.read_text() + "\n## Later\n\nkept too\n")
    text = results.read_text()
    assert text.count(detection.HEADING) == 1
    assert "0.1" not in text
    assert "0.2" in text
    assert all(kept in text for kept in ("fast", "kept", "kept too"))


@pytest.mark.usefixtures("fonts")
def test_a_table_tells_coverage_and_the_share_of_time_outside_the_networks(
    tmp_path: Path,
) -> None:
    folder, truth = detection.drawn_set(tmp_path / "drawn", 2, seed=3)

    def everything(picture: np.ndarray) -> list[Detection]:
        ours.bare_ms.append(1.0)
        return [Detection(Region(0, 0, picture.shape[1], picture.shape[0]), "text", 0.9)]

    ours = detection.Timed("all", everything)
    none = detection.Timed("none", lambda picture: [])
    table = detection.compare("Drawn", folder, truth, [ours, none], detection.Padding(0.04, 4))
    assert "2 pictures" in table
    assert "| all | 1.000 / 1.000 / 1.000 |" in table
    assert "| none | 0.000 / 0.000 / 0.000 |" in table
    assert "over its bare networks" in table


def test_a_file_of_a_package_that_is_not_there_is_told() -> None:
    with pytest.raises(SystemExit, match="requirements-dev"):
        detection.packaged_file("skimage", "no_such_picture.png")


def test_labelled_pictures_are_counted_as_a_person_would(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    truth = {
        "a.png": [
            {"class": "text", "x1": 10, "y1": 10, "x2": 50, "y2": 20, "phi": True},
            {"class": "text", "x1": 10, "y1": 80, "x2": 50, "y2": 90},
        ],
        "free.png": [],
        "half.png": [{"class": "text", "x1": 1, "y1": 1, "x2": 9, "y2": 9}],
    }
    coverage = {"a.png": ["text"], "free.png": ["text", "barcode"], "half.png": ["barcode"]}
    for name, kept in (("gt.json", truth), ("coverage.json", coverage)):
        (tmp_path / name).write_text(json.dumps(kept))
    known = screening.known(tmp_path / "images")
    assert set(known) == {"a.png", "free.png"}

    def answer(name: str, *boxes: list[object]) -> dict[str, object]:
        return {"job": {"path": f"/x/{name}"}, "boxes": list(boxes)}

    before = [
        answer("a.png", [10, 10, 50, 20, 0, 1, "text", 0.9]),
        answer("free.png", [0, 0, 9, 9, 0, 1, "face", 0.3], [0, 0, 9, 9, 0, 1, "text", 0.2]),
        answer("half.png"),
    ]
    now = [
        answer("a.png", [10, 10, 50, 20, 0, 1, "text", 0.9], [10, 80, 50, 90, 0, 1, "text", 0.25]),
        answer("free.png"),
        answer("half.png"),
    ]
    assert screening.labelled_table(known, before, now) == [
        "| before | 1 of 2 | 1 of 1 | 0 / 1 of 1 | 1 / 1 of 2 |",
        "| now | 2 of 2 | 1 of 1 | 0 / 0 of 1 | 0 / 0 of 2 |",
    ]


def test_goals_are_counted_as_a_person_would(tmp_path: Path) -> None:
    """One picture with a line, one with nothing, and a page of teeth."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "free.png"):
        (tmp_path / "images" / name).touch()
    line = {"class": "text", "x1": 10, "y1": 10, "x2": 50, "y2": 20, "phi": True}
    truth = {"a.png": [line], "free.png": []}
    coverage = {"a.png": ["text"], "free.png": ["text", "barcode", "face"]}
    for kept, what in (("gt.json", truth), ("coverage.json", coverage)):
        (tmp_path / kept).write_text(json.dumps(what))
    (tmp_path / "answer_keys").mkdir()
    key = {
        "raster": "images/c.png", "difficulty": "hard",
        "burned_in": [{"text": "x", "bbox": [0, 0, 50, 50], "phi": True}],
    }  # fmt: skip
    (tmp_path / "answer_keys" / "c0001.json").write_text(json.dumps(key))
    found = {p.path.name: p for p in goals.of_folder(tmp_path / "images")}
    (teeth,) = goals.of_teeth(tmp_path)
    assert found["free.png"].free
    assert not found["a.png"].free

    def seen(picture: goals.Labelled, *boxes: list[object], again: bool = False) -> goals.Seen:
        answer = {
            "boxes": [[*box[0], 0, 1, *box[1:]] for box in boxes],  # type: ignore[misc]
            "again": [[0, 0, 9, 9, 0, 1, "text", 0.9]] if again else [],
            "size": [100, 100], "small_doubt": 0.01, "seconds": [2.0, 1.0],
        }  # fmt: skip
        return goals.Seen(picture, answer)

    whole, half = [10, 10, 50, 20], [10, 10, 26, 20]
    before = [
        seen(found["a.png"], [half, "text", 0.9], [[80, 80, 99, 99], "text", 0.2]),
        seen(found["free.png"], [[1, 1, 5, 5], "face", 0.2]),
    ]
    now = [
        seen(found["a.png"], [whole, "text", 0.9], [[80, 80, 81, 81], "text", 0.2], again=True),
        seen(found["free.png"]),
    ]
    assert goals.hidden_table((before, now)) == [
        "| names somebody | 1 | 1 | 0 | 1 | 1 |",
        "| text | 1 | 1 | 0 | 1 | 1 |",
    ]
    assert goals.care_table((before, now))[:4] == [
        "| pictures that stop for proposals | 2 | 2 | 0 |",
        "| that would stop at the second look | 2 | 0 | 1 |",
        "| without anything to seal: with a box | 1 | 1 | 0 |",
        "| the same: with a sealed box | 1 | 0 | 0 |",
    ]
    sides = ([seen(teeth)], [seen(teeth, [[0, 0, 100, 50], "barcode", 0.9])])
    assert goals.teeth_table(sides) == [
        "| before | 0 of 0 | 0 of 1 | 0.00% | 0 of 1 |",
        "| now | 0 of 0 | 1 of 1 | 24.84% | 0 of 1 |",
    ]

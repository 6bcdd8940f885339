"""The benchmark's own bookkeeping: what it puts where, and what it counts as bare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import detection
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

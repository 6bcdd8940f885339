"""``detect``, on real networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cli
from tests import builders
from tests.commands.calls import labelled


def test_detect_writes_boxes_in_pixels_of_the_input(place: Path) -> None:
    (place / "in" / "a.png").write_bytes(builders.png(labelled("NOWAK JAN 1979")))
    out = place / "found.json"
    assert cli.main(["detect", str(place / "in" / "a.png"), "--json", str(out)]) == 0
    found = json.loads(out.read_text())["a.png"]
    texts = [d for d in found if d["class"] == "text"]
    assert texts
    assert all(0 <= d["x1"] < d["x2"] <= 640 and 0 <= d["y1"] < d["y2"] <= 480 for d in found)
    assert {"class", "x1", "y1", "x2", "y2", "confidence", "frame"} <= set(texts[0])
    assert any(d["y1"] < 40 and d["x1"] < 60 for d in texts)


@pytest.mark.parametrize("arguments", [
    ["detect", "missing.png", "--json", "OUT"],
    ["detect", "missing.png", "--json", "OUT", "--profile", "nonsense"],
])  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    given = [str(place / "o.json") if a == "OUT" else a for a in arguments]
    assert cli.main(given) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1

"""The command line on real networks: seal, restore, detect, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cli
from engine.store.database import Database
from tests import builders
from tests.fakes import FakeHost


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("MEDSEC_"):
            monkeypatch.delenv(name)
    (tmp_path / "in").mkdir()
    return tmp_path


def where(place: Path) -> list[str]:
    return ["--data", str(place / "data"), "--key", str(place / "root.key")]


def labelled(text: str) -> np.ndarray:
    pixels = builders.radiograph(640, 480)
    builders.write_text(pixels, text, (16, 16), scale=0.9)
    return pixels


def test_a_folder_is_sealed_and_every_original_comes_back(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "a.png": builders.png(labelled("NOWAK JAN 1979")),
        "b.jpg": builders.jpeg(labelled("LARSEN ODIN")),
        "c.dcm": builders.dicom(labelled("FERRARI GIULIA")),
    }
    for name, data in files.items():
        (place / "in" / name).write_bytes(data)
    (place / "in" / "broken.png").write_bytes(files["a.png"][:300])
    out, back = place / "out", place / "back"
    command = ["seal", str(place / "in"), "--out", str(out), "--seal-proposals", *where(place)]
    assert cli.main(command) == 1  # one file is broken; the others are done
    said = capsys.readouterr()
    assert "broken.png: failed (corrupt-image)" in said.err
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*files, *(f"{name}.medsec" for name in files)]
    )
    for name, data in files.items():
        assert (out / name).read_bytes() != data
        assert f"{name}: sealed" in said.out
    assert cli.main(["restore", str(out), "--out", str(back), *where(place)]) == 0
    for name, data in files.items():
        assert (back / name).read_bytes() == data
    assert cli.main(command) == 1  # again: nothing is done twice, everything is there
    assert cli.main(["verify", *where(place)]) == 0
    assert "3 checked, 0 broken" in capsys.readouterr().out

    package = out / "a.png.medsec"
    content = bytearray(package.read_bytes())
    content[-40] ^= 1
    package.write_bytes(content)
    (back / "a.png").unlink()
    assert cli.main(["restore", str(out), "--out", str(back), *where(place)]) == 1
    assert not (back / "a.png").exists()

    # the same from a single file, as an archive would keep it
    single = place / "single"
    assert cli.main(["carry", str(out), "--out", str(single)]) == 1  # only DICOM can
    assert [p.name for p in single.iterdir()] == ["c.dcm"]
    capsys.readouterr()
    again = ["restore", str(single / "c.dcm"), "--out", str(place / "again"), *where(place)]
    assert cli.main(again) == 0
    assert (place / "again" / "c.dcm").read_bytes() == files["c.dcm"]
    (single / "c.dcm").write_bytes((single / "c.dcm").read_bytes()[:-200])
    assert cli.main(["restore", str(single), "--out", str(place / "cut"), *where(place)]) == 1
    (out / "c.dcm").unlink()  # a package without its masked file is not passed over
    assert cli.main(["restore", str(out), "--out", str(place / "third"), *where(place)]) == 1
    assert "c.dcm: failed" in capsys.readouterr().err


def test_an_image_without_findings_waits_unless_it_is_accepted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "in" / "empty.png").write_bytes(builders.png(np.full((200, 300), 40, np.uint8)))
    command = ["seal", str(place / "in" / "empty.png"), "--out", str(place / "out"), *where(place)]
    assert cli.main(command) == 1
    assert "needs review (nothing-found)" in capsys.readouterr().err
    assert list((place / "out").iterdir()) == []
    assert cli.main([*command, "--accept-empty"]) == 0
    assert "released without review" in capsys.readouterr().out


def test_masked_files_never_take_the_place_of_originals(place: Path) -> None:
    data = builders.png(labelled("NOWAK JAN"))
    path = place / "in" / "a.png"
    path.write_bytes(data)
    assert cli.main(["seal", str(path), "--out", str(place / "in"), *where(place)]) == 2
    assert path.read_bytes() == data


def test_a_folder_that_a_server_holds_is_refused(place: Path) -> None:
    (place / "data").mkdir()
    script = (
        "import sys, cli; sys.exit(cli.main(['verify', '--data',"
        f" {str(place / 'data')!r}, '--key', {str(place / 'root.key')!r}]))"
    )
    held = Database.open(place / "data" / "catalog.duckdb", FakeHost(place), 1)
    (place / "root.key").touch()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    held.close()
    assert done.returncode == 2
    assert "medsec:" in done.stderr


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


def test_a_refused_call_leaves_the_last_report_as_it_was(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "in" / "a.png").write_bytes(builders.png(labelled("A")))
    report = place / "report.csv"
    report.write_text("of last night")
    (place / "root.key").write_text("no key at all")
    (place / "root.key").chmod(0o600)
    command = ["seal", str(place / "in"), "--out", str(place / "out"), "--report", str(report)]
    assert cli.main([*command, *where(place)]) == 2
    assert "medsec:" in capsys.readouterr().err
    assert report.read_text() == "of last night"


def test_a_report_on_a_full_disk_is_a_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "full.jsonl").symlink_to("/dev/full")
    (place / "in" / "a.png").write_bytes(b"no picture")
    command = ["seal", str(place / "in"), "--out", str(place / "out")]
    command += ["--report", str(place / "full.jsonl"), *where(place)]
    assert cli.main(command) == 2
    assert "The report cannot be written any more" in capsys.readouterr().err


def test_what_stands_in_the_way_of_a_folder_costs_that_file_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("one", "two"):
        (place / "in" / folder).mkdir()
        (place / "in" / folder / "a.png").write_bytes(builders.png(labelled(f"NOWAK JAN {folder}")))
    (place / "out").mkdir()
    (place / "out" / "one").write_text("a file, not a folder")
    command = ["seal", str(place / "in"), "--out", str(place / "out"), "--seal-proposals"]
    assert cli.main([*command, *where(place)]) == 1
    said = capsys.readouterr()
    assert "failed (storage-error): The folder cannot be made there." in said.err
    assert (place / "out" / "two" / "a.png").exists()


def test_a_file_over_every_limit_is_not_even_read(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (place / "in" / "huge.png").open("wb") as file:
        file.truncate(1 << 42)  # 4 TB, of which nothing is on the disk
    command = ["seal", str(place / "in"), "--out", str(place / "out"), *where(place)]
    assert cli.main(command) == 1
    assert "failed (image-too-large)" in capsys.readouterr().err

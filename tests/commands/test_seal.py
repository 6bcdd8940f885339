"""``seal`` on real networks, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cli
from tests import builders, photographs
from tests.commands.calls import labelled, where


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


def test_a_masked_photograph_of_another_format_has_its_ending(place: Path) -> None:
    pixels = photographs.wound(480, 320).copy()
    builders.write_text(pixels, "NOWAK JAN 1947", (44, 36), scale=0.7)
    data = photographs.heic(pixels)
    (place / "in" / "photo.heic").write_bytes(data)
    command = ["seal", str(place / "in"), "--out", str(place / "out"), "--seal-proposals"]
    assert cli.main([*command, "--keep-names", "--accept-empty", *where(place)]) == 0
    names = {p.name for p in (place / "out").iterdir()}
    assert names == {"photo.heic.png", "photo.heic.png.medsec"}
    assert (place / "out" / "photo.heic.png").read_bytes()[:4] == b"\x89PNG"
    back = ["restore", str(place / "out"), "--out", str(place / "back"), "--reason", "check"]
    assert cli.main([*back, *where(place)]) == 0
    assert (place / "back" / "photo.heic").read_bytes() == data


def test_masked_files_never_take_the_place_of_originals(place: Path) -> None:
    data = builders.png(labelled("NOWAK JAN"))
    path = place / "in" / "a.png"
    path.write_bytes(data)
    assert cli.main(["seal", str(path), "--out", str(place / "in"), *where(place)]) == 2
    assert path.read_bytes() == data


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
    assert cli.main([*command, "--keep-names", *where(place)]) == 1
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

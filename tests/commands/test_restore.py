"""Seal, restore, carry and verify together, on real networks."""

from __future__ import annotations

from pathlib import Path

import pytest

import cli
from tests import builders
from tests.commands.calls import labelled, where

#: Folders and files that name patients; two of one name, and one as long as a name can be.
LONG = "Quastenberg_Ottilie_" + "x" * 231 + ".png"
FILES = {
    "QUASTENBERG Ottilie/IM0001.png": builders.png(labelled("NOWAK JAN 1979")),
    "フジマキ 園花 様/IM0001.jpg": builders.jpeg(labelled("LARSEN ODIN")),
    "フジマキ 園花 様/QUASTENBERG_19470823.dcm": builders.dicom(labelled("FERRARI GIULIA")),
    LONG: builders.png(labelled("NOWAK EWA 1979")),
}


def written(place: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = place / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place / "in"


def test_a_folder_is_sealed_under_neutral_names_and_every_original_comes_back(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(place, FILES)
    (source / "broken.png").write_bytes(next(iter(FILES.values()))[:300])
    out, back = place / "out", place / "back"
    command = ["seal", str(source), "--out", str(out), "--seal-proposals", *where(place)]
    command += ["--report", str(out / "report.csv")]
    out.mkdir()
    assert cli.main(command) == 1  # one file is broken; the others are done
    said = capsys.readouterr()
    assert "broken.png: failed (corrupt-image)" in said.err
    assert "IM0001.png: sealed" in said.out

    # Nothing in the folder that is handed on says what a file or its folder was called.
    handed = sorted(p for p in out.rglob("*"))
    assert len(handed) == 2 * len(FILES) + 1
    for path in handed:
        assert path.parent == out
        assert path.name == "report.csv" or path.name.startswith("im_")
        content = path.read_bytes()
        for word in ("QUASTENBERG", "Ottilie", "IM0001", "フジマキ", "園花", "19470823", "broken"):
            assert word.encode() not in content
    assert len((out / "report.csv").read_text().splitlines()) == 1 + len(FILES) + 1
    (out / "report.csv").unlink()

    assert cli.main(["restore", str(out), "--out", str(back), *where(place)]) == 0
    came = {p.relative_to(back).as_posix(): p.read_bytes() for p in back.rglob("*") if p.is_file()}
    assert came == FILES
    assert cli.main(command) == 1  # again: nothing is done twice, everything is there
    (out / "report.csv").unlink()
    assert cli.main(["verify", *where(place)]) == 0
    assert "4 checked, 0 broken" in capsys.readouterr().out

    picture = next(out.glob("*.png.medsec"))
    content = bytearray(picture.read_bytes())
    content[-40] ^= 1
    picture.write_bytes(content)
    assert cli.main(["restore", str(out), "--out", str(place / "torn"), *where(place)]) == 1
    assert sum(p.is_file() for p in (place / "torn").rglob("*")) == len(FILES) - 1

    # the same from a single file, as an archive would keep it
    single, [masked] = place / "single", out.glob("*.dcm")
    assert cli.main(["carry", str(out), "--out", str(single)]) == 1  # only DICOM can
    assert [p.name for p in single.iterdir()] == [masked.name]
    capsys.readouterr()
    carries, own = single / masked.name, "フジマキ 園花 様/QUASTENBERG_19470823.dcm"
    assert cli.main(["restore", str(carries), "--out", str(place / "again"), *where(place)]) == 0
    assert (place / "again" / own).read_bytes() == FILES[own]
    carries.write_bytes(carries.read_bytes()[:-200])
    assert cli.main(["restore", str(single), "--out", str(place / "cut"), *where(place)]) == 1
    masked.unlink()  # a package without its masked file is not passed over
    assert cli.main(["restore", str(out), "--out", str(place / "third"), *where(place)]) == 1
    assert f"{masked.name}: failed" in capsys.readouterr().err


def test_names_are_kept_on_request_and_too_long_ones_are_told_before_anything_is_sealed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = written(place, FILES), place / "out"
    command = ["seal", str(source), "--out", str(out), "--seal-proposals", "--keep-names"]
    assert cli.main([*command, *where(place)]) == 2
    said = capsys.readouterr()
    assert "its name is too long" in said.err
    assert "Nothing was sealed" in said.err
    assert not out.exists()
    assert not (place / "data").exists()
    (source / LONG).unlink()
    (source / "フジマキ 園花 様/IM0001.jpg").unlink()
    assert cli.main([*command, *where(place)]) == 0
    assert (out / "QUASTENBERG Ottilie/IM0001.png.medsec").exists()
    assert (out / "フジマキ 園花 様/QUASTENBERG_19470823.dcm").exists()
    assert cli.main(["restore", str(out), "--out", str(place / "back"), *where(place)]) == 0
    came = {p.relative_to(place / "back").as_posix() for p in (place / "back").rglob("*.*")}
    assert came == {"QUASTENBERG Ottilie/IM0001.png", "フジマキ 園花 様/QUASTENBERG_19470823.dcm"}


def test_two_originals_of_one_name_both_come_back(place: Path) -> None:
    for number, text in enumerate(("NOWAK JAN 1979", "LARSEN ODIN 1981")):
        folder = place / f"in{number}"
        folder.mkdir()
        (folder / "IM0001.png").write_bytes(builders.png(labelled(text)))
        command = ["seal", str(folder / "IM0001.png"), "--out", str(place / "out")]
        assert cli.main([*command, "--seal-proposals", *where(place)]) == 0
    restore = ["restore", str(place / "out"), "--out", str(place / "back"), *where(place)]
    assert cli.main(restore) == 0
    assert cli.main(restore) == 0  # again: the same two
    came = list((place / "back").rglob("*.png"))
    assert {p.name for p in came} == {"IM0001.png"}
    assert len({p.read_bytes() for p in came}) == len(came) == 2

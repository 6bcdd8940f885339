"""Seal, restore, carry and verify together, on real networks."""

from __future__ import annotations

from pathlib import Path

import pytest

import cli
from tests import builders
from tests.commands.calls import labelled, where


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

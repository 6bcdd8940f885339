"""``checkpoint`` and ``verify --checkpoint``: a log that was cut off at its end is found."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import cli
from tests.commands.calls import where


def cut_off(place: Path, entries: int) -> None:
    """Delete the newest entries, as somebody with the catalog's file can."""
    with duckdb.connect(place / "data" / "catalog.duckdb") as file:
        file.execute("DROP TRIGGER audit_no_delete ON audit")
        file.execute(
            "DELETE FROM audit WHERE sequence > (SELECT max(sequence) - ? FROM audit)", [entries]
        )


def test_a_log_whose_end_was_cut_off_verifies_but_not_against_its_checkpoint(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "checkpoints"
    assert cli.main(["checkpoint", "--to", str(folder), *where(place)]) == 0
    [file] = folder.iterdir()
    assert f"checkpoint {file.name} written to {folder}" in capsys.readouterr().out
    check = ["verify", "--checkpoint", str(file), *where(place)]
    assert cli.main(check) == 0
    assert "continues the checkpoint at entry" in capsys.readouterr().out

    cut_off(place, 6)
    assert cli.main(["verify", *where(place)]) == 0
    assert "unbroken" in capsys.readouterr().out
    assert cli.main(check) != 0
    assert "truncated or rewritten after the checkpoint" in capsys.readouterr().err


def test_the_folder_of_the_settings_is_the_default(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSEC_CHECKPOINT_DIR", str(place / "set"))
    assert cli.main(["checkpoint", *where(place)]) == 0
    assert len(list((place / "set").iterdir())) == 1


def test_without_a_folder_it_says_which_setting_is_missing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["checkpoint", *where(place)]) == 2
    assert "MEDSEC_CHECKPOINT_DIR" in capsys.readouterr().err

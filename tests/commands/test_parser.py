"""Every command is in the parser and explains itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cli
import commands
from commands.parser import MODULES, subcommands

ROOT = Path(commands.__file__).parent.parent
NAMES = {
    "seal", "restore", "carry", "detect", "profiles", "verify", "accept-roster", "rotate", "backup",
    "checkpoint", "recover-data", "shares", "drill", "recover-key", "training-export",
    "training-open", "learn", "release", "verify-release", "serve",
    "database-roles", "database-migrate", "database-move", "files-move",
    "files-claim",
}  # fmt: skip
#: Modules of the package that are no commands.
SHARED = {"__init__", "files", "folder", "options", "outcome", "parser", "terminal"}
#: They end at once, or become the server.
SHORT = {"serve", "database-roles"}


def test_the_parser_has_every_command() -> None:
    assert set(subcommands()) == NAMES


def test_every_module_of_commands_is_in_the_parser() -> None:
    there = {p.stem for p in Path(commands.__file__).parent.glob("*.py")} - SHARED
    assert {m.__name__.removeprefix("commands.") for m in MODULES} == there


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert f" {name} " in said.out
    assert ("--quiet" in said.out) == (name not in SHORT)
    assert said.err == ""


@pytest.mark.parametrize("given", [[], ["nonsense"], ["seal"], ["backup", "--nonsense"]])
def test_wrong_usage_has_the_exit_status_2(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(given)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_server_is_started_with_its_own_options() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "serve", "--reset"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Add --demo" in done.stderr

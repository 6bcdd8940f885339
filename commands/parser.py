"""All commands with their options. Importing this imports the engine."""

from __future__ import annotations

import argparse

from commands import (
    accept_roster,
    backup,
    carry,
    checkpoint,
    database,
    detect,
    files_move,
    learn,
    profiles,
    recover_data,
    recovery,
    release,
    restore,
    rotate,
    seal,
    serve,
    training,
    verify,
    verify_release,
)
from commands.options import Commands
from engine import version

DESCRIPTION = (
    "MedSec without a browser, for the operator of one machine. Every action is in the audit log."
)
#: In the order of the help text.
MODULES = (
    seal, restore, carry, detect, profiles, verify, accept_roster, rotate, backup, checkpoint,
    recover_data, database, files_move, recovery, training, learn, release, verify_release, serve,
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    return _built()[0]


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    return dict(_built()[1].choices)


def _built() -> tuple[argparse.ArgumentParser, Commands]:
    whole = argparse.ArgumentParser(description=DESCRIPTION)
    whole.add_argument("--version", action="version", version=f"MedSec {version()}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for module in MODULES:
        module.add_to(commands)
    return whole, commands

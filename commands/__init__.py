"""MedSec without a browser, for the operator of one machine. Every action is in the audit log.

    python cli.py seal FILE... --out DIR      masked files, each with its sealed package;
                                              on all processors; continues after a kill
    python cli.py restore DIR --out DIR2      originals under their own names, with proof
    python cli.py carry DIR --out DIR2        DICOM files with their packages inside; restore
                                              takes these too, a folder or a single file
    python cli.py detect FILE... --json OUT   what would be found; keeps nothing

    verify, rotate, backup, recover-data      the data folder's upkeep; accept-roster
    shares, drill, recover-key                the root key on paper
    training-export, training-open            missed cases, for a machine that trains
    serve                                     the pages and the API

Each command is a module here: its options in ``add_to``, its work in a function beside it.
The exit status is an :class:`~commands.outcome.Outcome`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence

from commands import (
    accept_roster,
    backup,
    carry,
    detect,
    profiles,
    recover_data,
    recovery,
    restore,
    rotate,
    seal,
    serve,
    training,
    verify,
)
from commands.options import Commands
from commands.outcome import Outcome
from commands.terminal import Terminal
from engine import errors

#: In the order of the help text.
MODULES = (
    seal, restore, carry, detect, profiles, verify, accept_roster, rotate, backup, recover_data,
    recovery, training, serve,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The command and its options; those of this process by default.

    Returns:
        The exit status.
    """
    arguments = parser().parse_args(argv)
    run: Callable[[argparse.Namespace, Terminal], Outcome] = arguments.run
    terminal = Terminal(quiet=arguments.quiet)
    logging.basicConfig(
        level=logging.ERROR, format="%(message)s", handlers=[terminal.log_handler()]
    )
    try:
        return run(arguments, terminal)
    except errors.EngineError as err:
        terminal.warn(f"medsec: {err.message}")
        return Outcome.REFUSED


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    return _built()[0]


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    return dict(_built()[1].choices)


def _built() -> tuple[argparse.ArgumentParser, Commands]:
    assert __doc__ is not None
    whole = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for module in MODULES:
        module.add_to(commands)
    return whole, commands

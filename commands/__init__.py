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

import sys
from collections.abc import Sequence

from commands.terminal import Terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The command and its options; those of this process by default.

    Returns:
        The exit status.
    """
    given = sys.argv[1:] if argv is None else argv
    terminal = Terminal(quiet="--quiet" in given)
    # Importing the engine takes more than a second, so progress begins before it.
    with terminal.working("starting"):
        from commands.outcome import Outcome
        from commands.parser import parser
        from engine import errors, log_as_text, trouble
    arguments = parser().parse_args(given)
    log_as_text(terminal.log_handler())
    try:
        outcome: Outcome = arguments.run(arguments, terminal)
        return outcome
    except errors.EngineError as err:
        terminal.warn(f"medsec: {err.message}")
        return Outcome.REFUSED
    except Exception as err:  # noqa: BLE001 - its text may quote a file: the log leaves it out
        terminal.warn(f"medsec: {trouble('a command failed', err).message}")
        return Outcome.REFUSED

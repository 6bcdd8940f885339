"""``checkpoint``: a signed statement of the audit log's head, to be kept elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from commands import folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "checkpoint", parents=[DATA_FOLDER], help="write a signed checkpoint of the audit log"
    )
    parser.add_argument(
        "--to", dest="checkpoints", type=Path, metavar="DIR", help="default: MEDSEC_CHECKPOINT_DIR"
    )
    parser.set_defaults(run=checkpoint)


def checkpoint(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with folder.opened(arguments, terminal) as (engine, token):
        with terminal.working("checking the audit log"):
            name = engine.audit.write_checkpoint(token)
        terminal.tell(f"checkpoint {name} written to {engine.settings.checkpoint_dir}")
    return Outcome.DONE

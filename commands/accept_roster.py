"""``accept-roster``: let accounts and rights stand that were changed outside MedSec."""

from __future__ import annotations

import argparse

from commands import folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "accept-roster",
        parents=[DATA_FOLDER],
        help="let accounts and rights stand that were changed outside MedSec",
    )
    parser.add_argument("--reason", required=True, help="goes into the audit log")
    parser.set_defaults(run=accept_roster)


def accept_roster(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with folder.opened(arguments, terminal) as (engine, token):
        engine.audit.accept_access(token, arguments.reason)
        terminal.tell("accounts and rights stand as they are; the log says so")
    return Outcome.DONE

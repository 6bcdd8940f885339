"""``recover-data``: fill an empty data folder from a backup and the root key."""

from __future__ import annotations

import argparse

from commands import folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal
from commands.verify import checked_images
from engine import Engine


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "recover-data",
        parents=[DATA_FOLDER],
        help="an empty data folder from a backup and the key",
    )
    parser.add_argument(
        "--from", dest="backups", metavar="PLACE", help="folder of backups, or s3://bucket/prefix"
    )
    parser.add_argument("--name", help="default: the newest")
    parser.set_defaults(run=recover_data)


def recover_data(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with terminal.working("copying from the backup"):
        engine = Engine.from_backup(folder.settings(arguments), arguments.name)
    try:
        token = engine.operator_token()
        with terminal.working("checking the audit log"):
            entries = engine.audit.verify(token)
        broken = sum(problem is not None for _, problem in checked_images(engine, token, terminal))
        terminal.tell(f"recovered: audit log of {entries} entries unbroken, {broken} broken images")
        return Outcome.of(broken)
    finally:
        engine.close()

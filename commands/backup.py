"""``backup``: back the data folder up, or check every backup."""

from __future__ import annotations

import argparse

from commands import folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome, described
from commands.terminal import Terminal
from engine import Engine, errors


def add_to(commands: Commands) -> None:
    parser = commands.add_parser("backup", parents=[DATA_FOLDER], help="back up, or check backups")
    parser.add_argument(
        "--to",
        dest="backups",
        metavar="PLACE",
        help="folder or s3://bucket/prefix; default: MEDSEC_BACKUP_DIR or MEDSEC_BACKUPS",
    )
    parser.add_argument("--verify", action="store_true", help="check every backup there is")
    parser.set_defaults(run=backup)


def backup(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with folder.opened(arguments, terminal) as (engine, token):
        if arguments.verify:
            return _verify(engine, token, terminal)
        with terminal.working("writing and checking the backup"):
            name = engine.backups.make(token)
        terminal.tell(f"backup {name} written and checked{_locked(engine, token, name)}")
    return Outcome.DONE


def _locked(engine: Engine, token: str, name: str) -> str:
    until = engine.backups.locked_until(token, name)
    return f"; locked until {until:%Y-%m-%d %H:%M} UTC" if until else ""


def _verify(engine: Engine, token: str, terminal: Terminal) -> Outcome:
    names = engine.backups.names(token)
    if not names:
        terminal.warn("medsec: there is no backup here: is the folder mounted?")
        return Outcome.SOME_FAILED
    broken = 0
    with terminal.working("checking backups", len(names), "backups") as work:
        for name in names:
            try:
                said = f"{engine.backups.verify(token, name)} files, whole"
                said += _locked(engine, token, name)
                if missing := len(engine.backups.missing(token, name)):
                    said += f"; {missing} more lost before it was made"
            except errors.BackupInvalid as err:
                broken += 1
                said = described(err)
            terminal.tell(f"backup {name}: {said}")
            work.advance()
    terminal.tell(f"{broken} of {len(names)} backups broken")
    return Outcome.of(broken)

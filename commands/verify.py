"""``verify``: audit log, accounts and rights, catalog, and every file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from commands import files, folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal
from engine import Engine, ImageState


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify", parents=[DATA_FOLDER], help="check log, catalog and files"
    )
    parser.add_argument("--checkpoint", type=Path, help="a signed checkpoint to check against")
    parser.set_defaults(run=verify)


def verify(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with folder.opened(arguments, terminal) as (engine, token):
        with terminal.working("checking the audit log", unit="entries") as work:
            entries = engine.audit.verify(token, work.reached)
        terminal.tell(f"audit log: {entries} entries, unbroken")
        engine.audit.verify_access(token)
        terminal.tell("accounts and rights: those that the log knows")
        if arguments.checkpoint:
            with terminal.working("checking against the checkpoint"):
                size = engine.audit.check_checkpoint(token, files.read(arguments.checkpoint))
            terminal.tell(f"audit log: continues the checkpoint at entry {size}")
        broken = 0
        total = 0
        for image_id, problem in checked_images(engine, token, terminal):
            total += 1
            if problem:
                broken += 1
                terminal.warn(f"{image_id}: {problem}")
        terminal.tell(f"images: {total} checked, {broken} broken")
        return Outcome.of(broken)


def checked_images(
    engine: Engine, token: str, terminal: Terminal
) -> Iterator[tuple[str, str | None]]:
    """Every image's id with None or the code of what is wrong, and progress meanwhile."""
    states = engine.health.state(token)["images"]
    total = sum(count for state, count in states.items() if state != ImageState.ERASED)
    with terminal.working("checking images", total, "images") as work:
        for checked in engine.health.verify_images(token):
            work.advance()
            yield checked

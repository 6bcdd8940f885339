"""``rotate``: a new root key; every key is wrapped by it."""

from __future__ import annotations

import argparse

from commands import folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "rotate", parents=[DATA_FOLDER], help="new root key, keys re-wrapped"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue a rotation that was interrupted"
    )
    parser.set_defaults(run=rotate)


def rotate(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with folder.opened(arguments, terminal) as (engine, token):
        batches = engine.keys.rotate(token, new_root=not arguments.resume)
        left = engine.health.state(token)["keys_to_rotate"]  # under the new root key
        with terminal.working("re-wrapping keys", left, "keys") as work:
            for now_left in batches:
                work.advance(left - now_left)
                left = now_left
        terminal.tell("every key is wrapped by the newest root key")
    return Outcome.DONE

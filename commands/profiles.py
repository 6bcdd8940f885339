"""``profiles``: the specialty profiles in force."""

from __future__ import annotations

import argparse

from commands import folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "profiles",
        parents=[DATA_FOLDER],
        help="specialty profiles in force, and where they come from",
    )
    parser.set_defaults(run=profiles)


def profiles(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with folder.opened(arguments, terminal) as (engine, token):
        for name, entry in engine.profiles.entries(token).items():
            held = entry.profile
            terminal.tell(f"{name} ({entry.origin}): {held.title}")
            sealed = (f"{label} from {held.sealed_from(label):g}" for label in held.classes)
            terminal.tell(f"  seals {', '.join(sealed)}; NMS IoU {held.iou:g}")
            terminal.tell(f"  by {', '.join(held.networks)}; harmless text {held.harmless_text}")
    return Outcome.DONE

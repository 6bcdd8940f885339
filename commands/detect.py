"""``detect``: what would be found in files. Keeps nothing."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path

from commands import files, folder
from commands.options import QUIET, Commands
from commands.outcome import Outcome, described
from commands.terminal import Terminal
from engine import Finder, Settings, errors


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "detect", parents=[QUIET], help="find regions; no keys, nothing is kept"
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", required=True, type=Path, metavar="OUT")
    parser.add_argument("--profile", help="specialty profile (default: every class there is)")
    parser.add_argument(
        "--proposals", action="store_true", help="also what is too uncertain to be sealed"
    )
    parser.add_argument(
        "--data", type=Path, help="data folder whose profiles and networks are used (needs its key)"
    )
    parser.add_argument("--key", type=Path, help="root key file of that folder")
    parser.set_defaults(run=detect)


def detect(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    if arguments.data is None:
        finder = Finder(Settings.load(os.environ), arguments.profile)
        return _find(finder, arguments, terminal)
    with folder.opened(arguments, terminal) as (engine, _):
        finder = Finder(engine.settings, arguments.profile, engine.detector)
        return _find(finder, arguments, terminal)


def _find(finder: Finder, arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    found: dict[str, list[dict[str, object]]] = {}
    names = Counter(path.name for path in arguments.files)
    failed = 0
    with terminal.working("detecting", len(arguments.files)) as work:
        for path in arguments.files:
            try:
                name = path.name if names[path.name] == 1 else str(path)
                data = files.read(path)
                found[name] = finder.find(path.name, data, proposals=arguments.proposals)
            except errors.EngineError as err:
                failed += 1
                terminal.warn(f"{files.shown(path)}: {described(err)}")
            work.advance()
    arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return Outcome.of(failed)

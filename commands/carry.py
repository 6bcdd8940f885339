"""``carry``: masked DICOM files with their sealed packages inside, for an archive."""

from __future__ import annotations

import argparse
from pathlib import Path

from commands import files
from commands.options import QUIET, Commands
from commands.outcome import Outcome, described
from commands.terminal import Terminal
from engine import carry as carry_package
from engine import errors


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "carry",
        parents=[QUIET],
        help="masked DICOM files with their packages inside, for an archive",
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR2")
    parser.set_defaults(run=carry)


def carry(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    failed = 0
    files.make_folder(arguments.out)
    packages = sorted(arguments.folder.glob(f"*{files.SUFFIX}"))
    with terminal.working("putting packages into files", len(packages)) as work:
        for package in packages:
            masked = files.masked_of(package)
            try:
                whole = carry_package(files.read(masked), files.read(package))
                files.write_new(arguments.out / masked.name, whole)
                terminal.tell(f"{files.shown(masked)}: carries its package")
            except errors.EngineError as err:
                failed += 1
                terminal.warn(f"{files.shown(masked)}: {described(err)}")
            work.advance()
    return Outcome.of(failed)

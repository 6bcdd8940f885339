"""``verify-release``: is a cohort what the hospital signed? Needs no data folder."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from commands import files
from commands.options import QUIET, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal
from engine import check_release, errors


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify-release",
        parents=[QUIET],
        help="check a cohort that was received",
    )
    parser.add_argument("cohort", type=Path, metavar="DIR", help="folder, or the ZIP as it came")
    parser.add_argument(
        "--fingerprint", metavar="HEX", help="of the key that must have signed; ask the hospital"
    )
    parser.set_defaults(run=verify_release)


def verify_release(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    paths, read = _opened(arguments.cohort)
    checked = check_release(paths, read, arguments.fingerprint)
    said = checked.statement
    terminal.tell(f"unchanged: {checked.files} files, as signed on {said.get('made_at', '?')}")
    terminal.tell(f"by {said.get('released_by', '?')} at {said.get('site', '?')}")
    if arguments.fingerprint is None:
        terminal.warn(
            f"the key came along: compare {checked.fingerprint} with what the hospital says"
        )
    return Outcome.of(0)


def _opened(cohort: Path) -> tuple[Iterable[str], Callable[[str], bytes]]:
    """Paths of all files in a folder or ZIP, and how to read one."""
    if cohort.is_dir():
        found = [p for p in cohort.rglob("*") if not p.is_dir()]
        return [p.relative_to(cohort).as_posix() for p in found], lambda p: files.read(cohort / p)
    try:
        archive = zipfile.ZipFile(cohort)
    except (OSError, zipfile.BadZipFile) as err:
        raise errors.ReleaseBroken(
            "This is neither a folder nor a whole ZIP. Ask the hospital to send it again."
        ) from err
    return [i.filename for i in archive.infolist() if not i.is_dir()], archive.read

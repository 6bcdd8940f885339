"""``restore``: originals from masked files and their sealed packages."""

from __future__ import annotations

import argparse
from pathlib import Path

from commands import files, folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome, described
from commands.terminal import Terminal
from engine import carried, errors


def add_to(commands: Commands) -> None:
    parser = commands.add_parser("restore", parents=[DATA_FOLDER], help="make the originals again")
    parser.add_argument("folder", type=Path, metavar="DIR", help="or a single masked file")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR2")
    parser.add_argument(
        "--reason", default="restored on the command line", help="goes into the audit log"
    )
    parser.set_defaults(run=restore)


def restore(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with terminal.working("looking for sealed packages"):
        sources = sealed_files(arguments.folder)
    if not sources:
        terminal.warn(f"medsec: there is no sealed package in {arguments.folder}")
        return Outcome.REFUSED
    root = arguments.folder if arguments.folder.is_dir() else arguments.folder.parent
    files.make_folder(arguments.out)
    failed = 0
    written: set[Path] = set()
    with (
        folder.opened(arguments, terminal) as (engine, token),
        terminal.working("restoring", len(sources)) as work,
    ):
        for path in sources:
            try:
                masked, package = _masked_and_package(path)
                file, proof = engine.packages.restore(token, masked, package, arguments.reason)
                below = Path(file.folder) if file.folder else path.parent.relative_to(root)
                target = _target(arguments.out / below, file.name, path, written)
                files.make_folder(target.parent)
                files.write_new(target, file.data)
                written.add(target)
                same = "the very same file" if proof == "bytes" else "identical pixels"
                terminal.tell(f"{files.shown(Path(file.name))}: restored, {same}")
            except errors.EngineError as err:
                failed += 1
                terminal.warn(f"{files.shown(path)}: {described(err)}")
            work.advance()
    return Outcome.of(failed)


def _target(folder: Path, name: str, masked: Path, written: set[Path]) -> Path:
    """Where an original goes: under its own name, as long as another one does not have it.

    Folders that were sealed one by one can hold files of one name; the second goes into a folder
    named as its masked file. A name that is too long for the target becomes that of the masked
    file.
    """
    if not files.fits(folder, name):
        return folder / masked.name
    target = folder / name
    return target if target not in written else folder / masked.stem / name


def sealed_files(place: Path) -> list[Path]:
    """Masked files of a folder, or the one file, that have a package beside or inside them."""
    found = []
    for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if path.name.endswith(files.SUFFIX):
            found.append(files.masked_of(path))
        elif path.is_file() and not files.package_of(path).exists():
            try:
                carries = carried(files.read(path)) is not None
            except errors.UnsupportedFormat:
                carries = False  # some other file
            except errors.InputError:
                carries = True  # a damaged one is not passed over: restoring says what is wrong
            if carries:
                found.append(path)
    return found


def _masked_and_package(path: Path) -> tuple[bytes, bytes]:
    package = files.package_of(path)
    if package.exists():
        return files.read(path), files.read(package)
    pair = carried(files.read(path))
    if pair is None:
        raise errors.InputError("The file changed meanwhile: it carries no package any more.")
    return pair

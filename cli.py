"""MedSec without a browser, for the operator of one machine. Every action is in the audit log.

    python cli.py seal FILE... --out DIR      masked files, each with its sealed package
    python cli.py restore DIR --out DIR2      originals, proven, under their own names
    python cli.py detect FILE... --json OUT   what would be found; keeps nothing

    verify, rotate, backup, recover-data      the data folder's upkeep
    shares, drill, recover-key                the root key on paper

Exit status: 0 all done, 1 some failed or need a person, 2 wrong usage or refused to start.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine import (
    Engine,
    Finder,
    ImageRecord,
    Settings,
    Suggestion,
    errors,
    recover_key_file,
    write_durably,
)

SUFFIX = ".medsec"
UNASSIGNED = "unassigned"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; see the module's text."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except errors.EngineError as err:
        print(f"medsec: {err.message}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, help="data folder (default: MEDSEC_DATA or ./data)")
    common.add_argument(
        "--key", type=Path, help="root key file, made on first use (default: ~/.config/medsec)"
    )
    parser = argparse.ArgumentParser(prog="cli.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    seal = commands.add_parser("seal", parents=[common], help="seal files")
    seal.add_argument("files", nargs="+", type=Path, metavar="FILE", help="image, or a folder")
    seal.add_argument("--out", required=True, type=Path, metavar="DIR")
    seal.add_argument("--patient", default=UNASSIGNED, help="hospital number of the patient")
    seal.add_argument("--profile", help="specialty profile")
    seal.add_argument(
        "--accept-empty",
        action="store_true",
        help="release images in which nothing was found; they are marked as unreviewed",
    )
    seal.add_argument(
        "--seal-proposals",
        action="store_true",
        help="seal uncertain boxes too, instead of keeping the image for a person",
    )
    seal.set_defaults(command=_seal)

    restore = commands.add_parser("restore", parents=[common], help="make the originals again")
    restore.add_argument("folder", type=Path, metavar="DIR")
    restore.add_argument("--out", required=True, type=Path, metavar="DIR2")
    restore.add_argument("--reason", default="restored on the command line")
    restore.set_defaults(command=_restore)

    detect = commands.add_parser("detect", help="find regions; no keys, nothing is kept")
    detect.add_argument("files", nargs="+", type=Path, metavar="FILE")
    detect.add_argument("--json", required=True, type=Path, metavar="OUT")
    detect.add_argument("--profile", help="specialty profile (default: every class there is)")
    detect.add_argument(
        "--proposals", action="store_true", help="also what is too uncertain to be sealed"
    )
    detect.set_defaults(command=_detect)

    verify = commands.add_parser("verify", parents=[common], help="check log, catalog and files")
    verify.add_argument("--checkpoint", type=Path, help="a signed checkpoint to check against")
    verify.set_defaults(command=_verify)

    rotate = commands.add_parser("rotate", parents=[common], help="new root key, keys re-wrapped")
    rotate.add_argument("--resume", action="store_true", help="go on with one that was interrupted")
    rotate.set_defaults(command=_rotate)

    backup = commands.add_parser("backup", parents=[common], help="back up, or check backups")
    backup.add_argument("--to", type=Path, metavar="DIR", help="default: MEDSEC_BACKUP_DIR")
    backup.add_argument("--verify", action="store_true", help="check every backup there is")
    backup.set_defaults(command=_backup)

    recover = commands.add_parser(
        "recover-data", parents=[common], help="an empty data folder from a backup and the key"
    )
    recover.add_argument("--from", dest="to", type=Path, metavar="DIR", help="folder of backups")
    recover.add_argument("--name", help="default: the newest")
    recover.set_defaults(command=_recover_data)

    shares = commands.add_parser("shares", parents=[common], help="the root key on paper")
    shares.add_argument("--needed", type=int, default=2)
    shares.add_argument("--total", type=int, default=3)
    shares.set_defaults(command=_shares)

    drill = commands.add_parser("drill", parents=[common], help="prove that shares give the key")
    drill.add_argument("shares", nargs="+", type=Path, metavar="FILE", help="one share a file")
    drill.set_defaults(command=_drill)

    key = commands.add_parser("recover-key", help="a lost root key file from its shares")
    key.add_argument("shares", nargs="+", type=Path, metavar="FILE", help="one share a file")
    key.add_argument("--key", required=True, type=Path, help="key file to write; must not exist")
    key.set_defaults(command=_recover_key)
    return parser


def _open(arguments: argparse.Namespace) -> tuple[Engine, str]:
    settings = _settings(arguments)
    engine = Engine.open(settings, operator=True)
    return engine, engine.operator_token()


def _seal(arguments: argparse.Namespace) -> int:
    files = list(_files(arguments.files))
    _refuse_overwriting(files, arguments.out)
    arguments.out.mkdir(parents=True, exist_ok=True)
    engine, token = _open(arguments)
    try:
        patient_id = _patient(engine, token, arguments.patient)
        failed = 0
        for path in files:
            try:
                done = _seal_one(engine, token, patient_id, path, arguments)
                print(f"{_shown(path)}: {done}")
            except errors.EngineError as err:
                failed += 1
                print(f"{_shown(path)}: {_said(err)}", file=sys.stderr)
        return 1 if failed else 0
    finally:
        engine.close()


def _seal_one(
    engine: Engine, token: str, patient_id: str, path: Path, arguments: argparse.Namespace
) -> str:
    try:
        draft = engine.upload(token, patient_id, path.name, _read(path), arguments.profile)
        image_id = draft.image_id
    except errors.DuplicateImage as err:
        # Run again after a kill: what is sealed is written out again, what is not goes on.
        image_id = err.facts["image_id"]
        if err.facts["patient_id"] != patient_id:
            raise
    record = _finish(engine, token, image_id, arguments)
    package = engine.export_package(token, image_id)
    _write_new(arguments.out / (path.name + SUFFIX), package.data)
    _write_new(arguments.out / path.name, engine.masked_file(token, image_id).data)
    labels = Counter(r.detection.label for r in engine.regions(token, image_id))
    found = ", ".join(f"{n} {label}" for label, n in sorted(labels.items())) or "nothing"
    unreviewed = " (released without review)" if "nothing-found" in record.reasons else ""
    return f"sealed {found}{unreviewed}"


def _finish(
    engine: Engine, token: str, image_id: str, arguments: argparse.Namespace
) -> ImageRecord:
    """Seal a draft, or find it sealed already."""
    try:
        view = engine.open_draft(token, image_id)
    except errors.NotFound:
        return engine.image(token, image_id)
    try:
        certain = view.suggested(Suggestion.SEAL)
        confirm = ""
        if view.reasons == ("nothing-found",) and arguments.accept_empty:
            confirm = "nothing found; released without review (--accept-empty)"
        elif view.reasons == ("proposals",) and arguments.seal_proposals:
            certain += view.suggested(Suggestion.ASK)
            confirm = "uncertain boxes sealed without review (--seal-proposals)"
        return engine.seal(token, image_id, certain, view.left, confirm, adopt=True)
    finally:
        engine.close_viewing(token, view.handle)


def _restore(arguments: argparse.Namespace) -> int:
    packages = sorted(arguments.folder.glob(f"*{SUFFIX}"))
    if not packages:
        print(f"medsec: there is no sealed package in {arguments.folder}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    engine, token = _open(arguments)
    failed = 0
    try:
        for path in packages:
            masked = path.with_name(path.name[: -len(SUFFIX)])
            try:
                file, proof = engine.restore_package(
                    token, _read(masked), _read(path), arguments.reason
                )
                _write_new(arguments.out / file.name, file.data)
                same = "the very same file" if proof == "bytes" else "identical pixels"
                print(f"{_shown(Path(file.name))}: restored, {same}")
            except errors.EngineError as err:
                failed += 1
                print(f"{_shown(masked)}: {_said(err)}", file=sys.stderr)
    finally:
        engine.close()
    return 1 if failed else 0


def _detect(arguments: argparse.Namespace) -> int:
    finder = Finder(Settings.load(os.environ), arguments.profile)
    found: dict[str, list[dict[str, object]]] = {}
    names = Counter(path.name for path in arguments.files)
    failed = 0
    for path in arguments.files:
        try:
            name = path.name if names[path.name] == 1 else str(path)
            found[name] = finder.find(path.name, _read(path), proposals=arguments.proposals)
        except errors.EngineError as err:
            failed += 1
            print(f"{_shown(path)}: {_said(err)}", file=sys.stderr)
    arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 1 if failed else 0


def _verify(arguments: argparse.Namespace) -> int:
    engine, token = _open(arguments)
    try:
        print(f"audit log: {engine.verify_audit(token)} entries, unbroken")
        if arguments.checkpoint:
            size = engine.check_checkpoint(token, _read(arguments.checkpoint))
            print(f"audit log: continues the checkpoint at entry {size}")
        broken = 0
        total = 0
        for image_id, problem in engine.verify_images(token):
            total += 1
            if problem:
                broken += 1
                print(f"{image_id}: {problem}", file=sys.stderr)
        print(f"images: {total} checked, {broken} broken")
        return 1 if broken else 0
    finally:
        engine.close()


def _rotate(arguments: argparse.Namespace) -> int:
    engine, token = _open(arguments)
    try:
        for left in engine.rotate_keys(token, new_root=not arguments.resume):
            print(f"{left} keys left to re-wrap")
        print("every key is wrapped by the newest root key")
        return 0
    finally:
        engine.close()


def _backup(arguments: argparse.Namespace) -> int:
    engine, token = _open(arguments)
    try:
        if not arguments.verify:
            print(f"backup {engine.make_backup(token)} written and checked")
        else:
            for name in engine.backups(token):
                print(f"backup {name}: {engine.verify_backup(token, name)} files, whole")
        return 0
    finally:
        engine.close()


def _recover_data(arguments: argparse.Namespace) -> int:
    engine = Engine.from_backup(_settings(arguments), arguments.name)
    try:
        token = engine.operator_token()
        entries = engine.verify_audit(token)
        broken = [i for i, problem in engine.verify_images(token) if problem]
        print(f"recovered: audit log of {entries} entries unbroken, {len(broken)} broken images")
        return 1 if broken else 0
    finally:
        engine.close()


def _shares(arguments: argparse.Namespace) -> int:
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise errors.InputError("Shares are shown on a terminal, one after the other, to people.")
    engine, token = _open(arguments)
    try:
        shares = engine.recovery_shares(token, arguments.needed, arguments.total)
    finally:
        engine.close()
    for number, share in enumerate(shares, 1):
        input(f"Share {number} of {len(shares)}: let only its holder look, then press Enter. ")
        print(share)
        input("Written down? Press Enter: it will not be shown again. ")
        print("\033[2J\033[3J\033[H", end="")  # the screen and what was scrolled off it
    return 0


def _drill(arguments: argparse.Namespace) -> int:
    engine, token = _open(arguments)
    try:
        print(f"these shares give back {engine.drill_shares(token, _texts(arguments.shares))}")
        return 0
    finally:
        engine.close()


def _recover_key(arguments: argparse.Namespace) -> int:
    key_id = recover_key_file(_texts(arguments.shares), arguments.key)
    print(f"root key {key_id} written to {arguments.key}")
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {"data": arguments.data, "key_file": arguments.key}
    return Settings.load(os.environ, backup_dir=getattr(arguments, "to", None), **given)


def _texts(paths: Sequence[Path]) -> list[str]:
    return [_read(p).decode("utf-8", "replace") for p in paths]


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file())
        else:
            yield path


def _refuse_overwriting(files: Sequence[Path], out: Path) -> None:
    """A masked file has its original's name: it must never take its place, or another's."""
    inputs = {p.resolve() for p in files}
    targets = Counter(name for p in files for name in (p.name, p.name + SUFFIX))
    for path in files:
        if {(out / path.name).resolve(), (out / (path.name + SUFFIX)).resolve()} & inputs:
            raise errors.InputError(
                "The folder for masked files must not be that of the originals."
            )
        if targets[path.name] > 1 or targets[path.name + SUFFIX] > 1:
            raise errors.InputError(
                "Two of the files would get one name: seal them into different folders."
            )
    if out.exists() and not out.is_dir():
        raise errors.InputError("What --out names is not a folder.")


def _write_new(path: Path, data: bytes) -> None:
    """Write a file; the same bytes again are fine, another file in its place is not."""
    try:
        if path.exists() and path.read_bytes() != data:
            raise errors.InputError("A different file of this name is in the way.")
        write_durably(path, data)
    except OSError as err:
        raise errors.StorageError("The file cannot be written there.", errno=err.errno) from err


def _patient(engine: Engine, token: str, number: str) -> str:
    try:
        return engine.patient(token, number).patient_id
    except errors.NotFound:
        name = "Images without a patient" if number == UNASSIGNED else number
        return engine.create_patient(token, number, name).patient_id


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise errors.InputError("The file cannot be read.", errno=err.errno) from err


def _shown(path: Path) -> str:
    """A file's name for the terminal, which must not take orders from it."""
    return "".join(c if c.isprintable() else "?" for c in path.name)


def _said(err: errors.EngineError) -> str:
    if isinstance(err, errors.ReviewNeeded):
        why = ", ".join(err.facts.get("reasons", []))
        return f"needs review ({why}): it waits in the review queue"
    return f"failed ({err.code}): {err.message}"


if __name__ == "__main__":
    sys.exit(main())

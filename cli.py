"""MedSec without a browser, for the operator of one machine. Every action is in the audit log.

    python cli.py seal FILE... --out DIR      masked files, each with its sealed package;
                                              on all processors, and again after a kill
    python cli.py restore DIR --out DIR2      originals, proven, under their own names
    python cli.py carry DIR --out DIR2        DICOM files with their packages inside; restore
                                              takes these too, a folder or a single file
    python cli.py detect FILE... --json OUT   what would be found; keeps nothing

    verify, rotate, backup, recover-data      the data folder's upkeep; accept-roster
    shares, drill, recover-key                the root key on paper
    training-export, training-open            missed cases, for a machine that trains

Exit status: 0 all done, 1 some failed or need a person, 2 wrong usage or refused to start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from engine import (
    CSV_HEAD,
    FEW_FILES,
    BatchItem,
    Engine,
    Finder,
    Progress,
    Settings,
    Source,
    carried,
    carry,
    errors,
    log_as_text,
    open_case,
    recover_key_file,
    trouble,
    write_durably,
)

SUFFIX = ".medsec"
UNASSIGNED = "unassigned"
PROGRESS_SECONDS = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; see the module's text."""
    arguments = _parser().parse_args(argv)
    log_as_text()
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except errors.EngineError as err:
        print(f"medsec: {err.message}", file=sys.stderr)
        return 2
    except Exception as err:  # noqa: BLE001 - its text may quote a file: the log leaves it out
        print(f"medsec: {trouble('a command failed', err).message}", file=sys.stderr)
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
    seal.add_argument(
        "--report", type=Path, metavar="FILE", help="what became of each file, .csv or .jsonl"
    )
    seal.set_defaults(command=_seal)

    restore = commands.add_parser("restore", parents=[common], help="make the originals again")
    restore.add_argument("folder", type=Path, metavar="DIR")
    restore.add_argument("--out", required=True, type=Path, metavar="DIR2")
    restore.add_argument("--reason", default="restored on the command line")
    restore.set_defaults(command=_restore)

    carrying = commands.add_parser(
        "carry", help="masked DICOM files with their packages inside, for an archive"
    )
    carrying.add_argument("folder", type=Path, metavar="DIR")
    carrying.add_argument("--out", required=True, type=Path, metavar="DIR2")
    carrying.set_defaults(command=_carry)

    detect = commands.add_parser("detect", help="find regions; no keys, nothing is kept")
    detect.add_argument("files", nargs="+", type=Path, metavar="FILE")
    detect.add_argument("--json", required=True, type=Path, metavar="OUT")
    detect.add_argument("--profile", help="specialty profile (default: every class there is)")
    detect.add_argument(
        "--proposals", action="store_true", help="also what is too uncertain to be sealed"
    )
    detect.add_argument(
        "--data", type=Path, help="data folder whose profiles and networks are used (needs its key)"
    )
    detect.add_argument("--key", type=Path, help="root key file of that folder")
    detect.set_defaults(command=_detect)

    profiles = commands.add_parser(
        "profiles", parents=[common], help="specialty profiles in force, and where they come from"
    )
    profiles.set_defaults(command=_profiles)

    verify = commands.add_parser("verify", parents=[common], help="check log, catalog and files")
    verify.add_argument("--checkpoint", type=Path, help="a signed checkpoint to check against")
    verify.set_defaults(command=_verify)

    accept = commands.add_parser(
        "accept-roster",
        parents=[common],
        help="let accounts and rights stand that were changed outside MedSec",
    )
    accept.add_argument("--reason", required=True, help="goes into the audit log")
    accept.set_defaults(command=_accept_roster)

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

    export = commands.add_parser(
        "training-export", parents=[common], help="missed cases that were kept, sealed to a key"
    )
    export.add_argument("--to-key", required=True, type=Path, help="key file, made on first use")
    export.add_argument("--out", required=True, type=Path, metavar="DIR")
    export.add_argument("--again", action="store_true", help="also what was exported before")
    export.add_argument("--list", action="store_true", help="only say what there is")
    export.set_defaults(command=_training_export)

    cases = commands.add_parser(
        "training-open", help="exported cases as images and gt.json; needs no data folder"
    )
    cases.add_argument("folder", type=Path, metavar="DIR")
    cases.add_argument("--to-key", required=True, type=Path, help="key file of the export")
    cases.add_argument("--out", required=True, type=Path, metavar="DIR2")
    cases.set_defaults(command=_training_open)

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
    _make_folder(arguments.out)
    engine, token = _open(arguments)
    report = None
    try:
        report = _Report(
            arguments.report, len(files)
        )  # after a refusal the last one is still there
        patient_id = _patient(engine, token, arguments.patient)
        items = engine.seal_batch(
            token,
            patient_id,
            (
                Source(path.name, partial(_read, path, engine.limits.refuse_larger))
                for path, _ in files
            ),
            arguments.profile,
            accept_empty=arguments.accept_empty,
            seal_proposals=arguments.seal_proposals,
            few=len(files) <= FEW_FILES,
        )
        for item in items:
            path, target = files[item.place]
            try:
                if item.state in ("sealed", "present"):
                    _hand_out(engine, token, str(item.image_id), arguments.out / target)
            except errors.EngineError as err:
                item = replace(item, state="failed", error=(err.code, err.message))
            report.add(path, item)
        return report.finish()
    finally:
        if report is not None:
            report.close()
        engine.close()


def _hand_out(engine: Engine, token: str, image_id: str, target: Path) -> None:
    """A masked file and its package; the same ones again are fine after a kill."""
    _make_folder(target.parent)
    _write_new(target.with_name(target.name + SUFFIX), engine.export_package(token, image_id).data)
    _write_new(target, engine.masked_file(token, image_id).data)


class _Report:
    """What became of each file: a line on the terminal and one in the report, as it happens.

    Args:
        path: A ``.csv`` or ``.jsonl`` file, begun anew; None for none.
    """

    def __init__(self, path: Path | None, total: int) -> None:
        self._told = time.monotonic()
        self._progress = Progress(total, self._told)
        self._file: TextIO | None = None
        self._csv = path is not None and path.suffix == ".csv"
        if path is None:
            return
        if path.suffix not in (".csv", ".jsonl"):
            raise errors.InputError("A report is a .csv or a .jsonl file.")
        try:
            # A name of another encoding must not end the batch.
            self._file = path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
        except OSError as err:
            raise errors.InputError("The report cannot be written there.", errno=err.errno) from err
        if self._csv:
            self._write(CSV_HEAD)

    def add(self, path: Path, item: BatchItem) -> None:
        now = time.monotonic()
        self._progress.add(item, now)
        print(f"{_shown(path)}: {_told(item)}", file=sys.stderr if item.bad else sys.stdout)
        if self._file is not None:
            self._write((item.csv_line if self._csv else item.json_line)(str(path)))
        if now - self._told > PROGRESS_SECONDS:
            self._told = now
            print(self._said(), file=sys.stderr)

    def _write(self, text: str) -> None:
        assert self._file is not None
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as err:
            raise errors.StorageError(
                "The report cannot be written any more: make room and call again; what is sealed is"
                " not done twice.",
                errno=err.errno,
            ) from err

    def _said(self) -> str:
        how = self._progress
        said = f"{how.done} of {how.total} files, {how.per_second:.2f} a second"
        if how.left_seconds is not None:
            said += f", about {timedelta(seconds=round(how.left_seconds))} left"
        return said

    def finish(self) -> int:
        """The exit status."""
        if self._progress.total > FEW_FILES:
            print(self._said(), file=sys.stderr)
        return 1 if self._progress.bad else 0

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a full disk, which was told before
                self._file.close()


def _told(item: BatchItem) -> str:
    if item.state == "review":
        return f"needs review ({', '.join(item.reasons)}): it waits in the review queue"
    if item.error is not None:
        return f"failed ({item.error[0]}): {item.error[1]}"
    if item.state == "present":
        return "sealed before"
    found = ", ".join(f"{n} {label}" for label, n in sorted(item.labels.items())) or "nothing"
    unreviewed = " (released without review)" if "nothing-found" in item.reasons else ""
    return f"sealed {found}{unreviewed}"


def _restore(arguments: argparse.Namespace) -> int:
    sources = _sealed_files(arguments.folder)
    if not sources:
        print(f"medsec: there is no sealed package in {arguments.folder}", file=sys.stderr)
        return 2
    root = arguments.folder if arguments.folder.is_dir() else arguments.folder.parent
    _make_folder(arguments.out)
    engine, token = _open(arguments)
    failed = 0
    try:
        for path in sources:
            try:
                masked, package = _masked_and_package(path)
                file, proof = engine.restore_package(token, masked, package, arguments.reason)
                folder = arguments.out / path.parent.relative_to(root)
                _make_folder(folder)
                _write_new(folder / file.name, file.data)
                same = "the very same file" if proof == "bytes" else "identical pixels"
                print(f"{_shown(Path(file.name))}: restored, {same}")
            except errors.EngineError as err:
                failed += 1
                print(f"{_shown(path)}: {_said(err)}", file=sys.stderr)
    finally:
        engine.close()
    return 1 if failed else 0


def _sealed_files(place: Path) -> list[Path]:
    """Masked files of a folder, or the one file, that have a package beside or inside them."""
    found = []
    for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if path.name.endswith(SUFFIX):
            found.append(path.with_name(path.name[: -len(SUFFIX)]))
        elif path.is_file() and not path.with_name(path.name + SUFFIX).exists():
            try:
                carries = carried(_read(path)) is not None
            except errors.UnsupportedFormat:
                carries = False  # some other file
            except errors.InputError:
                carries = True  # a damaged one is not passed over: restoring says what is wrong
            if carries:
                found.append(path)
    return found


def _masked_and_package(path: Path) -> tuple[bytes, bytes]:
    package = path.with_name(path.name + SUFFIX)
    if package.exists():
        return _read(path), _read(package)
    pair = carried(_read(path))
    if pair is None:
        raise errors.InputError("The file changed meanwhile: it carries no package any more.")
    return pair


def _carry(arguments: argparse.Namespace) -> int:
    failed = 0
    _make_folder(arguments.out)
    for package in sorted(arguments.folder.glob(f"*{SUFFIX}")):
        masked = package.with_name(package.name[: -len(SUFFIX)])
        try:
            _write_new(arguments.out / masked.name, carry(_read(masked), _read(package)))
            print(f"{_shown(masked)}: carries its package")
        except errors.EngineError as err:
            failed += 1
            print(f"{_shown(masked)}: {_said(err)}", file=sys.stderr)
    return 1 if failed else 0


def _profiles(arguments: argparse.Namespace) -> int:
    engine, token = _open(arguments)
    try:
        for name, entry in engine.profile_entries(token).items():
            held = entry.profile
            print(f"{name} ({entry.origin}): {held.title}")
            sealed = (f"{label} from {held.sealed_from(label):g}" for label in held.classes)
            print(f"  seals {', '.join(sealed)}; NMS IoU {held.iou:g}")
            print(f"  by {', '.join(held.networks)}; harmless text {held.harmless_text}")
        return 0
    finally:
        engine.close()


def _detect(arguments: argparse.Namespace) -> int:
    if arguments.data is None:
        return _detect_with(Finder(Settings.load(os.environ), arguments.profile), arguments)
    engine, _ = _open(arguments)
    try:
        finder = Finder(engine.settings, arguments.profile, engine.detector)
        return _detect_with(finder, arguments)
    finally:
        engine.close()


def _detect_with(finder: Finder, arguments: argparse.Namespace) -> int:
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
        engine.verify_roster(token)
        print("accounts and rights: those that the log knows")
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


def _accept_roster(arguments: argparse.Namespace) -> int:
    engine, token = _open(arguments)
    try:
        engine.accept_roster(token, arguments.reason)
        print("accounts and rights stand as they are; the log says so")
        return 0
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
            return 0
        names = engine.backups(token)
        if not names:
            print("medsec: there is no backup in this folder: is it mounted?", file=sys.stderr)
            return 1
        broken = 0
        for name in names:
            try:
                said = f"{engine.verify_backup(token, name)} files, whole"
                if missing := len(engine.missing_in_backup(token, name)):
                    said += f"; {missing} more lost before it was made"
            except errors.BackupInvalid as err:
                broken += 1
                said = _said(err)
            print(f"backup {name}: {said}")
        print(f"{broken} of {len(names)} backups broken")
        return 1 if broken else 0
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


def _training_export(arguments: argparse.Namespace) -> int:
    engine, token = _open(arguments)
    failed = sealed = 0
    try:
        cases = engine.training_cases(token)
        if arguments.list:
            for case in cases:
                left = f"exported {case.exported_at:%Y-%m-%d}" if case.exported_at else "new"
                print(f"{case.case_id} {case.kept_at:%Y-%m-%d} {case.size_bytes} bytes, {left}")
            return 0
        _make_folder(arguments.out)
        made = engine.export_training(token, arguments.to_key, arguments.again)
        for name, content in made:
            if isinstance(content, errors.EngineError):
                failed += 1
                print(f"{name}: {_said(content)}", file=sys.stderr)
            else:
                sealed += 1
                write_durably(arguments.out / name, content)
        print(f"{sealed} cases sealed to {arguments.to_key}; {len(cases)} are kept")
    finally:
        engine.close()
    return 1 if failed else 0


def _training_open(arguments: argparse.Namespace) -> int:
    pictures = arguments.out / "images"
    pictures.mkdir(mode=0o700, parents=True, exist_ok=True)
    boxes: dict[str, Sequence[Mapping[str, Any]]] = {}
    failed = 0
    for path in sorted(arguments.folder.glob("*.medsec-case")):
        try:
            case = open_case(_read(path), arguments.to_key)
        except errors.SealError as err:
            failed += 1
            print(f"{_shown(path)}: {_said(err)}", file=sys.stderr)
            continue
        write_durably(pictures / case.name, case.original)
        boxes[case.name] = case.after
    write_durably(arguments.out / "gt.json", json.dumps(boxes, indent=1).encode())
    print(f"{len(boxes)} cases opened; their boxes are in gt.json")
    return 1 if failed else 0


def _recover_key(arguments: argparse.Namespace) -> int:
    key_id = recover_key_file(_texts(arguments.shares), arguments.key)
    print(f"root key {key_id} written to {arguments.key}")
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {"data": arguments.data, "key_file": arguments.key}
    return Settings.load(os.environ, backup_dir=getattr(arguments, "to", None), **given)


def _texts(paths: Sequence[Path]) -> list[str]:
    return [_read(p).decode("utf-8", "replace") for p in paths]


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Files, each with where it belongs in the folder for masked files."""
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            yield from ((p, p.relative_to(path)) for p in inside)
        else:
            yield path, Path(path.name)


def _refuse_overwriting(files: Sequence[tuple[Path, Path]], out: Path) -> None:
    """A masked file has its original's name: it must never take its place, or another's."""
    inputs = {p.resolve() for p, _ in files}
    targets = Counter(
        t for _, target in files for t in (target, target.with_name(target.name + SUFFIX))
    )
    if any((out / target).resolve() in inputs for target in targets):
        raise errors.InputError("The folder for masked files must not be that of the originals.")
    if any(out.resolve() in path.parents for path in inputs):
        raise errors.InputError("The folder for masked files must not be among the originals.")
    if any(count > 1 for count in targets.values()):
        raise errors.InputError(
            "Two of the files would get one name: seal them into different folders."
        )
    if out.exists() and not out.is_dir():
        raise errors.InputError("What --out names is not a folder.")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise errors.StorageError("The folder cannot be made there.", errno=err.errno) from err


def _write_new(path: Path, data: bytes) -> None:
    """Write a file; the same bytes again are fine, another file in its place is not."""
    try:
        if path.exists():
            if path.read_bytes() != data:
                raise errors.InputError("A different file of this name is in the way.")
            return
        write_durably(path, data)
    except OSError as err:
        raise errors.StorageError("The file cannot be written there.", errno=err.errno) from err


def _patient(engine: Engine, token: str, number: str) -> str:
    try:
        return engine.patient(token, number).patient_id
    except errors.NotFound:
        name = "Images without a patient" if number == UNASSIGNED else number
        return engine.create_patient(token, number, name).patient_id


def _read(path: Path, refuse_larger: Callable[[int], None] = lambda size_bytes: None) -> bytes:
    try:
        refuse_larger(path.stat().st_size)
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

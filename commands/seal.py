"""``seal``: masked files, each with its sealed package beside it."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

from commands import files, folder
from commands.files import package_of
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome, waiting
from commands.terminal import Terminal
from engine import CSV_HEAD, FEW_FILES, BatchItem, BatchOptions, Engine, Source, errors

UNASSIGNED = "unassigned"


def add_to(commands: Commands) -> None:
    parser = commands.add_parser("seal", parents=[DATA_FOLDER], help="seal files")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="image, or a folder")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--patient", default=UNASSIGNED, help="hospital number of the patient")
    parser.add_argument("--profile", help="specialty profile")
    parser.add_argument(
        "--accept-empty",
        action="store_true",
        help="release images in which nothing was found; they are marked as unreviewed",
    )
    parser.add_argument(
        "--seal-proposals",
        action="store_true",
        help="seal uncertain boxes too, instead of keeping the image for a person",
    )
    parser.add_argument(
        "--keep-names",
        action="store_true",
        help="masked files under the originals' names and folders, which may name patients",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="what became of each file, .csv or .jsonl"
    )
    parser.set_defaults(run=seal)


def seal(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    sources = list(_sources(arguments.files))
    _refuse_overwriting(sources, arguments.out, arguments.keep_names)
    if arguments.keep_names:
        _refuse_long(sources, arguments.out, terminal)
    files.make_folder(arguments.out)
    with (
        folder.opened(arguments, terminal) as (engine, token),
        # Begun last: after a refusal, the report of the call before is still there.
        _Report.begun(arguments.report, None if arguments.keep_names else arguments.out) as report,
        terminal.working("sealing", len(sources)) as work,
    ):
        items = engine.batches.seal(
            token,
            _patient(engine, token, arguments.patient),
            (
                Source(
                    path.name,
                    partial(files.read, path, engine.limits.refuse_larger),
                    target.parent.as_posix(),
                )
                for path, target in sources
            ),
            arguments.profile,
            BatchOptions(
                accept_empty=arguments.accept_empty, seal_proposals=arguments.seal_proposals
            ),
            few=len(sources) <= FEW_FILES,
        )
        failed = 0
        for item in items:
            path, target = sources[item.place]
            try:
                if item.state in ("sealed", "present"):
                    own = target if arguments.keep_names else None
                    _hand_out(engine, token, str(item.image_id), arguments.out, own)
            except errors.EngineError as err:
                item = replace(item, state="failed", error=(err.code, err.message))
            failed += item.bad
            say = terminal.warn if item.bad else terminal.tell
            say(f"{files.shown(path)}: {_described(item)}")
            report.add(path, item)
            work.advance(worked=item.state != "present")
        return Outcome.of(failed)


def _sources(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Files, each with where it belongs in the folder for masked files."""
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            yield from ((p, p.relative_to(path)) for p in inside)
        else:
            yield path, Path(path.name)


def _refuse_overwriting(sources: Sequence[tuple[Path, Path]], out: Path, keep: bool) -> None:
    """A masked file must never take an original's place, or another's."""
    inputs = {p.resolve() for p, _ in sources}
    if any(out.resolve() in path.parents for path in inputs):
        raise errors.InputError("The folder for masked files must not be among the originals.")
    if out.exists() and not out.is_dir():
        raise errors.InputError("What --out names is not a folder.")
    if not keep:
        return
    targets = Counter(t for _, target in sources for t in (target, package_of(target)))
    if any((out / target).resolve() in inputs for target in targets):
        raise errors.InputError("The folder for masked files must not be that of the originals.")
    if any(count > 1 for count in targets.values()):
        raise errors.InputError(
            "Two of the files would get one name: seal them into different folders, or without"
            " --keep-names."
        )


def _refuse_long(sources: Sequence[tuple[Path, Path]], out: Path, terminal: Terminal) -> None:
    """A name that does not fit is told before anything is sealed."""
    # A few bytes more, for the suffix of a masked file that is of another format.
    long = [
        path
        for path, target in sources
        if not files.fits((out / target).parent, package_of(target).name + ".png")
    ]
    for path in long:
        terminal.warn(f"{files.shown(path)}: its name is too long for the folder of masked files")
    if long:
        raise errors.InputError(
            "Nothing was sealed: rename these files, or call without --keep-names."
        )


def _patient(engine: Engine, token: str, number: str) -> str:
    try:
        return engine.patients.get(token, number).patient_id
    except errors.NotFound:
        name = "Images without a patient" if number == UNASSIGNED else number
        return engine.patients.create(token, number, name).patient_id


def _hand_out(engine: Engine, token: str, image_id: str, out: Path, own: Path | None) -> None:
    """A masked file and its package; the same ones again are fine after a kill.

    Args:
        own: The original's path below the folder for masked files; None for a neutral name, which
            is the image's id.
    """
    masked = engine.images.masked_file(token, image_id)
    target = out / (masked.name if own is None else own)
    kind = engine.images.get(token, image_id).format.media_type
    if own is not None and kind != masked.media_type:
        # A photograph.heic that is a PNG now would be opened by the wrong program, or by none.
        target = target.with_name(target.name + Path(masked.name).suffix)
    files.make_folder(target.parent)
    files.write_new(package_of(target), engine.packages.export(token, image_id).data)
    files.write_new(target, masked.data)


def _described(item: BatchItem) -> str:
    if item.state == "review":
        return waiting(item.reasons)
    if item.error is not None:
        return f"failed ({item.error[0]}): {item.error[1]}"
    if item.state == "present":
        return "sealed before"
    found = ", ".join(f"{n} {label}" for label, n in sorted(item.labels.items())) or "nothing"
    unreviewed = " (released without review)" if "nothing-found" in item.reasons else ""
    return " ".join([f"sealed {found}{unreviewed}", *(f"- {note}" for note in item.notes)])


class _Report:
    """A line for each file, as it happens.

    Args:
        file: Where to; None for nowhere.
        csv: The form of a line; otherwise JSON.
        named: With the names of the originals; otherwise each is its number in this call.
    """

    def __init__(self, file: TextIO | None, csv: bool, named: bool = True) -> None:
        self._file, self._csv, self._named = file, csv, named

    @classmethod
    @contextlib.contextmanager
    def begun(cls, path: Path | None, neutral: Path | None) -> Iterator[_Report]:
        """A new report in a ``.csv`` or ``.jsonl`` file, or none.

        Args:
            neutral: A folder that will be handed on: a report in it names no original.
        """
        if path is None:
            yield cls(None, csv=False)
            return
        if path.suffix not in (".csv", ".jsonl"):
            raise errors.InputError("A report is a .csv or a .jsonl file.")
        try:
            # A name of another encoding must not end the batch.
            file = path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
        except OSError as err:
            raise errors.InputError("The report cannot be written there.", errno=err.errno) from err
        try:
            inside = neutral is not None and neutral.resolve() in path.resolve().parents
            report = cls(file, csv=path.suffix == ".csv", named=not inside)
            if path.suffix == ".csv":
                report._write(CSV_HEAD)
            yield report
        finally:
            with contextlib.suppress(OSError):  # of a full disk, which was told before
                file.close()

    def add(self, path: Path, item: BatchItem) -> None:
        file = str(path) if self._named else str(item.place + 1)
        self._write((item.csv_line if self._csv else item.json_line)(file))

    def _write(self, text: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as err:
            raise errors.StorageError(
                "The report cannot be written any more: make room and call again; what is sealed is"
                " not done twice.",
                errno=err.errno,
            ) from err

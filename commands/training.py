"""``training-export``, ``training-open``: missed cases, for a machine that trains."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands import files, folder
from commands.options import DATA_FOLDER, QUIET, Commands
from commands.outcome import Outcome, described
from commands.terminal import Terminal
from engine import TrainingCase, errors, open_case, write_durably


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "training-export",
        parents=[DATA_FOLDER],
        help="missed cases that were kept, sealed to a key",
    )
    parser.add_argument("--to-key", required=True, type=Path, help="key file, made on first use")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--again", action="store_true", help="also what was exported before")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.set_defaults(run=export)

    parser = commands.add_parser(
        "training-open",
        parents=[QUIET],
        help="exported cases as images and gt.json; needs no data folder",
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--to-key", required=True, type=Path, help="key file of the export")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR2")
    parser.set_defaults(run=open_exported)


def export(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    failed = sealed = 0
    with folder.opened(arguments, terminal) as (engine, token):
        cases = engine.training.cases(token)
        if arguments.list:
            for case in cases:
                terminal.tell(_line(case))
            return Outcome.DONE
        files.make_folder(arguments.out)
        version = engine.training.in_force(token)
        if version is not None:  # what is learned is learned on from it
            write_durably(arguments.out / version[0], version[1])
        made = engine.training.export(token, arguments.to_key, arguments.again)
        total = sum(arguments.again or case.exported_at is None for case in cases)
        with terminal.working("exporting", total, "cases") as work:
            for name, content in made:
                if isinstance(content, errors.EngineError):
                    failed += 1
                    terminal.warn(f"{name}: {described(content)}")
                else:
                    sealed += 1
                    write_durably(arguments.out / name, content)
                work.advance()
        terminal.tell(f"{sealed} cases sealed to {arguments.to_key}; {len(cases)} are kept")
    return Outcome.of(failed)


def _line(case: TrainingCase) -> str:
    left = f"exported {case.exported_at:%Y-%m-%d}" if case.exported_at else "new"
    return f"{case.case_id} {case.kept_at:%Y-%m-%d} {case.size_bytes} bytes, {left}"


def open_exported(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    pictures = arguments.out / "images"
    pictures.mkdir(mode=0o700, parents=True, exist_ok=True)
    boxes: dict[str, Sequence[Mapping[str, Any]]] = {}
    failed = 0
    paths = sorted(arguments.folder.glob("*.medsec-case"))
    with terminal.working("opening", len(paths), "cases") as work:
        for path in paths:
            try:
                case = open_case(files.read(path), arguments.to_key)
                write_durably(pictures / case.name, case.original)
                boxes[case.name] = case.after
            except errors.SealError as err:
                failed += 1
                terminal.warn(f"{files.shown(path)}: {described(err)}")
            work.advance()
    write_durably(arguments.out / "gt.json", json.dumps(boxes, indent=1).encode())
    terminal.tell(f"{len(boxes)} cases opened; their boxes are in gt.json")
    return Outcome.of(failed)

"""``files-move``, ``files-claim``: where the stored files lie, and whose they are."""

from __future__ import annotations

import argparse

from commands import folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal
from engine import claim_files, copy_files, move_files, planned_move


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "files-move",
        parents=[DATA_FOLDER],
        help="move the stored files to an object store, to another one, or back",
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="PLACE",
        help="s3://bucket/prefix, or folder: the data folder",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="only say what there is to do")
    how.add_argument(
        "--copy-only", action="store_true", help="copy while the server works; move the rest later"
    )
    parser.set_defaults(run=move)

    parser = commands.add_parser(
        "files-claim",
        parents=[DATA_FOLDER],
        help="let this copy of an installation go on with the stored files, and no other one",
    )
    parser.add_argument("--reason", required=True, help="goes into the audit log")
    parser.set_defaults(run=take_over)


def move(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    settings = folder.settings(arguments)
    if arguments.dry_run:
        plan = planned_move(settings, arguments.to)
        terminal.tell(
            f"{plan.sent} of {plan.files} files have to be copied; nothing was written. With the"
            " server stopped, files-move then compares each with its digest, and deletes it at the"
            " old place"
        )
        return Outcome.DONE
    if arguments.copy_only:
        with terminal.working("copying files"):
            done = copy_files(settings, arguments.to)
        terminal.tell(
            f"copied and compared: {done.sent} files; {done.files} are at the old place, and"
            " nothing was deleted. Set MEDSEC_BLOBS_ALSO and start the server again, which moves"
            " the rest, or stop it and run files-move without --copy-only"
        )
        return Outcome.DONE
    with terminal.working("moving files"):
        done = move_files(settings, arguments.to)
    terminal.tell(
        f"moved and compared: {done.files} files, {done.sent} of them sent now; {done.swept} that"
        " nothing needs were deleted"
    )
    place = "unset MEDSEC_BLOBS" if arguments.to == "folder" else f"set MEDSEC_BLOBS={arguments.to}"
    terminal.tell(f"{place} before the server is started")
    if done.lost:
        terminal.warn(f"medsec: {done.lost} files were lost before; run verify to see whose")
        return Outcome.REFUSED
    return Outcome.DONE


def take_over(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    claim_files(folder.settings(arguments), arguments.reason)
    terminal.tell(
        "this copy goes on with the stored files. Never start another one on them: after a week"
        " this one deletes what only the other one knows"
    )
    return Outcome.DONE

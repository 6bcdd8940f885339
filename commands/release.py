"""``release``: a cohort of masked images into a folder, with a signed statement."""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta
from pathlib import Path

from commands import files, folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal
from engine import CohortOrder, Engine, ImageQuery, errors

_PAGE = 500


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "release",
        parents=[DATA_FOLDER],
        help="hand masked images over, with a signed statement",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--reason", required=True, help="what for, and to whom")
    parser.add_argument(
        "--patient", action="append", default=[], metavar="NUMBER", help="only of these patients"
    )
    parser.add_argument("--modality", help="only of this modality, such as CT")
    parser.add_argument("--since", type=_day, metavar="DAY", help="uploaded on this day or later")
    parser.add_argument("--until", type=_day, metavar="DAY", help="uploaded on this day or before")
    parser.add_argument(
        "--new-identifiers",
        action="store_true",
        help="new UIDs and pseudonyms, for this cohort alone",
    )
    parser.add_argument("--packages", action="store_true", help="with the sealed packages")
    parser.add_argument(
        "--profile", default="", metavar="NAME", help="de-identification profile of copies"
    )
    parser.add_argument(
        "--recipient",
        default="",
        metavar="NAME",
        help="whose copies: the same name gets the same pseudonyms and dates",
    )
    parser.add_argument(
        "--pseudonyms", type=Path, metavar="CSV", help="list of pseudonyms of this recipient"
    )
    parser.add_argument(
        "--validate", action="store_true", help="with what dciodvfy says of each DICOM file"
    )
    parser.set_defaults(run=release)


def release(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with folder.opened(arguments, terminal) as (engine, token):
        chosen = _chosen(engine, token, arguments)
        order = CohortOrder(
            image_ids=chosen,
            reason=arguments.reason,
            new_identifiers=arguments.new_identifiers,
            packages=arguments.packages,
            profile=arguments.profile,
            recipient=arguments.recipient,
            validate=arguments.validate,
        )
        if arguments.pseudonyms is not None:
            text = files.read(arguments.pseudonyms).decode("utf-8-sig", "replace")
            engine.recipients.save_pseudonyms(token, arguments.recipient, text)
        cohort = engine.cohorts.prepare(token, order)
        files.make_folder(arguments.out)
        with terminal.working("handing over", len(cohort.files), "images") as work:
            for path, data in engine.cohorts.files(token, cohort.release_id):
                files.make_folder((arguments.out / path).parent)
                files.write_new(arguments.out / path, data)
                work.advance()
    terminal.tell(f"{len(cohort.files)} images of {cohort.patients} patients: {arguments.out}")
    terminal.tell(f"signed by {cohort.fingerprint}; tell the receiver by another way")
    return Outcome.of(0)


def _chosen(engine: Engine, token: str, arguments: argparse.Namespace) -> list[str]:
    """Ids of the sealed images that match."""
    query = ImageQuery(
        modality=arguments.modality,
        since=arguments.since,
        until=None if arguments.until is None else arguments.until + timedelta(days=1),
    )
    found: list[str] = []
    for number in arguments.patient or [None]:
        patient_id = None if number is None else engine.patients.get(token, number).patient_id
        seen = 0
        while True:
            page = engine.search.images(token, query, _PAGE, seen, patient_id)
            found += [image.image_id for image in page.images]
            seen += len(page.images)
            if seen >= page.total:
                break
    if not found:
        raise errors.InputError("No sealed image matches. Change the filters.")
    return found


def _day(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d")  # noqa: DTZ007 - UTC, as in the catalog

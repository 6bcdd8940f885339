"""``database-roles``, ``database-migrate``, ``database-move``: the catalog on PostgreSQL."""

from __future__ import annotations

import argparse

from commands import folder
from commands.options import DATA_FOLDER, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal
from engine import (
    database_roles,
    errors,
    move_catalog_to_file,
    move_catalog_to_server,
    planned_catalog_move,
    prepare_database,
)

SERVER_ROLE = "medsec"


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "database-roles", help="print SQL that makes roles and database on a PostgreSQL server"
    )
    parser.add_argument("--owner", default="medsec_owner", help="role that owns the tables")
    parser.add_argument("--server", default=SERVER_ROLE, help="role that the server signs in with")
    parser.add_argument("--database", default="medsec", help="name of the database")
    parser.set_defaults(run=roles)

    parser = commands.add_parser(
        "database-migrate",
        parents=[DATA_FOLDER],
        help="make or update tables and rights, as the role that owns them",
    )
    parser.add_argument("--server", default=SERVER_ROLE, help="role that the server signs in with")
    parser.set_defaults(run=migrate)

    parser = commands.add_parser(
        "database-move",
        parents=[DATA_FOLDER],
        help="move the catalog from its file to the database of MEDSEC_DATABASE",
    )
    parser.add_argument("--back", action="store_true", help="move it from the database into a file")
    parser.add_argument("--dry-run", action="store_true", help="only say what there is to do")
    parser.set_defaults(run=move_catalog)


def roles(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    try:
        terminal.tell(database_roles(arguments.owner, arguments.server, arguments.database))
    except errors.InputError as err:
        terminal.warn(f"medsec: {err.message}")
        return Outcome.REFUSED
    return Outcome.DONE


def migrate(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with terminal.working("bringing the database up to date"):
        done = prepare_database(folder.settings(arguments), arguments.server)
    terminal.tell(f"tables and rights are up to date; {len(done)} steps were done")
    return Outcome.DONE


def move_catalog(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    settings = folder.settings(arguments)
    if arguments.dry_run:
        plan = planned_catalog_move(settings, arguments.back)
        terminal.tell(
            f"{sum(plan.values())} rows in {len(plan)} tables would be moved, {plan['audit']} of"
            " them of the audit log, which is whole; nothing was changed"
        )
        return Outcome.DONE
    with terminal.working("moving the catalog"):
        rows = (
            move_catalog_to_file(settings) if arguments.back else move_catalog_to_server(settings)
        )
    terminal.tell(
        f"moved and compared: {sum(rows.values())} rows, {rows['audit']} of them of the audit log"
    )
    if arguments.back:
        terminal.tell("drop the database: it keeps the keys of what is erased from now on")
    return Outcome.DONE

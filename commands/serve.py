"""``serve``: the pages and the API, as ``make run`` starts them."""

from __future__ import annotations

import argparse

import serve as server
from commands.options import Commands
from commands.outcome import Outcome
from commands.terminal import Terminal


def add_to(commands: Commands) -> None:
    parser = commands.add_parser("serve", help="start the server")
    server.add_options(parser)
    parser.set_defaults(run=serve)


def serve(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    """Does not return where the server starts: this process becomes it."""
    server.start(arguments)
    return Outcome.DONE

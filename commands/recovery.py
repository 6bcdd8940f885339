"""``shares``, ``drill``, ``recover-key``: the root key on paper, and back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from commands import files, folder
from commands.options import DATA_FOLDER, QUIET, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal
from engine import errors, recover_key_file

#: Of the screen and of what was scrolled off it.
CLEAR = "\033[2J\033[3J\033[H"


def add_to(commands: Commands) -> None:
    parser = commands.add_parser("shares", parents=[DATA_FOLDER], help="the root key on paper")
    parser.add_argument("--needed", type=int, default=2, help="how many give the key back")
    parser.add_argument("--total", type=int, default=3, help="how many there are")
    parser.set_defaults(run=shares)

    parser = commands.add_parser(
        "drill", parents=[DATA_FOLDER], help="prove that shares give the key"
    )
    parser.add_argument("shares", nargs="+", type=Path, metavar="FILE", help="one share a file")
    parser.set_defaults(run=drill)

    parser = commands.add_parser(
        "recover-key", parents=[QUIET], help="a lost root key file from its shares"
    )
    parser.add_argument("shares", nargs="+", type=Path, metavar="FILE", help="one share a file")
    parser.add_argument("--key", required=True, type=Path, help="key file to write; must not exist")
    parser.set_defaults(run=recover_key)


def shares(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise errors.InputError("Shares are shown on a terminal, one after the other, to people.")
    with folder.opened(arguments, terminal) as (engine, token):
        texts = engine.keys.recovery_shares(token, arguments.needed, arguments.total)
    for number, text in enumerate(texts, 1):
        input(f"Share {number} of {len(texts)}: let only its holder look, then press Enter. ")
        print(text)
        input("Written down? Press Enter: it will not be shown again. ")
        print(CLEAR, end="")
    return Outcome.DONE


def drill(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    with folder.opened(arguments, terminal) as (engine, token):
        key_id = engine.keys.drill_shares(token, files.read_texts(arguments.shares))
        terminal.tell(f"these shares give back {key_id}")
    return Outcome.DONE


def recover_key(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    key_id = recover_key_file(files.read_texts(arguments.shares), arguments.key)
    terminal.tell(f"root key {key_id} written to {arguments.key}")
    return Outcome.DONE

"""The data folder that a command works in."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator

from commands.terminal import Terminal
from engine import Engine, Settings


@contextlib.contextmanager
def opened(arguments: argparse.Namespace, terminal: Terminal) -> Iterator[tuple[Engine, str]]:
    """The engine and the operator's token, until the block ends.

    Raises:
        StorageBusy: A server holds the data folder.
        SettingsError: The root key is missing, wrong or badly kept.
    """
    with terminal.working("opening the data folder"):
        engine = Engine.open(settings(arguments), operator=True)
    try:
        yield engine, engine.operator_token()
    finally:
        engine.close()


def settings(arguments: argparse.Namespace) -> Settings:
    """Those of the environment, under those of the command line."""
    given = {"data": arguments.data, "key_file": arguments.key}
    for setting, option in (("backup_dir", "backups"), ("checkpoint_dir", "checkpoints")):
        given[setting] = getattr(arguments, option, None)
    return Settings.load(os.environ, **given)

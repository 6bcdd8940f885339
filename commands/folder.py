"""The data folder that a command works in."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    given: dict[str, Any] = {"data": arguments.data, "key_file": arguments.key}
    given["checkpoint_dir"] = getattr(arguments, "checkpoints", None)
    backups = getattr(arguments, "backups", None)
    if backups is not None:
        far = backups.startswith("s3://")
        given["backups" if far else "backup_dir"] = backups if far else Path(backups)
    return Settings.load(os.environ, **given)

"""Start the server: ``make run`` and ``cli.py serve`` call this.

``--demo`` fills a folder of its own first, with ``--reset`` anew; ``--tls`` serves https and
nothing else.
"""

from __future__ import annotations

import argparse
import gc
import os
import runpy
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine import Settings

HERE = Path(__file__).parent
DEMO = {"MEDSEC_DEMO": "1", "MEDSEC_DATA": "demo-data", "MEDSEC_KEY_FILE": "demo-keys/root.key"}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and become the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--go-on", action="store_true", help=argparse.SUPPRESS)  # see start
    arguments = parser.parse_args(argv)
    if arguments.go_on:
        become(arguments)
    else:
        start(arguments)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the server, also for ``cli.py serve``."""
    parser.add_argument("--demo", action="store_true", help="invented patients, own data folder")
    parser.add_argument("--tls", action="store_true", help="https, as MEDSEC_TLS=1")
    parser.add_argument("--reset", action="store_true", help="with --demo: begin it anew")


def start(arguments: argparse.Namespace) -> None:
    """Begin anew with what the C library reads only when a process begins.

    The engine is imported once for all, in :func:`become`: that takes a second.
    """
    # Each request may come on another thread, and glibc keeps what each of them has freed: with so
    # few arenas memory stays level under load, with its own eight a processor it grows.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    options = [f"--{name}" for name in ("demo", "tls", "reset") if getattr(arguments, name)]
    again = [sys.executable, str(HERE / "serve.py"), "--go-on", *options]
    os.execv(sys.executable, again)  # noqa: S606


def become(arguments: argparse.Namespace) -> None:
    """Check the settings, fill the demo if asked, and be the server."""
    # All that is imported stays, and each search for garbage among it takes longer than the one
    # before. Home.py switches it on again before the first request.
    gc.disable()
    from engine import Engine, Settings, cannot_start, errors, log_as_json

    if arguments.demo:
        # Never on another folder: the demo's password is known to everybody.
        os.environ.update(DEMO)
        os.environ.pop("MEDSEC_DATABASE", None)
    elif arguments.reset:
        sys.exit("Only a demo can be reset. Add --demo.")
    if arguments.tls:
        os.environ["MEDSEC_TLS"] = "1"
    try:
        settings = Settings.load(os.environ)
        if arguments.reset:
            _forget_demo(settings)
        where = [f"--server.address={settings.host}", f"--server.port={settings.port}"]
        where += _tls(settings)
        if settings.demo:
            from demo.seed import fill

            # The demo's own accounts are nobody's decision; four eyes count for who uses it.
            engine = Engine.open(replace(settings, four_eyes=False))
            try:
                fill(engine, lambda line: print(f"  demo: {line}"))  # noqa: T201
            finally:
                engine.close()
    except errors.EngineError as err:
        log_as_json()
        cannot_start(err)
        sys.exit(f"MedSec cannot start: {err.message}")
    sys.argv = ["streamlit", "run", str(HERE / "Home.py"), *where]
    runpy.run_module("streamlit", run_name="__main__")


def _forget_demo(settings: Settings) -> None:
    """Delete the demo's own two folders, unless a server is at work in them.

    Raises:
        StorageBusy: One is.
    """
    from engine import Engine

    folders = [Path(DEMO["MEDSEC_DATA"]), Path(DEMO["MEDSEC_KEY_FILE"]).parent]
    if (folders[0] / "catalog.duckdb").exists() and folders[1].exists():
        Engine.open(settings).close()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _tls(settings: Settings) -> list[str]:
    """Options of the server for TLS; without it, a warning where others can listen."""
    if not settings.tls:
        if settings.host not in ("127.0.0.1", "::1", "localhost"):
            print(  # noqa: T201
                "\n  Warning: without TLS, passwords and images are sent unencrypted. Set"
                " MEDSEC_TLS=1,\n  or allow access to this port only for a proxy with TLS.\n"
            )
        return []
    from engine import Host, server_certificate

    shown = server_certificate(settings, Host(settings.data / "blobs"))
    print(f"\n  TLS certificate, SHA-256: {shown.fingerprint}\n")  # noqa: T201
    return [f"--server.sslCertFile={shown.path}", f"--server.sslKeyFile={shown.key}"]


if __name__ == "__main__":
    main()

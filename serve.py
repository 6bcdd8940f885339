"""Start the server: ``make run`` and ``cli.py serve`` call this.

``--demo`` fills a folder of its own first, with ``--reset`` anew; ``--tls`` serves https and
nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine import (
    Engine,
    Host,
    Settings,
    cannot_start,
    errors,
    log_as_json,
    server_certificate,
)

HERE = Path(__file__).parent
DEMO = {"MEDSEC_DEMO": "1", "MEDSEC_DATA": "demo-data", "MEDSEC_KEY_FILE": "demo-keys/root.key"}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and become the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    start(parser.parse_args(argv))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the server, also for ``cli.py serve``."""
    parser.add_argument("--demo", action="store_true", help="invented patients, own data folder")
    parser.add_argument("--tls", action="store_true", help="https, as MEDSEC_TLS=1")
    parser.add_argument("--reset", action="store_true", help="with --demo: begin it anew")


def start(arguments: argparse.Namespace) -> None:
    """Check the settings, fill the demo if asked, and become the server."""
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
    # Each request may come on another thread, and glibc keeps what each of them has freed: with so
    # few arenas memory stays level under load, with its own eight a processor it grows.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    streamlit = [sys.executable, "-m", "streamlit", "run", str(HERE / "Home.py")]
    os.execv(sys.executable, [*streamlit, *where])  # noqa: S606


def _forget_demo(settings: Settings) -> None:
    """Delete the demo's own two folders, unless a server is at work in them.

    Raises:
        StorageBusy: One is.
    """
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
    shown = server_certificate(settings, Host(settings.data / "blobs"))
    print(f"\n  TLS certificate, SHA-256: {shown.fingerprint}\n")  # noqa: T201
    return [f"--server.sslCertFile={shown.path}", f"--server.sslKeyFile={shown.key}"]


if __name__ == "__main__":
    main()

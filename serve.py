"""Start the server; ``make run`` calls this.

``--demo`` uses a separate data folder and fills it with demo data, ``--reset`` deletes that folder
first. ``--tls`` serves https only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from engine import Engine, Host, Settings, errors, server_certificate

HERE = Path(__file__).parent
DEMO = {"MEDSEC_DEMO": "1", "MEDSEC_DATA": "demo-data", "MEDSEC_KEY_FILE": "demo-keys/root.key"}


def main() -> None:
    """Check the settings, fill the demo if requested, and replace this process by the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--demo", action="store_true", help="fictitious patients in a separate data folder"
    )
    parser.add_argument("--tls", action="store_true", help="serve https only, as MEDSEC_TLS=1")
    parser.add_argument(
        "--reset", action="store_true", help="with --demo: delete the demo data first"
    )
    arguments = parser.parse_args()
    if arguments.demo:
        # Never with another folder: the password of the demo is public.
        os.environ.update(DEMO)
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

            engine = Engine.open(settings)
            try:
                fill(engine, lambda line: print(f"  demo: {line}"))  # noqa: T201
            finally:
                engine.close()
    except errors.EngineError as err:
        sys.exit(f"MedSec cannot start: {err.message}")
    # Requests run on many threads, and glibc keeps freed memory per arena. With two arenas, memory
    # use stays constant under load; with the default of eight per processor, it grows.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    streamlit = [sys.executable, "-m", "streamlit", "run", str(HERE / "Home.py")]
    os.execv(sys.executable, [*streamlit, *where])  # noqa: S606


def _forget_demo(settings: Settings) -> None:
    """Delete the two folders of the demo.

    Raises:
        StorageBusy: A server is using them.
    """
    folders = [Path(DEMO["MEDSEC_DATA"]), Path(DEMO["MEDSEC_KEY_FILE"]).parent]
    if (folders[0] / "catalog.duckdb").exists() and folders[1].exists():
        Engine.open(settings).close()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _tls(settings: Settings) -> list[str]:
    """Server options for TLS; without TLS, warn if the server is reachable over the network."""
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

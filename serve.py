"""Start the server: ``make run`` calls this. ``--demo`` fills a folder of its own first."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from engine import Engine, Settings, errors

HERE = Path(__file__).parent
DEMO = {"MEDSEC_DEMO": "1", "MEDSEC_DATA": "demo-data", "MEDSEC_KEY_FILE": "demo-keys/root.key"}


def main() -> None:
    """Check the settings, fill the demo if asked, and become the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", action="store_true", help="invented patients, own data folder")
    arguments = parser.parse_args()
    if arguments.demo:
        # Never on another folder: the demo's password is known to everybody.
        os.environ.update(DEMO)
    try:
        settings = Settings.load(os.environ)
        if settings.demo:
            from demo.seed import fill

            engine = Engine.open(settings)
            try:
                fill(engine, lambda line: print(f"  demo: {line}"))  # noqa: T201
            finally:
                engine.close()
    except errors.EngineError as err:
        sys.exit(f"MedSec does not start: {err.message}")
    streamlit = [sys.executable, "-m", "streamlit", "run", str(HERE / "Home.py")]
    where = [f"--server.address={settings.host}", f"--server.port={settings.port}"]
    os.execv(sys.executable, [*streamlit, *where])  # noqa: S606


if __name__ == "__main__":
    main()

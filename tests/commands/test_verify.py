"""``verify`` on a folder that it cannot have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from engine.store.embedded import EmbeddedDatabase
from tests.fakes import FakeHost


def test_a_folder_that_a_server_holds_is_refused(place: Path) -> None:
    (place / "data").mkdir()
    script = (
        "import sys, cli; sys.exit(cli.main(['verify', '--data',"
        f" {str(place / 'data')!r}, '--key', {str(place / 'root.key')!r}]))"
    )
    held = EmbeddedDatabase.open(place / "data" / "catalog.duckdb", FakeHost(place), 1)
    (place / "root.key").touch()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    held.close()
    assert done.returncode == 2
    assert "medsec:" in done.stderr

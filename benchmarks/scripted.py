"""The real server with a detector that answers at once: for measuring all that is not a network.

Started by :mod:`benchmarks.load`, instead of ``serve.py``, with the same environment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from engine import Detection, Region, Settings  # noqa: E402
from engine.detect.detector import Detector  # noqa: E402
from tests.fakes import ScriptedDetector  # noqa: E402

#: Where :mod:`benchmarks.load` writes a name.
BOX = Detection(Region(8, 8, 320, 40), "text", 0.9, "scripted")


def main() -> None:
    """Become the server."""
    opened = Detector.open
    settings = Settings.load(os.environ)
    scripted = ScriptedDetector(settings, [BOX])

    def scripted_only(chosen: Settings, profiles_folder: Path | None = None) -> Detector:
        return scripted if profiles_folder is None else opened(chosen, profiles_folder)

    Detector.open = scripted_only  # type: ignore[method-assign]
    where = [f"--server.address={settings.host}", f"--server.port={settings.port}"]
    sys.argv = ["streamlit", "run", str(ROOT / "Home.py"), *where]
    from streamlit.web import cli

    cli.main()


if __name__ == "__main__":
    main()

"""The command ``medsec`` of an installed package, where all of MedSec lies in one folder.

In a checkout nothing needs it: ``python cli.py`` is the same command.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run ``cli.main`` with this folder before all others, as in a checkout."""
    sys.path.insert(0, str(Path(__file__).parent))
    from cli import main as command

    return command()

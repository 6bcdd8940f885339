"""MedSec without a browser: ``python cli.py COMMAND``. The commands are in ``commands/``."""

from __future__ import annotations

import sys

from commands import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

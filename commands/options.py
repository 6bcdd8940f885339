"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

Commands = argparse._SubParsersAction  # what ``add_subparsers`` returns; it has no public name


def _quiet() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--quiet", action="store_true", help="no progress on the terminal")
    return parser


def _data_folder() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, parents=[QUIET])
    parser.add_argument("--data", type=Path, help="data folder (default: MEDSEC_DATA or ./data)")
    parser.add_argument(
        "--key", type=Path, help="root key file, made on first use (default: ~/.config/medsec)"
    )
    return parser


#: For a command that may take longer than two seconds.
QUIET = _quiet()
#: For a command that opens the data folder.
DATA_FOLDER = _data_folder()

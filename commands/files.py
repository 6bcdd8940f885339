"""Files and folders that commands read and write."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from engine import errors, write_durably

#: A sealed package lies beside its masked file, under that file's name and this.
SUFFIX = ".medsec"


def read(path: Path, refuse_larger: Callable[[int], None] = lambda size_bytes: None) -> bytes:
    """Raises InputError where the file cannot be read, or whatever ``refuse_larger`` raises."""
    try:
        refuse_larger(path.stat().st_size)
        return path.read_bytes()
    except OSError as err:
        raise errors.InputError("The file cannot be read.", errno=err.errno) from err


def read_texts(paths: Sequence[Path]) -> list[str]:
    return [read(p).decode("utf-8", "replace") for p in paths]


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise errors.StorageError("The folder cannot be made there.", errno=err.errno) from err


def write_new(path: Path, data: bytes) -> None:
    """Write a file; the same bytes again are fine, another file in its place is not."""
    try:
        if path.exists():
            if path.read_bytes() != data:
                raise errors.InputError("A different file of this name is in the way.")
            return
        write_durably(path, data)
    except OSError as err:
        raise errors.StorageError("The file cannot be written there.", errno=err.errno) from err


def fits(folder: Path, name: str) -> bool:
    """Can a file of this name lie in a folder, which need not exist yet?"""
    # os.path says no, and raises nothing, of a path that is too long itself.
    places = (folder.absolute(), *folder.absolute().parents)
    existing = next(p for p in places if os.path.exists(p))
    try:
        longest = os.pathconf(existing, "PC_NAME_MAX"), os.pathconf(existing, "PC_PATH_MAX")
    except (OSError, ValueError):
        longest = 255, 4096
    whole = folder.absolute() / name
    return (
        all(len(os.fsencode(part)) <= longest[0] for part in whole.parts)
        and len(os.fsencode(whole)) < longest[1]
    )


def package_of(masked: Path) -> Path:
    """Where the sealed package of a masked file lies."""
    return masked.with_name(masked.name + SUFFIX)


def masked_of(package: Path) -> Path:
    """Where the masked file of a sealed package lies."""
    return package.with_name(package.name[: -len(SUFFIX)])


def shown(path: Path) -> str:
    """A file's name for the terminal, without characters that would control it."""
    return "".join(c if c.isprintable() else "?" for c in path.name)

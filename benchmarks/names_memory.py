"""What the sweep, a backup and a move hold in memory of the names of all stored files.

    python -m benchmarks.names_memory [--files 1000000]

A catalog in a file gets rows of images with four files each, and the store of files is one that
lists their names and has none of their bytes. Each work is done once; what it held at most is the
highest resident memory of the process meanwhile, less what there was before. The lists of the store
itself are not counted.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from engine import Engine, Host, Settings
from engine.host import Folder, blob_name
from engine.store import file_moves
from engine.store.backup import Backups
from engine.store.catalogs import OPERATOR
from tests.fakes import ScriptedDetector

#: Of an image.
FILES = 4


class Names(Folder):
    """A store that lists names, and has no bytes under them."""

    def __init__(self, root: Path, listed: list[str]) -> None:
        super().__init__(root)
        self._listed = listed

    def names(self, under: str = "") -> Iterator[str]:
        for place in range(bisect_left(self._listed, under), len(self._listed)):
            if not self._listed[place].startswith(under):
                break
            yield self._listed[place]
        yield from () if "/" in under else super().names(under)

    def under(self, name: str) -> Folder:
        return self

    def age_seconds(self, name: str) -> float:
        return 1e9

    def delete(self, name: str) -> None:
        if "/" not in name:
            super().delete(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    count = parser.parse_args().files // FILES
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), count)


def measure(folder: Path, count: int) -> None:
    settings = Settings(
        data=folder / "data", key_file=folder / "root.key", backup_dir=folder / "backups"
    )
    engine = Engine.open(settings, detector=ScriptedDetector(settings))
    fill(engine, count)
    listed = sorted(blob_name(address(i, n)) for i in range(count) for n in range(FILES))
    files = engine.context.host.files = Names(folder / "files", listed)
    place = Names(folder / "place", listed)

    def far(*_: object) -> Backups:
        return Backups(place, engine.context.keyring, engine.context.host, far=True)

    tell("sweep", engine.upkeep.sweep)
    engine.backups._folder = far
    for which in ("first", "second"):
        tell(f"{which} backup", lambda: engine.backups.make_as(OPERATOR))
    engine.close()

    # Nothing to bring: what is at both places is compared.
    file_moves._places = lambda *_: (Host(files), Host(place), "")  # type: ignore[assignment]
    file_moves._refuse_one_place = lambda *_: None
    file_moves._compare = lambda *_: True
    tell("move", lambda: file_moves.move_files(settings, "folder"))


def address(image: int, file: int) -> str:
    return hashlib.sha256(b"%d/%d" % (image, file)).hexdigest()


def fill(engine: Engine, count: int) -> None:
    """Images without regions, as many as there are files for."""
    columns = [
        "image_id", "patient_id", "state", "version", "format", "modality", "profile", "width",
        "height", "frames", "size_bytes", "stored_bytes", "uploaded_at", "uploaded_by", "reasons",
        "region_count", "times_ms", "draft_blob", "masked_blob", "sealed_blob", "thumbnail_blob",
    ]  # fmt: skip
    now = datetime.now(UTC).replace(tzinfo=None)
    part = 50_000
    for begin in range(0, count, part):
        rows = [
            (f"im_{i}", "pt_1", "released", 1, "png", "CR", "general", 1, 1, 1, 1, 1, now, "t",
             "[]", 0, "{}", *(address(i, n) for n in range(FILES)))
            for i in range(begin, min(count, begin + part))
        ]  # fmt: skip
        engine.context.database.append("images", columns, [rows])  # type: ignore[attr-defined]


def tell(what: str, work: Callable[[], object]) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before, began = memory("VmRSS"), time.monotonic()
    work()
    took = time.monotonic() - began
    print(f"{what}: {(memory('VmHWM') - before) / 1024:.0f} MB, {took:.0f} s")


def memory(name: str) -> int:
    """kB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


if __name__ == "__main__":
    main()

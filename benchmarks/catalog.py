"""How search, charts and the audit log grow with the number of images.

    python -m benchmarks.catalog [--sizes 10000,100000,1000000] [--postgresql URL,URL,URL]
                                 [--keep FOLDER]

Each size gets a catalog of its own, made by the program's own migrations and filled in bulk: three
regions and three log entries per image, ten images and one more entry per patient. The log's chain
is a real one; sealed columns hold bytes of a usual length, since no key is needed for what is
measured. With ``--postgresql``, each catalog is also copied to an empty, migrated database, one a
size, and measured there, too; the role that owns the tables (``medsec_owner``) is asked to analyze
them.
With ``--keep``, the filled catalogs stay in a folder: a run that was stopped goes on from there.
Times are the median of several runs in milliseconds; ``grows`` is the factor from the smallest to
the largest catalog, to be held against the factor between their sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pyarrow as pa

from engine.crypto.keyring import Keyring
from engine.host import Host
from engine.permissions import Role
from engine.records import Caller, ImageState
from engine.store.audit import GENESIS, AuditLog, Event, _digest
from engine.store.catalog import Catalog
from engine.store.database import Database
from engine.store.embedded import EmbeddedDatabase
from engine.store.key_hierarchy import KeyHierarchy
from engine.store.patients import Patients
from engine.store.postgresql import PostgresDatabase

REGIONS, ENTRIES, OF_ONE_PATIENT = 3, 3, 10
_AUDIT = (
    "sequence", "occurred_at", "actor", "role", "action", "outcome", "patient_id", "image_id",
    "region_id", "reason", "origin", "detail",
)  # fmt: skip


def image_name(number: int) -> str:
    return f"im_{number * 7919 % 999_999_937:024x}"


def fill(database: EmbeddedDatabase, images: int) -> None:
    """Rows in bulk."""
    with database.write() as tx:
        columns = {r["column_name"] for r in tx.all("DESCRIBE images")}
        values = {
            "image_id": "printf('im_%024x', (i * 7919) % 999999937)",
            "patient_id": f"printf('pt_%024x', i // {OF_ONE_PATIENT})",
            "state": "CASE WHEN i % 50 = 0 THEN 'review' ELSE 'released' END",
            "version": "1",
            "wrapped_key": "repeat('k', 40)::BLOB",
            "duplicate_index": "printf('%064x', i)::BLOB",
            "format": "'DICOM'",
            "modality": "['CT', 'DX', 'US', 'MG', 'XA'][1 + i % 5]",
            "profile": "'general'",
            "width": "2048",
            "height": "2048",
            "frames": "1",
            "size_bytes": "8000000",
            "stored_bytes": "6000000",
            "uploaded_at": "TIMESTAMP '2020-01-01' + to_minutes(i)",
            "uploaded_by": "'technician' || (i % 20)",
            "sealed_at": "TIMESTAMP '2020-01-01' + to_minutes(i)",
            "sealed_by": "'technician'",
            "reasons": "'[]'",
            "confidence": "0.5 + (i % 50) / 100.0",
            "region_count": str(REGIONS),
            "times_ms": "'{\"detect\": 400.0}'",
            "masked_blob": "printf('%064x', i * 3)",
            "sealed_blob": "printf('%064x', i * 3 + 1)",
            "thumbnail_blob": "printf('%064x', i * 3 + 2)",
            "facts": "repeat('f', 2000)::BLOB",
            "tag": "repeat('t', 32)::BLOB",
        }
        names = [n for n in values if n in columns]
        tx.run(
            f"INSERT INTO images ({', '.join(names)}) SELECT"  # noqa: S608
            f" {', '.join(values[n] for n in names)} FROM range($1) t(i)",
            images,
        )
        tx.run("INSERT INTO image_files SELECT duplicate_index, image_id FROM images")
        tx.run(
            "INSERT INTO regions SELECT printf('rg_%024x', i * 3 + k),"
            " printf('im_%024x', (i * 7919) % 999999937), k,"
            " ['text', 'barcode', 'face'][1 + k], 0.9, 'ppocr', 8, 8, 200, 40, 0, 1, k * 7000,"
            " 7000, 0.1 FROM range($1) t(i), range($2) u(k)",
            images,
            REGIONS,
        )
    _fill_log(database, images)
    database._raw.execute("CHECKPOINT")


def _fill_log(database: EmbeddedDatabase, images: int) -> None:
    digest, sequence = GENESIS, 0
    for start in range(0, images, 50_000):
        rows: dict[str, list[object]] = {c: [] for c in (*_AUDIT, "digest")}
        for number in range(start, min(images, start + 50_000)):
            created = ("patient.create",) if number % OF_ONE_PATIENT == 0 else ()
            for action in (*created, "image.upload", "draft.open", "image.seal"):
                sequence += 1
                row = {
                    "sequence": sequence,
                    "occurred_at": f"2026-01-01T00:00:{sequence % 60:02d}.000000",
                    "actor": "technician", "role": "technician", "action": action,
                    "outcome": "ok", "patient_id": f"pt_{number // OF_ONE_PATIENT:024x}",
                    "image_id": "" if action in created else image_name(number),
                    "region_id": "", "reason": "",
                    "origin": "browser",
                    "detail": '{"tag":"' + "74" * 32 + '"}' if action != "draft.open" else "{}",
                }  # fmt: skip
                digest = _digest(digest, row)
                for column in _AUDIT:
                    rows[column].append(row[column])
                rows["digest"].append(digest)
        database._raw.register("incoming", pa.table(rows))
        database._raw.execute("INSERT INTO audit SELECT * FROM incoming")
        database._raw.unregister("incoming")


def median_ms(work: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1000.0)
    return statistics.median(spent)


def catalog_file(images: int, folder: Path) -> EmbeddedDatabase:
    """A filled catalog of this size; the one of an earlier run if it is there."""
    path, host = folder / f"{images}.duckdb", Host(folder)
    if not path.exists():
        passing = folder / f"{images}.unfinished"
        passing.unlink(missing_ok=True)
        with contextlib.closing(EmbeddedDatabase.open(passing, host, 10)) as fresh:
            fill(fresh, images)
        passing.rename(path)
    return EmbeddedDatabase.open(path, host, 10)


def on_server(images: int, folder: Path, url: str) -> PostgresDatabase:
    """The same catalog on a PostgreSQL server."""
    server = PostgresDatabase.open(url, folder / f"{images}-server", Host(folder), 60, 4)
    if server.read().count("SELECT count(*) FROM images") == 0:
        with contextlib.closing(catalog_file(images, folder)) as source:
            server.fill(source)
        with psycopg.connect(url, user="medsec_owner", autocommit=True) as connection:
            connection.execute("ANALYZE")
    return server


def measure(images: int, database: Database) -> dict[str, float]:
    with contextlib.closing(database), tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        catalog, audit = Catalog(database), AuditLog(database, host, bytes(32))
        patients = Patients(database, KeyHierarchy(database, Keyring([bytes(32)]), host), host)
        caller = Caller("technician", Role.TECHNICIAN, "", "benchmark")
        tx = database.read()
        middle = image_name(images // 2)
        patient = f"pt_{images // 2 // OF_ONE_PATIENT:024x}"
        released = [ImageState.RELEASED]
        row = catalog.row(tx, middle)
        sizes = tx.one("SELECT count(*) AS n FROM images")
        assert sizes is not None
        assert sizes["n"] == images
        found = {
            "one image by id": median_ms(lambda: catalog.row(tx, middle), 9),
            "its regions": median_ms(lambda: catalog.regions(tx, middle), 9),
            "is it the newest (log)": median_ms(lambda: catalog.verify_newest(tx, row), 9),
            "its history (log)": median_ms(lambda: audit.of_image(middle), 9),
            "is a file here already": median_ms(
                lambda: catalog.find_duplicate(tx, f"{images // 2:064x}".encode()), 9
            ),
            "is a record the newest (log)": median_ms(lambda: patients._newest(tx, [patient]), 9),
            "an entry written (log)": median_ms(
                lambda: audit.record(caller, Event("image.export", image_id=middle)), 9
            ),
            "first page of images": median_ms(lambda: catalog.search(states=released), 9),
            "page 100": median_ms(lambda: catalog.search(states=released, offset=5000), 9),
            "a patient's images": median_ms(
                lambda: catalog.search(states=released, patient_ids=[patient]), 9
            ),
            "filtered by kind and class": median_ms(
                lambda: catalog.search(states=released, modality="CT", label="face"), 5
            ),
            "count for the pager": median_ms(lambda: catalog.count(states=released), 9),
            "chart: month x kind": median_ms(
                lambda: tx.all(
                    "SELECT date_trunc('month', uploaded_at) AS m, modality, count(*) AS n,"
                    " avg(confidence) AS c FROM images GROUP BY 1, 2"
                ),
                5,
            ),
            "newest log entries": median_ms(lambda: audit.entries(limit=50), 9),
            "log searched for a word": median_ms(lambda: audit.entries(query="refused"), 3),
            "whole log verified": median_ms(audit.verify, 1),
        }
        found["stored, MB"] = database.stored_bytes() / 1e6
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--postgresql", metavar="URLS", default="")
    parser.add_argument("--keep", metavar="FOLDER", type=Path)
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        _print(*_found(chosen, folder))
    return 0


def _found(chosen: argparse.Namespace, folder: Path) -> tuple[list[int], list[dict[str, float]]]:
    """The sizes, and for each a column of the file's times, then of the server's."""
    sizes = [int(s) for s in chosen.sizes.split(",")]
    found = []
    for size in sizes:
        found.append(measure(size, catalog_file(size, folder)))
        print(f"{size} images measured in a file", file=sys.stderr)
    for size, url in (
        zip(sizes, chosen.postgresql.split(","), strict=True) if chosen.postgresql else ()
    ):
        found.append(measure(size, on_server(size, folder, url)))
        print(f"{size} images measured on PostgreSQL", file=sys.stderr)
    return sizes, found


def _print(sizes: list[int], found: list[dict[str, float]]) -> None:
    """A table; where there is more than one size, with the factor from the first to the last."""
    kinds = ("file", "PostgreSQL")[: len(found) // len(sizes)]
    heads = [f"{kind}, {size:,}" for kind in kinds for size in sizes]
    grows = [f"{kind} grows (size: {sizes[-1] // sizes[0]})" for kind in kinds if len(sizes) > 1]
    print("| ms | " + " | ".join(heads + grows) + " |")
    print("|---" * (len(heads) + len(grows) + 1) + "|")
    for name in found[0]:
        values = [each[name] for each in found]
        of_kind = [values[k : k + len(sizes)] for k in range(0, len(values), len(sizes))]
        factors = [kind[-1] / max(kind[0], 1e-9) for kind in of_kind][: len(grows)]
        print(f"| {name} | " + " | ".join(f"{v:.1f}" for v in values + factors) + " |")


if __name__ == "__main__":
    sys.exit(main())

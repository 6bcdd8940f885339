"""How search, charts and the audit log grow with the number of images.

    python -m benchmarks.catalog [--sizes 10000,100000,1000000] [--postgresql URL,URL,URL]
                                 [--keep FOLDER] [--fill-only] [--no-file] [--once]

Each size gets a catalog of its own, made by the program's own migrations and filled in bulk: three
regions and three log entries per image, ten images and one more entry per patient. The log's chain
is a real one; sealed columns hold bytes of a usual length, since no key is needed for what is
measured. With ``--postgresql``, the same rows are made in an empty, migrated database, one a size,
by the role that owns the tables (``medsec_owner``), and measured there, too: rows first, indexes
after them, and all is as the migrations made it afterwards, which is checked. ``--fill-only`` ends
there, ``--no-file`` leaves the files out, ``--once`` does each thing once. A server that is started
with ``-c fsync=off -c wal_level=minimal -c max_wal_senders=0 -c autovacuum=off`` fills without
writing twice; start it again without these before measuring.
With ``--keep``, the filled catalogs stay in a folder: a run that was stopped goes on from there.
Times are the median of several runs in milliseconds; ``grows`` is the factor from the smallest to
the largest catalog, to be held against the factor between their sizes. Rows with ``processor`` have
the mean of what processors spent, here and in a database server on this machine: where others use
the machine, only these can be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from engine.crypto.keyring import Keyring
from engine.host import Host
from engine.operations.monthly_drift import monthly_drift
from engine.permissions import Role
from engine.records import AuditFilter, Caller, ImageState
from engine.store.audit import GENESIS, AuditLog, Event
from engine.store.catalog import Catalog
from engine.store.database import Database
from engine.store.embedded import EmbeddedDatabase
from engine.store.figures import Figures
from engine.store.key_hierarchy import KeyHierarchy
from engine.store.patients import Patients
from engine.store.postgresql import PostgresDatabase
from engine.store.postgresql_schema import translated

REGIONS, ENTRIES, OF_ONE_PATIENT = 3, 3, 10
_BEGUN = datetime(2020, 1, 1, tzinfo=UTC)
_AUDIT = (
    "sequence", "occurred_at", "actor", "role", "action", "outcome", "patient_id", "image_id",
    "region_id", "reason", "origin", "detail", "digest",
)  # fmt: skip


def image_name(number: int) -> str:
    return f"im_{number * 7919 % 999_999_937:024x}"


def _hex(number: str, digits: int) -> str:
    return f"lpad(lower(to_hex({number})), {digits}, '0')"


_IMAGE = f"'im_' || {_hex('(i * 7919) % 999999937', 24)}"
_VALUES = {
    "image_id": _IMAGE,
    "patient_id": f"'pt_' || {_hex(f'CAST(floor(i / {OF_ONE_PATIENT}.0) AS BIGINT)', 24)}",
    "state": "CASE WHEN i % 50 = 0 THEN 'review' ELSE 'released' END",
    "version": "1",
    "wrapped_key": "repeat('k', 40)::BLOB",
    "duplicate_index": f"{_hex('i', 64)}::BLOB",
    "format": "'DICOM'",
    "modality": "(ARRAY['CT', 'DX', 'US', 'MG', 'XA'])[1 + i % 5]",
    "profile": "'general'",
    "width": "2048",
    "height": "2048",
    "frames": "1",
    "size_bytes": "8000000",
    "stored_bytes": "6000000",
    "uploaded_at": "TIMESTAMP '2020-01-01' + i * INTERVAL '1 minute'",
    "uploaded_by": "'technician' || (i % 20)",
    "sealed_at": "TIMESTAMP '2020-01-01' + i * INTERVAL '1 minute'",
    "sealed_by": "'technician'",
    "reasons": "'[]'",
    "confidence": "(50 + i % 50) / 100.0",
    "region_count": str(REGIONS),
    "times_ms": "'{\"detect\": 400.0}'",
    "masked_blob": _hex("i * 3", 64),
    "sealed_blob": _hex("i * 3 + 1", 64),
    "thumbnail_blob": _hex("i * 3 + 2", 64),
    "facts": "repeat('f', 2000)::BLOB",
    "tag": "repeat('t', 32)::BLOB",
}
#: Rows of the images from $1 to $2, for both databases. Tables in this order.
_ROWS = {
    "images": f"INSERT INTO images ({', '.join(_VALUES)}) SELECT {', '.join(_VALUES.values())}"  # noqa: S608
    " FROM generate_series($1::BIGINT, $2::BIGINT) AS t(i)",
    "image_files": f"INSERT INTO image_files SELECT {_hex('i', 64)}::BLOB, {_IMAGE}"  # noqa: S608
    " FROM generate_series($1::BIGINT, $2::BIGINT) AS t(i)",
    "regions": f"INSERT INTO regions SELECT 'rg_' || {_hex(f'i * {REGIONS} + k', 24)}, {_IMAGE}, k,"  # noqa: S608
    " (ARRAY['text', 'barcode', 'face'])[1 + k], 0.9, 'ppocr', 8, 8, 200, 40, 0, 1, k * 7000,"
    f" 7000, 0.1 FROM generate_series($1::BIGINT, $2::BIGINT) AS t(i),"
    f" generate_series(0, {REGIONS - 1}) AS u(k)",
}


def fill(database: EmbeddedDatabase, images: int) -> None:
    """Rows in bulk."""
    with database.write() as tx:
        for statement in _ROWS.values():
            tx.run(statement, 0, images - 1)
    for rows in log_entries(images):
        columns = dict(zip(_AUDIT, zip(*rows, strict=True), strict=True))
        database._raw.register("incoming", pa.table(columns))
        database._raw.execute("INSERT INTO audit SELECT * FROM incoming")
        database._raw.unregister("incoming")
    database._raw.execute("CHECKPOINT")


def log_entries(images: int) -> Iterator[list[tuple[object, ...]]]:
    """A log that verifies, in parts."""
    tag = '{"tag":"' + "74" * 32 + '"}'
    digest, sequence = GENESIS, 0
    for start in range(0, images, 50_000):
        rows: list[tuple[object, ...]] = []
        for number in range(start, min(images, start + 50_000)):
            patient = f"pt_{number // OF_ONE_PATIENT:024x}"
            at = f"{_BEGUN + timedelta(minutes=number):%Y-%m-%dT%H:%M}:"  # as the images' dates
            created = ("patient.create",) if number % OF_ONE_PATIENT == 0 else ()
            for action in (*created, "image.upload", "draft.open", "image.seal"):
                sequence += 1
                row = (
                    sequence, f"{at}{sequence % 60:02d}.000000",
                    "technician", "technician", action, "ok", patient,
                    "" if action in created else image_name(number),
                    "", "", "browser", "{}" if action == "draft.open" else tag,
                )  # fmt: skip
                digest = _next_digest(digest, row)
                rows.append((*row, digest))
        yield rows


def _next_digest(before: str, row: tuple[Any, ...]) -> str:
    """As :func:`engine.store.audit._digest`, of a row in ASCII, faster; the log is verified."""
    first, *others = row
    values = (str(first), before, *others)
    return hashlib.sha256("".join([f"{len(v)}:{v}" for v in values]).encode()).hexdigest()


def fill_server(url: str, images: int) -> None:
    """The same rows on a PostgreSQL server, as the owner of its tables.

    Indexes and constraints are made after the rows, which is several times faster, and are
    compared with what was there before. The tables are emptied first.
    """
    before = _shape(url)
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(_fill_log, url, images), pool.submit(_fill_images, url, images)]
        for job in jobs:
            job.result()
    if _shape(url) != before:
        raise SystemExit("indexes, constraints or triggers are not as they were")
    with _owner(url) as connection:
        connection.execute("VACUUM (ANALYZE)")  # what autovacuum does by itself in days
    _note("vacuumed and analyzed")


def _fill_images(url: str, images: int) -> None:
    for table, statement in _ROWS.items():
        with _owner(url) as connection, _without_indexes(connection, table):
            for start in range(0, images, 500_000):
                last = min(images, start + 500_000) - 1
                connection.execute(translated(statement).encode(), (start, last))


def _fill_log(url: str, images: int) -> None:
    with (
        _owner(url) as connection,
        _without_indexes(connection, "audit"),
        connection.cursor().copy("COPY audit FROM STDIN (FREEZE)") as copy,
    ):
        for rows in log_entries(images):
            # No tabs, backslashes or ends of lines are in them.
            copy.write("".join(["\t".join(map(str, row)) + "\n" for row in rows]))


def _owner(url: str) -> psycopg.Connection:
    options = "-c search_path=medsec,pg_temp -c synchronous_commit=off -c maintenance_work_mem=1GB"
    return psycopg.connect(
        url, user="medsec_owner", autocommit=True, options=options,
        cursor_factory=psycopg.RawCursor,
    )  # fmt: skip


@contextlib.contextmanager
def _without_indexes(connection: psycopg.Connection, table: str) -> Iterator[None]:
    """One transaction in which a table is emptied, filled, and then gets its indexes back.

    With ``wal_level=minimal`` none of it goes through the write-ahead log.
    """
    with connection.transaction():
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        connection.execute(f"TRUNCATE {table}".encode())
        keys = connection.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = $1::regclass AND contype IN ('p', 'u')",
            (table,),
        ).fetchall()
        for name, _ in keys:
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes"
            " WHERE schemaname = 'medsec' AND tablename = $1",
            (table,),
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}".encode())
        yield
        _note(f"{table}: rows are there")
        for name, definition in keys:
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}".encode())
        for _, definition in indexes:
            connection.execute(definition.encode())
        connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
    _note(f"{table}: indexes are there")


def _shape(url: str) -> object:
    """Columns, indexes, constraints and triggers of all tables."""
    with _owner(url) as connection:
        return connection.execute(
            "SELECT relname, array(SELECT attname || ' ' || atttypid::regtype || attnotnull"
            "  FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum),"
            " array(SELECT pg_get_indexdef(indexrelid) || indisvalid FROM pg_index"
            "  WHERE indrelid = c.oid ORDER BY 1),"
            " array(SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint"
            "  WHERE conrelid = c.oid ORDER BY 1),"
            " array(SELECT pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger"
            "  WHERE tgrelid = c.oid ORDER BY 1)"
            " FROM pg_class c WHERE relnamespace = 'medsec'::regnamespace AND relkind = 'r'"
            " ORDER BY relname"
        ).fetchall()


def _note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _memory(what: str) -> int:
    """Of this process, in kB."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1])


class Meter:
    """Times of what is done with a catalog.

    Args:
        database: On a server, what its processes on this machine spend counts, too.
        once: Do each thing once.
    """

    def __init__(self, database: Database, *, once: bool = False) -> None:
        self._once = once
        self._server = 0
        if isinstance(database, PostgresDatabase):
            backend = database.read().count("SELECT pg_backend_pid()")
            self._server = int(_stat(backend)[1])
        self.processor_ms: dict[str, float] = {}

    def median_ms(self, name: str, work: Callable[[], object], times: int) -> float:
        times = 1 if self._once else times
        spent, busy = [], self._busy_ms()
        for _ in range(times):
            began = time.perf_counter()
            work()
            spent.append((time.perf_counter() - began) * 1000.0)
        self.processor_ms[f"{name}, processor"] = (self._busy_ms() - busy) / times
        median = statistics.median(spent)
        _note(f"{name}: {median:.1f}, {self.processor_ms[f'{name}, processor']:.1f} of a processor")
        return median

    def _busy_ms(self) -> float:
        """Of this process and of the database server, with its workers that have ended."""
        busy = time.process_time() * 1000.0
        if self._server:
            task = Path(f"/proc/{self._server}/task/{self._server}/children").read_text()
            for process in task.split():
                with contextlib.suppress(OSError):
                    stat = Path(f"/proc/{process}/schedstat").read_text()
                    busy += int(stat.split()[0]) / 1e6
            ended = sum(map(int, _stat(self._server)[13:15]))
            busy += ended * 1000.0 / os.sysconf("SC_CLK_TCK")
        return busy


def _stat(process: int) -> list[str]:
    """What ``/proc`` has of a process, from its state on."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()


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
    """The same catalog on a PostgreSQL server; the one of an earlier run if it is there."""
    with _owner(url) as connection:
        last = connection.execute("SELECT max(sequence) FROM audit").fetchone()
        count = connection.execute("SELECT count(*) FROM images").fetchone()
    if last in (None, (None,)) or count != (images,):
        fill_server(url, images)
    return PostgresDatabase.open(url, folder / f"{images}-server", Host(folder), 60, 4)


def measure(images: int, database: Database, *, once: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        catalog, audit = Catalog(database), AuditLog(database, host, bytes(32))
        patients = Patients(database, KeyHierarchy(database, Keyring([bytes(32)]), host), host)
        figures = Figures(database)
        caller = Caller("technician", Role.TECHNICIAN, "", "benchmark")
        tx = database.read()
        middle = image_name(images // 2)
        patient = f"pt_{images // 2 // OF_ONE_PATIENT:024x}"
        released = [ImageState.RELEASED]
        row = catalog.row(tx, middle)
        sizes = tx.one("SELECT count(*) AS n FROM images")
        assert sizes is not None
        assert sizes["n"] == images
        meter = Meter(database, once=once)
        found = {
            "one image by id": meter.median_ms(
                "one image by id", lambda: catalog.row(tx, middle), 9
            ),
            "its regions": meter.median_ms("its regions", lambda: catalog.regions(tx, middle), 9),
            "is it the newest (log)": meter.median_ms(
                "is it the newest (log)", lambda: catalog.verify_newest(tx, row), 9
            ),
            "its history (log)": meter.median_ms(
                "its history (log)", lambda: audit.of_image(middle), 9
            ),
            "is a file here already": meter.median_ms(
                "is a file here already",
                lambda: catalog.find_duplicate(tx, f"{images // 2:064x}".encode()),
                9,
            ),
            "is a record the newest (log)": meter.median_ms(
                "is a record the newest (log)", lambda: patients._newest(tx, [patient]), 9
            ),
            "an entry written (log)": meter.median_ms(
                "an entry written (log)",
                lambda: audit.record(caller, Event("image.export", image_id=middle)),
                9,
            ),
            "first page of images": meter.median_ms(
                "first page of images", lambda: catalog.search(states=released), 9
            ),
            "page 100": meter.median_ms(
                "page 100", lambda: catalog.search(states=released, offset=5000), 9
            ),
            "a patient's images": meter.median_ms(
                "a patient's images",
                lambda: catalog.search(states=released, patient_ids=[patient]),
                9,
            ),
            "filtered by kind and class": meter.median_ms(
                "filtered by kind and class",
                lambda: catalog.search(states=released, modality="CT", label="face"),
                5,
            ),
            "count for the pager": meter.median_ms(
                "count for the pager", lambda: catalog.count(states=released), 9
            ),
            "chart: month x kind": meter.median_ms(
                "chart: month x kind",
                lambda: tx.all(
                    "SELECT date_trunc('month', uploaded_at) AS m, modality, count(*) AS n,"
                    " avg(confidence) AS c FROM images GROUP BY 1, 2"
                ),
                5,
            ),
            "health: images, size of files": meter.median_ms(
                "health: images, size of files",
                lambda: (figures.states(), figures.stored_bytes()),
                3,
            ),
            "health: entries of the log": meter.median_ms(
                "health: entries of the log", audit.count, 3
            ),
            "newest log entries": meter.median_ms(
                "newest log entries", lambda: audit.entries(limit=50), 9
            ),
            "log searched for a word, one answer": meter.median_ms(
                "log searched for a word, one answer", lambda: audit.entries(query="refused"), 1
            ),
            "log searched for an image": meter.median_ms(
                "log searched for an image", lambda: audit.entries(query=middle), 3
            ),
            "log searched for a word, to its beginning": meter.median_ms(
                "log searched for a word, to its beginning", lambda: _searched(audit), 1
            ),
            "log searched for a word, a day in the middle": meter.median_ms(
                "log searched for a word, a day in the middle",
                lambda: audit.entries(query="refused", only=_day_of(images // 2)),
                3,
            ),
            "log exported, a day in the middle": meter.median_ms(
                "log exported, a day in the middle",
                lambda: list(audit.matching(only=_day_of(images // 2))),
                1,
            ),
            "whole log verified": meter.median_ms("whole log verified", audit.verify, 1),
        }
        found["stored, MB"] = database.stored_bytes() / 1e6
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
        found["drift by month"] = meter.median_ms(
            "drift by month", lambda: monthly_drift(figures), 1
        )
        found["memory for it, MB"] = (_memory("VmHWM") - before) / 1024
        return found | meter.processor_ms


def _searched(audit: AuditLog) -> None:
    """The whole log for a word that it does not have, answer by answer."""
    answers, longest, before = 0, 0.0, None
    while answers == 0 or before is not None:
        began = time.perf_counter()
        before = audit.entries(query="refused", before=before).before
        longest = max(longest, time.perf_counter() - began)
        answers += 1
    _note(f"{answers} answers, the longest {longest:.2f} s")


def _day_of(image: int) -> AuditFilter:
    """The day on which an image came in."""
    at = _BEGUN.replace(tzinfo=None) + timedelta(minutes=image)
    return AuditFilter(at, at + timedelta(days=1))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--postgresql", metavar="URLS", default="")
    parser.add_argument("--keep", metavar="FOLDER", type=Path)
    parser.add_argument("--no-file", action="store_true")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--fill-only", action="store_true")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if found := _found(chosen, folder):
            _print(found)
    return 0


def _found(chosen: argparse.Namespace, folder: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Times by kind of database and size."""
    sizes = [int(s) for s in chosen.sizes.split(",")]
    urls = dict(zip(sizes, chosen.postgresql.split(","), strict=True)) if chosen.postgresql else {}
    opened: dict[str, Callable[[int], Database]] = {}
    if not chosen.no_file:
        opened["file"] = lambda size: catalog_file(size, folder)
    if urls:
        opened["PostgreSQL"] = lambda size: on_server(size, folder, urls[size])
    found: dict[str, dict[int, dict[str, float]]] = {}
    for kind, catalog in opened.items():
        for size in sizes:
            with contextlib.closing(catalog(size)) as database:
                if not chosen.fill_only:
                    found.setdefault(kind, {})[size] = measure(size, database, once=chosen.once)
            _note(f"{size} images {'filled' if chosen.fill_only else 'measured'}: {kind}")
    return found


def _print(found: dict[str, dict[int, dict[str, float]]]) -> None:
    """A table; where there is more than one size, with the factor from the first to the last."""
    columns: dict[str, dict[str, float]] = {}
    for kind, by_size in found.items():
        first, last = min(by_size), max(by_size)
        columns |= {f"{kind}, {size:,}": times for size, times in by_size.items()}
        if first < last:
            columns[f"{kind} grows (size: {last // first})"] = {
                name: value / max(by_size[first][name], 1e-9)
                for name, value in by_size[last].items()
            }
    print("| ms | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in next(iter(columns.values()), {}):
        values = [f"{c[name]:.1f}" if name in c else "-" for c in columns.values()]
        print(f"| {name} | {' | '.join(values)} |")


if __name__ == "__main__":
    sys.exit(main())

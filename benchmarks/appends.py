"""How many entries of the audit log are kept per second, by any number of writers.

    python -m benchmarks.appends [--seconds 5] [--writers 1,4,16] [--postgresql URL]

Each writer is a thread that appends entries one by one, each in a transaction of its own that is on
the disk before the next begins. With ``--postgresql``, the same on the empty, migrated database
that the URL names, by the server's role; a disk of its own is needed for a fair comparison.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

from engine.host import Host
from engine.permissions import Role
from engine.records import Caller
from engine.store.audit import AuditLog, Event
from engine.store.database import Database
from engine.store.embedded import EmbeddedDatabase
from engine.store.postgresql import PostgresDatabase


def measure(database: Database, host: Host, writers: int, seconds: float) -> float:
    """Entries per second; the chain is verified afterwards."""
    audit = AuditLog(database, host, bytes(32))
    begun = audit.verify()
    over = threading.Event()
    written = [0] * writers

    def work(place: int) -> None:
        caller = Caller(f"writer{place}", Role.TECHNICIAN, "", "benchmark")
        while not over.is_set():
            audit.record(caller, Event("image.export", image_id=f"im_{place}"))
            written[place] += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(writers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - start
    if audit.verify() != begun + sum(written):
        raise SystemExit("entries are missing")
    return sum(written) / spent


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--writers", default="1,4,16")
    parser.add_argument("--postgresql", metavar="URL")
    chosen = parser.parse_args()
    writers = [int(n) for n in chosen.writers.split(",")]
    print("| entries per second | " + " | ".join(f"{n} writers" for n in writers) + " |")
    print("|---" * (len(writers) + 1) + "|")
    with tempfile.TemporaryDirectory(prefix="medsec-appends-") as folder:
        host = Host(Path(folder))
        kinds: dict[str, Database] = {
            "file (DuckDB)": EmbeddedDatabase.open(Path(folder) / "catalog.duckdb", host, 30)
        }
        if chosen.postgresql:
            kinds["PostgreSQL"] = PostgresDatabase.open(
                chosen.postgresql, Path(folder), host, 30, max(writers) + 2
            )
        for name, database in kinds.items():
            found = [measure(database, host, n, chosen.seconds) for n in writers]
            print(f"| {name} | " + " | ".join(f"{f:,.0f}" for f in found) + " |")
            database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

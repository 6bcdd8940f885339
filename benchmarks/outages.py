"""Three servers, a database, an object store and networks that fail while people work.

    python -m benchmarks.outages [--cycles 1] [--only WORDS] [--seed S]

:mod:`benchmarks.hospital` is the set-up; the detector is scripted. Technicians and doctors work
through nginx by the REST API, each from an address of their own so that all servers have some of
them: they upload, seal, restore and compare, flag, and change a patient's record. One thing after
another fails, and is mended after so many seconds; a server that ended is started again, as a
service manager does. Each row says

- how long nobody got anything done (the longest pause between two acknowledged acts of anybody);
- how long until all servers answered again, after the mending;
- answers that were not what was asked for, by status: 502 and 504 are nginx's, for a request whose
  server went away, and *change unknown* is MedSec's, where the database went away amid a COMMIT.
  These, and requests without an answer, count as problems outside of an outage.

After each cycle all servers are stopped and everything holds that :mod:`benchmarks.crash` looks
for: what was acknowledged is there and restores to the very same file, the chain verifies, no
plaintext is in any folder, that of the database and of the object store included.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg

from benchmarks import crash, crash_server
from benchmarks.hospital import Hospital, Running, hospital
from engine import Engine, Role, Settings

SERVERS = 3
#: At work before and after each outage.
QUIET_SECONDS = 5.0
#: A request that was under way when all was mended has ended after so long.
LATE_SECONDS = 45.0
ANSWER_SECONDS = LATE_SECONDS
WHOLE_SECONDS = 180.0
#: Answers of nginx for a server that is not there.
GATEWAY = (502, 504)


class Ward(crash_server.Staff):
    """People at work, some on each server."""

    def __init__(self, soak: OutageSoak, url: str) -> None:
        super().__init__(soak, url, 0)
        self._addresses = itertools.count(2)
        self.failing = threading.Event()
        self.acts: list[float] = []
        self.answers: Counter[str] = Counter()

    def begin(self) -> None:
        """Let everybody work."""
        technicians = (self.upload, self.upload, self.upload, self.seal, self.seal, self.change)
        doctors = (self.restore, self.restore, self.restore, self.flag)
        for role, works in ((Role.TECHNICIAN, technicians), (Role.DOCTOR, doctors)):
            for work in works:
                thread = threading.Thread(target=self._forever, args=(role, work), daemon=True)
                self.threads.append(thread)
                thread.start()

    def client(self) -> httpx.Client:
        with self.lock:
            own = f"127.0.0.{next(self._addresses)}"
        limits = httpx.Limits(keepalive_expiry=1)
        transport = httpx.HTTPTransport(local_address=own, limits=limits)
        return httpx.Client(base_url=f"{self.url}/api", timeout=ANSWER_SECONDS, transport=transport)

    def _took(self, what: str, **facts: Any) -> None:
        self.acts.append(time.monotonic())
        if what == "changed":
            self.soak.acknowledged.add(self.soak.asked)  # type: ignore[attr-defined]
        super()._took(what, **facts)

    def unanswered(self, work: str, err: httpx.TransportError) -> None:
        self.answers[f"{work}: {type(err).__name__}"] += 1
        if not self.failing.is_set():
            super().unanswered(work, err)
        time.sleep(0.1)

    def refused(self, said: str, answer: httpx.Response) -> None:
        unknown = "urn:medsec:change-unknown" in answer.text
        of_an_outage = answer.status_code in GATEWAY or unknown
        if of_an_outage or answer.status_code == 503:
            self.answers[f"{said}: {'change unknown' if unknown else answer.status_code}"] += 1
            time.sleep(0.1)
        if not (of_an_outage and self.failing.is_set()):
            super().refused(said, answer)


class OutageSoak(crash_server.ServerSoak):
    """Outages, one after another, and an inspection after each cycle of them."""

    def __init__(self, folder: Path, seed: int, place: Hospital, only: str = "") -> None:
        self.place = place
        self.acknowledged: set[int] = set()
        super().__init__(folder, seed)
        self.table: list[tuple[str, float, float, dict[str, int]]] = []
        self.late = 0
        self.outages = {w: f for w, f in self._outages().items() if only in w}

    def chosen(self) -> Settings:
        return self.place.settings()

    def roots(self) -> list[Path]:
        return [self.folder, self.place.folder, self.place.cluster.folder, self.place.store.folder]

    # --- what fails ---------------------------------------------------------------------------

    def _outages(self) -> dict[str, Callable[[], None]]:
        """What happens, in words; each ends with everything mended."""
        return {
            "a server is killed": lambda: self._kill(self._any()),
            "the leader is killed": lambda: self._kill(self._leader()),
            "PostgreSQL is killed, back after 3 s": lambda: self._away(self.place.cluster, 3),
            "PostgreSQL is killed, back after 20 s": lambda: self._away(self.place.cluster, 20),
            "the object store is killed, back after 3 s": lambda: self._away(self.place.store, 3),
            "the object store is killed, back after 20 s": lambda: self._away(self.place.store, 20),
            "a server loses the database for 3 s": lambda: self._cut(3, "database"),
            "a server loses the database for 10 s": lambda: self._cut(10, "database"),
            "a server loses the database for 30 s": lambda: self._cut(30, "database"),
            "a server loses the object store for 15 s": lambda: self._cut(15, "store"),
            "the proxy loses a server for 15 s": lambda: self._cut(15, "proxy"),
            "a server loses all networks for 30 s": lambda: self._cut(
                30, "database", "store", "proxy"
            ),
            "the leader is stopped for 10 s": lambda: self._stop(self._leader(), 10),
            "the leader is stopped for 30 s": lambda: self._stop(self._leader(), 30),
        }

    def _any(self) -> Running:
        return self.random.choice(self.place.servers)

    def _leader(self) -> Running:
        with psycopg.connect(self.place.local_url, autocommit=True) as rows:
            row = rows.execute("SELECT leader FROM medsec.writer").fetchone()
        assert row is not None
        for server in self.place.servers:
            told = httpx.get(f"{server.url}/api/health/", timeout=10).json()
            if told.get("server") == row[0]:
                return server
        raise RuntimeError("no server leads")

    def _kill(self, server: Running) -> None:
        assert server.process is not None
        server.process.kill()
        server.process.wait()

    def _away(self, part: Any, seconds: float) -> None:
        part.kill()
        time.sleep(seconds)
        part.start()

    def _cut(self, seconds: float, *networks: str) -> None:
        server = self._any()
        self.place.cut(server, *networks)
        time.sleep(seconds)
        self.place.mend(server, *networks)

    def _stop(self, server: Running, seconds: float) -> None:
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        server.process.send_signal(signal.SIGCONT)

    # --- rounds -------------------------------------------------------------------------------

    def round(self) -> None:
        """One cycle: each outage once, in any order, then the inspection."""
        self.place.only(SERVERS)
        ward = Ward(self, self.place.url)
        ward.next = 100_000 * self.kills
        ward.begin()
        self._wait_for_acts(ward)
        names = list(self.outages)
        self.random.shuffle(names)
        for name in names:
            self._outage(name, ward)
            self.kills += 1
        time.sleep(QUIET_SECONDS)
        ward.end()
        self.place.stop_all()
        self.inspect(self.chosen(), self.random.sample)

    def _wait_for_acts(self, ward: Ward) -> None:
        """Until something was sealed and restored: else an outage stops nothing."""
        end = time.monotonic() + WHOLE_SECONDS
        while not (self.ledger.counts["sealed"] and self.ledger.counts["restored"]):
            if time.monotonic() > end:
                raise RuntimeError(f"nobody gets anything done: {self.ledger}")
            time.sleep(0.1)

    def _outage(self, name: str, ward: Ward) -> None:
        time.sleep(QUIET_SECONDS)
        ward.answers.clear()
        began = time.monotonic()
        ward.failing.set()
        self.outages[name]()
        mended = time.monotonic()
        while not self.place.whole():
            if time.monotonic() - mended > WHOLE_SECONDS:
                self.ledger.problems.append(f"{name}: not whole again")
                break
            time.sleep(0.1)
        whole = time.monotonic()
        time.sleep(LATE_SECONDS)
        ward.failing.clear()
        acts = [began, *(at for at in list(ward.acts) if at > began), time.monotonic()]
        pause = max(b - a for a, b in itertools.pairwise(acts))
        self.table.append((name, pause, whole - mended, dict(ward.answers)))
        print(self._row(self.table[-1]), flush=True)

    @staticmethod
    def _row(found: tuple[str, float, float, dict[str, int]]) -> str:
        name, pause, whole, answers = found
        said = ", ".join(f"{count} x {what}" for what, count in sorted(answers.items()))
        return f"| {name} | {pause:.1f} | {whole:.1f} | {said or 'none'} |"

    def _inspect_record(self, engine: Engine) -> None:
        """The newest acknowledged change, or one without an answer that came after it."""
        found = engine.patients.get(engine.operator_token(), self.changing)
        number, named = int(found.id.split("-")[1]), int(found.name.split()[1])
        late = number not in self.acknowledged
        self.late += late
        if number != named or not (late or number >= self.answered):
            self.ledger.problems.append(f"a patient's record: {number}, not {self.answered}")

    def finish(self) -> None:
        """The table, and all images once more."""
        self.inspect(self.chosen())
        print("\n| What fails | nobody gets anything done, s | whole again after the mending, s"
              " | answers |\n|---|---|---|---|")  # fmt: skip
        for found in self.table:
            print(self._row(found))

    def rows(self) -> list[tuple[str, float]]:
        return [*super().rows(), ("records with a change that had no answer", self.late)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=1)
    parser.add_argument("--only", default="", help="outages whose names have these words")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the folder for a closer look")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="medsec-hospital-"))
    try:
        with hospital(place, SERVERS) as made:

            def soak(folder: Path) -> OutageSoak:
                return OutageSoak(folder, options.seed, made, options.only)

            return crash.attend(soak, options.cycles, options.keep)
    finally:
        if options.keep:
            print(f"servers' folders are in {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

"""Kill the real server at random moments, again and again, and look whether anything was lost.

    python -m benchmarks.crash_server [--kills N] [--seed S]

``benchmarks/crash.py`` kills a process that holds the data folder; this kills the product: the
process that ``make run`` starts, with its networks, sandboxes and batch workers. Technicians and a
doctor work in it over its REST API from several threads: they upload, seal, restore, flag, change a
patient's record and send batches, and it makes a backup at its start. After the SIGKILL

- no process that the server had started is left within a minute: it would hold decoded pixels; nor
  is the folder of a batch's workers;
- everything that ``benchmarks/crash.py`` looks for holds, in the server's own log as well;
- the patient's record is what was acknowledged last, or what was asked for after it.

Keys are rotated by pages and command line alone, so that only ``benchmarks/crash.py`` kills that.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import crash
from engine import Engine, Role, errors
from engine.operations.worker_watchdog import FOLDER
from tests.conftest import PASSWORD, Team
from tests.fakes import ScriptedDetector
from tests.serving import launch, wait

BOX = {"label": "text", "x1": 8, "y1": 8, "x2": 200, "y2": 40}
#: What may be answered on a busy server without anything being lost.
EXPECTED = (404, 409, 429, 503)
#: More files than the server seals by itself: it starts a worker.
BATCH_FILES = 12
#: For a process to end after the kill.
PATIENCE_SECONDS = 60.0
#: For an answer, on a machine that does much else: the first upload loads the networks.
ANSWER_SECONDS = 300.0
_PR_SET_CHILD_SUBREAPER = 36
#: Words of the command lines of those that the server starts.
_KINDS = ("dask_worker", "multiprocessing", "engine.formats.images", "engine.detect.custom_network")


class Refused(Exception):
    """The server answered, but not with what was asked for."""


class Staff:
    """Who works in one server until it dies, and writes down what it acknowledged."""

    def __init__(self, soak: ServerSoak, url: str, first: int) -> None:
        self.soak, self.url, self.next = soak, url, first
        self.lock, self.over, self.seen = threading.Lock(), threading.Event(), threading.Event()
        self.until = ""
        self.threads: list[threading.Thread] = []

    def start(self, until: str, batch: bool) -> None:
        """Begin; ``seen`` is set when ``until`` was acknowledged for the first time."""
        self.until = until
        works: list[tuple[Role, Callable[[httpx.Client], None]]] = [
            (Role.TECHNICIAN, self.upload),
            (Role.TECHNICIAN, self.seal),
            (Role.TECHNICIAN, self.change),
            (Role.DOCTOR, self.restore),
            (Role.DOCTOR, self.flag),
        ]
        if batch:
            works = [(Role.TECHNICIAN, self.batch), *works[2:]]
        for role, work in works:
            thread = threading.Thread(target=self._forever, args=(role, work), daemon=True)
            self.threads.append(thread)
            thread.start()

    def end(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _forever(self, role: Role, work: Callable[[httpx.Client], None]) -> None:
        with self.client() as client:
            while not self.over.is_set():
                try:
                    if "Authorization" not in client.headers:
                        body = {"username": str(role), "password": PASSWORD}
                        tokens = self._ask(client, "POST", "/auth/token/", json=body).json()
                        client.headers["Authorization"] = f"Bearer {tokens['access']}"
                    work(client)
                except Refused:
                    time.sleep(0.05)
                except httpx.TransportError as err:
                    self.unanswered(work.__name__, err)

    def client(self) -> httpx.Client:
        """A connection of one person's own."""
        # Shorter than the server keeps a connection: else both may let go of it at once.
        limits = httpx.Limits(keepalive_expiry=1)
        return httpx.Client(base_url=f"{self.url}/api", timeout=ANSWER_SECONDS, limits=limits)

    def unanswered(self, work: str, err: httpx.TransportError) -> None:
        """A request had no answer."""
        if not self.over.wait(1):  # the server is alive and did not answer
            self.soak.ledger.problems.append(f"{work}: {err!r}")

    def refused(self, said: str, answer: httpx.Response) -> None:
        """A request was answered, but not with what was asked for."""
        if answer.status_code not in EXPECTED:
            self.soak.ledger.problems.append(f"{said}: {answer.status_code} {answer.text[:200]}")

    def _ask(self, client: httpx.Client, method: str, path: str, **sent: Any) -> httpx.Response:
        answer = client.request(method, path, **sent)
        if answer.is_success:
            return answer
        if answer.status_code == 401 and client.headers.pop("Authorization", None):
            raise Refused  # its time was over: signed in again
        self.refused(f"{method} {path.split('/')[1]}", answer)
        raise Refused

    def _took(self, what: str, **facts: Any) -> None:
        with self.lock:
            self.soak.ledger.take({"what": what, **facts})
        if what == self.until:
            self.seen.set()

    def _numbers(self, count: int) -> range:
        with self.lock:
            self.next += count
            return range(self.next - count, self.next)

    def upload(self, client: httpx.Client) -> None:
        (number,) = self._numbers(1)
        sent = {"image": crash.original(number, self.soak.word)}
        answer = self._ask(client, "POST", f"/patients/{self.soak.patient}/images/", files=sent)
        self._took("uploaded", image=answer.json()["image_id"], number=number)

    def batch(self, client: httpx.Client) -> None:
        """Without an acknowledgement of single files; those that are there must be whole."""
        sent = [("files", crash.original(n, self.soak.word)) for n in self._numbers(BATCH_FILES)]
        form = {"patient_id": self.soak.patient, "seal": "true"}
        batch = self._ask(client, "POST", "/batches/", files=sent, data=form).json()
        while not self.over.is_set():
            batch = self._ask(client, "GET", f"/batches/{batch['batch_id']}/").json()
            if any(file["state"] not in ("waiting", "working") for file in batch["files"]):
                self._took("batch")
            if batch["done"]:
                return
            time.sleep(0.3)

    def seal(self, client: httpx.Client) -> None:
        drafts = self._ask(client, "GET", "/drafts/?limit=20").json()["items"]
        if not drafts:
            raise Refused
        image_id = random.choice(drafts)["image_id"]
        found = self._ask(client, "GET", f"/drafts/{image_id}/").json()["found"]
        decision = {"boxes": [*found, BOX], "confirm": "soak"}
        self._ask(client, "POST", f"/drafts/{image_id}/seal/", json=decision)
        self._took("sealed", image=image_id)

    def change(self, client: httpx.Client) -> None:
        """The number of a patient and the name change together; the number is unique."""
        self.soak.asked += 1
        number = self.soak.asked
        changes = {"id": f"{self.soak.word}-{number}", "name": f"{self.soak.word} {number}"}
        self._ask(client, "PATCH", f"/patients/{self.soak.changing}/", json=changes)
        self.soak.answered = number
        self._took("changed")
        time.sleep(0.2)

    def restore(self, client: httpx.Client) -> None:
        image_id = self._sealed_one()
        path = f"/images/{image_id}/restore/?format=original"
        answer = self._ask(client, "GET", path, headers={"X-Reason": "soak"})
        number = self.soak.ledger.uploaded.get(image_id)
        if number is None:
            return
        name, first = crash.original(number, self.soak.word)
        if not crash.same(name, answer.content, name, first):
            self.soak.ledger.problems.append(f"restore: another file came back: {image_id}")
        self._took("restored")

    def flag(self, client: httpx.Client) -> None:
        time.sleep(2)
        self._ask(client, "POST", f"/images/{self._sealed_one()}/flag/", json={"reason": "soak"})
        self._took("flagged")

    def _sealed_one(self) -> str:
        with self.lock:
            sealed = sorted(self.soak.ledger.sealed)
        if not sealed:
            raise Refused
        return random.choice(sealed)


class ServerSoak(crash.Soak):
    """Rounds of work in the server, SIGKILL and inspection in one folder.

    Args:
        longest_s: Until the kill, after the moment that the round waits for.
    """

    def __init__(self, folder: Path, seed: int, longest_s: float = 6.0) -> None:
        super().__init__(folder, seed, longest_s)
        self.asked = self.answered = 0
        #: Longest time that a process of a killed server was still there, in seconds, by kind.
        self.outlived_s: dict[str, float] = {}
        chosen = self.chosen()
        engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
        try:
            token = Team(engine).technician
            self.patient = engine.patients.create(token, self.word, self.word).patient_id
            self.changing = engine.patients.create(
                token, f"{self.word}-0", f"{self.word} 0"
            ).patient_id
        finally:
            engine.close()

    def rows(self) -> list[tuple[str, float]]:
        outlived = sorted(self.outlived_s.items())
        return super().rows() + [
            (f"{kind} outlived the server by at most, s", seconds) for kind, seconds in outlived
        ]

    def round(self) -> None:
        """One kill, and the inspection after it."""
        until = ("uploaded", "sealed", "start", "restored", "batch", "changed")[self.kills % 6]
        shutil.rmtree(self.folder / "backups", ignore_errors=True)  # the server makes one then
        with orphans_are_ours() as left:
            server, process = launch(
                self.folder,
                MEDSEC_BACKUP_DIR=str(self.folder / "backups"),
                MEDSEC_BATCH_WORKERS="1",
                TMPDIR=str(self.folder / "tmp"),
            )
            staff = Staff(self, server.url, 1000 * self.kills)
            try:
                if until != "start":
                    wait(server, process, ANSWER_SECONDS)
                    staff.start(until, batch=until == "batch")
                    if not staff.seen.wait(ANSWER_SECONDS):
                        self.ledger.counts[f"waited in vain: {until}"] += 1
                time.sleep(self.random.uniform(0.05, self.longest * (3 if until == "start" else 1)))
                if process.poll() is not None:
                    self.ledger.problems.append("the server ended by itself")
            finally:
                staff.over.set()
                process.send_signal(signal.SIGKILL)
                process.wait()
                self.kills += 1
                staff.end()
                self._outlived(left)
        self.inspect(self.chosen(), self.random.sample)

    def _outlived(self, left: Callable[[], dict[psutil.Process, str]]) -> None:
        began = time.monotonic()
        while remaining := left():
            passed = time.monotonic() - began
            for kind in remaining.values():
                self.outlived_s[kind] = max(self.outlived_s.get(kind, 0), round(passed, 1))
            if passed > PATIENCE_SECONDS:
                kinds = sorted(remaining.values())
                self.ledger.problems.append(f"still run after the kill: {kinds}")
                for orphan in remaining:
                    orphan.kill()
            time.sleep(0.1)
        if folders := [p.name for p in (self.folder / "tmp").glob(f"{FOLDER}*")]:
            self.ledger.problems.append(f"left behind: {folders}")

    def _inspect(
        self, engine: Engine, sample: Callable[..., list[str]] | None, whole: bool
    ) -> None:
        super()._inspect(engine, sample, whole)
        if not whole:
            return
        for name in engine.backups.names(engine.operator_token()):
            try:
                engine.backups.verify(engine.operator_token(), name)
            except errors.EngineError as err:
                self.ledger.problems.append(f"backup: {err!r}")
        self._inspect_record(engine)

    def _inspect_record(self, engine: Engine) -> None:
        found = engine.patients.get(engine.operator_token(), self.changing)
        number, named = found.id.split("-")[1], found.name.split()[1]
        if number != named or not self.answered <= int(number) <= self.asked:
            self.ledger.problems.append(
                f"a patient's record: {number}, {named}, not {self.answered} to {self.asked}"
            )


@contextmanager
def orphans_are_ours() -> Iterator[Callable[[], dict[psutil.Process, str]]]:
    """Whoever loses their parent becomes our child, so that none can hide.

    Yields:
        A function that tells which of those that came meanwhile are still there, and what they do.
    """
    us = psutil.Process()
    before = {p.pid for p in us.children(recursive=True)}
    libc = ctypes.CDLL(None, use_errno=True)

    def left() -> dict[psutil.Process, str]:
        found = {}
        for child in us.children(recursive=True):
            if child.pid in before:
                continue
            with suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    words = " ".join(child.cmdline())
                    found[child] = next((k for k in _KINDS if k in words), words[:60])
                elif child.ppid() == us.pid:
                    os.waitpid(child.pid, 0)  # its parent would have done it
        return found

    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield left
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the folder for a closer look")
    options = parser.parse_args()
    return crash.attend(
        lambda folder: ServerSoak(folder, options.seed), options.kills, options.keep
    )


if __name__ == "__main__":
    sys.exit(main())

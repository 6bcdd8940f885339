"""Kill the server, and who sends, amid the intake of many files; look whether anything was lost.

    python -m benchmarks.crash_intake [--kills N] [--files N] [--seed S]

A technician sends a list of files as the page does: list, beginnings, under which record, then each
file in pieces, some of which break off amid their body. The server gets SIGKILL at a random time,
or right after a file was acknowledged, and is started again; the same list is sent again, until all
of it is here. After each kill everything holds that ``benchmarks/crash.py`` looks for, and

- an acknowledged file is there, and is known under the same id when it comes again;
- no file is there twice;
- nothing of a body is on disk in clear, in the temporary folder too.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks import crash
from engine import Engine
from tests.conftest import PASSWORD, Team
from tests.fakes import ScriptedDetector
from tests.serving import Server, launch, wait

OCTETS = {"Content-Type": "application/octet-stream"}
#: Files larger than that come in pieces, of which some break off.
PIECE_BYTES = 40_000
HEAD_BYTES = 4096
HEADS_AT_ONCE = 64
#: For an answer, on a machine that does much else.
ANSWER_SECONDS = 300.0
STARTED_SECONDS = 300.0
WHY = "files of a test, of many invented patients"


class Sender:
    """A page that sends files until all are here or nobody answers.

    Args:
        took: Told of each file that was acknowledged: its number, state and image.
    """

    def __init__(
        self,
        url: str,
        patient_id: str,
        files: dict[int, tuple[str, bytes]],
        took: Callable[[int, str, str], None],
    ) -> None:
        self.url, self.patient_id, self.files, self.took = url, patient_id, files, took
        self.client = httpx.Client(
            base_url=f"{url}/api", timeout=ANSWER_SECONDS, limits=httpx.Limits(keepalive_expiry=1)
        )
        self.intake_id = ""

    def ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """An answer that is none but what was asked for. Raises HTTPStatusError."""
        for _ in itertools.count():
            answer = self.client.request(method, path, **sent)
            if answer.status_code not in (429, 503):
                return answer.raise_for_status()
            time.sleep(0.2)
        raise AssertionError

    def begin(self, seal: bool) -> dict[str, Any]:
        """Sign in, list the files and say whose they are."""
        body = {"username": "technician", "password": PASSWORD}
        tokens = self.ask("POST", "/auth/token/", json=body).json()
        self.client.headers["Authorization"] = f"Bearer {tokens['access']}"
        listed = [{"name": name, "size": len(data)} for name, data in self.files.values()]
        state: dict[str, Any] = self.ask(
            "POST", "/intakes/", json={"files": listed, "seal": seal}
        ).json()
        self.intake_id = state["intake_id"]
        beginnings = [data[:HEAD_BYTES] for _, data in self.files.values()]
        framed = [struct.pack(">II", p, len(b)) + b for p, b in enumerate(beginnings)]
        for at in range(0, len(framed), HEADS_AT_ONCE):
            state = self.ask(
                "POST",
                f"/intakes/{self.intake_id}/headers/",
                content=b"".join(framed[at : at + HEADS_AT_ONCE]),
                headers=OCTETS,
                params={"patient_id": self.patient_id},
            ).json()
        targets = [
            {"group": g["group"], "patient_id": self.patient_id, "reason": WHY}
            for g in state["groups"]
        ]
        path = f"/intakes/{self.intake_id}/targets/"
        state = self.ask("POST", path, json={"targets": targets}).json()
        return state

    def send(self) -> None:
        """Send every file, in pieces where it is large, from where it stopped."""
        for place, (number, (_, data)) in enumerate(self.files.items()):
            state = self.piece(place, data, 0, min(len(data), PIECE_BYTES))
            while state["state"] == "waiting":
                at = state["received"]
                state = self.piece(place, data, at, min(len(data), at + PIECE_BYTES))
            self.took(number, state["state"], state["image_id"] or "")

    def piece(self, place: int, data: bytes, begin: int, end: int) -> dict[str, Any]:
        path = f"/intakes/{self.intake_id}/files/{place}/"
        state: dict[str, Any] = self.ask(
            "PUT", path, content=data[begin:end], headers=OCTETS, params={"offset": begin}
        ).json()
        return state

    def break_off(self, place: int, data: bytes) -> None:
        """Half of a body, then nothing: what a killed browser leaves behind."""
        where = urlsplit(self.url)
        head = (
            f"PUT /api/intakes/{self.intake_id}/files/{place}/?offset=0 HTTP/1.1\r\n"
            f"Host: {where.netloc}\r\nContent-Length: {len(data)}\r\n"
            f"Authorization: {self.client.headers['Authorization']}\r\n"
            f"Content-Type: {OCTETS['Content-Type']}\r\n\r\n"
        )
        with socket.create_connection((str(where.hostname), where.port or 80)) as line:
            line.sendall(head.encode() + data[: len(data) // 2])
            # A reset, as the system sends for a process that is gone.
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class IntakeSoak(crash.Soak):
    """Rounds of an intake, SIGKILL and inspection in one folder.

    Args:
        files: In one list.
        program: The server, from the root of the project.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        files: int = 60,
        longest_s: float = 3.0,
        program: str = "serve.py",
    ) -> None:
        super().__init__(folder, seed, longest_s)
        self.program, self.count, self.list, self.whole = program, files, 0, True
        self.acknowledged: dict[int, str] = {}
        chosen = crash.settings(folder)
        engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
        try:
            token = Team(engine).technician
            self.patient = engine.patients.create(token, self.word, self.word).patient_id
        finally:
            engine.close()

    def files(self) -> dict[int, tuple[str, bytes]]:
        """The list that is being sent."""
        first = 1000 * self.list
        return {n: crash.original(n, self.word) for n in range(first, first + self.count)}

    def take(self, number: int, state: str, image_id: str) -> None:
        """A file was acknowledged."""
        problems = self.ledger.problems
        if state not in ("taken", "duplicate"):
            problems.append(f"a file was not taken: {state}")
        if state == "duplicate" and number not in self.acknowledged:
            self.ledger.counts["stored, and killed before the answer"] += 1
        if self.acknowledged.setdefault(number, image_id) != image_id:
            problems.append(f"acknowledged under another id: {image_id}")
        self.ledger.take({"what": "uploaded", "image": image_id, "number": number})

    def round(self, kill_at: str = "") -> None:
        """One kill amid an intake, and the inspection after it.

        Args:
            kill_at: The moment at which the server kills itself, where it can; by default it is
                killed a random time after the first acknowledgement.
        """
        with self.running(KILL_AT=kill_at) as (server, process):
            seen = threading.Event()
            sending = threading.Thread(target=self._send, args=(server, seen), daemon=True)
            sending.start()
            if kill_at:
                process.wait(ANSWER_SECONDS)
            else:
                if not seen.wait(ANSWER_SECONDS):
                    self.ledger.counts["waited in vain"] += 1
                time.sleep(self.random.uniform(0, self.longest))
            if not kill_at and process.poll() is not None:
                self.ledger.problems.append("the server ended by itself")
            process.send_signal(signal.SIGKILL)
            process.wait()
            sending.join(ANSWER_SECONDS)
        self.kills += 1
        self.inspect(crash.settings(self.folder), self.random.sample)

    def running(self, **environment: str) -> _Running:
        """The server, started and answering; killed in the end."""
        return _Running(self.folder, self.program, environment)

    def _send(self, server: Server, seen: threading.Event) -> None:
        if self.whole:
            self.list, self.whole = self.list + 1, False
        files = self.files()

        def took(number: int, state: str, image_id: str) -> None:
            self.take(number, state, image_id)
            seen.set()

        sender = Sender(server.url, self.patient, files, took)
        try:
            with sender.client:
                sender.begin(seal=self.list % 2 == 0)
                place = self.random.randrange(len(files))
                sender.break_off(place, list(files.values())[place][1])
                self.ledger.counts["bodies broken off"] += 1
                sender.send()
            self.whole = True
            self.ledger.counts["lists that came in whole"] += 1
        except httpx.TransportError:  # the server is gone
            pass
        except (httpx.HTTPStatusError, OSError) as err:
            if not isinstance(err, ConnectionError):
                self.ledger.problems.append(repr(err))

    def go_on(self) -> None:
        """Send what is left of the list, let all of it be looked at, and inspect."""
        with self.running() as (server, _):
            self._send(server, threading.Event())
            if not self.whole:
                self.ledger.problems.append("the intake does not go on where it stopped")
            with httpx.Client(base_url=f"{server.url}/api", timeout=ANSWER_SECONDS) as client:
                body = {"username": "technician", "password": PASSWORD}
                tokens = client.post("/auth/token/", json=body).json()
                client.headers["Authorization"] = f"Bearer {tokens['access']}"
                until = time.monotonic() + ANSWER_SECONDS
                while client.get("/intakes/").json()["to_look"] and time.monotonic() < until:
                    time.sleep(0.2)
        self.inspect(crash.settings(self.folder), self.random.sample)

    def finish(self) -> None:
        """The rest of the list, then a look at everything."""
        self.go_on()
        super().finish()

    def _inspect(self, engine: Engine, sample: Any, whole: bool) -> None:
        super()._inspect(engine, sample, whole)
        rows = engine.context.database.read()
        images = rows.count("SELECT count(*) FROM images")
        numbers = len(set(self.ledger.uploaded.values()))
        if whole and images != numbers:
            self.ledger.problems.append(f"{images} images of {numbers} files")


class _Running:
    def __init__(self, folder: Path, program: str, environment: dict[str, str]) -> None:
        self.folder, self.program, self.environment = folder, program, environment

    def __enter__(self) -> tuple[Server, subprocess.Popen[bytes]]:
        server, self.process = launch(
            self.folder, self.program, TMPDIR=str(self.folder / "tmp"), **self.environment
        )
        try:
            wait(server, self.process, STARTED_SECONDS)
        except BaseException:
            self.process.kill()
            raise
        return server, self.process

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--program", default="serve.py", help="tests/api/intake_server.py is fast")
    parser.add_argument("--keep", action="store_true", help="leave the folder for a closer look")
    options = parser.parse_args()

    def made(folder: Path) -> IntakeSoak:
        return IntakeSoak(folder, options.seed, options.files, program=options.program)

    return crash.attend(made, options.kills, options.keep)


if __name__ == "__main__":
    raise SystemExit(main())

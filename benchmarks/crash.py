"""Kill MedSec at random moments, again and again, and look whether anything was lost.

    python -m benchmarks.crash [--kills N] [--seed S]

Each round starts a process that holds the data folder, as the server does, and works in it from
several threads at once: uploads, sealing, restoring, flags and reopening, key rotation, backups.
Every tenth round recovers a backup into a new folder instead. After a random time the process gets
SIGKILL. Then the folder is opened as after any crash, and this must hold:

- what was acknowledged is there, and restores to the very same file;
- what was not acknowledged is there whole, or not at all;
- the audit chain verifies, and so does every image's entry;
- no plaintext is on disk: the pixels and names that were planted are searched for in the data
  folder, the backups and the temporary folder, where the workers' folders are too;
- nothing unfinished is left lying about;
- every backup that counts verifies, and an interrupted recovery goes on where it stopped.

The detector is scripted: this is about storage, and a network would only make rounds slower.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from engine import Detection, Engine, ImageState, Region, Settings, errors
from tests import builders
from tests.fakes import ScriptedDetector

ROOT = Path(__file__).parent.parent
BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "scripted")
#: What may stand in the way of a request on a busy folder without anything being lost.
EXPECTED = (errors.StorageBusy, errors.NotFound, errors.ReviewNeeded)


def settings(folder: Path, data: str = "data") -> Settings:
    return Settings(
        data=folder / data,
        key_file=folder / "keys" / "root.key",
        backup_dir=folder / "backups",
        checkpoint_dir=folder / "checkpoints",
        backups_kept=3,
        bcrypt_cost=4,
    )


def marker(folder: Path) -> str:
    """A word that is nowhere but in what was planted in this folder."""
    return (folder / "marker.txt").read_text()


def original(number: int, word: str) -> tuple[str, bytes]:
    """File ``number``: the word is in its name, its header, and its pixels under the box."""
    pixels = builders.radiograph(320, 240, seed=number)
    pixels[20, 16 : 16 + len(word)] = list(word.encode())
    if number % 3 == 0:
        return f"{word}-{number}.dcm", builders.dicom(pixels, patient=number, PatientName=word)
    file = io.BytesIO()
    kind, options = (("BMP", {}), ("PNG", {"compress_level": 0}))[number % 3 - 1]
    Pillow.fromarray(pixels).save(file, kind, **options)
    return f"{word}-{number}.{kind.lower()}", file.getvalue()


def same(name: str, data: bytes, first_name: str, first: bytes) -> bool:
    """The very same file, or for PNG (whose coding may differ) the very same pixels."""
    if name != first_name or not name.endswith(".png"):
        return (name, data) == (first_name, first)
    return Pillow.open(io.BytesIO(data)).tobytes() == Pillow.open(io.BytesIO(first)).tobytes()


# --- the process that is killed ---------------------------------------------------------------


class Victim:
    """Works in the folder until somebody ends it; says on its output what was acknowledged."""

    def __init__(self, folder: Path, first: int) -> None:
        self.folder, self.word, self.next = folder, marker(folder), first
        self.engine = Engine.open(
            settings(folder), detector=ScriptedDetector(settings(folder), [BOX]), operator=True
        )
        self.token = self.engine.operator_token()
        try:
            self.patient = self.engine.patients.get(self.token, self.word).patient_id
        except errors.NotFound:
            self.patient = self.engine.patients.create(
                self.token, self.word, f"{self.word} Erika"
            ).patient_id
        self.lock = threading.Lock()
        self.sealed = [
            r.image_id for r in [*self.engine.search.images(self.token, limit=100).images]
        ]

    def say(self, what: str, **facts: Any) -> None:
        os.write(1, (json.dumps({"what": what, **facts}) + "\n").encode())

    def forever(self, work: Callable[[], None]) -> Callable[[], None]:
        def loop() -> None:
            while True:
                try:
                    work()
                except EXPECTED:
                    time.sleep(0.02)
                except Exception as err:  # noqa: BLE001 - whatever it is, the soak must see it
                    told = getattr(err, "facts", {})
                    self.say("error", work=work.__name__, kind=repr(err), facts=repr(told))
                    time.sleep(0.1)

        return loop

    def upload(self) -> None:
        with self.lock:
            number = self.next
            self.next += 1
        name, data = original(number, self.word)
        record = self.engine.drafts.upload(self.token, self.patient, name, data)
        self.say("uploaded", image=record.image_id, number=number)

    def seal(self) -> None:
        drafts = self.engine.drafts.waiting(self.token, limit=20)
        if not drafts:
            raise errors.NotFound("nothing to seal")
        image_id = random.choice(drafts).image_id
        view = self.engine.drafts.open(self.token, image_id)
        self.engine.drafts.seal(self.token, image_id, view.detections, confirm="soak")
        self.sealed.append(image_id)
        self.say("sealed", image=image_id)

    def restore(self) -> None:
        if not self.sealed:
            raise errors.NotFound("nothing to restore")
        restoration = self.engine.images.restore(
            self.token, random.choice(self.sealed[-200:]), "soak"
        )
        file = self.engine.images.restored_file(self.token, restoration.handle)
        self.engine.images.close(self.token, restoration.handle)
        number = int(file.name.split("-")[1].split(".")[0])
        if not same(file.name, file.data, *original(number, self.word)):
            self.say("error", work="restore", kind="another file came back", facts="")

    def flag(self) -> None:
        time.sleep(0.3)
        if self.sealed:
            self.engine.withdrawals.flag(self.token, random.choice(self.sealed[-200:]), "soak")

    def rotate(self) -> None:
        for _ in self.engine.keys.rotate(self.token):
            pass
        self.say("rotated")
        time.sleep(0.5)

    def backup(self) -> None:
        self.say("backup", name=self.engine.backups.make(self.token))
        time.sleep(0.2)

    def run(self) -> None:
        self.say("ready")
        works = (self.upload, self.upload, self.seal, self.restore, self.flag, self.rotate,
                 self.backup)  # fmt: skip
        for work in works:
            threading.Thread(target=self.forever(work), daemon=True).start()
        threading.Event().wait()


def recover(folder: Path) -> None:
    """The other process that is killed: a recovery into a new folder."""
    os.write(1, b'{"what": "ready"}\n')
    Engine.from_backup(
        settings(folder, "recovered"), detector=ScriptedDetector(settings(folder))
    ).close()
    os.write(1, b'{"what": "recovered"}\n')


# --- the one that kills -----------------------------------------------------------------------


@dataclass
class Ledger:
    """What the killed processes had acknowledged, over all rounds."""

    uploaded: dict[str, int] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    backups: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def take(self, line: dict[str, Any]) -> None:
        self.counts[line["what"]] += 1
        if line["what"] == "uploaded":
            self.uploaded[line["image"]] = line["number"]
        elif line["what"] == "sealed":
            self.sealed.add(line["image"])
        elif line["what"] == "backup":
            self.backups.append(line["name"])
        elif line["what"] == "error":
            self.problems.append(f"{line['work']}: {line['kind']} {line['facts']}")


class Soak:
    """Rounds of work, SIGKILL and inspection in one folder."""

    def __init__(self, folder: Path, seed: int, longest_s: float = 3.0) -> None:
        self.folder, self.random, self.longest = folder, random.Random(seed), longest_s
        self.ledger, self.kills = Ledger(), 0
        self.word = "Zq" + "".join(self.random.choices("abcdefghijkmnpqrstuvwxyz", k=30))
        (folder / "tmp").mkdir(parents=True)
        (folder / "marker.txt").write_text(self.word)

    def chosen(self) -> Settings:
        """Where everything is."""
        return settings(self.folder)

    def kill_one(self, *arguments: str, until: str = "") -> None:
        """Start a process and kill it a random time after it first said ``until``.

        Args:
            until: Nothing kills it while it starts.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.crash", "--victim", str(self.folder), *arguments],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self.folder / "tmp")},
            stdout=subprocess.PIPE,
        )
        seen = threading.Event()
        listener = threading.Thread(target=self._listen, args=(process, seen, until))
        listener.start()
        if until and not seen.wait(60) and process.poll() is not None:
            self.ledger.problems.append("a process ended by itself before it did anything")
        time.sleep(self.random.uniform(0.05, self.longest))
        process.send_signal(signal.SIGKILL)
        process.wait()
        listener.join()
        self.kills += 1

    def _listen(self, process: subprocess.Popen[bytes], seen: threading.Event, until: str) -> None:
        """Write down what comes through whole; a line cut off by the kill acknowledges nothing."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    said = json.loads(line)
                    self.ledger.take(said)
                    if said["what"] == until:
                        seen.set()

    def go(self, kills: int, tell: Callable[[str], None]) -> None:
        """Rounds until so many kills, then a look at everything; losses are in the ledger."""
        told = 0
        while self.kills < kills:
            self.round()
            problems = self.ledger.problems
            tell(f"kill {self.kills}: {dict(self.ledger.counts)}, {len(problems)} problems")
            for problem in problems[told:]:
                tell(f"  problem: {problem}")
            told = len(problems)
        self.finish()

    def rows(self) -> list[tuple[str, float]]:
        """What was done and found, for the report."""
        return [*sorted(self.ledger.counts.items()), ("problems", len(self.ledger.problems))]

    def round(self) -> None:
        """One kill, and the inspection after it."""
        if self.ledger.backups and self.kills % 10 == 9:
            self.kill_one("--recover", until="ready")
            self._finish_recovery()
            return
        first = 1000 * self.kills
        until = ("uploaded", "sealed", "backup", "uploaded", "ready", "")[self.kills % 6]
        self.kill_one("--first", str(first), until=until)
        self.inspect(self.chosen(), self.random.sample)

    def inspect(self, chosen: Settings, sample: Callable[..., list[str]] | None = None) -> None:
        """Open the folder and see whether every promise holds.

        Args:
            sample: Draws from the images those that are restored; None restores all.
        """
        try:
            engine = Engine.open(chosen, detector=ScriptedDetector(chosen, [BOX]), operator=True)
        except errors.EngineError as err:
            self.ledger.problems.append(f"does not open after a kill: {err!r}")
            return
        try:
            self._inspect(engine, sample, whole=chosen.data.name == "data")
        finally:
            engine.close()
        self._search_plaintext()
        left = [p for p in chosen.data.rglob("*") if p.suffix in (".part", ".fresh", ".wal")]
        self.ledger.problems += [f"left lying about: {p.name[-30:]}" for p in left]

    def _inspect(
        self, engine: Engine, sample: Callable[..., list[str]] | None, whole: bool
    ) -> None:
        problems, token = self.ledger.problems, engine.operator_token()
        try:
            engine.audit.verify(token)
        except errors.AuditBroken as err:
            problems.append(repr(err))
        broken = [(i, code) for i, code in engine.health.verify_images(token) if code]
        problems += [f"broken: {i} {code}" for i, code in broken]
        there = {
            r["image_id"]: r["state"]
            for r in engine.context.database.read().all("SELECT image_id, state FROM images")
        }
        if whole:
            missing = set(self.ledger.uploaded) - set(there)
            problems += [f"acknowledged, but gone: {i}" for i in missing]
        drawn = sorted(there)
        if sample is not None:
            new = [i for i in drawn if i not in self.ledger.uploaded]
            drawn = [*new, *sample(drawn, min(len(drawn), 12))]
        for image_id in drawn:
            try:
                name, data = self._original_of(engine, token, image_id, there[image_id])
            except errors.EngineError as err:
                problems.append(f"does not open: {image_id} {there[image_id]} {err!r}")
                continue
            number = int(name.split("-")[1].split(".")[0])
            if not same(name, data, *original(number, self.word)):
                problems.append(f"another file came back: {image_id}")
            if self.ledger.uploaded.get(image_id, number) != number:
                problems.append(f"two images were swapped: {image_id}")
            self.ledger.uploaded.setdefault(image_id, number)

    def _original_of(
        self, engine: Engine, token: str, image_id: str, state: str
    ) -> tuple[str, bytes]:
        if state == ImageState.WITHDRAWN:  # killed between the flag and the reopening
            engine.withdrawals.reopen(token, image_id)
            state = ImageState.REVIEW
        if state == ImageState.RELEASED:
            restoration = engine.images.restore(token, image_id, "inspection")
            file = engine.images.restored_file(token, restoration.handle)
            engine.images.close(token, restoration.handle)
            return file.name, file.data
        view = engine.drafts.open(token, image_id)
        data = engine.context.open_images.get("operator", view.handle).image.data
        engine.images.close(token, view.handle)
        return view.name, data

    def _finish_recovery(self) -> None:
        """The recovery that was killed is started again, and gives a whole folder."""
        recovered = settings(self.folder, "recovered")
        try:
            if not (recovered.data / "catalog.duckdb").exists():
                Engine.from_backup(recovered, detector=ScriptedDetector(recovered)).close()
            self.inspect(recovered, self.random.sample)
        except errors.EngineError as err:
            self.ledger.problems.append(f"the recovery does not go on: {err!r}")
        shutil.rmtree(recovered.data, ignore_errors=True)

    def roots(self) -> list[Path]:
        """Folders in which nothing may be in clear."""
        return [self.folder]

    def _search_plaintext(self) -> None:
        word = self.word.encode()
        for root in self.roots():
            for path in root.rglob("*"):
                if path.is_file() and path.name != "marker.txt" and word in path.read_bytes():
                    self.ledger.problems.append(f"plaintext in {path.relative_to(root)}")

    def finish(self) -> None:
        """Everything once more: all images, all backups, and a recovery from the newest."""
        self.inspect(settings(self.folder))
        engine = Engine.open(
            settings(self.folder),
            detector=ScriptedDetector(settings(self.folder), [BOX]),
            operator=True,
        )
        token = engine.operator_token()
        try:
            for name in engine.backups.names(token):
                engine.backups.verify(token, name)
            newest = engine.backups.make(token)
        except errors.EngineError as err:
            self.ledger.problems.append(f"backup: {err!r}")
            return
        finally:
            engine.close()
        recovered = replace(settings(self.folder), data=self.folder / "again")
        Engine.from_backup(recovered, newest, detector=ScriptedDetector(recovered)).close()
        self.inspect(recovered)


def attend(make: Callable[[Path], Soak], kills: int, keep: bool) -> int:
    """Soak in a folder of its own and print what came of it; 1 if anything was lost."""
    folder = Path(tempfile.mkdtemp(prefix="medsec-crash-"))
    began = time.monotonic()
    try:
        run = make(folder)
        run.go(kills, lambda line: print(line, flush=True))
    finally:
        if keep:
            print(f"left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n| kills | {run.kills} in {(time.monotonic() - began) / 60:.0f} min |\n|---|---|")
    for what, count in run.rows():
        print(f"| {what} | {count} |")
    for problem, count in Counter(run.ledger.problems).most_common():
        print(f"- {count} x {problem}")
    return 1 if run.ledger.problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the folder for a closer look")
    parser.add_argument("--victim", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--recover", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.victim:
        if options.recover:
            recover(options.victim)
        else:
            Victim(options.victim, options.first).run()
        return 0
    return attend(lambda folder: Soak(folder, options.seed), options.kills, options.keep)


if __name__ == "__main__":
    sys.exit(main())

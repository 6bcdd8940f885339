"""How long pages take with 10,000 images in the catalog, alone and with 50 people at work.

    python -m benchmarks.pages [--images 10000] [--sessions 50] [--think 10] [--folder FOLDER]

A dozen small images are taken in, found (boxes are given, no network runs) and sealed by the
engine's own methods. The rest of the catalog are copies of their rows: each with an id, a key,
sealed facts, regions, a thumbnail, a tag and audit entries of its own, written by the engine's
own catalog. Their masked files are not copied: only the first dozen can be opened.

Pages are asked for as a browser asks: over the WebSocket of the real server, from the request
to the end of the script. Drawing in the browser is not in these numbers. The folder is kept
where one is named, so that a second run measures the same catalog without filling it anew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets import ClientConnection, connect

import api
from engine import Detection, Engine, ImageState, Region, Role, Settings
from engine.crypto.vault import seal_field
from engine.records import Caller, SealedRegion
from engine.store.audit import Event
from tests import builders
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import Server, people, serve, settings

PATIENTS_PER_IMAGE = 0.12
MODALITIES = ("CT", "MR", "DX", "CR", "US", "MG", "", "XA")
LABELS = ("text", "text", "text", "barcode", "face", "thorax")
BATCH = 250
PAGES: dict[Role, tuple[str, ...]] = {
    Role.TECHNICIAN: ("", "Upload", "Review"),
    Role.DOCTOR: ("", "Review", "Analytics"),
    Role.RESEARCHER: ("", "Analytics"),
    Role.ADMINISTRATOR: ("", "Analytics", "Admin"),
}


def fill(chosen: Settings, count: int) -> None:
    """A catalog of ``count`` sealed images and as many drafts as a busy day leaves."""
    boxes = [Detection(Region(8, 8, 200, 40), "text", 0.9, "net")]
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, boxes))
    team = people(engine)
    draw = random.Random(7)
    patients = [
        engine.patients.create(
            team.technician, f"P-{n:05}", f"{draw.choice(_GIVEN)} {draw.choice(_FAMILY)}", n % 90
        ).patient_id
        for n in range(max(12, int(count * PATIENTS_PER_IMAGE)))
    ]
    originals = []
    for n in range(12):
        picture = builders.labelled(f"DOE JANE {n}", seed=n)[0]
        data = builders.dicom(picture, modality="DX") if n % 2 else builders.png(picture)
        image = engine.drafts.upload(team.technician, patients[n], f"{n}.img", data)
        engine.drafts.seal(team.technician, image.image_id, boxes)
        originals.append(image.image_id)
    for n in range(40):
        picture = builders.png(builders.labelled(f"ROE {n}", seed=100 + n)[0])
        engine.drafts.upload(team.technician, draw.choice(patients), f"{n}.png", picture)
    copies = Copies(engine, originals, patients, draw)
    for start in range(0, count - len(originals), BATCH):
        copies.add(min(BATCH, count - len(originals) - start))
    engine.close()


class Copies:
    """Writes images that are like those sealed for real, each under a key of its own."""

    def __init__(
        self, engine: Engine, originals: Sequence[str], patients: Sequence[str], draw: random.Random
    ) -> None:
        self.engine = engine
        self.patients = patients
        self.draw = draw
        self.caller = Caller("technician", Role.TECHNICIAN, "", "benchmark")
        tx = engine.context.database.read()
        self.models = []
        for image_id in originals:
            row = engine.context.catalog.row(tx, image_id)
            facts = engine.images._stored.open_facts(
                engine.context.hierarchy.image_key(tx, image_id), row
            )
            thumbnail = engine.images._stored.part(image_id, "thumbnail")
            model = tx.one("SELECT * FROM images WHERE image_id = $1", image_id)
            self.models.append((model, facts, thumbnail))

    def add(self, count: int) -> None:
        """One transaction of copies."""
        made = [self._prepared() for _ in range(count)]
        with self.engine.context.database.write() as tx:
            for key, row, regions in made:
                self.engine.context.catalog.add(tx, key, {**row, "state": str(ImageState.DRAFT)})
                tag = self.engine.context.catalog.seal(
                    tx, key, row["image_id"], regions, state=str(ImageState.RELEASED)
                )
                labels = dict(Counter(r.detection.label for r, _ in regions))
                where = {"patient_id": row["patient_id"], "image_id": row["image_id"]}
                self.engine.context.audit.append(
                    tx,
                    self.caller,
                    Event("image.upload", detail={"found": len(regions)}, **where),
                    Event("image.seal", detail={"labels": labels, "tag": tag}, **where),
                )

    def _prepared(self) -> tuple[bytes, dict[str, Any], list[tuple[SealedRegion, int]]]:
        engine, draw = self.engine, self.draw
        model, facts, thumbnail = draw.choice(self.models)
        image_id, patient_id = engine.context.host.token("im"), draw.choice(self.patients)
        patient_key = engine.context.hierarchy.patient_key(
            engine.context.database.read(), patient_id
        )
        key, wrapped = engine.context.hierarchy.new_image_key(patient_key, image_id)
        regions = [self._region(n) for n in range(draw.randint(1, 6))]
        measured = dict(facts["assessment"])
        measured["ssim"] = draw.uniform(0.7, 1.0)
        measured["regions"] = [measured["regions"][0]] * len(regions)
        when = model["uploaded_at"] - timedelta(minutes=draw.randint(0, 3 * 365 * 24 * 60))
        row = {
            **{k: v for k, v in model.items() if k != "tag"},
            "image_id": image_id,
            "patient_id": patient_id,
            "wrapped_key": wrapped,
            "duplicate_index": engine.context.host.random(32),
            "modality": draw.choice(MODALITIES),
            "uploaded_at": when,
            "sealed_at": when + timedelta(minutes=4),
            "confidence": min(r.detection.confidence for r, _ in regions),
            "region_count": len(regions),
            "facts": engine.images._stored.seal_facts(
                key, image_id, model["version"], {**facts, "assessment": measured}
            ),
            "thumbnail_blob": engine.context.host.write_blob(
                seal_field(
                    key, f"image/{image_id}/{model['version']}/thumbnail", thumbnail,
                    engine.context.host.random,
                )
            ),
        }  # fmt: skip
        return key, row, regions

    def _region(self, place: int) -> tuple[SealedRegion, int]:
        draw = self.draw
        x, y = draw.randint(0, 200), draw.randint(0, 150)
        box = Region(x, y, x + draw.randint(10, 90), y + draw.randint(8, 60))
        found = Detection(box, draw.choice(LABELS), round(draw.uniform(0.25, 1), 3), "net")
        region = SealedRegion(
            self.engine.context.host.token("rg"), found, 1040, draw.uniform(0.05, 0.4)
        )
        return region, place * 1040


_GIVEN = ("Erika", "Jan", "Aisha", "Odin", "Giulia", "Mehmet", "Ana", "Li", "Noor", "Piotr")
_FAMILY = ("Musterfrau", "Nowak", "Rahman", "Larsen", "Ferrari", "Yilmaz", "Silva", "Chen", "Weber")


# --- visitors -----------------------------------------------------------------------------------


class Visitor:
    """One person's open tab: a WebSocket that asks for pages and waits for their end."""

    def __init__(self, line: ClientConnection) -> None:
        self.line = line

    async def visit(self, page: str) -> float:
        """Ask for a page; milliseconds until its script has finished."""
        ask = BackMsg()
        ask.rerun_script.page_name = page
        began = time.perf_counter()
        await self.line.send(ask.SerializeToString())
        while True:
            said = ForwardMsg()
            said.ParseFromString(await self.line.recv())
            if said.WhichOneof("type") == "script_finished":
                return (time.perf_counter() - began) * 1e3


def visitor(url: str, token: str, route: str = "") -> connect:
    """Open a tab that holds this session.

    Args:
        route: By which a proxy before several servers keeps this tab with one of them.
    """
    address = url.replace("http", "ws", 1) + "/_stcore/stream"
    cookies = f"{api.COOKIE}={token}" + (f"; medsec_route={route}" if route else "")
    return connect(
        address,
        additional_headers={"Cookie": cookies},
        subprotocols=["streamlit"],
        max_size=None,
    )


def cpu_ms(pid: int) -> float:
    """Processor time that the server has taken so far: other work on the machine is not in it."""
    spent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, spent)) * 1000 / os.sysconf("SC_CLK_TCK")


Times = dict[str, list[float]]


async def alone(server: Server, tokens: dict[Role, str], rounds: int) -> tuple[Times, Times]:
    """Each page for each role, one after the other: elapsed and processor milliseconds."""
    times: Times = {}
    spent: Times = {}
    for role, pages in PAGES.items():
        async with visitor(server.url, tokens[role]) as line:
            tab = Visitor(line)
            for page in pages:
                name = f"{role}: {page or 'Home'}"
                for _ in range(rounds):
                    before = cpu_ms(server.pid)
                    times.setdefault(name, []).append(await tab.visit(page))
                    spent.setdefault(name, []).append(cpu_ms(server.pid) - before)
    return times, spent


async def together(
    server: Server, tokens: Sequence[tuple[Role, str]], seconds: float, think_s: float
) -> dict[str, list[float]]:
    """All at work at once, each pausing ``think_s`` on average between two pages."""
    times: dict[str, list[float]] = {}
    end = time.perf_counter() + seconds

    async def work(number: int, role: Role, token: str) -> None:
        draw = random.Random(number)
        async with visitor(server.url, token) as line:
            tab = Visitor(line)
            await asyncio.sleep(draw.uniform(0, think_s))
            while time.perf_counter() < end:
                page = draw.choice(PAGES[role])
                times.setdefault(f"{role}: {page or 'Home'}", []).append(await tab.visit(page))
                await asyncio.sleep(draw.uniform(0.5, 1.5) * think_s)

    await asyncio.gather(*(work(n, role, token) for n, (role, token) in enumerate(tokens)))
    return times


def report(title: str, times: dict[str, list[float]]) -> None:
    print(f"\n| {title} | visits | first | median | 95 % | slowest |\n|---|---|---|---|---|---|")
    for name, values in times.items():
        ranks = statistics.quantiles(values, n=20) if len(values) > 1 else values * 19
        print(
            f"| {name} | {len(values)} | {values[0]:.0f} | {statistics.median(values):.0f}"
            f" | {ranks[18]:.0f} | {max(values):.0f} |"
        )


def sign_in(chosen: Settings, sessions: int) -> list[tuple[Role, str]]:
    """A session for each visitor, made while the server is down: clinical roles are the many."""
    roles = (Role.DOCTOR, Role.DOCTOR, Role.TECHNICIAN, Role.RESEARCHER, Role.ADMINISTRATOR)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
    try:
        theirs = [roles[n % len(roles)] for n in range(max(sessions, len(roles)))]
        names = {role: "admin" if role is Role.ADMINISTRATOR else str(role) for role in roles}
        return [(role, engine.sessions.sign_in(names[role], PASSWORD).token) for role in theirs]
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--think", type=float, default=10.0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if not (folder / "data").exists():
            began = time.perf_counter()
            fill(settings(folder), options.images)
            print(f"filled in {time.perf_counter() - began:.0f} s")
        tokens = sign_in(settings(folder), options.sessions)
        began = time.perf_counter()
        with serve(folder) as server:
            print(f"started in {time.perf_counter() - began:.1f} s")
            load = os.getloadavg()[0]
            print(f"load of the machine: {load:.1f} on {os.cpu_count()} processors")
            elapsed, spent = asyncio.run(alone(server, dict(tokens), 8))
            report("alone, elapsed ms", elapsed)
            report("alone, processor ms of the server", spent)
            crowd = asyncio.run(together(server, tokens, options.seconds, options.think))
            report(f"{options.sessions} sessions, elapsed ms", crowd)


if __name__ == "__main__":
    main()

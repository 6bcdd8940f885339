"""Studies dropped into a real browser: whole, checked, and looked at while other pages are open."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Locator, Route, expect

from engine import Engine
from tests import builders
from tests.browsing import Visitor, chromium
from tests.conftest import PASSWORD
from tests.serving import Server, people, serve, settings

pytestmark = pytest.mark.browser

SLICES = 5


@dataclass
class World:
    """A running server with one patient, and technicians' sessions that nobody has used yet."""

    server: Server
    sessions: list[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("intake")
    engine = Engine.open(settings(folder))
    team = people(engine)
    engine.patients.create(team.technician, "H-000002", "Somebody Else Entirely", 30)
    sessions = [engine.sessions.sign_in("technician", PASSWORD).token for _ in range(5)]
    engine.close()
    with serve(folder) as server:
        yield World(server, sessions)


def study(folder: Path, patient: int, slices: int) -> Path:
    """A CT without text, on a CD with what lies beside the images."""
    rng = np.random.default_rng(patient)
    images = folder / "DICOM" / "PAT1"
    images.mkdir(parents=True)
    for number in range(1, slices + 1):
        pixels = rng.normal(500, 60, (128, 128)).clip(0, 4000).astype(np.uint16)
        data = builders.dicom(
            pixels, patient=patient, instance=number, modality="CT", bits=12, PatientAge=None,
            StudyDescription="CT head",
        )  # fmt: skip
        (images / f"IM{number:04d}").write_bytes(data)
    (folder / "DICOMDIR").write_bytes(bytes(400))
    (folder / "viewer.exe").write_bytes(b"MZ")
    (folder / "notes").write_bytes(b"no image, whatever its name")
    return folder


def drop(tina: Visitor, path: Path) -> None:
    tina.page.get_by_label("Folder" if path.is_dir() else "Files", exact=True).set_input_files(path)


def missing(tina: Visitor) -> int:
    """How many files of uploads the server waits for."""
    seen = tina.page.request.get(f"{tina.server.url}/api/intakes/").json()
    return int(seen["listed"] - seen["arrived"])


def looked(tina: Visitor, count: int) -> None:
    expect(tina.page.get_by_text(f"{count} images looked at:").first).to_be_visible(timeout=180_000)
    tina.settle()


def test_a_cd_in_a_zip_comes_in_whole_and_is_looked_at_on_any_page(
    world: World, tmp_path: Path
) -> None:
    folder = study(tmp_path / "cd", 1, SLICES)
    archive = Path(shutil.make_archive(str(tmp_path / "cd"), "zip", folder))
    with chromium(world.server) as tina:
        tina.enter(world.sessions.pop(), "/Upload")
        lost = [0]

        def flaky(route: Route) -> None:
            """Every third file meets a lost connection at first."""
            lost[0] += 1
            if lost[0] % 3:
                route.continue_()
            else:
                route.abort()

        tina.page.route("**/files/**", flaky)
        drop(tina, archive)
        tina.reads("H-000001")
        tina.reads("CT head")
        tina.reads("accession A0001001")
        tina.reads("2 files left out")
        # Of the file that is no picture nobody is asked whose it is.
        tina.page.get_by_role("button", name=f"Take in {SLICES} images").click()
        expect(tina.page.get_by_text("Whose images are these?")).to_have_count(0)
        tina.page.get_by_role("link", name="Review").click()  # the page may be left
        tina.settle()
        looked(tina, SLICES)
        tina.page.get_by_role("link", name="Upload").click()
        tina.settle()
        tina.reads(f"{SLICES} images taken in and encrypted")
        tina.reads("1 file could not be taken in")
        tina.reads(f"Waiting to be sealed: {SLICES}")
        assert lost[0] > SLICES

        # The same again is told once, and nothing is filed twice.
        drop(tina, folder / "DICOM")
        tina.page.get_by_role("button", name=f"Take in {SLICES} images").click()
        tina.reads(f"{SLICES} files here already")
        tina.reads(f"Waiting to be sealed: {SLICES}")


def test_of_studies_that_name_nobody_each_is_asked_for(world: World, tmp_path: Path) -> None:
    """One choice of a patient must not file the pictures of several people under it."""
    nobody = {"PatientID": "", "PatientName": "", "PatientBirthDate": "", "PatientAge": None}
    for number in range(3):
        pixels = np.full((64, 64), number, np.uint16)
        data = builders.dicom(
            pixels, modality="CT", StudyInstanceUID=f"1.2.{number}",
            StudyDescription=f"Knee {number}", **nobody,
        )  # fmt: skip
        (tmp_path / f"{number}.dcm").write_bytes(data)
    with chromium(world.server) as tina:
        tina.enter(world.sessions.pop(), "/Upload")
        tina.choose("Patient of these files", "H-000002")
        # One of them: the patient who was chosen needs no more than the press that takes it in.
        drop(tina, tmp_path / "0.dcm")
        tina.reads("Record: H-000002")
        tina.page.get_by_role("button", name="Cancel").click()
        drop(tina, tmp_path)
        rows = tina.page.locator(".groups > li")

        def knee(number: int) -> Locator:
            return rows.filter(has_text=f"Knee {number}")

        expect(rows).to_have_count(3)
        take = tina.page.get_by_role("button", name="Take in 3 images", exact=True)
        take.click()
        tina.reads("Say first whose these files are, or leave them out.")
        file_it = "File under H-000002 · Somebody Else Entirely"
        knee(0).get_by_role("button", name=file_it).click()
        tina.page.locator("summary", has_text="New patient").first.click()
        tina.fill("Patient number", "H-000009")
        tina.fill("Name", "Another Person")
        tina.click("Add patient")
        # What was decided stays; the other patient is for the next.
        expect(knee(0)).to_contain_text("Record: H-000002")
        knee(1).get_by_role("button", name="File under H-000009").click()
        knee(2).get_by_role("button", name="Leave this file out").click()
        expect(rows).to_have_count(2)
        tina.page.get_by_role("button", name="Take in 2 images", exact=True).click()
        tina.reads("2 images taken in and encrypted")
        looked(tina, 2)
        for who, what in (("H-000002 · Somebody", "Knee 0"), ("H-000009 · Another", "Knee 1")):
            expect(tina.page.locator("section.patient", has_text=who)).to_contain_text(what)
        expect(tina.page.get_by_text("Knee 2")).to_have_count(0)


def test_a_wrong_patient_is_named_and_stops_the_intake_until_a_person_says_why(
    world: World, tmp_path: Path
) -> None:
    folder = study(tmp_path / "wrong", 2, 2)
    with chromium(world.server) as tina:
        tina.enter(world.sessions.pop(), "/Upload")
        sent: list[str] = []
        tina.page.on("request", lambda r: sent.append(r.url) if "/files/" in r.url else None)
        drop(tina, folder / "DICOM")
        tina.reads("The files name another name and birth date than the record")
        tina.page.get_by_role("button", name="Take in 2 images").click()
        assert not sent
        tina.page.get_by_placeholder("Why do these files belong").fill("name has changed")
        tina.page.get_by_role("button", name="Take in 2 images").click()
        tina.reads("2 images taken in and encrypted")
        assert len(sent) == 2
        looked(tina, 2)


def test_an_upload_that_was_given_up_is_said_until_it_is_dismissed(
    world: World, tmp_path: Path
) -> None:
    folder = study(tmp_path / "late", 1, 2)
    with chromium(world.server) as tina:
        tina.enter(world.sessions.pop(), "/Upload")
        tina.page.route("**/files/**", lambda route: route.abort())
        dismiss = tina.page.get_by_role("button", name="Dismiss")
        for given_up in ("Stop", ""):
            drop(tina, folder / "DICOM")
            tina.page.get_by_role("button", name="Take in 2 images").click()
            tina.reads("The connection is lost.")
            if given_up:
                tina.page.get_by_role("button", name=given_up).click()
                dismiss.click()
                expect(tina.page.get_by_text("What has arrived stays.")).to_have_count(0)
        tina.page.on("dialog", lambda dialog: dialog.accept())
        tina.go("/Upload")
        tina.reads("2 files of an upload have not arrived.")
        expect(dismiss).to_have_count(0)  # another tab might be sending them

        def later(route: Route) -> None:
            """The server's answer, as it is after a minute."""
            if route.request.method == "DELETE":
                gone.append(route.request.url)
                route.fulfill(status=204)
                return
            seen = route.fetch().json()
            seen |= {"given_up": 2} if not gone else {"listed": 0, "arrived": 0}
            route.fulfill(json=seen)

        gone: list[str] = []
        tina.page.route("**/api/intakes/", later)
        tina.go("/Upload")
        dismiss.click()
        expect(tina.page.get_by_text("have not arrived")).to_have_count(0)
        assert gone == [f"{tina.server.url}/api/intakes/"]


def test_what_cannot_be_read_is_named_and_is_not_waited_for(world: World, tmp_path: Path) -> None:
    def archive(name: str, *contents: bytes) -> bytearray:
        with zipfile.ZipFile(tmp_path / name, "w") as packed:
            for number, content in enumerate(contents):
                packed.writestr(f"{number}.dcm", content)
        return bytearray((tmp_path / name).read_bytes())

    archive("empty.zip")
    for name, offset, value in (("locked.zip", 8, 1), ("short.zip", 24, 9)):
        data = archive(name, bytes(2000))
        data[data.index(b"PK\x01\x02") + offset] = value  # its flags; the lowest byte of its size
        (tmp_path / name).write_bytes(data)
    with chromium(world.server) as tina:
        tina.enter(world.sessions.pop(), "/Upload")
        tina.choose("Patient of these files", "H-000002")
        before = missing(tina)
        drop(tina, tmp_path)
        tina.page.get_by_text("2 files left out").click()
        tina.reads("locked.zip: protected by a password: unpack the archive first")
        tina.reads("empty.zip: no file is in it")
        tina.page.get_by_role("button", name="Take in 1 image").click()
        tina.page.get_by_text("1 file could not be taken in").click()
        tina.reads("0.dcm: It is larger than the archive says")
        assert missing(tina) == before

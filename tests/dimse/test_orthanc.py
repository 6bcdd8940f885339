"""Orthanc, an archive of another maker, as sender, archive and reader: by DIMSE and by DICOMweb."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
import uvicorn
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import JPEGLSLossless

import dimse
from engine import Role, carried
from tests import builders
from tests.conftest import WHY, Ward
from tests.dimse.peers import free_port, program, receiving
from tests.rest import BOX, Hospital, hospital, mounted_app

PLUGIN = "libOrthancDicomWeb.so"
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def orthanc() -> tuple[str, Path]:
    """The program and its DICOMweb plugin; skips where either is missing."""
    path = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    folders = (Path("/usr/share/orthanc/plugins"), Path("/usr/lib/orthanc"))
    plugins = [found for folder in folders for found in sorted(folder.glob(f"{PLUGIN}*"))]
    if path is None or not plugins:
        pytest.skip("Orthanc is not installed: orthanc and orthanc-dicomweb of Debian have it")
    return path, plugins[0]


@dataclass
class Orthanc:
    """An Orthanc that runs."""

    title: str
    dicom: int
    http: httpx.Client

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = self.http.request(method, path, **options)
        assert answer.status_code == 200, (path, answer.text)
        return answer.json()

    def instances(self) -> list[pydicom.Dataset]:
        """What it keeps, as it gives it out by its own interface."""
        ids = self.ask("GET", "/instances")
        files = [self.http.get(f"/instances/{one}/file").content for one in ids]
        return [pydicom.dcmread(io.BytesIO(file)) for file in files]


@contextmanager
def running(
    folder: Path, title: str, *, medsec: int, web: str = "", token: str = ""
) -> Iterator[Orthanc]:
    """An Orthanc of its own folder on 127.0.0.1 that knows MedSec as ``medsec``."""
    path, plugin = orthanc()
    folder.mkdir()
    http, dicom = free_port(), free_port()
    config: dict[str, Any] = {
        "Name": title,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": title,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowGet": True,
        "DicomScuTimeout": 60,
        "HttpTimeout": 120,
        "DicomModalities": {"medsec": ["MEDSEC", "127.0.0.1", medsec]},
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": {}},
    }
    if web:
        headers = {"Authorization": f"Bearer {token}"}
        config["DicomWeb"]["Servers"] = {"medsec": {"Url": web, "HttpHeaders": headers}}
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([path, str(folder / "orthanc.json")], stdout=log, stderr=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=60)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                client.get("/system").raise_for_status()
                break
            except httpx.HTTPError:
                said = (folder / "log").read_text()
                assert process.poll() is None and time.monotonic() < until, said  # noqa: PT018
                time.sleep(0.2)
        yield Orthanc(title, dicom, client)
    finally:
        client.close()
        process.terminate()
        process.wait(30)


def allow(ward: Ward | Hospital, title: str, **values: Any) -> None:
    ward.engine.nodes.save(ward.team.administrator, title, {"addresses": ["127.0.0.1"], **values})


def study() -> dict[str, bytes]:
    """Two images, in two codings, by SOP Instance UID."""
    pixels = [builders.labelled(seed=number)[0] for number in (1, 2)]
    files = [
        builders.dicom(pixels[0], instance=1),
        builders.dicom(pixels[1], instance=2, syntax=JPEGLSLossless),
    ]
    return {pydicom.dcmread(io.BytesIO(f)).SOPInstanceUID: f for f in files}


def test_a_study_goes_from_one_orthanc_through_medsec_to_another_and_comes_back_whole(
    ward: Ward, tmp_path: Path
) -> None:
    engine, team, originals = ward.engine, ward.team, study()
    engine.patients.create(team.technician, "H-000001", "Jane Doe")
    allow(ward, "SENDER")
    with (
        receiving(engine) as listening,
        running(tmp_path / "a", "SENDER", medsec=listening.port) as sender,
        running(tmp_path / "b", "ARCHIVE", medsec=listening.port) as archive,
    ):
        # in: the first one sends it
        for file in originals.values():
            sender.ask("POST", "/instances", content=file)
        [sent] = sender.ask("GET", "/studies")
        done = sender.ask("POST", "/modalities/medsec/store", content=sent)
        assert (done["InstancesCount"], done["FailedInstancesCount"]) == (2, 0)
        # sealed, and forwarded by a rule
        place = {"host": "127.0.0.1", "port": archive.dicom, "receives": True}
        allow(ward, "ARCHIVE", **place, packages=True)
        engine.sendings.save_rule(team.administrator, "archive", {"to": ["ARCHIVE"]})
        for draft in engine.drafts.waiting(team.technician):
            engine.drafts.seal(team.technician, draft.image_id, [BOX], confirm="Looked.")
        assert engine.sendings.send_due("ARCHIVE", dimse.Courier(engine).deliver) == 2
        kept = archive.instances()
        assert len(kept) == 2
        for one in kept:
            assert one.PatientIdentityRemoved == "YES"
            assert len(np.unique(one.pixel_array[BOX.region.slices[1:]])) < 5
        # back: by DICOMweb and by C-GET
        web = DICOMwebClient(f"{archive.http.base_url}/dicom-web")
        [found] = web.search_for_studies()
        uid = found["0020000D"]["Value"][0]
        fetched = [_file(one) for one in web.retrieve_study(uid)]
        got = tmp_path / "got"
        got.mkdir()
        subprocess.run(
            [program("getscu"), "-S", "+B", "-od", str(got), "-aec", "ARCHIVE", "-k",
             "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={uid}", "127.0.0.1",
             str(archive.dicom)],
            check=True, timeout=60,
        )  # fmt: skip
        fetched += [path.read_bytes() for path in got.iterdir()]
    assert len(fetched) == 4
    restored = []
    for file in fetched:
        parts = carried(file)
        assert parts is not None
        original, _ = engine.packages.restore(team.doctor, *parts, WHY)
        back = pydicom.dcmread(io.BytesIO(original.data))
        first = pydicom.dcmread(io.BytesIO(originals[back.SOPInstanceUID]))
        assert back.PatientName == first.PatientName
        assert np.array_equal(back.pixel_array, first.pixel_array)
        restored.append(str(back.SOPInstanceUID))
    assert sorted(restored) == sorted([*originals, *originals])


def _file(data: pydicom.Dataset) -> bytes:
    made = io.BytesIO()
    data.save_as(made, enforce_file_format=True)
    return made.getvalue()


def test_orthanc_finds_and_moves_masked_studies(ward: Ward, tmp_path: Path) -> None:
    engine, team = ward.engine, ward.team
    for number, file in enumerate(study().values()):
        ward.seal(file, f"{number}.dcm", [BOX])
    with (
        receiving(engine) as listening,
        running(tmp_path / "a", "READER", medsec=listening.port) as reader,
    ):
        place = {"host": "127.0.0.1", "port": reader.dicom, "receives": True}
        allow(ward, "READER", queries="all", **place)
        reader.ask("POST", "/modalities/medsec/echo", content="{}")
        query = {"Level": "Study", "Query": {"PatientID": "MS-*", "ModalitiesInStudy": "DX"}}
        asked = reader.ask("POST", "/modalities/medsec/query", json=query)["ID"]
        [answer] = reader.ask("GET", f"/queries/{asked}/answers")
        done = reader.ask(
            "POST", f"/queries/{asked}/answers/{answer}/retrieve",
            json={"TargetAet": "READER", "Synchronous": True},
        )  # fmt: skip
        assert done
        kept = reader.instances()
    assert len(kept) == 2
    assert all(one.PatientIdentityRemoved == "YES" for one in kept)
    entries = engine.audit.entries(team.administrator, limit=100)
    given = [e for e in entries if e.action == "image.export" and e.actor == "ae:READER"]
    assert [e.detail["to"] for e in given] == ["READER"] * 2


@contextmanager
def served() -> Iterator[str]:
    """The API over HTTP."""
    port = free_port()
    config = uvicorn.Config(mounted_app, port=port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}/api/dicomweb/"
    finally:
        server.should_exit = True
        thread.join(60)


def test_orthanc_stores_searches_and_retrieves_by_dicomweb(tmp_path: Path) -> None:
    originals = study()
    orthanc()
    with hospital(tmp_path / "place") as place, served() as url:
        engine, team = place.engine, place.team
        engine.patients.create(team.technician, "H-000001", "Jane Doe")
        token = place.tokens[Role.TECHNICIAN]
        with running(tmp_path / "a", "A", medsec=1, web=url, token=token) as sender:
            for file in originals.values():
                sender.ask("POST", "/instances", content=file)
            [sent] = sender.ask("GET", "/studies")
            done = sender.ask("POST", "/dicom-web/servers/medsec/stow", json={"Resources": [sent]})
            assert done["InstancesCount"] == "2"
            for draft in engine.drafts.waiting(team.technician):
                engine.drafts.seal(team.technician, draft.image_id, [BOX], confirm="Looked.")
            query = {"Uri": "/studies", "Arguments": {"PatientID": "H-000001"}}
            [found] = sender.ask("POST", "/dicom-web/servers/medsec/qido", json=query)
            uid = found["0020000D"]["Value"]
            sender.ask("POST", "/dicom-web/servers/medsec/retrieve",
                       json={"Resources": [{"Study": uid}]})  # fmt: skip
            masked = [i for i in sender.instances() if i.StudyInstanceUID == uid]
    assert len(masked) == 2
    for one in masked:
        assert one.PatientIdentityRemoved == "YES"
        assert len(np.unique(one.pixel_array[BOX.region.slices[1:]])) < 5

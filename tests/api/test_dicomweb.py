"""DICOMweb as a client of another maker uses it, over HTTP from a running server."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pydicom
import pytest
import uvicorn
from dicomweb_client.api import DICOMwebClient
from PIL import Image as Picture
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless
from requests import HTTPError, Session

from api.stow import PartReader
from engine import Role, errors
from tests import builders
from tests.conftest import WHY
from tests.rest import BOX, Hospital, hospital, mounted_app

T, D, R, A = Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER, Role.ADMINISTRATOR
PIXELS = builders.labelled()[0]


@dataclass
class Web:
    """A hospital behind a server, with a study of two instances and one of another patient."""

    place: Hospital
    url: str
    study: str
    original: bytes

    def client(self, role: Role) -> DICOMwebClient:
        session = Session()
        session.headers["Authorization"] = f"Bearer {self.place.tokens[role]}"
        return DICOMwebClient(self.url, session=session)

    def ask(self, path: str, role: Role = D, **headers: str) -> httpx.Response:
        token = {"Authorization": f"Bearer {self.place.tokens[role]}"}
        return httpx.get(f"{self.url}{path}", headers={**token, **headers}, timeout=120)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with hospital(tmp_path_factory.mktemp("web"), care_relation=True) as place:
        engine, token = place.engine, place.team.technician
        files = [
            builders.dicom(PIXELS, instance=1),
            builders.dicom(PIXELS, instance=2, syntax=JPEGLSLossless),
            builders.dicom(PIXELS, patient=2, modality="US"),
        ]
        patients = [
            engine.patients.create(token, f"H-{n:06d}", name).patient_id
            for n, name in ((1, "Jane Doe"), (2, "Jan Nowak"))
        ]
        for data, patient_id in zip(files, (patients[0], *patients), strict=True):
            image = engine.drafts.upload(token, patient_id, "a.dcm", data)
            engine.drafts.seal(token, image.image_id, [BOX])
        engine.care.assign(token, patients[0], "doctor")
        [study] = engine.studies.of_patient(token, patients[0])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = uvicorn.Config(mounted_app, port=port, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield Web(place, f"http://127.0.0.1:{port}/api/dicomweb", study.study_uid, files[0])
        server.should_exit = True
        thread.join(60)


def test_studies_series_and_instances_are_found(web: Web) -> None:
    client = web.client(D)
    [study] = client.search_for_studies()
    assert study["0020000D"]["Value"] == [web.study]
    assert study["00201208"]["Value"] == [2]
    assert study["00100020"]["Value"][0].startswith("MS-")
    assert "Doe" not in str(study)
    [series] = client.search_for_series(web.study)
    assert series["00201209"]["Value"] == [2]
    assert len(client.search_for_instances(web.study, series["0020000E"]["Value"][0])) == 2
    assert len(web.client(T).search_for_studies()) == 2


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"PatientID": "H-000001"}, 1),  # a hospital number
        ({"PatientID": "H-000002"}, 1),
        ({"PatientID": "H-9"}, 0),
        ({"PatientID": "MS-*"}, 2),
        ({"ModalitiesInStudy": "US"}, 1),
        ({"ModalitiesInStudy": "M?"}, 0),
        ({"00080061": "DX"}, 1),
        ({"StudyInstanceUID": "1.2.3"}, 0),
    ],
)
def test_what_is_asked_for_is_matched_as_the_standard_says(
    web: Web, filters: dict[str, str], found: int
) -> None:
    assert len(web.client(T).search_for_studies(search_filters=filters)) == found


def test_limit_offset_and_fields(web: Web) -> None:
    client = web.client(T)
    every = client.search_for_instances()
    assert client.search_for_instances(limit=1, offset=1) == every[1:2]
    assert "00281052" not in every[0]
    assert "00280004" in client.search_for_instances(fields=["PhotometricInterpretation"])[0]
    assert web.ask("/studies?NoSuchKeyword=1").status_code == 422
    assert web.ask("/studies?limit=many").status_code == 422


def test_metadata_instances_and_frames_are_those_of_the_masked_objects(web: Web) -> None:
    client = web.client(D)
    metadata = client.retrieve_study_metadata(web.study)
    assert len(metadata) == 2
    assert "BulkDataURI" in metadata[0]["7FE00010"]
    whole = client.retrieve_study(web.study)
    assert len(whole) == 2
    for found in whole:
        assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert found.PatientIdentityRemoved == "YES"
        shown = found.pixel_array
        assert not np.array_equal(shown, PIXELS)
        box = BOX.region.slices[1:]
        assert len(np.unique(shown[box])) < 5 < len(np.unique(PIXELS[box]))
        uids = (web.study, found.SeriesInstanceUID, found.SOPInstanceUID)
        [frame] = client.retrieve_instance_frames(*uids, frame_numbers=[1])
        assert frame == found.PixelData[: len(frame)]
    # The client's Host header lacks the port, and addresses are made of that.
    uri = metadata[0]["7FE00010"]["BulkDataURI"].split("/dicomweb", 1)[1]
    [bulk] = client.retrieve_bulkdata(web.url + uri)
    assert len(bulk) > 0


def test_pictures_are_rendered(web: Web) -> None:
    client = web.client(D)
    [first, _] = client.search_for_instances(web.study)
    uids = (web.study, first["0020000E"]["Value"][0], first["00080018"]["Value"][0])
    png = client.retrieve_instance_rendered(*uids, media_types=("image/png",))
    assert png.startswith(b"\x89PNG")
    path = "/studies/{}/series/{}/instances/{}".format(*uids)
    assert web.ask(path + "/thumbnail", Accept="image/jpeg").content.startswith(b"\xff\xd8")
    assert web.ask(path + "/rendered", Accept="image/gif").status_code == 406
    assert web.ask(path + "/frames/2").status_code == 404
    assert web.ask(path + "/frames/x").status_code == 422
    assert web.ask(path + "/metadata", Accept="application/dicom+xml").status_code == 406


def test_an_original_takes_permission_and_a_reason(web: Web) -> None:
    [first, _] = sorted(
        web.client(D).search_for_instances(web.study), key=lambda i: i["00200013"]["Value"]
    )
    uids = (web.study, first["0020000E"]["Value"][0], first["00080018"]["Value"][0])
    path = "/studies/{}/series/{}/instances/{}?original=true".format(*uids)
    kind = {"Accept": "application/dicom"}
    assert web.ask(path, D, **kind).status_code == 422
    assert web.ask(path, T, **kind, **{"X-Reason": WHY}).status_code == 403
    assert web.ask(path, D, **kind, **{"X-Reason": WHY}).content == web.original


@pytest.mark.parametrize("role", [R, A])
def test_who_may_not_see_images_gets_nothing(web: Web, role: Role) -> None:
    for path in ("/studies", f"/studies/{web.study}", f"/studies/{web.study}/metadata"):
        assert web.ask(path, role).status_code == 403
    assert httpx.get(f"{web.url}/studies").status_code == 401


def test_anothers_study_answers_like_one_that_is_not_there(web: Web) -> None:
    [other] = web.client(T).search_for_studies(search_filters={"PatientID": "H-000002"})
    for uid in (other["0020000D"]["Value"][0], "1.2.3"):
        for path in ("", "/metadata", "/series/1.2/metadata", "/thumbnail"):
            assert web.ask(f"/studies/{uid}{path}").status_code == 404


def test_instances_are_stored_into_the_reception(web: Web) -> None:
    client, engine = web.client(T), web.place.engine
    sent = pydicom.dcmread(io.BytesIO(builders.dicom(PIXELS, instance=7)))
    answer = client.store_instances([sent])
    assert len(answer.ReferencedSOPSequence) == 1
    waiting = engine.drafts.waiting(web.place.team.technician)
    assert [d.reasons for d in waiting] == [("not-looked-at",)]
    again = client.store_instances([sent])
    assert again.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == sent.SOPInstanceUID
    assert len(engine.drafts.waiting(web.place.team.technician)) == 1
    with pytest.raises(HTTPError):
        web.client(D).store_instances([sent])
    damaged = pydicom.dcmread(io.BytesIO(builders.dicom(PIXELS, instance=8, Rows=9999)))
    with pytest.raises(HTTPError):
        client.store_instances([damaged])


# --- parts of a request ------------------------------------------------------------------------


def _body(boundary: str, *parts: bytes, kind: str = "application/dicom") -> bytes:
    whole = b"a preamble that nobody reads"
    for part in parts:
        head = f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Length: {len(part)}\r\n\r\n"
        whole += head.encode() + part
    return whole + f"\r\n--{boundary}--\r\n".encode()


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1 << 20])
def test_parts_are_read_in_pieces_of_any_size(size: int) -> None:
    parts = [b"first", b"--x\r\n--bound", bytes(range(256)) * 9, b"", b"\r\n--boundarx"]
    body, reader = _body("boundary", *parts), PartReader("boundary", 1 << 20)
    read = [p for i in range(0, len(body), size) for p in reader.feed(body[i : i + size])]
    assert read == parts


def test_a_part_that_is_too_large_is_read_over_and_holds_no_memory() -> None:
    reader = PartReader("b", 1000)
    body = _body("b", bytes(100), bytes(1 << 20), bytes(7))
    read = []
    for place in range(0, len(body), 4096):
        read += list(reader.feed(body[place : place + 4096]))
        assert len(reader._held) < 10_000
    assert read == [bytes(100), None, bytes(7)]


def test_parts_of_other_kinds_are_left_out_and_no_boundary_is_refused() -> None:
    reader = PartReader("b", 1000)
    assert list(reader.feed(_body("b", b"<xml/>", kind="application/xml"))) == []
    for wrong in ("", "x" * 201):
        with pytest.raises(errors.InputError):
            PartReader(wrong, 1000)
    with pytest.raises(errors.InputError):
        list(PartReader("b", 1000).feed(b"--b\r\n" + b"x" * 20_000))


# --- ranges and pictures -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-50", 206, slice(-50, None)),
        ("bytes=0-99999999", 206, slice(0, None)),
        ("bytes=99999999-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=0-1,4-5", 200, slice(0, None)),  # several are answered whole
        ("lines=1-2", 200, slice(0, None)),
        ("bytes=9-3", 416, None),
    ],
)
def test_ranges_of_an_instance_are_answered(
    web: Web, asked: str, status: int, part: slice | None
) -> None:
    path = _instance(web)
    whole = web.ask(path, Accept="application/dicom")
    assert whole.headers["accept-ranges"] == "bytes"
    answer = web.ask(path, Accept="application/dicom", Range=asked)
    assert answer.status_code == status
    if part is not None:
        assert answer.content == whole.content[part]
    if status == 206:
        first, _, length = answer.headers["content-range"].removeprefix("bytes ").partition("-")
        assert int(length.split("/")[1]) == len(whole.content)
        assert whole.content[int(first) :].startswith(answer.content)


def test_a_range_of_what_has_changed_is_answered_whole(web: Web) -> None:
    path, kind = _instance(web), {"Accept": "application/dicom", "Range": "bytes=0-9"}
    tag = web.ask(path, Accept="application/dicom").headers["etag"]
    assert web.ask(path, **kind, **{"If-Range": tag}).status_code == 206
    assert web.ask(path, **kind, **{"If-Range": '"another"'}).status_code == 200


def test_ranges_of_bulk_data_are_answered(web: Web) -> None:
    path, kind = f"{_instance(web)}/bulkdata/7FE00010", {"Accept": "application/octet-stream"}
    whole = web.ask(path, **kind).content
    answer = web.ask(path, **kind, Range="bytes=1000-1999")
    assert (answer.status_code, answer.content) == (206, whole[1000:2000])


def _instance(web: Web) -> str:
    [first, *_] = sorted(
        web.client(D).search_for_instances(web.study), key=lambda i: i["00200013"]["Value"]
    )
    uids = (web.study, first["0020000E"]["Value"][0], first["00080018"]["Value"][0])
    return "/studies/{}/series/{}/instances/{}".format(*uids)


def _shown(web: Web, query: str) -> np.ndarray:
    answer = web.ask(f"{_instance(web)}/rendered?{query}", Accept="image/png")
    assert answer.status_code == 200, answer.text
    return np.asarray(Picture.open(io.BytesIO(answer.content)))


def test_a_window_and_a_viewport_are_rendered(web: Web) -> None:
    whole = _shown(web, "")
    height, width = whole.shape[:2]
    narrow = _shown(web, "window=128,10,linear")
    assert narrow.shape == whole.shape
    assert (narrow == 255).mean() > (whole == 255).mean()
    assert _shown(web, f"viewport={width // 2},{height // 2}").shape[:2] == (
        height // 2, width // 2,
    )  # fmt: skip
    part = _shown(web, "viewport=50,40,10,60,50,40")
    assert np.array_equal(part, whole[60:100, 10:60])
    turned = _shown(web, "viewport=50,40,10,60,-50,40")
    assert np.array_equal(turned, part[:, ::-1])
    wide = _shown(web, f"viewport={width * 4},50")  # the picture keeps its shape
    assert wide.shape[0] == 50
    assert wide.shape[1] == pytest.approx(width * 50 / height, abs=1)


@pytest.mark.parametrize(
    "query",
    [
        "window=1", "window=a,b,linear", "window=1,0,linear", "window=1,2,sigmoid",
        "viewport=0,5", "viewport=5", "viewport=5,5,1", "viewport=99999,5",
        "viewport=5,5,9999,0,5,5", "quality=0", "quality=x",
    ],
)  # fmt: skip
def test_what_cannot_be_rendered_is_a_bad_request(web: Web, query: str) -> None:
    assert web.ask(f"{_instance(web)}/rendered?{query}").status_code == 400


def test_quality_and_the_most_wanted_media_type_count(web: Web) -> None:
    path = f"{_instance(web)}/rendered"
    sizes = [len(web.ask(f"{path}?quality={q}", Accept="image/jpeg").content) for q in (10, 95)]
    assert sizes[0] < sizes[1]
    kind = web.ask(path, Accept="image/jpeg;q=0.2, image/png;q=0.9").headers["content-type"]
    assert kind == "image/png"
    assert web.ask(path, Accept="image/png;q=0").status_code == 406


# --- what is left out is said ------------------------------------------------------------------


def test_a_search_says_that_there_is_more(web: Web) -> None:
    few = web.ask("/instances?limit=1", T)
    assert len(few.json()) == 1
    assert "additional results" in few.headers["warning"]
    assert "warning" not in web.ask("/instances?limit=3", T).headers
    fuzzy = web.ask("/studies?fuzzymatching=true", T)
    assert "fuzzymatching" in fuzzy.headers["warning"]

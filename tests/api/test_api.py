"""The REST API as a hospital system uses it: tokens, patients, images, limits, its page."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from PIL import Image as Pillow

import api
from api import schemas
from engine import Detection, DraftBox, Region, Role
from engine.store.audit import AuditLog
from tests.conftest import PASSWORD, WHY
from tests.fakes import FakeHost
from tests.rest import Hospital, ask, hospital, mounted_app

T, D, R, A = Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER, Role.ADMINISTRATOR
REASON = {"X-Reason": WHY}
NEW = {"username": "eva", "name": "Dr Eva Example", "password": "a quite unlikely heap of words"}


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    with hospital(tmp_path_factory.mktemp("api")) as place:
        yield place


@pytest.fixture(scope="module")
def image_id(ward: Hospital) -> str:
    return ward.image(ward.patient())


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(data)).convert("L"))


# --- errors -----------------------------------------------------------------------------------

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_a_browser_that_opens_a_url_itself_gets_an_error_as_a_page(ward: Hospital) -> None:
    path = "/images/<b>x"
    said = ask("GET", path, ward.tokens[D]).json()["title"]
    answer = ask("GET", path, ward.tokens[D], headers=BROWSER)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert f"<p>{said}</p>" in answer.text
    unknown = ask("GET", f"/patients/?{'<i>'}=1&limit=<b>", ward.tokens[D], headers=BROWSER)
    assert unknown.status_code == 422
    assert "<i>" not in unknown.text
    assert "<b>" not in unknown.text


def test_a_program_gets_a_problem_document_whatever_it_sends(ward: Hospital) -> None:
    for headers in ({}, {"Accept": "application/json, text/html"}):
        answer = ask("GET", "/images/none/", ward.tokens[D], headers=headers)
        assert answer.headers["content-type"] == "application/problem+json"
    answer = ask("POST", "/patients/", ward.tokens[D], headers=BROWSER, json={})
    assert answer.headers["content-type"] == "application/problem+json"


# --- accounts and tokens ----------------------------------------------------------------------


def test_an_account_that_is_asked_for_opens_nothing_until_it_is_approved(ward: Hospital) -> None:
    answer = ask("POST", "/auth/register/", json={**NEW, "role": "administrator"})
    assert answer.status_code == 202
    assert set(answer.json()) == {"request_id", "status"}
    signing_in = {"username": "eva", "password": NEW["password"]}
    assert ask("POST", "/auth/token/", json=signing_in).status_code == 401
    [wish] = ask("GET", "/accounts/requests/", ward.tokens[A]).json()
    assert (wish["username"], wish["role"]) == ("eva", "administrator")
    path = f"/accounts/requests/{answer.json()['request_id']}/approve/"
    made = ask("POST", path, ward.tokens[A], json={"role": "researcher"})
    assert made.json()["role"] == "researcher"
    assert ask("POST", "/auth/token/", json=signing_in).status_code == 200


def test_an_administrators_own_call_makes_the_account_at_once(ward: Hospital) -> None:
    wish = {**NEW, "username": "otto", "role": "doctor"}
    assert ask("POST", "/auth/register/", ward.tokens[D], json=wish).status_code == 403
    assert ask("POST", "/auth/register/", "nonsense", json=wish).status_code == 401
    answer = ask("POST", "/auth/register/", ward.tokens[A], json=wish)
    assert (answer.status_code, answer.json()["role"]) == (201, "doctor")
    assert not {"access", "password", "refresh"} & set(answer.json())


def test_a_refresh_token_is_good_once_and_ends_the_session_when_it_comes_again(
    ward: Hospital,
) -> None:
    first = ward.sign_in("doctor")
    answer = ask("POST", "/auth/token/refresh/", json={"refresh": first["refresh"]})
    second = answer.json()
    assert answer.status_code == 200
    assert second["session_id"] == first["session_id"]
    assert ask("GET", "/auth/me/", second["access"]).json()["username"] == "doctor"
    again = ask("POST", "/auth/token/refresh/", json={"refresh": first["refresh"]})
    assert again.status_code == 401
    for access in (first["access"], second["access"]):
        assert ask("GET", "/auth/me/", access).status_code == 401


@pytest.mark.parametrize("kind", ["access", "refresh"])
def test_revoking_either_token_ends_both(ward: Hospital, kind: str) -> None:
    pair = ward.sign_in("doctor")
    for token in (pair[kind], pair[kind], "never issued", "a.b.c", ""):
        answer = ask("POST", "/auth/token/revoke/", data={"token": token})
        assert answer.status_code == (422 if not token and answer.status_code == 422 else 200)
    assert ask("GET", "/auth/me/", pair["access"]).status_code == 401
    renewed = ask("POST", "/auth/token/refresh/", json={"refresh": pair["refresh"]})
    assert renewed.status_code == 401


def forged(ward: Hospital) -> dict[str, str]:
    """Access tokens that somebody made of a good one."""
    good = ward.sign_in("doctor")["access"]
    key = ward.engine.context.hierarchy.system_key("tokens")
    claims = jwt.decode(good, options={"verify_signature": False})
    now = claims["iat"]
    public = ward.engine.keys.signing_key()

    def signed(changes: dict[str, Any], key: Any = key, algorithm: str = "HS256") -> str:
        return jwt.encode({**claims, **changes}, key, algorithm=algorithm)

    head, body, mac = good.split(".")
    return {
        "algorithm none": jwt.encode(claims, None, algorithm="none"),
        "no signature": f"{head}.{body}.",
        "the public key as the secret": signed({}, public),
        "the public key as text": signed({}, public.hex().encode()),
        "signed with RSA": signed({}, generate_private_key(65537, 2048), "RS256"),
        "signed with Ed25519": signed({}, Ed25519PrivateKey.generate(), "EdDSA"),
        "another key": signed({}, b"x" * 32),
        "a longer hash": signed({}, key, "HS512"),
        "expired": signed({"iat": now - 7200, "exp": now - 3600}),
        "not yet": signed({"iat": now + 7200, "exp": now + 9000}),
        "wrong audience": signed({"aud": "other"}),
        "audiences": signed({"aud": ["other", "another"]}),
        "wrong issuer": signed({"iss": "other"}),
        "no session": signed({"sid": "se_0"}),
        "session of another kind": signed({"sid": ["x"]}),
        "expiry as text": signed({"exp": "tomorrow"}),
        "changed body": f"{head}.{body[:-2]}AA.{mac}",
        "key of its own": jwt.encode(claims, b"x" * 32, headers={"jwk": {"kty": "oct", "k": "eA"}}),
        "key from a file": jwt.encode(claims, b"\0", headers={"kid": "../../dev/zero"}),
        "the session's id": claims["sid"],
    }


def test_no_forged_access_token_opens_anything(ward: Hospital) -> None:
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        tokens = forged(ward)
    for name, token in tokens.items():
        for path in ("/auth/me/", "/patients/"):
            answer = ask("GET", path, token)
            assert answer.status_code == 401, name
            assert answer.headers["content-type"] == "application/problem+json"


def test_an_access_token_lasts_minutes(tmp_path: Path) -> None:
    with hospital(tmp_path) as place:
        pair = place.sign_in("doctor")
        assert isinstance(place.host, FakeHost)
        place.host.advance(seconds=pair["expires_in_s"])
        assert ask("GET", "/auth/me/", pair["access"]).status_code == 401


def test_a_cookie_reads_and_changes_nothing(ward: Hospital) -> None:
    cookie = {"Cookie": f"{api.COOKIE}={ward.team.technician}"}
    assert ask("GET", "/patients/", headers=cookie).status_code == 200
    form = {"id": "P-forged", "name": "For Ged"}
    assert ask("POST", "/patients/", headers=cookie, data=form).status_code == 401


@pytest.mark.parametrize(
    ("page", "status"),
    [("same-origin", 200), ("none", 200), ("same-site", 401), ("cross-site", 401)],
)
def test_the_cookie_reads_for_our_own_pages_only(ward: Hospital, page: str, status: int) -> None:
    """Another port of this host gets the cookie sent along, whatever SameSite says."""
    cookie = {"Cookie": f"{api.COOKIE}={ward.team.technician}", "Sec-Fetch-Site": page}
    assert ask("GET", "/patients/", headers=cookie).status_code == status
    bearer = {"Sec-Fetch-Site": page}
    assert ask("GET", "/patients/", ward.tokens[T], headers=bearer).status_code == 200


def test_the_log_says_from_where_a_token_was_used_not_only_from_where_it_came(
    ward: Hospital,
) -> None:
    ask("GET", "/patients/", ward.tokens[T], client="203.0.113.9")
    [read] = ask("GET", "/audit/", ward.tokens[A], params={"q": "203.0.113.9"}).json()["items"]
    assert (read["actor"], read["action"]) == ("technician", "patient.search")


def test_the_log_is_searched_part_by_part(ward: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    ask("GET", "/patients/", ward.tokens[T], client="203.0.113.7")
    monkeypatch.setattr("engine.store.audit._FIRST_PART", 1)
    monkeypatch.setitem(AuditLog.entries.__kwdefaults__, "patience_ms", 0.0)
    found: list[Any] = []
    answers: list[Any] = []
    asked: dict[str, Any] = {"q": "203.0.113.7"}
    while not answers or answers[-1]["next_before"]:
        answers.append(ask("GET", "/audit/", ward.tokens[A], params=asked).json())
        found += answers[-1]["items"]
        asked["before"] = answers[-1]["next_before"]
    assert [e["action"] for e in found] == ["patient.search"]
    assert len(answers) > 2
    assert answers[-1]["searched_to"] <= found[0]["occurred_at"]
    # A client of an earlier release would otherwise get the first page for ever.
    old = ask("GET", "/audit/", ward.tokens[A], params={"offset": 50})
    assert (old.status_code, "next_before" in old.text) == (422, True)


def test_a_question_that_is_no_activity_keeps_no_session_alive(tmp_path: Path) -> None:
    with hospital(tmp_path) as place:
        access = place.sign_in("doctor")["access"]
        before = place.engine.sessions.mine(access)[0].seen_at
        place.host.advance(minutes=5)
        assert place.engine.caller(access, activity=False).username == "doctor"
        rows = place.engine.context.database.read().all("SELECT max(seen_at) AS seen FROM sessions")
        assert rows[0]["seen"] == before


def test_a_session_can_be_seen_and_ended(ward: Hospital) -> None:
    pair, other = ward.sign_in("doctor"), ward.sign_in("doctor")
    listed = ask("GET", "/auth/sessions/", pair["access"]).json()
    assert {pair["session_id"], other["session_id"]} <= {s["session_id"] for s in listed}
    path = f"/auth/sessions/{other['session_id']}/"
    assert ask("DELETE", path, ward.tokens[T]).status_code == 404
    assert ask("DELETE", path, pair["access"]).status_code == 204
    assert ask("GET", "/auth/me/", other["access"]).status_code == 401


# --- patients and images ----------------------------------------------------------------------


def test_a_patient_comes_with_an_image_or_not_at_all(ward: Hospital) -> None:
    form = {"id": "P-multi", "name": "Erika Musterfrau", "age": "61"}
    token = ward.tokens[T]
    for file in (b"no picture", ward.picture()[:200], b""):
        answer = ask("POST", "/patients/", token, data=form, files={"image": ("a.png", file)})
        assert answer.status_code == 422, answer.text
    assert ask("GET", "/patients/P-multi/", token).status_code == 404
    answer = ask("POST", "/patients/", token, data=form, files={"image": ("a.png", ward.picture())})
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/patients/{made['patient']['patient_id']}/"
    assert (made["patient"]["image_count"], made["image"]["state"]) == (1, "draft")
    assert made["patient"]["created_at"].endswith("Z")
    path = f"/drafts/{made['image']['image_id']}/seal/"
    assert ask("POST", path, token, json={}).json()["state"] == "released"
    [listed] = ask("GET", "/patients/P-multi/images/", ward.tokens[D]).json()["items"]
    assert listed["image_id"] == made["image"]["image_id"]


def test_what_a_person_drew_is_sealed_only_by_a_decision(ward: Hospital) -> None:
    engine, technician = ward.engine, ward.team.technician
    taken = engine.drafts.upload(technician, ward.patient(), "erika.png", ward.picture())
    own = DraftBox(Detection(Region(100, 100, 160, 140), "text", 1.0))
    boxes = [*engine.worklist.boxes(technician, taken.image_id), own]
    engine.worklist.keep_boxes(technician, taken.image_id, boxes)
    path = f"/drafts/{taken.image_id}/seal/"
    for without in ({}, {"undoubted": True}, {"confirm": "all is boxed"}):
        answer = ask("POST", path, ward.tokens[T], json=without)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:medsec:review-needed")
        assert answer.json()["title"].startswith("A person drew or removed boxes.")
    whole = [schemas.Box.of(box.detection).model_dump(mode="json") for box in boxes]
    sealed = ask("POST", path, ward.tokens[T], json={"boxes": whole})
    assert (sealed.json()["state"], sealed.json()["region_count"]) == ("released", len(boxes))


def test_lists_come_in_pages(ward: Hospital) -> None:
    for _ in range(3):
        ward.patient()
    first = ask("GET", "/patients/", ward.tokens[T], params={"limit": 2}).json()
    second = ask("GET", "/patients/", ward.tokens[T], params={"limit": 2, "offset": 2}).json()
    assert first["next_offset"] == 2
    assert len(first["items"]) == 2
    assert not {p["id"] for p in first["items"]} & {p["id"] for p in second["items"]}
    last = ask("GET", "/patients/", ward.tokens[T], params={"offset": 1000}).json()
    assert last == {"items": [], "next_offset": None}


def test_a_restoration_says_what_it_is(ward: Hospital) -> None:
    data = ward.picture()
    taken = ward.engine.drafts.upload(ward.team.technician, ward.patient(), "erika.png", data)
    ward.engine.drafts.seal(ward.team.technician, taken.image_id, ward.detector.found)  # type: ignore[arg-type]
    path = f"/images/{taken.image_id}/restore/"

    def restored(**params: Any) -> httpx.Response:
        answer = ask("GET", path, ward.tokens[D], params=params, headers=REASON)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return answer

    png, jpeg = restored(), restored(format="jpeg")
    assert (pixels(png.content) == pixels(data)).all()
    assert (png.headers["content-type"], png.headers["x-rendition"]) == ("image/png", "rendered")
    assert (jpeg.headers["content-type"], jpeg.headers["x-rendition"]) == ("image/jpeg", "lossy")
    enhanced = restored(enhance="true")
    assert enhanced.headers["x-rendition"] == "rendered, enhanced"
    assert (pixels(enhanced.content) != pixels(data)).any()
    original = restored(format="original")
    assert (original.content, original.headers["x-rendition"]) == (data, "original")
    assert original.headers["x-proof"] == "bytes"
    for wrong in ({"format": "original", "enhance": "true"}, {"frame": 1}, {"format": "gif"}):
        answer = ask("GET", path, ward.tokens[D], params=wrong, headers=REASON)
        assert answer.status_code in (404, 422)


@pytest.mark.parametrize("reason", ["", "   ", None])
def test_nothing_is_restored_without_a_reason(
    ward: Hospital, image_id: str, reason: str | None
) -> None:
    headers = {} if reason is None else {"X-Reason": reason}
    answer = ask("GET", f"/images/{image_id}/restore/", ward.tokens[D], headers=headers)
    assert answer.status_code == 422
    answer = ask("POST", f"/images/{image_id}/restorations/", ward.tokens[D], headers=headers)
    assert answer.status_code == 422


def test_a_setting_lets_a_reason_be_left_out(tmp_path: Path) -> None:
    with hospital(tmp_path, reason_required=False) as place:
        image = place.image(place.patient())
        answer = ask("GET", f"/images/{image}/restore/", place.tokens[D])
        assert answer.status_code == 200


def test_the_reason_stands_in_the_log_as_it_was_meant(ward: Hospital, image_id: str) -> None:
    headers = {"X-Reason": "R%C3%BCckfrage%20der%20Klinik"}
    path = f"/images/{image_id}/restore/"
    assert ask("GET", path, ward.tokens[D], headers=headers).status_code == 200
    entries = ask("GET", "/audit/", ward.tokens[A], params={"limit": 20}).json()["items"]
    assert "Rückfrage der Klinik" in {e["reason"] for e in entries}
    for wrong in ("%FF%FE", "nul%00", "%1b[2J"):
        answer = ask("GET", path, ward.tokens[D], headers={"X-Reason": wrong})
        assert answer.status_code == 422


def test_a_restoration_that_was_answered_is_not_kept_open(ward: Hospital, image_id: str) -> None:
    held = len(ward.engine.context.open_images._open)
    for _ in range(3):
        ask("GET", f"/images/{image_id}/restore/", ward.tokens[D], headers=REASON)
    assert len(ward.engine.context.open_images._open) == held


def test_frames_of_an_opened_image_are_looked_at_one_by_one(ward: Hospital, image_id: str) -> None:
    answer = ask("POST", f"/images/{image_id}/restorations/", ward.tokens[D], headers=REASON)
    place = answer.headers["location"].removeprefix("/api")
    assert ask("GET", place, ward.tokens[D]).json()["frames"] == 1
    assert ask("GET", f"{place}frames/0", ward.tokens[D]).headers["content-type"] == "image/png"
    assert ask("GET", place, ward.sign_in("doctor")["access"]).status_code == 404
    assert ask("DELETE", place, ward.tokens[D]).status_code == 204
    assert ask("GET", place, ward.tokens[D]).status_code == 404


def test_a_flag_withdraws_and_notes_stay(ward: Hospital) -> None:
    image = ward.image(ward.patient())
    text = {"text": "No change since the last examination."}
    assert ask("POST", f"/images/{image}/notes/", ward.tokens[D], json=text).status_code == 201
    [note] = ask("GET", f"/images/{image}/notes/", ward.tokens[D]).json()
    assert note["author"] == "doctor"
    metrics = ask("GET", f"/images/{image}/metrics/", ward.tokens[D]).json()
    assert 0 < metrics["masked_share"] < 1
    flagged = ask("POST", f"/images/{image}/flag/", ward.tokens[T], json={"reason": "a name"})
    assert flagged.status_code == 204
    for role in (T, D):
        assert ask("GET", f"/images/{image}/", ward.tokens[role]).status_code == 404


def test_erasing_needs_a_reason(ward: Hospital) -> None:
    patient_id = ward.patient()
    path = f"/patients/{patient_id}/"
    assert ask("DELETE", path, ward.tokens[A]).status_code == 422
    assert ask("DELETE", path, ward.tokens[A], headers=REASON).status_code == 204
    assert ask("GET", path, ward.tokens[T]).status_code == 404


# --- addresses, limits, other origins ---------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/health", "/auth/me", "/patients", "/images", "/statistics", "/docs", "/openapi.json"]
)
def test_addresses_work_with_and_without_the_slash(ward: Hospital, path: str) -> None:
    token = ward.tokens[D]
    without, with_slash = ask("GET", path, token), ask("GET", f"{path}/", token)
    assert without.status_code == with_slash.status_code == 200  # no redirect that drops a body
    assert without.headers["content-type"] == with_slash.headers["content-type"]


def test_a_body_is_taken_without_the_slash_too(ward: Hospital) -> None:
    body = {"username": "doctor", "password": PASSWORD}
    assert ask("POST", "/auth/token", json=body).status_code == 200


def test_a_wrong_method_names_the_right_ones(ward: Hospital) -> None:
    answer = ask("PUT", "/auth/me/", ward.tokens[D])
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.headers["content-type"] == "application/problem+json"


def test_requests_are_counted_per_account_and_per_address(tmp_path: Path) -> None:
    limits = {"anonymous_requests_per_minute": 8, "requests_per_minute": 5}
    with hospital(tmp_path, **limits) as place:
        first, second = place.tokens[T], place.tokens[D]
        codes = [ask("GET", "/auth/me/", first).status_code for _ in range(7)]
        assert codes == [200] * 5 + [429] * 2
        assert ask("GET", "/auth/me/", second).status_code == 200
        stranger = {"client": "203.0.113.9"}
        body = {"username": "doctor", "password": "wrong wrong wrong"}
        answers = [ask("POST", "/auth/token/", json=body, **stranger) for _ in range(10)]
        assert [a.status_code for a in answers[-2:]] == [429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 120
        assert answers[-1].json()["type"] == "urn:medsec:too-many-requests"
        assert ask("GET", "/health/", **stranger).status_code == 200
        assert ask("GET", "/auth/me/", client="203.0.113.10").status_code == 401


@pytest.mark.parametrize(("role", "status"), [(None, 413), (D, 413), (T, 422)])
def test_a_large_body_is_refused_before_it_is_read(
    ward: Hospital, role: Role | None, status: int
) -> None:
    """Who may not upload has sent 1 MiB at most when the answer comes, whatever they announce."""
    for announced in (True, False):
        sent = [0]

        async def chunks(sent: list[int] = sent) -> AsyncGenerator[bytes, None]:
            yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
            for _ in range(64):
                sent[0] += 1 << 16
                yield b"x" * (1 << 16)
            yield b'\r\n--b\r\nContent-Disposition: form-data; name="id"\r\n\r\nP-x\r\n'
            yield b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nX\r\n--b--\r\n'

        async def send(announced: bool = announced) -> httpx.Response:
            transport = httpx.ASGITransport(mounted_app)
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            if announced:
                headers["Content-Length"] = str(1 << 22)
            if role:
                headers["Authorization"] = f"Bearer {ward.tokens[role]}"
            async with httpx.AsyncClient(transport=transport, base_url="https://m.test") as line:
                return await line.post("/api/patients/", headers=headers, content=chunks())

        answer = asyncio.run(send())
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        if status == 413:
            assert sent[0] <= (1 << 20) + (1 << 16)
            assert not (announced and sent[0])


@pytest.mark.parametrize("said", [True, False])
def test_only_so_many_large_bodies_come_in_at_once(tmp_path: Path, said: bool) -> None:
    """Who has a technician's token must not fill the server's memory."""
    with hospital(tmp_path, batch_limit_mb=2, picture_limit_mb=1, dicom_limit_mb=1) as place:
        patient = place.patient()
        part = 1_400_000  # two of them are nearly what one account may have on the way

        async def crowd() -> list[int]:
            begun, more = asyncio.Semaphore(0), asyncio.Event()

            async def body(waits: bool) -> AsyncGenerator[bytes, None]:
                yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
                yield b"x" * part
                if waits:
                    begun.release()
                    await more.wait()
                yield b"x\r\n--b--\r\n"

            async def send(waits: bool) -> int:
                transport = httpx.ASGITransport(mounted_app)
                headers = {
                    "Authorization": f"Bearer {place.tokens[T]}",
                    "Content-Type": "multipart/form-data; boundary=b",
                }
                if said:
                    headers["Content-Length"] = str(part + 77)
                async with httpx.AsyncClient(
                    transport=transport, base_url="https://medsec.test"
                ) as line:
                    path = f"/api/patients/{patient}/images/"
                    answer = await line.post(path, headers=headers, content=body(waits))
                    return answer.status_code

            waiting = [asyncio.create_task(send(True)) for _ in range(2)]
            for _ in waiting:
                await begun.acquire()
            refused = await send(False)
            more.set()
            return [refused, *await asyncio.gather(*waiting)]

        refused, *others = asyncio.run(crowd())
        assert refused == 503
        assert 503 not in others
        # What was held is free again.
        assert ask("POST", f"/patients/{patient}/images/", place.tokens[T],
                   files={"image": ("a.png", place.picture())}).status_code == 201  # fmt: skip


def test_who_may_upload_sends_large_bodies_only_where_files_go(ward: Hospital) -> None:
    body = {"note": "x" * (1 << 20)}
    answer = ask("PATCH", f"/patients/{ward.patient()}/", ward.tokens[T], json=body)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:medsec:content-too-large")
    endless = {"Content-Length": "9" * 5000}
    assert ask("POST", "/auth/token/", content=b"{}", headers=endless).status_code == 413


def test_other_origins_are_refused_unless_they_are_configured(
    ward: Hospital, tmp_path: Path
) -> None:
    headers = {"Origin": "https://ris.example", "Access-Control-Request-Method": "GET"}
    assert (
        "access-control-allow-origin" not in ask("OPTIONS", "/patients/", headers=headers).headers
    )
    assert "access-control-allow-origin" not in ask("GET", "/health/", headers=headers).headers
    with hospital(tmp_path, cors_origins="https://ris.example") as place:
        answer = ask("OPTIONS", "/patients/", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://ris.example"
        assert "access-control-allow-credentials" not in answer.headers
        evil = {**headers, "Origin": "https://evil.example"}
        answer = ask("GET", "/patients/", place.tokens[T], headers=evil)
        assert "access-control-allow-origin" not in answer.headers


# --- the document and its page ----------------------------------------------------------------


def test_the_page_of_the_document_loads_nothing_from_elsewhere(ward: Hospital) -> None:
    page = ask("GET", "/docs/")
    assert page.status_code == 200
    assert "script-src 'self';" in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert named
    assert not re.search(r"<script[^>]*>[^<]", page.text)  # nothing inline
    for name in named:
        assert "//" not in name
        assert name.startswith("/api/docs/")  # the page is also there without its last slash
        assert ask("GET", name.removeprefix("/api")).status_code == 200
    assert ask("GET", "/docs/redoc.standalone.js").status_code == 422


def test_the_document_is_openapi_31_with_every_path_that_was_asked_for(ward: Hospital) -> None:
    document = json.loads(ask("GET", "/openapi.json").content)
    assert document["openapi"].startswith("3.1")
    assert document["servers"] == [{"url": "/api"}]
    for path, methods in {
        "/auth/register/": {"post"},
        "/auth/token/": {"post"},
        "/auth/key-exchange/": {"get", "post"},
        "/patients/": {"get", "post"},
        "/patients/{patient_id}/": {"get", "patch", "delete"},
        "/patients/{patient_id}/images/": {"get", "post"},
        "/images/{image_id}/restore/": {"get"},
        "/images/{image_id}/regions/": {"get"},
        "/regions/{region_id}/": {"get"},
    }.items():
        assert methods <= set(document["paths"][path])


def test_every_body_in_the_document_has_an_example(ward: Hospital) -> None:
    document = json.loads(ask("GET", "/openapi.json").content)
    schemas = document["components"]["schemas"]

    def shown(schema: dict[str, Any], seen: frozenset[str] = frozenset()) -> bool:
        text = json.dumps(schema)
        if '"example' in text:
            return True
        inner = set(re.findall(r"#/components/schemas/(\w+)", text)) - seen
        return any(shown(schemas[name], seen | inner) for name in inner)

    without = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            bodies = [operation.get("requestBody", {})]
            bodies += [a for status, a in operation["responses"].items() if status.startswith("2")]
            for body in bodies:
                for kind, content in body.get("content", {}).items():
                    if "$ref" in json.dumps(content) and not shown(content):
                        without.append((method, path, kind))
    assert not without

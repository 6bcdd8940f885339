"""Every route against every role, and against another doctor's patient: complete, through HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

import api
from engine import Role
from tests.conftest import PASSWORD, WHY
from tests.rest import Hospital, ask, hospital

T, D, R, A = Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER, Role.ADMINISTRATOR
EVERYBODY = frozenset({T, D, R, A})
REASON = {"X-Reason": WHY}
BOX = {"label": "text", "x1": 8, "y1": 8, "x2": 200, "y2": 40}


@dataclass(frozen=True)
class Row:
    """One route.

    Args:
        may: Roles that get an answer; none where no session is needed.
        status: Of the answer to who may, with a subject that is there and theirs.
        options: Of the request: body, headers, query.
        fresh: It uses its subject up: each call gets one of its own.
    """

    may: frozenset[Role] | None
    status: int = 200
    options: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False


def row(*may: Role, status: int = 200, fresh: bool = False, **options: Any) -> Row:
    return Row(frozenset(may), status, options, fresh)


OPEN = Row(None)
SENT = {"image_id": "im_0", "destination": "ARCHIVE"}
OCTETS = {"content": bytes(8), "headers": {"Content-Type": "application/octet-stream"}}
FORM = {"id": "P-new", "name": "Max Mustermann", "age": "50"}

#: Who gets an answer where. A new route without a row here fails the first test.
MAY: dict[str, Row] = {
    "POST /auth/register/": OPEN,
    "POST /auth/token/": OPEN,
    "POST /auth/token/refresh/": OPEN,
    "POST /auth/token/revoke/": OPEN,
    "GET /auth/signing-key/": OPEN,
    "GET /auth/me/": row(*EVERYBODY),
    "GET /auth/sessions/": row(*EVERYBODY),
    "DELETE /auth/sessions/": row(*EVERYBODY, status=204, fresh=True),
    "DELETE /auth/sessions/{session_id}/": row(*EVERYBODY, status=204, fresh=True),
    "POST /auth/prove/": row(*EVERYBODY, status=204, json={"password": PASSWORD}),
    "GET /auth/key-exchange/": row(*EVERYBODY, params={"group": "x25519"}),
    "POST /auth/key-exchange/": row(
        *EVERYBODY, status=409, json={"exchange_id": "ex_none", "public": "AAAA"}
    ),
    "GET /accounts/": row(A),
    "PATCH /accounts/{username}/": row(A, json={"enabled": True}),
    "GET /accounts/proposals/": row(A),
    "POST /accounts/proposals/{proposal_id}/confirm/": row(A, status=404, json={}),
    "DELETE /accounts/proposals/{proposal_id}/": row(A, status=404),
    "GET /accounts/requests/": row(A),
    "POST /accounts/requests/{request_id}/approve/": row(
        A, status=201, json={"role": "researcher"}, fresh=True
    ),
    "DELETE /accounts/requests/{request_id}/": row(A, status=204, fresh=True),
    "POST /patients/": row(T, status=201, data=FORM, fresh=True),
    "GET /patients/": row(T, D),
    "GET /patients/{patient_id}/": row(T, D),
    "PATCH /patients/{patient_id}/": row(T, json={"age": 62}),
    "DELETE /patients/{patient_id}/": row(A, status=204, headers=REASON, fresh=True),
    "GET /patients/{patient_id}/images/": row(T, D),
    "GET /patients/{patient_id}/studies/": row(T, D),
    "GET /studies/{study_id}/": row(T, D),
    "GET /studies/{study_id}/archive/": row(T, D),
    "POST /studies/{study_id}/restorations/": row(D, status=201, headers=REASON),
    "GET /study-restorations/{handle}/": row(D),
    "GET /study-restorations/{handle}/archive/": row(D),
    "DELETE /study-restorations/{handle}/": row(*EVERYBODY, status=204, fresh=True),
    "GET /study-restorations/{handle}/images/{image_id}/": row(D),
    "GET /study-restorations/{handle}/images/{image_id}/frames/{frame}/": row(D),
    "POST /patients/{patient_id}/images/": row(
        T, status=201, files={"image": ("a.png", b"")}, fresh=True
    ),
    "GET /patients/{patient_id}/history/": row(D),
    "GET /patients/{patient_id}/notes/": row(D),
    "POST /patients/{patient_id}/notes/": row(D, status=201, json={"text": "Stable."}),
    "GET /patients/{patient_id}/care-team/": row(T, D, A),
    "POST /patients/{patient_id}/care-team/": row(T, D, A, status=201, json={"username": "doctor"}),
    "DELETE /patients/{patient_id}/care-team/{username}/": row(T, D, A, status=204, fresh=True),
    "POST /emergency-access/": row(
        D, status=404, json={"patient": "nobody", "reason": "found unconscious in the corridor"}
    ),
    "GET /emergency-access/": row(D, A),
    "DELETE /emergency-access/{glass_id}/": row(D, A, status=404),
    "POST /emergency-access/{glass_id}/review/": row(
        A, status=404, json={"verdict": "justified", "remark": "an emergency indeed"}
    ),
    "GET /images/": row(T, D),
    "GET /images/{image_id}/": row(T, D),
    "DELETE /images/{image_id}/": row(A, status=204, headers=REASON, fresh=True),
    "GET /images/{image_id}/thumbnail/": row(T, D),
    "GET /images/{image_id}/grid/": row(T, D),
    "GET /images/{image_id}/file/": row(T, D),
    "GET /images/{image_id}/package/": row(T, D),
    "GET /images/{image_id}/frames/{frame}/": row(T, D),
    "GET /images/{image_id}/display/": row(T, D),
    "GET /images/{image_id}/regions/": row(T, D),
    "GET /regions/{region_id}/": row(T, D),
    "GET /images/{image_id}/restore/": row(D, headers=REASON),
    "POST /images/{image_id}/restorations/": row(D, status=201, headers=REASON),
    "GET /restorations/{handle}/": row(D),
    "DELETE /restorations/{handle}/": row(*EVERYBODY, status=204, fresh=True),
    "GET /restorations/{handle}/frames/{frame}/": row(D),
    "GET /restorations/{handle}/file/": row(D),
    "GET /images/{image_id}/metrics/": row(D),
    "GET /images/{image_id}/history/": row(T, D),
    "GET /images/{image_id}/notes/": row(D),
    "POST /images/{image_id}/notes/": row(D, status=201, json={"text": "Stable."}),
    "POST /images/{image_id}/question/": row(D, status=204, json={"reason": WHY}, fresh=True),
    "POST /images/{image_id}/flag/": row(T, D, status=204, json={"reason": WHY}, fresh=True),
    "GET /drafts/": row(T),
    "GET /drafts/{image_id}/": row(T),
    "POST /drafts/{image_id}/seal/": row(T, json={"boxes": [BOX]}, fresh=True),
    "DELETE /drafts/{image_id}/": row(T, status=204, headers=REASON, fresh=True),
    "GET /drafts/{handle}/frames/{frame}/": row(T),
    "GET /drafts/{image_id}/preview/": row(T),
    "POST /batches/": row(T, status=202, files={"files": ("a.png", b"")}, fresh=True),
    "GET /batches/{batch_id}/": row(*EVERYBODY, status=404),
    "GET /batches/{batch_id}/report/": row(*EVERYBODY, status=404),
    "POST /intakes/": row(T, status=201, json={"files": [{"name": "a.dcm", "size": 9}]}),
    "GET /intakes/": row(*EVERYBODY),
    "DELETE /intakes/": row(*EVERYBODY, status=204),
    "GET /intakes/{intake_id}/": row(*EVERYBODY, status=404),
    "DELETE /intakes/{intake_id}/": row(*EVERYBODY, status=404),
    "POST /intakes/{intake_id}/headers/": row(T, status=404, **OCTETS),
    "POST /intakes/{intake_id}/targets/": row(
        T, status=404, json={"targets": [{"group": 0, "patient_id": "pt_0"}]}
    ),
    "PUT /intakes/{intake_id}/files/{place}/": row(T, status=404, **OCTETS),
    "GET /network/nodes/": row(A),
    "PUT /network/nodes/{title}/": row(A, json={"addresses": ["10.1.2.3"]}),
    "DELETE /network/nodes/{title}/": row(A, status=204, fresh=True),
    "GET /network/rules/": row(A),
    "PUT /network/rules/{rule}/": row(A, json={"to": ["ARCHIVE"]}),
    "DELETE /network/rules/{rule}/": row(A, status=204, fresh=True),
    "GET /network/sendings/": row(A),
    "POST /network/sendings/": row(T, D, status=404, json=SENT),
    "POST /network/sendings/{sending_id}/retry/": row(A, status=404),
    "DELETE /network/sendings/{sending_id}/": row(A, status=404),
    "GET /network/destinations/": row(T, D),
    "POST /network/original-sendings/": row(D, status=404, json=SENT, headers=REASON),
    "POST /network/original-sendings/of-study/": row(
        D, status=404, json={"study_id": "st_0", "destination": "ARCHIVE"}, headers=REASON
    ),
    "GET /network/held/": row(T),
    "POST /network/held/{held_id}/assign/": row(T, status=404, json={"patient": "nobody"}),
    "DELETE /network/held/{held_id}/": row(T, status=404, headers=REASON),
    "GET /statistics/": row(D, R, A),
    "GET /statistics/{table}/": row(D, R, A),
    "POST /cohorts/": row(
        D, status=404, json={"image_ids": ["im_nobody"], "reason": "a trial"}, fresh=True
    ),
    "GET /cohorts/public-key/": row(D),
    "GET /deidentification-profiles/": row(D),
    "PUT /deidentification-profiles/{name}/": row(A, json={"options": {"dates": True}}),
    "DELETE /deidentification-profiles/{name}/": row(A, status=404),
    "GET /recipients/": row(D),
    "PUT /recipients/{recipient}/pseudonyms/": row(
        D, json={"csv": "number,pseudonym\nP-1,LYON-001\n"}, fresh=True
    ),
    "POST /recipients/{recipient}/patient/": row(
        D, status=404, headers=REASON, json={"pseudonym": "LYON-009"}, fresh=True
    ),
    "GET /patients/{patient_id}/pseudonym/": row(D, headers=REASON, fresh=True),
    "GET /cohorts/{release_id}/file/": row(D, status=404),
    "GET /audit/": row(A),
    "GET /audit/file/": row(A),
    "GET /patients/{patient_id}/access-report/": row(A),
    "POST /audit/verify/": row(A),
    "POST /audit/checkpoints/": row(A, status=201),
    "GET /system/": row(A),
    "GET /metrics/": row(A),
    "GET /models/": row(*EVERYBODY),
    "GET /release/streams/": row(A),
    "POST /release/streams/{stream_id}/suspend/": row(A, status=404, json={"reason": WHY}),
    "GET /profiles/": row(*EVERYBODY),
    "GET /health/": OPEN,
    "GET /ready/": OPEN,
    "POST /session/": OPEN,
    "DELETE /session/": OPEN,
}
GUARDED = sorted(name for name, r in MAY.items() if r.may is not None)
NOWHERE = {
    "patient_id": "pt_0",
    "study_id": "st_0",
    "image_id": "im_0",
    "region_id": "rg_0",
    "handle": "vw_0",
    "batch_id": "ba_0",
    "intake_id": "in_0",
    "place": "0",
    "username": "nobody",
    "session_id": "se_0",
    "request_id": "rq_0",
    "proposal_id": "pp_0",
    "frame": "0",
    "table": "images",
    "glass_id": "gl_0",
    "title": "CT1",
    "held_id": "hd_0",
    "rule": "all",
    "sending_id": "sd_0",
    "release_id": "rl_0",
    "recipient": "0",
    "name": "0",
    "stream_id": "0",
}
#: Routes whose subject is a patient or hangs on one, and which a doctor may ask.
CARED_FOR = sorted(
    name
    for name in GUARDED
    if D in (MAY[name].may or ())
    and "{username}" not in name
    and re.search(r"\{(patient|study|image|region)_id\}", name)
)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """A hospital in which doctors see only whom they treat."""
    folder = tmp_path_factory.mktemp("api")
    with hospital(folder, care_relation=True, checkpoint_dir=folder / "checkpoints") as place:
        yield place


class Subjects:
    """Things of one patient that routes are about; made when asked for, kept unless used up."""

    def __init__(self, ward: Hospital, *, treated: bool) -> None:
        self.ward = ward
        self.treated = treated
        self._kept: dict[str, str] = {}

    def names(self, route: str, token: str, *, fresh: bool) -> dict[str, str]:
        """A value for every parameter of a route's path."""
        made: dict[str, str] = {}
        for part in route.split("/"):
            if part.startswith("{"):
                name = part[1:-1]
                made[name] = self._get(name, route, token, fresh)
        return made

    def _get(self, name: str, route: str, token: str, fresh: bool) -> str:
        kind = "draft" if name == "image_id" and "/drafts/" in route else name
        if name == "handle":
            kind = "draft handle" if "/drafts/" in route else "restoration"
            kind = "study restoration" if "/study-restorations/" in route else kind
        if kind in ("session_id", "restoration", "study restoration", "draft handle") or fresh:
            return self._make(kind, token, route)
        if kind not in self._kept:
            self._kept[kind] = self._make(kind, token, route)
        return self._kept[kind]

    def _make(self, kind: str, token: str, route: str = "") -> str:
        ward, engine = self.ward, self.ward.engine
        match kind:
            case "patient_id":
                patient_id = ward.patient()
                if self.treated:
                    engine.care.assign(ward.team.technician, patient_id, "doctor")
                return patient_id
            case "image_id":
                return ward.image(self._make("patient_id", token))
            case "study_id":
                image_id = self._make("image_id", token)
                study_id = engine.context.studies.study_of(engine.context.database.read(), image_id)
                assert study_id is not None
                return study_id
            case "draft":
                return ward.draft(self._make("patient_id", token))
            case "region_id":
                image_id = self._make("image_id", token)
                return engine.images.regions(ward.team.technician, image_id)[0].region_id
            case "restoration":
                if engine.sessions.whoami(token).role is not D:
                    return "vw_0"
                image_id = self._get("image_id", "", token, False)
                return engine.images.restore(token, image_id, WHY).handle
            case "study restoration":
                if engine.sessions.whoami(token).role is not D or not self.treated:
                    return "vs_0"
                image_id = self._get("image_id", "", token, False)
                study_id = engine.context.studies.study_of(engine.context.database.read(), image_id)
                return engine.studies.restore(token, str(study_id), WHY).handle
            case "draft handle":
                if engine.sessions.whoami(token).role is not T:
                    return "vw_0"
                image_id = self._get("image_id", "/drafts/", token, False)
                return engine.drafts.open(token, image_id).handle
            case "session_id":
                return engine.caller(token).session_id
            case "request_id":
                name = f"somebody{ward.made}"
                ward.made += 1
                origin = f"192.0.2.{ward.made}"
                return engine.people.request(name, "Some Body", R, "a quite unlikely heap", origin)
            case "username":
                return "doctor" if "/care-team/" in route else "technician"
            case "batch_id":
                return "ba_0"
            case "intake_id":
                return "in_0"
            case "glass_id":
                return "gl_0"
            case "title":
                engine.nodes.save(ward.team.administrator, "CT1", {"addresses": ["10.1.2.3"]})
                return "CT1"
            case "rule":
                place = {"host": "10.1.2.3", "port": 104, "receives": True}
                values = {"addresses": ["10.1.2.3"], **place}
                admin = ward.team.administrator
                engine.nodes.save(admin, "ARCHIVE", values)
                engine.sendings.save_rule(admin, "all", {"to": ["ARCHIVE"]})
                return "all"
            case "sending_id":
                return "sd_0"
            case "held_id":
                return "hd_0"
            case "release_id":
                return "rl_0"
            case "table":
                return "images"
        return "0"


@pytest.fixture(scope="module")
def mine(ward: Hospital) -> Subjects:
    return Subjects(ward, treated=True)


@pytest.fixture(scope="module")
def others(ward: Hospital) -> Subjects:
    return Subjects(ward, treated=False)


def send(ward: Hospital, route: str, token: str, names: dict[str, str]) -> httpx.Response:
    method, path = route.split(" ")
    options = dict(MAY[route].options)
    if "files" in options:
        [(field_name, (name, _))] = options["files"].items()
        options["files"] = {field_name: (name, ward.picture())}
    if route == "POST /batches/":
        options["data"] = {"patient_id": ward.patient()}
    if route == "POST /patients/":
        ward.made += 1
        options["data"] = {**FORM, "id": f"P-{ward.made}"}
    return ask(method, path.format(**names), token, **options)


def test_the_table_is_complete() -> None:
    described = {
        f"{method.upper()} {path}"
        for path, methods in api.app.openapi()["paths"].items()
        for method in methods
    }
    assert described == set(MAY)


@pytest.mark.parametrize("route", GUARDED)
def test_a_stranger_gets_nothing(ward: Hospital, route: str) -> None:
    for token in ("", "nonsense", "a.b.c"):
        answer = send(ward, route, token, NOWHERE)
        assert answer.status_code == 401, answer.text
        assert answer.json()["type"] == "urn:medsec:not-signed-in"
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("role", sorted(EVERYBODY))
@pytest.mark.parametrize("route", GUARDED)
def test_each_role_gets_what_the_table_says(
    ward: Hospital, mine: Subjects, route: str, role: Role
) -> None:
    expected = MAY[route]
    token = ward.tokens[role]
    if "/auth/sessions/" in route and expected.fresh:  # a session of its own to end
        token = ward.sign_in("admin" if role is A else str(role))["access"]
    answer = send(ward, route, token, mine.names(route, token, fresh=expected.fresh))
    if role in (expected.may or ()):
        assert answer.status_code == expected.status, answer.text
    else:
        assert answer.status_code == 403, answer.text
        assert answer.json()["type"] == "urn:medsec:permission-denied"
    assert answer.headers["cache-control"] == "no-store"
    if route.startswith("DELETE /auth/sessions/"):
        ward.tokens = dict(ward.tokens, **{role: _again(ward, role)})


def _again(ward: Hospital, role: Role) -> str:
    name = "admin" if role is A else str(role)
    setattr(ward.team, str(role), ward.engine.sessions.sign_in(name, PASSWORD).token)
    token: str = ward.sign_in(name)["access"]
    return token


@pytest.mark.parametrize("route", CARED_FOR)
def test_anothers_patient_answers_like_one_that_is_not_there(
    ward: Hospital, others: Subjects, route: str
) -> None:
    token = ward.tokens[D]
    there = send(ward, route, token, others.names(route, token, fresh=False))
    nowhere = send(ward, route, token, NOWHERE)
    assert there.status_code == nowhere.status_code == 404
    assert there.content == nowhere.content
    assert _without_length(there) == _without_length(nowhere)


def _without_length(answer: httpx.Response) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k != "content-length"}


@pytest.mark.parametrize("route", CARED_FOR)
def test_every_cared_for_route_answers_for_ones_own_patient(route: str) -> None:
    """Each of them is in the table above with a success for the doctor."""
    assert MAY[route].status < 300


def test_lists_hold_no_patient_of_others(ward: Hospital, others: Subjects) -> None:
    hidden = others.names("/patients/{patient_id}/images/{image_id}/", "", fresh=False)
    for path in ("/patients/", "/images/", "/patients/?q=musterfrau", "/images/?q=musterfrau"):
        items = ask("GET", path, ward.tokens[D], params={"limit": 200}).json()["items"]
        assert not {i["patient_id"] for i in items} & {hidden["patient_id"]}
    found: Callable[[str], list] = lambda path: ask(  # noqa: E731
        "GET", path, ward.tokens[T], params={"limit": 200}
    ).json()["items"]
    assert hidden["patient_id"] in {i["patient_id"] for i in found("/patients/")}
    assert hidden["image_id"] in {i["image_id"] for i in found("/images/")}


def test_broken_glass_opens_a_patient_for_a_while_and_is_reviewed(
    ward: Hospital,
) -> None:
    patient_id = ward.patient()
    path, token = f"/patients/{patient_id}/", ward.tokens[D]
    assert ask("GET", path, token).status_code == 404
    emergency = {"patient": patient_id, "reason": "found unconscious in the corridor"}
    broken = ask("POST", "/emergency-access/", token, json=emergency)
    assert broken.status_code == 201, broken.text
    glass = f"/emergency-access/{broken.json()['glass_id']}/"
    assert ask("GET", path, token).status_code == 200
    assert ask("DELETE", glass, token).status_code == 204
    assert ask("GET", path, token).status_code == 404
    [listed] = ask("GET", "/emergency-access/", ward.tokens[A]).json()
    assert (listed["username"], listed["open"]) == ("doctor", False)
    verdict = {"verdict": "justified", "remark": "an emergency indeed"}
    assert ask("POST", f"{glass}review/", ward.tokens[D], json=verdict).status_code == 403
    assert ask("POST", f"{glass}review/", ward.tokens[A], json=verdict).status_code == 204

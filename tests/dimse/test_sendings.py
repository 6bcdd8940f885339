"""What goes out: rules, the queue, peers that refuse, stall and die, and originals."""

from __future__ import annotations

import hashlib
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless
from pynetdicom import AE, AllStoragePresentationContexts, evt

import dimse
from dimse import sending
from engine import Host, Sending, SendingState, errors, server_certificate
from engine.store import sendings as store
from tests import builders
from tests.conftest import WHY, Ward
from tests.dimse.peers import FORGIVES_PYNETDICOM, free_port, storescp
from tests.dimse.test_receiver import openssl
from tests.rest import BOX

ROOT = Path(__file__).parents[2]
PIXELS = builders.labelled()[0]
pytestmark = FORGIVES_PYNETDICOM


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_ANSWER_SECONDS", 3.0)
    monkeypatch.setattr(sending, "_CONNECT_SECONDS", 2.0)


def destination(ward: Ward, port: int, title: str = "ARCHIVE", **values: Any) -> None:
    place = {"addresses": ["127.0.0.1"], "host": "127.0.0.1", "port": port, "receives": True}
    ward.engine.nodes.save(ward.team.administrator, title, {**place, **values})


def rule(ward: Ward, name: str = "all", **values: Any) -> None:
    ward.engine.sendings.save_rule(ward.team.administrator, name, {"to": ["ARCHIVE"], **values})


def seal(ward: Ward, number: int = 1, **kind: Any) -> str:
    data = builders.dicom(PIXELS, instance=number, **kind)
    return ward.seal(data, f"{number}.dcm", [BOX])


def queue(ward: Ward) -> list[Sending]:
    context = ward.engine.context  # sessions of the tests end when their clock is set on
    return context.sendings.all(context.database.read(), "", "", 100, 0)


def states(ward: Ward) -> list[SendingState]:
    return [entry.state for entry in queue(ward)]


def send(ward: Ward, title: str = "ARCHIVE") -> int:
    return ward.engine.sendings.send_due(title, dimse.Courier(ward.engine).deliver)


def events(ward: Ward, action: str = "image.send") -> list[tuple[str, str]]:
    entries = ward.engine.context.audit.entries(limit=300)
    return [(e.actor, e.outcome) for e in reversed(entries) if e.action == action]


# --- rules ------------------------------------------------------------------------------------


def test_what_is_sealed_goes_to_the_nodes_of_its_rules(ward: Ward, tmp_path: Path) -> None:
    with storescp(tmp_path / "got") as port:
        destination(ward, port)
        rule(ward)
        image_id = seal(ward)
        [entry] = queue(ward)
        assert (entry.image_id, entry.state, entry.cause) == (image_id, "waiting", "rule all")
        assert send(ward) == 1
    [got] = [pydicom.dcmread(p) for p in (tmp_path / "got").iterdir()]
    assert got.PatientIdentityRemoved == "YES"
    assert len(np.unique(got.pixel_array[BOX.region.slices[1:]])) < 5
    assert states(ward) == ["sent"]
    assert events(ward) == [("system", "ok")]


@pytest.mark.parametrize(
    ("values", "goes"),
    [
        ({"modality": "DX"}, True),
        ({"modality": "US"}, False),
        ({"sender": "CT1"}, False),  # a technician brought it
        ({"profile": "general"}, True),
        ({"enabled": False}, False),
    ],
)
def test_a_rule_sends_what_it_says(ward: Ward, values: dict[str, Any], goes: bool) -> None:
    destination(ward, 104)
    ward.engine.nodes.save(ward.team.administrator, "CT1", {"addresses": ["127.0.0.1"]})
    image_id = seal(ward)
    profile = ward.engine.images.get(ward.team.doctor, image_id).profile
    if "profile" in values:
        values = {"profile": profile}
    rule(ward, **values)
    seal(ward, 2)
    assert len(queue(ward)) == goes


def test_a_rule_of_a_node_sends_what_came_from_it(ward: Ward) -> None:
    from tests.service.test_reception import instance, known, node

    destination(ward, 104)
    known(ward)
    token = node(ward)
    rule(ward, sender="CT1")
    ward.engine.reception.receive(token, instance())
    [draft] = ward.engine.drafts.waiting(ward.team.technician)
    ward.engine.drafts.seal(ward.team.technician, draft.image_id, [BOX], confirm="Looked.")
    assert [entry.image_id for entry in queue(ward)] == [draft.image_id]


def test_a_picture_that_is_not_dicom_is_not_queued(ward: Ward) -> None:
    destination(ward, 104)
    rule(ward)
    image_id = ward.seal(builders.png(PIXELS), found=[BOX])
    assert queue(ward) == []
    with pytest.raises(errors.InputError, match="Only DICOM"):
        ward.engine.sendings.forward(ward.team.doctor, image_id, "ARCHIVE")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("", {"to": ["ARCHIVE"]}),
        ("x" * 41, {"to": ["ARCHIVE"]}),
        ("a", {"to": []}),
        ("a", {"to": ["STRANGER"]}),
        ("a", {"to": ["SENDER"]}),  # which receives nothing
        ("a", {"to": ["ARCHIVE"], "name": "b"}),
        ("a", {"to": ["ARCHIVE"], "nonsense": 1}),
        ("a", {"to": ["ARCHIVE"], "enabled": "yes"}),
    ],
)
def test_a_rule_that_is_not_valid_is_refused(ward: Ward, name: str, values: Any) -> None:
    destination(ward, 104)
    ward.engine.nodes.save(ward.team.administrator, "SENDER", {"addresses": ["127.0.0.1"]})
    with pytest.raises(errors.InputError):
        ward.engine.sendings.save_rule(ward.team.administrator, name, values)
    assert ward.engine.sendings.rules(ward.team.administrator) == {}


def test_an_altered_rule_forwards_nothing_and_sealing_goes_on(ward: Ward) -> None:
    destination(ward, 104)
    rule(ward)
    with ward.engine.context.database.write() as tx:
        tx.run("DELETE FROM forwardings")
    ward.engine.context.forward_rules.forget()
    seal(ward)
    assert queue(ward) == []
    with pytest.raises(errors.SealBroken):
        ward.engine.sendings.rules(ward.team.administrator)


# --- peers that refuse, stall and die ---------------------------------------------------------


def refusing(status: int) -> Any:
    """A peer that answers each instance with a status."""
    ae = AE("ARCHIVE")
    ae.supported_contexts = AllStoragePresentationContexts
    return ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: status)]
    )


@pytest.mark.parametrize(
    ("status", "state", "said"),
    [
        (0xA700, "waiting", "no room"),
        (0x0124, "waiting", "not allow"),
        (0xC001, "failed", "cannot read"),
        (0xA900, "failed", "does not match"),
        (0xB000, "sent", ""),
    ],
)
def test_a_peer_that_refuses_is_asked_again_where_that_can_help(
    ward: Ward, status: int, state: str, said: str
) -> None:
    server = refusing(status)
    destination(ward, server.server_address[1])
    rule(ward)
    seal(ward)
    try:
        send(ward)
    finally:
        server.shutdown()
    [entry] = queue(ward)
    assert entry.state == state
    assert said in entry.error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--refuse"], "rejected the association"),
        (["--abort-during"], "cut the connection"),
        (["--sleep-during", "9"], "no answer in time"),
        (None, "cannot be reached"),
    ],
)
def test_a_peer_that_does_not_take_it_is_tried_again_later(
    ward: Ward, tmp_path: Path, options: list[str] | None, said: str
) -> None:
    seal_first = seal(ward)
    with storescp(tmp_path / "bad", *(options or [])) as port:
        destination(ward, port if options is not None else free_port())
        ward.engine.sendings.forward(ward.team.doctor, seal_first, "ARCHIVE")
        assert send(ward) == 0
    [entry] = queue(ward)
    assert (entry.state, entry.attempts) == ("waiting", 1)
    assert said in entry.error
    assert entry.next_at > ward.engine.context.host.now()
    assert send(ward) == 0  # not before its time
    assert queue(ward)[0].attempts == 1
    with storescp(tmp_path / "good") as port:
        destination(ward, port)
        ward.engine.context.host.advance(minutes=2)  # type: ignore[attr-defined]
        assert send(ward) == 1
    assert states(ward) == ["sent"]
    assert len(list((tmp_path / "good").iterdir())) == 1


def test_waits_grow_and_at_last_it_is_given_up_and_told(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_ATTEMPTS", 4)
    destination(ward, free_port())
    rule(ward)
    seal(ward)
    host: Any = ward.engine.context.host
    waits = []
    for _ in range(3):
        send(ward)
        waits.append((queue(ward)[0].next_at - host.now()).total_seconds())
        host.advance(hours=1)
    assert waits == [60, 120, 240]
    send(ward)
    assert states(ward) == ["failed"]
    assert events(ward) == [("system", "failed")]


def test_one_refused_image_does_not_keep_the_others(ward: Ward) -> None:
    answers = iter([0, 0xC000, 0])
    ae = AE("ARCHIVE")
    ae.supported_contexts = AllStoragePresentationContexts
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: next(answers))]
    )
    destination(ward, server.server_address[1])
    rule(ward)
    for number in range(3):
        seal(ward, number + 1)
    try:
        assert send(ward) == 2
    finally:
        server.shutdown()
    assert sorted(states(ward)) == ["failed", "sent", "sent"]


def test_a_coding_that_the_peer_does_not_take_is_undone(ward: Ward, tmp_path: Path) -> None:
    with storescp(tmp_path / "got", "+xi") as port:  # implicit VR alone
        destination(ward, port)
        rule(ward)
        seal(ward, syntax=JPEGLSLossless)
        assert send(ward) == 1
    [got] = [pydicom.dcmread(p) for p in (tmp_path / "got").iterdir()]
    outside = got.pixel_array.copy()
    assert np.array_equal(outside[60:], PIXELS[60:])


def test_a_node_may_get_identifiers_of_its_own(ward: Ward, tmp_path: Path) -> None:
    names = []
    for title in ("ONE", "OTHER"):
        with storescp(tmp_path / title) as port:
            destination(ward, port, title, renames=True)
            if not names:
                image_id = seal(ward)
            ward.engine.sendings.forward(ward.team.doctor, image_id, title)
            assert send(ward, title) == 1
        [got] = [pydicom.dcmread(p) for p in (tmp_path / title).iterdir()]
        names.append({str(got.PatientID), got.StudyInstanceUID, got.SOPInstanceUID})
    assert not names[0] & names[1]


def test_a_node_may_get_copies_by_a_de_identification_profile(ward: Ward, tmp_path: Path) -> None:
    said = {**builders.person(), "StudyDate": "20210419", "SeriesDescription": "Axial of Doe"}
    with storescp(tmp_path / "got") as port:
        destination(ward, port, deidentification="research")
        rule(ward)
        seal(ward, **said)
        assert send(ward) == 1
    [got] = [pydicom.dcmread(p) for p in (tmp_path / "got").iterdir()]
    codes = [item.CodeValue for item in got.DeidentificationMethodCodeSequence]
    assert {"113105", "113107", "113108", "113109"} < set(codes)
    assert (got.SeriesDescription, got.PatientAge) == ("Axial of", said["PatientAge"])
    assert got.StudyDate not in ("", said["StudyDate"])
    assert np.array_equal(got.pixel_array[60:], PIXELS[60:])


def test_a_patient_who_is_not_in_the_nodes_list_is_not_sent(ward: Ward, tmp_path: Path) -> None:
    text = "number,pseudonym\nP-none,LYON-1\n"
    ward.engine.recipients.save_pseudonyms(ward.team.doctor, "ARCHIVE", text)
    with storescp(tmp_path / "got") as port:
        destination(ward, port, deidentification="basic")
        rule(ward)
        seal(ward)
        assert send(ward) == 0
    assert states(ward) == ["failed"]
    assert not list((tmp_path / "got").iterdir())
    for wrong in ({"deidentification": "none"}, {"deidentification": "basic", "renames": True}):
        with pytest.raises(errors.InputError):
            destination(ward, 104, **wrong)


# --- what happens to entries ------------------------------------------------------------------


def test_entries_are_cancelled_and_tried_again(ward: Ward, tmp_path: Path) -> None:
    destination(ward, free_port())
    rule(ward)
    seal(ward)
    token, [entry] = ward.team.administrator, queue(ward)
    send(ward)
    ward.engine.sendings.cancel(token, entry.sending_id)
    assert states(ward) == ["cancelled"]
    with pytest.raises(errors.InputError, match="cancelled already"):
        ward.engine.sendings.retry(token, entry.sending_id)
    ward.engine.sendings.forward(ward.team.doctor, entry.image_id, "ARCHIVE")
    again = next(e for e in queue(ward) if e.state == "waiting")
    send(ward)
    with storescp(tmp_path / "got") as port:
        destination(ward, port)
        ward.engine.sendings.retry(token, again.sending_id)
        assert send(ward) == 1
    assert ward.engine.sendings.counts(token) == {
        ("ARCHIVE", "cancelled"): 1, ("ARCHIVE", "sent"): 1,
    }  # fmt: skip
    with pytest.raises(errors.NotFound):
        ward.engine.sendings.cancel(token, "sd_none")


def test_the_same_image_waits_once_for_a_node(ward: Ward) -> None:
    destination(ward, 104)
    rule(ward)
    rule(ward, "another")
    image_id = seal(ward)
    ward.engine.sendings.forward(ward.team.doctor, image_id, "ARCHIVE")
    assert len(queue(ward)) == 1


def test_a_withdrawn_image_is_not_sent(ward: Ward, tmp_path: Path) -> None:
    with storescp(tmp_path / "got") as port:
        destination(ward, port)
        rule(ward)
        ward.engine.withdrawals.flag(ward.team.doctor, seal(ward), "A name is visible.")
        assert send(ward) == 0
    assert states(ward) == ["cancelled"]
    assert list((tmp_path / "got").iterdir()) == []


def test_a_node_that_may_not_receive_any_more_gets_nothing(ward: Ward, tmp_path: Path) -> None:
    with storescp(tmp_path / "got") as port:
        destination(ward, port)
        rule(ward)
        seal(ward)
        destination(ward, port, receives=False)
        assert send(ward) == 0
    [entry] = queue(ward)
    assert (entry.state, "does not receive" in entry.error) == ("waiting", True)


def test_one_destination_that_stalls_keeps_no_other_waiting(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_ANSWER_SECONDS", 20.0)
    with (
        storescp(tmp_path / "slow", "--sleep-during", "15") as slow,
        storescp(tmp_path / "got") as fast,
    ):
        destination(ward, slow, "ARCHIVE")
        destination(ward, fast, "OTHER")
        rule(ward, to=["ARCHIVE", "OTHER"])
        seal(ward)
        courier = dimse.Courier(ward.engine)
        ward.engine.sendings.start(courier.deliver)
        wait_until(lambda: "sent" in states(ward))
        courier.stop()
        ward.engine.sendings.stop()
        wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("sending")])
    assert {e.destination for e in queue(ward) if e.state == "sent"} == {"OTHER"}


def wait_until(done: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def test_what_was_sent_long_ago_leaves_the_queue(ward: Ward) -> None:
    destination(ward, 104)
    rule(ward)
    for number in (1, 2):
        seal(ward, number)
    old, _ = queue(ward)
    ward.engine.sendings.cancel(ward.team.administrator, old.sending_id)
    ward.engine.context.host.advance(days=31)  # type: ignore[attr-defined]
    ward.engine.upkeep.tend()
    assert states(ward) == ["waiting"]


def test_over_tls_only_the_certificate_that_was_entered_gets_images(
    ward: Ward, tmp_path: Path
) -> None:
    for name, issuer in (("ca", ""), ("peer", "ca"), ("stranger", "")):
        openssl(tmp_path, name, issuer)
    live = ward.engine.context.live
    live.use(replace(live.settings, dicom_ca=tmp_path / "ca.pem"))
    host = Host(ward.engine.settings.data / "blobs")
    own = server_certificate(ward.engine.settings, host)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "peer.pem").read_text())
    right = hashlib.sha256(der).hexdigest()
    image_id = seal(ward)
    for name, fingerprint, sent in (
        ("stranger", "", 0),  # not of the authority
        ("peer", "0" * 64, 0),  # another one was entered
        ("peer", right, 1),
    ):
        key, certificate = (str(tmp_path / f"{name}.{kind}") for kind in ("key", "pem"))
        tls = ["+tls", key, certificate, "+cf", str(own.path)]
        with storescp(tmp_path / f"got-{sent}", *tls) as port:
            destination(ward, port, tls=True, certificate=fingerprint)
            if not queue(ward):
                ward.engine.sendings.forward(ward.team.doctor, image_id, "ARCHIVE")
            else:
                [entry] = queue(ward)
                ward.engine.sendings.retry(ward.team.administrator, entry.sending_id)
            assert send(ward) == sent, queue(ward)
    assert states(ward) == ["sent"]


# --- originals --------------------------------------------------------------------------------


def test_an_original_goes_to_a_node_that_may_have_it_under_a_reason(
    ward: Ward, tmp_path: Path
) -> None:
    data = builders.dicom(PIXELS, syntax=JPEGLSLossless)
    image_id = ward.seal(data, "a.dcm", [BOX])
    with storescp(tmp_path / "got", "+xa") as port:
        destination(ward, port, originals=True)
        ward.engine.sendings.send_original(ward.team.doctor, image_id, "ARCHIVE", WHY)
        assert events(ward) == [("doctor", "requested")]
        assert events(ward, "image.restore") == []  # nothing is opened before it is sent
        assert send(ward) == 1, queue(ward)
    [path] = (tmp_path / "got").iterdir()
    got, sent = pydicom.dcmread(path), pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
    assert got.PatientName == sent.PatientName
    assert np.array_equal(got.pixel_array, PIXELS)
    assert events(ward) == [("doctor", "requested"), ("doctor", "ok")]
    assert events(ward, "image.restore") == [("doctor", "completed")]
    assert events(ward, "region.decrypt") == [("doctor", "ok")]
    entries = ward.engine.audit.entries(ward.team.administrator, limit=100)
    [asked] = [e for e in entries if e.outcome == "requested"]
    assert (asked.reason, asked.detail["to"]) == (WHY, "ARCHIVE")


def test_a_study_of_originals_is_one_request(ward: Ward, tmp_path: Path) -> None:
    for number in (1, 2):
        seal(ward, number)
    [study] = ward.engine.studies.of_patient(ward.team.doctor, ward.patient_id)
    with storescp(tmp_path / "got") as port:
        destination(ward, port, originals=True)
        ward.engine.sendings.send_original_study(ward.team.doctor, study.study_id, "ARCHIVE", WHY)
        assert send(ward) == 2
    outcomes = [outcome for _, outcome in events(ward)]
    assert outcomes == ["requested", "ok", "ok"]
    assert [o for _, o in events(ward, "image.restore")] == ["completed"] * 2


def test_an_original_is_refused_without_right_reason_or_destination(ward: Ward) -> None:
    image_id, sendings = seal(ward), ward.engine.sendings
    destination(ward, 104)
    with pytest.raises(errors.InputError, match="may not have originals"):
        sendings.send_original(ward.team.doctor, image_id, "ARCHIVE", WHY)
    destination(ward, 104, originals=True)
    with pytest.raises(errors.InputError, match="reason"):
        sendings.send_original(ward.team.doctor, image_id, "ARCHIVE", " ")
    with pytest.raises(errors.PermissionDenied):
        sendings.send_original(ward.team.technician, image_id, "ARCHIVE", WHY)
    with pytest.raises(errors.InputError, match="does not receive"):
        sendings.send_original(ward.team.doctor, image_id, "STRANGER", WHY)
    assert queue(ward) == []
    assert ("doctor", "refused") in events(ward)


@pytest.mark.parametrize("change", ["account", "classes", "node", "row", "log"])
def test_an_original_is_not_sent_when_it_may_not_be_any_more(
    ward: Ward, tmp_path: Path, change: str
) -> None:
    image_id, engine, team = seal(ward), ward.engine, ward.team
    with storescp(tmp_path / "got") as port:
        destination(ward, port, originals=True)
        engine.sendings.send_original(team.doctor, image_id, "ARCHIVE", WHY)
        if change == "account":
            engine.people.set_enabled(team.administrator, "doctor", False)
        if change == "classes":
            engine.care.set_restorable_classes(team.administrator, "doctor", ["face"])
        if change == "node":
            destination(ward, port)
        if change == "row":  # somebody writes into the queue
            with engine.context.database.write() as tx:
                tx.run("UPDATE sendings SET cause = 'rq_made_up'")
        if change == "log":
            with engine.context.database.write() as tx:
                tx.run("UPDATE sendings SET original = true, destination = 'ARCHIVE'")
                tx.run("UPDATE sendings SET queued_by = 'researcher'")
        assert send(ward) == 0
    assert list((tmp_path / "got").iterdir()) == []
    assert states(ward) == ["failed"]


# --- a server that is killed ------------------------------------------------------------------


@pytest.mark.slow  # a server of its own, twice
def test_a_server_killed_amid_its_queue_loses_nothing_and_sends_nothing_twice(
    ward: Ward,
) -> None:
    """Killed before its peer answers: in the end the peer has each instance once."""
    count, kills = 4, {2}
    taken: list[str] = []
    running: list[subprocess.Popen[bytes]] = []

    def keep(event: evt.Event) -> int:
        taken.append(str(event.request.AffectedSOPInstanceUID))  # type: ignore[union-attr]
        if len(taken) in kills:
            running[-1].kill()
            running[-1].wait(30)
        return 0

    ae = AE("ARCHIVE")
    ae.supported_contexts = AllStoragePresentationContexts
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    destination(ward, server.server_address[1])
    rule(ward)
    for number in range(count):
        seal(ward, number + 1)
    settings = ward.engine.settings
    ward.engine.close()
    command = [
        sys.executable, "-m", "tests.dimse.sender", str(settings.data), str(settings.key_file)
    ]  # fmt: skip
    try:
        for turn in range(len(kills) + 1):
            child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
            running.append(child)
            _, errs = child.communicate(timeout=90)
            killed = turn < len(kills)
            assert child.returncode == (-signal.SIGKILL if killed else 0), errs.decode()[-3000:]
    finally:
        server.shutdown()
    assert len(set(taken)) == count
    assert len(taken) == count + len(kills)  # only what was not answered came again

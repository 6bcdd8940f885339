"""Notices by e-mail, against a mail server on this machine with a certificate of its own."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from email.message import Message
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine import Engine, Settings, errors
from engine.permissions import Role
from engine.records import Caller
from engine.settings import Secret
from engine.store.audit import Event
from engine.store.outbox import MOST_ATTEMPTS, MOST_WAITING
from tests.conftest import PASSWORD, Team
from tests.fakes import FakeHost, ScriptedDetector

URGENT = "unconscious in the emergency room"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - dt.timedelta(days=1))
        .not_valid_after(start + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    files = folder / "mail.pem", folder / "mail.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@dataclass
class Post:
    """What arrived, and what the server shall answer."""

    got: list[Message] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    answer: str = "250 OK"

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.got.append(message_from_bytes(envelope.content))
            self.encrypted.append(session.ssl is not None)
        return self.answer


def _signs_in(server, session, envelope, mechanism, data) -> AuthResult:
    right = isinstance(data, LoginPassword) and data.password == b"mail password"
    return AuthResult(success=right, handled=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def post(tmp_path: Path) -> Iterator[tuple[Post, Controller]]:
    """A mail server that wants STARTTLS and a password."""
    pem, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, key)
    handler = Post()
    controller = Controller(
        handler, hostname="127.0.0.1", port=_free_port(), tls_context=context,
        require_starttls=True, authenticator=_signs_in, auth_required=True,
    )  # fmt: skip
    controller.start()
    yield handler, controller
    controller.stop()


@pytest.fixture
def mailing(
    settings: Settings, host: FakeHost, post: tuple[Post, Controller], tmp_path: Path
) -> Iterator[tuple[Engine, Team, Post]]:
    handler, controller = post
    on = replace(
        settings, care_relation=True, smtp_host="127.0.0.1", smtp_port=controller.port,
        smtp_user="medsec", smtp_password=Secret("mail password"),
        smtp_ca_file=tmp_path / "mail.pem", mail_from="medsec@hospital.example",
        mail_to="it@hospital.example, privacy@hospital.example",
    )  # fmt: skip
    engine = Engine.open(on, host, detector=ScriptedDetector(on))
    team = Team(engine)
    with engine.context.database.write() as tx:
        tx.run("DELETE FROM outbox")  # that these accounts were made
    yield engine, team, handler
    engine.close()


def test_glass_that_is_broken_is_told_under_tls_without_the_patient(
    mailing: tuple[Engine, Team, Post],
) -> None:
    engine, team, post = mailing
    patient = engine.patients.create(team.technician, "P-4711", "Erika Musterfrau", 61)
    glass = engine.care.break_glass(team.doctor, "P-4711", URGENT)
    assert post.got == []  # not in the transaction
    assert engine.context.outbox.deliver() == 1
    [message] = post.got
    assert post.encrypted == [True]
    assert message["Subject"] == "[MedSec] Emergency access to a patient"
    assert message["To"] == "it@hospital.example, privacy@hospital.example"
    text = message.as_string()
    assert "Account: doctor" in text
    for word in ("P-4711", "Erika", patient.patient_id, URGENT, "unconscious", glass.glass_id):
        assert word not in text
    [notice] = engine.health.notices(team.administrator)
    assert (notice.attempts, notice.gave_up) == (1, False)
    assert notice.sent_at is not None
    assert engine.context.outbox.deliver() == 0


def test_lockouts_requests_and_failed_backups_are_told_once_an_hour(
    mailing: tuple[Engine, Team, Post], host: FakeHost
) -> None:
    engine, _, post = mailing
    for _ in range(8):
        with pytest.raises(errors.AccessError):
            engine.sessions.sign_in("doctor", "a wrong guess of four words")
    engine.people.request("newcomer", "New Comer", Role.DOCTOR, PASSWORD)
    system = Caller("system", Role.OPERATOR, "")
    for _ in range(2):
        engine.context.audit.record(
            system, Event("backup.make", "failed", detail={"why": "storage-error"})
        )
    engine.context.outbox.deliver()
    subjects = sorted(str(m["Subject"]) for m in post.got)
    assert subjects == [
        "[MedSec] Account locked",
        "[MedSec] Account requested",
        "[MedSec] Backup failed",
    ]
    host.advance(hours=2)
    engine.context.audit.record(
        system, Event("backup.make", "failed", detail={"why": "storage-error"})
    )
    assert engine.context.outbox.deliver() == 1
    assert "New Comer" not in "".join(m.as_string() for m in post.got)


def test_a_clock_that_was_ahead_puts_no_notice_off(
    mailing: tuple[Engine, Team, Post], host: FakeHost
) -> None:
    engine, _, post = mailing
    system = Caller("system", Role.OPERATOR, "")
    failed = Event("backup.make", "failed", detail={"why": "storage-error"})
    host.advance(days=400)
    engine.context.audit.record(system, failed)
    host.advance(days=-400)
    assert engine.context.outbox.deliver() == 1  # what was to go in a year goes now
    engine.context.audit.record(system, failed)
    assert engine.context.outbox.deliver() == 1
    engine.context.audit.record(system, failed)
    assert engine.context.outbox.deliver() == 0  # within the hour, once
    host.advance(hours=2)
    post.answer = "451 try again later"
    engine.context.audit.record(system, failed)
    engine.context.outbox.deliver()
    post.answer = "250 OK"
    host.advance(seconds=30)
    assert engine.context.outbox.deliver() == 0  # it still waits for its turn


def test_a_backup_without_a_stored_file_is_told(mailing: tuple[Engine, Team, Post]) -> None:
    engine, _, post = mailing
    system = Caller("system", Role.OPERATOR, "")
    engine.context.audit.record(system, Event("backup.make", detail={"name": "whole"}))
    engine.context.audit.record(system, Event("backup.make", detail={"why": "files-missing"}))
    engine.context.outbox.deliver()
    assert [m["Subject"] for m in post.got] == ["[MedSec] Files missing in a backup"]


def test_a_change_that_is_rolled_back_tells_nobody(mailing: tuple[Engine, Team, Post]) -> None:
    engine, _, _ = mailing
    kept = []

    def half() -> None:
        with engine.context.database.write() as tx:
            engine.context.audit.append(
                tx, Caller("system", Role.OPERATOR, ""), Event("glass.break")
            )
            kept.append(tx.count("SELECT count(*) FROM outbox"))
            raise errors.StorageError("the change fails")

    with pytest.raises(errors.StorageError):
        half()
    assert kept == [1]
    assert engine.context.outbox.notices() == []


def test_an_account_that_is_taken_over_is_told_to_the_others(
    mailing: tuple[Engine, Team, Post],
) -> None:
    """Who manages accounts can become a doctor in two calls; not without a word."""
    engine, team, _ = mailing
    engine.people.create(team.administrator, "d2", "Second Doctor", Role.DOCTOR, PASSWORD)
    engine.people.reset_password(team.administrator, "doctor", "five unrelated words are better")
    engine.people.reset_password(team.administrator, "d2", "five unrelated words are better")
    engine.people.reset_second_factor(team.administrator, "doctor")
    engine.people.set_role(team.administrator, "researcher", Role.DOCTOR)
    told = Counter(n.subject for n in engine.health.notices(team.administrator))
    assert told["Account created"] == 1  # within the hour, once
    assert told["Password reset"] == 2
    assert told["Second factor removed"] == 1
    assert told["Role of an account changed"] == 1


def test_a_server_that_refuses_is_tried_again_later_and_given_up_at_last(
    mailing: tuple[Engine, Team, Post], host: FakeHost
) -> None:
    engine, team, post = mailing
    engine.patients.create(team.technician, "P-1", "Erika Musterfrau")
    engine.care.break_glass(team.doctor, "P-1", URGENT)
    post.answer = "451 try again later"
    assert engine.context.outbox.deliver() == 0
    assert engine.context.outbox.deliver() == 0  # too soon: not even tried
    assert engine.context.outbox.notices()[0].attempts == 1
    host.advance(minutes=2)
    post.answer = "250 OK"
    assert engine.context.outbox.deliver() == 1
    first = post.got[0]["Message-ID"]
    host.advance(minutes=2)
    engine.context.audit.record(Caller("system", Role.OPERATOR, ""), Event("glass.break"))
    post.answer = "554 never"
    for _ in range(MOST_ATTEMPTS + 3):
        engine.context.outbox.deliver()
        host.advance(hours=1, minutes=1)
    assert [n.attempts for n in engine.context.outbox.notices() if n.gave_up] == [MOST_ATTEMPTS]
    assert first == f"<{engine.context.outbox.notices()[1].mail_id}@hospital.example>"
    host.advance(days=31)
    engine.context.outbox.forget_old()
    assert engine.context.outbox.notices() == []


def test_a_server_that_is_away_keeps_every_notice(
    mailing: tuple[Engine, Team, Post], post: tuple[Post, Controller], host: FakeHost
) -> None:
    engine, team, handler = mailing
    for number in range(3):
        engine.patients.create(team.technician, f"P-{number}", "N")
        engine.care.break_glass(team.doctor, f"P-{number}", URGENT)
    away = replace(engine.settings, smtp_port=1)
    object.__setattr__(engine.context.outbox, "_settings", away)
    assert engine.context.outbox.deliver() == 0
    object.__setattr__(engine.context.outbox, "_settings", engine.settings)
    host.advance(minutes=2)
    assert engine.context.outbox.deliver() == 3
    assert len({m["Message-ID"] for m in handler.got}) == 3


def test_a_certificate_nobody_vouches_for_gets_no_mail_and_no_password(
    mailing: tuple[Engine, Team, Post],
) -> None:
    engine, team, post = mailing
    object.__setattr__(
        engine.context.outbox, "_settings", replace(engine.settings, smtp_ca_file=None)
    )
    with pytest.raises(errors.MailFailed):
        engine.health.send_test_mail(team.administrator)
    assert post.got == []


def test_a_test_arrives_and_a_wrong_password_is_said(mailing: tuple[Engine, Team, Post]) -> None:
    engine, team, post = mailing
    engine.health.send_test_mail(team.administrator)
    assert post.got[0]["Subject"] == "[MedSec] Test e-mail from MedSec"
    wrong = replace(engine.settings, smtp_password=Secret("another one"))
    object.__setattr__(engine.context.outbox, "_settings", wrong)
    with pytest.raises(errors.MailFailed) as caught:
        engine.health.send_test_mail(team.administrator)
    assert "another one" not in str(vars(caught.value))
    outcomes = [e.outcome for e in engine.audit.entries(team.administrator, query="mail.test")]
    assert outcomes == ["failed", "ok"]


def test_without_a_server_nothing_is_kept(engine: Engine, team: Team) -> None:
    engine.context.audit.record(Caller("system", Role.OPERATOR, ""), Event("glass.break"))
    assert engine.health.notices(team.administrator) == []
    with pytest.raises(errors.InputError):
        engine.health.send_test_mail(team.administrator)


def test_the_outbox_is_bounded(mailing: tuple[Engine, Team, Post]) -> None:
    engine, _, _ = mailing
    events = [Event("glass.break")] * (MOST_WAITING + 50)
    engine.context.audit.record(Caller("system", Role.OPERATOR, ""), *events)
    assert len(engine.context.outbox.notices()) == MOST_WAITING


def test_the_server_sends_by_itself(
    mailing: tuple[Engine, Team, Post], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, team, post = mailing
    monkeypatch.setattr("engine.service.upkeep.SEND_SECONDS", 0.01)
    engine.patients.create(team.technician, "P-1", "Erika Musterfrau")
    engine.care.break_glass(team.doctor, "P-1", URGENT)
    sent = threading.Event()
    real = engine.context.outbox.deliver

    def deliver() -> int:
        count = real()
        if count:
            sent.set()
        return count

    monkeypatch.setattr(engine.context.outbox, "deliver", deliver)
    engine.upkeep.start()
    assert sent.wait(30)
    assert len(post.got) == 1


@pytest.mark.parametrize("wrong", [
    {"mail_to": ""},
    {"mail_from": ""},
    {"mail_from": "nobody"},
    {"mail_to": "it@hospital.example\r\nBcc: thief@example.com"},
    {"smtp_security": "none", "smtp_host": "mail.hospital.example"},
    {"smtp_security": "ssl"},
    {"smtp_port": 0},
])  # fmt: skip
def test_settings_that_would_lose_or_bare_mail_are_refused(settings: Settings, wrong: dict) -> None:
    right = {
        "smtp_host": "localhost", "mail_from": "medsec@hospital.example",
        "mail_to": "it@hospital.example",
    }  # fmt: skip
    replace(settings, **right)
    with pytest.raises(errors.SettingsError):
        replace(settings, **{**right, **wrong})

"""The second factor: enrolment, codes that are good once, recovery codes, and what it guards."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyotp
import pytest

from engine import Engine, Permission, Role, Settings, errors
from engine.crypto.vault import seal_field
from engine.host import Folder
from engine.people.second_factor import CHALLENGE
from tests.conftest import PASSWORD, Team
from tests.fakes import FakeHost, ScriptedDetector


class Phone:
    """An authenticator application on a clock that may be wrong.

    Args:
        behind: Seconds that its clock is late.
    """

    def __init__(self, secret: str, host: FakeHost, behind: int = 0) -> None:
        self._totp = pyotp.TOTP(secret)
        self._host = host
        self._behind = behind

    def code(self, steps: int = 0) -> str:
        now = self._host.now().replace(tzinfo=UTC).timestamp() - self._behind
        return self._totp.at(now, counter_offset=steps)


def enrol(engine: Engine, host: FakeHost, token: str) -> tuple[Phone, tuple[str, ...]]:
    phone = Phone(engine.account.begin_second_factor(token, PASSWORD).secret, host)
    codes = engine.account.confirm_second_factor(token, phone.code())
    host.advance(seconds=30)  # the next code, since this one is spent
    return phone, codes


def test_the_algorithm_is_that_of_the_rfc(engine: Engine, team: Team, host: FakeHost) -> None:
    # RFC 6238, appendix B: the seed "12345678901234567890", the last six of eight digits.
    factors = engine.context.factors
    with engine.context.database.write() as tx:
        factors.begin(tx, "doctor")
        sealed = tx.one("SELECT secret FROM second_factors WHERE username = 'doctor'")
        assert sealed is not None
        rfc = seal_field(
            factors._key, "second-factor/doctor", b"GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", host.random
        )
        tx.run("UPDATE second_factors SET secret = $1, confirmed_at = $2", rfc, host.now())
    for moment, code in (
        ("1970-01-01T00:00:59", "287082"),
        ("2005-03-18T01:58:29", "081804"),
        ("2005-03-18T01:58:31", "050471"),
        ("2009-02-13T23:31:30", "005924"),
        ("2033-05-18T03:33:20", "279037"),
    ):
        host.clock = datetime.fromisoformat(moment)
        with engine.context.database.write() as tx:
            assert factors.spend(tx, "doctor", code) == "totp", moment


def test_the_password_alone_opens_nothing_any_more(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(engine, host, team.doctor)
    with pytest.raises(errors.CodeNeeded) as asked:
        engine.sessions.sign_in("doctor", PASSWORD)
    assert asked.value.challenge not in str(asked.value) + str(asked.value.facts)
    with pytest.raises(errors.CodeNeeded):
        engine.sessions.sign_in_api("doctor", PASSWORD)
    assert [s.current for s in engine.sessions.mine(team.doctor)] == [True]
    session = engine.sessions.finish_sign_in(asked.value.challenge, phone.code())
    assert engine.sessions.whoami(session.token).username == "doctor"
    host.advance(seconds=30)
    pair = engine.sessions.sign_in_api("doctor", PASSWORD, code=phone.code())
    assert engine.sessions.whoami(pair.access).username == "doctor"


def test_a_wrong_password_does_not_tell_of_a_second_factor(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(engine, host, team.doctor)
    said = set()
    for name, code in (("doctor", ""), ("doctor", phone.code()), ("technician", ""), ("no", "")):
        with pytest.raises(errors.NotSignedIn) as refused:
            engine.sessions.sign_in(name, "wrong wrong wrong", code=code)
        said.add(str(refused.value))
    assert len(said) == 1


@pytest.mark.parametrize(("behind", "good"), [
    (0, True),
    (30, True),    # one step late
    (-30, True),   # one step early
    (61, False),
    (-61, False),
])  # fmt: skip
def test_clocks_may_differ_by_one_step(
    engine: Engine, team: Team, host: FakeHost, behind: int, good: bool
) -> None:
    secret = engine.account.begin_second_factor(team.doctor, PASSWORD).secret
    engine.account.confirm_second_factor(team.doctor, Phone(secret, host).code())
    host.advance(minutes=5)
    code = Phone(secret, host, behind).code()
    if good:
        assert engine.sessions.sign_in("doctor", PASSWORD, code=code)
    else:
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.sign_in("doctor", PASSWORD, code=code)


def test_a_code_is_good_once_and_so_are_those_before_it(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    secret = engine.account.begin_second_factor(team.doctor, PASSWORD).secret
    phone = Phone(secret, host)
    first = phone.code()
    engine.account.confirm_second_factor(team.doctor, first)
    with pytest.raises(errors.NotSignedIn):  # the code of the enrolment
        engine.sessions.sign_in("doctor", PASSWORD, code=first)
    host.advance(minutes=2)
    code, before = phone.code(), phone.code(-1)
    assert engine.sessions.sign_in("doctor", PASSWORD, code=code)
    for spent in (code, before):
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.sign_in("doctor", PASSWORD, code=spent)
        with pytest.raises(errors.PermissionDenied):
            engine.sessions.prove(team.doctor, code=spent)
    host.advance(seconds=30)
    engine.sessions.prove(team.doctor, code=phone.code())


def test_wrong_codes_lock_and_a_known_password_buys_no_new_tries(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(engine, host, team.doctor)
    wrong = f"{(int(phone.code()) + 1) % 10**6:06d}"
    for _ in range(5):
        with pytest.raises(errors.CodeNeeded) as asked:
            engine.sessions.sign_in("doctor", PASSWORD)
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.finish_sign_in(asked.value.challenge, wrong)
    for attempt in (
        lambda: engine.sessions.finish_sign_in(asked.value.challenge, phone.code()),
        lambda: engine.sessions.sign_in("doctor", PASSWORD),
        lambda: engine.sessions.sign_in_api("doctor", PASSWORD, code=phone.code()),
        lambda: engine.sessions.prove(team.doctor, code=phone.code()),
    ):
        with pytest.raises(errors.AccountLocked):
            attempt()
    host.advance(seconds=31)
    assert engine.sessions.sign_in("doctor", PASSWORD, code=phone.code())


def test_the_password_in_between_forgives_no_wrong_codes(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(engine, host, team.doctor)
    wrong = f"{(int(phone.code()) + 1) % 10**6:06d}"
    for _ in range(5):
        engine.sessions.prove(team.doctor, password=PASSWORD)
        engine.account.change_password(team.doctor, PASSWORD, PASSWORD)
        with pytest.raises(errors.PermissionDenied):
            engine.account.renew_recovery_codes(team.doctor, PASSWORD, wrong)
    for attempt in (
        lambda: engine.sessions.prove(team.doctor, password=PASSWORD),
        lambda: engine.account.renew_recovery_codes(team.doctor, PASSWORD, phone.code()),
    ):
        with pytest.raises(errors.AccountLocked):
            attempt()


def test_asking_for_the_code_often_does_not_lock_its_owner_out(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(engine, host, team.doctor)
    for _ in range(12):
        with pytest.raises(errors.CodeNeeded):
            engine.sessions.sign_in("doctor", PASSWORD)
    assert engine.sessions.sign_in("doctor", PASSWORD, code=phone.code())


def test_a_sign_in_that_waits_for_its_code_expires_and_is_used_once(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(engine, host, team.doctor)

    def challenge() -> str:
        with pytest.raises(errors.CodeNeeded) as asked:
            engine.sessions.sign_in("doctor", PASSWORD)
        return asked.value.challenge

    used = challenge()
    engine.sessions.finish_sign_in(used, phone.code())
    late = challenge()
    host.advance(seconds=CHALLENGE.total_seconds())
    for handle in (used, late, "", "never issued"):
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.finish_sign_in(handle, phone.code())
    void = challenge()
    engine.people.reset_password(team.administrator, "doctor", "four other words instead")
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.finish_sign_in(void, phone.code())
    closed = None
    host.advance(seconds=30)
    with pytest.raises(errors.CodeNeeded) as asked:
        engine.sessions.sign_in("doctor", "four other words instead")
    closed = asked.value.challenge
    engine.people.set_enabled(team.administrator, "doctor", False)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.finish_sign_in(closed, phone.code())


def test_recovery_codes_are_ten_and_each_is_good_once(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    phone, codes = enrol(engine, host, team.doctor)
    assert len(set(codes)) == 10
    assert all(len(c.replace("-", "")) == 32 for c in codes)  # 160 bits
    assert engine.sessions.sign_in("doctor", PASSWORD, code=codes[0])
    assert engine.sessions.sign_in("doctor", PASSWORD, code=codes[1].lower().replace("-", " "))
    for code in (codes[0], codes[1], codes[0].replace("-", "")):
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.sign_in("doctor", PASSWORD, code=code)
    assert engine.account.second_factor(team.doctor).codes_left == 8
    with pytest.raises(errors.PermissionDenied):
        engine.account.renew_recovery_codes(team.doctor, PASSWORD, codes[0])
    fresh = engine.account.renew_recovery_codes(team.doctor, PASSWORD, phone.code())
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.sign_in("doctor", PASSWORD, code=codes[2])
    assert engine.sessions.sign_in("doctor", PASSWORD, code=fresh[2])
    used = engine.audit.entries(team.administrator, query="session.sign-in")
    assert "recovery" in {e.detail.get("second_factor") for e in used}


def test_neither_the_secret_nor_a_recovery_code_is_readable_on_disk(
    engine: Engine, team: Team, host: FakeHost, settings: Settings
) -> None:
    enrolment = engine.account.begin_second_factor(team.doctor, PASSWORD)
    codes = engine.account.confirm_second_factor(team.doctor, Phone(enrolment.secret, host).code())
    assert enrolment.secret not in repr(enrolment)
    assert enrolment.secret in enrolment.uri
    rows = engine.context.database.read().all("SELECT * FROM second_factors")
    kept = str(rows + engine.context.database.read().all("SELECT * FROM recovery_codes"))
    engine.close()
    stored = b"".join(p.read_bytes() for p in settings.data.rglob("*") if p.is_file())
    for secret in (enrolment.secret, *codes, *(c.replace("-", "") for c in codes)):
        assert secret not in kept
        assert secret.encode() not in stored
    Engine.open(settings, host, detector=ScriptedDetector(settings)).close()  # for the fixture


def test_a_secret_moved_to_another_account_does_not_open(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(engine, host, team.doctor)
    with engine.context.database.write() as tx:
        tx.run("UPDATE second_factors SET username = 'technician'")
    with pytest.raises(errors.SealBroken):
        engine.sessions.sign_in("technician", PASSWORD, code=phone.code())


def test_a_secret_counts_only_once_it_is_confirmed(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    first = engine.account.begin_second_factor(team.doctor, PASSWORD)
    with pytest.raises(errors.InputError):
        engine.account.confirm_second_factor(team.doctor, "000000")
    assert engine.account.second_factor(team.doctor).enabled_at is None
    assert engine.sessions.sign_in("doctor", PASSWORD)
    second = engine.account.begin_second_factor(team.doctor, PASSWORD)
    assert first.secret != second.secret
    with pytest.raises(errors.InputError):  # the code of a secret that was given up
        engine.account.confirm_second_factor(team.doctor, Phone(first.secret, host).code())
    engine.account.confirm_second_factor(team.doctor, Phone(second.secret, host).code())
    for again in (
        lambda: engine.account.begin_second_factor(team.doctor, PASSWORD),
        lambda: engine.account.confirm_second_factor(
            team.doctor, Phone(second.secret, host).code(1)
        ),
    ):
        with pytest.raises(errors.InputError):
            again()


def test_setting_up_and_turning_off_want_the_password_and_end_other_sessions(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    other = engine.sessions.sign_in("doctor", PASSWORD).token
    with pytest.raises(errors.PermissionDenied):
        engine.account.begin_second_factor(team.doctor, "something else entirely")
    phone, codes = enrol(engine, host, team.doctor)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(other)
    other = engine.sessions.sign_in("doctor", PASSWORD, code=phone.code()).token
    host.advance(seconds=30)
    for password, code in (("wrong wrong wrong", phone.code()), (PASSWORD, codes[0][:-1])):
        with pytest.raises(errors.PermissionDenied):
            engine.account.remove_second_factor(team.doctor, password, code)
    assert engine.account.second_factor(team.doctor).enabled_at is not None
    engine.account.remove_second_factor(team.doctor, PASSWORD, codes[0])
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(other)
    assert engine.account.second_factor(team.doctor).codes_left == 0
    assert engine.sessions.sign_in("doctor", PASSWORD)


def test_an_administrator_resets_the_factor_of_another_and_never_their_own(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    enrol(engine, host, team.doctor)
    enrol(engine, host, team.administrator)
    with pytest.raises(errors.PermissionDenied):
        engine.people.reset_second_factor(team.administrator, "ADMIN")
    engine.people.reset_second_factor(team.administrator, "doctor")
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(team.doctor)
    assert engine.sessions.sign_in("doctor", PASSWORD)
    logged = engine.audit.entries(team.administrator, query="account.reset-second-factor")
    assert [(e.outcome, e.detail["username"]) for e in logged] == [
        ("ok", "doctor"), ("refused", "own"),
    ]  # fmt: skip


def test_a_reset_password_leaves_the_second_factor_on(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(engine, host, team.doctor)
    engine.people.reset_password(team.administrator, "doctor", "four other words instead")
    with pytest.raises(errors.CodeNeeded):
        engine.sessions.sign_in("doctor", "four other words instead")
    assert engine.sessions.sign_in("doctor", "four other words instead", code=phone.code())


def test_a_role_that_wants_a_second_factor_can_do_nothing_else_before(
    tmp_path: Path, host: FakeHost
) -> None:
    settings = Settings(
        data=tmp_path / "strict", key_file=tmp_path / "keys" / "s.key", bcrypt_cost=4,
        second_factor="doctor, administrator",
    )  # fmt: skip
    host.files = Folder(settings.data / "blobs")
    engine = Engine.open(settings, host, detector=ScriptedDetector(settings))
    engine.people.create_first_administrator(engine.people.setup_code(), "admin", "Ada", PASSWORD)
    admin = engine.sessions.sign_in("admin", PASSWORD).token
    for call in (
        lambda: engine.people.accounts(admin),
        lambda: engine.people.create(admin, "doctor", "Dora", Role.DOCTOR, PASSWORD),
    ):
        with pytest.raises(errors.SecondFactorNeeded):
            call()
    assert not engine.sessions.may(admin, Permission.MANAGE_ACCOUNTS)
    assert engine.account.second_factor(admin).required
    enrol(engine, host, admin)
    engine.people.create(admin, "doctor", "Dora", Role.DOCTOR, PASSWORD)
    engine.people.create(admin, "tina", "Tina", Role.TECHNICIAN, PASSWORD)
    doctor = engine.sessions.sign_in_api(
        "doctor", PASSWORD
    ).access  # without a browser it is the same
    with pytest.raises(errors.SecondFactorNeeded):
        engine.patients.search(doctor)
    assert engine.patients.search(engine.sessions.sign_in("tina", PASSWORD).token) == []
    phone, _ = enrol(engine, host, doctor)
    assert engine.patients.search(doctor) == []
    engine.account.remove_second_factor(doctor, PASSWORD, phone.code())
    with pytest.raises(errors.SecondFactorNeeded):
        engine.patients.search(doctor)
    engine.close()


def test_a_role_that_is_none_is_no_setting() -> None:
    for wrong in ("nurse", "doctor;administrator", "operator"):
        with pytest.raises(errors.SettingsError):
            Settings(second_factor=wrong)

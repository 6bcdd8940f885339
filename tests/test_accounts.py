from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from engine.accounts import Accounts, Rules
from engine.database import Database
from engine.errors import AccountLocked, InputError, NotSignedIn, PermissionDenied
from engine.permissions import Role
from engine.records import Caller
from tests.fakes import FakeHost

GOOD = "four unrelated words here"
RULES = Rules(4, 12, timedelta(minutes=15), timedelta(hours=8))


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def database(tmp_path: Path, host: FakeHost) -> Database:
    return Database.open(tmp_path / "c.duckdb", host, 5)


@pytest.fixture
def accounts(database: Database, host: FakeHost) -> Accounts:
    accounts = Accounts(database, host, RULES)
    with database.write() as tx:
        accounts.create(tx, "Admin", "Ada", Role.ADMINISTRATOR, GOOD)
        accounts.create(tx, "doc", "Dora", Role.DOCTOR, GOOD)
    return accounts


ADMIN = Caller("admin", Role.ADMINISTRATOR, "se", "")


def test_a_session_names_its_account_and_its_token_is_not_stored(
    accounts: Accounts, database: Database, tmp_path: Path
) -> None:
    session = accounts.sign_in("DOC ", GOOD, "here")
    caller = accounts.resolve(session.token)
    assert (caller.username, caller.role, caller.origin) == ("doc", Role.DOCTOR, "here")
    assert session.token not in repr(session)
    rows = database.read().all("SELECT * FROM sessions")
    assert session.token not in str(rows)


@pytest.mark.parametrize("password", [
    "password1234",          # on every list
    "aaaaaaaaaaaaaaaa",      # one letter
    "doc likes plums",       # holds the user name
    "short",                 # too short
    "x" * 300,               # too long
])  # fmt: skip
def test_a_guessable_password_is_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(InputError):
        accounts.check_new_password("doc", password)


def test_long_pass_phrases_count_to_the_last_character(
    accounts: Accounts, database: Database
) -> None:
    phrase = "correct horse battery staple " * 5
    with database.write() as tx:
        accounts.set_password(tx, "doc", phrase + "A")
    with pytest.raises(NotSignedIn):
        accounts.sign_in("doc", phrase + "B", "")
    assert accounts.sign_in("doc", phrase + "A", "").account.username == "doc"


def test_unknown_wrong_and_disabled_answer_alike(accounts: Accounts, database: Database) -> None:
    said = set()
    with database.write() as tx:
        accounts.create(tx, "off", "Otto", Role.DOCTOR, GOOD)
        accounts.set_enabled(tx, ADMIN, "off", False)
    for name, password in (("nobody", GOOD), ("doc", "wrong wrong wrong"), ("off", GOOD)):
        with pytest.raises(NotSignedIn) as caught:
            accounts.sign_in(name, password, "")
        said.add(str(caught.value))
    assert len(said) == 1


@pytest.mark.parametrize("name", ["doc", "nobody"])
def test_the_lock_grows_alike_for_known_and_unknown_names(
    accounts: Accounts, host: FakeHost, name: str
) -> None:
    waits = []
    for _ in range(16):
        with pytest.raises((NotSignedIn, AccountLocked)) as caught:
            accounts.sign_in(name, "wrong wrong wrong", "")
        if isinstance(caught.value, AccountLocked):
            waits.append(caught.value.facts["seconds"])
            host.advance(seconds=waits[-1])
    assert waits == [30, 60, 120, 240, 480, 960]


def test_while_the_lock_lasts_the_right_password_does_not_help(
    accounts: Accounts, host: FakeHost
) -> None:
    for _ in range(5):
        with pytest.raises(NotSignedIn):
            accounts.sign_in("doc", "wrong wrong wrong", "")
    with pytest.raises(AccountLocked):
        accounts.sign_in("doc", GOOD, "")
    host.advance(seconds=31)
    assert accounts.sign_in("doc", GOOD, "").account.username == "doc"


@pytest.mark.parametrize(("minutes", "alive"), [(14.9, True), (15.0, False)])
def test_idle_sessions_end(accounts: Accounts, host: FakeHost, minutes: float, alive: bool) -> None:
    token = accounts.sign_in("doc", GOOD, "").token
    host.advance(minutes=minutes)
    if alive:
        assert accounts.resolve(token).username == "doc"
    else:
        with pytest.raises(NotSignedIn):
            accounts.resolve(token)


def test_a_busy_session_ends_at_its_absolute_limit(accounts: Accounts, host: FakeHost) -> None:
    token = accounts.sign_in("doc", GOOD, "").token
    for _ in range(47):
        host.advance(minutes=10)
        accounts.resolve(token)
    host.advance(minutes=10)
    with pytest.raises(NotSignedIn):
        accounts.resolve(token)


def test_automatic_refreshes_do_not_keep_a_session_alive(
    accounts: Accounts, host: FakeHost
) -> None:
    token = accounts.sign_in("doc", GOOD, "").token
    host.advance(minutes=10)
    accounts.resolve(token, activity=False)
    host.advance(minutes=10)
    with pytest.raises(NotSignedIn):
        accounts.resolve(token)


def test_a_clock_that_jumps_back_revives_nothing(accounts: Accounts, host: FakeHost) -> None:
    token = accounts.sign_in("doc", GOOD, "").token
    host.advance(hours=-1)
    with pytest.raises(NotSignedIn):
        accounts.resolve(token)


@pytest.mark.parametrize("token", [None, "", 7, "x" * 500, object(), "nonsense-nonsense"])
def test_nonsense_is_not_a_token(accounts: Accounts, token: object) -> None:
    with pytest.raises(NotSignedIn):
        accounts.resolve(token)


def test_disabling_an_account_works_at_once(accounts: Accounts, database: Database) -> None:
    token = accounts.sign_in("doc", GOOD, "").token
    with database.write() as tx:
        accounts.set_enabled(tx, ADMIN, "doc", False)
    with pytest.raises(NotSignedIn):
        accounts.resolve(token)


def test_a_signed_out_token_cannot_be_played_again(accounts: Accounts, database: Database) -> None:
    token = accounts.sign_in("doc", GOOD, "").token
    with database.write() as tx:
        accounts.end_session(tx, accounts.resolve(token).session_id)
    with pytest.raises(NotSignedIn):
        accounts.resolve(token)


def test_nobody_changes_their_own_role_and_one_administrator_stays(
    accounts: Accounts, database: Database
) -> None:
    with pytest.raises(PermissionDenied), database.write() as tx:
        accounts.set_role(tx, ADMIN, "admin", Role.DOCTOR)
    other = Caller("other", Role.ADMINISTRATOR, "se", "")
    for change in (
        lambda tx: accounts.set_role(tx, other, "admin", Role.DOCTOR),
        lambda tx: accounts.set_enabled(tx, other, "admin", False),
    ):
        with pytest.raises(PermissionDenied), database.write() as tx:
            change(tx)
    assert accounts.any_administrator()


@pytest.mark.parametrize("username", ["", "a b", "x" * 65, "../etc", "a\nb", "ADMIN"])
def test_bad_or_taken_user_names_are_refused(
    accounts: Accounts, database: Database, username: str
) -> None:
    with pytest.raises(InputError), database.write() as tx:
        accounts.create(tx, username, "Name", Role.DOCTOR, GOOD)


def test_the_operator_role_cannot_be_given(accounts: Accounts, database: Database) -> None:
    with pytest.raises(InputError), database.write() as tx:
        accounts.create(tx, "x", "Name", Role.OPERATOR, GOOD)

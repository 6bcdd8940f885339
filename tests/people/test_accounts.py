from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import AccountLocked, InputError, NotSignedIn, PermissionDenied
from engine.people.accounts import Accounts
from engine.people.lockout import Lockout
from engine.permissions import Role
from engine.records import Caller
from engine.store.database import Database
from engine.store.embedded import EmbeddedDatabase
from tests.fakes import FakeHost

GOOD = "four unrelated words here"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def database(tmp_path: Path, host: FakeHost) -> Database:
    return EmbeddedDatabase.open(tmp_path / "c.duckdb", host, 5)


@pytest.fixture
def accounts(database: Database, host: FakeHost) -> Accounts:
    accounts = Accounts(database, host, Lockout(database, host), bcrypt_cost=4, min_length=15)
    with database.write() as tx:
        accounts.create(tx, "Admin", "Ada", Role.ADMINISTRATOR, GOOD)
        accounts.create(tx, "doc", "Dora Winterberg", Role.DOCTOR, GOOD)
    return accounts


ADMIN = Caller("admin", Role.ADMINISTRATOR, "se", "")


def test_a_password_proves_its_account_however_the_name_is_typed(accounts: Accounts) -> None:
    for name in ("doc", "DOC ", "ｄｏｃ"):  # the last as some keyboards send it
        account, _ = accounts.verify(name, GOOD)
        assert (account.username, account.role) == ("doc", Role.DOCTOR)


@pytest.mark.parametrize("password", [
    "password1234567",         # a common one with digits
    "aaaaaaaaaaaaaaaa",        # one letter
    "qwertyuiopasdfgh",        # along the keyboard
    "passwordpassword",        # the same twice
    "MedSecMedSec2026",        # this service
    "WinterbergWinterberg1",   # the person's own name
    "doc likes sour plums",    # holds the user name
    "x" * 300,                 # too long
])  # fmt: skip
def test_a_guessable_password_is_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(InputError):
        accounts.check_new_password("doc", password, "Dora Winterberg")


def test_fifteen_characters_are_enough_and_fourteen_are_not(accounts: Accounts) -> None:
    accounts.check_new_password("doc", "five sour plums")
    with pytest.raises(InputError):
        accounts.check_new_password("doc", "five sour plum")


@pytest.mark.parametrize("password", [
    "correct horse battery staple",
    "überraschend öde Äpfel",      # any letters
    "🦊 und 🐻 gehen heim",          # and others
    "only lower case letters",     # no rules of composition
    "x7" * 5 + "four unrelated words " * 11 + "end",
])  # fmt: skip
def test_pass_phrases_need_no_special_characters(accounts: Accounts, password: str) -> None:
    accounts.check_new_password("doc", password, "Dora Winterberg")


def test_long_pass_phrases_count_to_the_last_character(
    accounts: Accounts, database: Database
) -> None:
    phrase = "correct horse battery staple " * 5
    with database.write() as tx:
        accounts.set_password(tx, "doc", phrase + "A")
    with pytest.raises(NotSignedIn):
        accounts.verify("doc", phrase + "B")
    assert accounts.verify("doc", phrase + "A")[0].username == "doc"


def test_the_same_letters_from_another_keyboard_are_the_same_password(
    accounts: Accounts, database: Database
) -> None:
    with database.write() as tx:
        accounts.set_password(tx, "doc", "\u00fcberraschend \u00f6de Wege")
    assert accounts.verify("doc", "u\u0308berraschend o\u0308de Wege")[0].username == "doc"


@pytest.mark.parametrize("nonsense", ["", "\ud83d", "\x00", "doc\x00", "x" * 100_000])
def test_what_is_no_text_is_no_name_and_no_password(accounts: Accounts, nonsense: str) -> None:
    with pytest.raises(NotSignedIn):
        accounts.verify(nonsense, GOOD)
    with pytest.raises(NotSignedIn):
        accounts.verify("doc", nonsense)


def test_unknown_wrong_and_disabled_answer_alike(accounts: Accounts, database: Database) -> None:
    said = set()
    with database.write() as tx:
        accounts.create(tx, "off", "Otto", Role.DOCTOR, GOOD)
        accounts.set_enabled(tx, ADMIN, "off", False)
    for name, password in (("nobody", GOOD), ("doc", "wrong wrong wrong"), ("off", GOOD)):
        with pytest.raises(NotSignedIn) as caught:
            accounts.verify(name, password)
        said.add(str(caught.value))
    assert len(said) == 1


@pytest.mark.parametrize("name", ["doc", "nobody"])
def test_the_lock_grows_alike_for_known_and_unknown_names(
    accounts: Accounts, host: FakeHost, name: str
) -> None:
    waits = []
    for _ in range(16):
        with pytest.raises((NotSignedIn, AccountLocked)) as caught:
            accounts.verify(name, "wrong wrong wrong")
        if isinstance(caught.value, AccountLocked):
            waits.append(caught.value.facts["seconds"])
            host.advance(seconds=waits[-1])
    assert waits == [30, 60, 120, 240, 480, 960]


def test_while_the_lock_lasts_the_right_password_does_not_help(
    accounts: Accounts, host: FakeHost
) -> None:
    for _ in range(5):
        with pytest.raises(NotSignedIn):
            accounts.verify("doc", "wrong wrong wrong")
    with pytest.raises(AccountLocked):
        accounts.verify("doc", GOOD)
    host.advance(seconds=31)
    assert accounts.verify("doc", GOOD)[0].username == "doc"


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


@pytest.mark.parametrize("username", ["", "a b", "x" * 65, "../etc", "a\nb", "ADMIN", "ａｄｍｉｎ"])
def test_bad_or_taken_user_names_are_refused(
    accounts: Accounts, database: Database, username: str
) -> None:
    with pytest.raises(InputError), database.write() as tx:
        accounts.create(tx, username, "Name", Role.DOCTOR, GOOD)


def test_the_operator_role_cannot_be_given(accounts: Accounts, database: Database) -> None:
    with pytest.raises(InputError), database.write() as tx:
        accounts.create(tx, "x", "Name", Role.OPERATOR, GOOD)
    with pytest.raises(InputError), database.write() as tx:
        accounts.add(tx, "x", "Name", Role.OPERATOR, accounts.hash(GOOD))


def test_a_right_password_lifts_no_lock_that_another_attempt_brought(
    accounts: Accounts, database: Database, host: FakeHost
) -> None:
    lockout = accounts._lockout
    started = lockout.count("doc")  # its password is still being checked
    for _ in range(4):
        lockout.count("doc")  # wrong codes meanwhile; the last one locks
    lockout.take_back("doc", started)
    with pytest.raises(AccountLocked):
        lockout.count("doc")
    host.advance(seconds=31)
    lockout.take_back("doc", lockout.count("doc"))
    assert lockout.count("doc") == 5  # four wrong codes, and this

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from engine.crypto.vault import Signer
from engine.errors import AuditBroken, StorageError
from engine.permissions import Role
from engine.records import AuditEntry, AuditFilter, Caller
from engine.store.audit import AuditLog, Event
from engine.store.database import Database
from tests.fakes import FakeHost
from tests.postgresql import forge
from tests.store.conftest import Opener

WHO = Caller("doctor", Role.DOCTOR, "se_1", "127.0.0.1")


@pytest.fixture
def database(tmp_path: Path, open_database: Opener) -> Database:
    return open_database(FakeHost(tmp_path))


@pytest.fixture
def audit(database: Database, tmp_path: Path) -> AuditLog:
    return AuditLog(database, FakeHost(tmp_path), b"k" * 32)


def fill(audit: AuditLog, count: int = 5) -> None:
    for i in range(count):
        audit.record(WHO, Event("image.restore", image_id=f"im_{i}", reason=f"Grüße {i}"))


def test_entries_come_back_newest_first_with_their_reasons(audit: AuditLog) -> None:
    fill(audit)
    entries = audit.entries()
    assert [e.image_id for e in entries] == ["im_4", "im_3", "im_2", "im_1", "im_0"]
    assert entries[0].reason == "Grüße 4"
    assert audit.verify() == 5


def test_no_character_of_a_detail_breaks_the_searches_of_all_others(
    audit: AuditLog, database: Database
) -> None:
    said = {"a\0": ["b\ud800", {"c": "\udc00d\U0001f600"}], "n": float("nan"), "glass": "gl_1"}
    audit.record(WHO, Event("x", detail=said), Event("y", detail={"glass": "gl_1", "k": [1, 0.5]}))
    # Which request it was is there where another test of this process began one.
    first, second = (
        {key: value for key, value in entry.detail.items() if key != "request"}
        for entry in audit.under_glass("gl_1")
    )
    assert first == {
        "a\ufffd": ["b\ufffd", {"c": "\ufffdd\U0001f600"}], "n": None, "glass": "gl_1"
    }  # fmt: skip
    assert second == {"glass": "gl_1", "k": [1, 0.5]}
    assert audit.verify() == 2


def test_reasons_are_not_readable_on_disk(audit: AuditLog, database: Database) -> None:
    audit.record(WHO, Event("x", reason="because of Erika Musterfrau"))
    stored = database.read().one("SELECT reason FROM audit")
    assert stored is not None
    assert "Erika" not in stored["reason"]


@pytest.mark.parametrize("sql", [
    "UPDATE audit SET actor = 'x'",
    "UPDATE audit SET actor = 'x' WHERE sequence = 99",
    "DELETE FROM audit WHERE sequence = 1",
    "TRUNCATE audit",
])  # fmt: skip
def test_the_database_itself_refuses_changes(audit: AuditLog, database: Database, sql: str) -> None:
    fill(audit)
    with pytest.raises(StorageError), database.write() as tx:
        tx.run(sql)
    assert audit.verify() == 5


@pytest.mark.parametrize("column", [
    "occurred_at", "actor", "role", "action", "outcome", "patient_id", "image_id", "region_id",
    "reason", "origin", "detail", "digest",
])  # fmt: skip
def test_a_changed_column_is_found_where_it_is(
    audit: AuditLog, database: Database, column: str
) -> None:
    fill(audit)
    forge(database, f"UPDATE audit SET {column} = {column} || ' ' WHERE sequence = 3")  # noqa: S608
    with pytest.raises(AuditBroken) as caught:
        audit.verify()
    assert caught.value.facts["sequence"] == 3


@pytest.mark.parametrize(
    ("sql", "first_bad"),
    [
        ("DELETE FROM audit WHERE sequence = 2", 3),
        ("DELETE FROM audit WHERE sequence = 1", 2),
        ("DELETE FROM audit WHERE sequence IN (2, 3, 4)", 5),
        ("UPDATE audit SET sequence = 9 WHERE sequence = 5", 9),
        ("UPDATE audit SET sequence = -9 WHERE sequence = 5", -9),
        ("UPDATE audit SET sequence = 0 WHERE sequence = 1", 0),
    ],
)
@pytest.mark.parametrize("part_entries", [1, 2, 3, 100])
def test_a_missing_or_moved_entry_is_found(
    audit: AuditLog,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    sql: str,
    first_bad: int,
    part_entries: int,
) -> None:
    monkeypatch.setattr("engine.store.audit._PART_ENTRIES", part_entries)
    fill(audit)
    told: list[tuple[int, int]] = []
    assert audit.verify(lambda checked, of: told.append((checked, of))) == 5
    assert (told[0][0], told[-1]) == (min(5, part_entries), (5, 5))
    forge(database, sql)
    with pytest.raises(AuditBroken) as caught:
        audit.verify()
    assert caught.value.facts["sequence"] == first_bad


def test_fields_cannot_be_shifted_into_each_other(audit: AuditLog, database: Database) -> None:
    audit.record(WHO, Event("ab", "c"))
    forge(database, "UPDATE audit SET action = 'a', outcome = 'bc'")
    with pytest.raises(AuditBroken):
        audit.verify()


def test_many_threads_make_one_chain(audit: AuditLog) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: fill(audit, 15), range(8)))  # what fails there fails here
    assert audit.verify() == 120


def test_a_cut_off_tail_shows_only_against_a_checkpoint(
    audit: AuditLog, database: Database
) -> None:
    fill(audit)
    signer = Signer(b"s" * 32)
    checkpoint = audit.checkpoint(signer, "log")
    fill(audit, 2)
    assert audit.verify_checkpoint(checkpoint, signer.public_bytes) == 5
    forge(database, "DELETE FROM audit WHERE sequence > 3")
    assert audit.verify() == 3  # the chain alone cannot tell
    with pytest.raises(AuditBroken):
        audit.verify_checkpoint(checkpoint, signer.public_bytes)


def test_a_checkpoint_of_somebody_else_or_a_forged_one_is_refused(audit: AuditLog) -> None:
    fill(audit)
    signer = Signer(b"s" * 32)
    checkpoint = audit.checkpoint(signer, "log")
    with pytest.raises(AuditBroken):
        audit.verify_checkpoint(checkpoint, Signer(b"t" * 32).public_bytes)
    forged = json.loads(checkpoint)
    forged["body"] = forged["body"].replace('"size": 5', '"size": 3')
    with pytest.raises(AuditBroken):
        audit.verify_checkpoint(json.dumps(forged).encode(), signer.public_bytes)


def test_search_matches_ids_and_actions_but_not_reasons(audit: AuditLog) -> None:
    fill(audit)
    assert [e.image_id for e in audit.entries(query="IM_2")] == ["im_2"]
    audit.record(Caller("jörg", Role.DOCTOR, "se_1", "NODE-7"), Event("image.list"))
    for query in ("jÖRG doc", "node-7", "NODE"):
        assert [e.action for e in audit.entries(query=query)] == ["image.list"]
    assert not audit.entries(query="Grüße")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (
        ("_FIRST_PART", 2), ("_LARGEST_PART", 2), ("_DAYS_PART", 3), ("_EXPORT_PART", 2),
    ):  # fmt: skip
        monkeypatch.setattr(f"engine.store.audit.{name}", count)
    monkeypatch.setattr("engine.store.audit._next_part", lambda part, took_ms: part)


def numbers(found: Iterable[AuditEntry]) -> list[int]:
    return [entry.sequence for entry in found]


def test_a_search_gives_what_it_found_in_its_time_and_goes_on_from_there(
    audit: AuditLog, small_parts: None
) -> None:
    fill(audit, 7)
    first = audit.entries(query="im_0", patience_ms=0)
    assert (numbers(first), first.before) == ([], 6)
    assert first.searched_to == audit.entries()[1].occurred_at
    second = audit.entries(query="im_4", before=first.before, patience_ms=0)
    assert (numbers(second), second.before) == ([5], 4)
    found, before, asked = [], None, 0
    while asked == 0 or before is not None:
        part = audit.entries(query="image.restore", before=before, patience_ms=0)
        found, before, asked = found + numbers(part), part.before, asked + 1
    assert (found, asked) == ([7, 6, 5, 4, 3, 2, 1], 4)
    whole = audit.entries(query="im_0")
    assert (numbers(whole), whole.before) == ([1], None)
    assert audit.entries(before=1).before is audit.entries(before=-5).before is None


def test_a_search_that_has_enough_stops_behind_the_last_match(
    audit: AuditLog, small_parts: None
) -> None:
    fill(audit, 7)
    first = audit.entries(limit=3)
    assert (numbers(first), first.before) == ([7, 6, 5], 5)
    second = audit.entries(limit=4, before=first.before)
    assert (numbers(second), second.before) == ([4, 3, 2, 1], None)
    assert numbers(audit.entries(limit=3, before=99)) == [7, 6, 5]


def test_days_are_found_by_the_entries_own_times_though_the_clock_was_set_back(
    audit: AuditLog, small_parts: None
) -> None:
    host = audit._host
    assert isinstance(host, FakeHost)
    day, begun = timedelta(days=1), host.clock
    for days in (0, 1, 2, 9, 9, 3, 4, 5, 6, 7):  # ahead for two entries
        host.clock = begun + days * day
        fill(audit, 1)
    ninth = AuditFilter(since=begun + 9 * day)
    assert numbers(audit.entries(only=ninth)) == [5, 4]
    assert numbers(audit.matching(only=ninth)) == [4, 5]
    middle = AuditFilter(since=begun + 2 * day, until=begun + 5 * day)
    assert numbers(audit.entries(only=middle)) == [7, 6, 3]
    assert numbers(audit.matching(only=middle)) == [3, 6, 7]
    early = audit.entries(only=AuditFilter(until=begun + day), patience_ms=0)
    assert (numbers(early), early.before) == ([], 8)  # a part of other days was passed over


def test_the_log_of_an_image_or_a_patient_is_found_whole_by_its_id(
    audit: AuditLog, small_parts: None
) -> None:
    image, patient = f"im_{7:024x}", f"pt_{7:024x}"
    audit.record(WHO, Event("x", image_id=image, patient_id=patient), Event("y", image_id=image))
    fill(audit, 9)
    audit.record(WHO, Event("z", "failed", patient_id=patient))
    whole = audit.entries(query=image, patience_ms=0)
    assert (numbers(whole), whole.before) == ([2, 1], None)
    assert numbers(audit.entries(query=patient, patience_ms=0)) == [12, 1]
    first = audit.entries(query=image, limit=1)
    assert (numbers(first), first.before) == ([2], 2)
    assert numbers(audit.entries(query=image, limit=1, before=2)) == [1]
    assert numbers(audit.entries(query=patient, only=AuditFilter(outcome="failed"))) == [12]
    assert not audit.entries(query=patient, only=AuditFilter(actor="nobody"))
    later = AuditFilter(since=whole[0].occurred_at + timedelta(days=1))
    assert not audit.entries(query=patient, only=later)
    assert numbers(audit.matching(patient)) == [1, 12]
    assert numbers(audit.entries(query=patient[:-1])) == [12, 1]  # a part of it: as any word


def test_an_export_has_every_match_in_order(audit: AuditLog, small_parts: None) -> None:
    fill(audit, 8)
    assert numbers(audit.matching()) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert numbers(audit.matching("im_5")) == [6]


def test_entries_of_an_action_are_found_in_the_whole_log(audit: AuditLog) -> None:
    fill(audit, 2)
    audit.record(WHO, Event("setting.save"), Event("setting.saved"), Event("setting.reset"))
    fill(audit, 2)
    assert numbers(audit.of_actions(["setting.save", "setting.reset"])) == [5, 3]
    assert numbers(audit.of_actions(["image.restore"], limit=3)) == [7, 6, 2]

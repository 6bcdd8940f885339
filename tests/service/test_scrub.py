"""The check of stored images and records in the background: what it finds, and what it leaves."""

from __future__ import annotations

import threading

import pytest

from engine import Engine, errors
from engine.operations.scrub import Scrub
from engine.records import AuditEntry
from tests import builders
from tests.conftest import Ward, text_png


class Waits(threading.Event):
    """Notes for how long the scrub pauses, and pauses for nothing.

    Args:
        stop_after: Says that the server stops in this pause.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._stop_after = stop_after

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        return len(self.pauses) == self._stop_after


@pytest.fixture
def scrub(ward: Ward) -> Scrub:
    return ward.engine.upkeep.scrub


@pytest.fixture
def image_id(ward: Ward) -> str:
    data, found = text_png()
    return ward.seal(data, found=[found])


def told(engine: Engine) -> list[AuditEntry]:
    return list(engine.context.audit.entries(query="scrub.broken"))


def change(engine: Engine, sql: str, *values: object) -> None:
    with engine.context.database.write() as tx:
        tx.run(sql, *values)


@pytest.mark.parametrize("part", ["masked_blob", "sealed_blob", "thumbnail_blob"])
def test_a_rotten_or_lost_file_of_an_image_is_found(
    ward: Ward, scrub: Scrub, image_id: str, part: str
) -> None:
    row = ward.engine.context.database.read().one(
        "SELECT masked_blob, sealed_blob, thumbnail_blob FROM images WHERE image_id = $1", image_id
    )
    assert row is not None
    path = ward.engine.context.host.path(row[part])
    path.write_bytes(b"rotten")
    assert scrub.check_image(image_id) == ("seal-broken", 0)
    path.unlink()
    assert scrub.check_image(image_id) == ("not-found", 0)


@pytest.mark.parametrize("what", ["width = width + 1", "facts = facts || '\\x00'::BLOB"])
def test_a_changed_row_is_found(ward: Ward, scrub: Scrub, image_id: str, what: str) -> None:
    change(ward.engine, f"UPDATE images SET {what}")  # noqa: S608 - two texts of this test
    assert scrub.check_image(image_id)[0] == "seal-broken"


def test_a_row_that_was_set_back_to_an_older_one_is_found(
    ward: Ward, scrub: Scrub, image_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(*_: object) -> None:
        raise errors.SealBroken("An older row was put back.")

    monkeypatch.setattr(ward.engine.context.catalog, "verify_newest", older)
    assert scrub.check_image(image_id)[0] == "seal-broken"


def test_facts_that_do_not_open_are_found(
    ward: Ward, scrub: Scrub, image_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise errors.SealBroken("They do not open.")

    monkeypatch.setattr(scrub._stored, "open_facts", broken)
    assert scrub.check_image(image_id)[0] == "seal-broken"


def test_a_record_that_does_not_open_is_found(ward: Ward, scrub: Scrub) -> None:
    change(ward.engine, "UPDATE patients SET record = record || '\\x00'::BLOB")
    scrub.run(Waits())
    [entry] = told(ward.engine)
    assert (entry.patient_id, entry.image_id) == (ward.patient_id, None)


def test_what_is_whole_counts_its_bytes_and_is_not_told(
    ward: Ward, scrub: Scrub, image_id: str
) -> None:
    fault, size = scrub.check_image(image_id)
    stored = sum(
        len(ward.engine.context.host.read_blob(a)) for a in ward.engine.context.host.blobs()
    )
    assert (fault, size) == (None, stored)
    scrub.run(Waits())
    assert told(ward.engine) == []
    assert scrub.state["images"] == 1


def test_an_image_or_a_record_that_is_erased_meanwhile_is_not_damaged(
    ward: Ward, scrub: Scrub, image_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scrub._check

    def erased_first(subject: str) -> tuple[str | None, int]:
        if subject == image_id:
            ward.engine.patients.erase(ward.team.administrator, "P-1", "asked for it")
        return real(subject)

    monkeypatch.setattr(scrub, "_check", erased_first)
    scrub.run(Waits())
    assert told(ward.engine) == []
    assert scrub.state["broken"] == []


def test_the_same_damage_is_told_once_and_forgotten_once_it_is_mended(
    ward: Ward, scrub: Scrub, image_id: str
) -> None:
    row = ward.engine.context.database.read().one("SELECT masked_blob AS blob FROM images")
    assert row is not None
    path = ward.engine.context.host.path(row["blob"])
    whole = path.read_bytes()
    path.write_bytes(b"rotten")
    scrub.run(Waits())
    scrub.run(Waits())
    assert [(e.image_id, e.patient_id, e.detail["why"]) for e in told(ward.engine)] == [
        (image_id, ward.patient_id, "seal-broken")
    ]
    assert scrub.state["broken"] == [image_id]
    path.write_bytes(whole)
    scrub.run(Waits())
    assert scrub.state["broken"] == []
    path.write_bytes(b"rotten again")
    scrub.run(Waits())
    assert len(told(ward.engine)) == 2


def test_it_reads_no_faster_than_the_setting_says(ward: Ward, scrub: Scrub, image_id: str) -> None:
    object.__setattr__(ward.engine.settings, "scrub_mb_per_second", 0.5)
    waits = Waits()
    scrub.run(waits)
    assert waits.pauses[0] == pytest.approx(scrub.check_image(image_id)[1] / 0.5e6)


def test_it_stops_with_the_server_and_then_says_nothing_of_a_finished_round(
    ward: Ward, scrub: Scrub, image_id: str
) -> None:
    _, found = text_png()
    ward.seal(builders.png(builders.labelled("ANOTHER")[0]), found=[found])
    waits = Waits(stop_after=1)
    scrub.run(waits)
    assert len(waits.pauses) == 1
    assert (scrub.state["running"], scrub.state["finished_at"]) == (False, None)
    assert not ward.engine.context.audit.entries(query="scrub.finish")

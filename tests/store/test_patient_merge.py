"""Patients' records over time: history, merges, older ones put back, and reads in the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine import Engine, ImageState, Settings, errors
from engine.store.patients import DAMAGED
from tests import builders
from tests.conftest import WHY, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector
from tests.postgresql import forge
from tests.store.conftest import NewCatalog

# --- history ----------------------------------------------------------------------------------


def test_history_says_who_changed_which_fields_and_the_log_says_no_word(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    engine.patients.update(team.technician, ward.patient_id, name="Erika Schmidt", age=62)
    engine.patients.update(team.technician, "P-1", id="P-10")
    newest, oldest = engine.patients.history(team.doctor, ward.patient_id)
    assert (newest["changed"], newest["id"], newest["merged"]) == (["id"], "P-1", False)
    assert (oldest["changed"], oldest["name"]) == (["age", "name"], "Erika Musterfrau")
    assert newest["changed_by"] == "technician"
    entries = engine.audit.entries(team.administrator, query="patient.update")
    assert [e.detail["fields"] for e in entries] == [["id"], ["age", "name"]]
    assert "Schmidt" not in str([e.detail for e in entries])


def test_a_change_that_changes_nothing_leaves_no_version(ward: Ward) -> None:
    ward.engine.patients.update(ward.team.technician, ward.patient_id, age=61)
    assert ward.engine.patients.history(ward.team.doctor, ward.patient_id) == []


def test_a_note_that_the_caller_may_not_read_is_not_emptied_by_giving_it_back(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    patient = engine.patients.create(team.technician, "P-2", "Jan Nowak", 40, "asthma")
    assert patient.note is None
    engine.patients.update(team.technician, patient.patient_id, age=41, note=patient.note)
    assert engine.patients.get(team.doctor, "P-2").note == "asthma"


@pytest.mark.parametrize("fields", [
    {"id": None}, {"id": 7}, {"name": b"x"}, {"age": 3.5}, {"age": "3"}, {"note": 5},
    {"name": "half a \ud800 character"}, {"id": "P\u202e1"}, {"note": "\udfff"},
])  # fmt: skip
def test_fields_of_another_kind_are_refused_by_name(ward: Ward, fields: dict) -> None:
    with pytest.raises(errors.InputError):
        ward.engine.patients.update(ward.team.technician, ward.patient_id, **fields)
    with pytest.raises(errors.InputError):
        ward.engine.patients.create(
            ward.team.technician, **{"id": "P-7", "name": "N", "age": 1, "note": "", **fields}
        )


def test_half_a_character_is_no_note(ward: Ward) -> None:
    with pytest.raises(errors.InputError):
        ward.engine.patients.add_note(ward.team.doctor, ward.patient_id, "\ud800")


# --- an older record put back -----------------------------------------------------------------


def _put_back(engine: Engine, patient_id: str) -> None:
    """A thief with the file writes an earlier record, sealed under the right key, over the new."""
    with engine.context.database.write() as tx:
        old = tx.one("SELECT record FROM patient_history WHERE patient_id = $1", patient_id)
        assert old is not None
        tx.run("UPDATE patients SET record = $2 WHERE patient_id = $1", patient_id, old["record"])


def test_an_older_record_put_back_does_not_open(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    engine.patients.create(team.technician, "P-2", "Jan Nowak")
    engine.patients.update(team.technician, ward.patient_id, note="allergic to penicillin")
    _put_back(engine, ward.patient_id)
    with pytest.raises(errors.SealBroken):
        engine.patients.get(team.doctor, ward.patient_id)
    with pytest.raises(errors.SealBroken):
        engine.patients.update(team.technician, ward.patient_id, age=9)
    # and does not hide the others
    assert {p.name for p in engine.patients.search(team.doctor)} == {"Jan Nowak", DAMAGED["name"]}


def test_an_erased_patient_put_back_does_not_open(ward: Ward) -> None:
    engine, admin = ward.engine, ward.team.administrator
    row = engine.context.database.read().one("SELECT * FROM patients")
    assert row is not None
    engine.patients.erase(admin, "P-1", "asked for it")
    with engine.context.database.write() as tx:
        for name in ("wrapped_key", "root_key_id", "id_index", "record", "erased_at"):
            tx.run(f"UPDATE patients SET {name} = $1", row[name])  # noqa: S608
    with pytest.raises(errors.SealBroken):
        engine.patients.get(ward.team.doctor, ward.patient_id)


def test_records_that_are_older_than_their_tags_still_open(ward: Ward) -> None:
    engine = ward.engine
    # as a data folder of an earlier day has it
    forge(engine.context.database, "DELETE FROM audit WHERE action = 'patient.create'")
    assert engine.patients.get(ward.team.doctor, "P-1").name == "Erika Musterfrau"
    engine.patients.update(ward.team.technician, ward.patient_id, age=62)
    _put_back(engine, ward.patient_id)
    with pytest.raises(errors.SealBroken):
        engine.patients.get(ward.team.doctor, "P-1")


# --- merging ----------------------------------------------------------------------------------


def _two_of_one(ward: Ward) -> tuple[str, str, bytes]:
    """The ward's patient, and a second record of the same person with an image and a note."""
    engine, team = ward.engine, ward.team
    data, found = text_png()
    stays = ward.patient_id
    gone = engine.patients.create(team.technician, "P-2", "Erica Musterfrau", 61, "asthma")
    ward.patient_id = gone.patient_id
    image_id = ward.seal(data, "Erika.png", [found])
    engine.patients.add_note(team.doctor, gone.patient_id, "looks well", image_id)
    engine.patients.update(team.technician, gone.patient_id, age=62)
    ward.patient_id = stays
    return image_id, gone.patient_id, data


def test_a_merge_moves_images_notes_and_history_and_the_old_number_names_the_new(
    ward: Ward,
) -> None:
    engine, team = ward.engine, ward.team
    image_id, gone, data = _two_of_one(ward)
    draft = engine.drafts.upload(
        team.technician, gone, "b.png", builders.png(builders.labelled("WAITS")[0])
    )
    merged = engine.patients.merge(team.technician, "P-1", "P-2", "registered twice")
    assert (merged.id, merged.image_count, merged.note) == ("P-1", 2, None)
    for name in ("P-1", "P-2", "p-2", gone, ward.patient_id):
        assert engine.patients.get(team.doctor, name).patient_id == ward.patient_id
    assert [p.id for p in engine.patients.search(team.doctor, "P-2")] == ["P-1"]
    assert [p.id for p in engine.patients.search(team.doctor)] == ["P-1"]
    assert engine.images.get(team.doctor, image_id).patient_id == ward.patient_id
    opened = engine.images.restore(team.doctor, image_id, WHY)
    assert engine.images.restored_file(team.doctor, opened.handle).data == data
    assert [n.text for n in engine.patients.notes(team.doctor, patient_id="P-1")] == ["looks well"]
    history = engine.patients.history(team.doctor, "P-1")
    assert [(h["id"], h["age"], h["note"], h["merged"]) for h in history] == [
        ("P-2", 62, "asthma", True), ("P-2", 61, "asthma", True),
    ]  # fmt: skip
    view = engine.drafts.open(team.technician, draft.image_id)
    done = engine.drafts.seal(team.technician, draft.image_id, view.detections)
    assert (done.patient_id, done.state) == (ward.patient_id, ImageState.RELEASED)
    codes = dict(engine.health.verify_images(_operator(engine)))
    assert set(codes.values()) == {None}
    entries = engine.audit.entries(team.administrator, query="patient.merge")
    [entry] = [e for e in entries if e.action == "patient.merge"]
    assert (entry.reason, entry.detail["images"]) == ("registered twice", 2)
    assert engine.audit.verify(team.administrator) > 0


def _operator(engine: Engine) -> str:
    engine._guard._operator_token = "operator_test"
    return "operator_test"


def test_a_number_that_was_merged_away_is_not_given_again(ward: Ward) -> None:
    _two_of_one(ward)
    ward.engine.patients.merge(ward.team.technician, "P-1", "P-2", "registered twice")
    with pytest.raises(errors.InputError):
        ward.engine.patients.create(ward.team.technician, "P-2", "Somebody Else")


def test_merges_in_a_row_still_find_the_one_that_is_left(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    _two_of_one(ward)
    engine.patients.create(team.technician, "P-3", "Erika M.")
    engine.patients.merge(team.technician, "P-1", "P-2", "registered twice")
    engine.patients.merge(team.technician, "P-3", "P-1", "registered thrice")
    assert {engine.patients.get(team.doctor, n).id for n in ("P-1", "P-2", "P-3")} == {"P-3"}
    assert len([*engine.search.images(team.doctor).images]) == 1


@pytest.mark.parametrize(("stays", "goes", "error"), [
    ("P-1", "P-1", errors.InputError),
    ("P-1", "P-9", errors.NotFound),
    ("P-9", "P-2", errors.NotFound),
])  # fmt: skip
def test_what_cannot_be_merged_is_said(
    ward: Ward, stays: str, goes: str, error: type[errors.EngineError]
) -> None:
    _two_of_one(ward)
    with pytest.raises(error):
        ward.engine.patients.merge(ward.team.technician, stays, goes, "registered twice")
    with pytest.raises(errors.InputError):
        ward.engine.patients.merge(ward.team.technician, "P-1", "P-2", "  ")
    assert len(ward.engine.patients.search(ward.team.doctor)) == 2


def test_an_altered_image_stops_the_merge_and_nothing_moved(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    image_id, gone, _ = _two_of_one(ward)
    with engine.context.database.write() as tx:
        tx.run("UPDATE images SET width = width + 1 WHERE image_id = $1", image_id)
    with pytest.raises(errors.SealBroken):
        engine.patients.merge(team.technician, "P-1", "P-2", "registered twice")
    assert engine.patients.get(team.doctor, "P-2").patient_id == gone
    assert engine.patients.notes(team.doctor, patient_id=gone)[0].text == "looks well"


def test_erasing_the_one_that_stays_erases_the_other_in_an_older_backup_too(
    ward: Ward, settings: Settings, tmp_path: Path, host: FakeHost, new_catalog: NewCatalog
) -> None:
    with_folder = replace(settings, backup_dir=tmp_path / "backups")
    ward.engine.context.live.use(with_folder)
    admin = ward.team.administrator
    _two_of_one(ward)
    old = ward.engine.backups.make(admin)
    ward.engine.patients.merge(ward.team.technician, "P-1", "P-2", "registered twice")
    ward.engine.patients.erase(admin, "P-2", "asked for it")  # by the number they knew
    host.advance(minutes=1)
    ward.engine.backups.make(admin)
    ward.engine.close()
    elsewhere = replace(with_folder, data=tmp_path / "recovered", database=new_catalog())
    engine = Engine.from_backup(elsewhere, old, detector=ScriptedDetector(settings))
    assert engine.patients.search(engine.operator_token()) == []
    engine.close()


# --- reads ------------------------------------------------------------------------------------


def test_searches_notes_and_statistics_are_read_in_the_log_once_in_a_while(
    ward: Ward, host: FakeHost
) -> None:
    engine, team = ward.engine, ward.team
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    for _ in range(3):
        engine.patients.search(team.doctor, "Musterfrau")
        engine.patients.notes(team.doctor, image_id)
        engine.statistics.tables(team.doctor)
    host.advance(minutes=6)
    engine.patients.notes(team.doctor, image_id)
    entries = engine.audit.entries(team.administrator, limit=500)
    mine = [e.action for e in reversed(entries) if e.actor == "doctor"]
    reads = [a for a in mine if a in ("patient.search", "note.read", "statistics.read")]
    assert reads == ["patient.search", "note.read", "statistics.read", "note.read"]
    [search] = [e for e in entries if e.action == "patient.search" and e.actor == "doctor"]
    assert search.detail == {"by": "words", "found": 1}
    assert search.reason == ""

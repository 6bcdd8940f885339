"""Specialty profiles as an administrator edits them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import cli
from engine import Detection, Engine, Region, Settings, errors
from engine.detect.looking import FINDS, NETWORKS
from engine.detect.profile_store import EDITABLE, as_table, check
from tests import builders
from tests.conftest import Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector

CHEST = {"classes": ["text", "thorax"], "networks": ["ppocr", "yolov8n-thorax"]}
OWN: Mapping[str, Any] = {
    "title": "Our knees",
    "description": "Knees of the third floor.",
    "classes": ["text", "barcode"],
    "networks": ["ppocr", "zxing"],
    "confidence": 0.3,
    "class_confidence": {"barcode": 0.5},
    "iou": 0.5,
    "padding": 0.1,
    "padding_min_px": 8,
    "harmless_text": "visible",
    "small_doubt": 0.02,
    "diagnostic_regions": [[0.1, 0.2, 0.9, 0.8]],
    "release_at_most": 0.01,
}


def test_a_change_is_effective_at_once_and_for_the_next_start(
    engine: Engine, team: Team, settings: Settings
) -> None:
    engine.profiles.save(team.administrator, "chest", CHEST | {"confidence": 0.4})
    assert engine.profiles.get("chest").classes == ("text", "thorax")
    assert engine.profiles.get("chest").confidence == 0.4
    entry = engine.profiles.entries(team.administrator)["chest"]
    assert (entry.origin, entry.changed_by) == ("changed", "admin")
    engine.close()
    again = Engine.open(
        settings, FakeHost(settings.data / "blobs", "x"), detector=ScriptedDetector(settings)
    )
    assert again.profiles.get("chest") == entry.profile
    again.close()


def test_a_profile_of_the_hospitals_own_takes_every_value(engine: Engine, team: Team) -> None:
    engine.profiles.save(team.administrator, "knees", OWN)
    assert set(OWN) == set(EDITABLE)
    assert as_table(engine.profiles.get("knees")) == OWN
    assert engine.profiles.get("knees").rescan


def test_before_and_after_are_in_the_audit_log(engine: Engine, team: Team) -> None:
    engine.profiles.save(team.administrator, "chest", {"iou": 0.6})
    [entry] = engine.audit.entries(team.administrator, query="profile.save")
    assert entry.actor == "admin"
    assert entry.detail["before"]["iou"] == 0.45
    assert entry.detail["after"] == entry.detail["before"] | {"iou": 0.6}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"classes": ["text", "stamp"]}, "No network detects"),
        (
            {
                "classes": ["text", "tattoo"],
                "networks": ["ppocr", "yolov8n-tattoo"],
                "class_confidence": {"tattoo": 0.2},
            },
            "confidence of tattoo must be between 0.25 and 0.6",
        ),
        ({"networks": ["ppocr", "zxing", "nobody"]}, "nobody"),
        ({"wavelength": 3}, "wavelength"),
        ({"rescan": False}, "rescan"),  # the second look is not an administrator's to drop
        ({"proposal_confidence": 0.9}, "proposal_confidence"),
        ({"classes": ["barcode"], "networks": ["zxing"]}, "must seal text"),
        ({"classes": [], "networks": ["ppocr"]}, "no classes"),
        ({"networks": ["zxing", "centerface"]}, "No chosen network detects text"),
        ({"confidence": 0.61}, "confidence of text"),
        ({"class_confidence": {"text": 0.99}}, "confidence of text"),
        ({"class_confidence": {"text": 0.01}}, "confidence of text"),
        ({"class_confidence": {"thorax": 0.3}}, "does not seal"),
        ({"class_confidence": {"text": True}}, "class_confidence"),
        ({"class_confidence": 0.3}, "class_confidence"),
        ({"iou": 0.05}, "IoU"),
        ({"iou": float("nan")}, "out of range"),
        ({"padding": 0.9}, "padding"),
        ({"padding_min_px": 0}, "padding in pixels"),
        ({"harmless_text": "shown"}, "sealed or visible"),
        ({"title": " "}, "title"),
        ({"description": "x" * 501}, "description"),
    ],
)
def test_what_would_leave_identifiers_unsealed_is_refused(
    engine: Engine, team: Team, table: dict[str, Any], says: str
) -> None:
    before = engine.profiles.get("general")
    with pytest.raises(errors.InputError, match=says):
        engine.profiles.save(team.administrator, "general", table)
    assert engine.profiles.get("general") == before
    assert not engine.audit.entries(team.administrator, query="profile.save")


@pytest.mark.parametrize("name", ["", "Chest", "../chest", "a" * 33, "1st"])
def test_a_name_that_is_none_is_refused(engine: Engine, team: Team, name: str) -> None:
    with pytest.raises(errors.InputError):
        engine.profiles.save(team.administrator, name, OWN)


def test_a_reset_brings_back_what_was_shipped(engine: Engine, team: Team) -> None:
    shipped = engine.profiles.get("chest")
    engine.profiles.save(team.administrator, "chest", CHEST)
    engine.profiles.save(team.administrator, "chest", {"iou": 0.6})
    engine.profiles.reset(team.administrator, "chest")
    assert engine.profiles.get("chest") == shipped
    with pytest.raises(errors.NotFound):
        engine.profiles.reset(team.administrator, "chest")
    engine.profiles.save(team.administrator, "knees", OWN)
    engine.profiles.reset(team.administrator, "knees")
    assert "knees" not in engine.profiles.by_name()


def test_an_own_profile_stays_while_images_were_taken_in_under_it(ward: Ward) -> None:
    admin = ward.team.administrator
    ward.engine.profiles.save(admin, "knees", OWN)
    data, box = text_png()
    ward.detector.found = [box]
    record = ward.engine.drafts.upload(
        ward.team.technician, ward.patient_id, "a.png", data, "knees"
    )
    with pytest.raises(errors.InputError, match="1 images"):
        ward.engine.profiles.reset(admin, "knees")
    ward.engine.drafts.discard(ward.team.technician, record.image_id, "not needed")
    ward.engine.profiles.reset(admin, "knees")


def test_an_altered_row_and_one_put_back_are_found(
    engine: Engine, team: Team, settings: Settings
) -> None:
    engine.profiles.save(team.administrator, "chest", CHEST | {"iou": 0.3})
    [old] = engine.context.database.read().all("SELECT * FROM profiles")
    engine.profiles.save(team.administrator, "chest", {"iou": 0.6})
    broken = bytes([old["sealed"][0] ^ 1]) + old["sealed"][1:]
    for sealed in (old["sealed"], broken):
        with engine.context.database.write() as tx:
            tx.run("UPDATE profiles SET sealed = $1", sealed)
        with pytest.raises(errors.SealBroken):
            engine.profiles.entries(team.administrator)
    with engine.context.database.write() as tx:
        tx.run("DELETE FROM profiles")
    engine.close()
    with pytest.raises(errors.SealBroken):
        Engine.open(settings, FakeHost(settings.data / "blobs"))


def test_each_class_is_sealed_from_its_own_confidence(ward: Ward) -> None:
    table = {"class_confidence": {"face": 0.5, "text": 0.2}}
    ward.engine.profiles.save(ward.team.administrator, "general", table)
    data, _ = text_png()
    text = Detection(Region(5, 5, 40, 20), "text", 0.22, "net")
    face = Detection(Region(60, 5, 90, 40), "face", 0.4, "net")
    ward.detector.found = [text]
    sure = ward.engine.drafts.upload(ward.team.technician, ward.patient_id, "a.png", data)
    assert not sure.reasons
    ward.engine.drafts.discard(ward.team.technician, sure.image_id, "again")
    ward.detector.found = [text, face]
    unsure = ward.engine.drafts.upload(ward.team.technician, ward.patient_id, "a.png", data)
    assert unsure.reasons == ("proposals",)


def test_the_command_line_reads_the_profiles_in_force(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine.open(settings, operator=True)
    token = engine.operator_token()
    engine.profiles.save(token, "knees", {**OWN, "class_confidence": {"barcode": 0.55}})
    engine.close()
    place = ["--data", str(settings.data), "--key", str(settings.key_file)]
    assert cli.main(["profiles", *place]) == 0
    said = capsys.readouterr().out
    assert "knees (own): Our knees" in said
    assert "text from 0.3, barcode from 0.55" in said
    picture = tmp_path / "a.png"
    picture.write_bytes(builders.png(builders.radiograph()))
    found = ["detect", str(picture), "--json", str(tmp_path / "out.json"), "--profile", "knees"]
    assert cli.main([*found, *place]) == 0
    assert cli.main(found) == 2  # the shipped ones have none of this name


@pytest.mark.parametrize("name", sorted(FINDS))
def test_what_a_network_finds_is_known_without_opening_it(name: str) -> None:
    assert set(NETWORKS) == set(FINDS)
    assert NETWORKS[name](Settings(threads=2)).info.classes == FINDS[name]


def test_every_shipped_profile_would_be_accepted_from_an_administrator(engine: Engine) -> None:
    for profile in engine.profiles.by_name().values():
        check(profile, engine.context.detector.finds())

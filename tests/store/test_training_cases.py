"""A missed name: the case is kept for training where that is allowed, and ends with the patient."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import cli
from engine import Detection, Engine, Region, Settings, errors
from engine.store.training_cases import open_case
from tests import builders
from tests.conftest import WHY, Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector
from tests.store.conftest import left

MISSED = Detection(Region(200, 200, 260, 220), "text", 1.0)


@pytest.fixture
def ward(settings: Settings, host: FakeHost) -> Iterator[Ward]:
    """A ward that keeps what was missed."""
    on = replace(settings, keep_missed=True, training_days=30)
    detector = ScriptedDetector(on)
    engine = Engine.open(on, host, detector=detector, operator=True)
    team = Team(engine)
    patient = engine.patients.create(team.technician, "P-1", "Erika Musterfrau", 61)
    yield Ward(engine, team, detector, patient.patient_id)
    engine.close()


def _miss(ward: Ward) -> tuple[str, bytes, Detection]:
    """An image that was sealed, flagged, and sealed anew with one more box."""
    data, found = text_png()
    image_id = ward.seal(data, "Erika.png", [found])
    _mend(ward, image_id)
    return image_id, data, found


def _mend(ward: Ward, image_id: str) -> None:
    engine, team = ward.engine, ward.team
    engine.withdrawals.flag(team.doctor, image_id, "a date in the corner")
    view = engine.drafts.open(team.technician, image_id)
    engine.drafts.seal(
        team.technician, image_id, [*view.detections, MISSED], confirm="boxed the date"
    )


def _files(ward: Ward, key: Path, again: bool = False) -> dict[str, bytes]:
    made = ward.engine.training.export(ward.engine.operator_token(), key, again)
    return {name: content for name, content in made if isinstance(content, bytes)}


def test_a_mended_case_leaves_sealed_to_a_key_and_opens_with_it_only(
    ward: Ward, tmp_path: Path, settings: Settings
) -> None:
    image_id, data, _ = _miss(ward)
    [case] = ward.engine.training.cases(ward.engine.operator_token())
    assert (case.image_id, case.version, case.exported_at) == (image_id, 1, None)
    files = _files(ward, tmp_path / "training.key")
    assert list(files) == [f"{case.case_id}.medsec-case"]
    [sealed] = files.values()
    assert b"IHDR" not in sealed
    opened = open_case(sealed, tmp_path / "training.key")
    assert (opened.original, opened.name) == (data, f"{case.case_id}.png")
    assert "Erika" not in repr(opened)
    assert [b["class"] for b in opened.before] == ["text"]
    assert len(opened.after) == 2
    assert {"x1": 200, "y1": 200, "x2": 260, "y2": 220}.items() <= opened.after[1].items()
    assert (tmp_path / "training.key").stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other.key"
    _files(ward, other)
    with pytest.raises(errors.SealBroken):
        open_case(sealed, other)
    ward.engine.close()  # the catalog's file has everything then
    for path in (p for p in settings.data.rglob("*") if p.is_file()):
        assert b"IHDR" not in path.read_bytes()


def test_each_case_leaves_once_and_is_in_the_log(ward: Ward, tmp_path: Path) -> None:
    image_id, *_ = _miss(ward)
    key = tmp_path / "training.key"
    assert len(_files(ward, key)) == 1
    assert _files(ward, key) == {}
    assert len(_files(ward, key, again=True)) == 1
    entries = ward.engine.audit.entries(ward.team.administrator, query="training.")
    assert [e.action for e in entries] == ["training.export", "training.export", "training.keep"]
    assert {e.image_id for e in entries} == {image_id}


def test_nothing_is_kept_without_the_setting_or_without_a_flag(
    ward: Ward, settings: Settings
) -> None:
    operator = ward.engine.operator_token()
    data, found = text_png()
    ward.seal(data, found=[found])
    assert ward.engine.training.cases(operator) == []
    ward.engine.context.live.use(replace(ward.engine.settings, keep_missed=False))
    other = builders.png(builders.labelled("OTHER")[0])
    _mend(ward, ward.seal(other, found=[found]))
    assert ward.engine.training.cases(operator) == []


def test_a_correction_is_kept_where_a_person_drew_what_was_missed(
    ward: Ward, tmp_path: Path
) -> None:
    data, found = text_png()
    token, operator = ward.team.technician, ward.engine.operator_token()
    image_id = ward.upload(data, found=[found])
    view = ward.engine.drafts.open(token, image_id)
    ward.engine.drafts.seal(token, image_id, [*view.detections, MISSED])
    [case] = ward.engine.training.cases(operator)
    assert (case.image_id, case.version) == (image_id, 0)
    [sealed] = _files(ward, tmp_path / "training.key").values()
    opened = open_case(sealed, tmp_path / "training.key")
    assert [(b["x1"], b["source"]) for b in opened.before] == [(found.region.x1, "scripted")]
    # As it was found and as it was drawn, without the padding of the seal.
    boxes = [tuple(b[k] for k in ("x1", "y1", "x2", "y2")) for b in opened.after]
    assert boxes == [found.region.xyxy, MISSED.region.xyxy]
    smaller = builders.png(builders.labelled("OTHER")[0])
    view = ward.engine.drafts.open(token, ward.upload(smaller, found=[found]))
    ward.engine.drafts.seal(token, view.record.image_id, view.detections)
    assert len(ward.engine.training.cases(operator)) == 1  # nothing was missed


def test_cases_of_a_patient_leave_under_one_code_that_is_not_their_number(
    ward: Ward, tmp_path: Path
) -> None:
    key, token = tmp_path / "training.key", ward.team.technician
    other = ward.engine.patients.create(token, "P-2", "Jan Nowak", 40).patient_id
    owners = [ward.patient_id, ward.patient_id, other]
    for n, patient_id in enumerate(owners):
        pixels = builders.png(builders.labelled(f"NUMBER {n}")[0])
        ward.detector.found = []
        record = ward.engine.drafts.upload(token, patient_id, "a.png", pixels)
        ward.engine.drafts.seal(token, record.image_id, [MISSED], confirm="drew it")
    opened = [open_case(sealed, key) for sealed in _files(ward, key).values()]
    groups = [case.group for case in opened]
    assert sorted(groups.count(group) for group in set(groups)) == [1, 2]
    assert all(len(group) == 16 for group in groups)
    for case in opened:
        assert not {*owners, "P-1", "P-2", "technician"} & {case.group, *map(str, case.device)}
        assert "source" not in dict(case.device)  # a technician's name


def test_only_the_operator_lists_and_exports(ward: Ward, tmp_path: Path) -> None:
    for token in (ward.team.doctor, ward.team.technician, ward.team.administrator):
        with pytest.raises(errors.PermissionDenied):
            ward.engine.training.cases(token)
        with pytest.raises(errors.PermissionDenied):
            ward.engine.training.export(token, tmp_path / "training.key")
    assert not (tmp_path / "training.key").exists()


@pytest.mark.parametrize("what", ["patient", "image"])
def test_a_case_ends_with_its_patient_and_with_its_image(
    ward: Ward, tmp_path: Path, what: str
) -> None:
    image_id, *_ = _miss(ward)
    admin = ward.team.administrator
    if what == "patient":
        ward.engine.patients.erase(admin, "P-1", "asked for it")
    else:
        ward.engine.images.erase(admin, image_id, "asked for it")
    assert ward.engine.training.cases(ward.engine.operator_token()) == []
    assert left(ward.engine) == set()
    assert _files(ward, tmp_path / "training.key") == {}


def test_a_case_ends_in_time(ward: Ward, host: FakeHost) -> None:
    image_id, *_ = _miss(ward)
    operator = ward.engine.operator_token()
    before = left(ward.engine)
    host.advance(days=29)
    ward.engine.training.expire(ward.engine.caller(operator))
    assert len(ward.engine.training.cases(operator)) == 1
    host.advance(days=2)
    ward.engine.training.expire(ward.engine.caller(operator))
    assert ward.engine.training.cases(operator) == []
    assert len(before - left(ward.engine)) == 1
    doctor = ward.engine.sessions.sign_in("doctor", "four unrelated words here").token
    assert ward.engine.images.restore(doctor, image_id, WHY).proof == "bytes"


def test_a_case_moves_with_its_patient_and_survives_a_sweep(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data, _ = _miss(ward)
    ward.engine.patients.create(ward.team.technician, "P-2", "Erika Muster")
    ward.engine.patients.merge(ward.team.technician, "P-2", "P-1", "registered twice")
    left(ward.engine)
    monkeypatch.setattr(ward.engine.context.host, "blob_age_seconds", lambda address: 1e6)
    assert ward.engine.upkeep.sweep() == 0
    [sealed] = _files(ward, tmp_path / "training.key").values()
    assert open_case(sealed, tmp_path / "training.key").original == data


def test_an_altered_case_is_named_and_the_others_leave(ward: Ward, tmp_path: Path) -> None:
    _miss(ward)
    data, found = builders.png(builders.labelled("OTHER")[0]), text_png()[1]
    _mend(ward, ward.seal(data, found=[found]))
    with ward.engine.context.database.write() as tx:
        rows = tx.all("SELECT case_id, blob FROM training_cases ORDER BY kept_at, case_id")
        tx.run(
            "UPDATE training_cases SET blob = $2 WHERE case_id = $1",
            rows[0]["case_id"],
            rows[1]["blob"],
        )
    made = list(
        ward.engine.training.export(ward.engine.operator_token(), tmp_path / "training.key")
    )
    assert [type(content).__name__ for _, content in made] == ["SealBroken", "bytes"]


@pytest.mark.parametrize("text", ["", "not a key", "two"])
def test_a_key_file_without_one_key_is_refused(ward: Ward, tmp_path: Path, text: str) -> None:
    file = tmp_path / "training.key"
    if text == "two":
        assert ward.engine.settings.key_file is not None
        line = ward.engine.settings.key_file.read_text().splitlines()[-1]
        _files(ward, file)
        text = file.read_text() + line + "\n"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(errors.SettingsError):
        list(ward.engine.training.export(ward.engine.operator_token(), file))


def test_the_command_line_exports_and_opens_what_networks_learn_from(
    ward: Ward,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, data, _ = _miss(ward)
    ward.engine.close()
    where = ["--data", str(settings.data), "--key", str(settings.key_file)]
    out, key = tmp_path / "out", tmp_path / "training.key"
    to = ["--to-key", str(key), "--out", str(out)]
    assert cli.main(["training-export", *where, *to, "--list"]) == 0
    assert "new" in capsys.readouterr().out
    assert not out.exists()
    assert cli.main(["training-export", *where, *to]) == 0
    learn = tmp_path / "learn"
    opening = ["training-open", str(out), "--to-key", str(key), "--out", str(learn)]
    assert cli.main(opening) == 0
    [(name, boxes)] = json.loads((learn / "gt.json").read_text()).items()
    assert (learn / "images" / name).read_bytes() == data
    assert len(boxes) == 2
    [file] = out.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # one bit, whatever it was
    assert cli.main(opening) == 1
    assert json.loads((learn / "gt.json").read_text()) == {}

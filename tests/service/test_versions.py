"""Learned versions of MedSec's network: taken in, in the shadow, in force, and back."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import pytest

from engine import Detection, Engine, ImageState, Region, Role, Settings, errors
from engine.detect.detector import Detector
from engine.detect.learned_files import _HEAD, NetworkCard, read_learned
from engine.detect.own_versions import MissingVersion, shipped_name
from engine.metrics import LedgerKind, LedgerLine
from engine.operations import worker
from engine.operations.context import WorkerContext
from engine.operations.live_settings import LiveSettings
from engine.records import Caller
from tests import builders
from tests.conftest import PASSWORD, Team, Ward, text_png
from tests.fakes import FakeHost
from tests.learned import VersionedDetector, learned

EXTRA = Detection(Region(200, 150, 260, 190), "text", 0.8, "scripted")
OWN = Detection(Region(20, 180, 90, 200), "text", 1.0)


@pytest.fixture
def detector(settings: Settings) -> VersionedDetector:
    """Finds what each version is told to find."""
    return VersionedDetector(settings)


@pytest.fixture
def ward(engine: Engine, team: Team, detector: VersionedDetector) -> Ward:
    """People, two of them administrators, and a patient."""
    engine.people.create(team.administrator, "ben", "Ben", Role.ADMINISTRATOR, PASSWORD)
    patient = engine.patients.create(team.technician, "P-1", "Erika Musterfrau", 61)
    return Ward(engine, team, detector, patient.patient_id)


def second(ward: Ward) -> str:
    return ward.engine.sessions.sign_in("ben", PASSWORD).token


def picture(text: str) -> bytes:
    return builders.png(builders.labelled(text)[0])


def shadowed(ward: Ward, number: int = 1) -> str:
    """A version that looks in the shadow; its name."""
    admin, file = ward.team.administrator, learned(number, base=ward.detector.version)
    ward.engine.versions.take_in(admin, file.to_bytes())
    ward.engine.versions.begin_shadow(admin, file.card.name)
    return file.card.name


def promoted(ward: Ward, number: int = 1) -> str:
    """A version in force."""
    name = shadowed(ward, number)
    ward.upload(picture(f"SHADOW {number}"), found=[text_png()[1]])
    versions = ward.engine.versions
    with pytest.raises(errors.ConfirmationNeeded) as waits:
        versions.promote(ward.team.administrator, name)
    versions.confirm(second(ward), waits.value.facts["proposal_id"])
    return name


def states(ward: Ward) -> dict[str, str]:
    return {e.name: e.state for e in ward.engine.versions.entries(ward.team.administrator)}


def log(ward: Ward, action: str) -> list[dict[str, object]]:
    found = ward.engine.audit.entries(ward.team.administrator, query=action)
    return [{"image": e.image_id, **e.detail} for e in found if e.action == action]


# --- what is taken in ---------------------------------------------------------------------------


def test_a_card_comes_out_as_it_went_in_and_holds_figures_only() -> None:
    file = learned()
    again = read_learned(file.to_bytes())
    assert again.card == file.card
    assert again.version == file.version
    assert NetworkCard.from_json(json.loads(json.dumps(file.card.to_json()))) == file.card


def test_a_candidate_that_hides_less_of_a_patients_line_is_refused(ward: Ward) -> None:
    with pytest.raises(errors.CandidateWorse) as refused:
        ward.engine.versions.take_in(ward.team.administrator, learned(lost=1).to_bytes())
    assert refused.value.facts == {"real": 1}
    assert list(states(ward)) == [shipped_name()]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: b"", "not a version"),
        (lambda data: b"MEDSEC-NETWORK 1\nno json\n", "not a version"),
        (lambda data: data[:-1] + b"\x00", "does not match its card"),
        (lambda data: data.replace(b"AGPL-3.0", b"EULA-3.0", 1), "AGPL-3.0"),
        (lambda data: data.replace(b'"shipped": true', b'"shipped": 0'), "shipped sets"),
        (lambda data: data.replace(b'"sets"', b'"tests"'), "not a version"),
    ],
)
def test_what_is_no_version_is_refused(ward: Ward, change: object, sentence: str) -> None:
    data = change(learned().to_bytes())  # type: ignore[operator]
    with pytest.raises(errors.InputError, match=sentence):
        ward.engine.versions.take_in(ward.team.administrator, data)
    assert list(states(ward)) == [shipped_name()]


def test_a_program_is_not_taken_for_a_version(ward: Ward) -> None:
    """A ``.pt`` file is a pickle; with a card in front it is still one."""
    pickle = b"\x80\x04K\x00." + bytes(100)
    card = replace(learned().card, sha256=hashlib.sha256(pickle).hexdigest())
    data = _HEAD + json.dumps(card.to_json()).encode() + b"\n" + pickle
    with pytest.raises(errors.InputError, match="can contain code"):
        ward.engine.versions.take_in(ward.team.administrator, data)


def test_a_version_learned_from_another_one_is_refused(ward: Ward) -> None:
    other = learned(base="learned-0123456789ab")
    with pytest.raises(errors.InputError, match="another one than the version in force"):
        ward.engine.versions.take_in(ward.team.administrator, other.to_bytes())


def test_a_version_that_was_taken_in_is_kept_encrypted_and_looks_at_nothing(
    ward: Ward, settings: Settings
) -> None:
    file = learned()
    ward.engine.versions.take_in(ward.team.administrator, file.to_bytes())
    assert states(ward) == {shipped_name(): "in force", file.card.name: "candidate"}
    assert ward.detector.own is None
    assert ward.detector.candidate is None
    part = file.version.onnx[5000:5064]
    for path in (p for p in settings.data.rglob("*") if p.is_file()):
        assert part not in path.read_bytes()
    assert ward.engine.upkeep.sweep() == 0
    with pytest.raises(errors.InputError, match="before"):
        ward.engine.versions.take_in(ward.team.administrator, file.to_bytes())


# --- in the shadow ------------------------------------------------------------------------------


@pytest.mark.parametrize("finds", [[], [EXTRA], errors.DetectorError])
def test_a_candidate_in_the_shadow_changes_nothing(ward: Ward, finds: object) -> None:
    data, found = text_png()
    without = ward.upload(data, found=[found])
    name = shadowed(ward)
    ward.detector.by_version = {name: finds}  # type: ignore[dict-item]
    beside = ward.upload(picture("OTHER"), found=[found])
    token = ward.team.technician
    views = [ward.engine.drafts.open(token, i) for i in (without, beside)]
    assert views[0].detections == views[1].detections
    assert views[0].reasons == views[1].reasons
    assert views[0].suggestions == views[1].suggestions
    assert views[1].record.state is ImageState.DRAFT
    sealed = ward.engine.drafts.seal(token, beside, views[1].detections)
    assert sealed.region_count == 1
    [look] = log(ward, "shadow.look")
    expected = {(): (0, 1, False), (EXTRA,): (1, 1, False)}
    kind = () if finds == [] else (EXTRA,)
    more, fewer, failed = (0, 0, True) if isinstance(finds, type) else expected[kind]
    assert (look["more"], look["fewer"], look["failed"]) == (more, fewer, failed)


def test_a_candidate_that_breaks_in_any_way_is_counted_and_harms_nothing(ward: Ward) -> None:
    name = shadowed(ward)

    class Broken(errors.DetectorError):
        def __init__(self, *_: object) -> None:
            raise ZeroDivisionError

    ward.detector.by_version = {name: Broken}
    image_id = ward.upload(text_png()[0], found=[text_png()[1]])
    assert ward.engine.drafts.open(ward.team.technician, image_id).reasons == ()
    entry = next(e for e in ward.engine.versions.entries(ward.team.administrator) if e.name == name)
    assert (entry.shadow.images, entry.shadow.failed) == (1, 1)


def test_what_a_person_decides_is_held_against_both(ward: Ward) -> None:
    _, found = text_png()
    name = shadowed(ward)
    ward.detector.by_version = {name: [found, OWN]}
    token = ward.team.technician
    image_id = ward.upload(picture("FIRST"), found=[found])
    view = ward.engine.drafts.open(token, image_id)
    ward.engine.drafts.frame(token, view.handle)
    ward.engine.drafts.seal(token, image_id, [*view.detections, OWN])
    ward.seal(picture("SECOND"), found=[found])  # nobody was shown it
    counts = ward.engine.versions.entries(ward.team.administrator)[1].shadow
    assert (counts.images, counts.differing, counts.more, counts.fewer) == (2, 2, 2, 0)
    assert (counts.decided, counts.missed, counts.missed_in_force) == (1, 0, 1)


def test_who_may_see_a_draft_sees_where_the_two_differ(ward: Ward) -> None:
    _, found = text_png()
    versions, token = ward.engine.versions, ward.team.technician
    same = ward.upload(picture("BEFORE"), found=[found])
    name = shadowed(ward)
    ward.detector.by_version = {name: [EXTRA]}
    image_id = ward.upload(picture("FIRST"), found=[found])
    [difference] = versions.differences(token)
    assert difference.record.image_id == image_id
    assert (difference.more, difference.fewer) == ((EXTRA,), (found,))
    assert versions.difference_picture(token, image_id).startswith(b"\x89PNG")
    assert log(ward, "draft.preview")[0]["image"] == image_id
    with pytest.raises(errors.NotFound):
        versions.difference_picture(token, same)
    for role in (Role.ADMINISTRATOR, Role.DOCTOR, Role.RESEARCHER):
        with pytest.raises(errors.PermissionDenied):
            versions.difference_picture(ward.team.token(role), image_id)
    ward.engine.drafts.discard(token, image_id, "of another patient")
    assert versions.differences(token) == []


# --- in force -----------------------------------------------------------------------------------


def test_a_version_comes_in_force_only_from_the_shadow_and_with_a_second_administrator(
    ward: Ward,
) -> None:
    versions, admin = ward.engine.versions, ward.team.administrator
    file = learned()
    versions.take_in(admin, file.to_bytes())
    name = file.card.name
    with pytest.raises(errors.InputError, match="in the shadow"):
        versions.promote(admin, name)
    versions.begin_shadow(admin, name)
    with pytest.raises(errors.InputError, match="in the shadow"):
        versions.promote(admin, name)  # it has looked at nothing
    ward.upload(text_png()[0], found=[text_png()[1]])
    with pytest.raises(errors.ConfirmationNeeded) as waits:
        versions.promote(admin, name)
    proposal_id = waits.value.facts["proposal_id"]
    assert [p.username for p in versions.proposals(second(ward))] == [name]
    with pytest.raises(errors.PermissionDenied):
        versions.confirm(admin, proposal_id)
    assert ward.detector.own is None
    versions.confirm(second(ward), proposal_id)
    assert states(ward) == {shipped_name(): "replaced", name: "in force"}
    assert ward.detector.own is not None
    assert ward.detector.own.name == name
    assert ward.detector.candidate is None
    [entry] = log(ward, "network.promote")
    assert (entry["version"], entry["before"], entry["proposed_by"]) == (
        name, shipped_name(), "admin",
    )  # fmt: skip


def test_without_another_administrator_the_console_confirms(
    ward: Ward, capsys: pytest.CaptureFixture[str]
) -> None:
    versions, admin = ward.engine.versions, ward.team.administrator
    ward.engine.people.set_enabled(admin, "ben", False)
    name = shadowed(ward)
    ward.upload(text_png()[0], found=[text_png()[1]])
    with pytest.raises(errors.ConfirmationNeeded) as waits:
        versions.promote(admin, name)
    [code] = re.findall(r"Code to confirm .*: ([0-9a-f-]{39})\n", capsys.readouterr().out)
    versions.confirm(admin, waits.value.facts["proposal_id"], code)
    assert states(ward)[name] == "in force"


def test_a_proposal_can_be_dropped(ward: Ward) -> None:
    versions, admin = ward.engine.versions, ward.team.administrator
    name = shadowed(ward)
    ward.upload(text_png()[0], found=[text_png()[1]])
    with pytest.raises(errors.ConfirmationNeeded) as waits:
        versions.promote(admin, name)
    versions.drop_proposal(admin, waits.value.facts["proposal_id"])
    with pytest.raises(errors.NotFound):
        versions.confirm(second(ward), waits.value.facts["proposal_id"])
    assert log(ward, "network.drop-proposal")[0]["version"] == name


def test_a_version_that_left_the_shadow_meanwhile_does_not_come_in_force(ward: Ward) -> None:
    versions, admin = ward.engine.versions, ward.team.administrator
    name = shadowed(ward)
    ward.upload(text_png()[0], found=[text_png()[1]])
    with pytest.raises(errors.ConfirmationNeeded) as waits:
        versions.promote(admin, name)
    versions.end_shadow(admin)
    with pytest.raises(errors.InputError):
        versions.confirm(second(ward), waits.value.facts["proposal_id"])
    assert states(ward)[name] == "candidate"


def test_each_sealed_image_names_the_version_that_looked(ward: Ward) -> None:
    data, found = text_png()
    first = ward.seal(data, found=[found])
    name = promoted(ward)
    second_image = ward.seal(picture("SECOND"), found=[found])
    ward.engine.versions.roll_back(ward.team.administrator, "misses the new device")
    third = ward.seal(picture("THIRD"), found=[found])
    looked = {e["image"]: e["detector"] for e in log(ward, "image.seal")}
    assert looked == {first: shipped_name(), second_image: name, third: shipped_name()}
    counts = {e.name: e.images for e in ward.engine.versions.entries(ward.team.administrator)}
    assert counts == {shipped_name(): 2, name: 1}
    context = ward.engine.context
    tx = context.database.read()
    row = context.catalog.row(tx, second_image)
    key = context.hierarchy.image_key(tx, second_image)
    facts = ward.engine.drafts._stored.open_facts(key, row)
    assert (facts["detector"], facts["rescanned_by"]) == (name, name)


def test_rolling_back_is_one_step_and_waits_for_nobody(ward: Ward) -> None:
    versions, admin = ward.engine.versions, ward.team.administrator
    one, two = promoted(ward, 1), promoted(ward, 2)
    assert states(ward) == {shipped_name(): "replaced", one: "replaced", two: "in force"}
    with pytest.raises(errors.InputError, match="reason"):
        versions.roll_back(admin, " ")
    assert versions.roll_back(admin, "worse") == one
    assert ward.detector.version == one
    assert versions.roll_back(admin, "worse still") == shipped_name()
    assert ward.detector.own is None
    with pytest.raises(errors.InputError, match="none before"):
        versions.roll_back(admin, "again")
    assert set(states(ward)) == {shipped_name(), one, two}  # each is kept


def test_a_restart_keeps_what_is_in_force_and_in_the_shadow(
    ward: Ward, settings: Settings, host: FakeHost
) -> None:
    one = promoted(ward, 1)
    two = shadowed(ward, 2)
    ward.engine.close()
    detector = VersionedDetector(settings)
    again = Engine.open(settings, host, detector=detector)
    assert detector.version == one
    assert detector.candidate is not None
    assert detector.candidate.name == two
    again.close()


def test_an_altered_file_of_the_version_in_force_sends_every_image_to_a_person(
    ward: Ward, settings: Settings, host: FakeHost
) -> None:
    name = promoted(ward)
    blob = ward.engine.context.network_versions.sent(name).blob
    ward.engine.close()
    host.delete_blob(blob)
    detector = VersionedDetector(settings)
    again = Engine.open(settings, host, detector=detector)
    assert isinstance(detector.own, MissingVersion)
    assert detector.version == name
    looking = Detector(settings, detector.profiles)
    looking.own = detector.own
    with pytest.raises(errors.DetectorError, match="roll back"):
        looking.detect(lambda _: builders.radiograph(colour=True), 1, detector.profiles["general"])
    admin = again.sessions.sign_in("admin", PASSWORD).token
    again.versions.roll_back(admin, "its file is missing")
    assert detector.own is None
    again.close()


def test_a_store_that_does_not_answer_is_no_damage(
    ward: Ward, settings: Settings, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = promoted(ward)
    before = ward.detector.own
    context = ward.engine.context
    read = host.read_blob

    def away(address: str) -> bytes:
        raise errors.StoreUnavailable("The store of files does not answer.")

    monkeypatch.setattr(host, "read_blob", away)
    context.network_versions._open.clear()
    with pytest.raises(errors.StoreUnavailable):
        ward.engine.versions.meet()
    assert ward.detector.own is before  # what looked goes on
    monkeypatch.setattr(host, "read_blob", read)
    ward.engine.versions.meet()
    assert ward.detector.version == name


# --- what follows from it -----------------------------------------------------------------------


def test_workers_look_with_the_version_that_was_in_force_when_the_job_was_made(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a restart, and with the key of that version's file alone."""
    name = promoted(ward)
    batches = ward.engine.batches
    sent = batches._sent(ward.detector.own)
    assert sent is not None
    assert "key" not in repr(sent)
    elsewhere = WorkerContext(
        LiveSettings(settings), ward.engine.context.host, VersionedDetector(settings)
    )
    monkeypatch.setattr(worker, "_VERSIONS", {})
    job = worker.Job("i", "p", "b", b"", None, (), "general", None)  # type: ignore[arg-type]
    worker._follow(elsewhere, replace(job, own=sent, candidate=None))
    assert elsewhere.detector.version == name
    worker._follow(elsewhere, replace(job, own=None, candidate=sent))
    assert elsewhere.detector.version == shipped_name()
    assert elsewhere.detector.candidate is not None
    monkeypatch.setattr(worker, "_VERSIONS", {})
    with pytest.raises(errors.DetectorError, match="altered"):
        worker._follow(elsewhere, replace(job, own=replace(sent, key=bytes(32))))


def test_evidence_of_earned_release_is_not_inherited_by_a_learned_version(ward: Ward) -> None:
    decisions = ward.engine.drafts._intake.decisions
    profile = ward.engine.profiles.get("general")
    before = decisions.rule_version(profile)
    assert decisions.rule_version(profile, shipped_name()) == before
    name = promoted(ward)
    after = decisions.rule_version(profile)
    assert after != before
    assert decisions.rule_version(profile, name) == after
    ward.engine.versions.roll_back(ward.team.administrator, "worse")
    assert decisions.rule_version(profile) == before


SHARE = 0.05


@pytest.fixture
def ruled(ward: Ward) -> Ward:
    """A profile with a rule, and a version in the shadow that finds one box more."""
    _, found = text_png()
    change = {"release_at_most": SHARE}
    ward.engine.profiles.save(ward.team.administrator, "general", change)
    name = shadowed(ward)
    ward.detector.found, ward.detector.by_version = [found], {name: [found, OWN]}
    return ward


def evidence(ward: Ward, version: str) -> tuple[int, int, int]:
    """Images, looks and misses of a version's stream of the technician's files."""
    context = ward.engine.context
    decisions = ward.engine.drafts._intake.decisions
    rule = decisions.rule_version(ward.engine.profiles.get("general"), version)
    with context.release_ledger.reading(context.database.read()) as ledger:
        found = [s.standing(SHARE) for n, s in ledger.streams.items() if n.version == rule]
    assert len(found) <= 1
    return (found[0].images, found[0].looks, found[0].misses) if found else (0, 0, 0)


def looked(ward: Ward, text: str, *boxes: Detection, shown: bool = True) -> str:
    """A person decides an image with these boxes; its id."""
    token, drafts = ward.team.technician, ward.engine.drafts
    image_id = ward.upload(picture(text))
    view = drafts.open(token, image_id)
    if shown:
        drafts.frame(token, view.handle)
    drafts.seal(token, image_id, [*view.detections, *boxes], confirm="looked")
    return image_id


def test_looks_during_the_shadow_are_evidence_of_the_version_that_looked_there(
    ruled: Ward,
) -> None:
    name = next(iter(ruled.detector.by_version))
    looked(ruled, "ONE")
    image_id = looked(ruled, "TWO", OWN)  # the version in force misses it
    looked(ruled, "THREE", EXTRA)  # both miss it
    assert evidence(ruled, shipped_name()) == (3, 3, 2)
    assert evidence(ruled, name) == (3, 3, 1)
    versions = ruled.engine.versions
    with pytest.raises(errors.ConfirmationNeeded) as waits:
        versions.promote(ruled.team.administrator, name)
    versions.confirm(second(ruled), waits.value.facts["proposal_id"])
    looked(ruled, "FOUR")
    assert evidence(ruled, name) == (4, 4, 1)  # it goes on from there
    assert evidence(ruled, shipped_name()) == (3, 3, 2)
    ruled.engine.withdrawals.flag(ruled.team.doctor, image_id, "a name in the corner")
    assert evidence(ruled, name) == (4, 4, 2)  # nobody knows what it would have seen there


def test_what_nobody_was_shown_is_no_evidence_in_the_shadow_and_holds_nobody_back(
    ruled: Ward,
) -> None:
    name = next(iter(ruled.detector.by_version))
    looked(ruled, "ONE", OWN, shown=False)
    ruled.engine.drafts.discard(
        ruled.team.technician, ruled.upload(picture("GONE")), "of another patient"
    )
    looked(ruled, "TWO")
    assert evidence(ruled, name) == (3, 1, 0)


@pytest.mark.parametrize("why", ["in doubt", "fails", "harmless text is left visible"])
def test_what_a_version_in_the_shadow_could_not_release_is_no_evidence(
    ruled: Ward, why: str
) -> None:
    name = next(iter(ruled.detector.by_version))
    doubtful = Detection(Region(0, 0, 300, 200), "text", 0.12, "scripted")
    if why == "in doubt":
        ruled.detector.by_version = {name: [text_png()[1], doubtful]}
    elif why == "fails":
        ruled.detector.by_version = {name: errors.DetectorError}
    else:
        change = {"release_at_most": SHARE, "harmless_text": "visible"}
        ruled.engine.profiles.save(ruled.team.administrator, "general", change)
    looked(ruled, "ONE")
    assert evidence(ruled, name) == (0, 0, 0)


def test_where_samples_are_enough_for_the_version_in_force_the_shadow_earns_nothing(
    ruled: Ward,
) -> None:
    """People then look more often at what is in doubt: such looks say less than they seem to."""
    name = next(iter(ruled.detector.by_version))
    looked(ruled, "FIRST")
    context = ruled.engine.context
    with context.release_ledger.reading(context.database.read()) as ledger:
        rule = ruled.engine.drafts._intake.decisions.rule_version(
            ruled.engine.profiles.get("general")
        )
        stream = next(n for n in ledger.streams if n.version == rule)
    caller = Caller("technician", Role.TECHNICIAN, "", "test")
    with context.database.write() as tx:
        for n in range(80):
            for line in (
                LedgerLine(LedgerKind.ARRIVE, f"im_made_{n}", stream=stream, whole=stream),
                LedgerLine(LedgerKind.LOOK, f"im_made_{n}"),
            ):
                context.release_ledger.append(tx, context.audit, caller, line)
    assert evidence(ruled, name) == (1, 1, 0)
    ruled.upload(picture("TRUSTED"))
    assert evidence(ruled, name) == (1, 1, 0)

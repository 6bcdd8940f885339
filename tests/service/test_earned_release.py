"""Earned release in the server: what is decided, where evidence comes from, and what ends it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from engine import BatchOptions, CohortOrder, Detection, ImageRecord, ImageState, Source, errors
from engine.metrics import LedgerKind, LedgerLine, Route, Standing, StreamName, Trust
from engine.operations.release_decisions import ReleaseRule
from engine.permissions import Role
from engine.records import Caller, Region
from engine.seal import pipeline
from engine.service.upkeep import _SYSTEM
from tests import builders
from tests.conftest import Ward, text_png

SHARE = 0.05
CLEAN = 74  # looks without a miss that bring the bound to 5 %
TECHNICIAN = Caller("technician", Role.TECHNICIAN, "", "test")
OWN = Detection(Region(200, 150, 260, 190), "text", 1.0)


def picture(text: str) -> bytes:
    return builders.png(builders.labelled(text)[0])


@pytest.fixture
def ruled(ward: Ward) -> Ward:
    """A profile with a rule."""
    _, found = text_png()
    ward.detector.found = [found]
    ward.engine.profiles.save(ward.team.administrator, "general", {"release_at_most": SHARE})
    return ward


def note(ward: Ward, *lines: LedgerLine) -> None:
    context = ward.engine.context
    with context.database.write() as tx:
        for line in lines:
            context.release_ledger.append(tx, context.audit, TECHNICIAN, line)


def stream(ward: Ward) -> StreamName:
    """The coarsest stream of the technician's PNG files."""
    decisions = ward.engine.drafts._intake.decisions
    version = decisions.rule_version(ward.engine.profiles.get("general"))
    return StreamName(version, (("profile", "general"), ("source", "technician"), ("kind", "PNG")))


def learned(ward: Ward, looks: int = CLEAN) -> None:
    """As if so many images had come in and a person had missed nothing in them."""
    name, begun = stream(ward), standing(ward).images
    lines = []
    for n in range(begun, begun + looks):
        image_id = f"im_made_{n}"
        lines += [
            LedgerLine(LedgerKind.ARRIVE, image_id, stream=name, whole=name),
            LedgerLine(LedgerKind.LOOK, image_id),
        ]
    note(ward, *lines)


def looked(ward: Ward, image_id: str, boxes: list[Detection]) -> ImageRecord:
    """A person opens a draft, sees it and seals it."""
    token = ward.team.technician
    view = ward.engine.drafts.open(token, image_id)
    ward.engine.drafts.frame(token, view.handle)
    return ward.engine.drafts.seal(token, image_id, boxes, confirm="looked")


def standing(ward: Ward) -> Standing:
    context = ward.engine.context
    with context.release_ledger.reading(context.database.read()) as ledger:
        known = ledger.streams.get(stream(ward))
        return known.standing(SHARE) if known else Standing(
            stream(ward), Trust.LEARNING, 0, 0, 0, 0, 0, 1.0
        )  # fmt: skip


def route(ward: Ward, image_id: str) -> Route | None:
    context = ward.engine.context
    with context.release_ledger.reading(context.database.read()) as ledger:
        return ledger.route_of(image_id)


def log(ward: Ward, action: str) -> list[dict[str, object]]:
    found = ward.engine.audit.entries(ward.team.administrator, query=action)
    return [{"image": e.image_id, **e.detail} for e in found if e.action == action]


def no_samples(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    live = ward.engine.context.live
    live.use(replace(live.settings, release_sample=0.01))
    decisions = ward.engine.drafts._intake.decisions
    monkeypatch.setattr(decisions, "_drawn", lambda: 0.5)


def test_without_a_rule_nothing_changes(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])
    assert route(ward, image_id) is None
    done = ward.engine.drafts.seal_undoubted(ward.team.technician, image_id)
    assert done.state is ImageState.RELEASED
    assert log(ward, "release.arrive") == []


def test_while_a_stream_learns_a_person_looks_at_every_image(ruled: Ward) -> None:
    image_id = ruled.upload(picture("DOE"))
    with pytest.raises(errors.ReviewNeeded):
        ruled.engine.drafts.seal_undoubted(ruled.team.technician, image_id)
    [waiting] = ruled.engine.drafts.waiting(ruled.team.technician)
    assert waiting.state is ImageState.DRAFT
    assert standing(ruled).looks == 0
    looked(ruled, image_id, ruled.detector.found)
    assert (standing(ruled).looks, standing(ruled).misses) == (1, 0)


def test_a_system_that_seals_without_a_picture_has_not_looked(ruled: Ward) -> None:
    """It would never find a miss, and its stream would be trusted for nothing."""
    learned(ruled, CLEAN - 1)
    token = ruled.team.technician
    image_id = ruled.upload(picture("DOE"))
    view = ruled.engine.drafts.open(token, image_id)
    ruled.engine.drafts.seal(token, image_id, view.detections)
    assert standing(ruled).looks == CLEAN - 1
    assert standing(ruled).waiting == 0  # and it holds nobody back
    other = ruled.upload(picture("ONE"))
    ruled.engine.drafts.seal(token, other, [*view.detections, OWN])
    assert standing(ruled).misses == 1  # a miss is one, whoever drew it


@pytest.mark.parametrize(
    ("boxes", "missed"),
    [
        ("found", 0),
        ("found and a person's own", 1),
        ("one that reaches further than the found one", 1),
        ("one inside the found one", 0),
    ],
)
def test_a_miss_is_what_no_found_box_would_have_hidden(
    ruled: Ward, boxes: str, missed: int
) -> None:
    _, found = text_png()
    r = found.region
    decided = {
        "found": [found],
        "found and a person's own": [found, OWN],
        "one that reaches further than the found one": [
            found, Detection(Region(r.x1, r.y1, r.x2 + 60, r.y2), "text", 1.0)
        ],
        "one inside the found one": [
            found, Detection(Region(r.x1 + 1, r.y1 + 1, r.x2 - 1, r.y2 - 1), "text", 1.0)
        ],
    }[boxes]  # fmt: skip
    image_id = ruled.upload(picture("DOE"))
    looked(ruled, image_id, decided)
    assert (standing(ruled).looks, standing(ruled).misses) == (1, missed)


def test_the_look_that_earns_trust_is_in_the_log_with_its_numbers(ruled: Ward) -> None:
    learned(ruled, CLEAN - 1)
    image_id = ruled.upload(picture("DOE"))
    assert log(ruled, "release.trust") == []
    looked(ruled, image_id, ruled.detector.found)
    [said] = log(ruled, "release.trust")
    assert (said["looks"], said["misses"], said["at_most"]) == (CLEAN, 0, SHARE)
    assert 0 < float(str(said["bound"])) <= SHARE


def test_a_cohort_says_under_which_bound_its_images_left(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_samples(ruled, monkeypatch)
    learned(ruled)
    image_id = ruled.upload(picture("DOE"))
    ruled.engine.drafts.seal_undoubted(ruled.team.technician, image_id)
    doctor, cohorts = ruled.team.doctor, ruled.engine.cohorts
    cohort = cohorts.prepare(doctor, CohortOrder(image_ids=[image_id], reason="a trial"))
    files = dict(cohorts.files(doctor, cohort.release_id))
    said = json.loads(files["statement.json"])["released_by_evidence"]
    assert said["images"] == 1
    assert 0 < said["share_with_a_miss_at_most"] <= SHARE


@pytest.mark.parametrize("empty", [False, True])
def test_a_trusted_stream_releases_without_a_person(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    no_samples(ruled, monkeypatch)
    learned(ruled)
    image_id = ruled.upload(picture("DOE"), found=[] if empty else None)
    done = ruled.engine.drafts.seal_undoubted(ruled.team.technician, image_id)
    assert done.state is ImageState.RELEASED
    assert [e["image"] for e in log(ruled, "release.release")] == [image_id]
    [sealed] = log(ruled, "image.seal")
    assert sealed["automatic"] is True
    assert (standing(ruled).looks, standing(ruled).released) == (CLEAN, 1)


def test_trying_again_draws_no_other_lot(ruled: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    learned(ruled)
    monkeypatch.setattr(ruled.engine.drafts._intake.decisions, "_drawn", lambda: 0.0499)
    image_id = ruled.upload(picture("DOE"))
    monkeypatch.setattr(ruled.engine.drafts._intake.decisions, "_drawn", lambda: 0.9)
    for _ in range(3):
        with pytest.raises(errors.ReviewNeeded):
            ruled.engine.drafts.seal_undoubted(ruled.team.technician, image_id)
    again = Source("again.png", lambda: picture("DOE"))
    [item] = ruled.engine.batches.seal(ruled.team.technician, ruled.patient_id, [again], few=True)
    assert item.state == "draft"
    looked(ruled, image_id, ruled.detector.found)
    assert standing(ruled).looks == CLEAN + 1


def test_a_sample_looks_like_any_other_image_that_waits(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the technician who lists and opens it, and in what of the log can be read."""
    decisions = ruled.engine.drafts._intake.decisions
    learning = ruled.upload(picture("ONE"))
    looked(ruled, learning, ruled.detector.found)
    learned(ruled)
    monkeypatch.setattr(decisions, "_drawn", lambda: 0.0)
    sample = ruled.upload(picture("TWO"))
    monkeypatch.setattr(decisions, "_drawn", lambda: 0.9)
    itself = ruled.upload(picture("SIX"))
    assert [route(ruled, i) for i in (learning, sample, itself)] == [*Route]
    one, two = (e for e in ruled.engine.drafts.waiting(ruled.team.technician))
    assert (one.state, one.reasons) == (two.state, two.reasons)
    lines = {e["image"]: e for e in log(ruled, "release.arrive")}
    shown = [{k: v for k, v in lines[i].items() if k != "line"} for i in (sample, itself)]
    assert [s.pop("image") for s in shown] == [sample, itself]
    assert shown[0] == shown[1]
    assert len({len(str(lines[i]["line"])) for i in (learning, sample, itself)}) == 1


def test_a_miss_in_a_sample_suspends_names_and_withdraws(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = ruled.engine.context.live
    live.use(replace(live.settings, release_withdraw=True))
    learned(ruled)
    decisions, token = ruled.engine.drafts._intake.decisions, ruled.team.technician
    monkeypatch.setattr(decisions, "_drawn", lambda: 0.9)
    boxed = ruled.upload(picture("ONE"))
    bare = ruled.upload(picture("TWO"), found=[])
    for image_id in (boxed, bare):
        ruled.engine.drafts.seal_undoubted(token, image_id)
    monkeypatch.setattr(decisions, "_drawn", lambda: 0.0)
    sample = ruled.upload(picture("SIX"), found=[text_png()[1]])
    looked(ruled, sample, [*ruled.detector.found, OWN])
    [said] = log(ruled, "release.suspend")
    assert said["images"] == [bare, boxed]  # where nothing at all is hidden first
    assert (said["looks"], said["misses"]) == (CLEAN + 1, 1)
    assert (standing(ruled).state, standing(ruled).why) == (Trust.SUSPENDED, "missed")
    withdrawn = ruled.engine.withdrawals.waiting(ruled.team.doctor)
    assert [r.image_id for r in withdrawn] == [bare, boxed]
    ruled.engine.withdrawals.reopen(ruled.team.doctor, bare)  # it comes back as others do
    monkeypatch.setattr(decisions, "_drawn", lambda: 0.9)
    late = ruled.upload(picture("END"))
    with pytest.raises(errors.ReviewNeeded):
        ruled.engine.drafts.seal_undoubted(token, late)


def test_a_flag_suspends_and_leaves_the_others_where_the_setting_says_so(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned(ruled)
    no_samples(ruled, monkeypatch)
    token = ruled.team.technician
    images = [ruled.upload(picture(text)) for text in ("ONE", "TWO")]
    for image_id in images:
        ruled.engine.drafts.seal_undoubted(token, image_id)
    waiting = ruled.upload(picture("SIX"))
    assert route(ruled, waiting) is Route.ITSELF
    ruled.engine.withdrawals.flag(token, images[0], "a name")
    assert standing(ruled).state is Trust.SUSPENDED
    assert standing(ruled).misses == 1
    [said] = log(ruled, "release.suspend")
    assert said["images"] == images
    [record] = ruled.engine.withdrawals.waiting(ruled.team.doctor)
    assert record.image_id == images[0]
    with pytest.raises(errors.ReviewNeeded):  # decided before, suspended meanwhile
        ruled.engine.drafts.seal_undoubted(token, waiting)


def test_other_values_of_the_profile_or_another_network_begin_anew(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_samples(ruled, monkeypatch)
    learned(ruled)
    engine, admin = ruled.engine, ruled.team.administrator
    waiting = ruled.upload(picture("ONE"))
    engine.profiles.save(admin, "general", {"title": "Another title"})
    assert standing(ruled).looks == CLEAN
    engine.profiles.save(admin, "general", {"iou": 0.5})
    assert standing(ruled).looks == 0
    with pytest.raises(errors.ReviewNeeded):  # it was looked for by other values
        engine.drafts.seal_undoubted(ruled.team.technician, waiting)


def test_a_lower_share_takes_trust_away_and_none_gives_none(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_samples(ruled, monkeypatch)
    learned(ruled)
    engine, admin = ruled.engine, ruled.team.administrator
    engine.profiles.save(admin, "general", {"release_at_most": 0.01})
    image_id = ruled.upload(picture("ONE"))
    assert route(ruled, image_id) is Route.PERSON
    with pytest.raises(errors.InputError):
        engine.profiles.save(admin, "general", {"release_at_most": 0.06})


def batch(ward: Ward, *texts: str, **options: bool) -> list[str]:
    sources = [Source(f"{t}.png", lambda t=t: picture(t)) for t in texts]
    items = ward.engine.batches.seal(
        ward.team.technician, ward.patient_id, sources, None, BatchOptions(**options), few=True
    )
    return [item.state for item in items]


def test_a_batch_waits_for_people_until_its_stream_is_trusted(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_samples(ruled, monkeypatch)
    assert batch(ruled, "ONE") == ["draft"]
    ruled.detector.found = []
    assert batch(ruled, "TWO", accept_empty=True) == ["review"]
    for waiting in ruled.engine.drafts.waiting(ruled.team.technician):
        ruled.engine.drafts.discard(ruled.team.technician, waiting.image_id, "a test")
    learned(ruled)
    assert batch(ruled, "SIX") == ["sealed"]
    ruled.detector.found = [text_png()[1]]
    assert batch(ruled, "END") == ["sealed"]
    assert standing(ruled).released == 2


def test_the_server_decides_again_whatever_a_worker_was_told(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    decisions = ruled.engine.batches._intake.decisions
    profile = ruled.engine.profiles.get("general")
    told = ReleaseRule(decisions.rule_version(profile), frozenset([stream(ruled)]))
    monkeypatch.setattr(decisions, "rule", lambda profile: told)
    sealed = []
    real = pipeline.seal
    monkeypatch.setattr(pipeline, "seal", lambda *a: sealed.append(1) or real(*a))
    assert batch(ruled, "ONE") == ["draft"]
    assert sealed  # the worker had sealed it
    assert len(set(ruled.engine.context.host.blobs())) == 1  # and its files are gone
    [waiting] = ruled.engine.drafts.waiting(ruled.team.technician)
    assert waiting.state is ImageState.DRAFT


# --- the ledger in the log --------------------------------------------------------------------


def test_a_change_that_is_rolled_back_leaves_nothing_in_the_ledger(ruled: Ward) -> None:
    learned(ruled, 3)
    context = ruled.engine.context
    line = LedgerLine(LedgerKind.FLAG, "im_made_0")

    def then_fails() -> None:
        with context.database.write() as tx:
            context.release_ledger.append(tx, context.audit, TECHNICIAN, line)
            with context.release_ledger.reading(tx) as ledger:
                assert ledger.streams[stream(ruled)].standing(SHARE).misses == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        then_fails()
    assert (standing(ruled).looks, standing(ruled).misses) == (3, 0)
    learned(ruled, 1)
    assert (standing(ruled).looks, standing(ruled).misses) == (4, 0)


def forget_cache(ward: Ward) -> None:
    ward.engine.context.release_ledger._forget()


@pytest.mark.parametrize("attack", ["leave out", "swap", "repeat", "make up", "edit"])
def test_who_writes_the_database_grants_no_trust(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    """The chain of the log has no key: somebody may have computed it anew. Lines have one."""
    no_samples(ruled, monkeypatch)
    learned(ruled, 6)
    note(ruled, LedgerLine(LedgerKind.FLAG, "im_made_5"))  # what the attacker wants to be gone
    learned(ruled, 2)
    database = ruled.engine.context.database
    rows = database.read().all(
        "SELECT sequence, action, image_id, detail FROM audit WHERE action LIKE 'release.%'"
        " ORDER BY sequence"
    )
    flag = next(r for r in rows if r["action"] == "release.flag")
    look = next(r for r in rows if r["action"] == "release.look")
    with database.write() as tx:
        for trigger in ("update", "delete"):
            tx.run(f"DROP TRIGGER audit_no_{trigger} ON audit")
        tx.run("DROP INDEX audit_of_image")
    with database.write() as tx:
        match attack:
            case "leave out":
                tx.run("DELETE FROM audit WHERE sequence = $1", flag["sequence"])
            case "swap":
                for one, other in ((flag, look), (look, flag)):
                    tx.run(
                        "UPDATE audit SET detail = $2, action = $3, image_id = $4"
                        " WHERE sequence = $1",
                        one["sequence"], other["detail"], other["action"], other["image_id"],
                    )  # fmt: skip
            case "repeat":
                tx.run("UPDATE audit SET detail = $2 WHERE sequence = $1",
                       flag["sequence"], look["detail"])  # fmt: skip
            case "make up":
                line = base64.b64encode(b"\1" * 200).decode()
                tx.run("UPDATE audit SET detail = $2 WHERE sequence = $1",
                       flag["sequence"], json.dumps({"line": line}))  # fmt: skip
            case "edit":
                tx.run("UPDATE audit SET action = 'release.look' WHERE sequence = $1",
                       flag["sequence"])  # fmt: skip
    forget_cache(ruled)
    with pytest.raises(errors.SealBroken):
        standing(ruled)
    # People go on working; nothing is released without them.
    image_id = ruled.upload(picture("ONE"))
    with pytest.raises(errors.ReviewNeeded):
        ruled.engine.drafts.seal_undoubted(ruled.team.technician, image_id)
    assert batch(ruled, "TWO") == ["draft"]
    done = looked(ruled, image_id, ruled.detector.found)
    assert done.state is ImageState.RELEASED


def test_the_order_is_that_of_the_log_whatever_the_clock_says(ruled: Ward) -> None:
    host = ruled.engine.context.host
    for n, days in enumerate((0, 900, -2000, 400)):
        host.advance(days=days)
        learned(ruled, 5)
        assert standing(ruled).looks == 5 * (n + 1)
    forget_cache(ruled)
    assert standing(ruled).looks == 20


def test_an_erased_draft_holds_nobody_back(ruled: Ward) -> None:
    image_id = ruled.upload(picture("ONE"))
    learned(ruled, 2)
    assert standing(ruled).looks == 0
    ruled.engine.drafts.discard(ruled.team.technician, image_id, "twice")
    assert standing(ruled).looks == 2


def test_drift_suspends_what_is_trusted_once_a_month(ruled: Ward) -> None:
    learned(ruled)
    context = ruled.engine.context
    decisions = ruled.engine.drafts._intake.decisions
    for _ in range(2):
        with context.database.write() as tx:
            decisions.drifted(tx, _SYSTEM, "general", "2026-01")
            decisions.drifted(tx, _SYSTEM, "chest", "2026-01")
    assert [e["stream"] for e in log(ruled, "release.suspend")] == [stream(ruled).stream_id]
    assert standing(ruled).why == "drift in 2026-01"


def test_drift_is_counted_only_where_it_would_suspend_something(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[object] = []
    month = SimpleNamespace(month=f"{ruled.engine.context.host.now():%Y-%m}", profile="general")
    drift = SimpleNamespace(month=month, shifts=[SimpleNamespace(moved=True)])
    monkeypatch.setattr(
        "engine.service.upkeep.monthly_drift", lambda figures: counted.append(figures) or [drift]
    )

    def an_hour_later() -> int:
        ruled.engine.upkeep._next_ms.clear()
        ruled.engine.upkeep._drift_due()
        return len(counted)

    assert an_hour_later() == 0
    learned(ruled)
    assert an_hour_later() == 1
    assert standing(ruled).why == f"drift in {month.month}"
    assert an_hour_later() == 1


def test_a_suspension_is_told_to_the_administrators(
    ruled: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, admin = ruled.engine.context.outbox, ruled.team.administrator
    monkeypatch.setattr(type(outbox), "on", True)
    learned(ruled)
    [known] = ruled.engine.release.streams(admin)
    with pytest.raises(errors.InputError):
        ruled.engine.release.suspend(admin, known.name.stream_id, " ")
    ruled.engine.release.suspend(admin, known.name.stream_id, "a new probe")
    assert [n.subject for n in outbox.notices()] == ["Release without a look suspended"]
    [said] = log(ruled, "release.suspend")
    assert (said["looks"], said["misses"]) == (CLEAN, 0)
    [known] = ruled.engine.release.streams(admin)
    assert (known.state, known.why) == (Trust.SUSPENDED, "a new probe")

"""What researchers may be told: no filter, no pair of them, no later look shows few patients."""

from __future__ import annotations

import copy
import itertools
from datetime import datetime

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Detection, Region, errors
from engine.measure.disclosure import (
    SMALLEST_GROUP,
    WITHHELD_STEP,
    kind_of_image,
    most_withheld,
    published,
)
from engine.operations import measured_numbers
from engine.operations.guard import Guard
from engine.operations.measured_numbers import Measured, MeasuredNumbers
from engine.operations.stored_images import StoredImages
from tests import builders
from tests.conftest import PASSWORD, Ward

STREAMS = ("2026-01 CT", "2026-01 MR", "2026-02 CT")
RELEASES = st.lists(st.tuples(st.sampled_from(STREAMS), st.integers(0, 8)), max_size=60)


def members(releases: list[tuple[str, int]]) -> list[tuple[str, int, int]]:
    return [(stream, patient, place) for place, (stream, patient) in enumerate(releases)]


def answers(known: list[tuple[str, int, int]], unchanged: set[int]) -> list[frozenset[int]]:
    """What every choice of streams shows."""
    told = published(known, unchanged)
    chosen = [s for n in range(len(STREAMS) + 1) for s in itertools.combinations(STREAMS, n)]
    return [frozenset(m for s, _, m in known if s in some and m in told) for some in chosen]


@given(RELEASES, st.sets(st.integers(0, 59)), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_two_answers_never_differ_in_few_patients(
    releases: list[tuple[str, int]], gone: set[int], before: int
) -> None:
    """Any filter against any other, today against an earlier day on which nothing was gone."""
    known = members(releases)
    patient = {m: p for _, p, m in known}
    whole = {m for _, _, m in known}
    then, now = answers(known[:before], whole), answers(known, whole - gone)
    for one, other in itertools.product([*then, *now], repeat=2):
        for only in (one - other, other - one):
            assert not only or len({patient[m] for m in only}) >= SMALLEST_GROUP


@given(RELEASES)
@settings(max_examples=100, deadline=None)
def test_nothing_is_held_back_longer_than_it_must(releases: list[tuple[str, int]]) -> None:
    known = members(releases)
    told = published(known, {m for _, _, m in known})
    for stream in STREAMS:
        waiting = {p for s, p, m in known if s == stream and m not in told}
        assert len(waiting) < SMALLEST_GROUP


def test_a_batch_that_lost_an_image_is_taken_back_whole_and_shifts_no_other() -> None:
    known = [("s", n % 5, n) for n in range(15)]
    assert published(known, set(range(15))) == set(range(15))
    assert published(known, set(range(15)) - {7}) == {*range(5), *range(10, 15)}


@given(st.lists(st.integers(0, 8), max_size=120), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_how_many_are_withheld_changes_with_whole_batches_only(
    patients: list[int], shown: int
) -> None:
    """Whoever looks after every single release learns of at least five patients at a time."""
    ever = [(patient, place) for place, patient in enumerate(patients)]
    told = [most_withheld(ever[:n], shown) for n in range(len(ever) + 1)]
    last = 0
    for n in range(1, len(told)):
        if told[n] != told[n - 1]:
            assert len({patient for patient, _ in ever[last:n]}) >= SMALLEST_GROUP
            last = n
    assert set(told) <= set(range(WITHHELD_STEP, 200, WITHHELD_STEP))


def test_none_and_a_few_are_told_alike() -> None:
    ever = [(n % 6, n) for n in range(30)]
    assert {most_withheld(ever[:n], n) for n in range(31)} == {WITHHELD_STEP}
    assert most_withheld(ever, 0) > most_withheld(ever, 20) == WITHHELD_STEP


def test_a_minimum_under_one_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="under 1"):
        published([], [], 0)


@pytest.mark.parametrize(
    ("modality", "kind"), [("DX", "X-ray"), ("", "picture"), ("ZZ", "other"), ("MG", "mammography")]
)
def test_kinds_of_image_are_a_fixed_list(modality: str, kind: str) -> None:
    assert kind_of_image(modality) == kind


# --- in the engine ----------------------------------------------------------------------------


def _seal(ward: Ward, number: int, labels: tuple[str, ...] = ("text",), least: float = 0.9) -> str:
    ward.patient_id = ward.engine.patients.create(
        ward.team.technician, f"Q-{number}", f"Person Number{number}"
    ).patient_id
    boxes = [
        Detection(Region(8, 8 + 60 * n, 200, 40 + 60 * n), label, least if n else 0.9, "scripted")
        for n, label in enumerate(labels)
    ]
    picture = builders.png(builders.labelled(f"PERSON {number}", seed=number)[0])
    return ward.seal(picture, found=boxes)


def test_a_class_of_one_patient_is_in_no_table_and_in_no_total(ward: Ward) -> None:
    for number in range(5):
        _seal(ward, number, ("text", "face") if number == 3 else ("text",))
    seen = ward.engine.statistics.tables(ward.team.researcher)
    assert seen.totals["images"] == 5
    assert set(seen.regions["label"]) == {"text"}
    # Not by subtraction either: no table of images counts regions.
    assert "region_count" not in seen.images
    assert seen.totals["regions"] == 5
    full = ward.engine.statistics.tables(ward.team.doctor)
    assert full.totals["regions"] == 6
    assert full.only(labels=["face"]).totals == {**full.totals, "regions": 1}


def test_no_number_of_the_images_tells_of_a_region_that_is_in_no_table(ward: Ward) -> None:
    """Subtracting the tables: the least certain box of an image, and how much its boxes cover."""
    for number in range(5):
        _seal(ward, number, ("text", "face") if number == 3 else ("text",), least=0.3)
    seen = ward.engine.statistics.tables(ward.team.researcher)
    full = ward.engine.statistics.tables(ward.team.doctor)
    assert 0.3 in set(full.images["confidence"])
    assert "confidence" not in seen.images
    assert 0.3 not in set(seen.regions["confidence"])
    twice = {"masked_share": "area_px", "encrypt_ms": "encrypt_ms", "stored_bytes": "sealed_bytes"}
    for of_image, of_region in twice.items():
        assert of_image in full.images
        assert of_region in full.regions
        assert not (of_image in seen.images and of_region in seen.regions)


def test_the_next_image_alone_changes_nothing_that_a_researcher_sees(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    for number in range(5):
        _seal(ward, number)
    before = engine.statistics.tables(team.researcher)
    _seal(ward, 6)
    after = engine.statistics.tables(team.researcher)
    assert len(engine.statistics.tables(team.doctor).images) == 6
    for table in ("images", "regions"):
        old, new = getattr(before, table), getattr(after, table)
        for column in old:
            assert sorted(old[column]) == sorted(new[column])


def test_one_patient_who_comes_or_goes_does_not_change_how_many_are_withheld(ward: Ward) -> None:
    engine, team = ward.engine, copy.copy(ward.team)  # the same object serves every test
    ward.team = team

    def told() -> int:
        return engine.statistics.tables(team.researcher).withheld

    assert told() == 10
    ids = [_seal(ward, number) for number in range(4)]
    for number in range(9):  # a study of one of them: 13 images of four patients
        ids.append(ward.seal(builders.png(builders.labelled(f"NEXT {number}", seed=number)[0])))
        assert told() == 10
    engine.withdrawals.flag(team.technician, ids[0], "a date")
    assert told() == 10
    ward.engine.context.host.advance(days=40)  # type: ignore[attr-defined]
    team.technician = engine.sessions.sign_in("technician", PASSWORD).token
    team.researcher = engine.sessions.sign_in("researcher", PASSWORD).token
    _seal(ward, 5)  # the fifth patient, in another month: no group can be shown
    seen = engine.statistics.tables(team.researcher)
    assert (len(seen.images), seen.withheld) == (0, 20)
    for chosen in (seen.only(["CT"]), seen.only(["picture"]), seen.only(labels=["face"])):
        assert chosen.withheld == 20


def test_an_image_that_was_withdrawn_takes_its_whole_batch_along(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    ids = [_seal(ward, number) for number in range(5)]
    assert engine.statistics.tables(team.researcher).totals["images"] == 5
    engine.withdrawals.flag(team.technician, ids[2], "a date")
    assert engine.statistics.tables(team.researcher).totals["images"] == 0
    assert engine.statistics.tables(team.doctor).totals["images"] == 4


def test_a_filter_of_a_researcher_is_by_whole_months_and_kinds(ward: Ward) -> None:
    for number in range(5):
        _seal(ward, number)
    seen = ward.engine.statistics.tables(ward.team.researcher)
    first = datetime(2026, 1, 1)  # noqa: DTZ001 (as stored)
    assert set(seen.images["uploaded_at"]) == {first}
    assert set(seen.images["modality"]) == set(seen.regions["modality"]) == {"picture"}
    assert seen.only(modalities=["CT"]).totals["images"] == 0
    assert seen.only(["picture"], since=first, until=first).totals == seen.totals


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_table_is_taken_away_in_two_formats_and_the_log_knows(ward: Ward, format: str) -> None:
    engine, team = ward.engine, ward.team
    for number in range(4):
        _seal(ward, number)
    file = engine.statistics.export(team.doctor, "regions", format, labels=["text"])
    assert file.name == f"medsec-regions.{format}"
    assert len(file.data) > 100
    for secret in (b"Person", b"Q-1", b"im_", ward.patient_id.encode()):
        assert secret not in file.data
    # What a researcher takes away is what a researcher sees: nothing yet.
    assert b"text" not in engine.statistics.export(team.researcher, "regions", "csv").data
    [entry, _] = engine.audit.entries(team.administrator, query="statistics.export")
    assert (entry.actor, entry.detail["rows"]) == ("researcher", 0)
    for table, kind in (("patients", "csv"), ("images", "xls")):
        with pytest.raises(errors.InputError):
            engine.statistics.export(team.doctor, table, kind)


def _plain(ward: Ward, image_ids: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of these images, from all their rows at once."""
    context, stored = ward.engine.context, StoredImages(ward.engine.context)
    tx = context.database.read()
    keys = dict(context.hierarchy.image_keys(tx, image_ids))
    rows = [
        measured_numbers._table_rows(row, stored.open_facts(keys[row.image_id], row), sealed)
        for row, sealed in context.catalog.many(tx, image_ids)
    ]
    return pd.DataFrame([p for p, _ in rows]), pd.DataFrame([r for _, some in rows for r in some])


def _same(kept: Measured, plain: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    for found, full, expected in (
        (kept.rows.images, kept.full.images, plain[0]),
        (kept.rows.regions, kept.full.regions, plain[1]),
    ):
        names = ["image_id", "version", "picture"]
        without = expected.drop(columns=names, errors="ignore")
        for some, all_of_it in ((found, expected), (full, without)):
            assert set(some) == set(all_of_it)
            order = sorted(all_of_it)
            one, other = (
                t[order].sort_values(order, ignore_index=True) if order else t
                for t in (some, all_of_it)
            )
            pd.testing.assert_frame_equal(one, other, check_column_type=False)


def test_tables_that_grow_and_shrink_are_those_of_all_images_at_once(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, team = ward.engine, ward.team
    numbers = MeasuredNumbers(engine.context, Guard(engine.context), StoredImages(engine.context))
    monkeypatch.setattr(measured_numbers, "_CHUNK", 1)  # each image is a part of its own
    empty = ward.upload(builders.png(builders.radiograph(96, 64, seed=1)), found=[])
    engine.drafts.seal(team.technician, empty, [], confirm="nothing to hide")
    ids = [empty, *(_seal(ward, n, ("text", "face")[: 1 + n % 2]) for n in range(5))]
    _same(numbers.all(), _plain(ward, ids))
    gone = [empty, ids[2]]
    for image_id in gone:
        engine.withdrawals.flag(team.technician, image_id, "a name was missed")
    ids = [i for i in ids if i not in gone] + [_seal(ward, 7)]
    _same(numbers.all(), _plain(ward, ids))
    assert set(numbers.all().rows.tags) == set(ids)
    theirs = numbers._of_patients(numbers.all(), [ward.patient_id])
    [picture], _ = (t.to_dict("records") for t in _plain(ward, ids[-1:]))
    assert theirs.images.to_dict("records") == [
        {k: v for k, v in picture.items() if k not in ("image_id", "version", "picture")}
    ]
    for image_id in ids:
        engine.withdrawals.flag(team.technician, image_id, "a name was missed")
    _same(numbers.all(), (pd.DataFrame(), pd.DataFrame()))

"""Images are found by what may be known of them, and shown as their file says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from engine import Detection, Engine, ImageQuery, ImageState, Region, errors
from engine.service import search
from tests import builders
from tests.conftest import WHY, Team, Ward
from tests.fakes import FakeHost


def box(label: str = "text", confidence: float = 0.9) -> Detection:
    return Detection(Region(8, 8, 200, 40), label, confidence, "scripted")


@pytest.fixture
def shelf(ward: Ward, host: FakeHost) -> dict[str, str]:
    """Three images, minutes apart: ids by name."""
    ids = {}
    for name, data, found in (
        ("old", builders.png(builders.labelled("A", seed=1)[0]), box("face", 0.4)),
        ("mr", builders.dicom(builders.labelled("B", seed=2)[0], modality="MR"), box()),
        ("new", builders.png(builders.labelled("C", seed=3)[0]), box("text", 0.7)),
    ):
        if name == "new":
            ward.patient_id = ward.engine.patients.create(
                ward.team.technician, "P-2", "Jan Nowak"
            ).patient_id
        ids[name] = ward.seal(data, found=[found])
        host.advance(minutes=4)
    return ids


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["new", "mr", "old"]),
        ({"modality": "MR"}, ["mr"]),
        ({"modality": ""}, ["new", "old"]),
        ({"label": "face"}, ["old"]),
        ({"confidence": (0.0, 0.5)}, ["new", "old"]),
        ({"confidence": (0.75, 0.75)}, ["mr"]),
        ({"uploaded_by": "technician"}, ["new", "mr", "old"]),
        ({"uploaded_by": "nobody"}, []),
        ({"text": "nowak"}, ["new"]),
        ({"text": "P-1"}, ["mr", "old"]),
        ({"text": "zzz"}, []),
    ],
)
def test_each_filter_finds_what_it_says(
    ward: Ward, shelf: dict[str, str], filters: dict[str, Any], names: list[str]
) -> None:
    found = ward.engine.search.images(ward.team.doctor, ImageQuery(**filters))
    assert [i.image_id for i in found.images] == [shelf[n] for n in names]
    assert found.total == len(names)


def test_times_are_from_the_first_to_before_the_last(
    ward: Ward, shelf: dict[str, str], host: FakeHost
) -> None:
    start = host.now() - timedelta(minutes=12)
    days = [start + timedelta(minutes=4 * n) for n in range(4)]
    for since, until, names in (
        (days[0], days[2], ["mr", "old"]),
        (days[2], None, ["new"]),
        (None, days[1], ["old"]),
    ):
        found = ward.engine.search.images(ward.team.doctor, ImageQuery(since=since, until=until))
        assert [i.image_id for i in found.images] == [shelf[n] for n in names]


def test_pages_add_up_to_the_total(ward: Ward, shelf: dict[str, str]) -> None:
    pages = [ward.engine.search.images(ward.team.doctor, limit=2, offset=n) for n in (0, 2)]
    assert [p.total for p in pages] == [3, 3]
    assert len({i.image_id for p in pages for i in p.images}) == 3


def test_a_long_list_is_counted_as_far_as_the_page_after_the_next(
    ward: Ward, shelf: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, doctor = ward.engine.search.images, ward.team.doctor
    monkeypatch.setattr(search, "COUNTED", 2)
    first, last = (images(doctor, limit=1, offset=n) for n in (0, 2))
    assert (first.total, first.more) == (2, True)  # "more than 2"
    assert (last.total, last.more) == (3, False)
    series = ward.engine.search.series(doctor)
    assert (series.total, series.more) == (3, False)
    # Whoever goes on while there are more reaches the last one.
    seen = 0
    while seen < (page := images(doctor, limit=1, offset=seen)).total:
        seen += len(page.images)
    assert seen == 3
    # What the log says of a patient's images stays exact.
    of_one = images(doctor, ImageQuery(text="P-1"), limit=1)
    assert (of_one.total, of_one.more) == (2, False)
    [*_, entry] = ward.engine.audit.entries(ward.team.administrator, query="patient.search")
    assert entry.detail["found"] == 2


def test_images_of_one_series_are_one_entry_and_its_pages_cover_all(
    ward: Ward, host: FakeHost
) -> None:
    made: dict[int, list[str]] = {}
    for instance, series in enumerate((1, 1, 1, 2), 1):
        pixels = builders.labelled(f"DOE {instance}", seed=instance)[0]
        data = builders.dicom(pixels, instance=instance, series=series, modality="CT")
        made.setdefault(series, []).append(ward.seal(data, found=[box()]))
        host.advance(minutes=1)
    by_series, doctor = ward.engine.search.series, ward.team.doctor
    [first] = by_series(doctor, limit=1).series
    assert (first.image.image_id, first.count) == (made[2][0], 1)
    rest = by_series(doctor, limit=1, offset=1)
    [second] = rest.series
    assert (second.image.image_id, second.count) == (made[1][1], 3)
    assert second.study_id == first.study_id
    assert second.series_id != first.series_id
    assert (rest.seen, rest.total) == (3, 4)
    assert by_series(doctor, offset=4).series == ()
    ward.engine.withdrawals.flag(ward.team.technician, made[1][1], "a date")
    [_, left] = by_series(doctor).series
    assert left.count == 2


def test_a_patient_is_named_by_an_opaque_key(ward: Ward, shelf: dict[str, str]) -> None:
    found = ward.engine.search.images(
        ward.team.doctor, ImageQuery(text="nowak"), patient_id=ward.patient_id
    )
    assert [i.image_id for i in found.images] == [shelf["new"]]
    assert not ward.engine.search.images(ward.team.doctor, patient_id="P-2").images


def test_states_are_for_the_roles_that_work_with_them(ward: Ward, shelf: dict[str, str]) -> None:
    engine, team = ward.engine, ward.team
    waiting = ward.upload(builders.png(builders.labelled("D", seed=4)[0]), found=[box()])
    engine.withdrawals.flag(team.technician, shelf["old"], "a date")
    found = engine.search.images(
        team.technician, ImageQuery(states=[ImageState.DRAFT, ImageState.REVIEW])
    )
    assert [i.image_id for i in found.images] == [waiting]
    found = engine.search.images(team.doctor, ImageQuery(states=[ImageState.WITHDRAWN]))
    assert [i.image_id for i in found.images] == [shelf["old"]]
    for token, state in (
        (team.doctor, ImageState.DRAFT),
        (team.technician, ImageState.WITHDRAWN),
        (team.doctor, ImageState.ERASED),
    ):
        with pytest.raises(errors.PermissionDenied):
            engine.search.images(token, ImageQuery(states=[state]))


def test_the_choices_are_what_occurs(ward: Ward, shelf: dict[str, str]) -> None:
    choices = ward.engine.search.choices(ward.team.doctor)
    assert choices.modalities == ("", "MR")
    assert choices.uploaders == ("technician",)


@pytest.mark.parametrize(
    ("header", "spacing", "source"),
    [
        ({"PixelSpacing": [0.5, 0.25]}, (0.5, 0.25), "PixelSpacing"),
        ({"ImagerPixelSpacing": [0.14, 0.14]}, (0.14, 0.14), "ImagerPixelSpacing"),
        (
            {"PixelSpacing": [0.5, 0.5], "ImagerPixelSpacing": [0.6, 0.6]},
            (0.5, 0.5),
            "PixelSpacing",
        ),
        ({"PixelSpacing": [0, 0]}, None, ""),
        ({}, None, ""),
    ],
)
def test_lengths_are_known_only_where_the_file_says_how_large_a_pixel_is(
    ward: Ward, header: dict[str, Any], spacing: tuple[float, float] | None, source: str
) -> None:
    pixels = builders.labelled("E", seed=5)[0]
    image_id = ward.seal(builders.dicom(pixels, modality="DX", **header), found=[box()])
    shown = ward.engine.images.display(ward.team.technician, image_id)
    assert (shown.spacing_mm, shown.spacing_from) == (spacing, source)


def test_a_sealed_side_marker_is_told_to_those_who_may_open_it_and_the_log_knows(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, team = ward.engine, ward.team
    marker = {"side": "L", "x1": 20, "y1": 10, "x2": 40, "y2": 30, "frame": 0}
    elsewhere = {**marker, "side": "R", "x1": 250, "x2": 260}
    stored = engine.images._stored
    real = stored.open_facts
    image_id = ward.seal(builders.png(builders.labelled("F", seed=6)[0]), found=[box()])
    monkeypatch.setattr(
        stored,
        "open_facts",
        lambda key, row: {**real(key, row), "sides": [marker, elsewhere]},
    )
    [region] = engine.images.regions(team.doctor, image_id)
    assert engine.images.side_markers(team.doctor, image_id) == [(region.region_id, "L")]
    assert len(engine.audit.entries(team.administrator, query="image.side")) == 1
    with pytest.raises(errors.PermissionDenied):
        engine.images.side_markers(team.technician, image_id)


def test_a_page_that_was_loaded_anew_finds_what_its_session_has_open(
    engine: Engine, team: Team, ward: Ward, shelf: dict[str, str], host: FakeHost
) -> None:
    assert engine.images.open_restoration(team.doctor, shelf["mr"]) is None
    opened = engine.images.restore(team.doctor, shelf["mr"], WHY)
    again = engine.images.open_restoration(team.doctor, shelf["mr"])
    assert again is not None
    assert again.handle == opened.handle
    assert engine.images.open_restoration(team.doctor, shelf["new"]) is None
    other = engine.sessions.sign_in("doctor", "four unrelated words here").token
    assert engine.images.open_restoration(other, shelf["mr"]) is None  # another session's
    host.advance(minutes=6)
    assert engine.images.open_restoration(team.doctor, shelf["mr"]) is None

"""Doubt that covers little is sealed instead of asked about; what it costs can be undone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine import BatchOptions, Detection, ImageQuery, ImageState, Region, Source, errors
from engine.detection import Profile
from engine.errors import SettingsError
from tests import builders
from tests.conftest import WHY, Ward, text_png

DOUBT = 0.15  # below the profile's threshold
WIDTH, HEIGHT = 320, 240  # of text_png


def speck(x: int = 200, y: int = 150, side: int = 10, frame: int = 0) -> Detection:
    return Detection(Region(x, y, x + side, y + side, frame, frame + 1), "text", DOUBT, "scripted")


def change_profile(ward: Ward, **values: Any) -> None:
    engine = ward.engine
    engine.profiles.save(ward.team.administrator, engine.settings.profile, values)


def looks(ward: Ward, *found: Detection) -> tuple[str, ...]:
    """Why a person must look at an image with these boxes."""
    image_id = ward.upload(text_png()[0], found=list(found))
    [record] = ward.engine.drafts.waiting(ward.team.technician)
    ward.engine.drafts.discard(ward.team.technician, image_id, "next")
    return record.reasons


def test_a_speck_beside_what_is_certain_is_sealed_and_marked(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    data, found = text_png()
    image_id = ward.upload(data, found=[found, speck()])
    view = engine.drafts.open(team.technician, image_id)
    assert (view.record.state, view.reasons) == (ImageState.DRAFT, ())
    assert set(view.suggestions) == {"seal"}
    done = engine.drafts.seal_undoubted(team.technician, image_id)
    assert (done.state, done.region_count, done.reasons) == (
        ImageState.RELEASED, 2, ("small-doubt",),
    )  # fmt: skip
    [entry] = engine.audit.entries(team.administrator, query="image.seal")
    assert entry.detail["reviewed"] == ["small-doubt"]
    ward.seal(builders.png(builders.labelled("DOE")[0]), found=[found])
    listed = engine.search.images(team.doctor, ImageQuery(reason="small-doubt")).images
    assert [i.image_id for i in listed] == [image_id]


def test_a_batch_seals_it_too_without_being_told_to(ward: Ward) -> None:
    data, found = text_png()
    ward.detector.found = [found, speck()]
    [item] = ward.engine.batches.seal(
        ward.team.technician, ward.patient_id, [Source("a.png", lambda: data)],
        options=BatchOptions(), few=True,
    )  # fmt: skip
    assert (item.state, item.labels, list(item.reasons)) == ("sealed", {"text": 2}, ["small-doubt"])


def test_doubt_alone_goes_to_a_person(ward: Ward) -> None:
    """Otherwise a speck would let a picture pass in which nothing was found."""
    assert looks(ward, speck()) == ("proposals",)


@pytest.mark.parametrize(("boxes", "asks"), [
    ([speck(side=18)], False),  # with its padding 26 x 26 of 76,800 px: 0.9 %
    ([speck(side=30)], True),
    ([speck(200, y, 10) for y in range(60, 220, 40)], True),  # four of 18 x 18: 1.7 %
    ([speck(200, 100, 10), speck(202, 101, 10)], False),  # one on the other count once
])  # fmt: skip
def test_how_much_doubt_is_small_is_the_share_that_would_be_hidden(
    ward: Ward, boxes: list[Detection], asks: bool
) -> None:
    change_profile(ward, padding=0.0, padding_min_px=4)
    assert looks(ward, text_png()[1], *boxes) == (("proposals",) if asks else ())


def test_a_profile_can_ask_about_every_doubt(ward: Ward) -> None:
    change_profile(ward, small_doubt=0.0)
    assert looks(ward, text_png()[1], speck()) == ("proposals",)


def test_doubt_in_a_diagnostic_region_is_asked_about(ward: Ward) -> None:
    change_profile(ward, diagnostic_regions=[[0.5, 0.5, 1.0, 1.0]])
    assert looks(ward, text_png()[1], speck(200, 150)) == ("proposals",)
    assert looks(ward, text_png()[1], speck(20, 200)) == ()
    # The mask's padding reaches into it.
    assert looks(ward, text_png()[1], speck(149, 150, 10)) == ("proposals",)


def test_doubts_on_many_frames_add_up(ward: Ward) -> None:
    stack, static, _ = builders.cine(frames=6)
    certain = Detection(static, "text", 0.9, "scripted")
    specks = [speck(10 + 24 * i, 60, 4, frame=i) for i in range(6)]
    assert [d.region.area_px for d in specks] == [16] * 6
    for count, reasons in ((1, ()), (6, ("proposals",))):
        data = builders.dicom(stack + count)
        image_id = ward.upload(data, "c.dcm", [certain, *specks[:count]])
        view = ward.engine.drafts.open(ward.team.technician, image_id)
        assert view.reasons == reasons


def test_a_doctor_sends_an_image_back_because_of_a_box(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    data, found = text_png()
    image_id = ward.upload(data, found=[found, speck()])
    engine.drafts.seal_undoubted(team.technician, image_id)
    with pytest.raises(errors.InputError):
        engine.withdrawals.question(team.doctor, image_id, " ")
    engine.withdrawals.question(team.doctor, image_id, "the lower box covers a nodule")
    with pytest.raises(errors.NotFound):
        engine.images.get(team.doctor, image_id)
    view = engine.drafts.open(team.technician, image_id)
    assert view.reasons == ("box-questioned",)
    place = next(i for i, d in enumerate(view.detections) if d.region.x1 > 150)
    kept = [d for i, d in enumerate(view.detections) if i != place]
    with pytest.raises(errors.ReviewNeeded):
        engine.drafts.seal_undoubted(team.technician, image_id)
    done = engine.drafts.seal(
        team.technician, image_id, kept, removed={place: "noise"}, confirm="looked at it"
    )
    assert (done.version, done.region_count) == (2, 1)
    assert engine.images.restore(team.doctor, image_id, WHY).proof == "bytes"
    [entry] = engine.audit.entries(team.administrator, query="image.reopen")
    assert (entry.reason, entry.detail["why"]) == (
        "the lower box covers a nodule", "box-questioned",
    )  # fmt: skip


def test_a_flagged_image_is_not_only_questioned(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.withdrawals.flag(ward.team.technician, image_id, "a name in the corner")
    with pytest.raises(errors.NotFound):
        ward.engine.withdrawals.question(ward.team.doctor, image_id, "a box")


@pytest.mark.parametrize("values", [
    {"small_doubt": 0.5}, {"small_doubt": -0.1}, {"small_doubt": True},
    {"diagnostic_regions": [[0.5, 0.5, 0.4, 1.0]]}, {"diagnostic_regions": [[0, 0, 1]]},
    {"diagnostic_regions": ["lung"]}, {"diagnostic_regions": [[0, 0, 1, 2]]},
])  # fmt: skip
def test_a_profile_with_a_doubt_that_cannot_be_is_refused(ward: Ward, values: dict) -> None:
    with pytest.raises(errors.InputError):
        change_profile(ward, **values)


def test_a_file_names_diagnostic_regions_as_shares() -> None:
    table = {"title": "T", "classes": ["text"], "networks": ["ppocr"]}
    made = Profile.from_table("t", {**table, "diagnostic_regions": [[0, 0.25, 1, 0.75]]})
    assert made.diagnostic_regions == ((0, 0.25, 1, 0.75),)
    assert replace(made, small_doubt=0.02).small_doubt == 0.02
    with pytest.raises(SettingsError):
        Profile.from_table("t", {**table, "diagnostic_regions": [[0, 0, 1, 1.5]]})

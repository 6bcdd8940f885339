"""The work list: contact sheets, boxes that stay with a draft, and who works on what."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from engine import (
    Detection,
    DraftBox,
    ImageState,
    Look,
    Region,
    Role,
    Source,
    TakeOptions,
    WorkItem,
    errors,
)
from tests import builders
from tests.conftest import PASSWORD, Ward

BOX = Detection(Region(8, 8, 120, 40), "text", 0.9, "net")
PROPOSAL = Detection(Region(20, 100, 90, 130), "text", 0.15, "net")


def upload(ward: Ward, number: int, found: list[Detection], **attributes: Any) -> str:
    pixels = builders.labelled(f"DOE {number}", seed=number)[0]
    data = builders.dicom(pixels, instance=number, modality="US", **attributes)
    return ward.upload(data, f"{number}.dcm", found)


def items(ward: Ward, token: str = "") -> list[WorkItem]:
    groups = ward.engine.worklist.groups(token or ward.team.technician)
    return [item for group in groups for item in group.items]


def look(item: WorkItem, seconds: float = 3.0) -> Look:
    return Look(item.record.image_id, item.version, seconds, 180)


def sealed(ward: Ward, ids: list[str]) -> list[str]:
    return [i.state for i in ward.engine.batches.look(ward.team.technician, ids, few=True)]


def test_what_was_seen_on_a_sheet_is_confirmed_and_sealed_with_what_the_log_says(
    ward: Ward,
) -> None:
    ids = [upload(ward, n, found) for n, found in enumerate(([BOX], [PROPOSAL], []), 1)]
    shown = items(ward)
    assert [i.record.image_id for i in shown] == ids  # in the order of the series
    assert all(i.on_a_sheet for i in shown)
    confirmed = ward.engine.worklist.confirm(ward.team.technician, [look(i) for i in shown])
    assert confirmed == ids
    assert items(ward) == []  # workers have them now
    assert set(ward.engine.intakes.unseen(ward.team.technician)) == set(ids)
    assert sealed(ward, ids) == ["sealed"] * 3
    for image_id, boxes in zip(ids, (1, 1, 0), strict=True):
        assert ward.engine.images.get(ward.team.doctor, image_id).region_count == boxes
        log = ward.engine.context.audit.of_image(image_id)
        [said] = [e for e in log if e.action == "draft.confirm"]
        assert said.detail["seconds"] == 3.0
        assert (said.detail["shown_px"], said.detail["together"]) == (180, 3)
        [seal] = [e for e in log if e.action == "image.seal"]
        assert "contact sheet" in seal.reason
        assert not seal.detail["automatic"]


def test_a_look_that_was_too_short_or_at_something_else_confirms_nothing(ward: Ward) -> None:
    image_id = upload(ward, 1, [BOX])
    [item] = items(ward)
    with pytest.raises(errors.InputError, match="not on the screen long enough"):
        ward.engine.worklist.confirm(ward.team.technician, [look(item, 0.2)])
    moved = DraftBox(Detection(Region(40, 40, 60, 60), "text", 1.0))
    boxes = [*ward.engine.worklist.boxes(ward.team.technician, image_id), moved]
    ward.engine.worklist.keep_boxes(ward.team.technician, image_id, boxes)
    assert ward.engine.worklist.confirm(ward.team.technician, [look(item)]) == []
    [now] = items(ward)
    assert ward.engine.worklist.confirm(ward.team.technician, [look(now)]) == [image_id]
    assert sealed(ward, [image_id]) == ["sealed"]
    assert ward.engine.images.get(ward.team.doctor, image_id).region_count == 2


def test_what_must_be_opened_is_on_no_sheet(ward: Ward) -> None:
    ward.detector.found = errors.DetectorError
    upload_failed = ward.upload(builders.png(builders.labelled("DOE")[0]))
    [item] = items(ward)
    assert item.record.image_id == upload_failed
    assert not item.on_a_sheet
    assert ward.engine.worklist.confirm(ward.team.technician, [look(item)]) == []


def test_a_confirmed_draft_in_which_text_is_still_readable_waits_for_a_person_again(
    ward: Ward,
) -> None:
    image_id = upload(ward, 1, [BOX])
    [item] = items(ward)
    ward.engine.worklist.confirm(ward.team.technician, [look(item)])
    again = Detection(Region(20, 150, 90, 170), "text", 0.8, "net")
    ward.detector.left = [[again]] * 3
    assert sealed(ward, [image_id]) == ["review"]
    [waiting] = items(ward)
    assert waiting.record.reasons == ("still-visible",)


def test_boxes_stay_with_a_draft_and_are_drawn_on_its_picture(ward: Ward) -> None:
    image_id = upload(ward, 1, [BOX])
    token, worklist = ward.team.technician, ward.engine.worklist
    plain = np.asarray(Pillow.open(io.BytesIO(worklist.preview(token, image_id))))
    own = DraftBox(Detection(Region(100, 100, 160, 140), "text", 1.0))
    worklist.keep_boxes(token, image_id, [DraftBox(BOX, 0, "no name"), own])
    kept = worklist.boxes(token, image_id)
    assert [(b.found, b.removed) for b in kept] == [(0, "no name"), (None, None)]
    assert kept[1].detection.region == own.detection.region
    drawn = np.asarray(Pillow.open(io.BytesIO(worklist.preview(token, image_id))))
    assert (plain != drawn).any()
    assert drawn.shape[:2] == (192, 256)


def test_boxes_are_carried_to_the_series_and_shown_before_anybody_confirms(ward: Ward) -> None:
    first, second = upload(ward, 1, [BOX, PROPOSAL]), upload(ward, 2, [BOX])
    before = {i.record.image_id: i.version for i in items(ward)}
    assert ward.engine.worklist.carry(ward.team.technician, first, [first, second]) == 1
    boxes = ward.engine.worklist.boxes(ward.team.technician, second)
    assert [b.found for b in boxes] == [0, None]  # the other one is there already
    after = {i.record.image_id: i.version for i in items(ward)}
    assert after[first] == before[first]
    assert after[second] != before[second]
    assert ward.engine.worklist.carry(ward.team.technician, first, [second]) == 0


def test_two_people_never_work_on_the_same_draft(ward: Ward) -> None:
    image_id = upload(ward, 1, [BOX])
    ward.engine.people.create(ward.team.administrator, "tom", "Tom", Role.TECHNICIAN, PASSWORD)
    tom = ward.engine.sessions.sign_in("tom", PASSWORD).token
    ward.engine.drafts.open(ward.team.technician, image_id)
    [item] = items(ward, tom)
    assert item.worked_on_by == "technician"
    for work in (
        lambda: ward.engine.drafts.open(tom, image_id),
        lambda: ward.engine.drafts.seal(tom, image_id, [BOX]),
        lambda: ward.engine.worklist.keep_boxes(tom, image_id, []),
    ):
        with pytest.raises(errors.NotFound, match="technician is working on this image"):
            work()
    assert ward.engine.worklist.confirm(tom, [look(item)]) == []
    ward.engine.worklist.leave(ward.team.technician, image_id)
    assert ward.engine.drafts.open(tom, image_id).record.state is ImageState.DRAFT
    ward.engine.context.host.advance(minutes=11)  # type: ignore[attr-defined]
    ward.engine.drafts.seal(ward.team.technician, image_id, [BOX])


def test_a_confirmation_is_taken_back_until_it_is_sealed(ward: Ward) -> None:
    ids = [upload(ward, n, found) for n, found in enumerate(([BOX], [PROPOSAL]), 1)]
    before = {i.record.image_id: i.record for i in items(ward)}
    token, worklist = ward.team.technician, ward.engine.worklist
    worklist.confirm(token, [look(i) for i in items(ward)])
    for work in (
        lambda: ward.engine.drafts.open(token, ids[1]),
        lambda: worklist.keep_boxes(token, ids[1], []),
    ):
        with pytest.raises(errors.NotFound, match="is being sealed"):
            work()
    assert sealed(ward, ids[:1]) == ["sealed"]
    assert worklist.take_back(token, ids) == ids[1:]
    [again] = items(ward)
    assert again.record == before[ids[1]]
    assert sealed(ward, ids[1:]) == ["review"]  # a worker that comes to it leaves it
    assert worklist.take_back(token, ids) == []


def test_a_worker_that_is_at_it_does_not_seal_what_was_taken_back(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = upload(ward, 1, [BOX])
    token, work = ward.team.technician, ward.engine.batches._worker.work
    ward.engine.worklist.confirm(token, [look(i) for i in items(ward)])

    def slow(job: Any) -> Any:
        outcome = work(job)
        ward.engine.worklist.take_back(token, [image_id])
        return outcome

    monkeypatch.setattr(ward.engine.batches._worker, "work", slow)
    assert sealed(ward, [image_id]) == ["review"]
    [again] = items(ward)
    assert again.record.state is ImageState.DRAFT


# --- nothing is sealed by itself past what a person left -----------------------------------------


def draw(ward: Ward, image_id: str) -> None:
    """A technician sees a name that was missed, draws a box and goes back to the list."""
    own = DraftBox(Detection(Region(100, 100, 160, 140), "text", 1.0))
    boxes = [*ward.engine.worklist.boxes(ward.team.technician, image_id), own]
    ward.engine.worklist.keep_boxes(ward.team.technician, image_id, boxes)
    ward.engine.worklist.leave(ward.team.technician, image_id)


def test_a_draft_with_boxes_of_a_person_is_not_sealed_without_a_look(ward: Ward) -> None:
    image_id, other, carried = (upload(ward, n, [BOX]) for n in (1, 2, 3))
    assert [i.need for i in items(ward)] == ["", "", ""]
    draw(ward, image_id)
    ward.engine.worklist.carry(ward.team.technician, image_id, [carried])
    needs = {i.record.image_id: i.need for i in items(ward)}
    assert needs == {image_id: "boxes-drawn", other: "", carried: "boxes-drawn"}
    for drawn in (image_id, carried):
        with pytest.raises(errors.ReviewNeeded) as refused:
            ward.engine.drafts.seal_undoubted(ward.team.technician, drawn)
        assert refused.value.facts["reasons"] == ["boxes-drawn"]
    ward.engine.drafts.seal_undoubted(ward.team.technician, other)
    [item, _] = items(ward)
    assert ward.engine.worklist.confirm(ward.team.technician, [look(item)]) == [image_id]
    assert sealed(ward, [image_id]) == ["sealed"]
    assert ward.engine.images.get(ward.team.doctor, image_id).region_count == 2


def test_a_draft_that_somebody_has_open_is_not_sealed_without_a_look(ward: Ward) -> None:
    image_id = upload(ward, 1, [BOX])
    ward.engine.people.create(ward.team.administrator, "tom", "Tom", Role.TECHNICIAN, PASSWORD)
    tom = ward.engine.sessions.sign_in("tom", PASSWORD).token
    ward.engine.drafts.open(tom, image_id)
    with pytest.raises(errors.NotFound, match="tom is working on this image"):
        ward.engine.drafts.seal_undoubted(ward.team.technician, image_id)
    ward.engine.worklist.leave(tom, image_id)
    done = ward.engine.drafts.seal_undoubted(ward.team.technician, image_id)
    assert done.state is ImageState.RELEASED


@pytest.mark.parametrize("profile", ["general", "ultrasound"])
def test_a_batch_that_comes_again_leaves_what_a_person_drew(ward: Ward, profile: str) -> None:
    data = builders.png(builders.labelled("DOE")[0])
    image_id = ward.upload(data, found=[BOX])
    draw(ward, image_id)
    before = ward.engine.worklist.boxes(ward.team.technician, image_id)
    [item] = ward.engine.batches.seal(
        ward.team.technician, ward.patient_id, [Source("1.png", lambda: data)], profile, few=True
    )
    assert (item.state, list(item.reasons)) == ("review", ["boxes-drawn"])
    assert ward.engine.worklist.boxes(ward.team.technician, image_id) == before
    [waiting] = items(ward)
    assert waiting.record.state is ImageState.DRAFT


def test_what_was_not_looked_at_yet_is_not_sealed_past_boxes_of_a_person(ward: Ward) -> None:
    """Nor while somebody else has it open."""
    token, ids = ward.team.technician, []
    ward.detector.found = [BOX]
    for number in (1, 2, 3):
        data = builders.png(builders.labelled(f"DOE {number}", seed=number)[0])
        options = TakeOptions(seal_undoubted=True)
        taken = ward.engine.intakes.take(token, ward.patient_id, f"{number}.png", data, options)
        ids.append(taken.image_id)
    draw(ward, ids[0])
    ward.engine.people.create(ward.team.administrator, "tom", "Tom", Role.TECHNICIAN, PASSWORD)
    tom = ward.engine.sessions.sign_in("tom", PASSWORD).token
    ward.engine.drafts.open(tom, ids[1])
    assert sealed(ward, ids) == ["draft", "draft", "sealed"]
    regions = [b.detection.region for b in ward.engine.worklist.boxes(token, ids[0])]
    assert regions == [Region(100, 100, 160, 140), BOX.region]


def test_boxes_are_not_carried_to_what_was_confirmed_or_is_sealed(ward: Ward) -> None:
    token, worklist = ward.team.technician, ward.engine.worklist
    first, done, confirmed, last = (
        upload(ward, n, found) for n, found in enumerate(([BOX, PROPOSAL], [BOX], [BOX], [BOX]), 1)
    )
    ward.engine.drafts.seal(token, done, [BOX])
    [item] = [i for i in items(ward) if i.record.image_id == confirmed]
    worklist.confirm(token, [look(item)])
    assert worklist.carry(token, first, [done, confirmed, last]) == 1
    assert [len(worklist.boxes(token, i)) for i in (confirmed, last)] == [1, 2]
    assert sealed(ward, [confirmed]) == ["sealed"]

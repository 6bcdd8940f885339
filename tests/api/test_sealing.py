"""Images that are sealed beside the page: nothing is lost, and two people never meet on one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

import api
from engine import Detection, DraftBox, ImageState, Region, Role, errors
from tests import builders
from tests.conftest import PASSWORD, Ward, text_png

LEFT = Detection(Region(30, 180, 120, 200), "text", 0.8, "net")
OWN = DraftBox(Detection(Region(200, 150, 240, 170), "text", 1.0, "person"))


@pytest.fixture
def sealing(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> Iterator[api.Sealing]:
    """With a pool of its own that stops with the test."""
    pool = api.FairPool(at_once=1)
    monkeypatch.setattr("api.sealing.jobs", pool)
    yield api.Sealing(ward.engine)
    pool.stop()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def tom(ward: Ward) -> str:
    ward.engine.people.create(ward.team.administrator, "tom", "Tom", Role.TECHNICIAN, PASSWORD)
    return ward.engine.sessions.sign_in("tom", PASSWORD).token


def test_what_is_sealed_beside_the_page_is_in_one_pair_of_hands_until_it_is_sealed(
    ward: Ward, sealing: api.Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, box = text_png()
    image_id, token = ward.upload(data, found=[box]), ward.team.technician
    ward.engine.drafts.open(token, image_id)
    free, seal = threading.Event(), ward.engine.drafts.seal
    monkeypatch.setattr(ward.engine.drafts, "seal", lambda *a, **k: free.wait(60) and seal(*a, **k))
    sealing.add(token, image_id, "P-1 · scan.png", [box], {})
    assert sealing.at_work("technician") == {image_id}
    with pytest.raises(errors.NotFound, match="sealed already"):
        sealing.add(token, image_id, "P-1 · scan.png", [box], {})
    ward.engine.context.host.advance(minutes=14)  # type: ignore[attr-defined]
    with pytest.raises(errors.NotFound, match="technician is working on this image"):
        ward.engine.drafts.open(tom(ward), image_id)
    free.set()
    until(lambda: not sealing.at_work("technician"))
    [done] = sealing.of("technician")
    assert done.sealed
    assert (done.title, done.patient_id) == ("", ward.patient_id)  # no name is kept
    assert ward.engine.images.get(ward.team.doctor, image_id).region_count == 1
    assert sealing.of("tom") == []


def test_what_the_second_look_sees_comes_back_by_name_with_boxes_and_answer(
    ward: Ward, sealing: api.Sealing
) -> None:
    data, box = text_png()
    image_id, token = ward.upload(data, found=[box]), ward.team.technician
    ward.engine.drafts.open(token, image_id)
    ward.engine.worklist.keep_boxes(token, image_id, [DraftBox(box, 0), OWN])
    ward.detector.left = [[LEFT]]
    sealing.add(token, image_id, "P-1 · scan.png", [box, OWN.detection], {}, "a date was missed")
    until(lambda: not sealing.at_work("technician"))
    [back] = sealing.of("technician")
    assert back.title == "P-1 · scan.png"
    assert "still readable after masking" in back.message
    view = ward.engine.drafts.open(tom(ward), image_id)  # in nobody's hands
    assert view.answer == "a date was missed"
    boxes = ward.engine.worklist.boxes(token, image_id)
    assert [b.detection.region for b in boxes] == [box.region, OWN.detection.region, LEFT.region]
    sealing.seen("technician", image_id)
    assert sealing.of("technician") == []


def test_a_decision_that_cannot_be_is_refused_at_once_and_leaves_the_draft(
    ward: Ward, sealing: api.Sealing
) -> None:
    data, box = text_png()
    image_id, token = ward.upload(data, found=[box]), ward.team.technician
    with pytest.raises(errors.InputError, match="Give a reason"):
        sealing.add(token, image_id, "P-1", [], {}, "nothing here")
    with pytest.raises(errors.ReviewNeeded):
        sealing.add(token, image_id, "P-1", [], {0: "no name"})
    assert sealing.of("technician") == []
    assert ward.engine.drafts.open(token, image_id).record.state is ImageState.DRAFT


def test_a_server_that_stops_keeps_the_draft_with_boxes_and_answer(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, free = api.FairPool(at_once=1), threading.Event()
    monkeypatch.setattr("api.sealing.jobs", pool)
    pool.submit("somebody", lambda: free.wait(60))
    sealing, (data, box) = api.Sealing(ward.engine), text_png()
    image_id, token = ward.upload(data, found=[box]), ward.team.technician
    ward.engine.drafts.open(token, image_id)
    sealing.add(token, image_id, "P-1", [], {0: "no name"}, "nothing to hide")
    threading.Timer(0.05, free.set).start()
    pool.stop()
    [left] = sealing.of("technician")
    assert "Seal it again" in left.message
    assert ward.engine.drafts.open(token, image_id).record.state is ImageState.DRAFT
    ward.engine.worklist.leave(token, image_id)
    ward.engine.context.open_images.close_subject(image_id)
    assert ward.engine.drafts.open(token, image_id).answer == "nothing to hide"


def sign_out(ward: Ward) -> None:
    ward.engine.sessions.sign_out(ward.team.technician)


def disable(ward: Ward) -> None:
    ward.engine.people.set_enabled(ward.team.administrator, "technician", False)


@pytest.mark.parametrize("end", [sign_out, disable])
def test_what_waits_when_the_session_ends_is_in_nobodys_hands(
    ward: Ward, sealing: api.Sealing, end: Callable[[Ward], None]
) -> None:
    token, other, free = ward.team.technician, tom(ward), threading.Event()
    data, box = text_png()
    other_data = builders.png(builders.radiograph(64, 48))
    decided, undoubted = ward.upload(data, found=[box]), ward.upload(other_data)
    ward.engine.drafts.open(token, decided)
    api.sealing.jobs.submit("somebody", lambda: free.wait(60))
    sealing.add(token, decided, "P-1", [box], {})
    sealing.add_undoubted(token, undoubted, "P-1")
    end(ward)
    for image_id in (decided, undoubted):
        with pytest.raises(errors.NotFound, match="technician is working on this image"):
            ward.engine.drafts.open(other, image_id)
    free.set()
    until(lambda: not sealing.at_work("technician"))
    assert ["session has ended" in seal.message for seal in sealing.of("technician")] == [True] * 2
    for image_id in (decided, undoubted):
        until(partial(opens, ward, other, image_id))


def opens(ward: Ward, token: str, image_id: str) -> bool:
    try:
        return ward.engine.drafts.open(token, image_id).record.image_id == image_id
    except errors.NotFound:
        return False


def test_a_session_that_ends_while_it_decides_holds_nothing(
    ward: Ward, sealing: api.Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, box = text_png()
    image_id, token = ward.upload(data, found=[box]), ward.team.technician
    decide = ward.engine.worklist.decide

    def ends(*args: object) -> None:
        decide(*args)  # type: ignore[arg-type]
        sign_out(ward)

    monkeypatch.setattr(ward.engine.worklist, "decide", ends)
    with pytest.raises(errors.NotSignedIn):
        sealing.add(token, image_id, "P-1", [box], {})
    assert sealing.of("technician") == []
    assert opens(ward, tom(ward), image_id)


def test_a_change_from_another_tab_is_not_sealed_away(
    ward: Ward, sealing: api.Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, box = text_png()
    image_id, token = ward.upload(data, found=[box]), ward.team.technician
    seal = ward.engine.drafts._preparer.prepare

    def slow(*args: object, **options: object) -> object:
        ward.engine.worklist.keep_boxes(token, image_id, [DraftBox(box, 0), OWN])
        return seal(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ward.engine.drafts._preparer, "prepare", slow)
    sealing.add(token, image_id, "P-1", [box], {})
    until(lambda: not sealing.at_work("technician"))
    [back] = sealing.of("technician")
    assert "changed this draft" in back.message
    assert len(ward.engine.worklist.boxes(token, image_id)) == 2

"""Slices of a series are laid over one another: what stands in all of them is hidden in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from engine import BatchOptions, Detection, Region, TakeOptions, errors
from engine.detection import Detector
from engine.operations.series import SeriesLook
from engine.service import batches
from tests import builders
from tests.conftest import WHY, Ward

SIDE, NOISE, FAINT = 160, 20.0, 24.0
NAME = Region(20, 60, 140, 90)
FOUND = Detection(NAME, "text", 0.9, "ppocr")


def slice_file(number: int, *, name: bool = True, side: int = SIDE) -> bytes:
    shown = np.zeros((side, side), np.uint8)
    if name:
        cv2.putText(shown, "DOE JANE", (22, 84), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 1)
    noise = np.random.default_rng(number).normal(0, NOISE, shown.shape)
    pixels = np.clip(90 + FAINT * (shown / 255.0) + noise, 0, 255).astype(np.uint8)
    window = {"WindowCenter": "128", "WindowWidth": "256"}
    return builders.dicom(pixels, instance=number, modality="MR", **window)


@pytest.fixture
def sees_what_is_plain(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector finds the name, but not in the noise of one slice."""

    def detect(frame: Callable[[int], np.ndarray], *_: Any, **__: Any) -> list[Detection]:
        beside = frame(0)[100:].astype(np.float32)
        return [FOUND] if beside.std() < 0.75 * NOISE else []

    monkeypatch.setattr(ward.detector, "detect", detect)


@pytest.fixture
def sees_with_networks(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector is the one that ships."""
    real = Detector.open(replace(ward.engine.settings, threads=1))
    for name in ("detect", "rescan", "standing"):
        monkeypatch.setattr(ward.detector, name, getattr(real, name))


def take(ward: Ward, number: int, **kind: Any) -> str:
    ward.engine.context.host.advance(seconds=1)  # type: ignore[attr-defined]
    taken = ward.engine.intakes.take(
        ward.team.technician, ward.patient_id, f"{number}.dcm", slice_file(number, **kind),
        TakeOptions(reason=WHY),
    )  # fmt: skip
    return taken.image_id


def boxes(ward: Ward, image_id: str) -> list[tuple[int, int, int, int]]:
    view = ward.engine.drafts.open(ward.team.technician, image_id)
    ward.engine.worklist.leave(ward.team.technician, image_id)
    return [d.region.xyxy for d in view.detections]


def look(ward: Ward, ids: list[str]) -> None:
    done = list(ward.engine.batches.look(ward.team.technician, ids, few=True))
    assert [item.error for item in done] == [None] * len(ids)


@pytest.mark.usefixtures("sees_what_is_plain")
def test_a_name_in_the_noise_of_every_slice_is_found_in_all_together(ward: Ward) -> None:
    ids = [take(ward, n) for n in range(1, 10)]
    other = take(ward, 10, name=False)
    look(ward, [*ids, other])
    assert [boxes(ward, image_id) for image_id in ids] == [[NAME.xyxy]] * len(ids)
    assert boxes(ward, other) == []  # it has no name there


@pytest.mark.usefixtures("sees_what_is_plain")
def test_a_few_slices_are_looked_at_one_by_one(ward: Ward) -> None:
    ids = [take(ward, n) for n in range(1, 8)]
    look(ward, ids)
    assert all(boxes(ward, image_id) == [] for image_id in ids)


@pytest.mark.usefixtures("sees_what_is_plain")
def test_a_slice_that_came_before_the_others_is_held_against_them_when_it_is_sealed(
    ward: Ward,
) -> None:
    engine, technician = ward.engine, ward.team.technician
    first = ward.upload(slice_file(1), "1.dcm")
    assert boxes(ward, first) == []
    for number in range(2, 9):
        take(ward, number)
    with pytest.raises(errors.ReviewNeeded) as caught:
        engine.drafts.seal(technician, first, [], confirm="nothing to see")
    assert caught.value.facts["reasons"] == ["nothing-found", "still-visible"]
    [seen] = boxes(ward, first)
    assert seen == NAME.xyxy
    view = engine.drafts.open(technician, first)
    done = engine.drafts.seal(technician, first, view.detections, confirm="looked at")
    assert done.region_count == 1


@pytest.mark.usefixtures("sees_what_is_plain")
def test_what_a_person_leaves_visible_with_a_reason_is_left(ward: Ward) -> None:
    ids = [take(ward, n) for n in range(1, 9)]
    look(ward, ids)
    done = ward.engine.drafts.seal(
        ward.team.technician, ids[0], [], removed={0: "a scale"}, confirm="looked at"
    )
    assert done.region_count == 0


@pytest.mark.usefixtures("sees_what_is_plain")
def test_slices_that_are_gone_say_nothing_of_the_others(ward: Ward) -> None:
    """Too few are left, and the look goes on."""
    ids = [take(ward, n) for n in range(1, 9)]
    drafts = ward.engine.batches.look(ward.team.technician, ids, few=True)
    context = ward.engine.context
    lost = context.catalog.row(context.database.read(), ids[-1])
    context.host.delete_blob(lost.draft_blob or "")
    states = [item.state for item in drafts]
    assert states == ["review"] * 7 + ["failed"]
    assert boxes(ward, ids[0]) == []


@pytest.mark.usefixtures("sees_what_is_plain")
def test_sizes_of_one_series_are_laid_over_one_another_each_by_itself(ward: Ward) -> None:
    small = [take(ward, n) for n in range(1, 9)]
    large = [take(ward, n, side=2 * SIDE) for n in range(11, 19)]
    look(ward, [i for pair in zip(small, large, strict=True) for i in pair])
    assert all(boxes(ward, image_id) == [NAME.xyxy] for image_id in [*small, *large])


@pytest.mark.usefixtures("sees_what_is_plain")
def test_what_stands_in_others_turns_no_stop_into_a_pass(ward: Ward) -> None:
    ids = [take(ward, n) for n in range(1, 9)]
    look(ward, ids)
    waiting = ward.engine.drafts.waiting(ward.team.technician)
    assert {record.reasons for record in waiting} == {("nothing-found",)}


@pytest.mark.usefixtures("sees_what_is_plain")
def test_a_series_is_opened_once_and_the_last_that_is_sealed_has_what_the_first_had(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its drafts are sealed one by one in the same batch or not."""
    ids = [take(ward, n) for n in range(1, 13)]
    opened = []
    pictures = SeriesLook._pictures
    monkeypatch.setattr(
        SeriesLook, "_pictures", lambda self, files: opened.append(1) or pictures(self, files)
    )
    sealing = BatchOptions(accept_empty=True)
    make = batches._job
    monkeypatch.setattr(batches, "_job", lambda *job: replace(make(*job), options=sealing))
    done = list(ward.engine.batches.look(ward.team.technician, ids, few=True))
    assert [(item.state, item.labels) for item in done] == [("sealed", {"text": 1})] * len(ids)
    assert opened == [1]


@pytest.mark.usefixtures("sees_what_is_plain")
def test_files_that_do_not_open_leave_the_series_to_be_looked_at_later(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any) -> Any:
        raise ValueError("a fault of its own")

    ids = [take(ward, n) for n in range(1, 9)]
    with monkeypatch.context() as patch:
        patch.setattr(SeriesLook, "_opened", closed)
        look(ward, ids)
    assert boxes(ward, ids[0]) == []
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal(ward.team.technician, ids[0], [], confirm="nothing to see")
    assert boxes(ward, ids[0]) == [NAME.xyxy]


@pytest.mark.slow
@pytest.mark.usefixtures("sees_with_networks")
def test_the_networks_that_ship_see_the_name_in_all_slices_together(ward: Ward) -> None:
    few = [take(ward, n, side=256) for n in range(1, 8)]
    look(ward, few)
    assert all(hidden_share(ward, image_id) < 0.5 for image_id in few)
    more = [take(ward, n, side=256) for n in range(8, 18)]
    look(ward, more)
    assert all(hidden_share(ward, image_id) > 0.8 for image_id in more)


def hidden_share(ward: Ward, image_id: str) -> float:
    """How much of the name's ink the boxes of a draft hide."""
    masks = [Region(*xyxy).padded(0.04, 4) for xyxy in boxes(ward, image_id)]
    return Region(22, 66, 136, 86).hidden_share(masks)

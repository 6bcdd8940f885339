"""The second look is told what the first one saw, where the same networks saw the same image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine import Detection, Settings
from engine.errors import DetectorError
from engine.formats import images
from engine.formats.tones import AS_SHOWN
from engine.formats.views import View
from engine.operations.first_look import FirstLook
from engine.records import Image
from tests import builders
from tests.conftest import Ward, text_png

LIMITS = images.Limits.of(Settings())


def black() -> Image:
    return images.decode("black.png", builders.png(np.zeros((8, 8, 3), np.uint8)), LIMITS)


def test_it_is_told_what_was_looked_at(ward: Ward) -> None:
    data, found = text_png()
    ward.seal(data, found=[found])
    [told] = ward.detector.told
    pixels, _ = builders.labelled()
    assert told is not None
    assert np.array_equal(told[..., 0], pixels)


def _failed(ward: Ward, data: bytes) -> str:
    ward.detector.found = DetectorError
    image_id = ward.upload(data)
    ward.detector.found = []
    return image_id


def _reopened(ward: Ward, data: bytes) -> str:
    image_id = ward.seal(data, found=[text_png()[1]])
    ward.engine.withdrawals.flag(ward.team.technician, image_id, "a date")
    ward.engine.withdrawals.reopen(ward.team.doctor, image_id)
    return image_id


def _under_another_profile(ward: Ward, data: bytes) -> str:
    image_id = ward.upload(data, found=[text_png()[1]])
    ward.engine.profiles.save(ward.team.administrator, "general", {"confidence": 0.5})
    return image_id


@pytest.mark.parametrize("drafted", [_failed, _reopened, _under_another_profile])
def test_it_looks_at_all_where_another_look_or_none_came_before(
    ward: Ward, drafted: Callable[[Ward, bytes], str]
) -> None:
    data, found = text_png()
    image_id = drafted(ward, data)
    ward.detector.told.clear()
    box = Detection(found.region.padded(0.0, 4), "text", 1.0, "person")
    view = ward.engine.drafts.open(ward.team.technician, image_id)
    removed = dict.fromkeys(range(len(view.detections)), "drawn anew")
    ward.engine.drafts.seal(ward.team.technician, image_id, [box], removed, confirm="seen by me")
    assert ward.detector.told == [None]


def test_a_look_comes_back_from_the_facts_as_it_was() -> None:
    image = black()
    views = [View(image, AS_SHOWN, (0, 1, 2, 5, 7, 8)), View(image, "dark", (4,))]
    look = FirstLook.at(views, "ab")
    assert look.frames == {AS_SHOWN: ((0, 3), (5, 6), (7, 9)), "dark": ((4, 5),)}
    assert FirstLook.of({"first_look": look.to_json()}) == look
    assert FirstLook.of({"first_look": None}) is FirstLook.of({}) is None


def test_only_frames_that_were_looked_at_in_that_way_are_known() -> None:
    image = black()
    view = View(image, AS_SHOWN, (0,))
    assert FirstLook.at([view], "").shown(image, view)(0) is not None
    assert FirstLook.at([View(image, "dark", (0,))], "").shown(image, view)(0) is None
    assert FirstLook.at([View(image, AS_SHOWN, (1,))], "").shown(image, view)(0) is None

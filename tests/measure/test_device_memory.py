"""Places of a device: which are learned, and what they add to what was found."""

from __future__ import annotations

import pytest

from engine.measure.device_memory import (
    AGAIN,
    LATEST,
    REMEMBERED,
    Memory,
    Place,
    recurring,
    remembered,
)
from engine.records import Detection, Region

FIELD = Region(10, 10, 110, 30)


def drawn(region: Region = FIELD, label: str = "text") -> Detection:
    return Detection(region, label, 1.0)


@pytest.mark.parametrize(
    ("images", "places"),
    [
        ([[drawn()]] * (AGAIN - 1), 0),  # once too few
        ([[drawn()]] * AGAIN, 1),
        ([[drawn(), drawn()]] * (AGAIN - 1), 0),  # twice on one image is one image
        ([[drawn()], [drawn(Region(13, 11, 112, 31))], [drawn()]], 1),  # hands are not steady
        ([[drawn()], [drawn(Region(10, 60, 110, 80))], [drawn()]], 0),  # elsewhere
        ([[drawn()], [drawn(label="face")], [drawn()]], 0),  # something else
        ([[drawn()]] * AGAIN + [[]] * LATEST, 0),  # the device has changed since
        ([[drawn(Region(10, 10, 110, 30, f, f + 1))] for f in range(AGAIN)], 1),  # any frame
    ],
)
def test_a_place_is_learned_when_people_seal_it_again_and_again(
    images: list[list[Detection]], places: int
) -> None:
    assert len(recurring(images)) == places


def test_a_learned_place_holds_every_box_that_was_drawn_there() -> None:
    boxes = [FIELD, Region(13, 11, 112, 31), Region(8, 9, 108, 29)]
    [place] = recurring([[drawn(box)] for box in boxes])
    assert place.region == Region(8, 9, 112, 31)
    assert place.images == 3


def test_a_remembered_place_is_asked_about_and_a_rule_is_sealed() -> None:
    again, always = Place("text", FIELD), Place("barcode", Region(200, 5, 260, 25))
    added, asked = remembered(Memory((again,), (always,)), [], (300, 200, 4), 0.1)
    assert [(d.label, d.confidence, d.source) for d in added] == [
        ("barcode", 1.0, REMEMBERED),
        ("text", 0.1, REMEMBERED),
    ]
    assert all((d.region.frame, d.region.frame_end) == (0, 4) for d in added)
    assert asked
    assert remembered(Memory((), (always,)), [], (300, 200, 1), 0.1)[1] is False


def test_what_was_found_is_not_proposed_again_and_nothing_is_taken_away() -> None:
    memory = Memory((Place("text", FIELD),))
    found = [Detection(Region(8, 8, 112, 32), "text", 0.9, "net")]
    assert remembered(memory, found, (300, 200, 1), 0.1) == ([], False)


def test_a_place_outside_the_image_adds_nothing() -> None:
    assert remembered(Memory((Place("text", FIELD),)), [], (5, 5, 1), 0.1) == ([], False)

"""Opened pictures: bounded memory, one session each, and no longer than their time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from engine import errors
from engine.formats import images
from engine.records import Image
from engine.store.open_images import OpenImages, size_bytes
from tests import builders
from tests.fakes import FakeHost

MINUTES = timedelta(minutes=5)


@pytest.fixture(scope="module")
def picture() -> Image:
    limits = images.Limits(10**6, 10**6, 1000, 10**7)
    return images.decode("a.png", builders.png(np.zeros((64, 64), np.uint8)), limits)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def viewings(host: FakeHost, picture: Image) -> OpenImages:
    """Room for two pictures."""
    return OpenImages(host, MINUTES, 2 * size_bytes(picture))


def handles(viewings: OpenImages) -> list[str]:
    return list(viewings._open)


def test_the_oldest_closes_where_another_needs_its_memory(
    viewings: OpenImages, picture: Image
) -> None:
    for handle in ("first", "second", "third"):
        viewings.add("session", handle, "im_1", picture, "about")
        assert viewings.held_bytes <= 2 * size_bytes(picture)
    assert handles(viewings) == ["second", "third"]


def test_a_picture_that_is_larger_than_the_memory_is_refused_and_closes_nothing(
    host: FakeHost, picture: Image
) -> None:
    viewings = OpenImages(host, MINUTES, size_bytes(picture))
    viewings.add("session", "first", "im_1", picture, "about")
    viewings._memory -= 1
    with pytest.raises(errors.StorageBusy, match="MEDSEC_RESTORE_MEMORY_MB"):
        viewings.add("session", "second", "im_1", picture, "about")
    assert handles(viewings) == ["first"]


def test_a_picture_shows_up_to_its_last_moment_and_not_after(
    viewings: OpenImages, host: FakeHost, picture: Image
) -> None:
    viewings.add("session", "first", "im_1", picture, "about")
    host.clock += MINUTES - timedelta(microseconds=1)
    assert viewings.get("session", "first").image is picture
    host.clock += timedelta(microseconds=1)
    with pytest.raises(errors.NotFound):
        viewings.get("session", "first")
    assert viewings.held_bytes == 0


def test_a_picture_is_found_up_to_its_last_moment_and_not_after(
    viewings: OpenImages, host: FakeHost, picture: Image
) -> None:
    viewings.add("session", "first", "im_1", picture, "about")
    host.clock += MINUTES - timedelta(microseconds=1)
    assert viewings.find("session", "im_1", str) is not None
    host.clock += timedelta(microseconds=1)
    assert viewings.find("session", "im_1", str) is None


def test_a_picture_that_is_over_makes_room_before_an_open_one_does(
    viewings: OpenImages, host: FakeHost, picture: Image
) -> None:
    viewings.add("session", "long", "im_1", picture, "about")
    viewings.lifetime = timedelta(minutes=1)
    viewings.add("session", "short", "im_1", picture, "about")
    host.clock += timedelta(minutes=2)
    viewings.add("session", "new", "im_1", picture, "about")
    assert handles(viewings) == ["long", "new"]


def test_another_session_neither_sees_finds_nor_closes_it(
    viewings: OpenImages, picture: Image
) -> None:
    viewings.add("mine", "first", "im_1", picture, "about")
    with pytest.raises(errors.NotFound):
        viewings.get("theirs", "first")
    assert viewings.find("theirs", "im_1", str) is None
    viewings.close("theirs", "first")
    viewings.close_session("theirs")
    assert viewings.get("mine", "first").image is picture


def test_only_the_kind_and_image_that_is_asked_for_is_found(
    viewings: OpenImages, picture: Image
) -> None:
    viewings.add("mine", "first", "im_1", picture, "about")
    assert viewings.find("mine", "im_2", str) is None
    assert viewings.find("mine", "im_1", int) is None
    found = viewings.find("mine", "im_1", str)
    assert found is not None
    assert found.handle == "first"


def test_closing_takes_what_it_names_and_leaves_the_rest(
    viewings: OpenImages, picture: Image
) -> None:
    viewings._memory *= 2
    for session, handle, subject in (
        ("a", "one", "im_1"), ("a", "two", "im_2"), ("b", "three", "im_1"), ("b", "four", "im_2"),
    ):  # fmt: skip
        viewings.add(session, handle, subject, picture, "about")
    viewings.close("a", "two")
    assert handles(viewings) == ["one", "three", "four"]
    viewings.close_subject("im_1")
    assert handles(viewings) == ["four"]
    viewings.close_session("b")
    assert handles(viewings) == []

"""The cache of decoded masked images: bounded, and what is asked for most recently stays."""

from __future__ import annotations

import pytest

from engine.formats import images
from engine.operations import masked_images
from engine.records import Image
from engine.store.open_images import size_bytes
from tests import builders
from tests.conftest import Ward, text_png


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded, in order."""
    names: list[str] = []
    real = images.decode_opened

    def counted(name: str, *rest: object) -> Image:
        names.append(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(masked_images.images, "decode_opened", counted)
    return names


@pytest.fixture
def three(ward: Ward) -> list[str]:
    """Ids of three sealed images of the same size."""
    _, found = text_png()
    return [
        ward.seal(builders.png(builders.labelled(f"IMAGE {n}")[0]), found=[found]) for n in range(3)
    ]


def room_for(ward: Ward, count: float, image_id: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Set so much memory aside; says how many bytes."""
    cache = ward.engine.images._masked
    room = int(size_bytes(cache.get(ward.engine.caller(ward.team.doctor), image_id)) * count)
    cache._images.clear()
    monkeypatch.setattr(masked_images, "MASKED_CACHE_BYTES", room)
    return room


def test_a_masked_image_is_decoded_once_while_there_is_room(
    ward: Ward, three: list[str], decoded: list[str]
) -> None:
    for _ in range(3):
        for image_id in three:
            ward.engine.images.masked_frame(ward.team.doctor, image_id)
    assert len(decoded) == 3


def test_the_memory_of_masked_images_is_bounded(
    ward: Ward, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = room_for(ward, 2.5, three[0], monkeypatch)
    cache = ward.engine.images._masked
    held = []
    for image_id in [*three, *three]:
        ward.engine.images.masked_frame(ward.team.doctor, image_id)
        held.append(cache.held_bytes())
    assert max(held) <= room
    assert min(held[1:]) > room / 2  # it is used


def test_the_image_that_was_not_asked_for_the_longest_goes_first(
    ward: Ward, three: list[str], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(ward, 2.5, three[0], monkeypatch)
    decoded.clear()
    for number in (0, 1, 0, 2, 0, 1):  # 2 takes the place of 1, and 1 that of 2
        ward.engine.images.masked_frame(ward.team.doctor, three[number])
    assert [name.split(".")[0] for name in decoded] == [three[n] for n in (0, 1, 2, 1)]


def test_an_image_larger_than_the_memory_is_shown_and_not_kept(
    ward: Ward, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(ward, 0.5, three[0], monkeypatch)
    assert ward.engine.images.masked_frame(ward.team.doctor, three[0]).size
    assert ward.engine.images._masked.held_bytes() == 0

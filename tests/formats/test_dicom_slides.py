"""Whole-slide images: where the label is, everything is sealed."""

from __future__ import annotations

import numpy as np
import pytest

from engine.formats import images
from engine.formats.views import views_of
from engine.records import Region
from engine.seal import pipeline
from tests import builders
from tests.formats.dicom_files import both_ways, read

SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
PICTURE = builders.radiograph(96, 64, colour=True)
TILES = np.stack([PICTURE] * 4)


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"], "SOPClassUID": SLIDE},
        {"ImageType": ["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"], "SOPClassUID": SLIDE},
        {"ImageType": ["DERIVED", "PRIMARY", "LABEL", "RESAMPLED"]},
        {"SpecimenLabelInImage": "YES", "SOPClassUID": SLIDE},
    ],
    ids=["label", "overview", "label elsewhere", "label said"],
)
@pytest.mark.parametrize("pixels", [PICTURE, TILES], ids=["one", "tiles"])
def test_a_picture_of_the_label_is_sealed_whole(
    attributes: dict[str, object], pixels: np.ndarray
) -> None:
    image = read(builders.dicom(pixels, modality="SM", **attributes))
    (box,) = pipeline.sealed_whole(image)
    assert box.region == Region(0, 0, 96, 64, 0, image.frames)
    assert "sealed whole" in images.notes(image)[0]
    image, masked = both_ways(image.data, [box.region])
    assert all(len(np.unique(frame)) == 2 for frame in masked.pixels)


@pytest.mark.parametrize("kind", ["VOLUME", "THUMBNAIL"])
def test_a_picture_of_the_tissue_is_not(kind: str) -> None:
    data = builders.dicom(
        TILES, ImageType=["ORIGINAL", "PRIMARY", kind, "NONE"], SOPClassUID=SLIDE,
        SpecimenLabelInImage="NO",
    )  # fmt: skip
    image = read(data)
    assert pipeline.sealed_whole(image) == []
    assert images.notes(image) == ()


def test_of_many_tiles_some_are_looked_at_and_a_person_is_told() -> None:
    tiles = np.stack([builders.radiograph(32, 32, seed=i) for i in range(200)])
    image = read(builders.dicom(tiles, modality="SM", SOPClassUID=SLIDE))
    looked = images.looked_at(image)
    assert len(looked) == len(set(looked)) == 64
    assert (looked[0], looked[-1]) == (0, 196)
    assert {frame for view in views_of(image) for frame in view.numbers} == set(looked)
    assert "64 of the 200 tiles" in images.notes(image)[0]
    both_ways(image.data)


def test_of_any_other_cine_every_frame_is_looked_at() -> None:
    frames = np.stack([builders.radiograph(32, 32, seed=i) for i in range(80)])
    image = read(builders.dicom(frames))
    assert images.looked_at(image) == tuple(range(80))
    assert images.notes(image) == ()

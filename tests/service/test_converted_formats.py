"""Images whose masked file is of another format than the original: every name, ending and media
type says what the bytes are, and the original comes back under its own."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from engine import Detection, Region
from tests import photographs
from tests.conftest import WHY, Ward
from tests.rest import ask, opened

FOUND = [
    Detection(Region(8, 8, 56, 24), "text", 0.9, "scripted"),
    Detection(Region(64, 40, 100, 64), "face", 0.9, "scripted"),
]
CASES = {
    "HEIC": ("photo.heic", "image/heic", "png", "image/png"),
    "AVIF moving": ("ultrasound.avif", "image/avif", "tif", "image/tiff"),
    "JPEG XL 16": ("wound.jxl", "image/jxl", "png", "image/png"),
    "JPEG CMYK": ("print.jpg", "image/jpeg", "png", "image/png"),
}


@pytest.mark.parametrize("name", CASES)
def test_downloads_are_named_by_what_they_are(ward: Ward, name: str) -> None:
    data = photographs.converted_kinds()[name]
    own_name, own_type, suffix, media_type = CASES[name]
    image_id = ward.seal(data, own_name, FOUND)
    engine, doctor = ward.engine, ward.team.doctor
    assert engine.images.get(doctor, image_id).format == photographs.format_of(name)

    masked = engine.images.masked_file(ward.team.technician, image_id)
    assert (masked.name, masked.media_type) == (f"{image_id}.{suffix}", media_type)
    with Pillow.open(io.BytesIO(masked.data)) as picture:
        assert picture.format == {"png": "PNG", "tif": "TIFF"}[suffix]
    shown = engine.images.masked_frame(doctor, image_id)
    assert shown.shape == (photographs.HEIGHT, photographs.WIDTH, 3)
    assert engine.images.grid_picture(doctor, image_id)

    restored = engine.images.restore(doctor, image_id, WHY)
    assert restored.proof == "bytes"
    file = engine.images.restored_file(doctor, restored.handle)
    assert (file.name, file.media_type, file.data) == (own_name, own_type, data)

    package = engine.packages.export(doctor, image_id)
    back, proof = engine.packages.restore(doctor, masked.data, package.data, WHY)
    assert (back.name, back.media_type, proof) == (own_name, own_type, "bytes")
    assert back.data == data

    with opened(engine):
        answer = ask("GET", f"/images/{image_id}/file/", doctor)
    assert answer.headers["content-type"] == media_type
    assert f"{image_id}.{suffix}" in answer.headers["content-disposition"]
    assert answer.content == masked.data


def test_measured_values_are_sealed_shown_and_measured(ward: Ward) -> None:
    data = photographs.tiff_kinds()["float with holes"]
    image_id = ward.seal(data, "map.tif", FOUND)
    engine, doctor = ward.engine, ward.team.doctor
    restored = engine.images.restore(doctor, image_id, WHY)
    assert restored.proof == "bytes"
    assert restored.assessment is not None
    assert np.isfinite(restored.assessment.entropy_masked_bits)
    assert 0 < restored.assessment.masked_share < 1
    assert engine.images.restored_file(doctor, restored.handle).data == data


def test_pages_of_two_lengths_are_sealed_page_by_page(ward: Ward) -> None:
    data = photographs.tiff_kinds()["fax of two lengths"]
    image_id = ward.seal(data, "fax.tif", [Detection(Region(4, 4, 70, 20, 1, 2), "text", 0.9, "s")])
    masked = ward.engine.images.masked_file(ward.team.technician, image_id)
    with Pillow.open(io.BytesIO(masked.data)) as after, Pillow.open(io.BytesIO(data)) as before:
        assert after.n_frames == before.n_frames == 3  # type: ignore[attr-defined]
        for page in range(3):
            after.seek(page)
            before.seek(page)
            assert after.size == before.size
            same = np.array_equal(np.asarray(after.convert("L")), np.asarray(before.convert("L")))
            assert same == (page != 1)

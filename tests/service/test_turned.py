"""A picture that is stored turned is shown upright everywhere, and its boxes stay in place."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from engine import Detection, Region
from engine.formats import images
from tests import builders
from tests.conftest import WHY, Ward

#: Red, upright, in the picture of 96 x 64 px as people see it.
_RED = Region(8, 40, 40, 56)


def upright() -> np.ndarray:
    pixels = np.full((64, 96, 3), 90, np.uint8)
    pixels[_RED.slices[1:]] = (250, 10, 10)
    return pixels


def red(picture: np.ndarray) -> tuple[float, ...]:
    """Where the red is: shares of width and height."""
    ys, xs = np.nonzero((picture[..., 0] > 160) & (picture[..., 1] < 110))
    high, wide = picture.shape[:2]
    return xs.min() / wide, ys.min() / high, (xs.max() + 1) / wide, (ys.max() + 1) / high


def decoded(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize(
    ("kind", "orientation"), [("PNG", 6), ("PNG", 8), ("TIFF", 3), ("JPEG", 6)]
)
def test_a_turned_picture_is_shown_upright_to_everybody(
    ward: Ward, kind: str, orientation: int
) -> None:
    back = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    stored = images.upright(upright(), back)
    data = builders.pillow(stored, kind, **options)
    elsewhere = [Detection(Region(64, 0, 96, 16), "text", 0.9, "scripted")]
    image_id = ward.upload(data, "a", elsewhere)
    engine, (technician, doctor) = ward.engine, (ward.team.technician, ward.team.doctor)
    view = engine.drafts.open(technician, image_id)
    [found] = view.detections
    size = (view.record.width, view.record.height)
    assert view.orientation == orientation
    assert images.to_upright(found.region, orientation, *size) == elsewhere[0].region
    pictures = [engine.drafts.frame(technician, view.handle)]
    engine.drafts.seal(technician, image_id, view.detections)
    assert engine.images.display(doctor, image_id).orientation == orientation
    pictures.append(engine.images.masked_frame(doctor, image_id))
    pictures.append(decoded(engine.images.thumbnail(doctor, image_id)))
    pictures.append(decoded(engine.images.grid_picture(doctor, image_id))[:64, :96])
    handle = engine.images.restore(doctor, image_id, WHY).handle
    pictures.append(engine.images.restored_frame(doctor, handle))
    pictures.append(decoded(engine.images.restored_file(doctor, handle, "png").data))
    expected = (_RED.x1 / 96, _RED.y1 / 64, _RED.x2 / 96, _RED.y2 / 64)
    for number, picture in enumerate(pictures):
        assert picture.shape == (64, 96, 3), number
        assert np.abs(np.subtract(red(picture), expected)).max() < 0.05, number
    # The mask lies where the box was found, in what is shown and in the masked file.
    masked = Pillow.open(io.BytesIO(engine.images.masked_file(technician, image_id).data))
    assert masked.getexif()[0x0112] == orientation
    # Pillow turns TIFF when it decodes, and takes the tag away then.
    as_pillow = ImageOps.exif_transpose(masked).convert("RGB")
    for seen in (pictures[1], np.asarray(as_pillow)):
        assert seen.shape == (64, 96, 3)
        assert int(seen[2:14, 68:92].max()) - int(seen[2:14, 68:92].min()) > 20
        assert int(np.ptp(seen[2:30, 4:44])) < 20
    assert engine.images.restored_file(doctor, handle).data == data

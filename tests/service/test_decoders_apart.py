"""No decoder of a file that was sent runs in the process that holds the keys."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from pydicom.uid import RLELossless

from engine import Detection, Region, Settings
from engine.errors import CorruptImage
from engine.formats import dicom_codecs, images, jpeg_file
from tests import builders
from tests.conftest import WHY, Ward

BOX = Detection(Region(16, 16, 80, 40), "text", 0.9, "net")


def _pixels() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (96, 128, 3)).astype(np.uint8)


def _jpeg() -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(_pixels()).save(out, "JPEG", quality=90)
    return out.getvalue()


def _tiff() -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, _pixels(), photometric="rgb", compression="deflate")
    return out.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "a.jpg": _jpeg,
    "a.png": lambda: builders.png(_pixels()),
    "a.tif": _tiff,
    "a.dcm": lambda: builders.dicom(_pixels()[..., 0], syntax=RLELossless),
}


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("a decoder ran in the process that holds the keys")


@pytest.fixture
def no_decoder_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are other processes, where nothing of this is so."""
    for name in dir(imagecodecs):
        if name.endswith("_decode"):
            monkeypatch.setattr(imagecodecs, name, forbidden)
    monkeypatch.setattr(jpeg_file, "CJpegLib", None)
    monkeypatch.setattr(Pillow, "open", forbidden)
    monkeypatch.setattr(cv2, "imdecode", forbidden)
    monkeypatch.setattr(tifffile, "TiffFile", forbidden)
    monkeypatch.setattr(dicom_codecs, "get_decoder", forbidden)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("no_decoder_here")
def test_no_decoder_runs_in_the_process_that_holds_the_keys(ward: Ward, name: str) -> None:
    data = FILES[name]()
    ward.detector.found = [BOX]
    taken = ward.engine.drafts.upload(ward.team.technician, ward.patient_id, name, data)
    done = ward.engine.drafts.seal(ward.team.technician, taken.image_id, [BOX])
    assert ward.engine.images.restore(ward.team.doctor, done.image_id, WHY).opened


@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("no_decoder_here")
def test_a_decoder_that_ran_here_would_be_noticed(name: str) -> None:
    limits = images.Limits.of(Settings())
    data = FILES[name]()
    with pytest.raises((AssertionError, TypeError, AttributeError, CorruptImage)):
        images.OPERATIONS["decode"](str(images.sniff(data)), data, *images._bounds(limits))

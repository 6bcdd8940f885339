"""A masked DICOM with its package inside: the masked file comes out as it went in."""

from __future__ import annotations

import io
import random

import pydicom
import pytest
from pydicom.data import get_testdata_file

from engine.errors import InputError
from engine.formats import images
from engine.settings import Settings
from tests import builders
from tests.conftest import WHY, Ward, text_png

LIMITS = images.Limits.of(Settings())
GREY = builders.radiograph(64, 48)
FILES = {
    syntax.keyword: builders.dicom(GREY, syntax=syntax)
    for syntax in (*builders.UNCOMPRESSED, *builders.LOSSLESS, builders.JPEGBaseline8Bit)
}


def masked_of(data: bytes) -> bytes:
    return images.dissect(images.decode("a.dcm", data, LIMITS), [], bytes(32)).masked


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [0, 1, 5_000])
def test_a_package_travels_inside_and_leaves_no_trace(name: str, size: int) -> None:
    masked, package = masked_of(FILES[name]), random.Random(size).randbytes(size)
    whole = images.carry(masked, package)
    assert images.carried(whole) == (masked, package)
    assert images.carried(masked) is None
    seen, plain = (images.decode("a.dcm", d, LIMITS) for d in (whole, masked))
    assert (seen.pixels == plain.pixels).all()
    read = pydicom.dcmread(io.BytesIO(whole))
    assert read.private_block(0x7FDF, "MEDSEC SEALED 1").get_tag(0) == 0x7FDF1000


def test_other_formats_and_strangers_carry_nothing() -> None:
    png = builders.png(GREY)
    assert images.carried(png) is None
    with pytest.raises(InputError):
        images.carry(png, b"package")
    sample = get_testdata_file("CT_small.dcm", read=True)
    sample.private_block(0x7FDF, "MEDSEC SEALED 1", create=True).add_new(0, "OB", b"1234567890")
    buffer = io.BytesIO()
    sample.save_as(buffer)
    assert images.carried(buffer.getvalue()) is None


def test_the_original_comes_back_from_one_file_alone(ward: Ward) -> None:
    _, found = text_png()
    data = builders.dicom(builders.labelled()[0])
    image_id = ward.seal(data, "Erika.dcm", [found])
    doctor, engine = ward.team.doctor, ward.engine
    whole = images.carry(
        engine.images.masked_file(doctor, image_id).data,
        engine.packages.export(doctor, image_id).data,
    )
    taken = images.carried(whole)
    assert taken is not None
    file, proof = engine.packages.restore(doctor, *taken, WHY)
    assert (file.data, file.name, proof) == (data, "Erika.dcm", "bytes")
    assert b"Musterfrau" not in whole

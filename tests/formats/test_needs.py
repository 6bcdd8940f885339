"""What a file will need is known from its header, and nothing is decoded to know it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as Picture

from engine import Settings
from engine.errors import ImageTooLarge
from engine.formats import images
from engine.formats.limits import MOST_ITEMS, MOST_SCANS, Extent
from engine.formats.needs import Need
from tests import builders

LIMITS = images.Limits.of(Settings())


@pytest.mark.parametrize("kind", builders.every_format())
def test_the_header_of_every_format_tells_what_is_decoded(kind: str) -> None:
    data = builders.every_format()[kind]
    known, image = images.extent(data, LIMITS), images.decode("a", data, LIMITS)
    assert known.frame_px == image.width * image.height
    assert known.frames >= image.frames
    assert known.decoded_bytes >= image.pixels.nbytes


def test_a_small_file_that_claims_much_is_measured_and_not_decoded() -> None:
    data = claiming(32_000, 32_000)
    assert len(data) < 5000
    images._SANDBOX.close()  # decoders of earlier tests held what these needed
    known = images.extent(data, LIMITS)
    assert known == Extent(32_000, 32_000, 1, 32_000 * 32_000)
    assert peaks_mb() < 200
    assert Need.of(len(data), known).server_bytes > 10 << 30


def test_a_jpeg_of_very_many_scans_is_not_taken_in_but_one_that_is_here_is_read() -> None:
    many = of_scans(MOST_SCANS + 1)
    with pytest.raises(ImageTooLarge, match="scans") as refused:
        images.extent(many, LIMITS)
    assert refused.value.facts["scans"] == MOST_SCANS + 1
    assert images.decode("a", many, LIMITS).width == 64
    assert images.extent(of_scans(MOST_SCANS), LIMITS).width == 64


def test_a_dicom_of_very_many_items_is_not_taken_in() -> None:
    with pytest.raises(ImageTooLarge, match="items") as refused:
        images.extent(of_items(MOST_ITEMS + 1), LIMITS)
    assert refused.value.facts["items"] == MOST_ITEMS + 1
    assert images.extent(of_items(1000), LIMITS).width > 0


def test_a_deflated_file_needs_room_for_what_it_may_inflate_to() -> None:
    files = builders.every_format()
    plain = files["DICOM ExplicitVRLittleEndian 12 bit"]
    packed = files["DICOM DeflatedExplicitVRLittleEndian RGB"]
    assert images.header_need(plain, LIMITS).decoder_bytes < 64 << 20
    assert images.header_need(packed, LIMITS).decoder_bytes > LIMITS.max_decoded_bytes


def test_what_is_needed_grows_with_pixels_bytes_and_frames() -> None:
    small = Need.of(1000, Extent(100, 100, 1, 10_000))
    for more in (
        Need.of(50_000_000, Extent(100, 100, 1, 10_000)),
        Need.of(1000, Extent(5000, 5000, 1, 25_000_000)),
        Need.of(1000, Extent(100, 100, 5000, 50_000_000)),
    ):
        assert more.server_bytes > small.server_bytes
        assert more.decoder_bytes > small.decoder_bytes
        assert more.seconds > small.seconds
        assert more.total_bytes == more.server_bytes + more.decoder_bytes


def claiming(width: int, height: int) -> bytes:
    """A JPEG of a few px whose header says that it has more."""
    data = bytearray(builders.jpeg(np.zeros((16, 16), np.uint8)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2) + width.to_bytes(2)
    return bytes(data)


def of_scans(count: int, side_px: int = 64) -> bytes:
    """A progressive JPEG whose last scan, a refinement, comes again and again."""
    coded = io.BytesIO()
    Picture.new("L", (side_px, side_px), 128).save(coded, "JPEG", progressive=True)
    data = coded.getvalue()
    last = data.rindex(b"\xff\xda")
    more = count - data.count(b"\xff\xda")
    return data[:-2] + data[last:-2] * more + data[-2:]


def of_items(count: int) -> bytes:
    """A DICOM with a sequence of so many items, all of them empty."""
    dataset = pydicom.dcmread(io.BytesIO(builders.dicom(builders.labelled()[0])))
    dataset.ReferencedImageSequence = [pydicom.Dataset()]
    coded = io.BytesIO()
    dataset.save_as(coded)
    data = coded.getvalue()
    at = data.index(b"\x08\x00\x40\x11SQ\0\0") + 12
    item = b"\xfe\xff\x00\xe0\0\0\0\0"
    assert data[at : at + 8] == item
    length = (8 * count).to_bytes(4, "little")
    return data[: at - 4] + length + item * count + data[at + 8 :]


def peaks_mb() -> int:
    """The most that an idle decoder held so far."""
    found = [0]
    for worker in images._SANDBOX._idle:
        for line in Path(f"/proc/{worker.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                found.append(int(line.split()[1]) >> 10)
    return max(found)

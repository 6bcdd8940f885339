"""Video in DICOM: sealed whole, some frames shown, the very file back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.formats import dicom_video, images
from engine.records import Region
from engine.seal import pipeline
from tests import builders
from tests.formats.dicom_files import KEY, both_ways, even, items, read, with_pixels, with_syntax
from tests.vectors.make_videos import drawing

VECTORS = Path(__file__).parent.parent / "vectors"
MPEG2, H264, HEVC = (f"1.2.840.10008.1.2.4.{n}" for n in (100, 102, 107))
STREAMS = [
    (MPEG2, "video_mpeg2.ts"),
    (H264, "video_h264.ts"),
    (H264, "video_h264.mp4"),
    (HEVC, "video_hevc.ts"),
    (f"{H264}.1", "video_h264.ts"),
    ("1.2.840.10008.1.2.4.106", "video_h264.ts"),
]


def video(
    syntax: str, stream: bytes, frames: int = 12, pieces: int = 1, size: tuple[int, int] = (64, 96)
) -> bytes:
    """A DICOM video as devices write it; the header says nothing of how many fragments."""
    made = builders.dicom(
        np.zeros((*size, 3), np.uint8),
        modality="ES",
        NumberOfFrames=frames,
        PhotometricInterpretation="YBR_PARTIAL_420",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.1.1",
    )
    step = -(-len(stream) // pieces) // 2 * 2 + 2
    parts = [even(stream[at : at + step]) for at in range(0, len(stream), step)]
    return with_syntax(with_pixels(made, items(parts)), syntax)


@pytest.mark.parametrize(("syntax", "name"), STREAMS)
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_video_is_shown_sealed_whole_and_comes_back(syntax: str, name: str, pieces: int) -> None:
    stream = (VECTORS / name).read_bytes()
    image, masked = both_ways(video(syntax, stream, pieces=pieces))
    assert image.pixels.shape == masked.pixels.shape == (8, 64, 96, 3)
    for place, frame in enumerate(image.pixels):
        right = drawing(12 * place // 8)
        assert np.percentile(np.abs(frame.astype(int) - right), 80) < 16
    assert "sealed whole" in images.notes(image)[0]
    assert [d.region for d in pipeline.sealed_whole(image)] == [Region(0, 0, 96, 64, 0, 8)]
    # one picture, the same for all frames, and none of the stream
    assert (masked.pixels == masked.pixels[:1]).all()
    assert len(np.unique(masked.pixels)) == 2
    assert not any(stream[at : at + 48] in masked.data for at in range(64, len(stream) - 48, 48))


@pytest.mark.parametrize("damage", ["garbage", "cut off", "another size"])
def test_a_video_that_cannot_be_shown_is_sealed_all_the_same(damage: str) -> None:
    stream = (VECTORS / "video_h264.ts").read_bytes()
    data = {
        "garbage": video(H264, b"Musterfrau Erika" * 90),
        "cut off": video(H264, stream[:300]),
        "another size": video(H264, stream, size=(48, 64)),
    }[damage]
    image, masked = both_ways(data)
    assert "cannot be shown" in images.notes(image)[0]
    assert len(pipeline.sealed_whole(image)) == 1
    assert b"Musterfrau" not in masked.data


def test_a_video_looks_the_same_masked_whatever_is_in_it() -> None:
    """Same header, other stream: the masked files are equal."""
    one = video(H264, (VECTORS / "video_h264.ts").read_bytes())
    other = video(H264, (VECTORS / "video_mpeg2.ts").read_bytes())
    files = []
    for data in (one, other):
        image = read(data)
        regions = [d.region for d in pipeline.sealed_whole(image)]
        made = images.dissect(image, regions, KEY)
        assert made.patches == (dicom_video.NOTHING,)
        files.append(made.masked)
    assert files[0] == files[1]


def test_a_partly_opened_video_is_the_masked_one() -> None:
    image = read(video(H264, (VECTORS / "video_h264.ts").read_bytes()))
    regions = [Region(0, 0, 16, 16, 0, 2), Region(0, 0, 96, 64, 0, 8)]
    made = images.dissect(image, regions, KEY)
    part = images.assemble(made.masked, regions, {0: made.patches[0]}, None)
    assert np.array_equal(read(part).pixels, read(made.masked).pixels)


def test_a_video_that_is_longer_than_what_is_searched_is_shown_from_its_start() -> None:
    image = read(video(HEVC, (VECTORS / "video_hevc.ts").read_bytes(), frames=100_000))
    assert image.frames == 8
    assert image.properties["whole"] == "video"

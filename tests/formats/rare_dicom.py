"""One small DICOM of each rare kind, by a telling name; nobody is in them."""

from __future__ import annotations

import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.uid import HTJ2K, JPEGBaseline8Bit, JPEGExtended12Bit

from tests import builders
from tests.formats.dicom_files import even, items, with_pixels, with_syntax

VECTORS = Path(__file__).parent.parent / "vectors"


def rare_kinds() -> dict[str, bytes]:
    grey = np.stack([builders.radiograph(41, 33, seed=i) for i in range(2)])
    colour = builders.radiograph(42, 33, colour=True)
    twelve = builders.radiograph(41, 33, bits=12)

    def frames(syntax: str, pixels: np.ndarray, coded: list[bytes], **kind: object) -> bytes:
        made = builders.dicom(pixels, **kind)  # type: ignore[arg-type]
        return with_syntax(with_pixels(made, items([even(c) for c in coded])), syntax)

    def deflated(frame: np.ndarray) -> bytes:
        engine = zlib.compressobj(9, zlib.DEFLATED, -15)
        return engine.compress(frame.tobytes()) + engine.flush()

    video = np.zeros((64, 96, 3), np.uint8)
    packed = sum(int(v) << 12 * i for i, v in enumerate(twelve.reshape(-1).tolist()))
    jpegs = [builders.jpeg(f) for f in grey]
    return {
        "jxl": frames(
            "1.2.840.10008.1.2.4.110",
            grey,
            [bytes(imagecodecs.jpegxl_encode(f, lossless=True)) for f in grey],
        ),
        "jxl of jpeg": frames(
            "1.2.840.10008.1.2.4.111",
            colour,
            [bytes(imagecodecs.jpegxl_encode_jpeg(builders.jpeg(colour)))],
        ),
        "deflated frames": frames("1.2.840.10008.1.2.8.1", grey, [deflated(f) for f in grey]),
        "plain frames": frames("1.2.840.10008.1.2.1.98", grey, [f.tobytes() for f in grey]),
        "htj2k": frames(HTJ2K, colour, [bytes(imagecodecs.htj2k_encode(colour, reversible=True))]),
        "jpeg 12 bit": frames(
            JPEGExtended12Bit,
            twelve,
            [bytes(imagecodecs.jpeg8_encode(twelve, level=90, bitspersample=12))],
            bits=12,
        ),
        "packed": builders.dicom(
            twelve,
            BitsAllocated=12,
            BitsStored=12,
            HighBit=11,
            PixelData=even(packed.to_bytes(-(-twelve.size * 12 // 8), "little")),
        ),
        "422 of three bytes": builders.dicom(colour, PhotometricInterpretation="YBR_FULL_422"),
        "dead frame": frames(JPEGBaseline8Bit, grey, [jpegs[0], b"\xff\xd8\xff\xe0 no frame"]),
        "more frames": frames(JPEGBaseline8Bit, grey, [*jpegs, *jpegs]),
        "says RGB": with_pixels(
            builders.dicom(colour, syntax=JPEGBaseline8Bit, PhotometricInterpretation="RGB"),
            items([even(builders.jpeg(colour))]),
        ),
        "label": builders.dicom(colour, ImageType=["ORIGINAL", "PRIMARY", "LABEL"]),
        "video": frames(
            "1.2.840.10008.1.2.4.102",
            video,
            [(VECTORS / "video_h264.mp4").read_bytes()],
            NumberOfFrames=12,
        ),
        "video mpeg2": frames(
            "1.2.840.10008.1.2.4.100",
            video,
            [(VECTORS / "video_mpeg2.ts").read_bytes()],
            NumberOfFrames=12,
        ),
    }

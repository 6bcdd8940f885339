"""DICOM: read as pydicom reads it, de-identified to PS3.15, and byte for byte back again."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSNearLossless,
    RLELossless,
)

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import dicom_header, images
from engine.formats.views import views_of
from engine.records import Format, Image, Region
from engine.settings import Settings
from tests import builders

LIMITS = images.Limits.of(Settings())
KEY, OTHER_KEY = b"secret of one patient, 32 bytes.", b"secret of another, also 32 bytes"
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
GREY = builders.radiograph(64, 48)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """pydicom, which tests read with, warns about its own sample files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(data: bytes) -> Image:
    return images.decode("any.dcm", data, LIMITS)


def theirs(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data), force=True)


def boxes_of(image: Image) -> list[Region]:
    w, h, f = image.width, image.height, image.frames
    boxes = [
        Region(w // 8, h // 8, w // 2 + 1, h // 3 + 1, 0, f),
        Region(w // 3, 0, w, h // 2, f - 1),
    ]
    return [r for b in boxes if (r := b.aligned(image.grid).clipped(w, h, f))]


def masked_of(data: bytes, key: bytes = KEY, regions: list[Region] | None = None) -> bytes:
    image = read(data)
    return images.dissect(image, boxes_of(image) if regions is None else regions, key).masked


def restored(data: bytes) -> bytes:
    image = read(data)
    regions = boxes_of(image)
    made = images.dissect(image, regions, KEY)
    return images.assemble(made.masked, regions, dict(enumerate(made.patches)), made.remainder)


# --- files of many vendors ---------------------------------------------------------------------

#: Those of pydicom's own sample files that are refused, and why.
REFUSED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": CorruptImage,  # its codestream is cut in two
    "MR_truncated.dcm": CorruptImage,
    "meta_missing_tsyntax.dcm": CorruptImage,  # no rows and columns
    "nested_priv_SQ.dcm": CorruptImage,  # no rows and columns
}
#: Documents: sealed whole.
DOCUMENTS = {"reportsi.dcm", "reportsi_with_empty_number_tags.dcm", "test-SR.dcm"}
PICTURES = sorted(p for p in SAMPLES.glob("*.dcm"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda p: p.stem)
def test_samples_of_many_vendors_come_back_byte_for_byte(path: Path) -> None:
    data = path.read_bytes()
    if path.name in DOCUMENTS:
        image = read(data)
        made = images.dissect(image, [Region(0, 0, image.width, image.height)], KEY)
        back = images.assemble(
            made.masked, [Region(0, 0, image.width, image.height)],
            dict(enumerate(made.patches)), made.remainder,
        )  # fmt: skip
        assert (image.format, back) == (Format.DOCUMENT, data)
        return
    if not {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & set(dir(theirs(data))):
        with pytest.raises(UnsupportedFormat):
            read(data)
        return
    if path.name in REFUSED:
        with pytest.raises(REFUSED[path.name]):
            read(data)
        return
    image = read(data)
    assert restored(data) == data
    original, masked = theirs(data), theirs(masked_of(data))
    if path.name not in ("badVR.dcm", "JPEG-lossy.dcm"):  # which pydicom cannot decode
        expected = pixel_array(original, raw=True).reshape(image.pixels.shape)
        assert np.array_equal(image.pixels, expected)
    assert pixel_array(masked, raw=True).size == image.pixels.size
    assert masked.PatientIdentityRemoved == "YES"
    for word in str(original.get("PatientName", "")).replace("^", " ").split():
        assert (
            len(word) < 4
            or word.encode() not in masked_of(data)[: masked_of(data).rfind(b"\xe0\x7f")]
        )


@pytest.mark.parametrize("syntax", builders.UNCOMPRESSED, ids=lambda s: s.keyword)
@pytest.mark.parametrize("planar", [0, 1])
def test_planes_and_pixels_side_by_side_are_the_same_picture(syntax: str, planar: int) -> None:
    pixels = builders.radiograph(33, 27, colour=True)
    stored = pixels if planar == 0 else np.moveaxis(pixels, -1, 0)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    body = np.ascontiguousarray(stored).tobytes()
    body += b"\0" * (len(body) % 2)
    assert order  # bytes have no order
    data = builders.dicom(pixels, syntax=syntax, PlanarConfiguration=planar, PixelData=body)
    image = read(data)
    assert np.array_equal(image.pixels[0], pixels)
    assert np.array_equal(images.render(image), pixels)
    assert restored(data) == data


def test_eight_bits_in_big_endian_words_are_swapped() -> None:
    pixels = builders.radiograph(31, 21)
    body = pixels.tobytes() + b"\0" * (pixels.size % 2)
    swapped = np.frombuffer(body, "<u2").astype(">u2").tobytes()
    data = builders.dicom(pixels, syntax=ExplicitVRBigEndian)
    at = data.index(b"\x7f\xe0\x00\x10OB")
    data = data[: at + 4] + b"OW" + data[at + 6 : at + 12] + swapped
    assert np.array_equal(read(data).pixels[0], pixels)
    assert restored(data) == data


@pytest.mark.parametrize("bits", [1, 8, 10, 12, 16, 32])
@pytest.mark.parametrize("signed", [False, True])
def test_every_depth_and_sign_comes_back(bits: int, signed: bool) -> None:
    if bits == 1:
        if signed:
            pytest.skip("one bit has no sign")
        pixels = (GREY > 128).astype(np.uint8)
        packed = np.packbits(pixels.reshape(-1), bitorder="little").tobytes()
        data = builders.dicom(pixels, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    else:
        word = np.dtype(f"{'i' if signed else 'u'}{ {8: 1, 32: 4}.get(bits, 2) }")
        low = -(1 << (bits - 1)) if signed else 0
        pixels = np.random.default_rng(bits).integers(low, low + (1 << bits), (48, 64)).astype(word)
        data = builders.dicom(pixels, bits=bits)
    image = read(data)
    assert np.array_equal(image.pixels[0], pixels)
    assert image.pixels.dtype == pixels.dtype
    assert restored(data) == data
    fill = read(masked_of(data)).pixels[0][6:16, 8:30]
    assert len(np.unique(fill)) == 2


def test_floating_point_pixels_come_back() -> None:
    values = np.linspace(-3.5, 9.25, 48 * 64, dtype=np.float32).reshape(48, 64)
    data = builders.dicom(GREY)
    at = data.index(b"\xe0\x7f\x10\x00OB")
    element = b"\xe0\x7f\x08\x00OF\0\0" + struct.pack("<I", values.nbytes) + values.tobytes()
    data = data[:at] + element
    image = read(data)
    assert np.array_equal(image.pixels[0], values)
    assert restored(data) == data
    assert images.render(image).shape == (48, 64, 3)


def test_chroma_shared_by_two_pixels_comes_back() -> None:
    cells = np.random.default_rng(1).integers(0, 256, (20, 15, 4), dtype=np.uint8)
    data = builders.dicom(
        builders.radiograph(30, 20, colour=True),
        PhotometricInterpretation="YBR_FULL_422",
        PixelData=cells.tobytes(),
    )
    image = read(data)
    assert image.grid == (2, 1)
    assert np.array_equal(image.pixels[0], pixel_array(theirs(data), raw=True))
    assert restored(data) == data


# --- odd files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "missing", ["SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "HighBit",
                "PixelRepresentation", "SOPClassUID", "SOPInstanceUID", "PatientID", "PatientName",
                "StudyInstanceUID", "Modality", "SpecificCharacterSet"],
)  # fmt: skip
def test_a_missing_attribute_is_no_reason_to_refuse(missing: str) -> None:
    whole = builders.dicom(GREY)
    ds = theirs(whole)
    delattr(ds, missing)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    data = buffer.getvalue()
    assert np.array_equal(read(data).pixels[0], GREY)
    assert restored(data) == data


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_file_without_meta_information_comes_back(syntax: str) -> None:
    whole = builders.dicom(GREY, syntax=syntax)
    start = whole.index(b"\x08\x00\x05\x00" if syntax != ExplicitVRBigEndian else b"\0\x08\0\x05")
    data = whole[start:]
    assert np.array_equal(read(data).pixels[0], GREY)
    assert restored(data) == data


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, HTJ2KLossless, JPEGBaseline8Bit])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("table", [False, True])
def test_frames_in_pieces_with_or_without_offsets_come_back(
    syntax: str, pieces: int, table: bool
) -> None:
    pixels = builders.cine(frames=3)[0]
    coder = builders.LOSSLESS.get(syntax, lambda f: builders.jpeg(f))
    frames = [bytes(coder(f)) for f in pixels]
    value = encapsulate(frames, fragments_per_frame=pieces, has_bot=table)
    data = builders.dicom(pixels, syntax=syntax, fragments=frames, PixelData=value)
    assert read(data).frames == 3
    assert restored(data) == data


def test_what_stands_behind_the_pixels_comes_back_but_is_not_shared() -> None:
    trailing = struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 16) + b"Musterfrau Erika"
    data = builders.dicom(GREY, patient=0) + trailing
    assert b"Musterfrau Erika" not in masked_of(data)
    assert restored(data) == data


def test_comments_in_codestreams_come_back_but_are_not_shared() -> None:
    pixels = builders.cine(frames=3)[0]
    frames = [builders.jpeg(f, comment=b"Musterfrau Erika") for f in pixels]
    data = builders.dicom(pixels, syntax=JPEGBaseline8Bit, fragments=frames)
    only_first = [Region(0, 0, 16, 16)]
    assert b"Musterfrau Erika" in data
    assert b"Musterfrau Erika" not in masked_of(data, regions=only_first)
    assert restored(data) == data
    frames = [bytes(builders.LOSSLESS[JPEG2000Lossless](f)) for f in pixels]
    comment = b"\xff\x64" + struct.pack(">HH", 20, 1) + b"Musterfrau Erika"
    frames = [f.replace(b"\xff\x52", comment + b"\xff\x52", 1) for f in frames]
    data = builders.dicom(pixels, syntax=JPEG2000Lossless, fragments=frames)
    assert read(data).frames == 3
    assert b"Musterfrau Erika" not in masked_of(data, regions=only_first)
    assert restored(data) == data


def test_frames_under_no_box_keep_their_very_pixels_and_their_syntax() -> None:
    pixels = builders.cine(frames=4, width=152)[0]
    for syntax in (*builders.LOSSLESS, JPEGBaseline8Bit):
        data = builders.dicom(pixels, syntax=syntax)
        masked = masked_of(data, regions=[Region(0, 0, 32, 32, 2, 3)])
        before, after = read(data).pixels, read(masked).pixels
        assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [
            True, True, False, True,
        ]  # fmt: skip
        assert theirs(masked).file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize("syntax", builders.LOSSLESS, ids=lambda s: s.keyword)
@pytest.mark.parametrize("depth", [8, 12])
def test_a_frame_whose_coder_is_here_is_not_sealed_twice(syntax: str, depth: int) -> None:
    pixels = builders.radiograph(161, 123, bits=depth)
    data = builders.dicom(pixels, bits=depth, syntax=syntax)
    image = read(data)
    regions = [Region(10, 10, 60, 30)]
    made = images.dissect(image, regions, KEY)
    assert images.assemble(made.masked, regions, {0: made.patches[0]}, made.remainder) == data
    assert len(made.remainder) < 2_500


def test_a_frame_of_an_unknown_coder_comes_back_all_the_same() -> None:
    frame = bytearray(builders.LOSSLESS[JPEG2000Lossless](GREY))
    comment = b"\xff\x64" + struct.pack(">HH", 8, 1) + b"abcd"
    at = frame.index(b"\xff\x52")
    frame[at:at] = comment
    data = builders.dicom(GREY, syntax=JPEG2000Lossless, fragments=[bytes(frame)])
    made = images.dissect(read(data), [Region(0, 0, 8, 8)], KEY)
    assert len(made.remainder) > len(frame)
    assert restored(data) == data


def test_more_pixels_than_frames_are_sealed_but_not_shared() -> None:
    secret = bytes(range(200, 232)) * 4
    body = GREY.tobytes() + secret
    data = builders.dicom(GREY, PixelData=body)
    assert secret not in masked_of(data)
    assert restored(data) == data


# --- nothing in unused corners ------------------------------------------------------------------


def test_an_overlay_in_unused_bits_is_cleared_and_comes_back() -> None:
    twelve = builders.radiograph(64, 48, bits=12)
    overlay = np.zeros_like(twelve)
    builders.write_text(overlay, "MUSTERFRAU", (2, 20), scale=0.3)
    cells = twelve | ((overlay > 0).astype(np.uint16) << 15)
    data = builders.dicom(cells, bits=12)
    masked = read(masked_of(data, regions=[Region(0, 0, 8, 8)])).pixels[0]
    assert (masked < 4096).all()
    assert np.array_equal(masked[8:], twelve[8:])
    assert restored(data) == data
    signed = cells.astype(np.int16)
    assert restored(builders.dicom(signed, bits=12)) == builders.dicom(signed, bits=12)


def _with_everything() -> bytes:
    """A data set with something identifying in every corner."""
    ds = theirs(builders.dicom(GREY, patient=0))
    ds.OtherPatientIDs = "H-000000"
    ds.StudyDescription = "Knee of Erika Musterfrau"
    ds.ContrastBolusAgent = "given to MUSTERFRAU"
    ds.add_new(0x00280106, "US", int(GREY.min()))
    ds.add_new(0x00280107, "US", int(GREY.max()))
    ds.add_new(0x00090010, "LO", "VENDOR 1.0")
    ds.add_new(0x00091001, "LO", "Musterfrau^Erika")
    ds.add_new(0x60000010, "US", 48)
    ds.add_new(0x60000011, "US", 64)
    ds.add_new(0x60000040, "CS", "G")
    ds.add_new(0x60000050, "SS", [1, 1])
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    ds.add_new(0x60003000, "OW", b"Musterfrau Erika" * 24)
    ds.add_new(0x50000010, "US", 1)
    ds.add_new(0x50003000, "OW", b"Musterfrau Erika")
    ds.add_new(0x0009FFFE, "UN", b"Musterfrau Erika")
    ds.add_new(0x00189999, "LO", "Musterfrau unknown element")
    icon = Dataset()
    icon.Rows = icon.Columns = 4
    icon.add_new(0x7FE00010, "OB", b"Musterfrau Erika")
    ds.IconImageSequence = Sequence([icon])
    ds.ReferencedImageEvidenceSequence = Sequence([icon])
    inner = Dataset()
    inner.PatientName = "Musterfrau^Erika"
    inner.ReferencedSOPInstanceUID = ds.SOPInstanceUID
    inner.ReferencedSOPClassUID = ds.SOPClassUID
    inner.add_new(0x00091001, "LO", "Musterfrau^Erika")
    ds.SourceImageSequence = Sequence([inner])
    request = Dataset()
    request.RequestedProcedureDescription = "Musterfrau Erika, knee"
    request.ScheduledProcedureStepID = "4711"
    ds.RequestAttributesSequence = Sequence([request])
    buffer = io.BytesIO()
    ds.save_as(buffer)
    data = buffer.getvalue()
    return b"Musterfrau Erika".ljust(128) + data[128:]


def test_a_masked_dicom_names_nobody_anywhere() -> None:
    data = _with_everything()
    masked = masked_of(data)
    for word in (b"MUSTERFRAU", b"ERIKA", b"H-000000", b"SAMPLETOWN", b"REFERRER", b"EXAMPLE LANE",
                 b"20240229", b"1.2.826.0.1.3680043.8.498.0", b"VENDOR"):  # fmt: skip
        assert word in data.upper()
        assert word not in masked.upper(), word
    ds = theirs(masked)
    groups = {element.tag.group for element in ds.iterall()}
    assert not {g for g in groups if g % 2 or 0x5000 <= g <= 0x50FF or 0x6000 <= g <= 0x60FF}
    assert "IconImageSequence" not in ds
    assert 0x00189999 not in ds
    assert restored(data) == data


def _item(**attributes: Any) -> Sequence:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return Sequence([item])


NAME, WORDS = "Musterfrau^Erika", "Musterfrau Erika"
CORNERS: dict[str, dict[str, Any]] = {
    "encapsulated document": {
        "EncapsulatedDocument": WORDS.encode(), "DocumentTitle": WORDS,
        "MIMETypeOfEncapsulatedDocument": "application/pdf",
    },
    "structured report": {
        "ContentSequence": _item(
            RelationshipType="CONTAINS", ValueType="TEXT", TextValue=WORDS,
            ContentSequence=_item(ValueType="PNAME", PersonName=NAME,
                                  ConceptNameCodeSequence=_item(CodeMeaning=WORDS, CodeValue="1")),
        ),
    },
    "annotations of a presentation": {
        "GraphicAnnotationSequence": _item(
            GraphicLayer="L", TextObjectSequence=_item(UnformattedTextValue=WORDS)
        ),
        "ContentCreatorName": NAME, "PresentationCreationDate": "20240229",
    },
    "recorded wave": {
        "WaveformSequence": _item(WaveformBitsAllocated=8, WaveformData=WORDS.encode(),
                                  WaveformPaddingValue=WORDS.encode()),
    },
    "comments of a frame": {
        "PerFrameFunctionalGroupsSequence": _item(
            FrameContentSequence=_item(FrameComments=WORDS, FrameLabel=WORDS)
        ),
    },
    "thumbnail": {
        "IconImageSequence": _item(BitsAllocated=8, Rows=4, Columns=4, PixelData=WORDS.encode()),
    },
    "modified attributes": {
        "OriginalAttributesSequence": _item(
            ModifyingSystem="X", ModifiedAttributesSequence=_item(PatientName=NAME)
        ),
    },
    "addresses": {"PixelDataProviderURL": "http://host/Musterfrau/Erika",
                  "RetrieveURL": "http://host/Musterfrau/Erika"},
    "table with an explanation": {
        "VOILUTSequence": _item(LUTDescriptor=[2, 0, 16], LUTExplanation=WORDS,
                                LUTData=b"\0\0\xff\xff"),
    },
    "bytes under another element": {
        "ReferencedImageSequence": _item(EncryptedContent=WORDS.encode()),
    },
}  # fmt: skip


@pytest.mark.parametrize("corner", CORNERS)
def test_what_identifies_in_a_corner_is_sealed_and_comes_back(corner: str) -> None:
    ds = theirs(builders.dicom(GREY, patient=0))
    for keyword, value in CORNERS[corner].items():
        setattr(ds, keyword, value)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    data = buffer.getvalue()
    assert data.upper().count(b"MUSTERFRAU") > 1
    masked = masked_of(data)
    for word in (b"MUSTERFRAU", b"ERIKA", b"20240229"):
        assert word not in masked.upper()
    assert restored(data) == data


@pytest.mark.parametrize(
    "kind",
    ["1.2.840.10008.5.1.4.1.1.481.5", "1.2.840.10008.5.1.4.1.1.66",
     "1.2.840.10008.5.1.4.1.1.9.1.1"],
    ids=["plan", "raw data", "ECG"],
)  # fmt: skip
def test_objects_without_a_picture_are_refused_by_name(kind: str) -> None:
    ds = theirs(builders.dicom(GREY, SOPClassUID=kind))
    del ds.PixelData
    buffer = io.BytesIO()
    ds.save_as(buffer)
    with pytest.raises(UnsupportedFormat, match="contains no image"):
        read(buffer.getvalue())


def test_a_masked_dicom_says_how_it_was_deidentified() -> None:
    ds = theirs(masked_of(_with_everything()))
    assert ds.PatientIdentityRemoved == "YES"
    assert ds.BurnedInAnnotation == "NO"
    assert ds.LongitudinalTemporalInformationModified == "REMOVED"
    codes = [(c.CodeValue, c.CodingSchemeDesignator) for c in ds.DeidentificationMethodCodeSequence]
    assert codes == [("113100", "DCM"), ("113101", "DCM")]
    assert "PatientBirthDate" in ds
    assert not ds.PatientBirthDate
    assert "StudyDate" in ds
    assert not ds.StudyDate


def test_largest_and_smallest_value_are_those_of_the_masked_pixels() -> None:
    pixels = builders.radiograph(64, 48, bits=12)
    pixels[10, 10], pixels[11, 11] = 4095, 0
    data = builders.dicom(
        pixels, bits=12, SmallestImagePixelValue=0, LargestImagePixelValue=4095,
        WindowCenter=900, WindowWidth=800,
    )  # fmt: skip
    ds = theirs(masked_of(data, regions=[Region(0, 0, 32, 32)]))
    assert ds.SmallestImagePixelValue == ds.pixel_array.min() > 0
    assert ds.LargestImagePixelValue == ds.pixel_array.max() < 4095


@pytest.mark.parametrize(
    ("name", "syntax", "loss"),
    [
        ("JPGExtended.dcm", ExplicitVRLittleEndian, "ISO_10918_1"),  # 12 bit: nobody writes it
        ("JPEG2000.dcm", JPEG2000, "ISO_15444_1"),
        ("JPEGLSNearLossless_08.dcm", JPEGLSNearLossless, "ISO_14495_1"),
        ("examples_ybr_color.dcm", JPEGBaseline8Bit, "ISO_10918_1"),
        ("MR_small_RLE.dcm", RLELossless, None),
        ("image_dfl.dcm", DeflatedExplicitVRLittleEndian, None),
        ("SC_rgb_rle_32bit.dcm", ExplicitVRLittleEndian, None),  # RLE has no 32 bit cells
    ],
)
def test_a_masked_file_says_how_it_is_and_how_it_was_compressed(
    name: str, syntax: str, loss: str | None
) -> None:
    ds = theirs((SAMPLES / name).read_bytes())
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio",
                    "LossyImageCompressionMethod"):  # fmt: skip
        if keyword in ds:
            delattr(ds, keyword)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    masked = theirs(masked_of(buffer.getvalue()))
    assert masked.file_meta.TransferSyntaxUID == syntax
    assert masked.get("LossyImageCompression") == ("01" if loss else None)
    assert masked.get("LossyImageCompressionMethod") == loss
    assert (float(masked.get("LossyImageCompressionRatio", 0)) > 0) is bool(loss)
    told = masked_of((SAMPLES / "JPGExtended.dcm").read_bytes())
    assert theirs(told).LossyImageCompressionRatio == 76  # as the sender said it
    assert restored(buffer.getvalue()) == buffer.getvalue()


def test_series_of_a_patient_stay_series_under_new_identifiers() -> None:
    def identifiers(data: bytes, key: bytes = KEY) -> tuple[str, ...]:
        ds = theirs(masked_of(data, key))
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        return (
            ds.PatientID,
            ds.StudyInstanceUID,
            ds.SeriesInstanceUID,
            ds.SOPInstanceUID,
            ds.FrameOfReferenceUID,
        )

    first = identifiers(builders.dicom(GREY))
    again = identifiers(builders.dicom(GREY))
    sibling = identifiers(builders.dicom(GREY, instance=2))
    series = identifiers(builders.dicom(GREY, series=2))
    study = identifiers(builders.dicom(GREY, study=2))
    same = [a == b for a, b in zip(first, sibling, strict=True)]
    assert first == again
    assert same == [True, True, True, False, True]
    assert [a == b for a, b in zip(first, series, strict=True)] == [True, True, False, False, False]
    assert [a == b for a, b in zip(first, study, strict=True)][:3] == [True, False, False]
    assert not set(first) & set(identifiers(builders.dicom(GREY), OTHER_KEY))
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in first[1:])
    assert str(theirs(masked_of(builders.dicom(GREY))).PatientName) == first[0]


def test_references_between_instances_still_meet() -> None:
    ds = theirs(builders.dicom(GREY, instance=2))
    item = Dataset()
    item.ReferencedSOPClassUID = ds.SOPClassUID
    item.ReferencedSOPInstanceUID = builders.uid(1, 1, 1, 1)
    ds.SourceImageSequence = Sequence([item])
    buffer = io.BytesIO()
    ds.save_as(buffer)
    referring = theirs(masked_of(buffer.getvalue()))
    referred = theirs(masked_of(builders.dicom(GREY)))
    met = referring.SourceImageSequence[0].ReferencedSOPInstanceUID
    assert met == referred.SOPInstanceUID
    assert referring.SourceImageSequence[0].ReferencedSOPClassUID == ds.SOPClassUID


def test_every_attribute_of_the_standard_that_can_name_somebody_has_a_rule() -> None:
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientAddress",
        "StudyDate",
        "AccessionNumber",
        "InstitutionName",
        "DeviceSerialNumber",
        "OperatorsName",
        "StudyInstanceUID",
        "ImageComments",
        "PatientComments",
        "StudyDescription",
        "ProtocolName",
        "StationName",
        "EthnicGroup",
        "OriginalAttributesSequence",
    ):
        assert pydicom.datadict.tag_for_keyword(keyword) in dicom_header.RULES, keyword
    assert len(dicom_header.RULES) > 600


@pytest.mark.parametrize(
    ("attributes", "flagged"),
    [
        ({"modality": "CT", "BodyPartExamined": "HEAD"}, True),
        ({"modality": "MR", "BodyPartExamined": "BRAIN"}, True),
        ({"modality": "CT"}, True),  # nothing says what it shows
        ({"modality": "CT", "StudyDescription": "CT Neurocranium"}, True),
        ({"modality": "MR", "SeriesDescription": "t1 mprage sag"}, True),  # nor does this
        ({"modality": "CT", "BodyPartExamined": "WHOLEBODY"}, True),
        ({"modality": "CT", "BodyPartExamined": "CSPINE"}, True),  # the lower half of a face
        ({"modality": "PT", "BodyPartExamined": "CHEST", "SeriesDescription": "Skull to thigh"},
         True),
        ({"modality": "CT", "BodyPartExamined": "CHEST"}, False),
        ({"modality": "CT", "StudyDescription": "Cardiac CT, iliac access"}, False),
        ({"modality": "MR", "BodyPartExamined": "KNEE"}, False),
        ({"modality": "DX", "BodyPartExamined": "SKULL"}, False),  # a projection
    ],
)  # fmt: skip
def test_heads_from_which_a_face_could_be_made_are_flagged(
    attributes: dict[str, Any], flagged: bool
) -> None:
    data = builders.dicom(GREY, **attributes)
    assert read(data).properties["recognizable_head"] is flagged
    ds = theirs(masked_of(data))
    assert (ds.get("RecognizableVisualFeatures") == "YES") is flagged
    assert "113102" not in [c.CodeValue for c in ds.DeidentificationMethodCodeSequence]


def test_properties_are_facts_of_pixels_and_never_of_the_patient() -> None:
    facts = dict(read(_with_everything()).properties)
    shown = b"".join(facts.pop("display"))
    assert facts.pop("overlays")  # pixels, like those of the picture itself
    for word in ("Musterfrau", "Erika", "H-000000", "Sampletown", "20240229"):
        assert word not in repr(facts)
        assert word.encode() not in shown


def test_the_header_fills_in_a_patients_record() -> None:
    hints = images.patient_hints(read(builders.dicom(GREY, patient=1)))
    assert hints == {
        "id": "H-000001", "name": "Doe, Jane", "birth_date": "19410412", "sex": "M", "age": 31,
    }  # fmt: skip
    born = builders.dicom(GREY, PatientAge=None, PatientBirthDate="19990301", StudyDate="20240229")
    assert images.patient_hints(read(born))["age"] == 24
    months = builders.dicom(GREY, PatientAge="030M")
    assert images.patient_hints(read(months))["age"] == 2
    assert images.patient_hints(images.decode("a.png", builders.png(GREY), LIMITS)) == {}


# --- what a person sees ------------------------------------------------------------------------


def shown(pixels: np.ndarray, **attributes: Any) -> np.ndarray:
    return images.render(read(builders.dicom(pixels, **attributes)))[..., 0]


def test_a_window_is_applied_in_units_of_the_modality() -> None:
    stored = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    options = {"bits": 12, "RescaleSlope": "2", "RescaleIntercept": "-1000"}
    seen = shown(stored, WindowCenter=1000, WindowWidth=2000, **options)
    values = stored * 2.0 - 1000
    ramp = np.clip((values - (1000 - 0.5)) / (2000 - 1) + 0.5, 0, 1) * 255
    assert np.abs(seen - ramp).max() <= 0.5 + 1e-9
    image = read(builders.dicom(stored, **options))
    assert image.properties["windows"] == ()
    narrow = images.render(image, 0, (0.0, 2.0))[..., 0]
    assert set(np.unique(narrow)) <= {0, 128, 127, 255}
    assert np.array_equal(narrow > 127, values >= 0) or np.array_equal(narrow > 127, values > -1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("spread", [40, 9_000])
def test_a_file_without_a_window_is_shown_from_the_values_it_has(dtype: type, spread: int) -> None:
    limits = np.iinfo(dtype)
    middle = (int(limits.min) + int(limits.max)) // 2
    noise = np.random.default_rng(spread).normal(middle, spread, (211, 97))
    stored = noise.clip(limits.min, limits.max).astype(dtype)
    stored[0, :2] = limits.min, limits.max
    image = read(builders.dicom(stored, bits=8 * stored.itemsize))
    low, high = np.percentile(stored, (0.5, 99.5))
    expected = np.round(((stored - low) / (high - low)).clip(0, 1) * 255)
    assert np.array_equal(images.render(image)[..., 0], expected)
    window = images.content_window(image)
    assert window == pytest.approx(((low + high + 1) / 2, high - low + 1))
    assert np.abs(images.render(image, 0, window)[..., 0] - expected).max() <= 1
    assert [view.name for view in views_of(image)] == ["as shown"]


def test_padding_does_not_set_the_window() -> None:
    stored = np.random.default_rng(5).integers(1000, 1100, (64, 64)).astype(np.int16)
    stored[:20] = -2000
    image = read(builders.dicom(stored, bits=16, PixelPaddingValue=-2000))
    low, high = np.percentile(stored[20:], (0.5, 99.5))
    assert images.content_window(image) == pytest.approx(((low + high + 1) / 2, high - low + 1))
    owned = read(builders.dicom(stored, bits=16, WindowCenter=40, WindowWidth=400))
    assert images.content_window(owned) is None


def test_inverted_grey_is_shown_inverted() -> None:
    stored = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
    window = {"WindowCenter": 128, "WindowWidth": 256}
    normal = shown(stored, **window)
    inverted = shown(stored, PhotometricInterpretation="MONOCHROME1", **window)
    assert np.array_equal(inverted, 255 - normal)


def test_tables_for_modality_and_display_are_applied() -> None:
    stored = np.repeat(np.arange(4, dtype=np.uint8), 64).reshape(16, 16)
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.add_new(0x00283006, "OW", np.array([0, 65535, 20000, 40000], "<u2").tobytes())
    seen = shown(stored, VOILUTSequence=Sequence([table]))
    assert [int(seen.reshape(-1)[i * 64]) for i in range(4)] == [0, 255, 78, 156]


def test_palettes_of_eight_and_sixteen_bit_are_shown_in_colour() -> None:
    stored = np.repeat(np.arange(4, dtype=np.uint8), 64).reshape(16, 16)
    red = np.array([0, 65535, 0, 30000], "<u2").tobytes()
    green = np.array([0, 0, 65535, 30000], "<u2").tobytes()
    options: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, table in (("Red", red), ("Green", green), ("Blue", red)):
        options[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        options[f"{colour}PaletteColorLookupTableData"] = table
    data = builders.dicom(stored, **options)
    seen = images.render(read(data)).reshape(-1, 3)[::64]
    assert seen.tolist() == [[0, 0, 0], [255, 0, 255], [0, 255, 0], [117, 117, 117]]
    assert restored(data) == data


def test_luma_and_chroma_are_shown_as_colours() -> None:
    colour = builders.radiograph(32, 24, colour=True)
    ybr = pydicom.pixels.convert_color_space(colour, "RGB", "YBR_FULL")
    seen = images.render(read(builders.dicom(ybr, PhotometricInterpretation="YBR_FULL")))
    assert np.abs(seen.astype(int) - colour).max() <= 2
    lossy = read(builders.dicom(colour, syntax=JPEGBaseline8Bit))
    assert np.abs(images.render(lossy).astype(int) - colour).mean() < 6


def test_each_frame_of_an_enhanced_object_has_its_own_window() -> None:
    stack = np.full((2, 16, 16), 100, np.uint8)
    stack[:, 8:] = 200
    ds = theirs(builders.dicom(stack))
    groups = []
    for centre in (100, 200):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, 10
        group.FrameVOILUTSequence = Sequence([window])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    image = read(buffer.getvalue())
    assert [int(images.render(image, f)[0, 0, 0]) for f in (0, 1)] == [142, 0]
    assert restored(buffer.getvalue()) == buffer.getvalue()


def test_the_fill_is_visible_under_the_files_own_window() -> None:
    stored = builders.radiograph(64, 48, bits=12).astype(np.int16) - 1024
    data = builders.dicom(stored, bits=16, WindowCenter=-900, WindowWidth=200, modality="CT")
    masked = read(masked_of(data, regions=[Region(0, 0, 40, 40)]))
    fill = images.render(masked)[:40, :40, 0].astype(int)
    assert fill.max() - fill.min() > 60
    assert 40 < fill.min() < fill.max() < 220

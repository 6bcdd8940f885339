"""What an archive does to a masked file with its package is no change; all else is refused."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from engine.errors import SealBroken
from engine.formats import dicom_archive, images
from engine.settings import Settings
from tests import builders
from tests.conftest import WHY, Ward, text_png

LIMITS = images.Limits.of(Settings())
GREY = builders.radiograph(64, 48)
BOUNDS = (LIMITS.max_side_px, LIMITS.max_decoded_bytes)
PACKAGE = bytes(range(251)) * 5
needs_dcmtk = pytest.mark.skipif(shutil.which("dcmconv") is None, reason="dcmtk is not installed")


def left(data: bytes) -> bytes:
    """The masked file of a DICOM, as it leaves."""
    return images.dissect(images.decode("a.dcm", data, LIMITS), [], bytes(32)).masked


def by(place: Path, data: bytes, *steps: list[str]) -> bytes:
    """A file after programs of dcmtk, one after the other."""
    before, after = place / "before.dcm", place / "after.dcm"
    before.write_bytes(data)
    for program, *options in steps:
        if program == "dcmodify":
            subprocess.run([program, "-nb", *options, str(before)], check=True, capture_output=True)
            continue
        command = [program, *options, str(before), str(after)]
        subprocess.run(command, check=True, capture_output=True)
        after.replace(before)
    return before.read_bytes()


def changed(data: bytes, change: Callable[[Dataset], object]) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(data))
    change(ds)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def _palette() -> bytes:
    shades = np.arange(4, dtype="<u2") * 20_000
    options: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        options[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        options[f"{colour}PaletteColorLookupTableData"] = shades.tobytes()
    return builders.dicom(GREY % 4, **options)


FILES = {
    "grey": builders.dicom(GREY),
    "grey implicit": builders.dicom(GREY, syntax=ImplicitVRLittleEndian),
    "grey big endian": builders.dicom(builders.radiograph(64, 48, bits=12), bits=12,
                                      syntax=ExplicitVRBigEndian),
    "deflated": builders.dicom(GREY, syntax=DeflatedExplicitVRLittleEndian),
    "signed": builders.dicom(builders.radiograph(63, 47, bits=12).astype(np.int16) - 900, bits=16),
    "twelve": builders.dicom(builders.radiograph(63, 47, bits=12), bits=12,
                             SmallestImagePixelValue=3, LargestImagePixelValue=4000),
    "colour": builders.dicom(builders.radiograph(64, 48, colour=True)),
    "cine": builders.dicom(builders.cine(frames=3)[0]),
    "palette": _palette(),
    "RLE": builders.dicom(GREY, syntax=RLELossless),
    "JPEG-LS": builders.dicom(GREY, syntax=JPEGLSLossless),
    "JPEG 2000": builders.dicom(GREY, syntax=JPEG2000Lossless),
    "JPEG lossless": builders.dicom(GREY, syntax=JPEGLosslessSV1),
    "JPEG grey": builders.dicom(GREY, syntax=JPEGBaseline8Bit),
    "JPEG colour": builders.dicom(builders.radiograph(64, 48, colour=True),
                                  syntax=JPEGBaseline8Bit),
}  # fmt: skip
PATIENT = ["dcmodify", "-i", "(0010,0020)=LOCAL-4711", "-i", "(0010,0010)=Arch^Ive",
           "-i", "(0008,0050)=A1", "-i", "(0010,0021)=SITE", "-i", "(0008,1030)=Knie"]  # fmt: skip
ARCHIVES: dict[str, list[list[str]]] = {
    "patient": [PATIENT],
    "implicit": [["dcmconv", "+ti"]],
    "implicit and back": [["dcmconv", "+ti"], ["dcmconv", "+te"]],
    "big endian": [["dcmconv", "+tb"]],
    "deflated": [["dcmconv", "+td"]],
    "group lengths": [["dcmconv", "+g"]],
    "padded": [["dcmconv", "+p", "512", "64"]],
    "undefined lengths": [["dcmconv", "-e"]],
    "UTF-8": [["dcmconv", "+U8"]],
    "all of it": [PATIENT, ["dcmconv", "+ti", "+g"], ["dcmconv", "+tb"]],
}
CODERS: dict[str, list[list[str]]] = {
    "JPEG-LS": [["dcmcjpls"]],
    "JPEG-LS and back": [["dcmcjpls"], ["dcmdjpls"]],
    "RLE": [["dcmcrle"]],
    "RLE and back": [["dcmcrle"], ["dcmdrle"]],
    "JPEG lossless": [["dcmcjpeg", "+e1", "+tl"]],
    "JPEG lossless and back": [["dcmcjpeg", "+e1", "+tl"], ["dcmdjpeg"]],
    "JPEG lossless SV1": [["dcmcjpeg", "+tl"]],
}
DECODERS = {"RLE": "dcmdrle", "JPEG-LS": "dcmdjpls", "JPEG lossless": "dcmdjpeg",
            "JPEG grey": "dcmdjpeg", "JPEG colour": "dcmdjpeg"}  # fmt: skip


@needs_dcmtk
@pytest.mark.parametrize("name", FILES)
def test_what_archives_do_with_dcmtk_is_no_change(name: str, tmp_path: Path) -> None:
    masked = left(FILES[name])
    whole = images.carry(masked, PACKAGE)
    syntax = pydicom.dcmread(io.BytesIO(masked), stop_before_pixels=True).file_meta
    native = not syntax.TransferSyntaxUID.is_compressed or name == "deflated"
    steps = dict(ARCHIVES)
    if name in ("grey", "twelve", "colour"):
        steps |= CODERS
    if not native:  # dcmconv converts no compressed file to these
        steps = {n: s for n, s in steps.items() if n in ("patient", "group lengths", "padded",
                 "undefined lengths", "UTF-8")}  # fmt: skip
    if name in DECODERS:
        steps["decompressed"] = [[DECODERS[name]]]
    lost = []
    for archive, programs in steps.items():
        back = by(tmp_path, whole, *programs)
        taken = images.carried(back)
        if taken is None or taken[1] != PACKAGE:
            lost.append(f"{archive}: package")
        elif not dicom_archive.unchanged(masked, taken[0], *BOUNDS):
            lost.append(f"{archive}: file")
    assert lost == []


def _transcoded(syntax: str) -> Callable[[Dataset], object]:
    return lambda ds: ds.compress(syntax, generate_instance_uid=False)


def _moved(ds: Dataset) -> None:
    """The block under another number, as where another private creator was there first."""
    value = ds[0x7FDF1000].value
    del ds[0x7FDF0010], ds[0x7FDF1000]
    ds.add_new(0x7FDF0010, "LO", "ARCHIVE 1.0")
    ds.add_new(0x7FDF1001, "LO", "received")
    ds.add_new(0x7FDF0011, "LO", "MEDSEC SEALED 1")
    ds.add_new(0x7FDF1100, "UN", value)


def _added(ds: Dataset) -> None:
    original = Dataset()
    original.ModifyingSystem, original.ReasonForTheAttributeModification = "PACS", "COERCE"
    before = Dataset()
    before.PatientID = "X"
    original.ModifiedAttributesSequence = Sequence([before])
    ds.OriginalAttributesSequence = Sequence([original])
    ds.RetrieveAETitle, ds.InstanceAvailability = "PACS", "ONLINE"
    ds.add_new(0x00430010, "LO", "ARCHIVE 1.0")
    ds.add_new(0x00431001, "LO", "received")
    ds.add_new(0xFFFCFFFC, "OB", bytes(64))
    ds.file_meta.SourceApplicationEntityTitle = "PACS"
    ds.file_meta.ImplementationVersionName = "ARCHIVE_7"
    ds.RequestAttributesSequence = Sequence([before])
    del ds.PatientSex


MORE: dict[str, Callable[[Dataset], object]] = {
    "JPEG 2000": _transcoded(JPEG2000Lossless), "RLE": _transcoded(RLELossless),
    "block moved": _moved, "attributes added": _added,
}  # fmt: skip


@pytest.mark.parametrize("archive", MORE)
@pytest.mark.parametrize("name", ["grey", "twelve", "colour", "cine"])
def test_what_other_archives_do_is_no_change(name: str, archive: str) -> None:
    masked = left(FILES[name])
    back = changed(images.carry(masked, PACKAGE), MORE[archive])
    taken = images.carried(back)
    assert taken is not None
    assert taken[1] == PACKAGE
    assert dicom_archive.unchanged(masked, taken[0], *BOUNDS)


def _pixel(ds: Dataset) -> None:
    body = bytearray(ds.PixelData)
    body[-20] ^= 1
    ds.PixelData = bytes(body)


def _set(**values: object) -> Callable[[Dataset], object]:
    return lambda ds: [setattr(ds, k, v) for k, v in values.items()]


FORBIDDEN: dict[str, Callable[[Dataset], object]] = {
    "one bit of a pixel": _pixel,
    "instance": _set(SOPInstanceUID="1.2.3.4"),
    "series": _set(SeriesInstanceUID="1.2.3.4"),
    "study": _set(StudyInstanceUID="1.2.3.4"),
    "class": _set(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
    "modality": _set(Modality="CT"),
    "side": _set(Laterality="L"),
    "spacing": _set(PixelSpacing=["1", "1"]),
    "window": _set(WindowCenter="7", WindowWidth="3"),
    "inverted": _set(PhotometricInterpretation="MONOCHROME1"),
    "turned": _set(Rows=64, Columns=48),
    "number": _set(InstanceNumber="99"),
    "no longer said to be masked": _set(PatientIdentityRemoved="NO"),
    "said to be lossless": lambda ds: ds.__delitem__("DeidentificationMethodCodeSequence"),
    "inside a sequence": lambda ds: setattr(
        ds.DeidentificationMethodCodeSequence[0], "CodeValue", "113102"
    ),
    "sign": _set(PixelRepresentation=1),
    "missing": lambda ds: ds.__delitem__("InstanceNumber"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_no_archive_may_do_is_another_file(what: str) -> None:
    masked = left(FILES["grey"])
    whole = images.carry(masked, PACKAGE)
    same = changed(whole, lambda ds: None)
    assert dicom_archive.unchanged(masked, same, *BOUNDS)
    assert not dicom_archive.unchanged(masked, changed(whole, FORBIDDEN[what]), *BOUNDS)


def test_a_damaged_file_is_another_file() -> None:
    masked = left(FILES["grey"])
    assert not dicom_archive.unchanged(masked, masked[:-100], *BOUNDS)
    assert not dicom_archive.unchanged(masked, FILES["colour"], *BOUNDS)
    assert not images.came_back(images.stored_plain(masked), builders.png(GREY), LIMITS)
    assert not images.came_back(images.stored_plain(masked), b"", LIMITS)
    assert images.came_back(images.for_storage(masked), masked, LIMITS)


def test_the_original_comes_back_from_what_an_archive_wrote_anew(ward: Ward) -> None:
    _, found = text_png()
    data = builders.dicom(builders.labelled()[0])
    image_id = ward.seal(data, "Erika.dcm", [found])
    doctor, engine = ward.team.doctor, ward.engine
    masked = engine.images.masked_file(doctor, image_id).data
    package = engine.packages.export(doctor, image_id).data
    whole = images.carry(masked, package)

    def archived(ds: Dataset) -> None:
        _moved(ds)
        _added(ds)
        ds.PatientID, ds.PatientName = "LOCAL", "Arch^Ive"
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)

    taken = images.carried(changed(whole, archived))
    assert taken is not None
    file, proof = engine.packages.restore(doctor, *taken, WHY)
    assert (file.data, file.name, proof) == (data, "Erika.dcm", "bytes")
    beside = changed(masked, _set(PatientID="LOCAL"))  # the package as a file of its own
    assert engine.packages.restore(doctor, beside, package, WHY)[0].data == data
    for what in ("one bit of a pixel", "instance", "modality"):
        torn = images.carried(changed(whole, FORBIDDEN[what]))
        assert torn is not None
        with pytest.raises(SealBroken, match="The masked file was changed"):
            engine.packages.restore(doctor, *torn, WHY)


def test_an_older_version_and_another_image_are_refused(ward: Ward) -> None:
    _, found = text_png()
    first, second = (
        ward.seal(builders.dicom(builders.labelled(seed=n)[0], instance=n), f"{n}.dcm", [found])
        for n in (1, 2)
    )
    doctor, engine = ward.team.doctor, ward.engine
    other = engine.images.masked_file(doctor, second).data
    package = engine.packages.export(doctor, first).data
    with pytest.raises(SealBroken):
        engine.packages.restore(doctor, other, package, WHY)

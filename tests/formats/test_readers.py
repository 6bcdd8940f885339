"""Masked files before other people's programs: a validator, and readers of other makers.

``dciodvfy`` (Debian's dicom3tools) checks a file against the standard's definitions; dcmtk, GDCM
and ImageMagick read it with code of their own. Whatever of these is not installed is skipped by
name.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGBaseline8Bit

from engine.errors import InputError
from engine.formats import images
from engine.records import Image, Region
from engine.settings import Settings
from tests import builders

LIMITS = images.Limits.of(Settings())
KEY = b"secret of one patient, 32 bytes."
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
#: One of each kind here; the slow test takes all of pydicom's and all of ours.
FEW = (
    "CT_small.dcm", "MR_small_bigendian.dcm", "examples_overlay.dcm", "JPEG-lossy.dcm",
    "SC_rgb_rle.dcm", "JPEG2000.dcm", "examples_ybr_color.dcm",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """pydicom, which tests read with, warns about its own sample files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def masked(data: bytes) -> tuple[Image, bytes] | None:
    """An image and its masked file; None where it is not taken at all."""
    try:
        image = images.decode("any.dcm", data, LIMITS)
    except InputError:
        return None
    w, h = image.width, image.height
    box = Region(w // 8, h // 8, w // 2 + 1, h // 3 + 1, 0, image.frames).aligned(image.grid)
    region = box.clipped(w, h, image.frames)
    assert region is not None
    return image, images.dissect(image, [region], KEY).masked


def few() -> dict[str, bytes]:
    grey = builders.labelled(width=161, height=123)[0]
    files = {name: (SAMPLES / name).read_bytes() for name in FEW}
    for syntax in (*builders.UNCOMPRESSED, *builders.LOSSLESS, JPEGBaseline8Bit):
        files[syntax.keyword] = builders.dicom(grey, syntax=syntax)
    files["cine"] = builders.dicom(builders.cine()[0])
    return files


def all_there_are() -> dict[str, bytes]:
    ours = {n: d for n, d in builders.every_format().items() if n.startswith("DICOM")}
    return ours | {p.name: p.read_bytes() for p in sorted(SAMPLES.glob("*.dcm"))}


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, errors="replace", timeout=60, check=False
    )


def errors_of(validator: str, data: bytes, folder: Path) -> set[str] | None:
    """What the validator calls an error; None where it fails itself (at native 32-bit cells)."""
    path = folder / "one.dcm"
    path.write_bytes(data)
    done = run(validator, str(path))
    if done.returncode < 0:
        return None
    return {line for line in done.stderr.splitlines() if line.startswith("Error")}


def check_validity(files: dict[str, bytes], folder: Path) -> int:
    validator = program("dciodvfy", "dicom3tools")
    compared = 0
    for name, data in files.items():
        made = masked(data)
        if made is None:
            continue
        before, after = (errors_of(validator, d, folder) for d in (data, made[1]))
        if after is None:
            assert pydicom.dcmread(io.BytesIO(made[1])).BitsAllocated == 32, name
            continue
        new = after - (before or set())
        assert not new, f"{name}: {sorted(new)}"
        compared += 1
    return compared


def test_a_validator_finds_no_error_that_the_original_did_not_have(tmp_path: Path) -> None:
    assert check_validity(few(), tmp_path) > 15


@pytest.mark.slow
def test_a_validator_finds_no_new_error_in_any_file_there_is(tmp_path: Path) -> None:
    assert check_validity(all_there_are(), tmp_path) > 90


def test_the_validator_does_find_errors(tmp_path: Path) -> None:
    validator = program("dciodvfy", "dicom3tools")
    ds = pydicom.dcmread(SAMPLES / "CT_small.dcm")
    good = errors_of(validator, (SAMPLES / "CT_small.dcm").read_bytes(), tmp_path)
    del ds.RescaleSlope
    buffer = io.BytesIO()
    ds.save_as(buffer)
    bad = errors_of(validator, buffer.getvalue(), tmp_path)
    assert good is not None
    assert bad is not None
    assert bad - good


def _pnm(data: bytes) -> np.ndarray:
    """Samples of a binary PGM or PPM file."""
    kind, size, top, body = data.split(b"\n", 3)
    while size.startswith(b"#"):
        size, top, body = top, *body.split(b"\n", 1)
    width, height = map(int, size.split())
    word = np.dtype(np.uint8 if int(top) < 256 else ">u2")
    shape = (height, width, 3) if kind == b"P6" else (height, width)
    return np.frombuffer(body, word).reshape(shape)


def check_dcmtk(files: dict[str, bytes], folder: Path) -> int:
    dump, picture = program("dcmdump", "dcmtk"), program("dcmj2pnm", "dcmtk")
    path, out = folder / "one.dcm", folder / "out.pnm"
    seen = 0
    for name, data in files.items():
        made = masked(data)
        if made is None:
            continue
        path.write_bytes(made[1])
        done = run(dump, "-q", str(path))
        assert done.returncode == 0, f"{name}: {done.stderr}"
        syntax = pydicom.dcmread(io.BytesIO(made[1])).file_meta.TransferSyntaxUID
        if "2000" in syntax.name or "JPEG-LS" in syntax.name:
            continue
        done = run(picture, "+F", "1", "+op", str(path), str(out))
        if done.returncode:  # what it cannot show before sealing, it need not show after
            path.write_bytes(data)
            assert run(picture, "+F", "1", "+op", str(path), str(out)).returncode, name
            continue
        shown = _pnm(out.read_bytes())
        assert shown.shape[:2] == (made[0].height, made[0].width), name
        seen += 1
    return seen


def test_dcmtk_reads_masked_files(tmp_path: Path) -> None:
    assert check_dcmtk(few(), tmp_path) > 8


@pytest.mark.slow
def test_dcmtk_reads_every_masked_file(tmp_path: Path) -> None:
    assert check_dcmtk(all_there_are(), tmp_path) > 60


def check_gdcm(files: dict[str, bytes], folder: Path) -> int:
    convert = program("gdcmconv", "libgdcm-tools")
    path, out = folder / "one.dcm", folder / "raw.dcm"
    same = 0
    for name, data in files.items():
        made = masked(data)
        if made is None:
            continue
        path.write_bytes(made[1])
        out.unlink(missing_ok=True)
        done = run(convert, "--raw", str(path), str(out))
        if done.returncode or not out.exists():
            path.write_bytes(data)
            assert run(convert, "--raw", str(path), str(out)).returncode or not out.exists(), name
            continue
        theirs = pydicom.dcmread(out).PixelData
        ours = images.decode("m.dcm", made[1], LIMITS)
        # GDCM packs single bits, and swaps the halves of big-endian 32-bit cells
        grey = ours.properties["colour"].startswith("MONO") and 1 < ours.properties["bits"] <= 16
        if grey and not ours.properties["lossy"]:
            plain = ours.pixels.tobytes()
            assert theirs[: len(plain)] == plain, name
            same += 1
    return same


def test_gdcm_reads_the_same_stored_values_from_masked_files(tmp_path: Path) -> None:
    assert check_gdcm(few(), tmp_path) > 6


@pytest.mark.slow
def test_gdcm_reads_the_same_stored_values_from_every_masked_file(tmp_path: Path) -> None:
    assert check_gdcm(all_there_are(), tmp_path) > 40


def test_imagemagick_reads_masked_files_of_every_format(tmp_path: Path) -> None:
    identify, convert = program("identify", "imagemagick"), program("convert", "imagemagick")
    suffixes = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif", "BMP": "bmp", "WebP": "webp"}
    compared = 0
    for name, data in builders.every_format().items():
        made = masked(data) if name.split()[0] in suffixes else None
        if made is None:
            continue
        path = tmp_path / f"one.{suffixes[name.split()[0]]}"
        path.write_bytes(made[1])
        done = run(identify, "-format", "%w %h ", str(path))
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert done.stdout.split()[:2] == [str(made[0].width), str(made[0].height)], name
        if name.endswith(("grey", "grey 8")) and not name.startswith("JPEG"):
            raw = tmp_path / "one.gray"
            assert run(convert, str(path), "-depth", "8", f"gray:{raw}").returncode == 0, name
            assert raw.read_bytes() == images.decode("m", made[1], LIMITS).pixels.tobytes(), name
            compared += 1
    assert compared >= 3

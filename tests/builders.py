"""Test images made in code: no file of a real patient is needed to test anything.

Everything is deterministic: the same arguments give the same bytes. Names are invented.
DICOMs are built by patient, study, series and instance number, so that a test can say
"the same patient, another series" and mean it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import cv2
import imagecodecs
import numpy as np
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from engine.records import Region

NAMES = ("Musterfrau^Erika", "Doe^Jane^Q", "Nowak^Jan", "Yılmaz^Ayşe", "Larsen^Odin")


def radiograph(
    width: int = 320, height: int = 240, *, bits: int = 8, seed: int = 0, colour: bool = False
) -> np.ndarray:
    """A soft, noisy, chest-like picture, shape (H, W) or (H, W, 3), uint8 or uint16."""
    return _radiograph(width, height, bits, seed, colour).copy()


@lru_cache(64)  # most tests begin with the same few
def _radiograph(width: int, height: int, bits: int, seed: int, colour: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = x / max(1, width - 1), y / max(1, height - 1)
    body = np.exp(-(((u - 0.5) / 0.42) ** 4) - ((v - 0.55) / 0.55) ** 4)
    lungs = sum(np.exp(-(((u - c) / 0.13) ** 2) - ((v - 0.5) / 0.26) ** 2) for c in (0.31, 0.69))
    ribs = 0.05 * np.sin(v * 46 + 6 * (u - 0.5) ** 2) * lungs
    grain = rng.normal(0.0, 0.012, (height, width)).astype(np.float32)
    grey = np.clip(0.08 + 0.72 * body - 0.42 * lungs + ribs + grain, 0, 0.92)
    top = (1 << bits) - 1
    dtype = np.uint8 if bits <= 8 else np.uint16
    if not colour:
        return np.round(grey * top).astype(dtype)
    tint = np.stack([grey, grey * 0.82, grey * 0.7 + 0.05 * u], axis=-1)
    return np.round(np.clip(tint, 0, 1) * top).astype(dtype)


def write_text(
    pixels: np.ndarray, text: str, at: tuple[int, int] = (12, 12), *, scale: float = 0.6
) -> Region:
    """Burn white text into one frame, in place, and say where it is.

    Args:
        pixels: Shape (H, W) or (H, W, C).
        at: Left and top pixel of the text.
    """
    (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    stencil = np.zeros(pixels.shape[:2], np.uint8)
    cv2.putText(
        stencil, text, (at[0], at[1] + h), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_8
    )
    top = np.iinfo(pixels.dtype).max if pixels.dtype == np.uint8 else int(pixels.max())
    pixels[stencil > 0] = top
    region = Region(at[0], at[1], at[0] + w + 2, at[1] + h + base + 1)
    clipped = region.clipped(pixels.shape[1], pixels.shape[0])
    if clipped is None:
        raise ValueError("the text lies outside the picture")
    return clipped


def labelled(text: str = "MUSTERFRAU ERIKA", **kind: Any) -> tuple[np.ndarray, Region]:
    """A radiograph with burned-in text, and the text's region."""
    pixels = radiograph(**kind)
    return pixels, write_text(pixels, text)


def differing_inside(pixels: np.ndarray, regions: Sequence[Region], seed: int = 99) -> np.ndarray:
    """A copy with other noise under each box and not one pixel changed elsewhere.

    Args:
        pixels: Shape (H, W[, C]) or (F, H, W[, C]).
    """
    rng = np.random.default_rng(seed)
    low, high = int(pixels.min()), int(pixels.max())
    single = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))
    other = (pixels[None] if single else pixels).copy()
    for region in regions:
        part = other[region.slices]
        other[region.slices] = rng.integers(low, high, part.shape, endpoint=True, dtype=part.dtype)
    return other[0] if single else other


def png(pixels: np.ndarray, **options: Any) -> bytes:
    """PNG as OpenCV writes it: grey, RGB or RGBA, 8 or 16 bit."""
    order = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    code = order[2 if pixels.ndim == 2 else pixels.shape[2]]
    flags = [n for pair in options.items() for n in (getattr(cv2, pair[0]), pair[1])]
    done, data = cv2.imencode(".png", pixels if code is None else cv2.cvtColor(pixels, code), flags)
    if not done:
        raise ValueError("OpenCV did not write this PNG")
    return data.tobytes()


def pillow(pixels: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    """Any format as Pillow writes it."""
    buffer = io.BytesIO()
    picture = Pillow.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(
    pixels: np.ndarray,
    *,
    quality: int = 88,
    sampling: str = "4:2:0",
    **options: Any,
) -> bytes:
    """JPEG as Pillow writes it; options are Pillow's (progressive, optimize, exif, ...)."""
    if pixels.ndim == 3:
        options["subsampling"] = sampling
    return pillow(pixels, "JPEG", quality=quality, **options)


def _few_colours(pixels: np.ndarray, count: int) -> bytes:
    """A PNG of a palette smaller than a byte."""
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).quantize(count).save(buffer, "PNG", bits=4)
    return buffer.getvalue()


def person(patient: int = 1) -> dict[str, Any]:
    """Invented identity of a patient by number."""
    return {
        "PatientName": NAMES[patient % len(NAMES)],
        "PatientID": f"H-{patient:06d}",
        "PatientBirthDate": f"19{40 + patient % 50:02d}0412",
        "PatientSex": "FM"[patient % 2],
        "PatientAge": f"{30 + patient % 50:03d}Y",
        "PatientAddress": f"{patient} Example Lane, Sampletown",
    }


def uid(*numbers: int) -> str:
    """A stable UID from patient, study, series and instance numbers."""
    return "1.2.826.0.1.3680043.8.498." + ".".join(str(n) for n in numbers)


def _sof3(frame: np.ndarray) -> bytes:
    """JPEG Lossless, selection value 1."""
    colour = {"colorspace": "rgb", "outcolorspace": "rgb"} if frame.ndim == 3 else {}
    bits = 8 * frame.dtype.itemsize
    return bytes(
        imagecodecs.jpeg8_encode(
            _unsigned(frame), lossless=True, predictor=1, bitspersample=bits, **colour
        )
    )


def _unsigned(frame: np.ndarray) -> np.ndarray:
    return frame.view(f"u{frame.dtype.itemsize}")


def _rle(frame: np.ndarray) -> bytes:
    return get_encoder(RLELossless).encode(
        frame,
        rows=frame.shape[0],
        columns=frame.shape[1],
        samples_per_pixel=frame.shape[2] if frame.ndim == 3 else 1,
        photometric_interpretation="RGB" if frame.ndim == 3 else "MONOCHROME2",
        pixel_representation=int(frame.dtype.kind == "i"),
        bits_allocated=8 * frame.dtype.itemsize,
        bits_stored=8 * frame.dtype.itemsize,
        number_of_frames=1,
        planar_configuration=0,
    )


LOSSLESS = {
    RLELossless: _rle,
    JPEGLosslessSV1: _sof3,
    JPEGLSLossless: lambda f: imagecodecs.jpegls_encode(_unsigned(f), out=2 * f.nbytes + 1024),
    JPEG2000Lossless: lambda f: imagecodecs.jpeg2k_encode(
        f, level=0, codecformat="j2k", reversible=True, mct=False
    ),
    HTJ2KLossless: lambda f: imagecodecs.htj2k_encode(f, reversible=True),
}


def dicom(
    pixels: np.ndarray,
    *,
    patient: int = 1,
    study: int = 1,
    series: int = 1,
    instance: int = 1,
    syntax: str = ExplicitVRLittleEndian,
    bits: int | None = None,
    fragments: Sequence[bytes] | None = None,
    modality: str = "DX",
    **attributes: Any,
) -> bytes:
    """A DICOM file.

    Args:
        pixels: Shape (H, W), (H, W, 3), (F, H, W) or (F, H, W, 3); 8 or 16 bit integers.
            A last axis of 3 means colour.
        syntax: Transfer syntax UID; compressed ones are encoded here.
        bits: BitsStored, by default all.
        fragments: Ready-made compressed frames instead of encoding ``pixels``.
        attributes: More attributes by keyword; a value of None removes one.
    """
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    stack = pixels if pixels.ndim == (4 if colour else 3) else pixels[None]
    frames, height, width = stack.shape[:3]
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    cine = "1.2.840.10008.5.1.4.1.1.3.1" if frames > 1 else "1.2.840.10008.5.1.4.1.1.7"
    ds.SOPClassUID = cine
    ds.SOPInstanceUID = uid(patient, study, series, instance)
    ds.StudyInstanceUID = uid(patient, study)
    ds.SeriesInstanceUID = uid(patient, study, series)
    ds.FrameOfReferenceUID = uid(patient, study, 9000 + series)
    ds.StudyDate = "20240229"
    ds.StudyTime = "101112"
    ds.Modality = modality
    ds.ConversionType = "DI"
    ds.InstitutionName = "Sampletown General"
    ds.ReferringPhysicianName = "Referrer^Rita"
    ds.AccessionNumber = f"A{patient:04d}{study:03d}"
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = str(study), series, instance
    for keyword, value in person(patient).items():
        setattr(ds, keyword, value)
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    if frames > 1:
        ds.NumberOfFrames = frames
        ds.FrameTime = "40.0"
        ds.FrameIncrementPointer = 0x00181063
    ds.Rows, ds.Columns = height, width
    ds.BitsAllocated = stack.dtype.itemsize * 8
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stack.dtype.kind == "i")
    ds.BurnedInAnnotation = "YES"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = uid(1)
    ds.file_meta = meta
    word = "OB" if stack.dtype.itemsize == 1 else "OW"
    if fragments is not None or syntax in LOSSLESS or syntax == JPEGBaseline8Bit:
        if fragments is None:
            coder = LOSSLESS.get(syntax, lambda f: jpeg(f, quality=90))
            fragments = [bytes(coder(np.ascontiguousarray(f))) for f in stack]
        if syntax == JPEGBaseline8Bit and colour:
            ds.PhotometricInterpretation = "YBR_FULL_422"
        ds.add_new(0x7FE00010, "OB", encapsulate(list(fragments)))
        ds["PixelData"].is_undefined_length = True
    else:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        body = stack.astype(stack.dtype.newbyteorder(order)).tobytes()
        ds.add_new(0x7FE00010, word, body + b"\0" * (len(body) % 2))
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    buffer = io.BytesIO()
    ds.save_as(
        buffer,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return buffer.getvalue()


UNCOMPRESSED = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def cine(
    frames: int = 6, width: int = 160, height: int = 120, *, colour: bool = False, seed: int = 3
) -> tuple[np.ndarray, Region, Region]:
    """A moving picture with one text on every frame and one on the third frame only.

    Returns:
        Pixels (F, H, W[, 3]) uint8, the static region over all frames, the passing region.
    """
    stack = np.stack(
        [radiograph(width, height, seed=seed + i, colour=colour) for i in range(frames)]
    )
    for frame in stack:
        box = write_text(frame, "DOE JANE", (6, 4), scale=0.4)
    static = Region(*box.xyxy, 0, frames)
    once = write_text(stack[2], "ID 4711", (70, 90), scale=0.4)
    return stack, static, Region(*once.xyxy, 2, 3)


@cache
def every_format() -> dict[str, bytes]:
    """One small file of each kind that the engine takes, by a telling name."""
    grey, _ = labelled(width=161, height=123)
    colour, _ = labelled(width=161, height=123, colour=True)
    deep, twelve = radiograph(161, 123, bits=16), radiograph(161, 123, bits=12)
    deep_colour = radiograph(61, 43, bits=16, colour=True)
    signed = twelve.astype(np.int16) - 1024
    moving, moving_colour = cine()[0], cine(colour=True)[0]
    pages = [Pillow.fromarray(frame) for frame in moving]
    files = {
        "PNG grey 8": png(grey),
        "PNG grey 16": png(deep),
        "PNG grey 1": pillow(grey, "PNG", "1"),
        "PNG grey+alpha": pillow(grey, "PNG", "LA"),
        "PNG RGB": png(colour),
        "PNG RGB 16": png(deep_colour),
        "PNG RGBA": pillow(colour, "PNG", "RGBA"),
        "PNG palette": pillow(colour, "PNG", "P"),
        "PNG palette 16 colours": _few_colours(colour, 16),
        "JPEG grey": jpeg(grey),
        "JPEG 4:4:4": jpeg(colour, sampling="4:4:4"),
        "JPEG 4:2:2": jpeg(colour, sampling="4:2:2"),
        "JPEG 4:2:0": jpeg(colour),
        "JPEG optimised": jpeg(colour, optimize=True),
        "JPEG progressive": jpeg(colour, progressive=True),
        "JPEG progressive grey": jpeg(grey, progressive=True),
        "JPEG restart markers": jpeg(colour, restart_marker_blocks=5),
        "JPEG RGB": jpeg(colour, sampling="4:4:4", keep_rgb=True),
        "TIFF grey": pillow(grey, "TIFF"),
        "TIFF 16": pillow(deep, "TIFF"),
        "TIFF RGB LZW": pillow(colour, "TIFF", compression="tiff_lzw"),
        "TIFF pages": pillow(moving[0], "TIFF", save_all=True, append_images=pages[1:]),
        "TIFF bilevel": pillow(grey, "TIFF", "1"),
        "TIFF palette": pillow(colour, "TIFF", "P"),
        "TIFF JPEG": pillow(colour, "TIFF", compression="jpeg"),
        "BMP grey": pillow(grey, "BMP"),
        "BMP RGB": pillow(colour, "BMP"),
        "WebP lossy": pillow(colour, "WEBP"),
        "WebP lossless": pillow(colour, "WEBP", lossless=True),
    }
    for syntax in (*UNCOMPRESSED, *LOSSLESS):
        files[f"DICOM {syntax.keyword} grey 8"] = dicom(grey, syntax=syntax)
        files[f"DICOM {syntax.keyword} 12 bit"] = dicom(twelve, syntax=syntax, bits=12)
        files[f"DICOM {syntax.keyword} signed"] = dicom(signed, syntax=syntax)
        files[f"DICOM {syntax.keyword} RGB"] = dicom(colour, syntax=syntax)
        files[f"DICOM {syntax.keyword} cine"] = dicom(moving, syntax=syntax)
    for name, pixels in (("grey 8", grey), ("RGB", colour), ("cine", moving_colour)):
        files[f"DICOM JPEGBaseline8Bit {name}"] = dicom(pixels, syntax=JPEGBaseline8Bit)
    return files

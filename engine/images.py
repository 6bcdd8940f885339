"""Images as files: what they are, how they decode, how they come apart and together again.

The door of the image part: formats are found from content, limits are checked from headers
before anything is decoded, and every refusal is a named error with a sentence that helps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import dicom, dicom_file, png, raster
from engine.errors import CorruptImage, ImageTooLarge, SealBroken, UnsupportedFormat
from engine.patches import pack, unpack
from engine.pictures import encode_jpeg, encode_png, enhance, grid_picture, thumbnail
from engine.records import Dissection, Format, Image, Region
from engine.settings import Settings

__all__ = [
    "Limits",
    "alignment",
    "assemble",
    "decode",
    "dissect",
    "encode_jpeg",
    "encode_png",
    "enhance",
    "grid_picture",
    "patient_hints",
    "pixel_digest",
    "render",
    "sniff",
    "thumbnail",
]


@dataclass(frozen=True)
class Limits:
    """What is taken at most.

    Args:
        picture_bytes, dicom_bytes: Size of a file.
        max_side_px: Longest side.
        max_decoded_bytes: All frames together, decoded.
    """

    picture_bytes: int
    dicom_bytes: int
    max_side_px: int
    max_decoded_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            settings.picture_limit_mb * 1_000_000,
            settings.dicom_limit_mb * 1_000_000,
            settings.max_side_px,
            settings.max_decoded_mb << 20,
        )


def sniff(data: bytes) -> Format:
    """The format of a file by its content; its name is not asked.

    Raises:
        CorruptImage: Empty.
        UnsupportedFormat: Not among those that MedSec takes.
    """
    if not data:
        raise CorruptImage("This file is empty.")
    if data[:3] == b"\xff\xd8\xff":
        return Format.JPEG
    if data[:8] == png.SIGNATURE:
        return Format.PNG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Format.WEBP
    if data[128:132] == b"DICM":
        return Format.DICOM
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return Format.TIFF
    if data[:2] == b"BM" and len(data) >= 26:
        return Format.BMP
    if dicom_file.looks_like(data):
        return Format.DICOM
    raise UnsupportedFormat(
        "This is not an image that MedSec takes: send JPEG, PNG, DICOM, TIFF, BMP or WebP."
    )


def decode(name: str, data: bytes, limits: Limits) -> Image:
    """Read a file into stored values.

    Args:
        name: As it came; its extension proves nothing.

    Raises:
        ImageTooLarge: Over a limit, found before decoding.
        CorruptImage: Cut off, damaged or contradictory.
        UnsupportedFormat: Real, but not taken.
    """
    kind = sniff(data)
    limit = limits.dicom_bytes if kind is Format.DICOM else limits.picture_bytes
    if len(data) > limit:
        raise ImageTooLarge(
            f"This file has {len(data) / 1e6:.1f} MB: at most {limit / 1e6:.0f} MB are taken.",
            size_bytes=len(data),
            limit_bytes=limit,
        )
    name = name[-255:]
    if kind is Format.DICOM:
        return dicom.decode(name, data, limits.max_side_px, limits.max_decoded_bytes)
    return raster.decode(name, kind, data, limits.max_side_px, limits.max_decoded_bytes)


def patient_hints(image: Image) -> dict[str, Any]:
    """Who the file says it shows, for filling in a record; empty but for DICOM. Sensitive."""
    return dicom.patient_hints(image.data) if image.format is Format.DICOM else {}


def alignment(image: Image) -> tuple[int, int]:
    """Grid ``(width, height)`` in px to which regions must be rounded outward."""
    return image.grid


def render(image: Image, frame: int = 0, window: tuple[float, float] | None = None) -> np.ndarray:
    """One frame as a person would see it, in the geometry of the stored pixels.

    Args:
        window: Centre and width in units of the modality; DICOM only.

    Returns:
        Shape (height, width, 3), uint8, RGB.

    Raises:
        ValueError: No such frame.
    """
    if not 0 <= frame < image.frames:
        raise ValueError(f"frame {frame} of {image.frames}")
    if image.format is Format.DICOM:
        return dicom.render(image, frame, window)
    return raster.render(image, frame)


def pixel_digest(pixels: np.ndarray) -> bytes:
    """SHA-256 over type, shape and stored values, independent of the machine's byte order."""
    dtype = pixels.dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{dtype.str}{pixels.shape}".encode())
    for frame in pixels:
        digest.update(np.ascontiguousarray(frame, dtype=dtype).data)
    return digest.digest()


def dissect(image: Image, regions: Sequence[Region], identity_key: bytes) -> Dissection:
    """Take an image apart; the way back is tried before anything is returned.

    Args:
        regions: On the image's grid and inside it.
        identity_key: Secret of the patient, from which pseudonyms and UIDs are made.

    Raises:
        ValueError: A region is not on the grid or lies outside.
    """
    for region in regions:
        if region.clipped(image.width, image.height, image.frames) != region:
            raise ValueError(f"region {region.xyxy} lies outside the image")
        clipped = region.aligned(image.grid).clipped(image.width, image.height, image.frames)
        if clipped != region:
            raise ValueError(f"region {region.xyxy} is not aligned to {image.grid}")
    if image.format is Format.DICOM:
        made = dicom.dissect(image, regions, identity_key)
    else:
        made = raster.dissect(image, regions)
    return _proven(image, regions, made)


def _proven(image: Image, regions: Sequence[Region], made: Dissection) -> Dissection:
    """The same, or with the original sealed whole where the way back is not exact."""
    everything = dict(enumerate(made.patches))
    try:
        back = assemble(made.masked, regions, everything, made.remainder)
        if back == image.data:
            return made
        exact = image.format in (Format.PNG, Format.JPEG) and raster.same_pixels(back, image)
    except (SealBroken, CorruptImage, UnsupportedFormat, ValueError):
        exact = False
    if exact:
        return made
    return Dissection(made.masked, made.patches, pack({"whole": image.data}))


def assemble(
    masked: bytes,
    regions: Sequence[Region],
    patches: Mapping[int, bytes],
    remainder: bytes | None,
) -> bytes:
    """Put patches back into a masked file.

    Args:
        patches: By index of their region; any of them may be missing.
        remainder: None for a partial picture, which stays masked elsewhere.

    Returns:
        With everything, the original file; else a file of the same format.

    Raises:
        SealBroken: A part does not belong to this image.
    """
    parts = None if remainder is None else unpack(remainder)
    if parts is not None and "whole" in parts:
        return parts["whole"]
    if parts is not None and len(patches) < len(regions):
        raise ValueError("a remainder without all patches gives no picture")
    try:
        if sniff(masked) is Format.DICOM:
            return dicom.assemble(masked, regions, patches, parts)
        return raster.assemble(masked, regions, patches, parts)
    except (KeyError, IndexError) as err:
        raise SealBroken("A sealed part does not fit the image it is put back into.") from err

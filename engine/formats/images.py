"""Images as files: what they are, how they decode, how they come apart and together again.

The door of the image part: formats are found from content, limits are checked from headers
before anything is decoded, and every refusal is a named error with a sentence that helps.
What strangers sent, and what was made of it, is read in a
:class:`~engine.formats.sandbox.Sandbox` only. Each call ships the whole file, so a journey makes
few: one to read its header, one to read the file, one to take it apart, one to prove the way back,
one to restore it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from engine.errors import (
    CorruptImage,
    ImageTooLarge,
    InputError,
    NotFound,
    SealBroken,
    UnsupportedFormat,
)
from engine.formats import (
    dicom,
    dicom_archive,
    dicom_attributes,
    dicom_carrier,
    dicom_directory,
    dicom_document,
    dicom_file,
    dicom_head,
    dicom_header,
    dicom_native,
    dicom_recipient,
    dicom_renamed,
    dicom_study,
    dicom_web,
    raster,
    raster_view,
)
from engine.formats.confine import Confinement
from engine.formats.dicom_pixels import JPEG_DCT
from engine.formats.dicom_profile import Options
from engine.formats.kinds import sniff
from engine.formats.limits import Extent, measure
from engine.formats.needs import Need
from engine.formats.notes import DOCUMENTS, notes_of
from engine.formats.patches import pack, unpack
from engine.formats.pictures import (
    as_png,
    boxed_picture,
    encode_jpeg,
    encode_png,
    enhance,
    from_upright,
    grid_picture,
    thumbnail,
    to_upright,
    upright,
)
from engine.formats.sandbox import Manner, Sandbox
from engine.formats.tones import Showing
from engine.host import is_shortage
from engine.records import Dissection, Format, Image, Region
from engine.settings import Settings

__all__ = [
    "Covered",
    "Limits",
    "Proof",
    "alike",
    "as_png",
    "assemble",
    "boxed_picture",
    "came_back",
    "carried",
    "carry",
    "confinement",
    "content_window",
    "copy_for",
    "decode",
    "decode_opened",
    "decode_stored",
    "displayed",
    "dissect",
    "encode_jpeg",
    "encode_png",
    "enhance",
    "extent",
    "extent_of",
    "for_storage",
    "from_storage",
    "from_upright",
    "grid_picture",
    "header_need",
    "heads",
    "identifiers",
    "looked_at",
    "notes",
    "orientation",
    "original_attributes",
    "patient_hints",
    "pixel_digest",
    "prove",
    "renamed",
    "render",
    "restore",
    "showings",
    "shown",
    "sniff",
    "stored_plain",
    "study_facts",
    "study_facts_of",
    "taken",
    "thumbnail",
    "to_upright",
    "uncompressed",
    "upright",
    "web_bulk",
    "web_frames",
    "web_header",
    "whole_blocks",
    "with_envelope",
]


#: Names of one person.
Names = Sequence[str]


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

    def refuse_larger(self, size_bytes: int, kind: Format | None = None) -> None:
        """Refuse a file by its size alone; where its kind is not known, by the largest limit.

        Raises:
            ImageTooLarge: With what is taken at most.
        """
        limits = {Format.DICOM: self.dicom_bytes, None: max(self.picture_bytes, self.dicom_bytes)}
        limit = limits.get(kind, self.picture_bytes)
        if size_bytes > limit:
            raise ImageTooLarge(
                f"The file is too large ({size_bytes / 1e6:.1f} MB). The limit is"
                f" {limit / 1e6:.0f} MB.",
                size_bytes=size_bytes,
                limit_bytes=limit,
            )


def taken(data: bytes, limits: Limits) -> Format:
    """The format of a file of a kind and size that is taken, before anything of it is read.

    Raises:
        CorruptImage, UnsupportedFormat: As :func:`sniff`.
        ImageTooLarge: Over the limit of its kind.
    """
    kind = sniff(data)
    limits.refuse_larger(len(data), kind)
    return kind


def decode(name: str, data: bytes, limits: Limits, seconds: float | None = None) -> Image:
    """Read a file into stored values.

    Args:
        name: As it came; its extension proves nothing.
        seconds: Processor time that it may take, as its :class:`Need` says; by default much.

    Raises:
        ImageTooLarge: Over a limit, found before decoding.
        CorruptImage: Cut off, damaged or contradictory; ``OverBudget`` where it took too long.
        UnsupportedFormat: Real, but not taken.
    """
    kind = taken(data, limits)
    reading = _SANDBOX.call("decode", str(kind), data, *_bounds(limits), seconds=seconds)
    return _image(name, kind, data, reading)


def decode_opened(name: str, data: bytes, limits: Limits) -> Image:
    """As :func:`decode`, of a file that is here and that somebody waits to look at."""
    kind = taken(data, limits)
    reading = _PAGES.call("decode", str(kind), data, *_bounds(limits))
    return _image(name, kind, data, reading)


def header_need(data: bytes, limits: Limits) -> Need:
    """What :func:`extent` needs for a file.

    Raises:
        CorruptImage, UnsupportedFormat, ImageTooLarge: As :func:`taken`.
    """
    deflated = taken(data, limits) is Format.DICOM and dicom_file.says_deflated(data)
    return Need.of_header(len(data), limits.max_decoded_bytes if deflated else 0)


def extent(data: bytes, limits: Limits) -> Extent:
    """How much a file is, by its header; nothing is decoded.

    Raises:
        ImageTooLarge: Over a limit, or made to cost a decoder much.
        CorruptImage, UnsupportedFormat: As :func:`decode`, as far as the header tells.
    """
    kind, seconds = taken(data, limits), header_need(data, limits).seconds
    answer = _SANDBOX.call("extent", str(kind), data, *_bounds(limits), seconds=seconds)
    match answer:
        case (int() as width, int() as height, int() as frames, int() as decoded) if (
            min(width, height, frames, decoded) > 0
        ):
            return Extent(width, height, frames, decoded)
    raise CorruptImage(_NO_READING)


def extent_of(image: Image) -> Extent:
    """How much a decoded image is."""
    return Extent(image.width, image.height, image.frames, image.pixels.nbytes)


def _seconds(image: Image) -> float:
    """Processor time that a call with this image may take."""
    return Need.of(len(image.data), extent_of(image)).seconds


def _extent(
    kind: str, data: bytes, max_side_px: int, max_decoded_bytes: int
) -> tuple[int, int, int, int]:
    known = measure(lambda: _decode(kind, data, max_side_px, max_decoded_bytes))
    return known.width, known.height, known.frames, known.decoded_bytes


#: Pixels, block grid, facts of the pixels, and what the header says of people.
_Reading = tuple[np.ndarray, tuple[int, int], dict[str, Any], dict[str, Any]]


def _decode(kind: str, data: bytes, max_side_px: int, max_decoded_bytes: int) -> _Reading:
    if kind not in (Format.DICOM, Format.DOCUMENT):
        return *raster.decode(Format(kind), data, max_side_px, max_decoded_bytes), {}
    if dicom_document.is_document(data, max_decoded_bytes):
        people = _people(dicom_document.header(data, max_decoded_bytes))
        return *raster.decode(Format.DOCUMENT, data, max_side_px, max_decoded_bytes), people
    file = dicom_file.parse(data, max_decoded_bytes)
    return *dicom.decode(file, max_side_px, max_decoded_bytes), _people(file.header)


def _people(header: Dataset) -> dict[str, Any]:
    return {
        "hints": dicom.patient_hints(header),
        "identifiers": dicom_header.identifiers(header),
        "study": dicom_study.study_facts(header),
        "device": dicom_study.device_facts(header),
    }


def _bounds(limits: Limits) -> tuple[int, int]:
    return limits.max_side_px, limits.max_decoded_bytes


def _image(name: str, kind: Format, data: bytes, reading: Any, *, alone: bool = True) -> Image:
    """An image of what a worker answered, which may be anything.

    Args:
        alone: The answer held nothing else. Otherwise its arrays are copied: each one would keep
            the whole message in memory, an original beside the part that may be seen.
    """
    match reading:
        case (
            np.ndarray() as pixels,
            (int(), int()) as grid,
            dict() as facts,
            dict() as people,
        ) if (
            pixels.ndim in (3, 4)
            and isinstance(people.get("hints", {}), dict)
            and isinstance(people.get("study", {}), dict)
            and _is_texts(people.get("device", {}))
            and isinstance(people.get("identifiers", ()), tuple)
            and all(isinstance(said, str) for said in people.get("identifiers", ()))
        ):
            if kind is Format.DICOM and facts.get("whole") in DOCUMENTS:
                kind = Format.DOCUMENT
            if not alone:
                pixels, facts, people = pixels.copy(), _copied(facts), _copied(people)
            return Image(name[-255:], kind, data, pixels, grid, facts, people)
    raise CorruptImage(_NO_READING)


def _is_texts(said: object) -> bool:
    return isinstance(said, dict) and all(isinstance(v, str) for v in said.values())


def _copied(value: Any) -> Any:
    """Plain values of an answer, without memory that they share with it."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copied(held) for key, held in value.items()}
    return tuple(map(_copied, value)) if isinstance(value, tuple) else value


#: How far a JPEG decoder carries halved colour over the edge of a block ("fancy upsampling").
UPSAMPLING_PX = 2
_NO_READING = "This file is damaged: it cannot be read."


def patient_hints(image: Image) -> dict[str, Any]:
    """Who the file says it shows, for filling in a record; empty but for DICOM. Sensitive."""
    return dict(image.people.get("hints", {}))


def study_facts(image: Image) -> dict[str, Any]:
    """Study, series and place that the file says; empty but for DICOM. Sensitive."""
    return dict(image.people.get("study", {}))


def device_facts(image: Image) -> dict[str, str]:
    """Which device made an image, as the file says; empty but for DICOM."""
    return dict(image.people.get("device", {}))


def study_facts_of(stored: bytes) -> dict[str, Any]:
    """As :func:`study_facts`, of a file in the form of :func:`for_storage`; decodes no pixel."""
    match _SANDBOX.call("study", stored):
        case dict() as facts:
            return facts
    raise CorruptImage(_NO_READING)


def _study(stored: bytes) -> dict[str, Any]:
    data = _unpacked(stored)
    if sniff(data) is not Format.DICOM:
        return {}
    if dicom_document.is_document(data, 1 << 30):
        return dicom_study.study_facts(dicom_document.header(data, 1 << 30))
    return dicom_study.study_facts(dicom_file.parse(data).header)


def heads(beginnings: Sequence[bytes]) -> list[dict[str, Any]]:
    """Of whom and of which study files are, by their first bytes; decodes no pixel. Sensitive.

    Returns:
        For each ``hints`` as :func:`patient_hints` and ``study`` as :func:`study_facts`, or
        ``refused``, why such a file is not taken. An empty dictionary for other pictures, and for
        what cannot be read so far.
    """
    match _SANDBOX.call("heads", tuple(beginnings)):
        case tuple() as found if len(found) == len(beginnings) and all(map(_is_head, found)):
            return list(found)
    raise CorruptImage(_NO_READING)


def _is_head(said: Any) -> bool:
    parts = {"hints": dict, "study": dict, "refused": str}
    return isinstance(said, dict) and all(isinstance(said.get(p, k()), k) for p, k in parts.items())


def identifiers(image: Image) -> tuple[str, ...]:
    """What the file says of people, to compare with burned-in text; empty but for DICOM.
    Sensitive."""
    return tuple(image.people.get("identifiers", ()))


def looked_at(image: Image) -> tuple[int, ...]:
    """Frames that detectors look at: all of them, but of a slide some of its tiles."""
    said = image.properties.get("looked_at", ())
    return tuple(i for i in said if 0 <= i < image.frames) or tuple(range(image.frames))


def notes(image: Image) -> tuple[str, ...]:
    """What a person has to know of a file that is not shown or looked at as others are."""
    return notes_of(image.properties)


def render(image: Image, frame: int = 0, window: tuple[float, float] | None = None) -> np.ndarray:
    """One frame as a person would see it, in the geometry of the stored pixels.

    Args:
        window: Centre and width in units of the modality; DICOM only.

    Returns:
        Shape (height, width, 3), uint8, RGB.

    Raises:
        NotFound: No such frame.
        CorruptImage: What the file says about its display makes no sense.
    """
    with _displaying(image, frame):
        if image.format is Format.DICOM:
            return dicom.render(image, frame, window)
        return raster_view.render(image, frame)


def displayed(
    image: Image, frame: int = 0, window: tuple[float, float] | None = None
) -> np.ndarray:
    """One frame as :func:`render` gives it, turned upright as the file asks for."""
    return upright(render(image, frame, window), orientation(image))


def orientation(image: Image) -> int:
    """Which way up a picture is stored: 1 to 8, as in EXIF."""
    return int(image.properties.get("orientation", 1))


def showings(image: Image, frame: int) -> list[Showing]:
    """Every way in which viewers may show a frame; first as :func:`render`, without a window.

    Raises:
        NotFound, CorruptImage: As :func:`render`; the pictures of the answer raise nothing else.
    """
    with _displaying(image, frame):
        if image.format is Format.DICOM:
            return list(dicom.showings(image, frame))
        return list(raster_view.showings(image, frame))


@contextmanager
def _displaying(image: Image, frame: int) -> Iterator[None]:
    """Tables and windows come from the file: they can be anything."""
    if not 0 <= frame < image.frames:
        raise NotFound("This image has no such frame.", frame=frame, frames=image.frames)
    try:
        yield
    except Exception as err:
        if is_shortage(err):
            raise
        raise CorruptImage(
            "This picture cannot be displayed because its header is not valid."
        ) from err


def alike(image: Image, other: Image, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """The same frame of two pictures as the first one is shown, to compare them.

    Masks have tones of their own, which would shift a window that is taken from content, and the
    ground of what is transparent.
    """
    window = content_window(image, frame)
    with _displaying(image, frame):
        if image.format is not Format.DICOM and other.format is not Format.DICOM:
            grey = raster_view.ground(image, frame)
            one, two = (raster_view.render(i, frame, grey) for i in (image, other))
            return one, two
    return render(image, frame, window), render(other, frame, window)


def content_window(image: Image, frame: int = 0) -> tuple[float, float] | None:
    """Centre and width that :func:`render` takes from a DICOM frame's own values, to show
    another picture alike; None where the file says how it is shown."""
    return dicom.content_window(image, frame) if image.format is Format.DICOM else None


def shown_window(image: Image, frame: int = 0) -> tuple[float, float] | None:
    """Centre and width of the window in which a frame is shown by itself.

    None where another window would change nothing: for colours, and for all but DICOM.
    """
    if image.format is not Format.DICOM or image.pixels.ndim != 3:
        return None
    if "PALETTE" in image.properties["colour"]:
        return None
    own = image.properties["windows"]
    return own[0] if own else content_window(image, frame)


def pixel_digest(pixels: np.ndarray) -> bytes:
    """SHA-256 over type, shape and stored values, independent of the machine's byte order."""
    dtype = pixels.dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{dtype.str}{pixels.shape}".encode())
    for frame in pixels:
        digest.update(np.ascontiguousarray(frame, dtype=dtype).data)
    return digest.digest()


def shown(image: Image, frame: int) -> np.ndarray:
    """Stored values of a frame in the form in which a masked file holds them: without bits,
    colours and palette entries that no viewer shows. Two pictures that look alike are equal."""
    if image.format is Format.DICOM:
        return dicom.shown(image, frame)
    return raster.shown(image.pixels[frame], image.properties)


def whole_blocks(image: Image) -> tuple[int, int]:
    """Height and width in px of the part of a picture whose coded blocks do not reach beyond it.

    The last blocks of a JPEG are written anew (:mod:`engine.formats.jpeg_edges`), and a decoder
    carries their colour a little into the ones before.
    """
    coded = image.format is Format.JPEG or image.properties.get("transfer_syntax") in JPEG_DCT
    if not coded:
        return image.height, image.width
    (wide, high), side = image.grid, UPSAMPLING_PX
    return (
        image.height - (image.height % high and image.height % high + side),
        image.width - (image.width % wide and image.width % wide + side),
    )


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
    arguments = str(image.format), image.data, _boxes(regions), identity_key
    answer = _SANDBOX.call("dissect", *arguments, seconds=_seconds(image))
    match answer:
        case (bytes() as masked, tuple() as patches, bytes() as remainder, compact) if (
            len(patches) == len(regions)
            and all(isinstance(patch, bytes) for patch in patches)
            and (compact is None or isinstance(compact, bytes))
        ):
            return Dissection(masked, patches, remainder, compact)
    raise CorruptImage(_NO_READING)


def _boxes(regions: Sequence[Region]) -> list[tuple[int, ...]]:
    return [dataclasses.astuple(region) for region in regions]


def _dissect(
    kind: str, data: bytes, boxes: Sequence[tuple[int, ...]], identity_key: bytes
) -> tuple[bytes, tuple[bytes, ...], bytes, bytes | None]:
    regions = [Region(*box) for box in boxes]
    if kind == Format.DICOM:
        masked, patches, parts = dicom.dissect(data, regions, identity_key)
    else:
        masked, patches, parts = raster.dissect(Format(kind), data, regions)
    if not _comes_back(kind, data, regions, masked, patches, parts):
        parts = {"whole": data}
    remainder = pack(parts)
    del parts  # it may hold the file once more
    # Whether the masked file comes back from it is tried when all else is: see prove.
    compact = dicom_native.compress(masked) if kind == Format.DICOM else None
    return masked, patches, remainder, _if_smaller(compact, masked)


def _comes_back(
    kind: str,
    data: bytes,
    regions: Sequence[Region],
    masked: bytes,
    patches: Sequence[bytes],
    parts: Mapping[str, bytes],
) -> bool:
    """Try the way back: a lost image is worse than one that takes more room."""
    if "whole" in parts:
        return True
    try:
        back = _assemble(masked, regions, dict(enumerate(patches)), parts)
        return back == data
    except (SealBroken, CorruptImage, UnsupportedFormat, ValueError, KeyError, IndexError):
        return False


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
        With everything, the original file; else a file of the masked one's format.

    Raises:
        SealBroken: A part does not belong to this image.
    """
    if remainder is not None and len(patches) < len(regions):
        raise ValueError("a remainder without all patches gives no picture")
    whole: bytes = _SANDBOX.call("assemble", masked, _boxes(regions), patches, remainder)
    return whole


def _put_together(
    masked: bytes,
    boxes: Sequence[tuple[int, ...]],
    patches: Mapping[int, bytes],
    remainder: bytes | None,
) -> bytes:
    parts = None if remainder is None else unpack(remainder)
    if parts is not None and "whole" in parts:
        return parts["whole"]
    try:
        return _assemble(masked, [Region(*box) for box in boxes], patches, parts)
    except (KeyError, IndexError, ValueError) as err:
        raise SealBroken(
            "A sealed part does not match its image. Restore the image from a backup."
        ) from err


def _assemble(
    masked: bytes,
    regions: Sequence[Region],
    patches: Mapping[int, bytes],
    parts: Mapping[str, bytes] | None,
) -> bytes:
    if sniff(masked) is Format.DICOM:
        return dicom.assemble(masked, regions, patches, parts)
    return raster.assemble(masked, regions, patches, parts)


@dataclass(frozen=True)
class Proof:
    """What came out when a sealed image was opened again from the bytes to be stored.

    Args:
        stored: The masked file as it will be kept, in the form of :func:`for_storage`.
        masked: The masked file, decoded from there.
        data: The file that it gives with all patches and the remainder.
        pixels: Of that file, where it is not the very original.
    """

    stored: bytes = field(repr=False)
    masked: Image = field(repr=False)
    data: bytes = field(repr=False)
    pixels: np.ndarray | None = field(repr=False)


@dataclass(frozen=True)
class Covered:
    """What the masks of an image cover, decrypted.

    Args:
        patches: One per region, by its place.
        remainder: What belongs to no region; see :class:`Dissection`.
    """

    regions: Sequence[Region]
    patches: Mapping[int, bytes] = field(repr=False)
    remainder: bytes = field(repr=False)

    @property
    def plain(self) -> tuple[Sequence[tuple[int, ...]], Mapping[int, bytes], bytes]:
        """As it is sent to the decoders' process."""
        return _boxes(self.regions), self.patches, self.remainder


def prove(
    image: Image, masked: bytes, compact: bytes | None, covered: Covered, limits: Limits
) -> Proof:
    """Open again what was made of an image, from nothing but the bytes to be stored.

    The masked file is compared here; comparing ``data`` or ``pixels`` is its caller's part. The
    smaller form is not worth an image: where it does not give the masked file back, that is kept
    as it is.

    Args:
        image: The original; only its name, kind and digest are used.
        masked, compact: As in :class:`Dissection`.
        covered: As decrypted from what will be stored.

    Raises:
        SealBroken: A part does not belong to this image.
        ImageTooLarge: The masked file cannot be taken in again.
    """
    kind = taken(masked, limits)
    if compact is not None:
        with suppress(SealBroken):
            return _proof(image, kind, masked, b"\x01" + compact, covered, limits)
    return _proof(image, kind, masked, stored_plain(masked), covered, limits)


def _proof(
    image: Image,
    kind: Format,
    masked: bytes,
    stored: bytes,
    covered: Covered,
    limits: Limits,
) -> Proof:
    arguments = stored, covered.plain, hashlib.sha256(image.data).digest(), *_bounds(limits)
    answer = _SANDBOX.call("prove", *arguments, seconds=_seconds(image))
    match answer:
        case (bytes() as masked_digest, reading, bytes() as data, pixels) if (
            pixels is None or isinstance(pixels, np.ndarray)
        ):
            if masked_digest != hashlib.sha256(masked).digest():
                raise SealBroken("A stored picture is not what was stored.")
            again = _image(image.name, kind, masked, reading, alone=False)
            return Proof(stored, again, data, pixels)
    raise CorruptImage(_NO_READING)


def _prove(
    stored: bytes,
    covered: tuple[Sequence[tuple[int, ...]], Mapping[int, bytes], bytes],
    file_digest: bytes,
    max_side_px: int,
    max_decoded_bytes: int,
) -> tuple[bytes, _Reading, bytes, np.ndarray | None]:
    masked = _unpacked(stored)
    data = _put_together(masked, *covered)
    pixels = None
    if hashlib.sha256(data).digest() != file_digest:
        pixels = _decode(sniff(data), data, max_side_px, max_decoded_bytes)[0]
    reading = _decode(sniff(masked), masked, max_side_px, max_decoded_bytes)
    return hashlib.sha256(masked).digest(), reading, data, pixels


def restore(
    name: str,
    stored: bytes,
    covered: Covered,
    limits: Limits,
    chosen: Collection[int] | None = None,
) -> tuple[Image, Image | None]:
    """The original of a stored image, decoded; and a part of it.

    Args:
        name: Of the original file.
        stored: From :func:`for_storage` or :func:`stored_plain`.
        chosen: Indices of the regions that are opened in the part; None for no part.

    Raises:
        SealBroken: Something does not belong to this image.
        CorruptImage, UnsupportedFormat, ImageTooLarge: As :func:`decode`.
    """
    part = None if chosen is None else sorted(chosen)
    answer = _PAGES.call("restore", stored, covered.plain, part, *_bounds(limits))
    match answer:
        case ((bytes() as data, reading), None) if part is None:
            return _image(name, taken(data, limits), data, reading, alone=False), None
        case ((bytes() as data, reading), (bytes() as some, seen)) if part is not None:
            whole = _image(name, taken(data, limits), data, reading, alone=False)
            return whole, _image(name, taken(some, limits), some, seen, alone=False)
    raise CorruptImage(_NO_READING)


def _restore(
    stored: bytes,
    covered: tuple[Sequence[tuple[int, ...]], Mapping[int, bytes], bytes],
    chosen: Sequence[int] | None,
    max_side_px: int,
    max_decoded_bytes: int,
) -> tuple[tuple[bytes, _Reading], tuple[bytes, _Reading] | None]:
    masked = _unpacked(stored)
    boxes, patches, remainder = covered

    def opened(some: Mapping[int, bytes], rest: bytes | None) -> tuple[bytes, _Reading]:
        data = _put_together(masked, boxes, some, rest)
        return data, _decode(sniff(data), data, max_side_px, max_decoded_bytes)

    whole = opened(patches, remainder)
    part = None if chosen is None else opened({i: patches[i] for i in chosen}, None)
    return whole, part


def for_storage(masked: bytes) -> bytes:
    """A masked file as it is best kept: an uncompressed DICOM by a lossless coder.

    Returns:
        One byte that says how, and the body. Exports go through :func:`from_storage`.
    """
    kind = sniff(masked)
    compact = _SANDBOX.call("compact", str(kind), masked) if kind is Format.DICOM else None
    return stored_plain(masked) if compact is None else b"\x01" + compact


def stored_plain(masked: bytes) -> bytes:
    """A masked file in the form of :func:`for_storage`, without any coding."""
    return b"\x00" + masked


def _compact(kind: str, masked: bytes) -> bytes | None:
    if kind != Format.DICOM:
        return None
    small = _if_smaller(dicom_native.compress(masked), masked)
    return None if small is None or dicom_native.decompress(small) != masked else small


def _if_smaller(compact: bytes | None, masked: bytes) -> bytes | None:
    return None if compact is None or len(compact) >= len(masked) else compact


def from_storage(stored: bytes) -> bytes:
    """The very bytes that :func:`for_storage` was given.

    Raises:
        SealBroken: Not something that it made.
    """
    if stored[:1] == b"\x00":
        return stored[1:]
    masked: bytes = _PAGES.call("from_storage", stored)
    return masked


def decode_stored(name: str, stored: bytes, limits: Limits) -> Image:
    """As :func:`decode`, of a masked file as :func:`for_storage` gave it; in one call.

    Raises:
        SealBroken: Not something that it made.
    """
    if stored[:1] == b"\x00":
        return decode_opened(name, stored[1:], limits)
    match _PAGES.call("decode_stored", stored, *_bounds(limits)):
        case (bytes() as masked, reading):
            return _image(name, taken(masked, limits), masked, reading, alone=False)
    raise CorruptImage(_NO_READING)


def _decode_stored(
    stored: bytes, max_side_px: int, max_decoded_bytes: int
) -> tuple[bytes, _Reading]:
    masked = _unpacked(stored)
    return masked, _decode(sniff(masked), masked, max_side_px, max_decoded_bytes)


def _unpacked(stored: bytes) -> bytes:
    if stored[:1] == b"\x00":
        return stored[1:]
    if stored[:1] != b"\x01":
        raise SealBroken("A stored picture is not of a known kind.")
    try:
        return dicom_native.decompress(stored[1:])
    except (KeyError, ValueError) as err:
        raise SealBroken("A stored picture was changed. Restore the image from a backup.") from err


def original_attributes(data: bytes, masked: bytes) -> bytes:
    """What of a DICOM original's attributes its masked file changed, as a data set to be encrypted.

    Sensitive. See :func:`engine.formats.dicom_attributes.changed`.
    """
    found: bytes = _SANDBOX.call("original_attributes", data, masked)
    return found


def with_envelope(dissection: Dissection, envelope: bytes) -> Dissection:
    """A dissection whose masked DICOM has an envelope in its Encrypted Attributes Sequence."""
    match _SANDBOX.call("with_envelope", dissection.masked, envelope):
        case (bytes() as masked, compact) if compact is None or isinstance(compact, bytes):
            return dataclasses.replace(dissection, masked=masked, compact=compact)
    raise CorruptImage(_NO_READING)


def _with_envelope(masked: bytes, envelope: bytes) -> tuple[bytes, bytes | None]:
    whole = dicom_attributes.attach(masked, envelope)
    return whole, _if_smaller(dicom_native.compress(whole), whole)


def carry(masked: bytes, package: bytes) -> bytes:
    """A masked DICOM with its sealed package inside, for archives that keep single files.

    Raises:
        InputError: Of another format.
    """
    if sniff(masked) is not Format.DICOM:
        raise InputError(
            "Only DICOM files can contain their package. Send image and package as two files."
        )
    whole: bytes = _PAGES.call("carry", masked, package)
    return whole


def carried(data: bytes) -> tuple[bytes, bytes] | None:
    """The masked file as it was before :func:`carry`, and its package; None where it has none.

    Raises:
        InputError: Not an image that can be read.
    """
    if sniff(data) is not Format.DICOM:
        return None
    found: tuple[bytes, bytes] | None = _PAGES.call("carried", data)
    return found


def renamed(masked: bytes, key: bytes) -> bytes:
    """A masked file under identifiers of one recipient; other formats than DICOM have none.

    Args:
        key: 32 bytes, the recipient's.
    """
    if sniff(masked) is not Format.DICOM:
        return masked
    fresh: bytes = _SANDBOX.call("renamed", masked, key)
    return fresh


def copy_for(
    masked: bytes, remainder: bytes, key: bytes, options: Options, pseudonym: str, record: Names
) -> tuple[bytes, dict[str, tuple[str, ...]]]:
    """A masked DICOM with the header of one recipient, and what became of each attribute.

    Args:
        remainder: As it was sealed with the image.
        record: What the hospital's own record calls the patient.

    See :func:`engine.formats.dicom_recipient.copy_for`.
    """
    arguments = masked, remainder, key, dataclasses.astuple(options), pseudonym, tuple(record)
    match _SANDBOX.call("copy_for", *arguments):
        case (bytes() as data, dict() as outcomes) if all(
            isinstance(names, tuple) and all(isinstance(name, str) for name in names)
            for names in outcomes.values()
        ):
            return data, outcomes
    raise CorruptImage(_NO_READING)


def _copy_for(
    masked: bytes,
    remainder: bytes,
    key: bytes,
    options: tuple[bool, ...],
    pseudonym: str,
    record: tuple[str, ...],
) -> tuple[bytes, dict[str, tuple[str, ...]]]:
    subject = dicom_header.Subject(Options(*options), pseudonym, record)
    return dicom_recipient.copy_for(masked, unpack(remainder), key, subject)


def confinement() -> Confinement:
    """What holds the processes that read files; one is then ready for who looks at one.

    Raises:
        EngineError: None can be started here.
    """
    return _PAGES.held()


def came_back(stored: bytes, data: bytes, limits: Limits) -> bool:
    """Is a DICOM file the masked file of ``stored``, however an archive wrote it anew?

    Args:
        stored: From :func:`for_storage`.
        data: As it came back; may carry its package.
    """
    try:
        if taken(data, limits) is not Format.DICOM:
            return False
    except InputError:
        return False
    answer = _PAGES.call("came_back", stored, data, *_bounds(limits))
    return answer is True


def _came_back(stored: bytes, data: bytes, max_side_px: int, max_decoded_bytes: int) -> bool:
    return dicom_archive.unchanged(_unpacked(stored), data, max_side_px, max_decoded_bytes)


def web_header(stored: bytes) -> tuple[dict[str, dict[str, Any]], str]:
    """Attributes of a masked DICOM in JSON, and its transfer syntax; decodes no pixel.

    Args:
        stored: In the form of :func:`for_storage`.
    """
    match _SANDBOX.call("web_header", stored):
        case (dict() as header, str() as syntax):
            return header, syntax
    raise CorruptImage(_NO_READING)


def _web_header(stored: bytes) -> tuple[dict[str, dict[str, Any]], str]:
    return dicom_web.header(_unpacked(stored))


def web_frames(stored: bytes, numbers: Sequence[int], native: bool) -> tuple[list[bytes], str]:
    """Frames of a masked DICOM: see :func:`engine.formats.dicom_web.frames`."""
    match _SANDBOX.call("web_frames", stored, list(numbers), native):
        case ((list() | tuple()) as parts, str() as syntax) if all(
            isinstance(part, bytes) for part in parts
        ):
            return list(parts), syntax
    raise CorruptImage(_NO_READING)


def _web_frames(stored: bytes, numbers: Sequence[int], native: bool) -> tuple[list[bytes], str]:
    return dicom_web.frames(_unpacked(stored), numbers, native)


def web_bulk(stored: bytes, tag: str) -> bytes:
    """A bulk value of a masked DICOM: see :func:`engine.formats.dicom_web.bulk`."""
    value: bytes = _SANDBOX.call("web_bulk", stored, tag)
    return value


def _web_bulk(stored: bytes, tag: str) -> bytes:
    return dicom_web.bulk(_unpacked(stored), tag)


def uncompressed(masked: bytes) -> bytes:
    """A masked DICOM in Explicit VR Little Endian. Raises UnsupportedFormat."""
    whole: bytes = _SANDBOX.call("web_uncompressed", masked)
    return whole


def directory_entry(data: bytes) -> str:
    """What a DICOMDIR says of a DICOM file: see :func:`engine.formats.dicom_directory.entry`."""
    try:
        told = _PAGES.call("directory_entry", data)
    except CorruptImage:  # it ended the process that read it
        return ""
    return told if isinstance(told, str) else ""


#: Of a decoder that waits for the next file: what it holds when it has read a small one, and as
#: much again.
_IDLE_BYTES = 200 << 20
#: Functions that run in the sandbox: everything that reads untrusted bytes, from a user or from
#: a worker that a malicious file could have compromised.
OPERATIONS = {
    "extent": _extent,
    "decode": _decode,
    "dissect": _dissect,
    "assemble": _put_together,
    "prove": _prove,
    "restore": _restore,
    "compact": _compact,
    "from_storage": _unpacked,
    "decode_stored": _decode_stored,
    "study": _study,
    "heads": dicom_head.read,
    "came_back": _came_back,
    "original_attributes": dicom_attributes.changed,
    "with_envelope": _with_envelope,
    "carry": dicom_carrier.carry,
    "carried": dicom_carrier.carried,
    "directory_entry": dicom_directory.entry,
    "renamed": dicom_renamed.renamed,
    "copy_for": _copy_for,
    "web_header": _web_header,
    "web_frames": _web_frames,
    "web_bulk": _web_bulk,
    "web_uncompressed": dicom_web.uncompressed,
}
_AT_ONCE = max(2, min(4, os.cpu_count() or 1))
_SANDBOX = Sandbox(__name__, workers=_AT_ONCE, manner=Manner(idle_bytes=_IDLE_BYTES))
#: For what somebody looks at: neither places nor processors of these are taken by files that come
#: in.
_PAGES = Sandbox(__name__, workers=_AT_ONCE, manner=Manner(False, _IDLE_BYTES))

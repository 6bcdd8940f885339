"""Seal and restore one image: pure functions without catalog, files and accounts.

``seal`` verifies its result before it returns: it restores the image and compares it with the
original, pixel by pixel. An image that fails this check is not sealed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from engine.errors import RestoreMismatch
from engine.formats import dicom_attributes, images, mask
from engine.formats.images import Limits
from engine.formats.views import View
from engine.geometry import line_steps
from engine.host import Host
from engine.records import (
    IDENTIFIERS,
    Assessment,
    Detection,
    Dissection,
    Fingerprint,
    Format,
    Image,
    Region,
    SealedRegion,
)
from engine.seal import length_hiding
from engine.vault import (
    Recipient,
    RegionIdentity,
    Sealing,
    decrypt,
    encrypt,
    envelope,
    open_field,
    seal_field,
    without_header,
)

REMAINDER = "remainder"
#: To which attributes are padded at least: few headers have more of them.
_ATTRIBUTES_BYTES = 8192
_OTHER = "The restored picture is not the original: keep it closed and tell the administrator."


@dataclass(frozen=True)
class Subject:
    """The image to seal, and its key. The repr shows no key."""

    image_id: str
    version: int
    key: bytes = field(repr=False)  # data key, 32 bytes
    identity_key: bytes = field(repr=False)  # for pseudonyms, one per patient

    def context(self, what: str) -> str:
        """Name of a part of this image, bound by its tag."""
        return f"image/{self.image_id}/{self.version}/{what}"

    def identity(self, region_id: str, label: str, region: Region) -> RegionIdentity:
        """What the tag of a region binds."""
        return RegionIdentity.of(self.image_id, region_id, label, region, self.version)


@dataclass(frozen=True)
class Sealed:
    """A sealed image, not yet stored.

    Args:
        masked: The file that may be shared.
        stored: The same as it is best kept; opened and compared already.
        container: Sealed pieces of the regions (see :mod:`engine.seal.length_hiding`) one after the
            other, then the sealed remainder.
        regions: Each with its first byte in the container.
        remainder_start: First byte of the sealed remainder in the container.
        pixel_digest, file_digest: SHA-256 of the original's pixels and file; sensitive.
        identical_bytes: Does restoration give the very same file, not only the same pixels?
    """

    masked: bytes = field(repr=False)
    stored: bytes = field(repr=False)
    container: bytes = field(repr=False)
    regions: tuple[tuple[SealedRegion, int], ...]
    remainder_start: int
    pixel_digest: bytes = field(repr=False)
    file_digest: bytes = field(repr=False)
    identical_bytes: bool
    masked_image: Image = field(repr=False)
    times_ms: Mapping[str, float]

    def ciphertexts(self) -> list[bytes]:
        """IV, ciphertext and tag of each region, in order, for measuring."""
        return [without_header(self.container[s : s + r.size_bytes]) for r, s in self.regions]


@dataclass(frozen=True)
class Restored:
    """An original, or a part of it, in memory.

    Args:
        partial: Some regions stayed sealed: the picture is not the original.
        proof: ``bytes`` (the very same file), ``pixels`` (same pixels), or ``outside``
            (partial: every pixel outside the regions that stayed sealed is the original's).
        margin_px: Pixels around a region that stayed sealed for which that is not said: a
            decoder of lossy sources mixes colours across its edge. Nor is it said of the last
            blocks of a JPEG where they reach beyond the picture.
    """

    image: Image = field(repr=False)
    opened: tuple[str, ...]
    partial: bool
    proof: str
    decrypt_ms: Mapping[str, float]
    margin_px: int = 0


class Stopwatch:
    """Times of named stages in milliseconds, as the clock said them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.times_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._host.ticks_ms()
        try:
            yield
        finally:
            spent = self._host.ticks_ms() - start
            self.times_ms[name] = round(self.times_ms.get(name, 0.0) + spent, 1)


def look(views: Sequence[View], detect: Callable[[View], list[Detection]]) -> list[Detection]:
    """Run a detector on every picture of an image that a viewer may show.

    Args:
        views: From :func:`engine.formats.views.views_of`.
        detect: Gives boxes in the pixels and frames of one view.

    Returns:
        Boxes in stored pixels, without those that lie inside a box of an earlier view that is
        as certain. What else is seen twice is merged by the caller's rules.
    """
    found: list[Detection] = []
    for view in views:
        found += [d for d in view.found(detect(view)) if not any(_holds(e, d) for e in found)]
    return found


def _holds(box: Detection, other: Detection) -> bool:
    """Is a box of the same class wholly inside another one, on all of its frames?"""
    inner, outer = other.region, box.region
    return (
        box.label == other.label
        and box.confidence >= other.confidence
        and outer.lasts_for(inner)
        and outer.on_frames(inner.frame, inner.frame_end).hull(inner).xyxy == outer.xyxy
    )


def plan(
    image: Image, detections: Sequence[Detection], padding: float, min_px: int
) -> list[Detection]:
    """What will be sealed: boxes padded, rounded outward, clipped, identifiers first.

    A person's own boxes are taken as drawn, without padding. All boxes of a lossy source reach as
    far as its coder carries what is under them (:mod:`engine.formats.residue`).
    Found lines of text are rounded outward to steps of their height, because how wide a line is
    tells which name it is.
    """
    planned = []
    for detection in detections:
        region = detection.region
        if detection.source != "person":
            steps = line_steps(region) if detection.label == "text" else (1, 1)
            region = region.padded(padding, min_px).aligned(steps)
        region = _with_residue(image, region)
        clipped = region.aligned(image.grid).clipped(image.width, image.height, image.frames)
        if clipped is not None:
            planned.append(replace(detection, region=clipped))
    # Where boxes overlap, a pixel is sealed with the first box that holds it, so that opening
    # anatomy never opens a name on it.
    return sorted(
        dict.fromkeys(planned),
        key=lambda d: (d.label not in IDENTIFIERS, d.region.frame, d.region.y1, d.region.x1),
    )


def sealed_whole(image: Image) -> list[Detection]:
    """Boxes over frames that are hidden whatever was found on them: none can be looked at, or
    the name is what they show (see :func:`engine.formats.images.notes`)."""
    frames = sorted(set(image.properties.get("sealed_frames", ())))
    boxes: list[Detection] = []
    for frame in frames:
        if boxes and boxes[-1].region.frame_end == frame:
            longer = boxes.pop().region
            boxes.append(_whole(image, longer.frame, frame + 1))
        else:
            boxes.append(_whole(image, frame, frame + 1))
    return boxes


def _whole(image: Image, first: int, end: int) -> Detection:
    return Detection(Region(0, 0, image.width, image.height, first, end), "text", 1.0, "format")


def _with_residue(image: Image, region: Region) -> Region:
    region = region.padded(0, int(image.properties.get("residue_px", 0)))
    if image.properties.get("residue_follows"):  # row by row: all from its first row on
        return replace(region, x1=0, x2=image.width, y2=image.height)
    return region


def seal(
    image: Image,
    planned: Sequence[Detection],
    subject: Subject,
    host: Host,
    limits: Limits,
    recipients: Sequence[Recipient] = (),
) -> Sealed:
    """Split an image, encrypt every region with its own IV, and verify the restoration.

    Args:
        planned: From :func:`plan`.
        recipients: For whom the original attributes of a DICOM file are encrypted in its masked
            file besides (PS3.15 annex E.1).

    Raises:
        RestoreMismatch: The way back does not give the original's pixels; nothing is sealed.
    """
    watch = Stopwatch(host)
    regions = [d.region for d in planned]
    with watch.stage("mask"):
        dissection = images.dissect(image, regions, subject.identity_key)
        if recipients and image.format is Format.DICOM:
            dissection = _for_recipients(image, dissection, recipients)
    sealed: list[tuple[SealedRegion, int]] = []
    pieces = [length_hiding.MAGIC]
    start = len(length_hiding.MAGIC)
    public = len(dissection.masked)
    volumes = [r.volume_px for r in regions]
    contents = length_hiding.split([d.label for d in planned], volumes, dissection.patches, public)
    for detection, content in zip(planned, contents, strict=True):
        region_id = host.token("rg")
        began = host.ticks_ms()
        piece = encrypt(
            subject.key,
            subject.identity(region_id, detection.label, detection.region),
            content,
            host.random,
            subject.image_id,
            Sealing(floor_bytes=0),  # its length is a length class already
        )
        spent = round(host.ticks_ms() - began, 1)
        sealed.append((SealedRegion(region_id, detection, len(piece), spent), start))
        pieces.append(piece)
        start += len(piece)
    with watch.stage("encrypt_remainder"):
        remainder = seal_field(
            subject.key,
            subject.context(REMAINDER),
            dissection.remainder,
            host.random,
            floor_bytes=length_hiding.length_class(
                len(dissection.remainder), length_hiding.REMAINDER_SHARE * public
            ),
        )
    watch.times_ms["encrypt"] = round(
        sum(r.encrypt_ms for r, _ in sealed) + watch.times_ms.pop("encrypt_remainder"), 1
    )
    container = b"".join([*pieces, remainder])
    pixel_digest = images.pixel_digest(image.pixels)
    with watch.stage("prove"):
        masked, compact = dissection.masked, dissection.compact
        del dissection  # so that at most two decoded pictures are in memory at a time
        covered, _ = _decrypted(container, sealed, start, subject, host)
        proof = images.prove(image, masked, compact, covered, limits)
        del covered, compact
        # What was opened is compared here, with what stayed here.
        identical = proof.data == image.data  # and so is every pixel
        if not identical and (
            proof.pixels is None or images.pixel_digest(proof.pixels) != pixel_digest
        ):
            raise RestoreMismatch(_OTHER, image_id=subject.image_id)
        stored, masked_image = proof.stored, proof.masked
        del proof
    return Sealed(
        masked=masked,
        stored=stored,
        container=container,
        regions=tuple(sealed),
        remainder_start=start,
        pixel_digest=pixel_digest,
        file_digest=hashlib.sha256(image.data).digest(),
        identical_bytes=identical,
        masked_image=masked_image,
        times_ms=watch.times_ms,
    )


def _for_recipients(
    image: Image, dissection: Dissection, recipients: Sequence[Recipient]
) -> Dissection:
    """With the original attributes in the masked file, encrypted; their length is a class."""
    attributes = images.original_attributes(image.data, dissection.masked)
    length = length_hiding.length_class(len(attributes) + 12, _ATTRIBUTES_BYTES)
    content = dicom_attributes.padded(attributes, length)
    return images.with_envelope(dissection, envelope(content, recipients))


@dataclass(frozen=True)
class SealedFiles:
    """What an image is restored from.

    Args:
        stored: The masked file as it is kept (see :func:`engine.formats.images.for_storage`).
        container, remainder_start: See :class:`Sealed`.
        regions: Each with its first byte in the container.
    """

    stored: bytes = field(repr=False)
    container: bytes = field(repr=False)
    regions: Sequence[tuple[SealedRegion, int]]
    remainder_start: int


@dataclass(frozen=True)
class Original:
    """What is known of the original, to prove that it came back.

    Args:
        name: Its file name.
        pixel_digest, file_digest: SHA-256, taken at intake.
    """

    name: str = field(repr=False)
    pixel_digest: bytes = field(repr=False)
    file_digest: bytes = field(repr=False)


def restore(
    sealed: SealedFiles,
    original: Original,
    subject: Subject,
    host: Host,
    limits: Limits,
    permitted: Callable[[str], bool] = lambda label: True,
) -> Restored:
    """Decrypt the regions, put the permitted ones back and compare with the intake's digest.

    A part is proven against the whole: that is restored too, compared with the digest, and
    then with the part outside what stays sealed. Only the part leaves this function.

    Args:
        permitted: Says for a class whether this caller may open it.

    Raises:
        SealBroken: A region, its box, class or place, or the masked file was altered.
        RestoreMismatch: What was opened is not the original's.
    """
    may_open = [permitted(r.detection.label) for r, _ in sealed.regions]
    chosen = None if all(may_open) else [i for i, may in enumerate(may_open) if may]
    covered, times = _decrypted(
        sealed.container, sealed.regions, sealed.remainder_start, subject, host
    )
    whole, part = images.restore(original.name, sealed.stored, covered, limits, chosen)
    # The very same file is the original, whatever a newer decoder makes of its pixels.
    if hashlib.sha256(whole.data).digest() == original.file_digest:
        proof = "bytes"
    elif images.pixel_digest(whole.pixels) == original.pixel_digest:
        proof = "pixels"
    else:
        raise RestoreMismatch(_OTHER, image_id=subject.image_id)
    if chosen is None or part is None:
        return Restored(whole, tuple(times), False, proof, times)
    opened = {sealed.regions[i][0].region_id: times[sealed.regions[i][0].region_id] for i in chosen}
    closed = [r.detection.region for r, _ in sealed.regions if r.region_id not in opened]
    margin = 0 if whole.grid == (1, 1) else images.UPSAMPLING_PX
    if not _same_outside(whole, part, closed, margin):
        raise RestoreMismatch(
            "The restored part is not the original's: keep it closed and tell the administrator.",
            image_id=subject.image_id,
        )
    return Restored(part, tuple(opened), True, "outside", opened, margin)


def _decrypted(
    container: bytes,
    regions: Sequence[tuple[SealedRegion, int]],
    remainder_start: int,
    subject: Subject,
    host: Host,
) -> tuple[images.Covered, dict[str, float]]:
    """What a container holds, and for each region how long its decryption took, in ms.

    Raises:
        SealBroken: A region, its box, class or place was altered.
    """
    patches: dict[int, bytes] = {}
    times: dict[str, float] = {}
    for index, (region, start) in enumerate(regions):
        began = host.ticks_ms()
        patches[index] = decrypt(
            subject.key,
            subject.identity(region.region_id, region.detection.label, region.detection.region),
            container[start : start + region.size_bytes],
        )
        times[region.region_id] = round(host.ticks_ms() - began, 1)
    remainder = open_field(subject.key, subject.context(REMAINDER), container[remainder_start:])
    if container.startswith(length_hiding.MAGIC):
        patches = length_hiding.join([r.detection.label for r, _ in regions], patches)
    boxes = [r.detection.region for r, _ in regions]
    return images.Covered(boxes, patches, remainder), times


#: Rows that are compared at a time: what is picked out of a picture is a copy.
_ROWS = 256


def _same_outside(whole: Image, part: Image, sealed: Sequence[Region], margin_px: int) -> bool:
    """Do two pictures show the same but for these regions and a margin around them?"""
    if whole.frames != part.frames:
        return False
    height, width = images.whole_blocks(whole)
    grown = [region.padded(0, margin_px) for region in sealed]
    dead = whole.properties.get("dead_frames", ())  # cannot be decoded: covered in the part
    for frame in range(whole.frames):
        if frame in dead:
            continue
        one, other = images.shown(whole, frame), images.shown(part, frame)
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        free = mask.outside(one.shape, grown, frame)
        free[height:], free[:, width:] = False, False
        for rows in (slice(at, at + _ROWS) for at in range(0, len(one), _ROWS)):
            pair = one[rows][free[rows]], other[rows][free[rows]]
            if not np.array_equal(*pair, equal_nan=one.dtype.kind == "f"):
                return False
    return True


def assessment_to_json(assessment: Assessment) -> dict[str, Any]:
    """Plain values; NaN and infinity stay themselves, as Python's ``json`` writes them."""
    return asdict(assessment)


def assessment_from_json(item: Mapping[str, Any]) -> Assessment:
    """The inverse of :func:`assessment_to_json`."""
    fingerprint = dict(item["fingerprint"])
    fingerprint["colour_histogram"] = tuple(fingerprint["colour_histogram"])
    return Assessment(
        **{**item, "fingerprint": Fingerprint(**fingerprint), "regions": tuple(item["regions"])}
    )

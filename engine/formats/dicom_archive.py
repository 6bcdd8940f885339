"""Is a masked DICOM that comes back from an archive still the same picture of the same instance?

Archives change files that they store: they put their own patient into them, convert the transfer
syntax, add group lengths and private elements. None of that touches what was masked. Bound are the
pixels (stored values, not their coding), the unique identifiers, and every attribute that no rule
lets an archive change: one of them changed, and it is another file.

Sources of what archives may change: PS3.4 B.4.2.1 (coercion by a storage SCP) and PS3.18 10.5.4
(the same over the web), with PS3.3 C.12.1 for what they add; IHE RAD TF-1 4 (Patient Information
Reconciliation) and RAD TF-2x table A.1-1, for the attributes of patient, visit, order and procedure
step that an image manager brings in line with the order; PS3.5 for coding and padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import ExplicitVRBigEndian

from engine.errors import CorruptImage, ImageTooLarge, UnsupportedFormat
from engine.formats import dicom
from engine.formats.dicom_file import DicomFile, parse, quiet, text
from engine.formats.dicom_pixels import JPEG_DCT, payload

#: Groups that an archive fills from its own records: patient, trial, order, visit.
_FREE_GROUPS = frozenset((0x0010, 0x0032, 0x0038))
#: Attributes of those groups that say how the picture lies, not whose it is.
_BOUND = frozenset((0x00100028, 0x00101023, 0x00101024, 0x00102210, 0x00109431))
_FREE = frozenset(
    (
        # Study, order and procedure step, as IHE RAD TF-2x table A.1-1 has them
        0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080080, 0x00080081, 0x00080082,
        0x00080090, 0x00080092, 0x00080094, 0x00080096, 0x0008009C, 0x0008009D, 0x00081030,
        0x00081032, 0x00081040, 0x00081041, 0x00081048, 0x00081049, 0x00081050, 0x00081052,
        0x00081060, 0x00081062, 0x00081070, 0x00081072, 0x00081080, 0x00081084, 0x00081110,
        0x00081111, 0x00081120, 0x00200010, 0x00400241, 0x00400242, 0x00400243, 0x00400244,
        0x00400245, 0x00400250, 0x00400251, 0x00400252, 0x00400253, 0x00400254, 0x00400255,
        0x00400260, 0x00400275, 0x00400280, 0x00400281, 0x00401001, 0x00401002, 0x00401003,
        0x00401004, 0x00401005, 0x00401012, 0x00401400, 0x00402016, 0x00402017, 0x00402001,
        0x00120010, 0x00120020, 0x00120021, 0x00120030, 0x00120031, 0x00120040, 0x00120042,
        0x00120050, 0x00120051, 0x00120060, 0x00120071, 0x00120072,
        # Where it is stored, by whom, and what was changed there (PS3.3 C.12.1)
        0x00080001, 0x00080005, 0x00080014, 0x00080054, 0x00080056, 0x00080201, 0x0018A001,
        0x00880130, 0x00880140, 0x04000500, 0x04000510, 0x04000520, 0x04000561,
        0x00201200, 0x00201202, 0x00201204, 0x00201206, 0x00201208, 0x00201209,
        # How the same values are stored; they are compared themselves
        0x00280004, 0x00280006, 0x00280100, 0x00082111, 0x00089215,
    )
)  # fmt: skip
_LOSSY = 0x00282110
#: Colour models that hold the same values, each as its decoders hand them out.
_SAME_COLOURS = (
    {"RGB", "YBR_RCT"},
    {"YBR_FULL", "YBR_FULL_422"},
)


def unchanged(ours: bytes, theirs: bytes, max_side_px: int, max_decoded_bytes: int) -> bool:
    """Does a file show the same values of the same instance as the masked file that left?

    Args:
        ours: The masked file as it left.
        theirs: As it came back; may carry a package.
        max_side_px, max_decoded_bytes: Limits of decoding.
    """
    try:
        with quiet():
            mine, other = parse(ours, max_decoded_bytes), parse(theirs, max_decoded_bytes)
            if not (_same_header(mine, other) and _same_colours(mine, other)):
                return False
            limits = (max_side_px, max_decoded_bytes)
            there = dicom.decode(other, *limits)[0]
            here = dicom.decode(mine, *limits)[0]
            return bool(np.array_equal(here, there)) or _same_lossy(mine, here, there)
    except (CorruptImage, UnsupportedFormat, ImageTooLarge):
        return False


def _same_colours(mine: DicomFile, other: DicomFile) -> bool:
    said = {text(f.header, "PhotometricInterpretation").upper() for f in (mine, other)}
    lossy = mine.syntax in JPEG_DCT and said <= {"RGB", "YBR_FULL", "YBR_FULL_422"}
    return len(said) == 1 or lossy or any(said <= same for same in _SAME_COLOURS)


def _same_lossy(mine: DicomFile, here: np.ndarray, there: np.ndarray) -> bool:
    """A lossy JPEG that was decompressed: to the values that the Independent JPEG Group's code,
    which most archives use, makes of it, in its own colours or as RGB."""
    if mine.syntax not in JPEG_DCT or here.shape != there.shape or here.dtype != np.uint8:
        return False
    frames, _ = payload(mine)
    return len(frames) == len(there) and all(
        _decompressed(frame, shown) for frame, shown in zip(frames, there, strict=True)
    )


def _decompressed(frame: bytes, shown: np.ndarray) -> bool:
    choices: list[dict[str, Any]] = [{}]
    if shown.ndim == 3:
        choices = [{"colorspace": c, "outcolorspace": o}
                   for c, o in (("ycbcr", "ycbcr"), ("ycbcr", "rgb"), ("rgb", "rgb"))]  # fmt: skip
    for choice in choices:
        try:
            if np.array_equal(imagecodecs.jpeg8_decode(frame, **choice), shown):
                return True
        except (RuntimeError, ValueError):
            continue
    return False


# --- header -----------------------------------------------------------------------------------


def _same_header(mine: DicomFile, other: DicomFile) -> bool:
    sides = []
    for file in (mine, other):
        little = file.syntax != ExplicitVRBigEndian
        header = correct_ambiguous_vr(file.header, little)
        sides.append((dict(_bound(header, top=True)), not little))
    (here, _), (there, swapped) = sides
    return here.keys() == there.keys() and all(
        _same(here[tag], there[tag], swapped) for tag in here
    )


def _bound(data_set: Dataset, top: bool) -> Iterator[tuple[int, DataElement]]:
    """Elements that must not change; an empty one is as good as none."""
    for tag in sorted(data_set.keys()):
        number = int(tag)
        if tag.is_private or tag.element == 0 or tag.group <= 2 or tag.group == 0xFFFC:
            continue
        if top and (number in _FREE or (tag.group in _FREE_GROUPS and number not in _BOUND)):
            continue
        element = data_set[tag]
        if number == _LOSSY and str(element.value).strip() == "00":
            continue  # as good as not said
        if not _empty(element):
            yield number, element


def _empty(element: DataElement) -> bool:
    value = element.value
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _same(mine: DataElement, other: DataElement, swapped: bool) -> bool:
    if "SQ" in (mine.VR, other.VR):
        if mine.VR != other.VR or len(mine.value) != len(other.value):
            return False
        for one, two in zip(mine.value, other.value, strict=True):
            here, there = dict(_bound(one, top=False)), dict(_bound(two, top=False))
            if here.keys() != there.keys() or not all(
                _same(here[tag], there[tag], swapped) for tag in here
            ):
                return False
        return True
    one, two = _plain(mine.value), _plain(other.value)
    if isinstance(one, bytes) or isinstance(two, bytes):
        one, two = _as_bytes(one), _as_bytes(two)
        return one == two or (swapped and one == _swap(two)) or _trimmed(one) == _trimmed(two)
    return one == two


def _plain(value: Any) -> Any:
    """A value without its padding and its type: bytes, or a tuple of numbers and texts."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    several = not isinstance(value, str) and hasattr(value, "__iter__")
    several = several and not hasattr(value, "family_name")  # a person's name
    return tuple(map(_one, value)) if several else (_one(value),)


def _one(value: Any) -> Any:
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(value)  # decimal strings
    except (TypeError, ValueError):
        return str(value).strip("\0 ")


def _as_bytes(value: Any) -> bytes:
    """Bytes, or the words that another reader made of them."""
    if isinstance(value, bytes):
        return value
    try:
        return np.array([int(v) & 0xFFFF for v in value], "<u2").tobytes()
    except (TypeError, ValueError):
        return b""


def _swap(value: bytes) -> bytes:
    return np.frombuffer(value, "<u2").byteswap().tobytes() if len(value) % 2 == 0 else value


def _trimmed(value: bytes) -> bytes:
    return value[:-1] if len(value) % 2 == 0 and value[-1:] == b"\0" else value

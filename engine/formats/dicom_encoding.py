"""How a DICOM file is written, whatever it says: preamble, file meta information, byte order, VR.

Devices write a data set in another form than the meta information declares: implicit though
explicit is said, meta information without VR or in big endian, none at all, or a data set that
is (or is not) deflated. The declared form is taken where elements can be read in it; otherwise
the one in which most of the first elements make sense, as pydicom and dcmtk do.

Source: PS3.5 7.1 (elements), PS3.10 7.1 (meta information), PS3.5 A.5 (deflated).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import VR

from engine.errors import CorruptImage

LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
UNDEFINED = 0xFFFFFFFF
CUT = "This DICOM file ends too early: send the complete file."
_VRS = frozenset(str(vr).encode("ascii") for vr in VR if len(str(vr)) == 2)
_WALK = 24  # elements that are tried; enough to tell forms apart, and quick
_META = 2  # group of the meta information


@dataclass(frozen=True)
class Encoding:
    """The form in which a data set is really written.

    Args:
        meta_end: First byte of the data set in the file.
        meta: File meta information; empty where the file has none.
        declared: Transfer syntax that the file says, or an empty UID.
        body, start: What offsets count in, and the first byte of the data set in it: the file
            itself, or the inflated data set.
        implicit: VRs are not written.
        little: Little endian.
        deflated: ``body`` was inflated.
    """

    meta_end: int
    meta: FileMetaDataset
    declared: UID
    body: bytes
    start: int
    implicit: bool
    little: bool
    deflated: bool

    @property
    def plain_syntax(self) -> UID:
        """The uncompressed transfer syntax of this form."""
        if self.deflated:
            return DeflatedExplicitVRLittleEndian
        if not self.little:
            return ExplicitVRBigEndian
        return ImplicitVRLittleEndian if self.implicit else ExplicitVRLittleEndian


def find(data: bytes, max_decoded_bytes: int) -> Encoding:
    """Find the form of a file.

    Raises:
        CorruptImage: Cut off, or it inflates beyond the limit.
    """
    meta_start = 132 if data[128:132] == b"DICM" else 0
    meta_end, implicit_meta, order = _skip_meta(data, meta_start)
    meta = FileMetaDataset()
    if meta_end > meta_start:
        meta = FileMetaDataset(
            read_dataset(
                io.BytesIO(data[meta_start:meta_end]),
                is_implicit_VR=implicit_meta,
                is_little_endian=order == "<",
            )
        )
    declared = UID(str(meta.get("TransferSyntaxUID", "")).strip("\0 "))
    forms = [(False, "<"), (True, "<"), (False, ">")]
    said = {
        ImplicitVRLittleEndian: (True, "<"),
        ExplicitVRBigEndian: (False, ">"),
    }.get(declared, (False, "<"))
    forms.sort(key=lambda form: form != said)  # the declared one wins where two are as good
    if declared == DeflatedExplicitVRLittleEndian:
        inflated = _inflated(data[meta_end:], max_decoded_bytes)
        if inflated is not None:
            return Encoding(meta_end, meta, declared, inflated, 0, False, True, True)
    walks = {form: _walk(data, meta_end, *form) for form in forms}
    best = max(forms, key=lambda form: walks[form])
    if not walks[best]:
        inflated = _inflated(data[meta_end:], max_decoded_bytes)
        if inflated is not None and _walk(inflated, 0, False, "<"):
            return Encoding(meta_end, meta, declared, inflated, 0, False, True, True)
        if declared == DeflatedExplicitVRLittleEndian:
            raise CorruptImage(CUT)
    return Encoding(meta_end, meta, declared, data, meta_end, best[0], best[1] == "<", False)


def _inflated(stream: bytes, max_bytes: int) -> bytes | None:
    """A deflated data set, also where a writer put a zlib head in front; None for any other.

    Raises:
        CorruptImage: It is cut off, or larger than the limit.
    """
    for window in (-15, 15):
        engine = zlib.decompressobj(window)
        try:
            body = engine.decompress(stream, max_bytes)
        except zlib.error:
            continue
        if not _walk(body, 0, False, "<"):
            continue
        if engine.unconsumed_tail or not engine.eof:
            raise CorruptImage(CUT)
        return body
    return None


def _skip_meta(data: bytes, at: int) -> tuple[int, bool, str]:
    """First byte after group 0002, whether it is written without VR, and its byte order.

    The group length is not asked: it is wrong in files that were edited.
    """
    order = ">" if data[at : at + 2] == b"\0\x02" else "<"
    group = struct.pack(order + "H", _META)
    implicit = data[at : at + 2] == group and data[at + 4 : at + 6] not in _VRS
    while at + 8 <= len(data) and data[at : at + 2] == group:
        vr = data[at + 4 : at + 6]
        if implicit:
            at += 8 + int(struct.unpack_from(order + "I", data, at + 4)[0])
        elif vr in LONG_VRS:
            if at + 12 > len(data):
                raise CorruptImage(CUT)
            at += 12 + int(struct.unpack_from(order + "I", data, at + 8)[0])
        else:
            at += 8 + int(struct.unpack_from(order + "H", data, at + 6)[0])
    if at > len(data):
        raise CorruptImage(CUT)
    return at, implicit, order


def _walk(body: bytes, at: int, implicit: bool, order: str) -> int:
    """How many of the first elements make sense in a form: tags ascend, values end in the file."""
    last, count = -1, 0
    while count < _WALK and at + 8 <= len(body):
        group, element = struct.unpack_from(order + "HH", body, at)
        tag = group << 16 | element
        if tag <= last or group in (0, _META, 0xFFFE):
            return count if count > 2 else 0
        vr = body[at + 4 : at + 6]
        if implicit:
            (length,) = struct.unpack_from(order + "I", body, at + 4)
            at += 8
        elif vr not in _VRS:
            return count if count > 2 else 0
        elif vr in LONG_VRS:
            if at + 12 > len(body):
                return count
            (length,) = struct.unpack_from(order + "I", body, at + 8)
            at += 12
        else:
            (length,) = struct.unpack_from(order + "H", body, at + 6)
            at += 8
        if length == UNDEFINED:
            return count + 1 if count else 0
        at += length
        if at > len(body):
            return count if count > 2 else 0
        last, count = tag, count + 1
    return count

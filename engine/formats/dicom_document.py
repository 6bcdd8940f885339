"""DICOM objects without a picture that belong to a study: reports, presentation states, key objects
and encapsulated documents.

There is nothing in them that could be masked and shown, so they are sealed whole. In their place
stands a neutral picture whose only row that is not grey is the digest of the file: two documents
are two pictures, and what is restored is proven. The masked file of a document is that picture
under a mask; the original comes back byte for byte.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from engine.errors import CorruptImage
from engine.formats import dicom_encoding
from engine.formats.dicom_encoding import CUT
from engine.formats.dicom_file import quiet, text
from engine.formats.limits import check_items, check_size

#: Classes that are taken, by the beginning of their UIDs (PS3.4 B.5), and what people call them.
_KINDS = {
    "1.2.840.10008.5.1.4.1.1.88.59": "key objects",
    "1.2.840.10008.5.1.4.1.1.88.": "report",
    "1.2.840.10008.5.1.4.1.1.11.": "presentation state",
    "1.2.840.10008.5.1.4.1.1.104.": "encapsulated document",
}
_SOP_INSTANCE = 0x00080018
#: The picture in place of a document, in px.
_WIDTH, _HEIGHT, _GREY = 256, 64, 128


def kind_of(sop_class: str) -> str:
    """What people call an object of this class; empty where it is no document."""
    return next((name for uid, name in _KINDS.items() if sop_class.startswith(uid)), "")


def is_document(data: bytes, max_bytes: int) -> bool:
    """Is a DICOM file a document that is taken? Nothing behind its class is read.

    Args:
        max_bytes: That a deflated file may inflate to.
    """
    try:
        return bool(kind_of(text(_read(data, max_bytes, last=_SOP_INSTANCE), "SOPClassUID")))
    except Exception:  # noqa: BLE001 - what cannot be read is for the reader of images to refuse
        return False


def header(data: bytes, max_bytes: int) -> Dataset:
    """The data set of a document.

    Raises:
        CorruptImage: Damaged or cut off.
        ImageTooLarge: It inflates beyond the limit, or has too many items.
    """
    try:
        return _read(data, max_bytes, last=None)
    except (MemoryError, RecursionError, ValueError, EOFError, OSError, KeyError) as err:
        raise CorruptImage("This DICOM file is damaged: its data elements cannot be read.") from err


def _read(data: bytes, max_bytes: int, last: int | None) -> Dataset:
    with quiet():
        form = dicom_encoding.find(data, max_bytes)
        check_items(form.body, little=form.little)
        stream = io.BytesIO(form.body)
        stream.seek(form.start)
        found = read_dataset(
            stream,
            is_implicit_VR=form.implicit,
            is_little_endian=form.little,
            stop_when=None if last is None else lambda tag, vr, length: int(tag) > last,
        )
        # A deflated data set may have a byte of padding behind it.
        if last is None and len(form.body) - stream.tell() > 1:
            raise CorruptImage(CUT)
        return found


def decode(
    data: bytes, max_side_px: int, max_bytes: int
) -> tuple[np.ndarray, tuple[int, int], dict[str, Any]]:
    """The picture in place of a document, with its block grid and facts, as in an ``Image``.

    Raises:
        CorruptImage, ImageTooLarge: As :func:`header`.
    """
    found = header(data, max_bytes)
    kind = kind_of(text(found, "SOPClassUID"))
    check_size(_WIDTH, _HEIGHT, 1, 1, max_side_px, max_bytes)
    pixels = np.full((1, _HEIGHT, _WIDTH), _GREY, np.uint8)
    digest = hashlib.sha256(data).digest()
    pixels[0, 0, : len(digest)] = np.frombuffer(digest, np.uint8)
    return pixels, (1, 1), {
        "bits": 8,
        "colour": "grey",
        "converted": True,  # masked as PNG, and sealed whole
        "modality": text(found, "Modality")[:16],
        "sealed_frames": (0,),
        "whole": kind,
    }  # fmt: skip

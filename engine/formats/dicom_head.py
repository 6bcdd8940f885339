"""The beginning of a file: whose it is and of which study, before the file is sent whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from pydicom.filereader import read_dataset

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import dicom, dicom_encoding, dicom_study, kinds
from engine.formats.dicom_file import quiet
from engine.records import Format

#: The last element that is read: Series Instance UID.
_LAST = 0x0020000E


def read(heads: Sequence[bytes]) -> tuple[dict[str, Any], ...]:
    """What the first bytes of files say.

    Args:
        heads: Of each file its first bytes, cut anywhere.

    Returns:
        For each ``hints`` and ``study`` as of a whole file, or ``refused``: why no file that begins
        so is taken. An empty dictionary for other pictures, and for what cannot be read so far.
        Sensitive.
    """
    return tuple(_read(bytes(head)) for head in heads)


def _read(head: bytes) -> dict[str, Any]:
    try:
        if kinds.sniff(head) is not Format.DICOM:
            return {}
    except UnsupportedFormat as err:
        return {"refused": err.message}
    except CorruptImage:  # not a byte of it
        return {}
    try:
        with quiet():
            form = dicom_encoding.find(head, 1 << 24)
            stream = io.BytesIO(form.body)
            stream.seek(form.start)
            header = read_dataset(
                stream,
                is_implicit_VR=form.implicit,
                is_little_endian=form.little,
                stop_when=lambda tag, vr, length: int(tag) > _LAST,
            )
            return {"hints": dicom.patient_hints(header), "study": dicom_study.study_facts(header)}
    except Exception:  # noqa: BLE001 - a file that is cut or broken raises anything; it is sent whole
        return {}

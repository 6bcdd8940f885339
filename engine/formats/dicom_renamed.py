"""A masked DICOM file under other identifiers: new UIDs and a new pseudonym, all else as it is.

Two recipients who get the same images under identifiers of their own cannot join them by these.
What was mapped consistently stays consistent: a study is one study under its new UID.
"""

from __future__ import annotations

import io

from pydicom import dcmread
from pydicom.uid import UID

from engine.formats.dicom_attributes import detach
from engine.formats.dicom_file import quiet, text
from engine.formats.dicom_header import Pseudonyms, mapped, names_a_class


def renamed(masked: bytes, key: bytes) -> bytes:
    """A masked file under the identifiers of one recipient.

    Args:
        masked: As this product wrote it.
        key: 32 bytes, the recipient's: the same gives the same identifiers.
    """
    names = Pseudonyms(key)
    with quiet():
        data = dcmread(io.BytesIO(masked))
        detach(data)  # the same envelope in two recipients' files would join them
        for element in data.iterall():
            if element.VR == "UI" and element.value and not names_a_class(element.tag):
                element.value = mapped(element, names.uid).value
        person = text(data, "PatientID")
        if person:
            data.PatientID = data.PatientName = names.person(person)
        data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID") or UID("2.25.0")
        out = io.BytesIO()
        data.save_as(out, enforce_file_format=True)
        return out.getvalue()

"""A study as files for a viewer or a disc: in folders, with a DICOMDIR and what is missing.

Names of files say nothing of anybody: they are numbers. One file at a time is in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from engine.errors import CorruptImage, NotFound, PermissionDenied, SealError
from engine.formats import images
from engine.formats.dicom_directory import Directory
from engine.host import Host
from engine.records import Format, ImageRecord, ImageState, Series

DIRECTORY, READ_ME = "DICOMDIR", "README.TXT"
#: Folders of files that are in the directory, of pictures, and of DICOM files that cannot be in it.
_DICOM, _PICTURES, _OTHER = "DICOM", "PICTURES", "OTHER"


class Note(StrEnum):
    """What a person is told of the files, each with the number of images."""

    UNSEALED = "Not in here: {} not sealed yet."
    DOCUMENT = "Not in here: {} without a picture (reports and such). They have no masked form."
    GONE = "Not in here: {} changed, withdrawn or erased meanwhile."
    WITHHELD = "Not in here: {} with content that your account may not open."
    BROKEN = "Not in here: {} that could not be verified. Tell your administrator."
    UNLISTED = "In the folder OTHER: {} in DICOM that cannot be in a DICOMDIR."
    RECODED = "Of {}, the pixels are the original's, but the bytes of the file are not."


@dataclass(frozen=True)
class Taken:
    """The file of an image. ``note`` is what to tell of it."""

    data: bytes = field(repr=False)
    note: Note | None = None


def chosen(series: Sequence[Series], series_id: str) -> list[tuple[int, int, ImageRecord]]:
    """Number of series and of image, and the image, in the order of the study.

    Args:
        series_id: Only this series; empty for all.
    """
    return [
        (s, i, image)
        for s, one in enumerate(series, 1)
        if series_id in ("", one.series_id)
        for i, image in enumerate(one.images, 1)
    ]


def files(
    places: Iterable[tuple[int, int, ImageRecord]],
    take: Callable[[ImageRecord], Taken],
    about: str,
    host: Host,
) -> Iterator[tuple[str, bytes]]:
    """Files of a study, then its ``DICOMDIR`` where there is DICOM in it, and ``README.TXT``.

    Args:
        take: Gives the file of an image. What is not there, may not be opened or is broken is left
            out, and said; any other error ends it.
        about: What these files are, in ASCII.

    Yields:
        Path, its parts joined by ``/``, and content.
    """
    directory, notes = Directory(), Counter[Note]()
    given = 0
    for series, number, image in places:
        if image.state is not ImageState.RELEASED:
            notes[Note.UNSEALED] += 1
            continue
        try:
            taken = take(image)
        except (NotFound, PermissionDenied, SealError, CorruptImage) as err:
            notes[_why(err)] += 1
            continue
        if taken.note is not None:
            notes[taken.note] += 1
        if taken.note is Note.DOCUMENT:
            continue
        place = (f"SE{series:06}", f"IM{number:06}")
        kind = images.sniff(taken.data)
        if kind is not Format.DICOM:
            folder, ending = _PICTURES, f".{kind.suffix.upper()}"
        elif directory.add((_DICOM, *place), images.directory_entry(taken.data)):
            folder, ending = _DICOM, ""
        else:
            notes[Note.UNLISTED] += 1
            folder, ending = _OTHER, ".DCM"
        given += 1
        yield "/".join((folder, *place)) + ending, taken.data
    if directory.files:
        yield DIRECTORY, directory.write(host.random(16))
    yield READ_ME, _read_me(about, given, notes, listed=bool(directory.files))


def _why(err: Exception) -> Note:
    if isinstance(err, NotFound):
        return Note.GONE
    return Note.WITHHELD if isinstance(err, PermissionDenied) else Note.BROKEN


def _read_me(about: str, given: int, notes: Counter[Note], listed: bool) -> bytes:
    viewer = [
        "Open the file DICOMDIR or the folder DICOM with a viewer.",
        "A date of 1900-01-01 means that the file says none.",
    ]
    lines = [
        about,
        f"In here: {_images(given)}.",
        *(str(note).format(_images(notes[note])) for note in Note if notes[note]),
        "",
        *(viewer if listed else ()),
        "Pictures that are no DICOM are in the folder PICTURES.",
    ]
    return "\r\n".join([*lines, ""]).encode("ascii")


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"

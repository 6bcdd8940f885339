"""Uploads of whole studies: their files, groups and pieces, in memory until they are drafts.

After a restart of the server the page sends its list again; files that are drafts already answer as
duplicates.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from api.intake_schemas import (
    MOST_BYTES,
    CameBack,
    FileState,
    Group,
    IntakeState,
    ListedFile,
    Listing,
    Overview,
    Record,
    State,
    StudyOfGroup,
    Target,
)
from api.looking import Looking
from api.sealing import Sealing
from engine import Engine, Header, Patient, Permission, TakeOptions, errors

#: First bytes of a file that say whose it is, and of how many files at once.
HEAD_BYTES: Final = 64 << 10
HEADS_AT_ONCE: Final = 64
#: Lists of files that are remembered for one person.
_REMEMBERED: Final = 8
#: Pieces of a file of which no more came for so long are dropped.
_IDLE_SECONDS: Final = 600.0
#: An upload of which nothing came for so long is under way in no tab.
_QUIET_SECONDS: Final = 60.0
#: One of which nothing came for so long is forgotten: longer than a shift, and gone the next day.
_FORGOTTEN_SECONDS: Final = 12 * 3600.0
_NONE = (
    "This upload is not known any more. Drop the files again: what is here already is not taken in"
    " twice."
)


@dataclass
class _File:
    """One file of a list.

    Args:
        head: Digest of its first bytes, once they came: other files may have its name and size.
        pieces: What of it is here.
        busy: All of it is here, and it is being taken in.
    """

    listed: ListedFile = field(repr=False)
    head: bytes = b""
    state: State = State.WAITING
    group: int | None = None
    pieces: bytearray = field(default_factory=bytearray, repr=False)
    touched_s: float = 0.0
    busy: bool = False
    message: str = ""
    image_id: str | None = None


@dataclass
class _Group:
    """Whoever some files name, and where a person said they belong.

    Args:
        part: Of files without a number, the study or folder that all of these are of.
    """

    header: Header = field(repr=False)
    part: str = field(default="", repr=False)
    places: list[int] = field(default_factory=list)
    studies: Counter[tuple[str, str, str, str]] = field(default_factory=Counter, repr=False)
    series: dict[tuple[str, str, str, str], set[str]] = field(default_factory=dict, repr=False)
    patient_id: str | None = None
    reason: str = field(default="", repr=False)


@dataclass
class _Intake:
    """A list of files that somebody sends.

    Args:
        digest: Of the list; empty where no other upload goes on with it.
        unproven: Places of files that came under an earlier list like this one, and whose first
            bytes do not say yet that they are the same.
        touched_s: When something of it came last.
    """

    intake_id: str
    account: str
    digest: bytes
    listing: Listing = field(repr=False)
    files: list[_File] = field(repr=False)
    groups: dict[tuple[str, ...], _Group] = field(default_factory=dict, repr=False)
    unproven: set[int] = field(default_factory=set)
    touched_s: float = field(default_factory=time.monotonic)

    @property
    def complete(self) -> bool:
        return all(f.state is not State.WAITING for f in self.files)

    @property
    def goes_on(self) -> bool:
        """May another upload of the same list go on with it?"""
        known = all(file.head for file in self.files)
        return known and not self.complete and not any(g.part for g in self.groups.values())

    def quiet_for(self, seconds: float) -> bool:
        """Has nothing of it come for so long?"""
        busy = any(file.busy for file in self.files)
        return not busy and time.monotonic() - self.touched_s > seconds


class Intakes:
    """All uploads of this server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: dict[str, _Intake] = {}
        self._lock = threading.Lock()
        self.looking = Looking(engine)

    def stop(self) -> None:
        """Complete what workers are at."""
        self.looking.stop()

    def open(self, token: str, listing: Listing) -> IntakeState:
        """Accept a list of files; the same files that were not completed go on where they stopped.

        A list like an earlier one goes on only with the first bytes of all its files: those of
        another patient may have the same names and sizes. Files without a patient's number do not
        go on: pictures of two patients may begin alike, too.

        Raises:
            InputError: More bytes than one upload may have, or no such profile.
        """
        if sum(f.size for f in listing.files) > MOST_BYTES:
            raise errors.ImageTooLarge(
                "These files are more than 2 GB together. Send them in several parts."
            )
        self._engine.profiles.get(listing.profile)
        account = self._engine.caller(token, activity=False).username
        text = json.dumps(listing.model_dump(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).digest()
        with self._lock:
            self._forget_old()
            own = [i for i in self._held.values() if i.account == account]
            for old in own[: max(0, len(own) - _REMEMBERED + 1)]:
                del self._held[old.intake_id]
            intake = _Intake(
                f"in_{secrets.token_hex(12)}", account, digest, listing,
                [_File(f) for f in listing.files],
            )  # fmt: skip
            for before in own:
                if before.digest == digest and before.goes_on:
                    intake.files, intake.groups = before.files, before.groups
                    intake.unproven = set(range(len(before.files)))
            self._held[intake.intake_id] = intake
        self.looking.begin(account)
        return _state(intake)

    def get(self, account: str, intake_id: str) -> IntakeState:
        """An upload of this account. Raises NotFound."""
        with self._lock:
            return _state(self._own(account, intake_id))

    def drop(self, account: str, intake_id: str) -> None:
        """Forget an upload, and what was said of whose its files are: files that are here stay.

        Raises:
            NotFound: No such upload.
        """
        with self._lock:
            intake = self._own(account, intake_id)
            self._end(intake)
            del self._held[intake_id]

    def dismiss(self, token: str) -> None:
        """Forget one's uploads that did not arrive whole and of which nothing comes any more: files
        that are here stay drafts."""
        account = self._engine.caller(token).username
        with self._lock:
            for files in self._unfinished(account):
                if all(i.quiet_for(_QUIET_SECONDS) for i in files):
                    for intake in files:
                        del self._held[intake.intake_id]

    def _unfinished(self, account: str) -> list[list[_Intake]]:
        """Confirmed uploads of an account that are not complete; together those that have the same
        files, because one goes on with those of another. Callers hold the lock."""
        same: dict[int, list[_Intake]] = {}
        for intake in self._held.values():
            # What nobody said where it belongs was given up before it was sent.
            confirmed = any(group.patient_id for group in intake.groups.values())
            if intake.account == account and confirmed and not intake.complete:
                same.setdefault(id(intake.files), []).append(intake)
        return list(same.values())

    def _forget_old(self) -> None:
        """Callers hold the lock."""
        for intake in list(self._held.values()):
            if intake.quiet_for(_FORGOTTEN_SECONDS):
                del self._held[intake.intake_id]

    def _end(self, intake: _Intake) -> None:
        """No other upload goes on with these files. Callers hold the lock."""
        for other in self._held.values():
            if other.files is intake.files:
                other.digest = b""

    def headers(
        self, token: str, intake_id: str, framed: bytes, patient_id: str | None
    ) -> IntakeState:
        """Group files by whom their first bytes name.

        Args:
            framed: For each file its place and the length of its beginning, 4 bytes each with the
                highest first, and the beginning.
            patient_id: The patient that the person chose for all of them.

        Raises:
            InputError: Not framed so, or too many at once.
            NotFound: No such upload or patient, or it goes on with one of other files: it is
                forgotten, and the same list begins anew.
        """
        account = self._engine.caller(token, activity=False).username
        places, beginnings = [], []
        for place, beginning in _frames(framed):
            places.append(place)
            beginnings.append(beginning)
        with self._lock:
            intake = self._own(account, intake_id)
            if any(place >= len(intake.files) for place in places):
                raise errors.InputError("A file of this upload was not listed. Drop them again.")
            for place, beginning in zip(places, beginnings, strict=True):
                self._prove(intake, place, beginning)
        said = self._engine.intakes.headers(token, beginnings, patient_id)
        with self._lock:
            for place, header in zip(places, said, strict=True):
                _grouped(intake, place, header)
            return _state(intake)

    def _prove(self, intake: _Intake, place: int, beginning: bytes) -> None:
        """Note the digest of a file's first bytes. Raises NotFound where it had another."""
        file = intake.files[place]
        head = hashlib.sha256(beginning).digest() if beginning else b""  # none could be read
        if file.head not in (b"", head):
            self._end(intake)
            if intake.unproven:
                del self._held[intake.intake_id]
            raise errors.NotFound(_NONE)
        file.head = head
        if head:
            intake.unproven.discard(place)

    def target(self, token: str, intake_id: str, targets: Sequence[Target]) -> IntakeState:
        """Note where groups belong; makes records that are asked for.

        Raises:
            InputError: A reason is missing, or a record cannot be made of what the files say.
            NotFound: No such upload, group or patient.
        """
        account = self._engine.caller(token, activity=False).username
        with self._lock:
            intake = self._own(account, intake_id)
            groups = list(intake.groups.values())
        for target in targets:
            if target.group >= len(groups):
                raise errors.NotFound("There is no such group of files in this upload.")
            group = groups[target.group]
            patient = self._record(token, group, target)
            differs = group.header.differs if _is(group.header.record, patient) else None
            if differs is None:
                differs = self._engine.intakes.differs(
                    token, patient.patient_id, group.header.hints
                )
            if differs and not target.reason.strip():
                raise errors.OtherPatient(
                    "These files name another patient than the record. Say why they belong there.",
                    differs=list(differs),
                )
            group.patient_id, group.reason = patient.patient_id, target.reason.strip()
        with self._lock:
            for file in intake.files:
                if file.state is State.OTHER_PATIENT:  # a person has answered since
                    file.state, file.message = State.WAITING, ""
            return _state(intake)

    def _record(self, token: str, group: _Group, target: Target) -> Patient:
        if target.patient_id is not None:
            return self._engine.patients.get(token, target.patient_id)
        hints = group.header.hints
        if not hints.get("id"):
            raise errors.InputError(
                "These files give no patient number. Say under which record they belong."
            )
        age = hints.get("age")
        return self._engine.patients.create(
            token, str(hints.get("id", "")), str(hints.get("name", "")),
            age if isinstance(age, int) and 0 <= age <= 130 else None,
        )  # fmt: skip

    def piece(self, token: str, intake_id: str, place: int, offset: int, data: bytes) -> FileState:
        """Take a piece of a file in; with its last one, take the file in.

        Pieces that are here already are accepted and not kept twice.

        Raises:
            NotFound: No such upload or file.
            InputError: Beyond the file's size, or nobody said where it belongs.
            StorageBusy: Too many unfinished files are in memory.
        """
        account = self._engine.caller(token).username
        with self._lock:
            intake = self._own(account, intake_id)
            if place >= len(intake.files):
                raise errors.NotFound("There is no such file in this upload.")
            file = intake.files[place]
            if place in intake.unproven:
                raise errors.InputError("Send the beginning of this file first.")
            if file.state is not State.WAITING:
                return _file_state(place, file)
            if file.busy:
                raise errors.StorageBusy("This file is being taken in. Ask again in a moment.")
            group = None if file.group is None else list(intake.groups.values())[file.group]
            if group is None or group.patient_id is None:
                raise errors.InputError("Say first under which record this file belongs.")
            whole = self._joined(account, file, offset, data)
            if whole is None:
                return _file_state(place, file)
            file.busy = True
        listing = intake.listing
        options = TakeOptions(listing.profile, file.listed.folder, listing.seal, group.reason)
        try:
            self._take(token, file, group.patient_id, whole, options)
        finally:
            intake.touched_s = time.monotonic()
            file.busy = False
        return _file_state(place, file)

    def _joined(self, account: str, file: _File, offset: int, data: bytes) -> bytes | None:
        """The whole file, once this piece completes it. Raises InputError, StorageBusy."""
        size = file.listed.size
        if offset + len(data) > size:
            raise errors.InputError("This file has changed since it was dropped. Drop it again.")
        if offset == 0 and len(data) == size:
            file.pieces = bytearray()
            return data
        if offset != len(file.pieces):  # sent again, or one before it was lost
            return None
        if offset == 0:
            self._make_room(account, size)
        file.pieces += data
        file.touched_s = time.monotonic()
        if len(file.pieces) < size:
            return None
        whole = bytes(file.pieces)
        file.pieces = bytearray()
        return whole

    def _make_room(self, account: str, size: int) -> None:
        """Drop pieces that nobody goes on with. Raises StorageBusy where that is not enough."""
        now, held = time.monotonic(), Counter[str]()
        # Uploads that go on with the same files share them.
        for intake in {id(i.files): i for i in self._held.values()}.values():
            for file in intake.files:
                if file.pieces and now - file.touched_s > _IDLE_SECONDS:
                    file.pieces = bytearray()
                held[intake.account] += file.listed.size if file.pieces else 0
        most = self._engine.settings.batch_limit_mb << 20
        # Half of it for one account: whoever drops large files and leaves stops nobody else.
        if held.total() + size > most or (held[account] and held[account] + size > most // 2):
            raise errors.StorageBusy("The server is receiving other large files. It goes on soon.")

    def _take(
        self, token: str, file: _File, patient_id: str, data: bytes, options: TakeOptions
    ) -> None:
        try:
            record = self._engine.intakes.take(token, patient_id, file.listed.name, data, options)
        except errors.DuplicateImage as err:
            file.state, file.message = State.DUPLICATE, err.message
            file.image_id = err.facts["image_id"]
            if err.facts["patient_id"] != patient_id:
                file.message = "This image has already been uploaded, under another patient."
        except errors.OtherPatient as err:
            file.state, file.message = State.OTHER_PATIENT, err.message
        except errors.InputError as err:
            file.state, file.message = State.REFUSED, err.message
        else:
            file.state, file.image_id = State.TAKEN, record.image_id
            self.looking.add(token, [record.image_id])

    def overview(self, token: str, sealing: Sealing) -> Overview:
        """How far the uploads and drafts of whoever holds this token are."""
        caller = self._engine.caller(token, activity=False)
        seals = sealing.of(caller.username)
        if self._engine.sessions.may(token, Permission.UPLOAD):
            self.looking.resume(token)
        standing = self.looking.standing(caller.username)
        with self._lock:
            self._forget_old()
            listed = missing = given_up = 0
            for same in self._unfinished(caller.username):
                files = same[0].files
                waiting = sum(file.state is State.WAITING for file in files)
                listed, missing = listed + len(files), missing + waiting
                given_up += waiting * all(i.quiet_for(_QUIET_SECONDS) for i in same)
        return Overview(
            listed=listed,
            arrived=listed - missing,
            given_up=given_up,
            to_look=standing.waiting,
            looked=standing.looked,
            sealed=standing.outcomes["sealed"],
            ready=standing.outcomes["draft"],
            review=standing.outcomes["review"],
            failed=standing.outcomes["failed"],
            per_second=standing.per_second,
            seconds_left=standing.seconds_left,
            sealing=sum(seal.at_work for seal in seals),
            sealed_beside=sum(seal.sealed for seal in seals),
            came_back=[
                CameBack(image_id=seal.image_id, title=seal.title, message=seal.message)
                for seal in seals
                if seal.message
            ],
        )

    def _own(self, account: str, intake_id: str) -> _Intake:
        intake = self._held.get(intake_id)
        if intake is None or intake.account != account:
            raise errors.NotFound(_NONE)
        intake.touched_s = time.monotonic()
        return intake


def _is(record: Patient | None, patient: Patient) -> bool:
    return record is not None and record.patient_id == patient.patient_id


def _frames(framed: bytes) -> Iterator[tuple[int, bytes]]:
    at, count = 0, 0
    while at < len(framed):
        if at + 8 > len(framed) or count >= HEADS_AT_ONCE:
            raise errors.InputError("The beginnings of the files cannot be read. Drop them again.")
        place, length = struct.unpack_from(">II", framed, at)
        at += 8
        if length > HEAD_BYTES or at + length > len(framed):
            raise errors.InputError("The beginnings of the files cannot be read. Drop them again.")
        yield place, framed[at : at + length]
        at, count = at + length, count + 1


def _grouped(intake: _Intake, place: int, header: Header) -> None:
    hints, study = header.hints, header.study
    file = intake.files[place]
    if header.refused and file.group is None:
        file.state, file.message = State.REFUSED, header.refused
    if file.state is not State.WAITING:
        return
    number, *who = (str(hints.get(name, "")).strip() for name in ("id", "name", "birth_date"))
    # Two files without a number need not be of one person: a person is asked study by study.
    part = "" if number else str(study.get("study_uid", "")) or f"folder {file.listed.folder}"
    group = intake.groups.setdefault((number, *who, part), _Group(header, part))
    group.header = header
    if file.group is not None:
        return
    file.group = list(intake.groups.values()).index(group)
    group.places.append(place)
    said = ("study_date", "study_description", "accession_number", "modality")
    date, what, accession, modality = (str(study.get(name, "")) for name in said)
    group.studies[date, what, accession, modality] += 1
    group.series.setdefault((date, what, accession, modality), set()).add(
        str(study.get("series_uid", ""))
    )


def _file_state(place: int, file: _File) -> FileState:
    return FileState(
        place=place, state=file.state, received=len(file.pieces), message=file.message,
        image_id=file.image_id,
    )  # fmt: skip


def _state(intake: _Intake) -> IntakeState:
    return IntakeState(
        intake_id=intake.intake_id,
        files=[
            FileState(place=place, state=State.WAITING, received=0)
            if place in intake.unproven
            else _file_state(place, file)
            for place, file in enumerate(intake.files)
        ],
        groups=[_group(number, group) for number, group in enumerate(intake.groups.values())],
    )


def _study(group: _Group, said: tuple[str, str, str, str], files: int) -> StudyOfGroup:
    date, what, accession, modality = said
    return StudyOfGroup(
        date=date, description=what, accession_number=accession, modality=modality,
        series=len(group.series[said]), files=files,
    )  # fmt: skip


def _group(number: int, group: _Group) -> Group:
    hints = group.header.hints
    age = hints.get("age")
    record = group.header.record
    return Group(
        group=number,
        number=str(hints.get("id", "")),
        name=str(hints.get("name", "")),
        birth_date=str(hints.get("birth_date", "")),
        age=age if isinstance(age, int) else None,
        files=len(group.places),
        places=group.places,
        studies=[_study(group, said, files) for said, files in sorted(group.studies.items())],
        part=group.part,
        record=None if record is None else Record.model_validate(record),
        differs=list(group.header.differs),
        ready=group.patient_id is not None,
    )

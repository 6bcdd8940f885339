"""How often a journey calls the decoders' process: each call ships the whole file."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import Detection, Region, Settings, Source, errors
from engine.formats import images
from engine.formats.sandbox import Sandbox
from engine.records import Format, Image
from engine.seal import pipeline
from engine.store.open_images import OpenImages
from tests import builders
from tests.conftest import PASSWORD, WHY, Ward
from tests.fakes import FakeHost

#: One of each that is read, taken apart or put together by code of its own.
FORMATS = (
    "PNG grey 8", "PNG grey 16", "PNG palette", "JPEG 4:2:0", "JPEG progressive", "TIFF grey",
    "TIFF JPEG", "BMP RGB", "WebP lossy", "DICOM ExplicitVRLittleEndian 12 bit",
    "DICOM DeflatedExplicitVRLittleEndian RGB", "DICOM RLELossless cine",
    "DICOM JPEG2000Lossless grey 8", "DICOM JPEGBaseline8Bit RGB",
)  # fmt: skip
LIMITS = images.Limits.of(Settings())
NAME = Detection(Region(16, 16, 80, 32), "text", 0.9, "scripted")
CHEST = Detection(Region(80, 64, 144, 112), "thorax", 0.9, "scripted")
FILES = {
    "PNG": builders.png(builders.labelled()[0]),
    "JPEG": builders.jpeg(builders.labelled(colour=True)[0]),
    "DICOM": builders.dicom(builders.labelled()[0]),
}


class Calls:
    """Operations of the decoders' process that were called since this was last asked."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def new(self) -> list[str]:
        names, self.names = self.names, []
        return names


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    counted, real = Calls(), Sandbox.call

    def call(box: Sandbox, operation: str, *arguments: Any, **named: Any) -> Any:
        counted.names.append(operation)
        return real(box, operation, *arguments, **named)

    monkeypatch.setattr(Sandbox, "call", call)
    return counted


def test_a_file_of_any_format_is_shipped_twice_to_upload_twice_to_seal_and_once_to_restore(
    ward: Ward, calls: Calls
) -> None:
    engine, technician, doctor = ward.engine, ward.team.technician, ward.team.doctor
    files = builders.every_format()
    for kind in FORMATS:
        data = files[kind]
        image_id = ward.upload(data, "Erika", found=[NAME])
        assert calls.new() == ["extent", "decode"], kind
        view = engine.drafts.open(technician, image_id)
        engine.drafts.frame(technician, view.handle)
        assert calls.new() == [], kind
        engine.drafts.seal(technician, image_id, view.detections)
        assert calls.new() == ["dissect", "prove"], kind
        opened = engine.images.restore(doctor, image_id, WHY)
        engine.images.restored_frame(doctor, opened.handle)
        file = engine.images.restored_file(doctor, opened.handle)
        assert calls.new() == ["restore"], kind
        assert (file.data == data) == (opened.proof == "bytes"), kind
        engine.images.masked_frame(technician, image_id)
        assert len(calls.new()) == 1, kind


@pytest.mark.parametrize("kind", FILES)
def test_a_batch_ships_a_file_four_times(ward: Ward, calls: Calls, kind: str) -> None:
    ward.detector.found = [NAME]
    [item] = ward.engine.batches.seal(
        ward.team.technician, ward.patient_id, [Source("a", lambda: FILES[kind])], few=True
    )
    assert item.state == "sealed"
    assert calls.new() == ["extent", "decode", "dissect", "prove"]


@pytest.mark.parametrize("kind", FILES)
def test_a_part_and_the_whole_that_proves_it_are_restored_in_one_call(
    ward: Ward, calls: Calls, kind: str
) -> None:
    image_id = ward.seal(FILES[kind], found=[NAME, CHEST])
    ward.engine.care.set_restorable_classes(ward.team.administrator, "doctor", ["thorax"])
    calls.new()
    opened = ward.engine.images.restore(ward.team.doctor, image_id, WHY)
    assert (opened.partial, opened.proof, opened.withheld) == (True, "outside", ("text",))
    assert set(opened.decrypt_ms) == set(opened.opened)
    assert calls.new() == ["restore"]


@pytest.mark.parametrize("kind", FILES)
def test_an_upload_that_is_checked_first_is_decoded_once(
    ward: Ward, calls: Calls, kind: str
) -> None:
    technician = ward.team.technician
    ward.engine.drafts.check(technician, "a", FILES[kind])
    image_id = ward.upload(FILES[kind], "b", found=[NAME])
    assert calls.new() == ["extent", "decode"]
    assert ward.engine.drafts.open(technician, image_id).name == "b"


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_longer_in_memory_or_another_session_s_is_decoded_again(
    ward: Ward, host: FakeHost, calls: Calls, kind: str
) -> None:
    engine = ward.engine
    image_id = ward.upload(FILES[kind], found=[NAME])
    other = engine.sessions.sign_in("technician", PASSWORD).token
    calls.new()
    engine.drafts.open(other, image_id)
    assert calls.new() == ["decode"]
    view = engine.drafts.open(ward.team.technician, image_id)
    assert calls.new() == []
    host.advance(minutes=6)
    with pytest.raises(errors.NotFound):
        engine.drafts.frame(ward.team.technician, view.handle)
    view = engine.drafts.open(ward.team.technician, image_id)
    assert calls.new() == ["decode"]
    host.advance(minutes=6)
    engine.drafts.seal(ward.team.technician, image_id, view.detections)
    assert calls.new() == ["decode", "dissect", "prove"]


def test_opening_what_was_just_sent_is_in_the_log_like_any_other_opening(ward: Ward) -> None:
    image_id = ward.upload(FILES["PNG"], found=[NAME])
    ward.engine.drafts.open(ward.team.technician, image_id)
    actions = [e.action for e in ward.engine.context.audit.of_image(image_id)]
    assert sorted(actions) == ["draft.open", "image.upload"]


def test_a_reopened_draft_is_not_the_one_that_was_sent(ward: Ward, calls: Calls) -> None:
    """The image lives under a new key and file: what is kept of the old one is not taken."""
    image_id = ward.seal(FILES["PNG"], found=[NAME])
    ward.engine.withdrawals.flag(ward.team.doctor, image_id, "a name")
    calls.new()
    ward.engine.drafts.open(ward.team.technician, image_id)
    assert calls.new() == ["decode"]


# --- memory -------------------------------------------------------------------------------------


def picture(size: int) -> Image:
    return Image("a", Format.PNG, b"", np.zeros((1, size, 1), np.uint8))


def test_what_was_sent_never_closes_what_is_open(tmp_path: Path) -> None:
    viewings = OpenImages(FakeHost(tmp_path), timedelta(minutes=5), 100)
    viewings.add("doctor", "vw", "im_1", picture(60), "restoration")
    viewings.keep("technician", "im_2", picture(30), "blob")
    viewings.keep("technician", "im_3", picture(50), "blob")  # no room beside what is open
    assert viewings.kept("technician", "im_2", "blob") is not None
    assert viewings.kept("technician", "im_3", "blob") is None
    viewings.keep("technician", "im_4", picture(20), "blob")  # the oldest makes room
    assert viewings.kept("technician", "im_2", "blob") is None
    assert viewings.kept("technician", "im_4", "blob") is not None
    assert viewings.held_bytes == 80
    viewings.add("doctor", "vw2", "im_5", picture(35), "restoration")  # comes before what was sent
    assert viewings.kept("technician", "im_4", "blob") is None
    assert viewings.get("doctor", "vw").subject_id == "im_1"
    viewings.add("doctor", "vw3", "im_6", picture(100), "restoration")
    assert viewings.held_bytes == 100


def test_what_was_sent_ends_with_its_session_its_image_and_its_time(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    viewings = OpenImages(host, timedelta(minutes=5), 100)

    def kept() -> bool:
        return viewings.kept("one", "im_1", "blob") is not None

    def keep() -> None:
        viewings.keep("one", "im_1", picture(10), "blob")
        assert kept()

    keep()
    assert viewings.kept("two", "im_1", "blob") is None
    assert viewings.kept("one", "im_1", "another") is None
    viewings.close_session("two")
    assert kept()
    viewings.close_session("one")
    assert not kept()
    keep()
    viewings.close_subject("im_1")
    assert not kept()
    keep()
    viewings.add("one", "vw", "im_1", picture(10), "draft")
    assert not kept()
    assert viewings.held_bytes == 10
    keep()
    host.advance(minutes=5)
    assert not kept()
    assert viewings.held_bytes == 0


def test_what_was_sent_by_a_session_that_ended_meanwhile_is_not_kept(ward: Ward) -> None:
    engine, held = ward.engine, ward.engine.context.open_images
    token = engine.sessions.sign_in("technician", PASSWORD).token

    def sign_out(stage: str, share: float) -> None:
        if stage == "encrypting the original":
            engine.sessions.sign_out(token)

    ward.detector.found = [NAME]
    engine.drafts.upload(token, ward.patient_id, "a", FILES["PNG"], progress=sign_out)
    assert held.held_bytes == 0


@pytest.mark.parametrize("open_it", ["draft", "check", "restoration"])
def test_what_was_opened_for_a_session_that_ended_meanwhile_is_closed(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, open_it: str
) -> None:
    engine, held = ward.engine, ward.engine.context.open_images
    sealed, draft = ward.seal(FILES["PNG"], found=[NAME]), ward.upload(FILES["JPEG"], found=[NAME])
    held.close_session(engine.caller(ward.team.technician).session_id)
    who = "doctor" if open_it == "restoration" else "technician"
    token = engine.sessions.sign_in(who, PASSWORD).token
    real = Sandbox.call

    def call(box: Sandbox, operation: str, *arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(Sandbox, "call", real)
        engine.sessions.sign_out(token)
        return real(box, operation, *arguments, **named)

    monkeypatch.setattr(Sandbox, "call", call)
    if open_it == "draft":
        engine.drafts.open(token, draft)
    elif open_it == "check":
        engine.drafts.check(token, "b", FILES["DICOM"])
    else:
        engine.images.restore(token, sealed, WHY)
    with pytest.raises(errors.NotSignedIn):
        engine.caller(token)
    assert held.held_bytes == 0


def test_a_checked_file_whose_upload_fails_is_not_kept(ward: Ward) -> None:
    engine, held = ward.engine, ward.engine.context.open_images
    engine.drafts.check(ward.team.technician, "a", FILES["PNG"])
    assert held.held_bytes > 0

    def fail(stage: str, share: float) -> None:
        if stage == "encrypting the original":
            raise errors.StorageError("The disk is full.")

    with pytest.raises(errors.StorageError):
        engine.drafts.upload(
            ward.team.technician, ward.patient_id, "a", FILES["PNG"], progress=fail
        )
    assert held.held_bytes == 0


def test_an_upload_that_is_refused_at_its_row_is_not_kept(ward: Ward) -> None:
    engine, held = ward.engine, ward.engine.context.open_images
    token = ward.team.technician

    def send_it_first(stage: str, share: float) -> None:
        if stage == "encrypting the original":
            ward.upload(FILES["PNG"])
            held.close_session(engine.caller(token).session_id)

    ward.detector.found = [NAME]
    with pytest.raises(errors.DuplicateImage):
        engine.drafts.upload(token, ward.patient_id, "a", FILES["PNG"], progress=send_it_first)
    assert held.held_bytes == 0


def test_what_was_sent_is_closed_by_whoever_discards_it_at_once(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as its row is there, somebody can find the draft and destroy it."""
    engine, held = ward.engine, ward.engine.context.open_images
    write = engine.context.database.write
    other = engine.sessions.sign_in("technician", PASSWORD).token

    @contextmanager
    def discarded_after(*given: Any, **named: Any) -> Iterator[Any]:
        with write(*given, **named) as tx:
            yield tx
        monkeypatch.setattr(engine.context.database, "write", write)
        for draft in engine.drafts.waiting(other):
            engine.drafts.discard(other, draft.image_id, "the wrong file")

    def watch(stage: str, share: float) -> None:
        if stage == "encrypting the original":
            monkeypatch.setattr(engine.context.database, "write", discarded_after)

    ward.detector.found = [NAME]
    with pytest.raises(errors.NotFound):
        engine.drafts.upload(
            ward.team.technician, ward.patient_id, "a", FILES["PNG"], progress=watch
        )
    assert held.held_bytes == 0


@pytest.mark.parametrize(
    "kind", ["PNG grey 8", "JPEG 4:2:0", "TIFF palette", "DICOM ExplicitVRLittleEndian 12 bit"]
)
def test_an_opened_image_keeps_no_answer_of_the_decoders_in_memory(ward: Ward, kind: str) -> None:
    """An answer holds the whole original, also where a caller may see a part of it only."""
    image_id = ward.seal(builders.every_format()[kind], found=[NAME, CHEST])
    ward.engine.care.set_restorable_classes(ward.team.administrator, "doctor", ["thorax"])
    before = answers_in_memory()
    opened = ward.engine.images.restore(ward.team.doctor, image_id, WHY)
    assert opened.partial
    assert answers_in_memory() == before


def answers_in_memory() -> int:
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:medsec")


# --- answers of a worker that was taken over ------------------------------------------------------


def reading(**changes: Any) -> tuple[Any, ...]:
    parts = {"pixels": np.zeros((1, 8, 8), np.uint8), "grid": (1, 1), "facts": {}, "people": {}}
    return tuple((parts | changes).values())


@pytest.mark.parametrize("answer", [
    None,
    (),
    b"",
    reading()[:3],
    reading(pixels=b"no array"),
    reading(pixels=np.zeros(8, np.uint8)),
    reading(grid=(1,)),
    reading(grid=("1", 1)),
    reading(facts=()),
    reading(people=None),
    reading(people={"hints": "Erika"}),
    reading(people={"identifiers": "Erika"}),
    reading(people={"identifiers": (1,)}),
])  # fmt: skip
def test_an_answer_of_another_shape_is_a_named_error(
    monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    real = images._SANDBOX.call
    data = FILES["DICOM"]
    image = images.decode("a.dcm", data, LIMITS)
    made = images.dissect(image, [NAME.region], bytes(32))
    stored = images.for_storage(made.masked)
    parts = (images.Covered([NAME.region], {0: made.patches[0]}, made.remainder), LIMITS)
    proof = real("prove", stored, ([], {}, made.remainder), bytes(32), *images._bounds(LIMITS))

    def refuses(work: Any, whole: Any) -> None:
        monkeypatch.setattr(Sandbox, "call", lambda *_, **__: whole)
        with pytest.raises(errors.CorruptImage):
            work()

    refuses(lambda: images.decode("a.dcm", data, LIMITS), answer)
    for whole in (answer, (proof[0], answer, *proof[2:])):
        refuses(lambda: images.prove(image, made.masked, made.compact, *parts), whole)
    for whole in (answer, ((data, answer), None), ((data, reading()), (data, reading()))):
        refuses(lambda: images.restore("a.dcm", stored, *parts), whole)
    refuses(lambda: images.restore("a.dcm", stored, *parts, [0]), ((data, reading()), None))
    refuses(lambda: images.decode_stored("a.dcm", stored, LIMITS), (data, answer))


@pytest.mark.parametrize("answer", [
    None,
    (b"", (), b""),
    (b"", (), b"", None),  # a patch too few
    (b"", ("text",), b"", None),
    (b"", (b"",), b"", 1),
    (None, (b"",), b"", None),
])  # fmt: skip
def test_an_image_taken_apart_wrongly_is_a_named_error(
    monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    image = images.decode("a.png", FILES["PNG"], LIMITS)
    monkeypatch.setattr(Sandbox, "call", lambda *_, **__: answer)
    with pytest.raises(errors.CorruptImage):
        images.dissect(image, [NAME.region], bytes(32))


def test_the_time_of_a_call_counts_bytes_however_deep_they_lie() -> None:
    box = Sandbox("engine.formats.images", workers=1, seconds=1.0)
    patch = bytes(4 << 20)
    assert box._allowance((b"", None, 3)) == 1.0
    assert box._allowance((patch, {0: patch, 1: patch}, ((patch,), [1]))) == 3.0


# --- the proof ------------------------------------------------------------------------------------


def _bent(proof: tuple[Any, ...], bend: str) -> tuple[Any, ...]:
    masked_digest, masked, data, pixels = proof
    if bend == "another masked file":
        return bytes(32), masked, data, pixels
    if bend == "another file, and no pixels of it":
        return masked_digest, masked, data + b"\0", None
    return masked_digest, masked, data + b"\0", np.zeros((1, 8, 8), np.uint8)


@pytest.mark.parametrize("bend", [
    "another masked file",
    "another file, and no pixels of it",
    "another file with other pixels",
])  # fmt: skip
def test_nothing_is_sealed_that_does_not_come_back_from_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bend: str
) -> None:
    image = images.decode("a.dcm", FILES["DICOM"], LIMITS)
    subject = pipeline.Subject("im_1", 1, bytes(32), bytes(32))
    real = images._SANDBOX.call

    def call(operation: str, *arguments: Any, **named: Any) -> Any:
        answer = real(operation, *arguments, **named)
        return _bent(answer, bend) if operation == "prove" else answer

    monkeypatch.setattr(images._SANDBOX, "call", call)
    broken = errors.SealBroken if bend == "another masked file" else errors.RestoreMismatch
    with pytest.raises(broken):
        pipeline.seal(image, [NAME], subject, FakeHost(tmp_path), LIMITS)


@pytest.mark.parametrize("wrong", ["another picture", "no picture"])
def test_a_smaller_form_that_gives_no_masked_file_back_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    image = images.decode("a.dcm", FILES["DICOM"], LIMITS)
    subject = pipeline.Subject("im_1", 1, bytes(32), bytes(32))
    real = images._SANDBOX.call
    other = builders.dicom(builders.labelled("SOMEBODY ELSE")[0])
    form = {"another picture": images.for_storage(other)[1:], "no picture": b"nothing"}[wrong]

    def call(operation: str, *arguments: Any, **named: Any) -> Any:
        answer = real(operation, *arguments, **named)
        return (*answer[:3], form) if operation == "dissect" else answer

    monkeypatch.setattr(images._SANDBOX, "call", call)
    sealed = pipeline.seal(image, [NAME], subject, FakeHost(tmp_path), LIMITS)
    assert sealed.stored == images.stored_plain(sealed.masked)


@pytest.mark.parametrize("kind", FILES)
def test_the_proof_sees_only_what_will_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The stored masked file and patches as decrypted from the container; not the original."""
    image = images.decode("a", FILES[kind], LIMITS)
    subject = pipeline.Subject("im_1", 1, bytes(32), bytes(32))
    sent: dict[str, tuple[Any, ...]] = {}
    real = images._SANDBOX.call

    def call(operation: str, *arguments: Any, **named: Any) -> Any:
        sent[operation] = arguments
        return real(operation, *arguments, **named)

    monkeypatch.setattr(images._SANDBOX, "call", call)
    sealed = pipeline.seal(image, [NAME, CHEST], subject, FakeHost(tmp_path), LIMITS)
    assert sent["prove"][0] == sealed.stored
    assert image.data not in sent["prove"]
    assert images.from_storage(sealed.stored) == sealed.masked == sealed.masked_image.data
    files = pipeline.SealedFiles(
        sealed.stored, sealed.container, sealed.regions, sealed.remainder_start
    )
    original = pipeline.Original("a", sealed.pixel_digest, sealed.file_digest)
    back = pipeline.restore(files, original, subject, FakeHost(tmp_path), LIMITS)
    assert np.array_equal(back.image.pixels, image.pixels)
    assert back.image.data == image.data

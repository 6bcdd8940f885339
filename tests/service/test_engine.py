"""The two journeys and the rules around them, through the Engine's own methods."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from engine import Detection, Engine, ImageState, Region, Settings, errors
from engine.errors import DetectorError
from tests import builders
from tests.conftest import PASSWORD, WHY, Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector


def test_a_technician_seals_and_a_doctor_gets_the_very_same_file(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, "Erika.png", [found])
    engine, team = ward.engine, ward.team
    masked = engine.images.masked_frame(team.technician, image_id)
    original = np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB"))
    [sealed] = engine.images.regions(team.doctor, image_id)
    box = sealed.detection.region
    assert box.x1 <= found.region.x1 - 4
    assert box.x2 >= found.region.x2 + 4
    inside = np.zeros(original.shape[:2], bool)
    inside[box.y1 : box.y2, box.x1 : box.x2] = True
    assert np.array_equal(masked[~inside], original[~inside])
    assert not np.array_equal(masked[inside], original[inside])

    opened = engine.images.restore(team.doctor, image_id, WHY)
    assert np.array_equal(engine.images.restored_frame(team.doctor, opened.handle), original)
    assert opened.proof == "bytes"
    assert not opened.partial
    assert opened.name == "Erika.png"
    file = engine.images.restored_file(team.doctor, opened.handle)
    assert (file.name, file.data) == ("Erika.png", data)


def test_the_log_has_the_request_before_and_every_region_after(ward: Ward) -> None:
    data, found = text_png()
    second = Detection(Region(200, 200, 260, 220), "barcode", 0.8, "scripted")
    image_id = ward.seal(data, found=[found, second])
    ward.engine.images.restore(ward.team.doctor, image_id, WHY)
    entries = ward.engine.audit.entries(ward.team.administrator)
    mine = [e for e in reversed(entries) if e.actor == "doctor" and e.image_id == image_id]
    assert [(e.action, e.outcome) for e in mine] == [
        ("image.restore", "requested"),
        ("region.decrypt", "ok"),
        ("region.decrypt", "ok"),
        ("image.restore", "completed"),
    ]
    assert mine[0].reason == WHY
    regions = {r.region_id for r in ward.engine.images.regions(ward.team.doctor, image_id)}
    assert {e.region_id for e in mine[1:3]} == regions
    assert ward.engine.audit.verify(ward.team.administrator) > 0


def test_every_region_has_its_own_iv(ward: Ward) -> None:
    data, found = text_png()
    second = Detection(Region(200, 200, 260, 220), "text", 0.8, "scripted")
    image_id = ward.seal(data, found=[found, second])
    row = ward.engine.context.catalog.row(ward.engine.context.database.read(), image_id)
    container = ward.engine.context.host.read_blob(row.sealed_blob)
    starts = [
        s
        for _, s in ward.engine.context.catalog.regions(
            ward.engine.context.database.read(), image_id
        )
    ]
    ivs = {container[s + container[s + 7] : s + container[s + 7] + 16] for s in starts}
    assert len(ivs) == 2


# --- fails closed -----------------------------------------------------------------------------


def test_nothing_found_waits_for_a_person_and_is_nobody_elses_to_see(ward: Ward) -> None:
    data, _ = text_png()
    image_id = ward.upload(data, found=[])
    engine, team = ward.engine, ward.team
    [record] = engine.drafts.waiting(team.technician)
    assert (record.state, record.reasons) == (ImageState.REVIEW, ("nothing-found",))
    assert [*engine.search.images(team.doctor).images] == []
    for look in (
        engine.images.get,
        engine.images.masked_frame,
        engine.images.grid_picture,
        engine.images.masked_file,
    ):
        with pytest.raises(errors.NotFound):
            look(team.doctor, image_id)
    with pytest.raises(errors.NotFound):
        engine.images.restore(team.doctor, image_id, WHY)
    with pytest.raises(errors.ReviewNeeded):
        engine.drafts.seal(team.technician, image_id, [])
    done = engine.drafts.seal(team.technician, image_id, [], confirm="a phantom without text")
    assert done.state is ImageState.RELEASED
    assert done.reasons == ("nothing-found",)


def test_an_uncertain_box_makes_a_person_look(ward: Ward) -> None:
    data, found = text_png()
    unsure = Detection(found.region, "text", 0.15, "scripted")
    image_id = ward.upload(data, found=[unsure])
    [record] = ward.engine.drafts.waiting(ward.team.technician)
    assert record.reasons == ("proposals",)
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal(ward.team.technician, image_id, [unsure])
    ward.engine.drafts.seal(ward.team.technician, image_id, [unsure], confirm="looked at it")


def test_slices_of_a_head_are_marked_for_whoever_seals_them(ward: Ward) -> None:
    for part, marked in (("HEAD", True), ("KNEE", False)):
        pixels = builders.radiograph(64, 48, seed=len(part) + marked)
        data = builders.dicom(pixels, modality="CT", BodyPartExamined=part)
        image_id = ward.upload(data, f"{part}.dcm", [Detection(Region(0, 0, 9, 9), "text", 0.9)])
        view = ward.engine.drafts.open(ward.team.technician, image_id)
        assert view.recognizable_head is marked


@pytest.mark.parametrize("coding", [builders.png, builders.jpeg])
def test_a_draft_tells_what_would_be_hidden(
    ward: Ward, coding: Callable[[np.ndarray], bytes]
) -> None:
    pixels, region = builders.labelled()
    found = [Detection(region, "text", 0.9, "scripted"),
             Detection(Region(0, 0, 5, 5), "text", 0.8, "scripted")]  # fmt: skip
    image_id = ward.upload(coding(pixels), "scan", found)
    view = ward.engine.drafts.open(ward.team.technician, image_id)
    ward.engine.drafts.seal(ward.team.technician, image_id, view.detections)
    hidden = [r.detection.region for r in ward.engine.images.regions(ward.team.doctor, image_id)]
    assert sorted(view.masks) == sorted(hidden)
    assert all(mask != d.region for mask, d in zip(view.masks, view.detections, strict=True))
    assert (view.grid == (1, 1)) == (coding is builders.png)


def test_a_detector_that_fails_releases_nothing(ward: Ward) -> None:
    data, _ = text_png()
    ward.detector.found = DetectorError
    image_id = ward.upload(data)
    [record] = ward.engine.drafts.waiting(ward.team.technician)
    assert record.reasons == ("detector-failed",)
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal(ward.team.technician, image_id, [])


def test_text_that_is_still_visible_sends_the_image_back(ward: Ward) -> None:
    data, found = text_png()
    left = Detection(Region(100, 100, 150, 120), "text", 0.7, "scripted")
    ward.detector.left = [[left], [left]]
    image_id = ward.upload(data, found=[found])
    token = ward.team.technician
    with pytest.raises(errors.ReviewNeeded) as caught:
        ward.engine.drafts.seal(token, image_id, [found])
    assert caught.value.facts["found"] == [left]
    assert [*ward.engine.search.images(ward.team.doctor).images] == []
    view = ward.engine.drafts.open(token, image_id)
    assert left in view.detections
    assert view.reasons == ("still-visible",)
    with pytest.raises(errors.InputError):  # taking it away needs a reason
        ward.engine.drafts.seal(token, image_id, [found], confirm="fine")
    at = view.detections.index(left)
    done = ward.engine.drafts.seal(
        token, image_id, [found], removed={at: "a side marker"}, confirm="a side marker"
    )
    assert done.state is ImageState.RELEASED


def test_a_confirmation_does_not_cover_what_was_not_known_yet(ward: Ward) -> None:
    data, _ = text_png()
    image_id = ward.upload(data, found=[])
    ward.detector.left = [[Detection(Region(9, 9, 60, 30), "text", 0.9, "scripted")]]
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal(ward.team.technician, image_id, [], confirm="nothing there")


def test_an_unwatched_batch_seals_what_the_second_look_finds(ward: Ward) -> None:
    data, found = text_png()
    left = Detection(Region(100, 100, 150, 120), "text", 0.7, "scripted")
    ward.detector.left = [[left], []]
    image_id = ward.upload(data, found=[found])
    record = ward.engine.drafts.seal(ward.team.technician, image_id, [found], adopt=True)
    assert record.region_count == 2
    ward.detector.left = [[left]] * 3
    other = ward.upload(builders.png(builders.labelled("OTHER")[0]), found=[found])
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal(ward.team.technician, other, [found], adopt=True)


def test_an_image_without_doubt_is_sealed_without_a_look_and_the_log_says_so(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    data, found = text_png()
    ward.detector.left = [[Detection(Region(100, 100, 150, 120), "text", 0.7, "scripted")], []]
    done = engine.drafts.seal_undoubted(team.technician, ward.upload(data, found=[found]))
    assert (done.state, done.region_count) == (ImageState.RELEASED, 2)
    looked_at = ward.seal(builders.png(builders.labelled("DOE")[0]), found=[found])
    entries = engine.audit.entries(team.administrator, query="image.seal")
    said = {e.image_id: (e.actor, e.detail["automatic"]) for e in entries}
    assert said == {done.image_id: ("technician", True), looked_at: ("technician", False)}


@pytest.mark.parametrize("confidence", [0.15, None])
def test_an_image_in_doubt_is_never_sealed_without_a_look(
    ward: Ward, confidence: float | None
) -> None:
    data, found = text_png()
    doubt = Detection(Region(100, 100, 150, 120), "text", confidence or 0.0, "scripted")
    image_id = ward.upload(data, found=[] if confidence is None else [found, doubt])
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal_undoubted(ward.team.technician, image_id)
    [waiting] = ward.engine.drafts.waiting(ward.team.technician)
    assert waiting.state is ImageState.REVIEW


def test_what_stays_visible_is_not_sealed_without_a_look(ward: Ward) -> None:
    data, found = text_png()
    ward.detector.left = [[Detection(Region(100, 100, 150, 120), "text", 0.7, "scripted")]] * 3
    image_id = ward.upload(data, found=[found])
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal_undoubted(ward.team.technician, image_id)
    [waiting] = ward.engine.drafts.waiting(ward.team.technician)
    assert waiting.reasons == ("still-visible",)


def test_an_administrator_can_have_every_image_looked_at(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])
    ward.engine.runtime_settings.change(ward.team.administrator, "auto_seal", "false")
    with pytest.raises(errors.InputError):
        ward.engine.drafts.seal_undoubted(ward.team.technician, image_id)
    [waiting] = ward.engine.drafts.waiting(ward.team.technician)
    assert (waiting.image_id, waiting.state) == (image_id, ImageState.DRAFT)


def test_a_box_taken_away_needs_a_reason_and_both_are_logged(ward: Ward) -> None:
    data, found = text_png()
    extra = Detection(Region(200, 150, 260, 190), "face", 0.5, "scripted")
    image_id = ward.upload(data, found=[found, extra])
    token = ward.team.technician
    with pytest.raises(errors.InputError):
        ward.engine.drafts.seal(token, image_id, [found])
    own = Detection(Region(20, 150, 60, 170), "text", 1.0)
    ward.engine.drafts.seal(token, image_id, [found, own], removed={1: "not a face, a screw"})
    actions = {e.action: e for e in ward.engine.audit.entries(ward.team.administrator)}
    assert actions["box.remove"].reason == "not a face, a screw"
    assert actions["box.add"].detail["x1"] == 20


# --- what cannot be taken ---------------------------------------------------------------------


@pytest.mark.parametrize(("data", "error"), [
    (b"", errors.CorruptImage),
    (b"not an image at all", errors.UnsupportedFormat),
    (builders.png(builders.radiograph())[:200], errors.CorruptImage),
    (b"\x89PNG\r\n\x1a\n" + bytes(21_000_000), errors.ImageTooLarge),
])  # fmt: skip
def test_a_file_that_cannot_be_taken_leaves_nothing(
    ward: Ward, data: bytes, error: type[errors.EngineError]
) -> None:
    with pytest.raises(error):
        ward.upload(data)
    assert ward.engine.drafts.waiting(ward.team.technician) == []
    assert list(ward.engine.context.host.blobs()) == []


def test_a_duplicate_names_the_record_that_is_there(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    with pytest.raises(errors.DuplicateImage) as caught:
        ward.upload(data, "another name.png")
    assert caught.value.facts["image_id"] == image_id


def test_a_discarded_draft_is_gone(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])
    with pytest.raises(errors.InputError):
        ward.engine.drafts.discard(ward.team.technician, image_id, "  ")
    ward.engine.drafts.discard(ward.team.technician, image_id, "wrong patient")
    assert list(ward.engine.context.host.blobs()) == []
    assert ward.engine.drafts.waiting(ward.team.technician) == []
    ward.upload(data)  # and can be taken in again


# --- who may see what -------------------------------------------------------------------------


def test_after_sealing_the_technician_cannot_open_anything(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, token = ward.engine, ward.team.technician
    for call in (
        lambda: engine.images.restore(token, image_id, WHY),
        lambda: engine.images.assessment(token, image_id),
    ):
        with pytest.raises(errors.PermissionDenied):
            call()
    with pytest.raises(errors.NotFound):
        engine.drafts.open(token, image_id)
    with pytest.raises(errors.NotFound):
        engine.drafts.seal(token, image_id, [])


def test_a_view_of_the_draft_ends_with_sealing(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])
    view = ward.engine.drafts.open(ward.team.technician, image_id)
    ward.engine.drafts.frame(ward.team.technician, view.handle)
    ward.engine.drafts.seal(ward.team.technician, image_id, view.detections)
    with pytest.raises(errors.NotFound):
        ward.engine.drafts.frame(ward.team.technician, view.handle)


def test_a_handle_works_in_its_own_session_and_for_minutes_only(ward: Ward, host: FakeHost) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine = ward.engine
    opened = engine.images.restore(ward.team.doctor, image_id, WHY)
    other = engine.sessions.sign_in("doctor", PASSWORD).token
    with pytest.raises(errors.NotFound):
        engine.images.restored_frame(other, opened.handle)
    host.advance(minutes=4.9)
    engine.images.restored_frame(ward.team.doctor, opened.handle)
    host.advance(minutes=0.2)
    with pytest.raises(errors.NotFound):
        engine.images.restored_frame(ward.team.doctor, opened.handle)


def test_open_pictures_wait_for_their_end_in_one_thread_and_close_by_themselves(
    ward: Ward, host: FakeHost
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    viewings, doctor = ward.engine.context.open_images, ward.team.doctor
    viewings.lifetime = timedelta(minutes=5)
    threads = threading.active_count()
    for _ in range(20):
        ward.engine.images.restore(doctor, image_id, WHY)
    assert len(viewings._open) == 20
    assert viewings.held_bytes > 20 * len(data)
    assert threading.active_count() <= threads + 1
    viewings.lifetime = timedelta(0)
    ward.engine.images.restore(doctor, image_id, WHY)  # over at once, long before the others
    host.advance(minutes=5)
    until = time.monotonic() + 20
    while viewings._open and time.monotonic() < until:
        time.sleep(0.05)
    assert not viewings._open
    assert viewings._timer is None


def test_signing_out_closes_what_is_open(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    opened = ward.engine.images.restore(ward.team.doctor, image_id, WHY)
    assert ward.engine.context.open_images._open
    ward.engine.sessions.sign_out(ward.team.doctor)
    assert not ward.engine.context.open_images._open
    with pytest.raises(errors.NotSignedIn):
        ward.engine.images.restored_frame(ward.team.doctor, opened.handle)


def test_a_restoration_needs_a_reason(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    with pytest.raises(errors.InputError):
        ward.engine.images.restore(ward.team.doctor, image_id, "   ")


def test_a_flagged_image_is_withdrawn_from_everyone_at_once(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, team = ward.engine, ward.team
    opened = engine.images.restore(team.doctor, image_id, WHY)
    engine.withdrawals.flag(team.doctor, image_id, "a date in the corner")
    for call in (
        lambda: engine.images.masked_frame(team.technician, image_id),
        lambda: engine.images.restore(team.doctor, image_id, WHY),
        lambda: engine.images.restored_frame(team.doctor, opened.handle),
        lambda: engine.images.masked_file(team.doctor, image_id),
    ):
        with pytest.raises(errors.NotFound):
            call()


def test_a_flagged_image_is_sealed_anew_as_the_next_version(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, "Erika.png", [found])
    engine, team = ward.engine, ward.team
    before = set(engine.context.host.blobs())
    package = engine.packages.export(team.doctor, image_id).data
    masked = engine.images.masked_file(team.doctor, image_id).data
    engine.withdrawals.flag(team.doctor, image_id, "a date in the corner")
    assert not before & set(engine.context.host.blobs())
    [record] = engine.drafts.waiting(team.technician)
    assert (record.image_id, record.reasons) == (image_id, ("flagged",))
    view = engine.drafts.open(team.technician, image_id)
    missed = Detection(Region(200, 200, 260, 220), "text", 1.0)
    with pytest.raises(errors.ReviewNeeded):
        engine.drafts.seal(team.technician, image_id, [*view.detections, missed])
    again = engine.drafts.seal(
        team.technician, image_id, [*view.detections, missed], confirm="boxed the date"
    )
    assert (again.version, again.region_count, again.state) == (2, 2, ImageState.RELEASED)
    opened = engine.images.restore(team.doctor, image_id, WHY)
    assert engine.images.restored_file(team.doctor, opened.handle).data == data
    with pytest.raises(errors.SealBroken):  # the older version does not open any more
        engine.packages.restore(team.doctor, masked, package, WHY)


def test_refusals_are_in_the_log(ward: Ward) -> None:
    with pytest.raises(errors.PermissionDenied):
        ward.engine.audit.entries(ward.team.technician)
    [entry] = ward.engine.audit.entries(ward.team.administrator, query="refused")
    assert (entry.actor, entry.action) == ("technician", "audit.read")


# --- nothing leaks ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "jpeg", "dicom"])
def test_what_others_can_fetch_depends_only_on_pixels_outside_the_boxes(
    tmp_path: Path, kind: str
) -> None:
    """G2: two images that differ only under the boxes give the same of everything."""
    region = Region(16, 16, 144, 48)
    pixels = builders.radiograph()
    first = pixels.copy()
    builders.write_text(first, "ERIKA", (24, 24))
    second = builders.differing_inside(pixels, [region])
    if kind == "jpeg":
        pytest.importorskip("jpeglib")
    make = {"png": builders.png, "jpeg": builders.jpeg, "dicom": builders.dicom}[kind]
    seen = []
    for number, content in enumerate((first, second)):
        settings = Settings(
            data=tmp_path / str(number), key_file=tmp_path / f"{number}.key", bcrypt_cost=4
        )
        detector = ScriptedDetector(settings, [Detection(region, "text", 1.0, "person")])
        engine = Engine.open(settings, FakeHost(settings.data / "blobs"), detector=detector)
        team = Team(engine)
        patient = engine.patients.create(team.technician, "P-1", "N", 1).patient_id
        made = make(content)
        if (
            kind == "jpeg"
        ):  # as a scanner would: the same picture outside, coefficient by coefficient
            made = make(content, quality=95)
        image_id = engine.drafts.upload(team.technician, patient, "a", made).image_id
        view = engine.drafts.open(team.technician, image_id)
        engine.drafts.seal(team.technician, image_id, view.detections)
        record = engine.images.get(team.technician, image_id)
        seen.append((
            engine.images.masked_file(team.technician, image_id).data,
            engine.images.grid_picture(team.technician, image_id),
            engine.images.thumbnail(team.technician, image_id),
            engine.images.masked_frame(team.technician, image_id).tobytes(),
            [r.detection for r in engine.images.regions(team.technician, image_id)],
            (record.width, record.height, record.frames, record.confidence, record.reasons),
        ))  # fmt: skip
        engine.close()
    for one, other in zip(*seen, strict=True):
        assert one == other


def test_no_plaintext_is_on_disk_before_or_after_sealing(ward: Ward, settings: Settings) -> None:
    pixels = builders.radiograph()
    pixels[16:48, 16:144] = np.frombuffer(b"SECRETPIXELS1234" * 256, np.uint8).reshape(32, 128)
    data = builders.dicom(pixels)
    found = Detection(Region(16, 16, 144, 48), "text", 0.9, "scripted")
    image_id = ward.upload(data, "Erika_Musterfrau.dcm", [found])
    markers = (b"SECRETPIXELS", b"Musterfrau", b"MUSTERFRAU", b"Erika")

    def search() -> list[str]:
        ward.engine.context.database.read().run("CHECKPOINT")
        return [
            f"{m!r} in {p.name}"
            for p in settings.data.rglob("*")
            if p.is_file()
            for m in markers
            if m in p.read_bytes()
        ]

    assert search() == []
    view = ward.engine.drafts.open(ward.team.technician, image_id)
    ward.engine.drafts.seal(ward.team.technician, image_id, view.detections)
    ward.engine.images.restore(ward.team.doctor, image_id, WHY)
    assert search() == []


def test_records_and_reprs_show_no_secret(ward: Ward, settings: Settings) -> None:
    data, found = text_png()
    image_id = ward.seal(data, "Erika.png", [found])
    tx = ward.engine.context.database.read()
    key = ward.engine.context.hierarchy.image_key(tx, image_id)
    opened = ward.engine.images.restore(ward.team.doctor, image_id, WHY)
    viewing = ward.engine.context.open_images.get(
        ward.engine.caller(ward.team.doctor).session_id, opened.handle
    )
    for thing in (
        settings,
        viewing,
        ward.engine.context.hierarchy,
        ward.engine.images.get(ward.team.doctor, image_id),
    ):
        assert key.hex() not in repr(thing)
        assert "Erika" not in repr(thing)


# --- tampering --------------------------------------------------------------------------------


def test_a_flipped_byte_of_any_stored_file_is_a_named_error(ward: Ward, settings: Settings) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, token = ward.engine, ward.team.doctor
    engine.images._masked._images.clear()
    for path in [p for p in (settings.data / "blobs").rglob("*") if p.is_file()]:
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            broken = 0
            for call in (
                lambda: engine.images.restore(token, image_id, WHY),
                lambda: engine.images.masked_file(token, image_id),
                lambda: engine.images.grid_picture(token, image_id),
                lambda: engine.images.thumbnail(token, image_id),
            ):
                try:
                    call()
                except errors.SealBroken:
                    broken += 1
            assert broken >= 1
            codes = dict(engine.health.verify_images(engine_operator(engine)))
            assert codes[image_id] == "seal-broken"
        path.write_bytes(good)
    assert engine.images.restore(token, image_id, WHY).proof == "bytes"


def engine_operator(engine: Engine) -> str:
    engine._guard._operator_token = "operator_test"
    return "operator_test"


@pytest.mark.parametrize(("table", "change"), [
    ("images", "state = 'draft'"),
    ("images", "width = width + 1"),
    ("images", "version = version + 1"),
    ("images", "profile = 'chest'"),
    ("images", "confidence = 0.99"),
    ("images", "patient_id = 'pt_other'"),
    ("images", "masked_blob = thumbnail_blob"),
    ("images", "sealed_blob = masked_blob"),
    ("images", "facts = facts || '\\x00'::BLOB"),
    ("images", "wrapped_key = wrapped_key || '\\x00'::BLOB"),
    ("regions", "x1 = x1 + 1"),
    ("regions", "label = 'thorax'"),
    ("regions", "confidence = 0.5"),
    ("regions", "frame_end = frame_end + 1"),
    ("regions", "start = start + 1"),
    ("regions", "region_id = 'rg_other'"),
])  # fmt: skip
def test_a_changed_catalog_row_is_found(ward: Ward, table: str, change: str) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    with ward.engine.context.database.write() as tx:
        tx.run(f"UPDATE {table} SET {change}")  # noqa: S608
    with pytest.raises(errors.EngineError):
        ward.engine.images.restore(ward.team.doctor, image_id, WHY)
    codes = dict(ward.engine.health.verify_images(engine_operator(ward.engine)))
    assert codes[image_id] in ("seal-broken", "unknown-key")


def test_regions_of_two_images_cannot_be_swapped(ward: Ward) -> None:
    data, found = text_png()
    one = ward.seal(data, found=[found])
    other = ward.seal(builders.png(builders.labelled("OTHER NAME")[0]), found=[found])
    rows = {
        i: ward.engine.context.catalog.row(ward.engine.context.database.read(), i).sealed_blob
        for i in (one, other)
    }
    with ward.engine.context.database.write() as tx:
        for image_id, blob in ((one, rows[other]), (other, rows[one])):
            tx.run("UPDATE images SET sealed_blob = $2 WHERE image_id = $1", image_id, blob)
    for image_id in (one, other):
        with pytest.raises(errors.SealBroken):
            ward.engine.images.restore(ward.team.doctor, image_id, WHY)


def test_a_failed_restoration_shows_nothing_and_is_logged(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    with ward.engine.context.database.write() as tx:
        tx.run("UPDATE regions SET x1 = x1 + 1")
    with pytest.raises(errors.SealBroken):
        ward.engine.images.restore(ward.team.doctor, image_id, WHY)
    assert not ward.engine.context.open_images._open
    newest = ward.engine.audit.entries(ward.team.administrator)[0]
    assert (newest.action, newest.outcome) == ("image.restore", "failed")


# --- erasure, restart, upkeep -----------------------------------------------------------------


def test_an_erased_patient_cannot_be_restored_by_anybody(ward: Ward, settings: Settings) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    kept = {p: p.read_bytes() for p in (settings.data / "blobs").rglob("*") if p.is_file()}
    operator = engine_operator(ward.engine)
    ward.engine.patients.erase(operator, ward.patient_id, "asked for it")
    for path, content in kept.items():  # even with the files brought back
        path.write_bytes(content)
    with pytest.raises(errors.NotFound):
        ward.engine.images.restore(ward.team.doctor, image_id, WHY)
    with pytest.raises(errors.UnknownKey):
        ward.engine.context.hierarchy.patient_key(
            ward.engine.context.database.read(), ward.patient_id
        )


def test_everything_is_there_after_a_restart(
    ward: Ward, settings: Settings, host: FakeHost, detector: ScriptedDetector
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    draft = ward.upload(builders.png(builders.labelled("WAITS")[0]), found=[found])
    ward.engine.close()
    again = Engine.open(settings, host, detector=detector)
    opened = again.images.restore(ward.team.doctor, image_id, WHY)
    assert again.images.restored_file(ward.team.doctor, opened.handle).data == data
    assert [d.image_id for d in again.drafts.waiting(ward.team.technician)] == [draft]
    again.close()


def test_a_lost_key_file_is_not_replaced_by_a_new_one(
    ward: Ward, settings: Settings, host: FakeHost
) -> None:
    ward.engine.close()
    assert settings.key_file is not None
    settings.key_file.unlink()
    with pytest.raises(errors.SettingsError):
        Engine.open(settings, host)
    assert not settings.key_file.exists()


def test_orphans_are_swept_only_when_they_are_old(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    orphan = ward.engine.context.host.write_blob(b"left by a crash")
    assert ward.engine.upkeep.sweep() == 0
    monkeypatch.setattr(ward.engine.context.host, "blob_age_seconds", lambda address: 7200.0)
    assert ward.engine.upkeep.sweep() == 1
    assert orphan not in set(ward.engine.context.host.blobs())
    assert ward.engine.images.restore(ward.team.doctor, image_id, WHY).proof == "bytes"


def test_statistics_name_nobody(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, "Erika.png", [found])
    statistics = ward.engine.statistics.tables(ward.team.doctor)
    assert len(statistics.images) == 1
    assert len(statistics.regions) == 1
    text = statistics.images.to_csv() + statistics.regions.to_csv()
    for word in (image_id, ward.patient_id, "Erika", "P-1"):
        assert word not in text
    assert statistics.images.entropy_original_bits[0] > 0


def test_a_package_restores_and_any_change_of_it_or_its_file_is_found(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, "Erika.png", [found])
    engine, token = ward.engine, ward.team.doctor
    masked = engine.images.masked_file(token, image_id).data
    package = engine.packages.export(token, image_id).data
    file, proof = engine.packages.restore(token, masked, package, WHY)
    assert (file.name, file.data, proof) == ("Erika.png", data, "bytes")
    rng = np.random.default_rng(5)
    for where in rng.integers(0, len(package), 40):
        changed = package[:where] + bytes([package[where] ^ 4]) + package[where + 1 :]
        try:
            again, _ = engine.packages.restore(token, masked, changed, WHY)
        except errors.EngineError:
            continue
        assert again.data == data  # a cosmetic byte of the header, such as a duration
    with pytest.raises(errors.EngineError):
        engine.packages.restore(token, masked[:-20], package[:-20], WHY)

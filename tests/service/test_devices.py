"""Device memory in the server: learned from what people seal, proposed, and made a rule."""

from __future__ import annotations

import pytest

from engine import BatchOptions, Detection, ImageState, Settings, Source, errors
from engine.formats import images
from engine.records import Region
from tests import builders
from tests.conftest import Ward

FIELD = Region(200, 150, 260, 190)
OWN = Detection(FIELD, "text", 1.0)


def picture(text: str, width: int = 320) -> bytes:
    return builders.png(builders.labelled(text, width=width)[0])


def sealed(ward: Ward, text: str, *more: Detection) -> str:
    image_id = ward.upload(picture(text))
    token = ward.team.technician
    view = ward.engine.drafts.open(token, image_id)
    ward.engine.drafts.seal(token, image_id, [*view.detections, *more], confirm="looked")
    return image_id


@pytest.fixture
def taught(ward: Ward) -> Ward:
    """A technician has sealed the same field on three images; the detector never saw it."""
    _, region = builders.labelled()
    ward.detector.found = [Detection(region, "text", 0.9, "scripted")]
    for text in ("ONE", "TWO", "SIX"):
        sealed(ward, text, OWN)
    return ward


def remembered(ward: Ward, image_id: str) -> list[Detection]:
    view = ward.engine.drafts.open(ward.team.technician, image_id)
    return [d for d in view.detections if d.source == "device"]


def test_the_next_image_of_the_device_proposes_what_people_sealed(taught: Ward) -> None:
    image_id = taught.upload(picture("END"))
    [box] = remembered(taught, image_id)
    assert (box.region.xyxy, box.label) == (FIELD.xyxy, "text")
    [waiting] = taught.engine.drafts.waiting(taught.team.technician)
    assert (waiting.state, waiting.reasons) == (ImageState.REVIEW, ("remembered",))
    with pytest.raises(errors.ReviewNeeded):
        taught.engine.drafts.seal_undoubted(taught.team.technician, image_id)


def test_two_images_are_not_again_and_again(ward: Ward) -> None:
    ward.detector.found = []
    for text in ("ONE", "TWO"):
        sealed(ward, text, OWN)
    assert remembered(ward, ward.upload(picture("END"))) == []


def test_another_device_or_size_has_a_memory_of_its_own(taught: Ward) -> None:
    assert remembered(taught, taught.upload(picture("END", width=400))) == []


def test_a_batch_asks_a_person_where_a_place_is_remembered(taught: Ward) -> None:
    source = Source("end.png", lambda: picture("END"))
    [item] = taught.engine.batches.seal(
        taught.team.technician, taught.patient_id, [source], None, BatchOptions(), few=True
    )
    assert (item.state, list(item.reasons)) == ("review", ["remembered"])


def test_an_administrator_makes_a_rule_and_it_is_sealed_without_asking(taught: Ward) -> None:
    engine, admin = taught.engine, taught.team.administrator
    [entry] = engine.devices.places(admin)
    assert dict(entry.parts)["source"] == "technician"
    engine.devices.always(admin, entry.device_id, entry.again[0].place_id)
    [entry] = engine.devices.places(admin)
    assert entry.again == ()
    image_id = taught.upload(picture("END"))
    done = engine.drafts.seal_undoubted(taught.team.technician, image_id)
    assert done.region_count == 2
    logged = engine.audit.entries(admin, query="device_rule.save")
    assert len(logged) == 1
    engine.devices.stop(admin, entry.device_id, entry.always[0].place_id)
    assert [e.always for e in engine.devices.places(admin)] == [()]
    with pytest.raises(errors.NotFound):
        engine.devices.stop(admin, entry.device_id, entry.always[0].place_id)


def test_a_rule_that_is_taken_out_of_the_database_is_found(taught: Ward) -> None:
    engine, admin = taught.engine, taught.team.administrator
    [entry] = engine.devices.places(admin)
    engine.devices.always(admin, entry.device_id, entry.again[0].place_id)
    with engine.context.database.write() as tx:
        tx.run("DELETE FROM device_rules")
    with pytest.raises(errors.SealBroken):
        engine.devices.places(admin)
    with pytest.raises(errors.SealBroken):  # rather than an image without its rule
        taught.upload(picture("END"))


def test_what_was_sealed_without_a_look_teaches_nothing(ward: Ward) -> None:
    _, region = builders.labelled()
    ward.detector.found = [Detection(region, "text", 0.9, "scripted")]
    for text in ("ONE", "TWO", "SIX"):
        ward.engine.drafts.seal_undoubted(ward.team.technician, ward.upload(picture(text)))
    assert ward.engine.devices.places(ward.team.administrator) == []


def test_a_header_says_device_and_layout() -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    from engine.formats.dicom_study import device_facts

    header = Dataset()
    header.Manufacturer, header.ManufacturerModelName = "ACME", "Sono 9"
    header.SoftwareVersions = ["4.1", "b\n7"]
    region = Dataset()
    for corner, side in (("MinX0", 10), ("MinY0", 20), ("MaxX1", 600), ("MaxY1", 400)):
        setattr(region, f"RegionLocation{corner}", side)
    header.SequenceOfUltrasoundRegions = Sequence([region])
    facts = device_facts(header)
    assert (facts["manufacturer"], facts["model"]) == ("ACME", "Sono 9")
    assert facts["layout"] == "10 20 600 400"
    assert "\n" not in facts["software version"]


def test_the_device_of_a_dicom_file_comes_out_of_the_sandbox() -> None:
    data = next(d for n, d in builders.every_format().items() if n.startswith("DICOM"))
    image = images.decode("a.dcm", data, images.Limits.of(Settings()))
    facts = images.device_facts(image)
    assert {"SOP class", "manufacturer", "model", "software version", "image type"} <= set(facts)
    assert facts["SOP class"].startswith("1.2.840.10008")

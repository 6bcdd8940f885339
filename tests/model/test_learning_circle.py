"""From corrected images to a better network and back, with real training and the real detector."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import BatchOptions, Detection, Engine, Region, Role, Settings, Source, errors
from engine.detect.detector import Detector
from engine.detect.learned_files import LearnedFile, read_learned
from engine.detect.own_versions import shipped_name
from engine.formats.images import Limits, decode
from engine.geometry import CORNERS
from engine.service.versions import VersionEntry
from engine.store.training_cases import held_out
from tests import builders, planted_device
from tests.conftest import PASSWORD, Team
from tests.fakes import FakeHost

pytestmark = [
    pytest.mark.usefixtures("fonts"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"),
]
PATIENTS = 20
#: Without CenterFace, which takes the whole of such a picture for a face.
PROFILE = "ultrasound"


class Hospital:
    """An engine with the real detector, which keeps what was missed; two administrators."""

    def __init__(self, settings: Settings, host: FakeHost) -> None:
        self.engine = Engine.open(settings, host, operator=True)
        self.team = Team(self.engine)
        create = self.engine.people.create
        create(self.team.administrator, "ben", "Ben", Role.ADMINISTRATOR, PASSWORD)
        self.ben = self.engine.sessions.sign_in("ben", PASSWORD).token
        self.engine.context.live.use(replace(settings, four_eyes=True))
        self.patients = [
            self.engine.patients.create(self.team.technician, f"P-{n}", f"Patient {n}").patient_id
            for n in range(PATIENTS)
        ]

    def upload(self, number: int) -> tuple[str, Detection]:
        """A picture of the planted device comes in; its id, and what a person would draw."""
        pixels, region = planted_device.screen(number)
        data, patient = builders.png(pixels), self.patients[number % PATIENTS]
        token, name = self.team.technician, f"{number}.png"
        record = self.engine.drafts.upload(token, patient, name, data, PROFILE)
        return record.image_id, Detection(region, "text", 1.0)

    def correct(self, image_id: str, drawn: Detection) -> None:
        """A technician looks, draws what is missing, and seals."""
        drafts, token = self.engine.drafts, self.team.technician
        view = drafts.open(token, image_id)
        drafts.frame(token, view.handle)
        boxes = [*view.suggested(view.suggestions[0].SEAL), drawn] if view.detections else [drawn]
        removed = {n: "no text" for n, d in enumerate(view.detections) if d not in boxes}
        drafts.seal(token, image_id, boxes, removed, confirm="drew the name", adopt=True)

    def export(self, folder: Path, key: Path) -> int:
        folder.mkdir()
        operator = self.engine.operator_token()
        version = self.engine.training.in_force(operator)
        if version is not None:
            (folder / version[0]).write_bytes(version[1])
        count = 0
        for name, content in self.engine.training.export(operator, key):
            assert isinstance(content, bytes)
            (folder / name).write_bytes(content)
            count += 1
        return count

    def entry(self, name: str) -> VersionEntry:
        entries = self.engine.versions.entries(self.team.administrator)
        return next(e for e in entries if e.name == name)


@pytest.fixture
def hospital(settings: Settings) -> Iterator[Hospital]:
    on = replace(settings, keep_missed=True, batch_workers=1, threads=2)
    made = Hospital(on, FakeHost(on.data / "blobs"))
    yield made
    made.engine.close()


def covered(detector: Detector, numbers: Sequence[int]) -> float:
    """Share of the device's names that the detector, with its padding, would hide to 80 %."""
    from model.evaluate import Padding, Whole, look_over, measure

    profile = detector.profiles[PROFILE]

    def look(picture: np.ndarray) -> list[Detection]:
        found = detector.detect(lambda _: picture, 1, profile)
        return [d for d in found if profile.seals(d)]

    pictures = []
    for number in numbers:
        pixels, region = planted_device.screen(number)
        truth: dict[str, Any] = {"class": "text", **dict(zip(CORNERS, region.xyxy, strict=True))}
        pictures.append(Whole(str(number), pixels, [truth], ["text"]))
    padding = Padding(detector._settings.padding, detector._settings.padding_min_px)
    report = measure(look_over(pictures, look, ["text"]), 0.0, padding)
    return report.figures["text: covered to 80%"]


# --- without a file of pixels --------------------------------------------------------------------

#: What learning may write: weights, what ultralytics notes of a run, and settings of libraries.
WRITTEN = {".pt", ".onnx", ".yaml", ".csv", ".json", ".key", ".pb", ".ttf", ".medsec-case"}
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*", b"\x93NUMPY", b"RIFF")
_watching: list[set[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes each file that is opened to be written, also those that are deleted afterwards."""
    if not _watching or event != "open":
        return
    path, mode, flags = arguments
    writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    )
    if writes and isinstance(path, str):
        _watching[-1].add(path)


@pytest.fixture
def written() -> Iterator[set[str]]:
    sys.addaudithook(_hook)
    _watching.append(set())
    yield _watching[-1]
    _watching.clear()


def sealed_cases(folder: Path, key_file: Path, count: int, groups: Sequence[str]) -> bytes:
    """Exported cases of the planted device; returns a run of one's plain pixels."""
    import json

    from engine.formats.patches import pack
    from engine.store.training_cases import export_key
    from engine.vault import seal_field

    folder.mkdir()
    key = export_key(key_file, os.urandom)
    for number in range(count):
        pixels, region = planted_device.screen(number)
        box = {"class": "text", **dict(zip(CORNERS, region.xyxy, strict=True)), "frame": 0}
        facts = {
            "suffix": ".png", "profile": "general", "modality": "OT", "before": [], "after": [box],
            "device": [["manufacturer", "ACME"], ["model", "Dotter"]],
        }  # fmt: skip
        content = {"facts": json.dumps(facts).encode(), "original": builders.png(pixels)}
        named = {
            "case_id": f"tc_{number}".encode(),
            "group": groups[number % len(groups)].encode(),
            "content": pack(content),
        }
        sealed = seal_field(key, "training export", pack(named), os.urandom)
        (folder / f"tc_{number}.medsec-case").write_bytes(sealed)
    return planted_device.screen(0)[0][100, :64].tobytes()


def both_parts() -> tuple[str, str]:
    """A group that is learnt from, and one that is measured on."""
    names = [f"group {n}" for n in range(100)]
    return next(n for n in names if not held_out(n)), next(n for n in names if held_out(n))


def test_learning_writes_weights_and_figures_and_no_pixel(
    tmp_path: Path, written: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One real epoch on few images, measured on real and drawn pictures."""
    from model import learn
    from model.memory_training import FineTuning

    room = tmp_path / "tmp"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    monkeypatch.chdir(room)
    cases, key = tmp_path / "cases", tmp_path / "training.key"
    pixels = sealed_cases(cases, key, 4, both_parts())
    written.clear()
    how = learn.Learning(
        FineTuning(epochs=1, rate=0.0005, threads=2, batch=8), crops=4, pages=1, files=2
    )
    said: list[str] = []
    made = learn.learn(cases, key, how, said.append)
    assert said[0] == "2 frames to learn from, 2 to measure on"
    card = made.card
    assert card.base == shipped_name()
    assert card.devices == {"ACME Dotter": 2}
    assert set(card.sets) == {"held-out cases", "real", "drawn"}
    assert [s.shipped for s in card.sets.values()] == [False, True, True]
    assert card.sets["held-out cases"].candidate["text: true boxes"] == 2
    assert all(s.lost == 0 for s in card.sets.values() if s.shipped)
    shipped = Path(learn.MODEL / "best.onnx").read_bytes()
    assert made.version.onnx != shipped
    assert read_learned(made.to_bytes()).card == card
    assert pixels not in made.to_bytes()
    strange = {p for p in written if Path(p).suffix not in WRITTEN and not p.startswith("/dev/")}
    assert not {p for p in strange if "/proc/" not in p and "medsec-sandbox" not in p}, strange
    assert any(p.endswith("last.pt") for p in written), "the hook saw the run"
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        content = path.read_bytes()
        assert not content.startswith(PICTURES), path
        assert pixels not in content, path
    assert list(room.rglob("*.pt")) == []


def test_cases_of_too_few_patients_are_refused(tmp_path: Path) -> None:
    from model.cases import parted, read_cases

    learnt, _ = both_parts()
    with pytest.raises(errors.InputError, match="no exported cases"):
        read_cases(tmp_path, tmp_path / "training.key")
    sealed_cases(tmp_path / "cases", tmp_path / "training.key", 2, [learnt])
    with pytest.raises(errors.InputError, match="too few patients"):
        parted(read_cases(tmp_path / "cases", tmp_path / "training.key"))


def test_a_case_is_cut_as_the_network_will_see_it() -> None:
    """At the sizes of its looks, with each box where the ink is."""
    from model.cases import Lesson, crops_of

    pixels, region = planted_device.screen(3)
    lesson = Lesson("one", "g", "", pixels, (("text", *region.xyxy),))
    crops = crops_of(lesson, 12, seed=1)
    assert len(crops) == 12
    assert {s.pixels.shape for s in crops} <= {(320, 320, 3), (160, 640, 3)}
    wide = [x2 - x1 for s in crops for _, x1, _, x2, _ in s.labels]
    assert max(wide) > region.width * 640 / planted_device.WIDTH * 0.9  # enlarged to 640 px
    assert crops_of(lesson, 12, seed=1)[0].labels == crops[0].labels


def test_a_version_sees_what_the_shipped_network_sees_and_what_was_learned(
    tmp_path: Path,
) -> None:
    import onnx

    from engine.detect.networks import CpuModel
    from model.joined import joined, learned_part
    from model.learn import MODEL
    from model.train import DetectionModel, warm_start
    from tests.learned import weights

    shipped = (MODEL / "best.onnx").read_bytes()
    both = joined(shipped, weights())
    picture = np.random.default_rng(0).random((1, 3, 160, 192), np.float32)
    alone, found = (CpuModel(n, 1, precision="f32")(picture)[0] for n in (shipped, both))
    assert found.shape == (1, 7, 2 * alone.shape[2])
    assert np.allclose(found, np.concatenate([alone, alone], axis=2), atol=1e-3)
    part = onnx.load_model_from_string(learned_part(both)).graph.initializer
    names = {i.name for i in onnx.load_model_from_string(shipped).graph.initializer}
    assert {i.name for i in part} == names
    with pytest.raises(SystemExit, match="no learned part"):
        learned_part(shipped)
    (tmp_path / "part.onnx").write_bytes(learned_part(both))
    model = DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    assert warm_start(model, tmp_path / "part.onnx") == len(model.state_dict())


def test_a_line_of_which_less_is_hidden_counts_as_lost() -> None:
    from model.evaluate import Padding, Seen
    from model.learn import lost_lines

    def seen(*found: Region) -> Seen:
        line = np.array([[10.0, 10.0, 110.0, 30.0]])
        boxes = [Detection(region, "text", 0.9) for region in found]
        return Seen(Path("p"), 200, 100, {"text": line}, boxes, 0.0, line)

    none = Padding(0.0, 0)
    whole, most, half = (seen(Region(10, 10, x2, 30)) for x2 in (110, 100, 65))
    assert lost_lines([whole], [whole], none) == 0
    assert lost_lines([whole], [most], none) == 1
    assert lost_lines([most], [half], none) == 1
    assert lost_lines([half], [whole], none) == 0
    assert lost_lines([whole], [seen()], none) == 1


# --- the whole circle -----------------------------------------------------------------------------

#: Images of the device that nobody corrects and nothing learns from.
UNSEEN = range(1000, 1020)
RISE = 0.6


@pytest.mark.slow
def test_what_technicians_correct_is_learned_shadowed_promoted_and_rolled_back(
    hospital: Hospital, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from model import learn

    engine, team = hospital.engine, hospital.team
    detector, admin = engine.detector, team.administrator
    before = covered(detector, UNSEEN)
    assert before <= 0.1, "the detector misses the device"

    for number in range(40):
        hospital.correct(*hospital.upload(number))
    assert hospital.export(tmp_path / "cases", tmp_path / "training.key") >= 36

    said: list[str] = []
    how = learn.Learning(profile=PROFILE)
    made = learn.learn(tmp_path / "cases", tmp_path / "training.key", how, said.append)
    for name, found in made.card.sets.items():
        if found.shipped:
            assert found.lost == 0
            for figure in ("text: covered to 80%", "barcode: covered to 80%"):
                if figure in found.base:
                    assert found.candidate[figure] >= found.base[figure] - 0.01, (name, figure)
    held = made.card.sets["held-out cases"]
    assert held.candidate["text: covered to 80%"] >= held.base["text: covered to 80%"] + RISE

    name = engine.versions.take_in(admin, made.to_bytes()).name
    engine.versions.begin_shadow(admin, name)
    for number in range(2000, 2006):
        image_id, drawn = hospital.upload(number)
        if number % 2:
            hospital.correct(image_id, drawn)
    shadow = hospital.entry(name).shadow
    assert (shadow.images, shadow.failed, shadow.decided) == (6, 0, 3)
    assert shadow.missed < shadow.missed_in_force
    different = engine.versions.differences(team.technician)
    assert len(different) >= 2
    image_id = different[0].record.image_id
    assert engine.versions.difference_picture(team.technician, image_id)[:4] == b"\x89PNG"
    assert covered(detector, UNSEEN) == before, "the shadow changes nothing"

    with pytest.raises(errors.ConfirmationNeeded) as waits:
        engine.versions.promote(admin, name)
    looked = _promoted_under_way(hospital, waits.value.facts["proposal_id"])
    assert looked[0] == shipped_name()
    assert looked[-1] == name, "workers follow without a restart"
    after = covered(detector, UNSEEN)
    assert after >= before + RISE

    engine.versions.roll_back(admin, "the circle is closed")
    assert covered(detector, UNSEEN) == before
    with capsys.disabled():
        said.insert(0, f"\nunseen images: {before:.2f} -> {after:.2f}")
        sys.stdout.write("\n".join(said) + "\n")


def _promoted_under_way(hospital: Hospital, proposal_id: str) -> list[str]:
    """A batch on a worker, in which a version comes in force: who looked, image by image."""
    engine, token = hospital.engine, hospital.team.technician
    sources = [
        Source(f"{n}.png", lambda n=n: builders.png(planted_device.screen(n)[0]))  # type: ignore[misc]
        for n in range(3000, 3008)
    ]
    run = engine.batches.seal(
        token, hospital.patients[0], sources, PROFILE, BatchOptions(seal=False)
    )
    first = next(run)
    engine.versions.confirm(hospital.ben, proposal_id)
    items = sorted([first, *run], key=lambda item: item.place)
    context = engine.context
    looked = []
    for item in items:
        assert item.image_id, item.error
        draft = engine.drafts._stored.draft(context.database.read(), item.image_id)
        looked.append(draft.facts["detector"])
    return looked


def test_the_planted_device_draws_what_it_says() -> None:
    pixels, region = planted_device.screen(7)
    image = decode("x.png", builders.png(pixels), Limits.of(Settings()))
    assert (image.width, image.height) == (planted_device.WIDTH, planted_device.HEIGHT)
    plain = builders.radiograph(planted_device.WIDTH, planted_device.HEIGHT, seed=7)
    rows, columns = np.nonzero(pixels[..., 0] != plain)
    assert region.y1 <= rows.min() <= rows.max() < region.y2
    assert region.x1 <= columns.min() <= columns.max() < region.x2 + planted_device.PITCH_PX


def test_a_learned_file_names_its_version(tmp_path: Path) -> None:
    from model.learn import version_in_force
    from tests.learned import learned

    assert version_in_force(tmp_path) is None
    file: LearnedFile = learned()
    (tmp_path / f"{file.card.name}.medsec-network").write_bytes(file.to_bytes())
    found = version_in_force(tmp_path)
    assert found == file.version
    (tmp_path / "other.medsec-network").write_bytes(learned(2).to_bytes())
    with pytest.raises(errors.InputError, match="several"):
        version_in_force(tmp_path)

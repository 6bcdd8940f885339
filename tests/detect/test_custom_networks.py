"""A hospital's own network: what is taken, what it may do, and what becomes of one that fails."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import Engine, Settings, errors
from engine.detect.custom_network import MEMORY_BYTES, CustomNetwork, Runner, _boxes
from engine.detect.networks import ModelInfo
from engine.detection import Detector
from engine.formats.sandbox import Sandbox
from tests import builders
from tests.conftest import Team, Ward
from tests.fakes import ScriptedDetector

SIDE = 64
#: Two boxes (x, y, width, height) in a picture of 64 px, and how sure of each of two classes.
ANSWER = np.array(
    [[20, 40, 0], [20, 44, 0], [16, 8, 0], [8, 8, 0], [0.9, 0.0, 0.0], [0.0, 0.8, 0.0]],
    np.float32,
)[None]


def network(
    answer: np.ndarray = ANSWER, names: str | None = "{0: 'tag', 1: 'sticker'}", side: int = SIDE
) -> bytes:
    """A network that answers the same whatever it sees."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], ["output0"]),
    ]
    weights = [
        numpy_helper.from_array(answer.astype(np.float32), "answer"),
        numpy_helper.from_array(np.zeros((), np.float32), "zero"),
    ]
    return _file(nodes, weights, list(answer.shape), names, side)


def hanging() -> bytes:
    """A loop that ends in some thousand years."""
    body = helper.make_graph(
        [
            helper.make_node("Sin", ["in"], ["sin"]),
            helper.make_node("Add", ["sin", "in"], ["out"]),
            helper.make_node("Identity", ["cond"], ["cond_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 6, 3]),
        ],
        [
            helper.make_tensor_value_info("cond_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 6, 3]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Add", ["answer", "mean"], ["start"]),
        helper.make_node("Loop", ["often", "true", "start"], ["output0"], body=body),
    ]
    weights = [
        numpy_helper.from_array(ANSWER, "answer"),
        numpy_helper.from_array(np.array(2**40, np.int64), "often"),
        numpy_helper.from_array(np.array(True), "true"),
    ]
    return _file(nodes, weights, [1, 6, 3], "{0: 'tag', 1: 'sticker'}")


def gluttonous() -> bytes:
    """A network that wants 40 GB at once."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "size"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
        helper.make_node("Add", ["answer", "most"], ["output0"]),
    ]
    weights = [
        numpy_helper.from_array(ANSWER, "answer"),
        numpy_helper.from_array(np.array([100_000, 100_000], np.int64), "size"),
    ]
    return _file(nodes, weights, [1, 6, 3], "{0: 'tag', 1: 'sticker'}")


def _file(nodes: list, weights: list, answer: list, names: str | None, side: int = SIDE) -> bytes:
    graph = helper.make_graph(
        nodes,
        "guest",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, answer)],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if names:
        helper.set_model_props(made, {"names": names})
    return bytes(made.SerializeToString())


def outside_weights() -> bytes:
    made = onnx.load_model_from_string(network())
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="root.key")
    return bytes(made.SerializeToString())


def foreign_operator() -> bytes:
    made = onnx.load_model_from_string(network())
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    made.graph.node[0].domain = "com.example"
    return bytes(made.SerializeToString())


MAPPING = {"tag": "text", "sticker": "barcode"}


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """One worker for the whole file: starting one takes seconds."""
    made = Sandbox("engine.detect.custom_network", 1, 60.0, MEMORY_BYTES)
    yield made
    made.close()


@pytest.fixture
def hospital(engine: Engine, box: Sandbox) -> Iterator[Engine]:
    own = engine.context.custom_networks.sandbox
    engine.context.custom_networks.sandbox = box
    yield engine
    engine.context.custom_networks.sandbox = own  # closed with the engine, unlike the file's


def opened(box: Sandbox, model: bytes) -> CustomNetwork:
    info = ModelInfo("guest", "", "", "", ("text", "barcode"), "")
    runner = Runner(hashlib.sha256(model).hexdigest(), SIDE, classes=2, threads=1)
    return CustomNetwork(box, model, runner, ("text", "barcode"), info)


def test_no_worker_outlives_its_engine(engine: Engine, team: Team) -> None:
    engine.custom_networks.inspect(team.administrator, network())
    [worker] = engine.context.custom_networks.sandbox._idle
    assert worker.process.poll() is None
    engine.close()
    assert worker.process.poll() is not None


def test_what_a_file_says_of_its_network(hospital: Engine, team: Team) -> None:
    shape = hospital.custom_networks.inspect(team.administrator, network())
    assert (shape.side, shape.names) == (SIDE, ("tag", "sticker"))
    assert hospital.custom_networks.inspect(team.administrator, network(names=None)).names == (
        "0",
        "1",
    )


def test_a_network_is_taken_kept_encrypted_and_used_by_a_profile(
    hospital: Engine, team: Team, settings: Settings
) -> None:
    admin, model = team.administrator, network()
    record = hospital.custom_networks.add(admin, "tags", "Our tags", model, MAPPING)
    assert record.sha256 == hashlib.sha256(model).hexdigest()
    assert record.finds == ("text", "barcode")
    assert hospital.profiles.known_networks(admin)["tags"] == ("text", "barcode")
    hospital.profiles.save(admin, "ours", {
        "title": "Ours", "classes": ["text", "barcode"], "networks": ["ppocr", "tags"],
    })  # fmt: skip
    picture = np.zeros((128, 64, 3), np.uint8)  # shown at half its size, in a corner
    detector = Detector(settings, hospital.profiles.by_name())
    detector.custom_networks = hospital.detector.custom_networks
    found = detector.detect(lambda _: picture, 1, hospital.profiles.get("ours"))
    assert [(d.label, d.region.xyxy, d.source) for d in found] == [
        ("text", (24, 32, 56, 48), "tags"),  # the other one lies beside the picture
    ]
    stored = b"".join(p.read_bytes() for p in Path(settings.data).rglob("*") if p.is_file())
    assert model[:200] not in stored
    [entry] = hospital.audit.entries(admin, query="guest.save")
    assert entry.detail["after"]["sha256"] == record.sha256


def test_classes_without_a_mapping_are_left_out(hospital: Engine, team: Team) -> None:
    hospital.custom_networks.add(team.administrator, "tags", "T", network(), {"sticker": "text"})
    guest = hospital.context.custom_networks.network("tags")
    found = guest.look(np.zeros((64, 64, 3), np.uint8), 0.1)
    assert [(f.label, round(f.confidence, 2)) for f in found] == [("text", 0.8)]


def test_the_file_survives_the_sweep_and_a_restart(
    hospital: Engine, team: Team, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.custom_networks.add(team.administrator, "tags", "T", network(), MAPPING)
    monkeypatch.setattr(hospital.context.host, "blob_age_seconds", lambda _: 1e9)
    hospital.upkeep.sweep()
    hospital.close()
    again = Engine.open(settings, detector=ScriptedDetector(settings))
    assert again.context.custom_networks.network("tags").look(np.zeros((64, 64, 3), np.uint8), 0.5)
    again.close()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 a .pt file is a zip", "PyTorch"),
        (b"\x80\x02 an older one is a pickle", "PyTorch"),
        (b"no network at all", "cannot be read"),
        (network()[:-40], "cannot be read"),
        (outside_weights(), "another file"),
        (foreign_operator(), "operators"),
        (network(np.zeros((1, 3), np.float32), names=None), "no class names"),
    ],
    ids=["empty", "zip", "pickle", "noise", "cut", "outside", "foreign", "classless"],
)
def test_what_is_no_network_is_refused(
    hospital: Engine, team: Team, model: bytes, says: str
) -> None:
    with pytest.raises(errors.InputError, match=says):
        hospital.custom_networks.add(team.administrator, "tags", "T", model, MAPPING)
    assert not hospital.custom_networks.records(team.administrator)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (np.zeros((1, 9, 3), np.float32), "shape"),
        (np.zeros((6, 3), np.float32), "shape"),
        (np.full((1, 6, 3), np.nan, np.float32), "no number"),
        (np.full((1, 6, 3), 7.0, np.float32), "scores"),
        (np.full((1, 6, 3), -1.0, np.float32), "scores"),
    ],
)
def test_a_network_that_answers_nonsense_is_refused(
    hospital: Engine, team: Team, answer: np.ndarray, says: str
) -> None:
    with pytest.raises(errors.InputError, match=says):
        hospital.custom_networks.add(team.administrator, "tags", "T", network(answer), MAPPING)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "ppocr"}, "already used"),
        ({"name": "Our Net"}, "lowercase letters"),
        ({"title": ""}, "title"),
        ({"names": {}}, "at least one"),
        ({"names": {"tag": "stamp"}}, "at least one"),
        ({"names": {"label": "text"}}, "no such classes"),
        ({"side": 96}, "64 px"),
        ({"side": 100}, "64 px|multiple"),
    ],
)
def test_what_is_said_of_a_network_must_fit_it(
    hospital: Engine, team: Team, change: dict, says: str
) -> None:
    given = {"name": "tags", "title": "T", "model": network(), "names": MAPPING} | change
    with pytest.raises(errors.InputError, match=says):
        hospital.custom_networks.add(team.administrator, **given)


def test_a_file_that_is_too_large_is_refused(hospital: Engine, team: Team) -> None:
    hospital.context.custom_networks._limit = 100
    with pytest.raises(errors.InputError, match="MB"):
        hospital.custom_networks.inspect(team.administrator, network())


@pytest.mark.parametrize("make", [hanging, gluttonous])
def test_a_network_that_hangs_or_devours_is_ended_and_the_next_one_runs(
    make: object, box: Sandbox
) -> None:
    impatient = Sandbox("engine.detect.custom_network", 1, 8.0, MEMORY_BYTES)
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(errors.DetectorError):
        opened(impatient, make()).look(picture, 0.1)  # type: ignore[operator]
    assert len(opened(impatient, network()).look(picture, 0.1)) == 2
    impatient.close()


@pytest.mark.parametrize(
    "answer",
    [
        None, "boxes", np.zeros(6), np.zeros((1, 5)), np.full((1, 6), np.inf),
        np.array([[0, 0, 1, 1, 2, 0.5]]),  # a class that it does not have
        np.array([[0, 0, 1, 1, 0, 1.5]]), np.array([[0, 0, 1, 1, -1, 0.5]]),
        np.array([[0, 0, 1e9, 1, 0, 0.5]]), np.zeros((20_001, 6)),
    ],
)  # fmt: skip
def test_a_worker_that_was_taken_over_can_send_nothing_but_boxes(answer: object) -> None:
    with pytest.raises(errors.DetectorError):
        _boxes(answer, 2)


def test_a_network_that_fails_sends_the_image_to_a_person(
    ward: Ward, box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, engine = ward.team.administrator, ward.engine
    engine.context.custom_networks.sandbox = box
    record = engine.custom_networks.add(admin, "tags", "T", network(), MAPPING)
    engine.profiles.save(admin, "general", {
        "classes": ["text", "barcode"], "networks": ["ppocr", "tags"],
    })  # fmt: skip
    detector = Detector(engine.settings, engine.profiles.by_name())
    detector.custom_networks = engine.detector.custom_networks
    monkeypatch.setattr(engine.drafts._examiner, "_detector", detector)
    blob = next(b for b in engine.context.host.blobs())
    engine.context.custom_networks._open.clear()
    path = engine.context.host.path(blob)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    image = engine.drafts.upload(
        ward.team.technician, ward.patient_id, "a.png", builders.png(builders.radiograph())
    )
    assert image.reasons == ("detector-failed",)
    assert record.size_bytes == len(network())


def test_text_is_always_looked_for_by_a_network_of_medsecs_own(
    hospital: Engine, team: Team
) -> None:
    hospital.custom_networks.add(team.administrator, "tags", "T", network(), MAPPING)
    with pytest.raises(errors.InputError, match="text network of MedSec is required"):
        hospital.profiles.save(team.administrator, "general", {
            "classes": ["text"], "networks": ["tags"],
        })  # fmt: skip


def test_a_network_in_use_stays_and_one_that_is_not_goes(hospital: Engine, team: Team) -> None:
    admin = team.administrator
    hospital.custom_networks.add(admin, "tags", "T", network(), MAPPING)
    hospital.profiles.save(admin, "ours", {
        "title": "Ours", "classes": ["text"], "networks": ["ppocr", "tags"],
    })  # fmt: skip
    with pytest.raises(errors.InputError, match="Ours"):
        hospital.custom_networks.remove(admin, "tags")
    hospital.profiles.save(admin, "ours", {"networks": ["ppocr"]})
    hospital.custom_networks.remove(admin, "tags")
    assert "tags" not in hospital.profiles.known_networks(admin)
    with pytest.raises(errors.InputError, match="tags"):
        hospital.profiles.save(admin, "ours", {"networks": ["ppocr", "tags"]})
    with pytest.raises(errors.NotFound):
        hospital.custom_networks.remove(admin, "tags")

"""A custom ONNX network, run by a worker process without keys and files.

Supports networks with a YOLOv8 detection head: one picture in, one map out, with a box and class
scores per anchor. Refuses PyTorch files (a ``.pt`` file can contain code), external weights,
custom ONNX operators, and invalid outputs.

Any failure (crash, hang, too much memory, invalid boxes) is a ``DetectorError``, and the image
needs review.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from engine.detect.networks import CpuModel, Finding, ModelInfo, resized
from engine.detect.yolo import GREY, YoloNetwork
from engine.errors import DetectorError, EngineError, InputError
from engine.formats.sandbox import Sandbox

SECONDS = 20.0  # for one picture; the first one loads the network
MEMORY_BYTES = 4 << 30  # address space of the worker
MOST_BOXES = 20_000  # before overlapping ones are merged
SIDES_PX = (64, 2048)
DEFAULT_SIDE_PX = 640
MOST_CLASSES = 1000
_FAILED = (
    "The hospital's own network failed, took too long or took too much memory: the image needs"
    " a person's look."
)


@dataclass(frozen=True)
class Shape:
    """What a file says of its network.

    Args:
        side: Of the square picture it wants, px; 0 where it takes any.
        names: Of its classes, in their order; numbers where it does not name them.
    """

    side: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Runner:
    """How a worker runs a network.

    Args:
        sha256: Of the file; the worker keeps it loaded under this.
        side: Of the square picture that it is shown, px.
        classes: How many it has.
        threads: Of the processor.
    """

    sha256: str
    side: int
    classes: int
    threads: int


class CustomNetwork:
    """One such network, as the detector runs it.

    Args:
        sandbox: Of this module.
        model: The file.
        labels: For each of its classes the class of MedSec, or None to leave it out.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        model: bytes,
        runner: Runner,
        labels: Sequence[str | None],
        info: ModelInfo,
    ) -> None:
        self._sandbox = sandbox
        # Sent as an array: the sandbox extends its time limit by the length of bytes arguments.
        self._model = np.frombuffer(model, np.uint8)
        self._runner = runner
        self._labels = tuple(labels)
        self.info = info

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        try:
            found = self._sandbox.call("look", astuple(self._runner), self._model, floor, picture)
        except DetectorError:
            raise
        except EngineError as err:
            raise DetectorError(_FAILED, network=self.info.name) from err
        return [
            Finding(x1, y1, x2, y2, label, confidence)
            for x1, y1, x2, y2, place, confidence in _boxes(found, len(self._labels)).tolist()
            if (label := self._labels[int(place)]) is not None
        ]


def _boxes(found: Any, classes: int) -> np.ndarray:
    """Validate the output of a worker, which could be compromised: shape (N, 6)."""
    right = isinstance(found, np.ndarray) and found.ndim == 2 and found.shape[1] == 6
    if not right or len(found) > MOST_BOXES or not np.isfinite(found).all():
        raise DetectorError(_FAILED)
    in_range = (
        (found[:, 4] >= 0).all()
        and (found[:, 4] < classes).all()
        and (found[:, 5] >= 0).all()
        and (found[:, 5] <= 1).all()
        and (np.abs(found[:, :4]) < 1e6).all()
    )
    if not in_range:
        raise DetectorError(_FAILED)
    return np.asarray(found)


def inspect(sandbox: Sandbox, model: bytes) -> Shape:
    """Input size and class names of a network file, read by a worker.

    Raises:
        InputError: Not an ONNX network that MedSec can run; the message says why.
    """
    if model[:2] == b"PK" or model[:1] == b"\x80":
        raise InputError(
            "This is a PyTorch file, which can contain code. Export the network as ONNX."
        )
    try:
        side, names = sandbox.call("inspect", np.frombuffer(model, np.uint8))
    except InputError as err:
        raise InputError(err.message) from err
    except EngineError as err:
        raise InputError("The file is not a readable ONNX network. Export it again.") from err
    return Shape(int(side), tuple(str(name) for name in names))


# --- in the worker ----------------------------------------------------------------------------

_LOADED: dict[str, CpuModel] = {}


def _inspect(model: np.ndarray) -> tuple[int, tuple[str, ...]]:
    import onnx

    network = onnx.load_model_from_string(model.tobytes())
    graph = network.graph
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.initializer):
        raise InputError("This network stores its weights in another file. Export it as one file.")
    onnx.checker.check_model(network)
    foreign = {o.domain for o in network.opset_import} - {"", "ai.onnx", "ai.onnx.ml"}
    if foreign or network.functions:
        raise InputError(
            "This network uses custom ONNX operators. Export it with standard operators only."
        )
    weights = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise InputError(
            "The input of this network must be one picture of 32-bit floats. Export it so."
        )
    sizes = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
    if len(sizes) != 4 or sizes[0] > 1 or sizes[1] not in (0, 3):
        raise InputError(
            "The input of this network must be one picture with three channels. Export it so."
        )
    if sizes[2] != sizes[3]:
        raise InputError("The input of this network must be square. Export it so.")
    metadata = {p.key: p.value for p in network.metadata_props}
    names = _names(metadata)
    if not names:
        answer = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
        classes = answer[1] - 4 if len(answer) == 3 else 0
        if not 1 <= classes <= MOST_CLASSES:
            raise InputError(
                "The metadata of this network has no class names. Export it with names."
            )
        names = tuple(str(k) for k in range(classes))
    return sizes[2], names


def _names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Class names as ultralytics writes them into an export."""
    try:
        table = ast.literal_eval(metadata["names"])
        names = tuple(str(table[k])[:100] for k in range(len(table)))
    except (KeyError, ValueError, SyntaxError, TypeError):
        return ()
    return names if len(names) <= MOST_CLASSES else ()


def _look(told: Sequence[Any], model: np.ndarray, floor: float, picture: np.ndarray) -> np.ndarray:
    """Boxes of a picture in its own pixels: rows of x1, y1, x2, y2, class, confidence.

    Args:
        told: Fields of a :class:`Runner`; a dataclass does not travel to the worker.
    """
    runner = Runner(*told)
    side, classes = runner.side, runner.classes
    if runner.sha256 not in _LOADED:
        _LOADED.clear()  # one at a time: the memory is bounded
        _LOADED[runner.sha256] = CpuModel(model.tobytes(), runner.threads)
    loaded = _LOADED[runner.sha256]

    def run(batch: np.ndarray) -> np.ndarray:
        answer = loaded(batch)[0]
        if answer.ndim != 3 or answer.shape[:2] != (1, 4 + classes):
            raise DetectorError(
                f"The network answers with the shape {answer.shape}, not (1, {4 + classes}, N)."
            )
        if not np.isfinite(answer).all() or answer[0, 4:].min() < 0 or answer[0, 4:].max() > 1.001:
            raise DetectorError("The scores of the network are not between 0 and 1.")
        return answer

    height, width = picture.shape[:2]
    scale = side / max(height, width)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    square = np.full((side, side, 3), GREY, np.uint8)
    square[:h, :w] = resized(picture, w, h)
    network = YoloNetwork(run, tuple(str(k) for k in range(classes)), (side,), _NOBODY)
    found = network.look(square, floor)
    if len(found) > MOST_BOXES:
        raise DetectorError("The network returns too many boxes.")
    rows = [
        (f.x1 * width / w, f.y1 * height / h, f.x2 * width / w, f.y2 * height / h,
         float(f.label), f.confidence)
        for f in found
    ]  # fmt: skip
    return np.array(rows, np.float64).reshape(-1, 6)


_NOBODY = ModelInfo("guest", "", "", "", (), "")

OPERATIONS = {"inspect": _inspect, "look": _look}

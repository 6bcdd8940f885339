"""Networks of the YOLOv8 kind: MedSec's own ones, and NudeNet for intimate regions.

MedSec's own network runs as ONNX on a CPU and as PyTorch on a GPU. A ``.pt`` file is a pickle and
can contain code, so it is loaded only if its SHA-256 equals the recorded one.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import threading
from collections.abc import Callable, Mapping
from glob import glob
from pathlib import Path
from typing import Any, Self

import numpy as np

from engine.detect.networks import (
    LEVELS,
    CpuModel,
    Finding,
    ModelInfo,
    by_level,
    read_weights,
    recorded,
    resized,
)
from engine.detect.own_versions import LEARNT, OwnVersion
from engine.errors import DetectorError, SettingsError
from engine.installation import MODEL, VENDOR
from engine.settings import Settings

WEIGHTS = MODEL
#: Longer side at which our network knows each class; see model/CARD.md. At other sizes it has
#: seen none: a thorax is not found at 640 px, a line of text not at 320.
THORAX_SIDES_PX = (320,)
TEXT_SIDES_PX = (640, 1280)
TEXT_SIDES_AGAIN_PX = (960,)  # for the second look
SAME_IOU = 0.6  # boxes of one look that overlap more are the same thing
GREY = 114  # what the training fills borders with
#: Least side of what a network is shown. At 32 px, OpenVINO 2026.4 computes NaN in bf16 on
#: processors with AMX.
LEAST_PX = 64

#: MedSec's own network for tattoos, in a file of its own: it was trained on skin.
TATTOO = "tattoo.onnx"
TATTOO_SIDES_PX = (320, 640)
TATTOO_SIDES_AGAIN_PX = (448,)
TATTOO_FLOOR = 0.25  # confidence from which it says anything

NUDENET = VENDOR / "nudenet-320n.onnx"
NUDENET_SHA256 = "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"
NUDENET_VERSION = "3.4.2"
NUDENET_SIDE_PX = 320
NUDENET_LABELS = {
    "FACE_FEMALE": "face",
    "FACE_MALE": "face",
    "FEMALE_BREAST_EXPOSED": "intimate",
    "FEMALE_GENITALIA_EXPOSED": "intimate",
    "MALE_GENITALIA_EXPOSED": "intimate",
    "BUTTOCKS_EXPOSED": "intimate",
    "ANUS_EXPOSED": "intimate",
}

#: One of them is there where PyTorch can use a GPU: NVIDIA's, AMD's, that of a Jetson or of WSL.
_GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/nvgpu", "/dev/nvhost-gpu", "/dev/dxg")

#: From a batch of shape (1, 3, H, W), float32, 0 to 1, to (1, 4 + classes, anchors).
Model = Callable[[np.ndarray], np.ndarray]


class YoloNetwork:
    """A YOLOv8 detection head: per anchor a box and a score for each class.

    Args:
        model: Runs a batch; safe in several threads.
        labels: The label of each class of the head, in its order; None is left out.
        sides: Sizes of the longer side at which a picture is looked at; a picture is made
            smaller for that, and larger only up to the least of them.
        info: What the About line says.
        again: Sizes at which it looks a second time, where they are others.
        whole_px: Longer side of the picture of which it sees a part; 0 where that is the whole.
    """

    def __init__(
        self,
        model: Model,
        labels: tuple[str | None, ...],
        sides: tuple[int, ...],
        info: ModelInfo,
        again: tuple[int, ...] = (),
        whole_px: int = 0,
    ) -> None:
        self._model = model
        self._labels = labels
        self._sides = sides
        self.info = info
        self._again = again or sides
        self._whole_px = whole_px

    def rescaled(self) -> Self:
        return type(self)(self._model, self._labels, self._again, self.info)

    def part_of(self, whole_px: int) -> Self:
        """See :class:`engine.detect.networks.Zoomed`."""
        return type(self)(self._model, self._labels, self._sides, self.info, (), whole_px)

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        longer = max(picture.shape[:2])
        least, most = min(self._sides), self._whole_px or longer
        sides = {max(1, round(max(least, min(s, most)) * longer / most)) for s in self._sides}
        return [f for side in sorted(sides) for f in self._look_at(picture, side, floor)]

    def _look_at(self, picture: np.ndarray, side: int, floor: float) -> list[Finding]:
        height, width = picture.shape[:2]
        scale = side / max(height, width)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        rows, columns = (max(LEAST_PX, -(-side // 32) * 32) for side in (h, w))
        canvas = np.full((rows, columns, 3), GREY, dtype=np.uint8)
        canvas[:h, :w] = resized(picture, w, h)
        output = self._model(by_level(canvas, LEVELS / 255))[0]
        if output.shape[0] != 4 + len(self._labels):
            raise DetectorError(
                "The classes of a network differ from its metadata. Reinstall MedSec.",
                expected=4 + len(self._labels),
                found=output.shape[0],
            )
        asked = [i for i, label in enumerate(self._labels) if label is not None]
        scores = output[4:][asked]
        confidence = scores.max(axis=0)
        likely = np.flatnonzero(confidence >= floor)
        best = scores[:, likely].argmax(axis=0)
        findings = []
        for k in apart(output[:4, likely].T, confidence[likely], best):
            i, label = likely[k], self._labels[asked[best[k]]]
            assert label is not None
            x, y, wide, tall = (float(v) for v in output[:4, i])
            findings.append(
                Finding(
                    (x - wide / 2) * width / w,
                    (y - tall / 2) * height / h,
                    (x + wide / 2) * width / w,
                    (y + tall / 2) * height / h,
                    label,
                    float(min(1.0, confidence[i])),
                )
            )
        return findings


class TattooNetwork(YoloNetwork):
    """Finds tattoos; says nothing of what it hardly believes.

    Of 21 pictures of skin without a tattoo, boxes from 0.1 on lie on 9, from ``TATTOO_FLOOR`` on
    on 5; of 34 drawn tattoos both find all. See model/CARD.md.
    """

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        return super().look(picture, max(floor, TATTOO_FLOOR))


def apart(boxes: np.ndarray, confidences: np.ndarray, classes: np.ndarray) -> list[int]:
    """Which boxes remain when of those that nearly coincide only the most certain is kept.

    Args:
        boxes: Shape (N, 4): centre x and y, width, height.
        confidences: Shape (N,).
        classes: Shape (N,): numbers; boxes of different classes do not compete.
    """
    if not len(boxes):
        return []
    import cv2

    corners = boxes.astype(np.float64)
    corners[:, :2] -= corners[:, 2:] / 2
    kept = cv2.dnn.NMSBoxesBatched(
        corners.tolist(), confidences.tolist(), classes.tolist(), 0.0, SAME_IOU
    )
    return [int(i) for i in np.asarray(kept).ravel()]


def open_own(
    settings: Settings,
    classes: tuple[str, ...] = ("text", "barcode"),
    sides: tuple[int, ...] = TEXT_SIDES_PX,
    again: tuple[int, ...] = TEXT_SIDES_AGAIN_PX,
    folder: Path = WEIGHTS,
) -> YoloNetwork:
    """MedSec's own network: ``best.pt`` on a GPU, else ``best.onnx``.

    Args:
        classes: Which of its classes are asked for; the sizes must be theirs.

    Raises:
        DetectorError: Not there, not recorded or altered.
        SettingsError: A GPU is asked for, and what runs on one is not installed.
    """
    known = recorded(folder)
    name = "best.pt" if on_gpu(settings) else "best.onnx"
    if name not in known:
        raise DetectorError(
            "MedSec's YOLO network is not installed. Train it, or choose another profile."
        )
    weights = read_weights(folder / name, known[name])
    model: Model
    if name == "best.pt":
        torch_model = TorchModel(weights, "cuda")
        model, names, made = torch_model, torch_model.names, torch_model.made
    else:
        cpu = CpuModel(weights, settings.threads)
        model, names, made = _first_output(cpu), *_described(cpu.metadata)
    return YoloNetwork(
        model,
        _asked_for(names, classes),
        sides,
        ModelInfo(
            name="MedSec YOLOv8n",
            version=made,
            sha256=known[name],
            licence="AGPL-3.0",
            classes=classes,
            source="trained by this project, see model/CARD.md",
        ),
        again,
    )


def open_version(settings: Settings, version: OwnVersion) -> YoloNetwork:
    """A learned version of MedSec's own network; on the CPU, also where a GPU is used.

    Raises:
        DetectorError: Not a network with the classes of the shipped one.
    """
    cpu = CpuModel(version.onnx, settings.threads)
    labels = _asked_for(_described(cpu.metadata)[0], LEARNT)
    if not set(LEARNT) <= set(labels):
        raise DetectorError(
            "A learned version lacks classes of MedSec's network.", version=version.name
        )
    return YoloNetwork(_first_output(cpu), labels, TEXT_SIDES_PX, version.info, TEXT_SIDES_AGAIN_PX)


def _asked_for(names: Mapping[int, str], classes: tuple[str, ...]) -> tuple[str | None, ...]:
    """The label of each class of a head; None for those that nobody asks for."""
    every = (names[i] for i in range(len(names)))
    return tuple(name if name in classes else None for name in every)


def open_tattoo(settings: Settings, folder: Path = WEIGHTS) -> TattooNetwork:
    """MedSec's own network for tattoos; on the CPU, also where a GPU is used.

    Raises:
        DetectorError: Not there, not recorded or altered.
    """
    known = recorded(folder)
    if TATTOO not in known:
        raise DetectorError(
            "MedSec's network for tattoos is not installed. Install MedSec again, or choose"
            " another profile."
        )
    cpu = CpuModel(read_weights(folder / TATTOO, known[TATTOO]), settings.threads)
    names, made = _described(cpu.metadata)
    return TattooNetwork(
        _first_output(cpu),
        _asked_for(names, ("tattoo",)),
        TATTOO_SIDES_PX,
        ModelInfo(
            name="MedSec YOLOv8n for tattoos",
            version=made,
            sha256=known[TATTOO],
            licence="AGPL-3.0",
            classes=("tattoo",),
            source="trained by this project, see model/CARD.md",
        ),
        TATTOO_SIDES_AGAIN_PX,
    )


def open_nudenet(settings: Settings) -> YoloNetwork:
    """NudeNet, for intimate regions. Trained on photographs of people in daily life; nobody
    has validated it on clinical ones.

    Raises:
        DetectorError: Missing or altered.
    """
    weights = read_weights(NUDENET, NUDENET_SHA256)
    cpu = CpuModel(weights, settings.threads)
    names, _ = _described(cpu.metadata)
    return YoloNetwork(
        _first_output(cpu),
        tuple(NUDENET_LABELS.get(names[i]) for i in range(len(names))),
        (NUDENET_SIDE_PX,),
        ModelInfo(
            name="NudeNet 320n",
            version=NUDENET_VERSION,
            sha256=NUDENET_SHA256,
            licence="AGPL-3.0 (its licence file; its package says MIT)",
            classes=("face", "intimate"),
            source="notAI-tech/NudeNet; not clinically validated",
        ),
    )


class TorchModel:
    """The same network in PyTorch.

    Args:
        weights: A checkpoint of ultralytics whose digest has been checked.
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, weights: bytes, device: str) -> None:
        # Unpickling imports ultralytics, which otherwise looks for its makers' server.
        os.environ.setdefault("YOLO_OFFLINE", "true")
        os.environ.setdefault("YOLO_AUTOINSTALL", "false")
        import torch

        try:
            checkpoint = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=False)
            module = checkpoint.get("ema") or checkpoint["model"]
            self._module = module.float().fuse(verbose=False).eval().to(device)
            self.names: Mapping[int, str] = dict(module.names)
            self.made = str(checkpoint.get("date", ""))
        except (RuntimeError, KeyError, ImportError, AttributeError) as err:
            raise DetectorError(
                "MedSec's YOLO network could not be loaded. Reinstall MedSec."
            ) from err
        self._torch = torch
        self._device = device
        self._lock = threading.Lock()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        try:
            with self._lock, self._torch.inference_mode():
                output = self._module(self._torch.from_numpy(batch).to(self._device))
                values: np.ndarray = output[0].float().cpu().numpy()
        except RuntimeError as err:
            raise DetectorError("A network failed on this image. Review the image.") from err
        return values


def refuse_missing_gpu_packages(settings: Settings) -> None:
    """Compare the settings with what is installed; imports nothing.

    Raises:
        SettingsError: A GPU is asked for, and what runs a network on one is not installed.
    """
    if settings.device == "cuda" and not _gpu_packages():
        raise SettingsError(
            "MEDSEC_DEVICE is cuda, but PyTorch and ultralytics are not installed: start with"
            " make run GPU=1, or install medsec[gpu]."
        )


def _gpu_packages() -> bool:
    return all(importlib.util.find_spec(package) for package in ("torch", "ultralytics"))


def on_gpu(settings: Settings) -> bool:
    """The one switch between PyTorch on CUDA and OpenVINO on the CPU.

    Raises:
        SettingsError: See :func:`refuse_missing_gpu_packages`.
        DetectorError: The settings ask for a GPU, and there is none that PyTorch can use.
    """
    refuse_missing_gpu_packages(settings)
    if settings.device == "cpu" or not _gpu_packages():
        return False
    if settings.device == "auto" and not any(glob(place) for place in _GPU_FILES):
        return False  # known without importing PyTorch, which takes seconds and 300 MB
    import torch

    there = bool(torch.cuda.is_available())
    if settings.device == "cuda" and not there:
        raise DetectorError(
            "MEDSEC_DEVICE is cuda, but there is no usable GPU. Set it to auto or cpu."
        )
    return there


def _first_output(model: CpuModel) -> Model:
    return lambda batch: model(batch)[0]


def _described(metadata: Mapping[str, str]) -> tuple[dict[int, str], str]:
    """Class names and date that ultralytics writes into an export."""
    try:
        names: Any = ast.literal_eval(metadata["names"])
        return {int(k): str(v) for k, v in names.items()}, metadata.get("date", "")
    except (KeyError, ValueError, SyntaxError, AttributeError) as err:
        raise DetectorError(
            "The file of a network does not name its classes. Export it with names."
        ) from err

"""The project's own training on crops in memory: pixels of patients are never written to a file.

The loop, the losses and the recipe are those of :mod:`model.train`. Only where crops come from
differs, and that nothing is validated or drawn by ultralytics, which would write pictures.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.data import CLASSES, Sample
from model.train import RECIPE, Crops, Loader, RandomHSV, stay_offline, trainer_class

import numpy as np  # isort: skip
import torch  # isort: skip
from ultralytics.utils import LOGGER  # isort: skip

#: Modules of YOLOv8 that stay as they are: its backbone.
BACKBONE = 10


@dataclass(frozen=True)
class FineTuning:
    """How long and how far weights are moved.

    Args:
        epochs: Passes over all crops.
        rate: Learning rate at the start of the cosine.
        frozen: So many of the first modules are not moved.
        threads: Of the processor; 0 leaves them alone.
        device: ``cpu`` or ``cuda``.
        seed: Of the order in which crops are shown.
    """

    epochs: int = 6
    rate: float = 0.006
    frozen: int = BACKBONE
    threads: int = 0
    device: str = "cpu"
    seed: int = 7
    batch: int = 16


class MemoryCrops(Crops):
    """Crops that were drawn or cut in this process.

    Args:
        samples: Pixels of shape (H, W, 3), uint8, RGB, with labels in pixels.
    """

    def __init__(self, samples: Sequence[Sample], jitter: RandomHSV) -> None:
        self._samples = samples
        self.jitter = jitter
        self.files = [Path(f"crop-{number}") for number in range(len(samples))]  # names only
        self.shapes = [(s.pixels.shape[0], s.pixels.shape[1]) for s in samples]
        self.labels = [_labels(s) for s in samples]

    def picture(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self._samples[index].pixels[..., ::-1])


def _labels(sample: Sample) -> dict[str, np.ndarray]:
    height, width = sample.pixels.shape[:2]
    rows = [
        (CLASSES.index(name), (x1 + x2) / 2 / width, (y1 + y2) / 2 / height,
         (x2 - x1) / width, (y2 - y1) / height)
        for name, x1, y1, x2, y2 in sample.labels
    ]  # fmt: skip
    table = np.array(rows, np.float32).reshape(-1, 5)
    return {"cls": table[:, :1], "bboxes": table[:, 1:]}


def fine_tune(samples: Sequence[Sample], start: Path, how: FineTuning) -> bytes:
    """Train on from earlier weights.

    Args:
        start: ``.pt`` of the project, or ``.onnx`` of a version of the same network.

    Returns:
        The network as ONNX, checked against PyTorch.

    Raises:
        SystemExit: Too few crops, or the export differs from what was trained.
    """
    from model.export import exported

    base = trainer_class(0, start, how.threads)

    class InMemory(base):  # type: ignore[misc, valid-type]
        def crops(self, dataset_path: str, jitter: RandomHSV) -> Crops:
            return MemoryCrops(samples, jitter)

        def get_dataset(self) -> dict[str, Any]:
            names = dict(enumerate(CLASSES))
            return {"train": "", "val": "", "names": names, "nc": len(names), "channels": 3}

        def get_dataloader(
            self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
        ) -> Any:
            if mode == "train":
                return super().get_dataloader(dataset_path, batch_size, rank, mode)
            crops = self.crops(dataset_path, RandomHSV(0, 0, 0))
            return Loader(crops, batch_size, num_workers=0, collate_fn=Crops.collate)

        def validate(self) -> tuple[dict[str, float], float]:
            return {}, 0.0  # candidates are measured as a whole detector, on whole pictures

        def final_eval(self) -> None:
            pass

    stay_offline()
    with tempfile.TemporaryDirectory(prefix="medsec-learn-") as room:
        overrides: dict[str, Any] = {
            **RECIPE,
            "model": "yolov8n.yaml",
            "data": "",
            "epochs": how.epochs,
            "batch": how.batch,
            "nbs": how.batch,
            "lr0": how.rate,
            "freeze": how.frozen,
            "seed": how.seed,
            "val": False,
            "workers": 0,
            "project": room,
            "name": "learn",
            "device": how.device,
        }
        with torch.random.fork_rng(devices=[]), _quiet():
            trainer = InMemory(overrides=overrides)
            trainer.train()
            return exported(Path(trainer.last))["best.onnx"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress lines of ultralytics, which are for its own commands."""
    before = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(before)

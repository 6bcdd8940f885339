"""Turn a training run into what ships: ``best.pt``, ``best.onnx`` and ``SHA256SUMS``.

    python -m model.export --run runs/medsec/weights/last.pt

The checkpoint loses its optimizer, the weights that are not the moving average, and everything
that names the machine it was trained on. The ONNX takes any input size that is a multiple of 32
and is checked against PyTorch before anything is written.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import model.train

import numpy as np  # isort: skip
import onnx  # isort: skip
import onnxruntime  # type: ignore[import-untyped]  # isort: skip
import torch  # isort: skip
from ultralytics.models import YOLO  # isort: skip

from model.verifier import record  # isort: skip

MODEL = Path(__file__).resolve().parent
TOLERANCE = 1e-3  # of a confidence; boxes, in px, a hundred times as much


def clean_checkpoint(run: Path) -> dict[str, Any]:
    """The moving average as a float16 checkpoint without paths, optimizer or machine."""
    loaded: dict[str, Any] = torch.load(run, map_location="cpu", weights_only=False)
    module = loaded.get("ema") or loaded["model"]
    module = module.float().half()
    module.args = {}
    for parameter in module.parameters():
        parameter.requires_grad = False
    recipe = {k: v for k, v in dict(loaded.get("train_args", {})).items()
              if not isinstance(v, str) or "/" not in v}  # fmt: skip
    return {"model": module, "ema": None, "optimizer": None, "train_args": recipe,
            "epoch": -1, "date": loaded.get("date", ""), "version": loaded.get("version", ""),
            "license": "AGPL-3.0"}  # fmt: skip


def to_onnx(weights: Path) -> onnx.ModelProto:
    """Export with free height and width; metadata says classes, stride and date only."""
    exported = onnx.load(
        YOLO(weights).export(format="onnx", dynamic=True, simplify=False, opset=17)
    )
    kept = {p.key: p.value for p in exported.metadata_props}
    del exported.metadata_props[:]
    kept["description"] = "MedSec YOLOv8n"
    for key in ("description", "date", "version", "license", "stride", "task", "names"):
        if key in kept:
            exported.metadata_props.add(key=key, value=kept[key])
    for node in exported.graph.node:  # names of source files
        node.doc_string = ""
        del node.metadata_props[:]
    return exported


def difference(weights: Path, network: bytes) -> tuple[float, float]:
    """Largest difference of PyTorch and ONNX on a random picture: (confidence, box in px)."""
    picture = np.random.default_rng(0).random((1, 3, 256, 416), np.float32)
    module = torch.load(weights, map_location="cpu", weights_only=False)["model"].float().eval()
    with torch.inference_mode():
        ours = module(torch.from_numpy(picture))[0].numpy()
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {session.get_inputs()[0].name: picture})[0]
    apart = np.abs(ours - theirs)
    return float(apart[:, 4:].max()), float(apart[:, :4].max())


def exported(run: Path) -> dict[str, bytes]:
    """``best.pt`` and ``best.onnx`` of a run.

    Raises:
        SystemExit: ONNX and PyTorch do not agree.
    """
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "best.pt"
        torch.save(clean_checkpoint(run), weights)
        network = to_onnx(weights).SerializeToString()
        confidence, box = difference(weights, network)
        if confidence > TOLERANCE or box > 100 * TOLERANCE:
            raise SystemExit(f"ONNX differs from PyTorch by {confidence:.2g} and {box:.2g} px.")
        return {"best.pt": weights.read_bytes(), "best.onnx": network}


def ship(run: Path, folder: Path) -> dict[str, str]:
    """Write the three files.

    Returns:
        SHA-256 by file name.

    Raises:
        SystemExit: ONNX and PyTorch do not agree.
    """
    return record(exported(run), folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m model.export", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--run", type=Path, default=model.train.RUNS / "medsec" / "weights" / "last.pt"
    )
    parser.add_argument("--folder", type=Path, default=MODEL)
    a = parser.parse_args()
    for name, digest in ship(a.run, a.folder).items():
        print(digest, name)


if __name__ == "__main__":
    main()

"""Train the YOLOv8n that ships as ``best.pt``, on a CPU or a GPU, offline.

    python -m model.train --data runs/set/data.yaml              # make train: 100 epochs, batch 16
    python -m model.train --data runs/set/data.yaml --hours 1.2  # as many as fit, cosine fitted
    python -m model.train --resume runs/medsec/weights/last.pt   # an interrupted run goes on
    python -m model.train --warm model/best.pt --name second     # another cycle from its weights

The recipe is SGD with momentum, batch 16, a cosine from 0.01, colour jitter. Two of the usual
augmentations are elsewhere or nowhere, on purpose: *no flips*, because mirrored text is not text
and learning it costs recall of the real thing; *rotation* is done while drawing the data, where a
box follows its letters exactly, not by the loader, which can only grow a long flat box into a tall
one. No mosaic either: it cuts lines in the middle.

Nothing is fetched: no pretrained file is looked up, mixed precision (which downloads a probe) is
off, telemetry and settings synchronisation are off.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

RUNS = Path(__file__).resolve().parent.parent / "runs"
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_CONFIG_DIR", str(RUNS / "config"))
Path(os.environ["YOLO_CONFIG_DIR"]).mkdir(parents=True, exist_ok=True)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader, Dataset, Sampler  # noqa: E402
from ultralytics import settings as ultralytics_settings  # noqa: E402
from ultralytics.data.augment import RandomHSV  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.nn.modules import Conv  # noqa: E402
from ultralytics.nn.tasks import DetectionModel  # noqa: E402

from model.backgrounds import read_picture  # noqa: E402

RECIPE: dict[str, Any] = {
    "epochs": 100,
    "batch": 16,
    "nbs": 16,
    "optimizer": "SGD",
    "lr0": 0.01,
    "lrf": 0.01,
    "momentum": 0.937,
    "cos_lr": True,
    "warmup_epochs": 1.0,
    "warmup_bias_lr": 0.01,
    "weight_decay": 0.0005,
    "imgsz": 320,
    "amp": False,
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "plots": False,
    "seed": 7,
    "save_period": -1,
    "patience": 0,
    "fliplr": 0.0,
    "flipud": 0.0,
    "mosaic": 0.0,
    "degrees": 0.0,
    "translate": 0.0,
    "scale": 0.0,
    "erasing": 0.0,
}


class Crops(Dataset):
    """Crops of one or more exact shapes, read as they are: nothing is resized, cut or flipped.

    Args:
        folder: ``images/train`` of a YOLO set; labels lie in ``labels/train``.
    """

    def __init__(self, folder: Path, jitter: RandomHSV) -> None:
        self.files = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png"))
        if not self.files:
            raise SystemExit(f"There are no pictures in {folder}: run python -m model.data first.")
        self.jitter = jitter
        self.labels, self.shapes = [], []
        for path in self.files:
            rows = (
                (folder.parent.parent / "labels" / folder.name / f"{path.stem}.txt")
                .read_text()
                .split()
            )
            table = np.array(rows, np.float32).reshape(-1, 5)
            self.labels.append({"cls": table[:, :1], "bboxes": table[:, 1:]})
            self.shapes.append(_shape(path))

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> np.ndarray:
        """Shape (H, W, 3), uint8, BGR; the caller may change it."""
        return read_picture(self.files[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture = {"img": self.picture(index)}
        self.jitter(picture)
        pixels = np.ascontiguousarray(picture["img"][..., ::-1].transpose(2, 0, 1))
        label = self.labels[index]
        return {
            "img": torch.from_numpy(pixels),
            "cls": torch.from_numpy(label["cls"]),
            "bboxes": torch.from_numpy(label["bboxes"]),
            "im_file": str(self.files[index]),
        }

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack the pictures of one batch; ``batch_idx`` says to which picture a box belongs."""
        counts = torch.tensor([len(item["cls"]) for item in items])
        return {"img": torch.stack([item["img"] for item in items]),
                "cls": torch.cat([item["cls"] for item in items]),
                "bboxes": torch.cat([item["bboxes"] for item in items]),
                "batch_idx": torch.repeat_interleave(torch.arange(len(items)), counts).float(),
                "im_file": [item["im_file"] for item in items]}  # fmt: skip


def _shape(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return (picture.height, picture.width)


class SameShape(Sampler):
    """Indices in runs of ``batch`` pictures of one shape; another draw each epoch.

    Args:
        count: Pictures per epoch, at most; 0 takes all.
    """

    def __init__(self, shapes: list[tuple[int, int]], batch: int, count: int, seed: int) -> None:
        self.shapes, self.batch, self.seed, self.epoch = shapes, batch, seed, 0
        groups = [shapes.count(s) // batch for s in set(shapes)]
        self.batches = min(sum(groups), count // batch) if count else sum(groups)
        if not self.batches:
            raise SystemExit(f"There are fewer than {batch} training pictures of one shape.")

    def __len__(self) -> int:
        return self.batches * self.batch

    def __iter__(self) -> Iterator[int]:
        r = Random(f"{self.seed} {self.epoch}")
        self.epoch += 1
        runs = []
        for shape in sorted(set(self.shapes)):
            members = [i for i, s in enumerate(self.shapes) if s == shape]
            r.shuffle(members)
            runs += [
                members[k : k + self.batch]
                for k in range(0, len(members) - self.batch + 1, self.batch)
            ]
        r.shuffle(runs)
        for run in runs[: self.batches]:
            yield from run


class Loader(DataLoader):
    """A loader that the trainer may rewind."""

    def reset(self) -> None:
        """Nothing is kept between epochs."""


def in_bfloat16(predict: Callable[..., Any]) -> Callable[..., Any]:
    """A network's forward pass in bfloat16, its results in float32; weights stay float32.

    Of the trainer's own mixed precision only the half for GPUs can be had offline.
    """

    def widened(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.float() if value.is_floating_point() else value
        if isinstance(value, dict):
            return {key: widened(each) for key, each in value.items()}
        return type(value)(widened(each) for each in value)

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = predict(*args, **kwargs)
        return widened(found)

    return forward


def trainer_class(
    epoch_images: int, warm: Path | None, threads: int, bfloat16: bool = False
) -> type[DetectionTrainer]:
    """A trainer with our loader and start.

    Args:
        epoch_images: Pictures per epoch, 0 for all: the learning rate falls by epoch, so short
            epochs fit a schedule into little time.
        warm: ONNX of a YOLOv8n to start from, or ``.pt`` of an earlier run of ours.
        threads: Processor threads; 0 leaves them alone.
        bfloat16: Compute the forward pass in bfloat16, on a CPU that does so itself.
    """

    class Trainer(DetectionTrainer):
        def crops(self, dataset_path: str, jitter: RandomHSV) -> Crops:
            """What is learnt from."""
            return Crops(Path(dataset_path), jitter)

        def get_dataloader(
            self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
        ) -> Any:
            if mode != "train":
                return super().get_dataloader(dataset_path, batch_size, rank, mode)
            jitter = RandomHSV(self.args.hsv_h, self.args.hsv_s, self.args.hsv_v)
            crops = self.crops(dataset_path, jitter)
            order = SameShape(crops.shapes, batch_size, epoch_images, self.args.seed)
            return Loader(crops, batch_size, sampler=order, num_workers=self.args.workers,
                          collate_fn=Crops.collate, drop_last=True)  # fmt: skip

        def get_model(
            self, cfg: Any = None, weights: Any = None, verbose: bool = True
        ) -> DetectionModel:
            model = super().get_model(cfg, weights, verbose)
            if weights is None and warm is not None:
                if warm.suffix == ".pt":
                    taken = take_weights(model, warm)
                else:
                    taken = warm_start(model, warm)
                    recalibrate(model, self.crops(self.data["train"], RandomHSV(0, 0, 0)))
                print(f"Warm start: {taken} of {len(model.state_dict())} tensors carried over.")
            return model

        def resume_training(self, ckpt: Any) -> None:
            super().resume_training(ckpt)  # type: ignore[no-untyped-call]
            self.train_loader.sampler.epoch = self.start_epoch

        def _setup_train(self) -> None:
            super()._setup_train()  # type: ignore[no-untyped-call]
            if threads:  # the library takes one thread less than there are
                torch.set_num_threads(threads)
            # A third less time per step on a CPU; gradients agree with the usual order to 1e-5.
            network: Any = self.model
            network.to(memory_format=torch.channels_last)
            if bfloat16:
                network.predict = in_bfloat16(network.predict)

    return Trainer


def warm_start(model: DetectionModel, onnx: Path) -> int:
    """Carry the weights of an exported YOLOv8n into a fresh model of any number of classes.

    An export has its batch normalisation folded into the convolutions: a weight and a bias each.
    They go back as the convolution's weight and the normalisation's shift, with the rest of the
    normalisation set to do nothing. Outputs are then those of the export.

    Returns:
        How many tensors of the model's state were set; the last layer of the class head, whose
        shape depends on the classes, is not among them.
    """
    import onnx as onnx_format
    from onnx import numpy_helper

    graph = onnx_format.load(str(onnx)).graph
    found = {i.name: numpy_helper.to_array(i).copy() for i in graph.initializer}
    taken = 0
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Conv):
                norm: Any = module.bn
                module.conv.weight.copy_(torch.from_numpy(found[f"{name}.conv.weight"]))
                norm.bias.copy_(torch.from_numpy(found[f"{name}.conv.bias"]))
                norm.running_mean.zero_()
                norm.running_var.fill_(1.0)
                norm.weight.fill_((1.0 + norm.eps) ** 0.5)
                taken += 6  # with the counter of batches
            elif isinstance(module, torch.nn.Conv2d) and not name.endswith(".conv"):
                weight = found.get(f"{name}.weight")
                if weight is not None and weight.shape == tuple(module.weight.shape):
                    module.weight.copy_(torch.from_numpy(weight))
                    assert module.bias is not None
                    module.bias.copy_(torch.from_numpy(found[f"{name}.bias"]))
                    taken += 2
            elif name.endswith("dfl.conv"):
                taken += 1  # fixed numbers, equal in every YOLOv8
    return taken


def take_weights(model: DetectionModel, checkpoint: Path) -> int:
    """Start from an earlier run of the same network, with a fresh optimiser and schedule.

    A ``.pt`` file is a pickle, that is a program: give only files of your own.

    Returns:
        How many tensors of the model's state were set: all.

    Raises:
        SystemExit: It is another network, or has other classes.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    state = (saved.get("ema") or saved["model"]).float().state_dict()
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise SystemExit(f"{checkpoint} is no YOLOv8n with the classes of this set.") from None
    return len(state)


def recalibrate(model: DetectionModel, crops: Crops, count: int = 48) -> None:
    """Give every batch normalisation the mean and variance of our pictures, changing no output.

    Without this the first training steps normalise by statistics the weights never saw.
    """
    order = Random(0)
    square = [i for i, s in enumerate(crops.shapes) if s == crops.shapes[0]]
    chosen = order.sample(square, min(count, len(square)))
    batch = torch.stack([crops[i]["img"] for i in chosen]).float() / 255
    layers = [m for m in model.modules() if isinstance(m, Conv)]
    measured: dict[Conv, tuple[torch.Tensor, torch.Tensor]] = {}

    def measure(layer: Conv) -> Any:
        def hook(_: Any, __: Any, output: torch.Tensor) -> None:
            measured[layer] = (output.mean((0, 2, 3)), output.var((0, 2, 3)))

        return hook

    hooks = [layer.conv.register_forward_hook(measure(layer)) for layer in layers]
    model.eval()
    with torch.no_grad():
        model(batch)
        for layer, (mean, variance) in measured.items():
            norm: Any = layer.bn
            norm.bias.add_(norm.weight * mean / (1.0 + norm.eps) ** 0.5)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
    for hook in hooks:
        hook.remove()
    model.train()


def nudenet_weights() -> Path:
    """NudeNet's ONNX, a YOLOv8n under AGPL-3.0; see model/vendor/README.md."""
    return Path(__file__).resolve().parent / "vendor" / "nudenet-320n.onnx"


def stay_offline() -> None:
    ultralytics_settings.update({"sync": False})  # type: ignore[no-untyped-call]
    font = Path(os.environ["YOLO_CONFIG_DIR"]) / "Ultralytics" / "Arial.ttf"
    if not font.exists():  # any TrueType font will do; without one the library goes looking online
        from matplotlib import get_data_path

        font.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", font)


def train(
    overrides: dict[str, Any], epoch_images: int, warm: Path | None, threads: int, bfloat16: bool
) -> Path:
    """Run the training and return ``best.pt`` of the run."""
    stay_offline()
    trainer = trainer_class(epoch_images, warm, threads, bfloat16)(overrides=overrides)
    trainer.train()  # type: ignore[no-untyped-call]
    return Path(trainer.best)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m model.train", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=RUNS / "set" / "data.yaml")
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    parser.add_argument(
        "--hours",
        type=float,
        default=None,
        help="stop in time; the cosine is fitted to it. With --resume: since the run's first start",
    )
    parser.add_argument("--epoch-images", type=int, default=0, help="pictures per epoch; 0: all")
    parser.add_argument(
        "--side", type=int, default=RECIPE["imgsz"], help="side at which validation runs, px"
    )
    parser.add_argument("--name", default="medsec", help="folder under runs/")
    parser.add_argument(
        "--warm",
        type=Path,
        default=None,
        help="ONNX of a YOLOv8n, or .pt of an earlier run, to start from; by default nudenet's",
    )
    parser.add_argument("--cold", action="store_true", help="start from random weights")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--resume", type=Path, default=None, help="last.pt of a run that was interrupted"
    )
    parser.add_argument(
        "--bf16", action="store_true", help="bfloat16 on a CPU that computes it: 0.6 of the time"
    )
    parser.add_argument("--no-val", action="store_true", help="validate after the last epoch only")
    a = parser.parse_args()
    overrides: dict[str, Any] = {
        **RECIPE,
        "model": "yolov8n.yaml",
        "data": str(a.data),
        "epochs": a.epochs,
        "imgsz": a.side,
        "project": str(RUNS),
        "name": a.name,
        "exist_ok": True,
        "device": a.device,
        "time": a.hours,
        "val": not a.no_val,
    }
    if a.resume is not None:
        overrides |= {"model": str(a.resume), "resume": str(a.resume)}
    warm = None if a.cold or a.resume is not None else a.warm or nudenet_weights()
    print(train(overrides, a.epoch_images, warm, a.threads, a.bf16))


if __name__ == "__main__":
    main()

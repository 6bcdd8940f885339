"""Train the screen: a small network that says where writing or a code cannot be excluded.

    python -m model.screen draw --images DIR/images DIR2/images
    python -m model.screen train --minutes 60

``draw`` keeps windows of pages and real pictures (:mod:`model.screen_data`) in ``runs/screen``, by
split; pictures of one patient or source folder lie in one split. ``train`` can be interrupted: it
goes on from its last epoch. At the end it writes ``model/screen.onnx`` with its digest and prints,
for both unseen splits, how many lines fall below each share, and how many cells without writing
do not.
"""

from __future__ import annotations

import argparse
import io
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from torch import nn

from engine.detect.screen import CELL_PX, normalised
from model.screen_data import NONE, SHOWS, draw
from model.verifier import MODEL, RUNS, fresh, record
from model.writing import SPLITS

BATCH = 24
EPOCH_BATCHES = 40
RATE = 3e-3
MISSED = 3.0  # how much more a missed cell costs than one that is seen for nothing
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
KINDS = ("pages", "real")  # half of each batch


class Net(nn.Module):
    """Convolutions to an eighth of the size, and eight that see farther. 0.06 million parameters,
    about 950 multiplications a pixel.

    Takes normalised pictures of shape (N, 3, H, W), sides multiples of 8, and gives logits of
    shape (N, H / 8, W / 8).
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            *_step(3, 16, 3, 2), *_step(16, 24, 3, 2), *_step(24, 24, 3, 1, groups=24),
            *_step(24, 32, 1, 1), *_step(32, 48, 3, 2),
        )  # fmt: skip
        self.near = nn.ModuleList(_context(48, dilation) for dilation in (1, 2, 4, 1, 2, 4, 8, 1))
        self.say = nn.Conv2d(48, 1, 1)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        maps = self.down(seen)
        for context in self.near:
            maps = maps + context(maps)
        said: torch.Tensor = self.say(maps)[:, 0]
        return said


def _step(before: int, after: int, side: int, stride: int, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, side, stride, side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    ]


def _context(width: int, dilation: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, 1, dilation, dilation, groups=width, bias=False),
        nn.BatchNorm2d(width),
        *_step(width, width, 1, 1),
        nn.Conv2d(width, width, 1),
    )


class Shares(nn.Module):
    """The network with its shares, 0 to 1, as output: what is exported."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.net(seen))


def varied(
    g: np.random.Generator, picture: np.ndarray, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A window mirrored, turned, inverted, fainter, noisier, grey or in other colours.

    Args:
        picture: Shape (SIDE_PX, SIDE_PX, 3), uint8.
        cells: See :func:`model.screen_data.cells`.
    """
    if g.random() < 0.5:
        picture, cells = picture[:, ::-1], cells[:, ::-1]
    turns = int(g.integers(0, 6)) % 4
    seen = np.rot90(picture, turns).astype(np.float32)
    kind = g.random()
    if kind < 0.5:
        seen = np.repeat(seen @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, 2)
    elif kind < 0.7:
        seen = seen[..., g.permutation(3)]
    if g.random() < 0.3:
        seen = 255 - seen
    if g.random() < 0.5:
        seen = seen.mean() + (seen - seen.mean()) * g.uniform(0.25, 1.2)
    if g.random() < 0.5:
        seen = seen + g.normal(0, g.uniform(0, 8), seen.shape[:2])[..., None]
    return np.clip(np.round(seen), 0, 255).astype(np.uint8), np.rot90(cells, turns)


def loss_of(logits: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Cross entropy over the cells that count; of those without writing, the worst count most,
    for they are what costs a look."""
    shows, none = cells == SHOWS, cells == NONE
    each = nn.functional.binary_cross_entropy_with_logits(logits, shows.float(), reduction="none")
    weight = MISSED * shows + none * (0.2 + torch.sigmoid(logits.detach()))
    return (each * weight).sum() / (weight.sum() + 1.0)


class Windows:
    """Windows of a kind that were kept in several files, as one sequence."""

    def __init__(self, folder: Path, split: str, kind: str) -> None:
        paths = sorted(folder.glob(f"{kind}_{split}*.pictures.npy"))
        if not paths:
            raise SystemExit(f"{folder} has none: run python -m model.screen draw first.")
        self._pictures = [np.load(path, mmap_mode="r") for path in paths]
        self._cells = [np.load(str(path).replace(".pictures.", ".cells.")) for path in paths]
        self._starts = np.cumsum([0, *(len(part) for part in self._pictures)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        place = number - int(self._starts[part])
        return np.asarray(self._pictures[part][place]), self._cells[part][place]


def _batch(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    seen = np.stack([normalised(np.ascontiguousarray(picture)) for picture, _ in pairs])
    cells = np.stack([cells for _, cells in pairs])
    return (
        torch.from_numpy(seen).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(cells),
    )


def train(folder: Path, minutes: float, seed: int) -> Net:
    """Train for a time, with a cosine fitted to it; goes on from the last epoch that was kept."""
    groups = [Windows(folder, "train", kind) for kind in KINDS]
    net = Net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-3)
    checkpoint = folder / "last.pt"
    spent, epoch = 0.0, 0
    torch.manual_seed(seed)
    net.apply(fresh)
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(kept["net"])
        optimizer.load_state_dict(kept["optimizer"])
        spent, epoch = kept["spent"], kept["epoch"]
    while spent < minutes * 60:
        started = time.process_time()
        g = np.random.default_rng((seed, epoch))
        net.train()
        total = 0.0
        for group in optimizer.param_groups:
            group["lr"] = RATE * (0.505 + 0.495 * float(np.cos(np.pi * spent / (minutes * 60))))
        for _ in range(EPOCH_BATCHES):
            seen, cells = _batch(
                [
                    varied(g, *windows[int(number)])
                    for windows in groups
                    for number in g.integers(0, len(windows), BATCH // len(groups))
                ]
            )
            loss = loss_of(net(seen), cells)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        epoch += 1
        spent += time.process_time() - started
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "spent": spent,
                 "epoch": epoch}  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".new"))
        os.replace(checkpoint.with_suffix(".new"), checkpoint)
        print(f"epoch {epoch}, {spent / 60:.1f} min, loss {total / EPOCH_BATCHES:.4f}", flush=True)
    return net.eval()


def report(net: Net, folder: Path) -> str:
    """Of each unseen split and kind: lines of which no cell reaches each share, windows with
    nothing to see in which one does, of how many."""
    rows = []
    for split in SPLITS[1:]:
        for kind in KINDS:
            windows = Windows(folder, split, kind)
            lines: list[float] = []
            empty: list[float] = []
            for number in range(len(windows)):
                seen, cells = _batch([windows[number]])
                with torch.inference_mode():
                    said = torch.sigmoid(net(seen))[0].numpy()
                shows = (cells[0].numpy() == SHOWS).astype(np.uint8)
                count, labels = cv2.connectedComponents(shows)
                lines += [float(said[labels == k].max()) for k in range(1, count)]
                if (cells == NONE).all():
                    empty.append(float(said.max()))
            missed = " ".join(f"<{s:g}: {sum(v < s for v in lines)}" for s in SHARES)
            seen_for_nothing = " ".join(f">={s:g}: {sum(v >= s for v in empty)}" for s in SHARES)
            rows.append(f"{split:5} {kind:6} {len(lines):5} lines {missed}")
            rows.append(f"{split:5} {kind:6} {len(empty):5} empty {seen_for_nothing}")
    return "\n".join(rows)


def export(net: Net) -> bytes:
    """As ONNX for one picture of any size."""
    target = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter needs a package more, and says no more than this one.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            Shares(net).eval(),
            (torch.zeros(1, 3, CELL_PX, CELL_PX),),
            target,
            input_names=["picture"],
            output_names=["shares"],
            dynamic_axes={"picture": {2: "height", 3: "width"},
                          "shares": {1: "rows", 2: "columns"}},
            opset_version=17,
            dynamo=False,
        )  # fmt: skip
    network = onnx.load_model_from_string(target.getvalue())
    for node in network.graph.node:  # names of source files
        node.doc_string = ""
    return bytes(network.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m model.screen", description=__doc__.splitlines()[0]
    )
    parser.add_argument("step", choices=("draw", "train"))
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="for draw")
    parser.add_argument("--scale", type=float, default=1.0, help="of how much is drawn")
    parser.add_argument("--minutes", type=float, default=60.0, help="processor time, for train")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=MODEL, help="where to ship")
    a = parser.parse_args()
    run = RUNS / "screen"
    run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if a.step == "draw":
        draw(a.images, run, a.seed, a.scale)
        return
    net = train(run, a.minutes, a.seed)
    for name, digest in record({"screen.onnx": export(net)}, a.folder).items():
        print(digest, name)
    print(report(net, run))


if __name__ == "__main__":
    main()

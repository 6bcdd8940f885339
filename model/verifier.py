"""Train the verifiers: small networks that say whether a box shows what it was taken for.

    python -m model.verifier draw --label barcode --images DIR/images DIR2/images
    python -m model.verifier train --label barcode --minutes 10

``draw`` keeps views (:func:`engine.detect.verifier.views` of boxes that may be codes,
:func:`engine.detect.line_verifier.windows` of lines of text) in ``runs/verifier-LABEL``, by split;
pictures of one patient or source folder lie in one split. ``train`` can be interrupted: it goes on
from its last epoch. At the end it writes ``model/verifier-LABEL.onnx`` with its digest and prints,
for both unseen splits, how many views that show the class fall below each share.

What to learn from comes from :mod:`model.verifier_data`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from engine.detect.networks import CHECKSUMS, recorded
from model.verifier_data import SCALE
from model.writing import SPLITS

MODEL = Path(__file__).resolve().parent
RUNS = MODEL.parent / "runs"
BATCH = 64
EPOCH_BATCHES = 50
RATE = 2e-3
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
#: Kinds of boxes that make up half of what does not show the class, and half of what does.
HARD = ("taken for a code", "columns", "real, taken for text", "real line", "handwriting")


class Net(nn.Module):
    """Two small stacks of convolutions, one a view, and one decision. 0.1 million parameters.

    Takes shape (N, 2, H, W) of any size and gives logits of shape (N,).
    """

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.middle = _stack(), _stack()
        self.decide = nn.Sequential(
            nn.Linear(256, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 1)
        )

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        maps = self.whole(seen[:, :1]), self.middle(seen[:, 1:])
        pooled = [f(m) for m in maps for f in (_mean, _most)]
        decided: torch.Tensor = self.decide(torch.cat(pooled, 1))[:, 0]
        return decided


def _mean(maps: torch.Tensor) -> torch.Tensor:
    return maps.mean((2, 3))


def _most(maps: torch.Tensor) -> torch.Tensor:
    return maps.amax((2, 3))


def _stack() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 1
    for width in (16, 32, 48, 64):
        layers += [
            nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        before = width
    return nn.Sequential(*layers)


class Shares(nn.Module):
    """The network with its share, 0 to 1, as output: what is exported."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.net(seen))


def varied(views: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Mirrored, turned by quarters, shifted, inverted, fainter and noisier, alike for a batch."""
    flip, turn, invert = torch.randint(0, 4, (3,), generator=chance).tolist()
    if flip % 2:
        views = views.flip(3)
    square = views.shape[2] == views.shape[3]
    views = torch.rot90(views, turn if square else 2 * (turn == 0), (2, 3))
    across = int(torch.randint(-8, 9, (1,), generator=chance))
    views = torch.roll(views, across, 3)
    if invert == 0:
        views = -views
    noise = torch.randn(views.shape, generator=chance)
    strength = torch.rand((len(views), 1, 1, 1), generator=chance) * 0.3
    return (views + noise * strength) * (0.7 + 0.6 * strength)


def load(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Views, shape (N, 2, H, W), int8; whether each shows the class; its kind.

    Raises:
        SystemExit: Nothing was drawn.
    """
    path = folder / f"{split}.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run python -m model.verifier draw first.")
    with np.load(path) as kept:
        return kept["views"], kept["shows"], kept["kinds"]


def train(folder: Path, minutes: float, seed: int) -> Net:
    """Train for a time, with a cosine fitted to it; goes on from the last epoch that was kept."""
    views, shows, kinds = load(folder, "train")
    hard = np.isin(kinds, HARD)
    groups = [
        np.flatnonzero(m) for m in (shows & ~hard, shows & hard, ~shows & ~hard, ~shows & hard)
    ]
    for plain, hardest in ((0, 1), (2, 3)):
        groups[hardest] = groups[hardest] if len(groups[hardest]) else groups[plain]
    net = Net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-3)
    checkpoint = folder / "last.pt"
    spent, epoch = 0.0, 0
    torch.manual_seed(seed)
    net.apply(_fresh)
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(kept["net"])
        optimizer.load_state_dict(kept["optimizer"])
        spent, epoch = kept["spent"], kept["epoch"]
    while spent < minutes * 60:
        started = time.process_time()
        g = np.random.default_rng((seed, epoch))
        chance = torch.Generator().manual_seed(seed * 10_000 + epoch)
        net.train()
        total = 0.0
        for group in optimizer.param_groups:
            group["lr"] = RATE * (0.51 + 0.49 * float(np.cos(np.pi * spent / (minutes * 60))))
        for _ in range(EPOCH_BATCHES):
            chosen = np.concatenate([g.choice(own, BATCH // 4) for own in groups])
            batch = varied(torch.from_numpy(views[chosen]).float() / SCALE, chance)
            wanted = torch.from_numpy(shows[chosen]).float()
            with torch.autocast("cpu", torch.bfloat16):  # twice as fast
                logits = net(batch)
            loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        epoch += 1
        spent += time.process_time() - started
        torch.save(
            {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "spent": spent,
             "epoch": epoch},
            checkpoint,
        )  # fmt: skip
        print(f"epoch {epoch}, {spent / 60:.1f} min, loss {total / EPOCH_BATCHES:.4f}", flush=True)
    return net.eval()


def _fresh(layer: nn.Module) -> None:
    """Start from the seed, whatever was drawn before."""
    if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
        layer.reset_parameters()


def shares_of(net: Net, views: np.ndarray) -> np.ndarray:
    """Shape (N,): what the network says of kept views."""
    with torch.inference_mode():
        parts = [
            torch.sigmoid(net(torch.from_numpy(views[i : i + 256]).float() / SCALE)).numpy()
            for i in range(0, len(views), 256)
        ]
    return np.concatenate(parts)


def report(net: Net, folder: Path) -> str:
    """How many boxes fall below each share, for both unseen splits and each kind of box."""
    rows = []
    for split in SPLITS[1:]:
        views, shows, kinds = load(folder, split)
        said = shares_of(net, views)
        for kind in sorted(set(kinds)):
            mine = said[kinds == kind]
            below = " ".join(f"<{s:g}: {(mine < s).sum()}" for s in SHARES)
            what = "shows" if shows[kinds == kind].all() else "not"
            rows.append(f"{split:5} {what:5} {kind:24} {len(mine):6} {below}")
    return "\n".join(rows)


def export(net: Net, height: int, width: int) -> bytes:
    """As ONNX with any number of views of a size."""
    target = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter needs a package more, and says no more than this one.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            Shares(net).eval(),
            (torch.zeros(2, 2, height, width),),
            target,
            input_names=["views"],
            output_names=["shares"],
            dynamic_axes={"views": {0: "boxes"}, "shares": {0: "boxes"}},
            opset_version=17,
            dynamo=False,
        )
    network = onnx.load_model_from_string(target.getvalue())
    for node in network.graph.node:  # names of source files
        node.doc_string = ""
    return bytes(network.SerializeToString())


def record(files: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    """Write files that ship, and their digests beside those of the others.

    Returns:
        SHA-256 by name of what was written.
    """
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    lines = "".join(f"{digest}  {name}\n" for name, digest in (recorded(folder) | sums).items())
    (folder / CHECKSUMS).write_text(lines, encoding="ascii")
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m model.verifier", description=__doc__.splitlines()[0]
    )
    parser.add_argument("step", choices=("draw", "train"))
    parser.add_argument("--label", choices=("barcode", "text"), required=True)
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="for draw")
    parser.add_argument("--scale", type=float, default=1.0, help="of how much is drawn")
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time, for train")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=MODEL, help="where to ship")
    a = parser.parse_args()
    run = RUNS / f"verifier-{a.label}"
    run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if a.step == "draw":
        from model.verifier_data import draw

        draw(a.label, a.images, run, a.seed, a.scale)
        return
    net = train(run, a.minutes, a.seed)
    height, width = load(run, "test")[0].shape[2:]
    weights = export(net, height, width)
    for name, digest in record({f"verifier-{a.label}.onnx": weights}, a.folder).items():
        print(digest, name)
    print(report(net, run))


if __name__ == "__main__":
    main()

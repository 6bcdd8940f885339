"""``learn``: a candidate of MedSec's own network from exported cases; where training is allowed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from pathlib import Path

from commands import files
from commands.options import QUIET, Commands
from commands.outcome import Outcome
from commands.terminal import Terminal
from engine import errors

#: What training needs and the server does not; see requirements-train.txt.
NEEDED = ("model", "torch", "ultralytics", "onnx", "onnxruntime", "faker", "data_store")


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "learn",
        parents=[QUIET],
        help="fine-tune MedSec's network on exported cases; needs no data folder",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="of training-export")
    parser.add_argument("--to-key", required=True, type=Path, help="key file of the export")
    parser.add_argument("--out", required=True, type=Path, help="candidate to write")
    parser.add_argument("--epochs", type=int, default=6, help="passes over all crops")
    parser.add_argument("--crops", type=int, default=8, help="crops of each frame of a case")
    parser.add_argument("--pages", type=int, default=24, help="drawn pages to measure on")
    parser.add_argument("--profile", default="general", help="of the detector that is measured")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0 takes all")
    parser.set_defaults(run=learn)


def learn(arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.SettingsError(
            f"Learning needs what is missing here: {', '.join(missing)}. Run it from a checkout,"
            " with requirements-train.txt installed."
        )
    # By name: it imports PyTorch, and the training code is typed by itself.
    learning = importlib.import_module("model.learn")
    tuning = importlib.import_module("model.memory_training")
    if arguments.out.exists():
        raise errors.InputError("A file of this name is in the way. Choose another for --out.")
    how = learning.Learning(
        tuning.FineTuning(arguments.epochs, threads=arguments.threads, seed=arguments.seed),
        crops=arguments.crops,
        pages=arguments.pages,
        profile=arguments.profile,
    )
    made = learning.learn(arguments.folder, arguments.to_key, how, terminal.tell)
    files.write_new(arguments.out, made.to_bytes())
    terminal.tell(f"{made.card.name} written; give it to an administrator: Admin, Models")
    return Outcome.DONE

"""What the detector costs and finds beside that of an older state, in the same run.

    git worktree add --detach ../before 5dc9777
    make -C ../before .venv/.installed
    python -m benchmarks.screening --peer ../before [--images FOLDER ...] [--most 40] [--unseen]
    python -m benchmarks.screening --finder

Each state runs in a process of its own, on one processor, under the profile ``general``:

- *films*, made in code: anatomy that moves on every frame, noise on every pixel, and lines that
  stand, one on a single frame in the middle and one on a single frame in the corner. Looked at,
  masked, and looked at again;
- *pictures* of the folders, in an order by hash: the same. Where ``gt.json``,
  ``coverage.json`` and ``manifest.json`` lie beside a folder, boxes are compared with the truth,
  too; ``--unseen`` takes only pictures of patients that no verifier learned from.

*Lost* is a line that the older state seals and of which the boxes of this one, padded, hide less
than 80 %. Time is that of the processor, with the networks loaded and run once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.records import Region

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
HEADING = "## Films (`benchmarks/screening.py`)"
FINDER_HEADING = "## Finder (`benchmarks/screening.py --finder`)"
HIDDEN = 0.8
SEALED = 0.25  # confidence, in the profile ``general``
LABELS = ("text", "barcode", "face")
LINES = {"stands": "NOWAK JAN 1234", "once, middle": "KOWALSKA EWA", "once, corner": "EWA 1971"}


def film(kind: str, frames: int, height: int = 480, width: int = 640) -> np.ndarray:
    """A film with the three lines of ``LINES``.

    Args:
        kind: ``moving`` (anatomy that shifts), ``noise`` (every pixel of every frame) or ``still``.

    Returns:
        Shape (frames, height, width, 3), uint8.
    """
    rng = np.random.default_rng(7)
    wide = rng.integers(0, 255, (height, width + 4 * frames), dtype=np.uint8)
    smooth = cv2.GaussianBlur(wide, (0, 0), 9).astype(np.float32)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min()) * 150 + 20
    made = np.empty((frames, height, width, 3), np.uint8)
    for i in range(frames):
        start = 0 if kind == "still" else 4 * i
        ground = smooth[:, start : start + width]
        if kind == "noise":
            ground = ground + rng.normal(0, 14, ground.shape)
        made[i] = np.clip(ground, 0, 255).astype(np.uint8)[..., None]
        for name, box in places(frames, height, width).items():
            if box.frame <= i < box.frame_end:
                cv2.putText(
                    made[i], LINES[name], (box.x1, box.y2 - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.5,
                    (235, 235, 235), 1, cv2.LINE_AA,
                )  # fmt: skip
    return made


def places(frames: int, height: int = 480, width: int = 640) -> dict[str, Region]:
    """Where the lines of a film are."""
    once = frames // 2
    return {
        "stands": Region(12, 10, 140, 26, 0, frames),
        "once, middle": Region(260, 230, 372, 246, once, once + 1),
        "once, corner": Region(width - 78, height - 20, width - 2, height - 4, once, once + 1),
    }


# --- in a process of its own, under either state -------------------------------------------------


def _run(jobs: list[dict[str, Any]]) -> None:
    """Print for each job a line of JSON: boxes as (x1, y1, x2, y2, frame, end, label, confidence)
    and seconds of processor time. Uses only what older states have too."""
    import time

    from engine.detection import Detector
    from engine.settings import Settings

    settings = Settings(threads=1, device="cpu")
    detector = Detector(settings, Detector.open(settings).profiles)
    for name in {job.get("profile", "general") for job in jobs}:
        blank = np.full((480, 640, 3), 90, np.uint8)
        detector.detect(lambda _, blank=blank: blank, 1, detector.profiles[name])

    def rows(found: list[Any]) -> list[list[Any]]:
        return [
            [*d.region.xyxy, d.region.frame, d.region.frame_end, d.label, d.confidence]
            for d in found
        ]

    for job in jobs:
        if "film" in job:
            shown = film(job["film"], job["frames"])
        else:
            picture = cv2.imread(job["path"])
            if picture is None:
                continue
            shown = np.ascontiguousarray(picture[None, ..., ::-1])
        profile = detector.profiles[job.get("profile", "general")]
        start = time.process_time()
        found = detector.detect(lambda i, shown=shown: shown[i], len(shown), profile)
        spent = [time.process_time() - start]
        hidden = [d.region.padded(0.04, 4) for d in found if d.confidence >= 0.25]
        masked = shown.copy()
        for r in hidden:
            masked[r.frame : r.frame_end, r.y1 : r.y2, r.x1 : r.x2] = 0
        start = time.process_time()
        again = detector.rescan(lambda i, masked=masked: masked[i], len(masked), hidden, profile)
        spent.append(time.process_time() - start)
        answer = {
            "job": job, "boxes": rows(found), "again": rows(again), "seconds": spent,
            "size": shown.shape[1:3], "small_doubt": getattr(profile, "small_doubt", 0.0),
        }  # fmt: skip
        print(json.dumps(answer), flush=True)


def answers(root: Path, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the state in a folder says to jobs; in an environment of its own, where it has one."""
    own = root.resolve() / ".venv" / "bin" / "python"
    done = subprocess.run(
        [str(own) if own.exists() else sys.executable, str(Path(__file__).resolve()), "--answer"],
        input=json.dumps(jobs), capture_output=True, text=True, cwd=root, check=False,
        env={**os.environ, "PYTHONPATH": str(root.resolve()), "YOLO_OFFLINE": "true"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def sealed(answer: dict[str, Any], label: str = "text") -> list[Region]:
    """What is sealed without asking."""
    return [Region(*row[:6]) for row in answer["boxes"] if row[6] == label and row[7] >= SEALED]


def lost(before: dict[str, Any], now: dict[str, Any]) -> list[Region]:
    """Lines that the older state seals and this one does not hide."""
    masks = [r.padded(0.04, 4) for r in sealed(now)]
    return [r for r in sealed(before) if r.hidden_share(masks) < HIDDEN]


def table(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """Rows on films, and one on all pictures."""
    rows = []
    for old, new in zip(before, now, strict=True):
        if "film" not in old["job"]:
            continue
        masks = [r.padded(0.04, 4) for r in sealed(new)]
        frames = old["job"]["frames"]
        shares = [f"{r.hidden_share(masks):.2f}" for r in places(frames).values()]
        spent = [f"{a:.1f} / {b:.1f}" for a, b in zip(old["seconds"], new["seconds"], strict=True)]
        ratio = sum(new["seconds"]) / sum(old["seconds"])
        rows.append(
            f"| {old['job']['film']}, {frames} frames | {' / '.join(shares)}"
            f" | {len(sealed(old))} / {len(lost(old, new))} | {' | '.join(spent)} | {ratio:.3f} |"
        )
    pairs = [(a, b) for a, b in zip(before, now, strict=True) if "path" in a["job"]]
    if pairs:
        lines = sum(len(sealed(old)) for old, _ in pairs)
        missing = [(old["job"]["path"], r.xyxy) for old, new in pairs for r in lost(old, new)]
        for path, box in missing:
            print("lost:", Path(path).name, box)
        looks = [
            [sum(answer["seconds"][look] for answer in side) for side in zip(*pairs, strict=True)]
            for look in (0, 1)
        ]
        spent = [f"{before:.1f} / {now:.1f}" for before, now in looks]
        ratio = sum(now for _, now in looks) / sum(before for before, _ in looks)
        rows.append(
            f"| {len(pairs)} pictures | | {lines} / {len(missing)} | {' | '.join(spent)}"
            f" | {ratio:.3f} |"
        )
    return rows


@dataclass(frozen=True)
class Known:
    """What is known of a labelled picture.

    Args:
        lines: Text, each with whether it names somebody.
        free: It has no text, and that is certain.
    """

    lines: tuple[tuple[Region, bool], ...]
    free: bool


def by_hash(folder: Path) -> list[Path]:
    """The files of a folder in an order that says nothing of what they show."""
    return sorted(folder.iterdir(), key=lambda p: hashlib.sha256(p.name.encode()).digest())


def region(row: Mapping[str, Any]) -> Region:
    """A box of the truth."""
    return Region(*(int(row[side]) for side in ("x1", "y1", "x2", "y2")))


def known(folder: Path) -> dict[str, Known]:
    """Truth of the pictures of a folder whose text is labelled completely, by name."""
    try:
        truth, coverage = (
            json.loads((folder.parent / name).read_text()) for name in ("gt.json", "coverage.json")
        )
    except FileNotFoundError:
        return {}
    found = {}
    for name, rows in truth.items():
        if "text" in coverage.get(name, []):
            lines = tuple(
                (region(row), bool(row.get("phi"))) for row in rows if row["class"] == "text"
            )
            found[name] = Known(lines, not rows)
    return found


def labelled_table(
    truth: dict[str, Known], before: list[dict[str, Any]], now: list[dict[str, Any]]
) -> list[str]:
    """A row for each state: what it hides, and what it hides or proposes for nothing."""
    rows = []
    for name, side in (("before", before), ("now", now)):
        seen = [
            (truth[Path(answer["job"]["path"]).name], answer)
            for answer in side
            if "path" in answer["job"] and Path(answer["job"]["path"]).name in truth
        ]
        hidden = [
            (names, line.hidden_share([r.padded(0.04, 4) for r in sealed(answer)]) >= HIDDEN)
            for picture, answer in seen
            for line, names in picture.lines
        ]
        free = [answer["boxes"] for picture, answer in seen if picture.free]
        every = [answer["boxes"] for _, answer in seen]
        rows.append(
            f"| {name} | {sum(h for _, h in hidden)} of {len(hidden)}"
            f" | {sum(h for n, h in hidden if n)} of {sum(n for n, _ in hidden)}"
            f" | {_with(free, ('text',), True)} / {_with(free, LABELS, True)} of {len(free)}"
            f" | {_with(every, ('text',), False)} / {_with(every, LABELS, False)} of {len(every)} |"
        )
    return rows


def _with(pictures: list[list[list[Any]]], labels: Sequence[str], certain: bool) -> int:
    """How many pictures have a box of these labels that is certain, or one that is not."""
    return sum(
        any(row[6] in labels and (row[7] >= SEALED) == certain for row in boxes)
        for boxes in pictures
    )


def unseen(folder: Path) -> set[str]:
    """Names of the pictures of a folder from patients or sources that nothing learned from."""
    from model.verifier_data import labelled
    from model.writing import split_of

    return {p.path.name for p in labelled([folder], "text") if split_of(p.source) != "train"}


# --- the text finder alone -----------------------------------------------------------------------


def finder_section(rounds: int = 9) -> str:
    """Processor time of both graphs, by turns, and how far their maps differ."""
    import time

    from engine.detect import text
    from engine.detect.finder_graph import rewrite
    from engine.detect.networks import CpuModel, batch, read_weights

    weights = read_weights(text.FINDER, text.FINDER_SHA256)
    picture = film("moving", 1, 512, 512)[0]
    rows = []
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    for precision in ("f32",) if limit else ("bf16", "f32"):
        graphs = [CpuModel(weights, 1, precision=precision, rewrite=r) for r in (None, rewrite)]
        for side in sorted(text.sides(512)):
            shown = cv2.resize(picture, (side, side))
            given = batch(np.vstack([shown, text.reference(shown)]), 127.5, 1 / 127.5)
            maps = [graph(given)[0] for graph in graphs]
            spent: list[list[float]] = [[], []]
            for _ in range(rounds):
                for graph, times in zip(graphs, spent, strict=True):
                    start = time.process_time()
                    graph(given)
                    times.append(time.process_time() - start)
            vendor, ours = (float(np.median(times)) * 1000 for times in spent)
            rows.append(
                f"| {precision} | {given.shape[3]} x {given.shape[2]} | {vendor:.0f} | {ours:.0f}"
                f" | {vendor / ours:.2f} | {np.abs(maps[0] - maps[1]).max():.1e} |"
            )
    return "\n".join([
        FINDER_HEADING, "",
        f"{datetime.now(UTC):%Y-%m-%d}, one processor of {os.cpu_count()}, load"
        f" {os.getloadavg()[0]:.0f}; instructions: {limit or 'all'}. Medians of {rounds}.", "",
        "| precision | shown, px | vendor's graph, ms | ours | times as fast"
        " | largest difference of the maps, 0 to 1 |",
        "|---|---|---|---|---|---|", *rows, "",
    ])  # fmt: skip


def write(heading: str, section: str) -> None:
    """Replace a section of the results, or append it."""
    text = RESULTS.read_text(encoding="utf-8")
    start = text.find(heading)
    end = text.find("\n## ", start + 1) if start >= 0 else -1
    before = text if start < 0 else text[:start]
    after = "" if end < 0 else text[end:]
    RESULTS.write_text(f"{before.rstrip()}\n\n{section}{after}", encoding="utf-8")


def main() -> None:
    if sys.argv[1:] == ["--answer"]:
        _run(json.load(sys.stdin))
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.screening", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--peer", type=Path, help="worktree of an older state")
    parser.add_argument("--finder", action="store_true", help="compare the finder's graphs, alone")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of pictures")
    parser.add_argument("--most", type=int, default=40, help="pictures of each folder")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--films", nargs="*", default=["noise", "moving", "still"])
    parser.add_argument("--unseen", action="store_true", help="only what nothing learned from")
    parser.add_argument("--no-write", action="store_true", help="print only")
    a = parser.parse_args()
    if a.finder:
        section = finder_section()
        print(section)
        if not a.no_write:
            write(FINDER_HEADING, section)
        return
    if a.peer is None:
        parser.error("--peer is missing")
    jobs: list[dict[str, Any]] = [{"film": kind, "frames": a.frames} for kind in a.films]
    truth: dict[str, Known] = {}
    for folder in a.images:
        paths = by_hash(folder)
        if a.unseen:
            chosen = unseen(folder)
            paths = [path for path in paths if path.name in chosen]
        jobs += [{"path": str(path)} for path in paths[: a.most]]
        truth |= known(folder)
    before, now = answers(a.peer, jobs), answers(HERE.parent, jobs)
    section = "\n".join([
        HEADING, "",
        f"{datetime.now(UTC):%Y-%m-%d}, one processor of {os.cpu_count()}, load"
        f" {os.getloadavg()[0]:.0f}; processor seconds, before / now.", "",
        "| | hidden share of a line that stands / once, middle / once, corner"
        " | lines sealed before / lost | first look | second look | now over before |",
        "|---|---|---|---|---|---|", *table(before, now), "",
        *([
            "Pictures of which all text is labelled" + (", unseen" if a.unseen else "") + ":", "",
            "| | lines hidden to 80 % | of patients | without text, but with a box of text / any"
            " | with a proposal of text / any |",
            "|---|---|---|---|---|", *labelled_table(truth, before, now), "",
        ] if truth else []),
    ])  # fmt: skip
    print(section)
    if not a.no_write:
        write(HEADING, section)


if __name__ == "__main__":
    main()

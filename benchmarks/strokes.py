"""Lines on one frame alone of a film: which that a glance would see are let through to it?

    python -m benchmarks.strokes [--lines 150] [--cine FILE.dcm ...]

Lines of 7 to 60 px and of contrast 8 to 160 are drawn into single frames of films made in code
(``benchmarks.screening``) and of DICOM cines. Printed are, for each film: how many of them a glance
at the whole frame covers by half, how many of these have no block that :mod:`engine.detect.strokes`
lets through, and the share of blocks that it lets through without any line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pydicom

from benchmarks.screening import film, places
from engine.detect.frame_tracking import BLOCK_PX, blocks_of
from engine.detect.strokes import Strokes
from engine.detect.text import TextNetwork
from engine.geometry import Region
from engine.settings import Settings

FRAMES = 24
SEEN = 0.5  # share of a line that a glance covers
NAMES = ("NOWAK JAN", "EWA 1971", "ID 482913", "12.03.1964", "M 67Y", "Zielinska Maria 1948-02-11")
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX)


def drawn(frame: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Region] | None:
    """A grey frame with a line, and where that is; None where it does not fit."""
    height, width = frame.shape
    name, font = str(rng.choice(NAMES)), int(rng.choice(FONTS))
    tall = float(np.exp(rng.uniform(np.log(7), np.log(60))))
    contrast = float(np.exp(rng.uniform(np.log(8), np.log(160))))
    thick = 1 if tall < 14 else round(tall / 10)
    scale = cv2.getFontScaleFromHeight(font, int(tall), thick)
    (wide, high), _ = cv2.getTextSize(name, font, scale, thick)
    if wide + 8 > width or high + 12 > height:
        return None
    x, y = int(rng.integers(2, width - wide - 2)), int(rng.integers(high + 3, height - 6))
    ground = float(np.median(frame[y - high : y + 1, x : x + wide]))
    tone = (
        ground + contrast if ground + contrast < 255 and rng.random() < 0.7 else ground - contrast
    )
    if tone < 0:
        return None
    ink = np.zeros_like(frame)
    cv2.putText(ink, name, (x, y), font, scale, 255, thick, cv2.LINE_AA)
    share = ink.astype(np.float32) / 255
    shown = np.clip(frame * (1 - share) + tone * share, 0, 255).astype(np.uint8)
    return shown, Region(x, y - high, x + wide, y + 1)


def measured(frames: np.ndarray, lines: int, network: TextNetwork) -> tuple[int, int, float]:
    """Lines that are seen, those of them that are left out, and the share of blocks that is news.

    Args:
        frames: Shape (N, H, W), uint8.
        lines: How many are drawn.
    """
    rng = np.random.default_rng(21)
    strokes = Strokes(len(frames))
    for i, frame in enumerate(frames):
        strokes.add(i, _coloured(frame))
    strokes.know(())
    news = float(np.mean([strokes.risen(_coloured(frame)) for frame in frames]))
    seen = missed = 0
    stands = places(FRAMES)["stands"].on_frames(0).padded(0.0, BLOCK_PX)
    for _ in range(lines):
        made = drawn(frames[int(rng.integers(len(frames)))], rng)
        if made is None or made[1].intersection_px(stands):
            continue
        picture, line = _coloured(made[0]), made[1]
        boxes = (
            Region.around(f.xyxy, *picture.shape[1::-1]) for f in network.glance(picture, False)
        )
        if max((b.intersection_px(line) for b in boxes if b), default=0) < SEEN * line.area_px:
            continue
        seen += 1
        rows, columns = blocks_of(line)
        missed += not strokes.risen(picture)[rows, columns].any()
    return seen, missed, news


def _coloured(grey: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.strokes", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--lines", type=int, default=150)
    parser.add_argument("--cine", type=Path, nargs="*", default=[], help="grey films of 8 bits")
    a = parser.parse_args()
    network = TextNetwork(Settings(device="cpu"))
    films = {kind: film(kind, FRAMES)[..., 0] for kind in ("moving", "noise")}
    films |= {path.stem: pydicom.dcmread(path).pixel_array for path in a.cine}
    print("| film | lines seen | left out | blocks that are news |\n|---|---|---|---|")
    for name, frames in films.items():
        seen, missed, news = measured(np.ascontiguousarray(frames), a.lines, network)
        print(f"| {name} | {seen} | {missed} | {news:.3f} |", flush=True)


if __name__ == "__main__":
    main()

"""How much room a sealed image takes, and how long taking it apart and back lasts (F28).

    python benchmarks/storage.py [FOLDER] [--boxes gt.json] [--limit N]

Without a folder it measures radiographs made in code. Boxes come from a JSON file
``{"name": [{"class", "x1", "y1", "x2", "y2"}]}`` where there is one; an image that is not in
it gets one text-like box of a fifth of its width in the corner where devices write names.
Stored are the masked file as :func:`engine.images.for_storage` keeps it, the patches and the
remainder (encryption adds 16 bytes of padding, 16 of IV and 32 of tag to each). The grid
picture is drawn when it is looked at; its size is shown for comparison only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from engine import images
from engine.errors import EngineError
from engine.records import Detection, Image, Region
from engine.settings import Settings

LIMITS = images.Limits.of(Settings())
KEY = bytes(32)
IDENTIFIERS = ("text", "barcode", "face", "signature")
ALLOWED = {"JPEG": 1.15, "PNG": 1.15, "DICOM uncompressed": 0.70}


@dataclass(frozen=True)
class Row:
    kind: str
    original: int
    masked: int
    patches: int
    remainder: int
    grid: int
    apart_ms: float
    together_ms: float
    exact: bool

    @property
    def share(self) -> float:
        """Bytes kept per byte of the original."""
        return (self.masked + self.patches + self.remainder) / self.original


def made_in_code() -> Iterator[tuple[str, bytes]]:
    """Radiographs in the formats that have a limit."""
    from tests import builders

    for size in (512, 1024, 2048):
        grey, _ = builders.labelled(width=size, height=size * 4 // 5)
        colour, _ = builders.labelled(width=size, height=size * 3 // 4, colour=True)
        twelve = builders.radiograph(size, size, bits=12)
        yield f"{size} grey.jpg", builders.jpeg(grey)
        yield f"{size} colour.jpg", builders.jpeg(colour)
        yield f"{size} grey.png", builders.pillow(grey, "PNG")
        yield f"{size} colour.png", builders.pillow(colour, "PNG")
        yield f"{size} grey 16.png", builders.pillow(twelve, "PNG")
        yield f"{size} 12 bit.dcm", builders.dicom(twelve, bits=12)
        yield f"{size} colour.dcm", builders.dicom(colour)
    yield "cine.dcm", builders.dicom(builders.cine(40, 640, 480)[0])


def from_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.name, path.read_bytes()


def boxes_of(image: Image, known: Sequence[dict[str, float]]) -> list[Detection]:
    """Padded, rounded and clipped as the pipeline does it with default settings."""
    w, h = image.width, image.height
    found = [
        (g["class"], Region(max(0, int(g["x1"])), max(0, int(g["y1"])), int(g["x2"]), int(g["y2"])))
        for g in known
        if g["class"] in IDENTIFIERS
    ] or [("text", Region(w // 50, h // 50, w // 50 + max(1, w // 5), h // 50 + max(1, h // 25)))]
    out = []
    for label, box in found:
        frames = Region(*box.xyxy, 0, image.frames)
        region = frames.padded(0.04, 4).aligned(image.grid).clipped(w, h, image.frames)
        if region is not None:
            out.append(Detection(region, str(label), 0.9, "benchmark"))
    return out


def measure(name: str, data: bytes, known: Sequence[dict[str, float]]) -> Row:
    image = images.decode(name, data, LIMITS)
    boxes = boxes_of(image, known)
    regions = [b.region for b in boxes]
    start = time.perf_counter()
    made = images.dissect(image, regions, KEY)
    apart = time.perf_counter()
    back = images.assemble(made.masked, regions, dict(enumerate(made.patches)), made.remainder)
    together = time.perf_counter()
    kind = str(image.format)
    if kind == "DICOM":
        native = "Endian" in image.properties["transfer_syntax_name"]
        kind += " uncompressed" if native else " compressed"
    grid = images.grid_picture(images.render(images.decode(name, made.masked, LIMITS)), boxes)
    return Row(
        kind, len(data), len(images.for_storage(made.masked)), sum(map(len, made.patches)),
        len(made.remainder), len(grid), (apart - start) * 1e3, (together - apart) * 1e3,
        back == data,
    )  # fmt: skip


def report(rows: Sequence[Row]) -> None:
    print("| format | files | kept / original: all bytes | median | worst | over the limit"
          " | identical bytes | apart, ms | together, ms | grid, kB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for kind in sorted({r.kind for r in rows}):
        some = [r for r in rows if r.kind == kind]
        shares = [r.share for r in some]
        total = sum(r.share * r.original for r in some) / sum(r.original for r in some)
        limit = ALLOWED.get(kind)
        over = "-" if limit is None else f"{sum(s > limit for s in shares)} of {limit:.2f}"
        print(
            f"| {kind} | {len(some)} | {total:.3f} | {statistics.median(shares):.3f}"
            f" | {max(shares):.2f} | {over} | {sum(r.exact for r in some)}"
            f" | {statistics.median(r.apart_ms for r in some):.1f}"
            f" | {statistics.median(r.together_ms for r in some):.1f}"
            f" | {statistics.median(r.grid for r in some) / 1e3:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--limit", type=int, default=0)
    options = parser.parse_args()
    known = json.loads(options.boxes.read_text()) if options.boxes else {}
    rows = []
    source = from_folder(options.folder) if options.folder else made_in_code()
    for name, data in source:
        try:
            rows.append(measure(name, data, known.get(name, ())))
        except EngineError as err:
            print(f"refused: {err.message}", file=sys.stderr)
        if options.limit and len(rows) >= options.limit:
            break
    report(rows)


if __name__ == "__main__":
    main()

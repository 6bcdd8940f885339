"""How much room a sealed image takes, and how long sealing and opening last (F28).

    python benchmarks/storage.py [FOLDER] [--boxes gt.json] [--limit N]

Without a folder it measures radiographs made in code. Boxes come from a JSON file
``{"name": [{"class", "x1", "y1", "x2", "y2"}]}`` where there is one, such as ``cli.py detect``
writes; an image that is not in it gets one text-like box of a fifth of its width in the corner
where devices write names.

*Before encryption* are the masked file as :func:`engine.formats.images.for_storage` keeps it, the
patches and the remainder. *After* is what lies on disk: masked file and container as the
engine seals them, with padding, IVs and tags. The grid picture is drawn when it is looked at
and not stored; the thumbnail is stored and counted by itself. Times are of
:func:`engine.seal.pipeline.seal`, which opens everything again to prove it, and of ``restore``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from engine.crypto.vault import seal_field
from engine.errors import EngineError
from engine.formats import images
from engine.host import Host
from engine.records import Detection, Image, Region
from engine.seal import pipeline
from engine.settings import Settings

LIMITS = images.Limits.of(Settings())
KEY = bytes(32)
SUBJECT = pipeline.Subject("im_benchmark", 1, KEY, KEY)
IDENTIFIERS = ("text", "barcode", "face", "signature")
ALLOWED = {"JPEG": 1.15, "PNG": 1.15, "DICOM uncompressed": 0.70}
SMALL_BYTES = 4096  # of a smaller original, tags and headers alone are a large share


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    original: int
    boxes: int
    plain: int  # masked file, patches and remainder before encryption
    stored: int  # masked file and container as they lie on disk
    thumbnail: int
    seal_ms: float
    restore_ms: float
    exact: bool


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
        yield f"{size} grey.tif", builders.pillow(grey, "TIFF")
        yield f"{size} colour.bmp", builders.pillow(colour, "BMP")
        yield f"{size} 12 bit.dcm", builders.dicom(twelve, bits=12)
        yield f"{size} colour.dcm", builders.dicom(colour)
        yield f"{size} JPEG.dcm", builders.dicom(grey, syntax=builders.JPEGBaseline8Bit)
        for syntax in builders.LOSSLESS:
            yield f"{size} {syntax.keyword}.dcm", builders.dicom(twelve, bits=12, syntax=syntax)
    yield "cine.dcm", builders.dicom(builders.cine(40, 640, 480)[0])


def from_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.name, path.read_bytes()


def boxes_of(image: Image, known: Sequence[dict[str, float]]) -> list[Detection]:
    """What would be sealed, with the padding of the default settings."""
    w, h = image.width, image.height
    found = [
        (g["class"], Region(max(0, int(g["x1"])), max(0, int(g["y1"])), int(g["x2"]), int(g["y2"])))
        for g in known
        if g["class"] in IDENTIFIERS
    ] or [("text", Region(w // 50, h // 50, w // 50 + max(1, w // 5), h // 50 + max(1, h // 25)))]
    detections = [
        Detection(Region(*box.xyxy, 0, image.frames), str(label), 0.9, "benchmark")
        for label, box in found
    ]
    return pipeline.plan(image, detections, 0.04, 4)


def measure(name: str, data: bytes, known: Sequence[dict[str, float]], host: Host) -> Row:
    image = images.decode(name, data, LIMITS)
    boxes = boxes_of(image, known)
    start = time.perf_counter()
    sealed = pipeline.seal(image, boxes, SUBJECT, host, LIMITS)
    apart = time.perf_counter()
    files = pipeline.SealedFiles(
        sealed.stored, sealed.container, sealed.regions, sealed.remainder_start
    )
    original = pipeline.Original(name, sealed.pixel_digest, sealed.file_digest)
    back = pipeline.restore(files, original, SUBJECT, host, LIMITS)
    together = time.perf_counter()
    parts = images.dissect(image, [b.region for b in boxes], KEY)
    masked = sealed.stored
    kind = str(image.format)
    if kind == "DICOM":
        native = "Endian" in image.properties["transfer_syntax_name"]
        kind += " uncompressed" if native else " compressed"
    return Row(
        name, kind, len(data), len(boxes),
        len(masked) + sum(map(len, parts.patches)) + len(parts.remainder),
        len(seal_field(KEY, "benchmark", masked, host.random)) + len(sealed.container),
        len(images.thumbnail(images.render(sealed.masked_image))),
        (apart - start) * 1e3, (together - apart) * 1e3, back.image.data == data,
    )  # fmt: skip


def report(rows: Sequence[Row]) -> None:
    print("| format | files | before encryption | stored / original: all bytes | median | worst"
          " | over the limit | of these under 4 kB | identical bytes | seal, ms | restore, ms"
          " | thumbnail, kB |")  # fmt: skip
    print("|" + "---|" * 12)
    for kind in sorted({r.kind for r in rows}):
        some = [r for r in rows if r.kind == kind]
        shares = [r.stored / r.original for r in some]
        total = sum(r.original for r in some)
        limit = ALLOWED.get(kind)
        over = [r for r in some if limit is not None and r.stored > limit * r.original]
        print(
            f"| {kind} | {len(some)} | {sum(r.plain for r in some) / total:.3f}"
            f" | {sum(r.stored for r in some) / total:.3f} | {statistics.median(shares):.3f}"
            f" | {max(shares):.2f} | {'-' if limit is None else f'{len(over)} of {limit:.2f}'}"
            f" | {sum(r.original < SMALL_BYTES for r in over)}"
            f" | {sum(r.exact for r in some)}"
            f" | {statistics.median(r.seal_ms for r in some):.0f}"
            f" | {statistics.median(r.restore_ms for r in some):.0f}"
            f" | {statistics.median(r.thumbnail for r in some) / 1e3:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--worst", type=int, default=0, help="also list so many of the largest")
    options = parser.parse_args()
    known = json.loads(options.boxes.read_text()) if options.boxes else {}
    rows = []
    source = from_folder(options.folder) if options.folder else made_in_code()
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        for name, data in source:
            try:
                rows.append(measure(name, data, known.get(name, ()), host))
            except EngineError as err:
                print(f"refused: {err.message}", file=sys.stderr)
            if options.limit and len(rows) >= options.limit:
                break
    report(rows)
    for row in sorted(rows, key=lambda r: -r.stored / r.original)[: options.worst]:
        print(f"{row.stored / row.original:6.2f} {row.original:9} B {row.boxes:4} boxes {row.name}")


if __name__ == "__main__":
    main()

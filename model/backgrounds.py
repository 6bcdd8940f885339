"""What text is drawn on: real pictures whose own text was painted over.

Real pictures carry markers that nobody labelled. Learning that those are *not* text would be
poison, so they are painted over (Telea inpainting) before use: every box that PP-OCR reports at
a low threshold, every text box that came with the pictures, and in the outer parts of radiographs
everything small and bright. Painting over too much costs a smooth spot; too little costs recall.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from model.writing import split_of

Box = tuple[int, int, int, int]
# Looked through by eye: ECG strips without lead names. The others have letters cut by their edges,
# which no detector finds reliably.
ECG_WITHOUT_LETTERS = re.compile(
    r"^ecg_(002|007|040-(46000898|8749883)|413035413_B-13160186|II\.|fullscan-II?\.|.*aVL-(small|tiny))"
)
# Full of text, kept for looking at, never for learning.
FULL_OF_TEXT = re.compile(r"^dcm_examples_(palette|ybr_color)|_HTML")


@dataclass(frozen=True)
class Background:
    """A real picture without text.

    Args:
        kind: ``chest``, ``film`` (chest without thorax label), ``slice``, ``ecg``, ``ultrasound``,
            ``photo`` or ``code``.
        source: Patient, or folder it was published in; splits keep sources whole.
        thorax: Box of the lungs; None where there is none or none is known.
        codes: Boxes of barcodes.
    """

    path: Path
    kind: str
    source: str
    thorax: Box | None = None
    codes: tuple[Box, ...] = ()

    @property
    def split(self) -> str:
        return split_of(self.source)

    def read(self) -> np.ndarray:
        """Shape (H, W, 3), uint8, RGB."""
        return np.ascontiguousarray(read_picture(self.path)[..., ::-1])


def read_picture(path: Path) -> np.ndarray:
    """Shape (H, W, 3), uint8, BGR.

    Raises:
        SystemExit: Not a picture.
    """
    pixels = cv2.imread(str(path))
    if pixels is None:
        raise SystemExit(f"{path} is not a picture that can be read.")
    return pixels


def read_folder(images: Path, clean: Path) -> list[Background]:
    """Real backgrounds of a folder in the format of its ``gt.json`` and ``coverage.json``.

    Args:
        images: Folder of pictures; truth, coverage and manifest lie beside it.
        clean: Where pictures without text are kept, made on first use.
    """
    truth = json.loads((images.parent / "gt.json").read_text())
    coverage = json.loads((images.parent / "coverage.json").read_text())
    manifest = json.loads((images.parent / "manifest.json").read_text())
    clean.mkdir(parents=True, exist_ok=True)
    found = []
    for path in sorted(images.iterdir()):
        name, known = path.name, coverage.get(path.name, [])
        boxes: list[tuple[str, Box]] = [
            (b["class"], (int(b["x1"]), int(b["y1"]), int(b["x2"]), int(b["y2"])))
            for b in truth.get(name, [])
        ]
        prefix = name.split("_")[0]
        if FULL_OF_TEXT.search(name) or (prefix == "ecg" and not ECG_WITHOUT_LETTERS.match(name)):
            continue
        if prefix == "bar":
            codes = tuple(b for label, b in boxes if label == "barcode")
            if codes:
                folder = name.rsplit("_", 1)[0]
                found.append(Background(path, "code", folder, codes=codes))
            continue
        thorax = next((b for label, b in boxes if label == "thorax"), None)
        kind = {"cxr": "chest", "nih": "film", "dcm": "slice", "ecg": "ecg", "us": "ultrasound",
                "neg": "photo"}.get(prefix)  # fmt: skip
        if kind is None or (kind == "chest" and "thorax" not in known):
            continue
        number = manifest.get(name, {}).get("patient") or name.split("-")[0]
        source = f"nih {name.split('_')[1]}" if kind == "film" else f"{prefix} {number}"
        target = clean / f"{path.stem}.png"
        if not target.exists():
            pixels = read_picture(path)
            if "text" not in known:
                texts = [b for label, b in boxes if label == "text"]
                pixels = painted_over(pixels, texts, kind in ("chest", "film"), thorax)
            cv2.imwrite(str(target), pixels)
        found.append(Background(target, kind, source, thorax))
    return found


def painted_over(
    pixels: np.ndarray, texts: list[Box], film: bool, thorax: Box | None
) -> np.ndarray:
    """The picture without anything that may be text.

    Args:
        pixels: Shape (H, W, 3), uint8, BGR.
        film: A radiograph, whose lead markers lie outside the lungs.
    """
    h, w = pixels.shape[:2]
    mask = np.zeros((h, w), np.uint8)
    for x1, y1, x2, y2 in [*texts, *_suspected(pixels)]:
        m = 6 + (y2 - y1) // 5
        mask[max(0, y1 - m) : y2 + m, max(0, x1 - m) : x2 + m] = 255
    if film:
        grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        side = max(15, min(h, w) // 22)
        bright = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8)) > 22
        outer = np.zeros((h, w), bool)
        outer[: h // 4] = outer[-h // 10 :] = True
        outer[:, : w // 9] = outer[:, -w // 9 :] = True
        if thorax is not None:
            outer[:] = True
            outer[thorax[1] : thorax[3], thorax[0] : thorax[2]] = False
        blobs = cv2.dilate((bright & outer).astype(np.uint8) * 255, np.ones((9, 9), np.uint8))
        mask = np.maximum(mask, blobs)
    small = 900 / max(h, w)
    if not mask.any():
        return pixels
    if small < 1:  # painting a large film at full size takes a minute; spots are smooth anyway
        size = (round(w * small), round(h * small))
        filled = cv2.inpaint(
            cv2.resize(pixels, size, interpolation=cv2.INTER_AREA),
            cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST),
            4,
            cv2.INPAINT_TELEA,
        )
        filled = cv2.resize(filled, (w, h), interpolation=cv2.INTER_CUBIC)
        soft = cv2.GaussianBlur(mask, (0, 0), 2)[..., None] / 255.0
        soft = np.maximum(soft, mask[..., None] / 255.0)
        return (pixels * (1 - soft) + filled * soft).astype(np.uint8)
    return cv2.inpaint(pixels, mask, 4, cv2.INPAINT_TELEA)


_reader: list[Callable] = []


def _suspected(pixels: np.ndarray) -> list[Box]:
    if not _reader:
        from rapidocr import RapidOCR

        _reader.append(
            RapidOCR(params={"Det.box_thresh": 0.25, "Det.thresh": 0.2, "Global.log_level": "error",
                             "EngineConfig.onnxruntime.intra_op_num_threads": 2})
        )  # fmt: skip
    result = _reader[0](pixels, use_det=True, use_cls=False, use_rec=False)
    if result is None or getattr(result, "boxes", None) is None:
        return []
    quads = np.asarray(result.boxes).reshape(-1, 4, 2)
    low, high = np.floor(quads.min(1)).astype(int), np.ceil(quads.max(1)).astype(int)
    limit = 0.12 * max(pixels.shape[:2])  # a lung is not a letter
    return [(max(0, a[0]), max(0, a[1]), b[0], b[1])
            for a, b in zip(low, high, strict=True) if min(b - a) < limit]  # fmt: skip

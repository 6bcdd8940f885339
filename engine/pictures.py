"""Pictures made for people out of masked ones: grid, thumbnail, downloads.

Everything here takes what is already masked (or, for a download, what its caller may see)
and adds nothing that was under a box.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from engine.records import Detection

GRID_SIDE_PX = 640
_ROW_PX = 16
_COLOURS = ("#ffd166", "#06d6a0", "#4cc9f0", "#f78c6b", "#c77dff", "#ef476f")


def encode_png(rgb: np.ndarray) -> bytes:
    """PNG of an RGB picture, shape (height, width, 3), uint8."""
    done, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"no PNG of an array of shape {rgb.shape} and type {rgb.dtype}")
    return bytes(data)


def encode_jpeg(rgb: np.ndarray) -> bytes:
    """JPEG (quality 95, no chroma subsampling) of an RGB picture, for downloads."""
    buffer = io.BytesIO()
    Pillow.fromarray(rgb).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def enhance(rgb: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive equalisation of lightness, for viewing only.

    Source: Zuiderveld 1994, clip limit 2 on 8 x 8 tiles.
    """
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))


def thumbnail(masked_rgb: np.ndarray, max_side: int = 256) -> bytes:
    """PNG of a masked picture, at most ``max_side`` px a side."""
    return encode_png(np.asarray(_shrunk(masked_rgb, max_side)[0]))


def grid_picture(masked_rgb: np.ndarray, detections: Sequence[Detection]) -> bytes:
    """PNG of a masked picture with numbered, labelled boxes over a table of them.

    The table has number, class, confidence and size in px of the image; never content.

    Args:
        masked_rgb: Shape (height, width, 3), uint8.
        detections: Boxes in pixels of that picture.
    """
    picture, scale = _shrunk(masked_rgb, GRID_SIDE_PX)
    grey = bool(
        (masked_rgb[..., 0] == masked_rgb[..., 1]).all()
        and (masked_rgb[..., 1] == masked_rgb[..., 2]).all()
    )
    picture = (
        picture.convert("L" if grey else "RGB")
        .quantize(40 if grey else 56, dither=Pillow.Dither.NONE)
        .convert("RGB")
    )
    rows = max(1, len(detections)) + 1
    canvas = Pillow.new("RGB", (max(picture.width, 320), picture.height + rows * _ROW_PX + 6))
    canvas.paste(picture, (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    y = picture.height + 3
    draw.text((6, y), "no.  class                confidence   size, px", fill="#ffffff", font=font)
    if not detections:
        draw.text((6, y + _ROW_PX), "nothing was found", fill="#ffffff", font=font)
    for number, detection in enumerate(detections, start=1):
        colour, region = _COLOURS[(number - 1) % len(_COLOURS)], detection.region
        box = [round(v * scale) for v in region.xyxy]
        draw.rectangle(
            (box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)),
            outline=colour,
            width=2,
        )
        tag = f"{number} {detection.label}"
        width = round(draw.textlength(tag, font=font)) + 6
        top = box[1] - _ROW_PX if box[1] >= _ROW_PX else min(box[3], picture.height - _ROW_PX)
        left = max(0, min(box[0], canvas.width - width))
        draw.rectangle((left, top, left + width, top + _ROW_PX - 1), fill=colour)
        draw.text((left + 3, top + 1), tag, fill="#000000", font=font)
        y += _ROW_PX
        columns = (
            (6, f"{number}"),
            (34, detection.label[:24]),
            (150, f"{detection.confidence:.2f}"),
        )
        frames = f" x {region.frame_count} frames" if region.frame_count > 1 else ""
        for x, words in (*columns, (222, f"{region.width} x {region.height}{frames}")):
            draw.text((x, y), words, fill=colour, font=font)
    buffer = io.BytesIO()
    canvas.quantize(64, dither=Pillow.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _shrunk(rgb: np.ndarray, max_side: int) -> tuple[Pillow.Image, float]:
    """The picture at most ``max_side`` px a side, and its scale."""
    height, width = rgb.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    picture = Pillow.fromarray(np.ascontiguousarray(rgb))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = picture.resize(size, Pillow.Resampling.BOX)
    return picture, scale

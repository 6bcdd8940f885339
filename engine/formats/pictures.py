"""Display pictures from masked images: grid, thumbnail, downloads.

Input is already masked (or, for a download, what the caller has permission to see); hidden content
is never added.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from engine.metrics import coarse_confidence
from engine.records import Detection, Region

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


def upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """A picture turned the way its EXIF orientation (1 to 8) asks for.

    Detectors and people look at this one; boxes come back by :func:`from_upright`.
    """
    if not 1 <= orientation <= 8:
        raise ValueError(f"orientation {orientation} is not within 1..8")
    turned = rgb.swapaxes(0, 1) if orientation >= 5 else rgb
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def from_upright(region: Region, orientation: int, width: int, height: int) -> Region:
    """A box found on the upright picture, in pixels of the stored one.

    Args:
        width, height: Of the stored picture.
    """
    x1, y1, x2, y2 = region.xyxy
    wide, high = (height, width) if orientation >= 5 else (width, height)  # of the upright one
    if orientation in (2, 3, 6, 7):
        x1, x2 = wide - x2, wide - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = high - y2, high - y1
    if orientation >= 5:
        x1, y1, x2, y2 = y1, x1, y2, x2
    return replace(region, x1=x1, y1=y1, x2=x2, y2=y2)


def to_upright(region: Region, orientation: int, width: int, height: int) -> Region:
    """A box of the stored picture, in pixels of the upright one.

    Args:
        width, height: Of the stored picture.
    """
    wide, high = (height, width) if orientation >= 5 else (width, height)
    back = {6: 8, 8: 6}.get(orientation, orientation)  # the others undo themselves
    return from_upright(region, back, wide, high)


def thumbnail(masked_rgb: np.ndarray, max_side: int = 256) -> bytes:
    """JPEG of a masked picture, at most ``max_side`` px a side: a tenth of a PNG."""
    buffer = io.BytesIO()
    _shrunk(masked_rgb, max_side)[0].save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def as_png(picture: bytes) -> bytes:
    """A picture made here, as a PNG: thumbnails are stored as JPEG, older ones as PNG."""
    if picture.startswith(b"\x89PNG"):
        return picture
    return encode_png(np.asarray(Pillow.open(io.BytesIO(picture), formats=("JPEG",))))


def grid_picture(masked_rgb: np.ndarray, detections: Sequence[Detection]) -> bytes:
    """PNG of a masked picture with numbered, labelled boxes over a table of them.

    The table has number, class, coarse confidence and size in px of the image; never content.

    Args:
        masked_rgb: Shape (height, width, 3), uint8.
        detections: Boxes in pixels of that picture.
    """
    picture, scale = _shrunk(masked_rgb, GRID_SIDE_PX)
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
            (150, _at_least(detection)),
        )
        frames = f" x {region.frame_count} frames" if region.frame_count > 1 else ""
        for x, words in (*columns, (222, f"{region.width} x {region.height}{frames}")):
            draw.text((x, y), words, fill=colour, font=font)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def boxed_picture(
    rgb: np.ndarray, found: Sequence[Region], own: Sequence[Region], max_side: int
) -> bytes:
    """PNG of a picture with its boxes drawn around what they hide, for contact sheets.

    Args:
        rgb: Shape (height, width, 3), uint8.
        found, own: What was found and what a person drew, in pixels of that picture.
    """
    picture, scale = _shrunk(rgb, max_side)
    draw = ImageDraw.Draw(picture)
    for regions, colour in ((found, _FOUND), (own, _OWN)):
        for region in regions:
            x1, y1, x2, y2 = (round(v * scale) for v in region.xyxy)
            # Outside the box, so that even a small one stays visible and its content too.
            draw.rectangle((x1 - 2, y1 - 2, max(x1, x2) + 1, max(y1, y2) + 1), None, colour, 2)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


_FOUND, _OWN = "#ffd166", "#4cc9f0"


def _at_least(detection: Detection) -> str:
    if detection.source == "person":
        return "person"
    return f"from {coarse_confidence(detection.confidence):.2f}"


def _shrunk(rgb: np.ndarray, max_side: int) -> tuple[Pillow.Image, float]:
    """The picture at most ``max_side`` px a side, and its scale."""
    height, width = rgb.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    picture = Pillow.fromarray(np.ascontiguousarray(rgb))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = picture.resize(size, Pillow.Resampling.BOX)
    return picture, scale

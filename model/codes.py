"""Barcodes on a page: invented ones, or real ones cut out of pictures at their boxes."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import cv2
import numpy as np

from model.writing import Hand, Page


def drawn_code(r: Random, content: str) -> np.ndarray:
    """An invented code, shape (H, W), uint8, black on white with little or no quiet zone."""
    import segno
    import zxingcpp

    kind = r.choice(
        (
            "QR",
            "Code128",
            "Code128",
            "Code39",
            "DataMatrix",
            "PDF417",
            "EAN13",
            "ITF",
            "Aztec",
            "Codabar",
        )
    )
    if kind == "QR":
        matrix = np.array(
            [[0 if cell else 255 for cell in row] for row in segno.make(content).matrix], np.uint8
        )
        return np.kron(matrix, np.ones((4, 4), np.uint8))
    digits = "".join(r.choice("0123456789") for _ in range(12))
    plain = {"EAN13": digits, "ITF": digits, "Codabar": "A" + digits + "B"}.get(kind, content)
    barcode = zxingcpp.create_barcode(plain, getattr(zxingcpp.BarcodeFormat, kind))
    pixels = np.array(zxingcpp.write_barcode_to_image(barcode, scale=2, add_quiet_zones=False))
    dark = pixels < 128
    return pixels[np.flatnonzero(dark.any(1))[0] : np.flatnonzero(dark.any(1))[-1] + 1,
                  np.flatnonzero(dark.any(0))[0] : np.flatnonzero(dark.any(0))[-1] + 1]  # fmt: skip


def code(page: Page, room: tuple[int, int, int, int], picture: np.ndarray | None = None) -> None:
    """Put a code into a free room ``x1 y1 x2 y2`` with its quiet zone, and its text below at times.

    Args:
        picture: A real code cut out at its box, shape (H, W, 3), uint8; drawn where None.
    """
    r = page.rng
    x1, y1, x2, y2 = room
    if x2 - x1 < 24 or y2 - y1 < 14 or page.taken(*room):
        return
    if picture is None:
        content = "".join(
            r.choice("ABCDEFGHJKLMNPRSTUVWXYZ0123456789") for _ in range(r.randint(5, 14))
        )
        picture = np.repeat(drawn_code(r, content)[..., None], 3, 2)
        h, w = picture.shape[:2]
        if h < w / 3 and r.random() < 0.7:  # a row of bars may be any height
            picture = cv2.resize(
                picture, (w, round(w * r.uniform(0.12, 0.5))), interpolation=cv2.INTER_NEAREST
            )
        if r.random() < 0.05:
            picture = 255 - picture
    if r.random() < 0.1:
        picture = np.ascontiguousarray(np.rot90(picture))
    h, w = picture.shape[:2]
    fit = min((x2 - x1 - 8) / w, (y2 - y1 - 8) / h)
    w, h = round(w * fit), round(h * fit)
    if w < 14 or h < 8:
        return
    picture = cv2.resize(
        picture, (w, h), interpolation=cv2.INTER_AREA if fit < 1 else cv2.INTER_NEAREST
    )
    at = (x1 + 4 + r.randint(0, max(0, x2 - x1 - 8 - w)), y1 + 4)
    zone = r.randint(2, 4)
    for layer in (page.pixels, page.clean):
        layer[at[1] - zone : at[1] + h + zone, at[0] - zone : at[0] + w + zone] = np.percentile(
            picture, 92
        )
        layer[at[1] : at[1] + h, at[0] : at[0] + w] = picture
    page.boxes.append(("barcode", at[0], at[1], at[0] + w, at[1] + h))
    if r.random() < 0.4:
        hand: Hand = replace(
            page.hand(low=6, high=11, script="la"), colour=(0, 0, 0), plate=None, outline=0
        )
        page.line(page.phrases.number(), at[0] + w / 2, at[1] + h + zone + 2, hand, "mt")

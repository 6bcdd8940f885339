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


#: Kinds of code that are drawn for the verifier, and how many digits they hold; 0: letters.
SYMBOLOGIES = {
    "QRCode": 0, "MicroQRCode": 8, "RMQRCode": 0, "DataMatrix": 0, "Aztec": 0, "MaxiCode": 0,
    "PDF417": 0, "MicroPDF417": 0, "Code128": 0, "Code39": 0, "Code93": 0, "EAN13": 12,
    "EAN8": 7, "UPCA": 11, "ITF": 12, "Codabar": 10, "DataBarOmni": 13, "DataBarLtd": 13,
}  # fmt: skip
_STACKED = tuple(SYMBOLOGIES)[:8]
#: What happens to a code before it is seen.
DAMAGES = (
    "none", "blurred", "turned", "quarter", "faint", "inverted", "clipped", "small", "noisy",
    "slanted",
)  # fmt: skip
_DRAWN_MODULE_PX = 4.0


def _plain_code(r: Random, symbology: str) -> np.ndarray:
    """A whole code without quiet zone, shape (H, W), uint8, four pixels a module."""
    import zxingcpp

    digits = SYMBOLOGIES[symbology]
    alphabet = "0123456789" if digits else "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"
    if symbology == "DataBarLtd":
        content = "0" + "".join(r.choice(alphabet) for _ in range(12))
    else:
        content = "".join(r.choice(alphabet) for _ in range(digits or r.randint(5, 16)))
    if symbology == "Codabar":
        content = f"A{content}B"
    barcode = zxingcpp.create_barcode(content, getattr(zxingcpp.BarcodeFormat, symbology))
    pixels = np.array(
        zxingcpp.write_barcode_to_image(barcode, scale=4, add_quiet_zones=False), np.uint8
    )
    dark = pixels < 128
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if symbology in _STACKED:
        return pixels
    tall = round(pixels.shape[1] * r.uniform(0.08, 0.5))  # bars may be of any height
    return np.repeat(pixels[pixels.shape[0] // 2][None], max(24, tall), axis=0)


def damaged_code(
    r: Random, symbology: str, damage: str, background: np.ndarray
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A code on its label, with one damage, somewhere on a background.

    Args:
        symbology: Of ``SYMBOLOGIES``.
        damage: Of ``DAMAGES``.
        background: Shape (H, W), uint8; left as it is.

    Returns:
        The picture, shape (H, W), uint8, and the box of what is seen of the code without its
        quiet zone: x1, y1, x2, y2 in px.
    """
    height, width = background.shape
    code = _plain_code(r, symbology)
    module = r.uniform(1.0, 1.6) if damage == "small" else r.uniform(1.6, 4.5)
    fit = min(module / _DRAWN_MODULE_PX, 0.7 * height / code.shape[0], 0.85 * width / code.shape[1])
    quiet = round(_DRAWN_MODULE_PX * r.choice((2, 4, 8)))
    label = cv2.copyMakeBorder(code, quiet, quiet, quiet, quiet, cv2.BORDER_CONSTANT, value=255)
    label = cv2.resize(label, None, fx=fit, fy=fit, interpolation=cv2.INTER_AREA)
    dark, light = r.uniform(0, 60), r.uniform(190, 255)
    if damage == "faint":
        dark = r.uniform(20, 190)
        light = dark + r.uniform(25, 60)
    if damage == "inverted":
        dark, light = light, dark
    h, w = label.shape
    matrix = _placing(r, damage, (w, h), (width, height))
    tones = dark + (light - dark) * label.astype(np.float32) / 255
    laid = cv2.warpPerspective(tones, matrix, (width, height), flags=cv2.INTER_LINEAR)
    share = cv2.warpPerspective(np.ones_like(tones), matrix, (width, height))
    picture = background * (1 - share) + laid * share
    if damage == "blurred":
        picture = cv2.GaussianBlur(picture, (0, 0), r.uniform(0.6, 1.3) * module)
    if damage == "noisy":
        noise = np.random.default_rng(r.getrandbits(64)).standard_normal(picture.shape)
        picture = picture + noise * r.uniform(10, 30)
    done = np.clip(picture, 0, 255).astype(np.uint8)
    if damage == "noisy" or r.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, r.randint(40, 90)]
        done = cv2.imdecode(cv2.imencode(".jpg", done, quality)[1], cv2.IMREAD_GRAYSCALE)
    z = quiet * fit
    corners = np.array([[[z, z], [w - z, z], [w - z, h - z], [z, h - z]]], np.float32)
    seen = cv2.perspectiveTransform(corners, matrix)[0]
    (x1, y1), (x2, y2) = seen.min(axis=0), seen.max(axis=0)
    box = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
    return done, tuple(float(v) for v in box)  # type: ignore[return-value]


def _placing(
    r: Random, damage: str, label: tuple[int, int], picture: tuple[int, int]
) -> np.ndarray:
    """Where a label comes to lie: a projective map, shape (3, 3), from its pixels."""
    w, h = label
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    turn = {"turned": r.uniform(5, 85), "quarter": 90.0}.get(damage, 0.0)
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D((0, 0), turn, 1.0)
    if damage == "slanted":
        moved = corners + np.array(
            [[r.uniform(-0.12, 0.12) * w, r.uniform(-0.12, 0.12) * h] for _ in corners], np.float32
        )
        matrix = cv2.getPerspectiveTransform(corners, moved)
    laid = cv2.perspectiveTransform(corners[:, None], matrix)[:, 0]
    low, size = laid.min(axis=0), np.ptp(laid, axis=0)
    shrink = min(1.0, 0.95 * picture[0] / size[0], 0.95 * picture[1] / size[1])
    size = size * shrink
    x, y = (r.uniform(0, max(0.0, full - own)) for full, own in zip(picture, size, strict=True))
    if damage == "clipped":
        x = r.choice((-r.uniform(0.15, 0.4) * size[0], picture[0] - r.uniform(0.6, 0.85) * size[0]))
    shift = np.array(
        [[shrink, 0, x - low[0] * shrink], [0, shrink, y - low[1] * shrink], [0, 0, 1]]
    )
    return np.asarray(shift @ matrix)

"""Invented pictures of every kind that real ones are too few of: no anatomy, only its look."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import cv2
import numpy as np


def clouds(g: np.random.Generator, h: int, w: int, octaves: tuple[int, ...]) -> np.ndarray:
    """Smooth noise, 0 to 1; each octave is the number of blobs along a side."""
    field = np.zeros((h, w), np.float32)
    for n, cells in enumerate(octaves):
        spots = g.random((cells + 1, cells + 1), dtype=np.float32)
        field += cv2.resize(spots, (w, h), interpolation=cv2.INTER_CUBIC) * 0.6**n
    field -= field.min()
    return field / max(1e-6, float(field.max()))


def _rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, 2)


def ultrasound(r: Random, g: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Speckle in a sector or a strip on black, sometimes with flow colours."""
    grey = np.full((h, w), r.choice((0, 0, 0, 6, 18)), np.float32)
    tissue = clouds(g, h, w, (3, 6, 14)) ** r.uniform(1, 2.5) * r.uniform(90, 230)
    speckle = cv2.GaussianBlur(
        g.rayleigh(1.0, (h, w)).astype(np.float32),
        (0, 0),
        r.uniform(0.6, 1.6),
        sigmaY=r.uniform(0.5, 1.0),
    )
    tissue *= speckle * 0.75
    mask = np.zeros((h, w), np.uint8)
    cx = round(w * r.uniform(0.4, 0.6))
    if r.random() < 0.6:
        radius, spread = round(h * r.uniform(0.7, 0.95)), r.uniform(30, 50)
        top = round(h * r.uniform(0.02, 0.12))
        cv2.ellipse(mask, (cx, top), (radius, radius), 90, -spread, spread, 255, -1)
        cv2.ellipse(mask, (cx, top), (radius // 12,) * 2, 90, -180, 180, 0, -1)
    else:
        x, y = round(w * r.uniform(0.15, 0.3)), round(h * r.uniform(0.05, 0.15))
        cv2.rectangle(mask, (x, y), (w - x, round(h * r.uniform(0.8, 0.97))), 255, -1)
    for _ in range(r.randint(0, 4)):  # vessels and cysts
        centre = (r.randint(0, w), r.randint(0, h))
        axes = (r.randint(5, w // 6 + 6), r.randint(5, h // 8 + 6))
        hole = np.zeros((h, w), np.uint8)
        cv2.ellipse(hole, centre, axes, r.randint(0, 180), 0, 360, 255, -1)
        tissue *= 1 - cv2.GaussianBlur(hole, (0, 0), 2) / 255 * r.uniform(0.5, 1)
    picture = _rgb(np.where(mask > 0, tissue, grey))
    if r.random() < 0.25:
        x, y, s = r.randint(w // 4, w // 2), r.randint(h // 4, h // 2), min(h, w) // 5
        flow = clouds(g, h, w, (5, 12)) > 0.62
        flow[:y] = flow[y + s :] = False
        flow[:, :x] = flow[:, x + s :] = False
        picture[flow] = r.choice(((200, 40, 0), (20, 60, 220), (240, 160, 0)))
    return picture


def film(r: Random, g: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Bones, soft tissue and a collimator's edge: limbs, spines, teeth."""
    grey = clouds(g, h, w, (2, 4, 8)) * r.uniform(60, 150) + r.uniform(0, 60)
    for _ in range(r.randint(1, 9)):  # shafts and teeth, brighter at the rim
        bone = np.zeros((h, w), np.uint8)
        centre, turn = (r.randint(0, w), r.randint(0, h)), r.randint(0, 180)
        size = (r.randint(w // 20, w // 2), r.randint(h // 30, h // 8))
        cv2.ellipse(bone, centre, size, turn, 0, 360, 255, -1)
        soft = cv2.GaussianBlur(bone, (0, 0), r.uniform(1, 6)).astype(np.float32) / 255
        rim = np.abs(soft - cv2.GaussianBlur(soft, (0, 0), 5))
        grey += soft * r.uniform(15, 70) + rim * 60
    trabeculae = cv2.GaussianBlur(g.standard_normal((h, w)).astype(np.float32), (0, 0), 1.3)
    grey += trabeculae * r.uniform(2, 22) + g.standard_normal((h, w)) * r.uniform(0, 7)
    if r.random() < 0.6:
        x, y = r.randint(0, w // 6), r.randint(0, h // 6)
        edge = np.zeros((h, w), np.uint8)
        cv2.rectangle(edge, (x, y), (w - r.randint(0, w // 6), h - r.randint(0, h // 6)), 255, -1)
        turned = edge
        if r.random() < 0.5:
            spin = cv2.getRotationMatrix2D((w / 2, h / 2), r.uniform(-8, 8), 1)
            turned = cv2.warpAffine(edge, spin, (w, h)).astype(np.uint8)
        grey = np.where(turned > 0, grey, r.choice((0, 4, 12, 240)))
    return _rgb(255 - grey if r.random() < 0.12 else grey)


def slice_(r: Random, g: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A body in cross-section on black, as CT and MR show it; sometimes a grid of them."""
    grey = np.full((h, w), r.choice((0, 0, 0, 3, 10)), np.float32)
    n = r.choice((1, 1, 1, 2, 3))
    for row in range(n):
        for column in range(n):
            ch, cw = h // n, w // n
            cell = np.zeros((ch, cw), np.uint8)
            centre, axes = (
                (cw // 2, ch // 2),
                (round(cw * r.uniform(0.25, 0.45)), round(ch * r.uniform(0.3, 0.46))),
            )
            cv2.ellipse(cell, centre, axes, r.randint(-10, 10), 0, 360, 255, -1)
            part = clouds(g, ch, cw, (3, 7, 15)) * r.uniform(60, 160) + r.uniform(10, 60)
            for _ in range(r.randint(3, 12)):
                spot = (
                    centre[0] + r.randint(-axes[0], axes[0]) // 2,
                    centre[1] + r.randint(-axes[1], axes[1]) // 2,
                )
                cv2.ellipse(
                    part,
                    spot,
                    (r.randint(2, cw // 8 + 3), r.randint(2, ch // 8 + 3)),
                    r.randint(0, 180),
                    0,
                    360,
                    r.uniform(0, 255),
                    -1,
                )
            part = cv2.GaussianBlur(part, (0, 0), r.uniform(0.6, 2)) + g.standard_normal(
                (ch, cw)
            ) * r.uniform(1, 12)
            cv2.ellipse(part, centre, axes, 0, 0, 360, r.uniform(120, 255), r.randint(1, 4))
            room = grey[row * ch : row * ch + ch, column * cw : column * cw + cw]
            room[:] = np.where(cell > 0, part, room)
    return _rgb(grey)


def breast(r: Random, g: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Half an ellipse at one side of black, with strands and specks."""
    mask = np.zeros((h, w), np.uint8)
    side = r.choice((0, w))
    cv2.ellipse(
        mask,
        (side, h // 2),
        (round(w * r.uniform(0.4, 0.75)), round(h * r.uniform(0.3, 0.48))),
        0,
        0,
        360,
        255,
        -1,
    )
    grey = clouds(g, h, w, (4, 9, 20, 40)) ** 1.7 * 180 + 40
    fading = cv2.GaussianBlur(mask, (0, 0), 9) / 255.0
    grey = (grey * fading).astype(np.float32)
    for _ in range(r.randint(0, 12)):
        cv2.circle(grey, (r.randint(0, w), r.randint(0, h)), r.randint(1, 2), 240, -1)
    return _rgb(np.where(mask > 0, grey, 0))


def endoscopy(r: Random, g: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A pink octagon or disc with highlights on black."""
    depth = clouds(g, h, w, (3, 6, 12))[..., None]
    base = np.array(
        r.choice(((215, 110, 90), (200, 90, 70), (225, 150, 120), (120, 160, 130))), np.float32
    )
    picture = np.clip(base * (0.35 + 0.8 * depth) + g.standard_normal((h, w, 1)) * 4, 0, 255)
    for _ in range(r.randint(2, 15)):
        cv2.ellipse(
            picture,
            (r.randint(0, w), r.randint(0, h)),
            (r.randint(1, 12), r.randint(1, 6)),
            r.randint(0, 180),
            0,
            360,
            (255, 250, 240),
            -1,
        )
    mask = np.zeros((h, w), np.uint8)
    centre, radius = (
        (round(w * r.uniform(0.5, 0.68)), h // 2),
        round(min(h, w) * r.uniform(0.42, 0.5)),
    )
    if r.random() < 0.5:
        cv2.circle(mask, centre, radius, 255, -1)
    else:
        turn = np.arange(8) * np.pi / 4 + np.pi / 8
        corners = np.stack(
            [centre[0] + radius * 1.08 * np.cos(turn), centre[1] + radius * 1.08 * np.sin(turn)], 1
        )
        cv2.fillPoly(mask, [corners.astype(np.int32)], 255)
    picture[mask == 0] = r.choice((0, 0, 8, 25))
    return picture.astype(np.uint8)


def skin(r: Random, g: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Skin, cloth or a table, with hairs."""
    base = np.array(
        r.choice(((225, 180, 155), (190, 140, 110), (120, 80, 60), (90, 130, 110), (70, 90, 140))),
        np.float32,
    )
    picture = np.clip(
        base * (0.75 + 0.4 * clouds(g, h, w, (2, 5, 30, 80))[..., None])
        + g.standard_normal((h, w, 1)) * r.uniform(1, 6),
        0,
        255,
    ).astype(np.uint8)
    if r.random() < 0.6:
        cv2.ellipse(
            picture,
            (w // 2, h // 2),
            (r.randint(8, w // 5 + 9), r.randint(8, h // 5 + 9)),
            r.randint(0, 180),
            0,
            360,
            r.choice(((90, 50, 40), (150, 60, 60), (60, 40, 40))),
            -1,
        )
        picture = cv2.GaussianBlur(picture, (0, 0), 2).astype(np.uint8)
    return picture


def paper(r: Random, g: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A sheet or a sticker, with rules and a shadow."""
    shade = r.choice(
        ((255, 255, 255), (248, 244, 232), (235, 235, 238), (255, 250, 200), (210, 225, 245))
    )
    light = 1 - clouds(g, h, w, (1, 3))[..., None] * r.uniform(0, 0.3)
    picture = np.clip(
        np.array(shade, np.float32) * light + g.standard_normal((h, w, 1)) * r.uniform(0, 4), 0, 255
    )
    picture = picture.astype(np.uint8)
    ink = r.choice(((0, 0, 0), (120, 120, 120), (60, 90, 160)))
    if r.random() < 0.5:
        step = r.randint(18, 70)
        for y in range(r.randint(5, step), h, step):
            cv2.line(picture, (0, y), (w, y), ink, 1)
        if r.random() < 0.4:
            for x in range(r.randint(5, 3 * step), w, 3 * step):
                cv2.line(picture, (x, 0), (x, h), ink, 1)
    return picture


def cardiogram(r: Random, g: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Grid paper with traces."""
    sheet = np.full(
        (h, w, 3),
        r.choice(((255, 255, 255), (255, 240, 238), (250, 250, 235), (20, 20, 20))),
        np.uint8,
    )
    dark = sheet.mean() < 100
    line = np.array(
        r.choice(((240, 150, 150), (230, 190, 120), (170, 210, 170), (200, 200, 200))), np.uint8
    )
    step = r.randint(4, 12)
    for offset, weight in ((step, 0.5), (step * 5, 1.0)):
        tone = (sheet[0, 0] * (1 - weight) + line * weight * (0.4 if dark else 1)).astype(np.uint8)
        sheet[::offset] = tone
        sheet[:, ::offset] = tone
    pen = (60, 230, 60) if dark else r.choice(((0, 0, 0), (30, 30, 80), (60, 60, 60)))
    rows = r.randint(1, 6)
    for row in range(rows):
        x = np.arange(w)
        beat = r.randint(40, 160)
        phase = (x + r.randint(0, beat)) % beat / beat
        y = (
            0.08 * np.sin(phase * 6.3)
            + np.exp(-(((phase - 0.4) / 0.015) ** 2))
            - 0.25 * np.exp(-(((phase - 0.43) / 0.02) ** 2))
            + 0.25 * np.exp(-(((phase - 0.7) / 0.05) ** 2))
        )
        y = (
            h * (row + 0.6) / rows
            - y * r.uniform(0.2, 0.8) * h / rows
            + g.standard_normal(w) * r.uniform(0, 1.2)
        )
        cv2.polylines(
            sheet,
            [np.stack([x, y], 1).astype(np.int32)],
            False,
            pen,
            r.choice((1, 1, 2)),
            cv2.LINE_AA,
        )
    return sheet


def screen(r: Random, g: np.random.Generator, h: int, w: int) -> np.ndarray:
    """An even or fading surface: dark monitors, report pages, report headers."""
    a, b = r.choice(
        ((0, 0), (0, 20), (10, 60), (60, 60), (90, 140), (200, 255), (255, 255), (128, 128))
    )
    return _rgb(np.linspace(a, b, h)[:, None] + g.standard_normal((h, w)) * r.uniform(0, 5))


INVENTED: dict[str, Callable[[Random, np.random.Generator, int, int], np.ndarray]] = {
    "ultrasound": ultrasound,
    "film": film,
    "slice": slice_,
    "breast": breast,
    "endoscopy": endoscopy,
    "photo": skin,
    "paper": paper,
    "ecg": cardiogram,
    "screen": screen,
}

"""What looks like text and is not: drawn without a label, so that it is learnt as nothing."""

from __future__ import annotations

from random import Random

import cv2
import numpy as np


def distract(r: Random, pixels: np.ndarray) -> None:
    """Draw catheters, wires, clips, ticks, calipers, grids, hairs, arrows and so on, in place."""
    for _ in range(r.choice((0, 1, 1, 2, 3))):
        r.choice(
            (
                _catheter,
                _wires,
                _clips,
                _ticks,
                _calipers,
                _grid,
                _hairs,
                _arrow,
                _rings,
                _bar,
                _dots,
            )
        )(r, pixels)


def _tone(r: Random, pixels: np.ndarray) -> tuple[int, int, int]:
    if r.random() < 0.2:
        return r.choice(((255, 255, 0), (0, 255, 0), (255, 0, 0), (0, 200, 255), (255, 140, 0)))
    grey = r.choice((255, 255, 230, 200, 160, 120, 60, 0))
    return (grey, grey, grey)


def _curve(r: Random, h: int, w: int, bend: float) -> np.ndarray:
    t = np.linspace(0, 1, 60)[:, None]
    p = [np.array([r.uniform(0, w), r.uniform(0, h)]) for _ in range(2)]
    middle = [
        (p[0] + p[1]) / 2 + np.array([r.uniform(-bend, bend), r.uniform(-bend, bend)])
        for _ in range(2)
    ]
    points = (
        (1 - t) ** 3 * p[0]
        + 3 * (1 - t) ** 2 * t * middle[0]
        + 3 * (1 - t) * t**2 * middle[1]
        + t**3 * p[1]
    )
    return points.astype(np.int32)


def _catheter(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    points = _curve(r, h, w, max(h, w) / 2)
    layer = pixels.copy()
    thick = r.randint(1, 6)
    cv2.polylines(layer, [points], False, _tone(r, pixels), thick, cv2.LINE_AA)
    if r.random() < 0.5:  # the stripe in the wall
        for k in range(0, len(points) - 1, 2):
            cv2.line(
                layer,
                points[k].tolist(),
                points[k + 1].tolist(),
                _tone(r, pixels),
                max(1, thick // 3),
            )
    share = r.uniform(0.3, 0.9)
    pixels[:] = cv2.addWeighted(layer, share, pixels, 1 - share, 0)


def _wires(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    x, y, s = r.randint(0, w), r.randint(0, h), r.randint(5, 26)
    for k in range(r.randint(1, 6)):  # sternal wires, one above the other
        centre = (x + r.randint(-3, 3), y + k * r.randint(2, 4) * s // 2)
        cv2.ellipse(
            pixels,
            centre,
            (s, s // 2 + 1),
            r.randint(-30, 30),
            r.randint(0, 60),
            r.randint(200, 350),
            (235, 235, 235),
            r.randint(1, 3),
            cv2.LINE_AA,
        )


def _clips(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    x, y = r.randint(0, w), r.randint(0, h)
    for _ in range(r.randint(1, 12)):  # clips, sutures, screws, dense specks in a row or heap
        x, y = x + r.randint(-14, 16), y + r.randint(-14, 16)
        end = (x + r.randint(-9, 9), y + r.randint(-9, 9))
        cv2.line(pixels, (x, y), end, _tone(r, pixels), r.randint(1, 4), cv2.LINE_AA)


def _ticks(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    tone, step, long = _tone(r, pixels), r.randint(4, 40), r.randint(3, 12)
    if r.random() < 0.6:
        x = r.choice((r.randint(0, w // 8), w - r.randint(1, w // 8 + 1), r.randint(0, w - 1)))
        for k, y in enumerate(range(r.randint(0, h // 3), r.randint(h // 2, h), step)):
            cv2.line(pixels, (x, y), (x + (long * 2 if k % 5 == 0 else long), y), tone, 1)
    else:
        y = r.choice((r.randint(0, h // 8), h - r.randint(1, h // 8 + 1), r.randint(0, h - 1)))
        for k, x in enumerate(range(r.randint(0, w // 3), r.randint(w // 2, w), step)):
            cv2.line(pixels, (x, y), (x, y + (long * 2 if k % 5 == 0 else long)), tone, 1)


def _calipers(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    tone, s, ends = _tone(r, pixels), r.randint(3, 8), []
    for _ in range(2):
        x, y = r.randint(0, w), r.randint(0, h)
        ends.append((x, y))
        if r.random() < 0.7:
            cv2.line(pixels, (x - s, y), (x + s, y), tone, 1)
            cv2.line(pixels, (x, y - s), (x, y + s), tone, 1)
        else:
            cv2.line(pixels, (x - s, y - s), (x + s, y + s), tone, 1)
            cv2.line(pixels, (x - s, y + s), (x + s, y - s), tone, 1)
    for k in range(0, 40, 2):
        a = [round(ends[0][i] + (ends[1][i] - ends[0][i]) * k / 40) for i in (0, 1)]
        if r.random() < 0.9:
            cv2.circle(pixels, (a[0], a[1]), 1, tone, -1)


def _grid(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    step = r.randint(3, 40)
    layer = pixels.copy()
    tone = _tone(r, pixels)
    layer[::step] = tone
    layer[:, ::step] = tone
    share = r.uniform(0.05, 0.3)
    x, y = r.randint(0, w // 2), r.randint(0, h // 2)
    pixels[y:, x:] = cv2.addWeighted(layer, share, pixels, 1 - share, 0)[y:, x:]


def _hairs(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    for _ in range(r.randint(3, 25)):
        cv2.polylines(
            pixels,
            [_curve(r, h, w, 60)],
            False,
            r.choice(((30, 20, 15), (70, 50, 40), (200, 190, 170))),
            1,
            cv2.LINE_AA,
        )


def _arrow(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    for _ in range(r.randint(1, 3)):
        x, y = r.randint(0, w), r.randint(0, h)
        cv2.arrowedLine(
            pixels,
            (x, y),
            (x + r.randint(-40, 40), y + r.randint(-40, 40)),
            _tone(r, pixels),
            r.randint(1, 3),
            cv2.LINE_AA,
            tipLength=r.uniform(0.2, 0.5),
        )


def _rings(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    for _ in range(r.randint(1, 4)):  # electrodes, snaps, ports, coins
        centre, size, tone = (r.randint(0, w), r.randint(0, h)), r.randint(4, 30), _tone(r, pixels)
        cv2.circle(pixels, centre, size, tone, r.choice((-1, 1, 2, 4)), cv2.LINE_AA)
        cv2.circle(pixels, centre, size // 2, _tone(r, pixels), r.choice((-1, 1, 2)), cv2.LINE_AA)


def _bar(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    high, wide = r.randint(h // 6, h // 2), r.randint(6, 22)
    x, y = r.randint(0, max(1, w - wide - 1)), r.randint(0, h - high)
    ramp = np.linspace(255, 0, high)[:, None, None]
    tint = np.array(r.choice(((1, 1, 1), (1, 0.7, 0.2), (0.3, 0.5, 1))))
    room = pixels[y : y + high, x : x + wide]
    room[:] = np.clip(np.broadcast_to(ramp * tint, room.shape), 0, 255).astype(np.uint8)


def _dots(r: Random, pixels: np.ndarray) -> None:
    h, w = pixels.shape[:2]
    x, y, step = r.randint(0, w), r.randint(0, h), r.randint(5, 30)
    for k in range(r.randint(3, 20)):
        cv2.circle(pixels, (x, y + k * step), r.choice((1, 1, 2)), _tone(r, pixels), -1)

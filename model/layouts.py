"""Where devices and people put text: one function per kind of overlay.

The layouts in :data:`TEST_ONLY` are never drawn for training or validation: a detector that has
only learnt our layouts by heart fails on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2

from model.codes import code
from model.phrases import FIELDS
from model.writing import Page

Layout = Callable[[Page], None]


def _margin(page: Page) -> int:
    return page.rng.randint(2, max(3, page.width // 40))


def corners(page: Page) -> None:
    """Blocks in two to four corners, as on CT, MR and radiographs."""
    r, p = page.rng, page.phrases
    hand, m = page.hand(high=max(8.0, min(18.0, page.height / 28))), _margin(page)
    for corner in r.sample(("lt", "rt", "lb", "rb"), r.randint(1, 4)):
        x = float(m if corner[0] == "l" else page.width - m)
        y = float(m if corner[1] == "t" else page.height - m)
        makers = (p.identity, p.technique, p.institution, p.date, p.time, p.number)
        weights = (4, 2, 1, 2, 1, 1) if corner[1] == "t" else (1, 5, 1, 1, 1, 1)
        texts = [r.choices(makers, weights)[0]() for _ in range(r.randint(1, 8))]
        page.lines(texts, x, y, hand, corner, leading=r.uniform(1.3, 2.1))
    if r.random() < 0.5:
        for x, y, anchor in (
            (m, page.height / 2, "lm"),
            (page.width - m, page.height / 2, "rm"),
            (page.width / 2, m, "mt"),
            (page.width / 2, page.height - m, "mb"),
        ):
            page.line(r.choice("RLAPHFSI"), x, y, hand, anchor)


def side_marker(page: Page) -> None:
    """A lead letter or two on a film, upright or tilted, with or without initials."""
    r = page.rng
    for _ in range(r.randint(1, 3)):
        hand = page.hand(low=9, high=max(14.0, 0.06 * page.height), script="la")
        hand = replace(hand, colour=(r.choice((255, 240, 215, 190)),) * 3, outline=0, plate=None)
        x = page.width * r.choice((r.uniform(0.02, 0.25), r.uniform(0.75, 0.98)))
        y = page.height * r.choice(
            (r.uniform(0.02, 0.3), r.uniform(0.02, 0.3), r.uniform(0.3, 0.97))
        )
        turn = r.choice((0, 0, 0, 90, -90, r.uniform(-40, 40)))
        page.line(page.phrases.marker(), x, y, hand, "mm", turn)


def header(page: Page) -> None:
    """A bar along the top or bottom with two or three columns, as ultrasound has."""
    r, p = page.rng, page.phrases
    hand = page.hand(high=max(8.0, min(20.0, page.height / 30)))
    rows = r.randint(1, 3)
    tall = round(rows * (hand.height * 1.7 + 3) + 8)
    bottom = r.random() < 0.25
    y = page.height - tall if bottom else 0
    free = not page.taken(0, y, page.width, y + tall)  # a bar must not wipe out a labelled line
    if r.random() < 0.6 and tall < page.height // 2 and free:
        tone = r.choice(
            ((0, 0, 0), (30, 30, 40), (40, 60, 100), (70, 70, 70), (225, 225, 230), (20, 40, 60))
        )
        for layer in (page.pixels, page.clean):
            layer[y : y + tall] = tone
    for x, anchor in r.sample(
        ((6, "lt"), (page.width // 2, "mt"), (page.width - 6, "rt")), r.randint(1, 3)
    ):
        texts = [r.choice((p.identity, p.identity, p.institution, p.date, p.time, p.ultrasound))()
                 for _ in range(rows)]  # fmt: skip
        page.lines(texts, x, y + 5, hand, anchor, leading=1.5)


def side_panel(page: Page) -> None:
    """Device settings in a column, often with a value column beside it."""
    r, p = page.rng, page.phrases
    hand = page.hand(high=max(8.0, min(16.0, page.height / 35)), script="la")
    right = r.random() < 0.4
    x = page.width - r.randint(4, 12) if right else r.randint(3, 12)
    y = float(r.randint(5, max(6, page.height // 3)))
    gap = hand.height * r.uniform(4, 8)
    for _ in range(r.randint(3, 14)):
        text = p.ultrasound()
        if r.random() < 0.3 and not right and " " in text:
            left, value = text.split(" ", 1)
            page.line(left, x, y, hand)
            page.line(value, x + gap, y, hand)
        else:
            page.line(text, x, y, hand, "rt" if right else "lt")
        y += hand.height * 1.6 + r.choice((2, 2, 2, 12))


def scale(page: Page) -> None:
    """Ticks with numbers along an edge."""
    r = page.rng
    hand = page.hand(high=max(7.0, min(13.0, page.height / 40)), script="la")
    tone, step = hand.colour, r.randint(round(hand.height * 2.2) + 4, max(40, page.height // 5))
    upright = r.random() < 0.7
    edge = r.choice(
        (r.randint(14, 50), (page.width if upright else page.height) - r.randint(14, 50))
    )
    for k, at in enumerate(
        range(r.randint(8, 40), (page.height if upright else page.width) - 8, step)
    ):
        a = (edge, at) if upright else (at, edge)
        b = (edge + 6, at) if upright else (at, edge + 6)
        if not page.taken(a[0] - 7, a[1] - 7, a[0] + 7, a[1] + 7):
            for layer in (page.pixels, page.clean):
                cv2.line(layer, a, b, tone, 1)
        text = str(k * r.choice((1, 1, 5)))
        if r.random() < 0.8:
            page.line(
                text,
                a[0] - 4 if upright else at,
                at if upright else edge - 3,
                hand,
                "rm" if upright else "mb",
            )


def measures(page: Page) -> None:
    """Results next to what was measured, in the picture itself."""
    r, p = page.rng, page.phrases
    hand = page.hand(high=max(9.0, page.height / 34))
    x, y = page.width * r.uniform(0.05, 0.7), page.height * r.uniform(0.2, 0.9)
    page.lines(
        [r.choice((p.ultrasound, p.technique, p.caption))() for _ in range(r.randint(1, 4))],
        x,
        y,
        hand,
    )


def chart_head(page: Page) -> None:
    """An ECG's header: identity at the left, measurements in columns, leads on the strips."""
    r, p = page.rng, page.phrases
    hand = page.hand(high=max(8.0, min(16.0, page.height / 35)))
    hand = replace(
        hand,
        colour=(0, 0, 0) if page.pixels.mean() > 110 else (230, 230, 230),
        plate=None,
        alpha=1.0,
    )
    page.lines([p.identity() for _ in range(r.randint(2, 5))], 8, 6, hand)
    x = page.width * r.uniform(0.3, 0.5)
    y = 6.0
    for _ in range(r.randint(0, 6)):
        left, _, right = p.cardiogram().rpartition(" ")
        if left and r.random() < 0.6:
            page.line(left, x, y, hand)
            page.line(right, x + hand.height * r.uniform(11, 15), y, hand)
        else:
            page.line(p.cardiogram(), x, y, hand)
        y += hand.height * 1.6 + 2
    rows = r.randint(1, 6)
    for row in range(rows):
        for column in range(r.randint(1, 4)):
            name = r.choice(
                ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
            )
            page.line(
                name, 8 + column * page.width / 4, page.height * (0.25 + 0.72 * row / rows), hand
            )
    page.line(p.cardiogram(), 8, page.height - 5, hand, "lb")


def form(page: Page) -> None:
    """A request form or report: printed names of fields, values typed or written by hand."""
    r, p = page.rng, page.phrases
    print_hand = replace(
        page.hand(high=max(9.0, min(22.0, page.height / 26))),
        colour=(r.choice((0, 20, 60)),) * 3,
        alpha=1.0,
    )
    pen = page.hand(written=True, low=9, high=max(13.0, page.height / 20))
    pen = replace(
        pen,
        colour=r.choice(((0, 0, 0), (20, 30, 130), (10, 10, 60), (150, 20, 20))),
        plate=None,
        outline=0,
    )
    y, x = float(r.randint(4, 24)), r.randint(4, 24)
    column = page.width * r.uniform(0.25, 0.45)
    while y < page.height - 12:
        kind = r.random()
        if kind < 0.45:
            page.line(r.choice(FIELDS), x, y, print_hand)
            who = r.choice((print_hand, pen))
            page.line(
                p.identity(who.script) if who.script != "la" else p.identity(),
                column,
                y,
                who,
                turn=r.uniform(-3, 3) if who is pen else 0,
            )
        elif kind < 0.75:
            page.line(
                r.choice((p.sentence, p.address, p.institution, p.caption))(), x, y, print_hand
            )
        elif kind < 0.9:
            page.line(p.sentence(), x, y, pen, turn=r.uniform(-4, 4))
        y += max(print_hand.height, pen.height) * r.uniform(1.5, 2.4) + 3


def sticker(page: Page) -> None:
    """A label stuck onto a film or a photograph: plate, name, number and often a code."""
    r, p = page.rng, page.phrases
    w, h = round(page.width * r.uniform(0.25, 0.7)), round(page.height * r.uniform(0.1, 0.35))
    w, h = max(w, 90), max(h, 36)
    if w >= page.width - 8 or h >= page.height - 8:
        return
    x, y = r.randint(2, page.width - w - 3), r.randint(2, page.height - h - 3)
    if page.taken(x, y, x + w, y + h):
        return
    tone = r.choice(
        ((255, 255, 255), (240, 240, 230), (255, 255, 190), (15, 15, 15), (225, 235, 255))
    )
    for layer in (page.pixels, page.clean):
        layer[y : y + h, x : x + w] = tone
    ink = (0, 0, 0) if sum(tone) > 300 else (245, 245, 245)
    hand = replace(
        page.hand(low=6, high=max(9.0, h / 5)), colour=ink, plate=None, outline=0, alpha=1.0
    )
    cursor = float(y + r.randint(3, 7))
    if r.random() < 0.5:
        code(page, (x + 4, y + round(h * 0.5), x + w - 4, y + h - 4))
    while cursor + hand.height * 1.4 < y + h - 3:
        page.line(p.identity(), x + 6, cursor, hand)
        cursor += hand.height * 1.6 + 2


def scattered(page: Page) -> None:
    """Anything anywhere, each line by another hand, some of it rotated."""
    r, p = page.rng, page.phrases
    for _ in range(r.randint(2, 14)):
        hand = page.hand(low=r.choice((5, 5, 8, 14)))
        text = r.choice((p.identity, p.name, p.technique, p.caption, p.ultrasound, p.marker))
        words = p.name(hand.script) if text == p.name or hand.script != "la" else text()
        turn = 0.0 if r.random() < 0.75 else r.choice((90, -90, 180, r.uniform(-25, 25)))
        page.line(
            words, page.width * r.uniform(0, 0.8), page.height * r.uniform(0, 0.97), hand, turn=turn
        )


def long_line(page: Page) -> None:
    """Lines that run from side to side, as in reports and status bars."""
    r, p = page.rng, page.phrases
    hand = page.hand(low=5.5, high=max(8.0, min(22.0, page.height / 12)))
    y = page.height * r.uniform(0.02, 0.4)
    for _ in range(r.randint(1, 6)):
        text = p.sentence()
        while len(text) * hand.height * 0.85 < page.width * r.uniform(0.5, 0.95):
            text += (
                r.choice(("  ", " ", " | ", "   "))
                + r.choice((p.sentence, p.technique, p.identity))()
            )
        for cut in range(len(text), 3, -3):
            if page.line(text[:cut].rstrip(), r.uniform(1, 12), y, hand) is not None:
                break
        y += hand.height * r.uniform(1.7, 3.5) + 2


def wide_tracking(page: Page) -> None:
    """One or two words alone, large or small, somewhere on an even ground."""
    r, p = page.rng, page.phrases
    for _ in range(r.randint(1, 3)):
        hand = page.hand(low=8, high=max(16.0, page.height / 12))
        page.line(r.choice((p.marker, p.name, p.date, p.number))(), page.width * r.uniform(0, 0.7),
                  page.height * r.uniform(0, 0.9), hand)  # fmt: skip


def letters(page: Page) -> None:
    """Single letters and digits: in a row, in a column or strewn, as marks of sides and scales."""
    r = page.rng
    hand = page.hand(low=6, high=max(11.0, min(26.0, page.height / 22)), script="la")
    x, y = page.width * r.uniform(0.03, 0.9), page.height * r.uniform(0.05, 0.85)
    gap = hand.height * r.uniform(1.6, 6)
    way = r.choice(((0.0, 1.0), (1.0, 0.0), None))
    for k in range(r.randint(2, 12)):
        text = r.choice((str(k), str(k + 1), r.choice("0123456789"), r.choice("ABCDEFHILMPRSTVX")))
        page.line(text, x, y, hand)
        if way is None:
            x, y = page.width * r.uniform(0, 0.97), page.height * r.uniform(0, 0.96)
        else:
            x, y = x + way[0] * gap, y + way[1] * gap


def leads(page: Page) -> None:
    """Names of ECG leads among the traces, in ink of the chart or in colour."""
    r = page.rng
    hand = page.hand(low=7, high=max(10.0, min(20.0, page.height / 24)), script="la")
    dark = page.pixels.mean() > 110
    inks = ((0, 0, 0), (40, 40, 40), (150, 20, 20)) if dark else ((255, 255, 255), (90, 220, 140))
    hand = replace(hand, colour=r.choice(inks), plate=None, alpha=1.0)
    names = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    if r.random() < 0.3:
        names = [name.upper() for name in names]
    rows, columns = r.choice(((12, 1), (6, 2), (3, 4), (4, 4)))
    for k in range(rows * columns):
        row, column = k % rows, k // rows
        x = page.width * (0.01 + column / columns) + r.uniform(0, 12)
        page.line(names[k % 12], x, page.height * (0.06 + 0.9 * row / rows), hand)
    page.line(
        page.phrases.cardiogram(), page.width * r.uniform(0.01, 0.6), page.height - 4, hand, "lb"
    )


def scope_panel(page: Page) -> None:
    """An endoscope's column at the left: field names, values, comments."""
    r, p = page.rng, page.phrases
    hand = page.hand(high=max(9.0, min(18.0, page.height / 30)))
    hand = replace(
        hand,
        colour=r.choice(((255, 255, 255), (255, 255, 0), (120, 255, 120), (255, 180, 80))),
        plate=None,
    )
    y = float(r.randint(4, max(5, page.height // 5)))
    while y < page.height * 0.95:
        page.line(
            r.choice((p.scope, p.scope, p.identity, p.date, p.time))(), r.choice((5, 5, 9)), y, hand
        )
        y += hand.height * 1.6 + r.choice((2, 2, 2, 30))


# ---- kept for the test split ---------------------------------------------------------------------


def topogram(page: Page) -> None:
    """Numbered lines across a scout view, and a block of scan parameters at the bottom centre."""
    r, p = page.rng, page.phrases
    hand = page.hand(high=max(8.0, min(13.0, page.height / 40)), script="la")
    for k in range(r.randint(3, 9)):
        row = round(page.height * (0.15 + 0.07 * k))
        for layer in (page.pixels, page.clean):
            cv2.line(layer, (page.width // 5, row), (page.width * 4 // 5, row), hand.colour, 1)
        page.line(str(k + 1), page.width * 0.82, row, hand, "lm")
    y = page.height * 0.85
    for _ in range(r.randint(2, 5)):
        page.line(r.choice((p.technique, p.identity))(), page.width / 2, y, hand, "mt")
        y += hand.height * 1.7 + 2


def film_flash(page: Page) -> None:
    """The flash of an old film cassette: a tilted or upside-down identity block in a corner."""
    r, p = page.rng, page.phrases
    hand = replace(page.hand(low=6, high=max(9.0, page.height / 40)), outline=0, plate=None)
    turn = r.choice((0, 180, 90, r.uniform(-4, 4)))
    x, y = page.width * r.choice((0.03, 0.65)), page.height * r.choice((0.03, 0.85))
    for _ in range(r.randint(2, 5)):
        page.line(p.identity(), x, y, hand, turn=turn)
        x, y = (x + hand.height * 1.8, y) if turn == 90 else (x, y + hand.height * 1.8)


def two_columns(page: Page) -> None:
    """A review station: identity at the upper right, right-aligned, settings under it."""
    r, p = page.rng, page.phrases
    hand = page.hand(high=max(8.0, min(16.0, page.height / 36)))
    texts = [p.identity() for _ in range(r.randint(3, 6))] + [
        p.technique() for _ in range(r.randint(2, 7))
    ]
    page.lines(texts, page.width - 5, 5, hand, "rt")
    page.lines(
        [p.cardiogram() if r.random() < 0.3 else p.ultrasound() for _ in range(r.randint(2, 6))],
        5,
        page.height - 5,
        hand,
        "lb",
    )


TEST_ONLY: tuple[Layout, ...] = (topogram, film_flash, two_columns)
BY_KIND: dict[str, tuple[Layout, ...]] = {
    "chest": (corners, side_marker, side_marker, sticker, scattered, wide_tracking),
    "film": (corners, side_marker, side_marker, sticker, scattered, wide_tracking),
    "breast": (corners, side_marker, letters, wide_tracking),
    "slice": (corners, corners, scale, letters, measures, long_line),
    "ultrasound": (header, side_panel, side_panel, scale, letters, measures, corners),
    "endoscopy": (scope_panel, scope_panel, corners, header),
    "ecg": (chart_head, chart_head, leads, leads, corners, scattered, long_line),
    "photo": (sticker, scattered, wide_tracking, scale, letters),
    "paper": (form, form, long_line, sticker, scattered),
    "screen": (long_line, corners, form, side_panel, header, scattered),
}


def overlay(page: Page, kind: str) -> None:
    """Write what such a picture usually carries."""
    r = page.rng
    if page.split == "test":
        r.choice(TEST_ONLY)(page)
        if r.random() < 0.4 and kind != "paper":
            side_marker(page)
        return
    for layout in dict.fromkeys(r.choices(BY_KIND[kind], k=r.choice((1, 1, 2, 3)))):
        layout(page)

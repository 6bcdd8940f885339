"""Ink: fonts, invented phrases and lines of text drawn onto a page, each with its exact box.

Every line is one box around its ink. A line that would touch an earlier one, or would not
be visible, is not drawn at all, so that no text on a page is without a box.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from random import Random

import cv2
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from model.phrases import LOCALES, Phrases

SPLITS = ("train", "val", "test")
# Debian packages with the fonts that scanners, printers and people's hands use.
FONT_PACKAGES = [
    "fonts-3270",
    "fonts-adf-baskervald",
    "fonts-adf-switzera",
    "fonts-adf-verana",
    "fonts-anonymous-pro",
    "fonts-b612",
    "fonts-breip",
    "fonts-cabin",
    "fonts-cantarell",
    "fonts-cegui",
    "fonts-clear-sans",
    "fonts-comic-neue",
    "fonts-courier-prime",
    "fonts-croscore",
    "fonts-crosextra-carlito",
    "fonts-dancingscript",
    "fonts-dejavu-core",
    "fonts-dejavu-extra",
    "fonts-dkg-handwriting",
    "fonts-dosis",
    "fonts-dseg",
    "fonts-dustin",
    "fonts-ecolier-court",
    "fonts-firacode",
    "fonts-freefont-ttf",
    "fonts-georgewilliams",
    "fonts-glasstty",
    "fonts-gnutypewriter",
    "fonts-go",
    "fonts-hack-ttf",
    "fonts-hosny-amiri",
    "fonts-humor-sans",
    "fonts-inconsolata",
    "fonts-jetbrains-mono",
    "fonts-junction",
    "fonts-jura",
    "fonts-karla",
    "fonts-kaushanscript",
    "fonts-kiloji",
    "fonts-kristi",
    "fonts-lato",
    "fonts-league-mono",
    "fonts-levien-typoscript",
    "fonts-liberation",
    "fonts-lohit-deva",
    "fonts-millimetre",
    "fonts-misaki",
    "fonts-monofur",
    "fonts-mononoki",
    "fonts-noto-cjk",
    "fonts-noto-core",
    "fonts-noto-mono",
    "fonts-ocr-a",
    "fonts-ocr-b",
    "fonts-open-sans",
    "fonts-opendin",
    "fonts-osifont",
    "fonts-oxygen",
    "fonts-pc",
    "fonts-pc-extra",
    "fonts-play",
    "fonts-proggy",
    "fonts-quicksand",
    "fonts-ricty-diminished",
    "fonts-roadgeek",
    "fonts-roboto-hinted",
    "fonts-routed-gothic",
    "fonts-rufscript",
    "fonts-spleen",
    "fonts-staypuft",
    "fonts-takao-gothic",
    "fonts-terminus-otb",
    "fonts-thai-tlwg-ttf",
    "fonts-tiresias",
    "fonts-tuffy",
    "fonts-unfonts-core",
    "fonts-unifont",
    "fonts-urw-base35",
    "fonts-vlgothic",
    "fonts-wqy-zenhei",
    "fonts-yanone-kaffeesatz",
]
HAND = ("DkgHandwriting", "Breip", "Dancing", "Kristi", "Ecolier", "Humor", "Comic", "Staypuft",
        "Rufscript", "Kaushan", "GeorgeWilliams")  # fmt: skip


def split_of(key: str) -> str:
    """Which split a patient, source folder or font family belongs to, for ever: by its SHA-256."""
    share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


@lru_cache(maxsize=1)
def installed_fonts() -> dict[str, dict[str, list[str]]]:
    """Font files by script and family. All Noto Sans cuts count as one family, and so on.

    Raises:
        SystemExit: There are next to no fonts; says which packages to install.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for script in LOCALES:
        lang = "en" if script == "la" else script
        command = ["fc-list", f":lang={lang}", "--format=%{file}|%{family[0]}\n"]
        try:
            rows = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        except FileNotFoundError:
            raise SystemExit("Install fontconfig: fc-list lists the fonts to draw with.") from None
        for row in sorted(set(rows.stdout.splitlines())):
            file, family = row.split("|", 1)
            if not file.lower().endswith((".ttf", ".otf", ".otb", ".ttc")):
                continue
            if any(word in family for word in ("Symbol", "Emoji", "Dingbat", "Icon", "Math")):
                continue
            if script != "la" and "Unifont" in family:
                continue
            words = family.split()
            key = " ".join(words[:2]) if words[0] in ("Noto", "DejaVu", "Nimbus") else words[0]
            found.setdefault(script, {}).setdefault(key, []).append(file)
    if len(found.get("la", {})) < 5:
        raise SystemExit(
            "There are no fonts to draw with. Install them: apt-get install -y "
            + " ".join(FONT_PACKAGES)
        )
    return found


@lru_cache(maxsize=600)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont | None:
    for actual in (size, 16, 12, 24, 32, 8):  # bitmap fonts exist in a few sizes only
        try:
            return ImageFont.truetype(file, actual)
        except OSError:
            continue
    return None


@cache
def _letters(file: str) -> frozenset[int]:
    """Code points that a font can draw."""
    with TTFont(file, fontNumber=0, lazy=True) as font:
        return frozenset(font.getBestCmap() or ())


@dataclass(frozen=True)
class Hand:
    """How one device or person writes: one font, one size, one colour, with its habits."""

    file: str
    script: str
    height: float  # of a capital letter, px
    colour: tuple[int, int, int]
    crisp: bool = False  # no antialiasing
    outline: int = 0  # px
    shadow: bool = False
    plate: tuple[int, int, int] | None = None  # colour of a box behind the text
    alpha: float = 1.0


@dataclass
class Page:
    """A picture that is being written on.

    Args:
        pixels: Shape (H, W, 3), uint8, RGB; drawn on in place.
        clean: The same without text, for repairs at crop borders.
        boxes: ``(label, x1, y1, x2, y2)`` in px, half open.
        patient: Those of them that name a patient.
    """

    pixels: np.ndarray
    rng: Random
    phrases: Phrases
    split: str
    clean: np.ndarray = field(init=False)
    boxes: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    patient: set[tuple[str, int, int, int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.clean = self.pixels.copy()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    def hand(self, written: bool = False, script: str | None = None, low: float = 5.0,
             high: float | None = None) -> Hand:  # fmt: skip
        """A random hand out of this split's own fonts.

        Args:
            written: Handwriting-like fonts only.
            low, high: Limits of the capital height in px; high is 5 % of the page by default.
        """
        r = self.rng
        fonts = installed_fonts()
        if script is None:
            script = "la" if r.random() < 0.82 else r.choice([s for s in fonts if s != "la"])
        families = [f for f in fonts.get(script, {}) if split_of(f) == self.split]
        if written and script == "la":
            families = [f for f in families if f in HAND or f.split()[0] in HAND] or families
        if not families:  # a rare script may have no font in this split
            script, families = "la", [f for f in fonts["la"] if split_of(f) == self.split]
        file = r.choice(fonts[script][r.choice(families)])
        high = max(low + 2.0, high if high is not None else 0.05 * self.height)
        height = low + (high - low) * r.random() ** 2.2
        if script not in ("la", "ru", "el"):
            height = max(height, 8.0)
        grey = r.choice((255, 255, 240, 230, 200, 180, 150, 128, 100, 60, 20, 0, 0))
        colour = (grey, grey, grey)
        if r.random() < 0.25:
            colour = r.choice(
                (
                    (255, 255, 0),
                    (0, 255, 0),
                    (255, 200, 60),
                    (0, 255, 255),
                    (120, 200, 255),
                    (255, 60, 60),
                    (255, 140, 0),
                    (200, 0, 0),
                    (0, 0, 180),
                    (255, 0, 255),
                    (40, 80, 160),
                    (90, 220, 140),
                )
            )
        style = r.random()
        return Hand(
            file,
            script,
            height,
            colour,
            crisp=r.random() < 0.25,
            outline=(1 if height < 20 else 2) if style < 0.12 else 0,
            shadow=0.12 < style < 0.2,
            plate=self._plate(colour) if 0.2 < style < 0.32 else None,
            alpha=r.choice((1.0, 1.0, 1.0, 0.85, 0.65)),
        )

    def _plate(self, colour: tuple[int, int, int]) -> tuple[int, int, int]:
        dark = sum(colour) > 380
        low, high = (0, 70) if dark else (190, 255)
        grey = self.rng.randint(low, high)
        return (grey, grey, min(255, grey + self.rng.choice((0, 0, 40, 80))))

    def line(self, text: str, x: float, y: float, hand: Hand, anchor: str = "lt",
             turn: float = 0.0) -> tuple[int, int, int, int] | None:  # fmt: skip
        """Write one line.

        Args:
            x, y: Anchor point in px.
            anchor: Horizontal ``l``, ``m`` or ``r`` and vertical ``t``, ``m`` or ``b``.
            turn: Degrees counter-clockwise.

        Returns:
            The box of the ink (with its plate's text only), or None where it was not drawn.
        """
        if not _letters(hand.file).issuperset(map(ord, "".join(text.split()))):
            return None  # empty boxes would be drawn instead, which are no text
        cover = _ink(text, hand)
        if cover is None:
            return None
        ink, around = cover
        if turn:
            ink, around = (_turned(a, turn) for a in (ink, around))
        rows, columns = np.flatnonzero(around.any(1)), np.flatnonzero(around.any(0))
        if not len(rows):
            return None
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        ink, around = ink[window], around[window]
        h, w = ink.shape
        x1 = round(x - {"l": 0, "m": w / 2, "r": w}[anchor[0]])
        y1 = round(y - {"t": 0, "m": h / 2, "b": h}[anchor[1]])
        if x1 < 0 or y1 < 0 or x1 + w > self.width or y1 + h > self.height or h < 4 or w < 3:
            return None
        if self.taken(x1 - 2, y1 - 1, x1 + w + 2, y1 + h + 1):
            return None
        self._blend(ink, around, x1, y1, hand)
        self.boxes.append(("text", x1, y1, x1 + w, y1 + h))
        if text in self.phrases.identities:
            self.patient.add(self.boxes[-1])
        return (x1, y1, x1 + w, y1 + h)

    def taken(self, x1: int, y1: int, x2: int, y2: int) -> bool:
        """Whether a label is there already; the thorax may be written on."""
        return any(
            x1 < b[3] and b[1] < x2 and y1 < b[4] and b[2] < y2
            for b in self.boxes
            if b[0] != "thorax"
        )

    def _blend(self, ink: np.ndarray, around: np.ndarray, x1: int, y1: int, hand: Hand) -> None:
        h, w = ink.shape
        spot = (slice(y1, y1 + h), slice(x1, x1 + w))
        colour = np.array(hand.colour, np.float32)
        if hand.plate is not None:
            m = max(2, round(hand.height * self.rng.uniform(0.15, 0.6)))
            wide = (slice(max(0, y1 - m), y1 + h + m), slice(max(0, x1 - m), x1 + w + m))
            if not self.taken(x1 - m, y1 - m, x1 + w + m, y1 + h + m):
                self.pixels[wide] = hand.plate
                self.clean[wide] = hand.plate
        patch = self.pixels[spot].astype(np.float32)
        under = patch[ink > 60] if (ink > 60).any() else patch.reshape(-1, 3)
        if not hand.outline and not hand.shadow:
            level = under.mean()
            # Faint is allowed, invisible is not: text nobody can see must not be a label.
            need = max(self.rng.choice((22.0, 40.0, 60.0)), 1.6 * float(under.std()))
            if np.abs(under.mean(0) - colour).max() * hand.alpha < need:
                grey = level + need if level + need <= 255 and (level < 128) else level - need
                if not 0 <= grey <= 255:
                    grey = 255 if level < 128 else 0
                colour = np.full(3, grey, np.float32)
        if hand.outline or hand.shadow:
            dark = 0.0 if colour.mean() > 110 else 255.0
            a = (around.astype(np.float32) / 255.0 * hand.alpha)[..., None]
            patch = patch * (1 - a) + dark * a
        a = (ink.astype(np.float32) / 255.0 * hand.alpha)[..., None]
        self.pixels[spot] = np.clip(patch * (1 - a) + colour * a, 0, 255).astype(np.uint8)

    def lines(self, texts: Sequence[str], x: float, y: float, hand: Hand, anchor: str = "lt",
              leading: float = 1.6) -> float:  # fmt: skip
        """Write lines under each other (upwards if anchored at the bottom); returns the last y."""
        step = hand.height * leading + 2
        for text in texts[::-1] if anchor[1] == "b" else texts:
            self.line(text, x, y, hand, anchor)
            y += -step if anchor[1] == "b" else step
        return y


def _ink(text: str, hand: Hand) -> tuple[np.ndarray, np.ndarray] | None:
    """Coverage of the letters alone, and of letters with outline or shadow: (H, W) uint8 each."""
    font = _font(hand.file, max(6, round(hand.height / 0.72)))
    if font is None or not text.strip():
        return None
    try:
        left, top, right, bottom = font.getbbox(text, stroke_width=hand.outline)
        w, h = int(right - left) + 8, int(bottom - top) + 8
        if w > 4000 or h > 600:
            return None
        layers = []
        for stroke in (0, hand.outline):
            layer = Image.new("L", (w, h))
            draw = ImageDraw.Draw(layer)
            draw.fontmode = "1" if hand.crisp else "L"
            draw.text((4 - left, 4 - top), text, fill=255, font=font, stroke_width=stroke)
            layers.append(np.asarray(layer).copy())
    except OSError:  # a bitmap font that cannot be outlined, or lacks a table
        return None
    ink, around = layers
    if hand.shadow:
        around = np.maximum(around, np.roll(ink, (1, 1), (0, 1)))
    ink[ink < 24] = 0
    around[around < 24] = 0
    return ink, around


def _turned(cover: np.ndarray, degrees: float) -> np.ndarray:
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(cover, round(degrees / 90)))
    h, w = cover.shape
    m = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1.0)
    cos, sin = abs(m[0, 0]), abs(m[0, 1])
    W, H = int(h * sin + w * cos) + 2, int(h * cos + w * sin) + 2  # noqa: N806
    m[:, 2] += (W / 2 - w / 2, H / 2 - h / 2)
    turned = cv2.warpAffine(cover, m, (W, H), flags=cv2.INTER_LINEAR)
    turned[turned < 24] = 0
    return turned

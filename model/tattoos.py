"""A YOLO data set of tattoos, drawn: designs and lettering inked into real and invented skin.

    npm pack @iconify-json/tabler @iconify-json/noto ...        # each unpacked into a folder
    python -m model.tattoos --images DIR/images --designs ICONS --out runs/tattoos
    python -m model.train --data runs/tattoos/data.yaml --name tattoo --hours 1
    python -m model.tattoos --run runs/tattoo/weights/last.pt   # checks and writes tattoo.onnx

No photograph of a tattoo whose licence allows training could be had, so all ink is drawn: shapes
of icon sets (filled, as outlines, in colours), bands, radial patterns, blades and lettering, bent
and blended into skin. Skin is real (dermoscopy, portraits) or invented, whole or as a limb before
something else. What has no ink is learnt as well: lesions, hairs, lettering that a device wrote
over a picture, and every other kind of medical picture. Splits share no patient and no design.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.detect.yolo import TATTOO
from model.backgrounds import read_picture
from model.data import SIDE, Label, write_config, yolo_rows
from model.invented import INVENTED, clouds, skin
from model.layouts import overlay
from model.phrases import Phrases
from model.verifier_data import Labelled, labelled
from model.writing import Page, installed_fonts, split_of

CLASS = "tattoo"
DESIGN_PX = 256
LEAST_PX = 14  # of ink in a finished picture, in either direction
SKIN = ("XC", "photo")  # modalities that show skin
INKS = (
    (28, 28, 32), (40, 44, 58), (52, 62, 78), (58, 74, 66), (84, 88, 96), (140, 48, 50),
    (104, 44, 66), (60, 70, 130), (70, 110, 80),
)  # fmt: skip
TONES = (
    (238, 205, 180),
    (225, 180, 155),
    (200, 150, 120),
    (165, 115, 85),
    (125, 85, 62),
    (86, 58, 44),
)
WORDS = (
    "Forever", "Hope", "Mama", "Carpe Diem", "Love", "Faith", "Believe", "Amor", "Maria", "Liam",
    "Sofia", "Noah", "Familia", "Freedom", "Never", "Breathe", "Luca", "Emma", "Vita",
)  # fmt: skip


@dataclass(frozen=True)
class Designs:
    """Icon sets: folders with ``icons.json`` of Iconify.

    Args:
        folder: Holds one folder a set.
    """

    folder: Path

    def of(self, split: str) -> list[tuple[str, str]]:
        """Set and name of each design of a split."""
        return _listed(self.folder, split)

    def ink(self, r: Random, split: str) -> np.ndarray:
        """A design: shape (DESIGN_PX, DESIGN_PX, 4), uint8, RGBA."""
        from resvg_py import svg_to_bytes

        every = self.of(split)
        chosen_set = r.choice(sorted({name for name, _ in every}))
        _, icon = r.choice([pair for pair in every if pair[0] == chosen_set])
        data = _icons(self.folder / chosen_set)
        entry = data["icons"][icon]
        w, h = (entry.get(k, data.get(k, 16)) for k in ("width", "height"))
        colour = "#{:02x}{:02x}{:02x}".format(*r.choice(INKS))
        body = entry["body"].replace("currentColor", colour)
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            f' viewBox="0 0 {w} {h}" width="{DESIGN_PX}" height="{DESIGN_PX}">{body}</svg>'
        )
        png = bytes(svg_to_bytes(svg_string=svg, skip_system_fonts=True))
        return np.array(Image.open(io.BytesIO(png)).convert("RGBA"))


@cache
def _icons(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    return found


@cache
def _listed(folder: Path, split: str) -> list[tuple[str, str]]:
    found = [
        (place.parent.name, name)
        for place in sorted(folder.glob("*/icons.json"))
        for name in _icons(place.parent)["icons"]
        if split_of(f"design {name}") == split
    ]
    if not found:
        raise SystemExit(f"There are no designs of the split {split} in {folder}.")
    return found


def lettering(r: Random, split: str) -> np.ndarray:
    """A word, a date or a number in Roman letters, as :meth:`Designs.ink` gives a design."""
    fonts = installed_fonts()["la"]
    families = [f for f in fonts if split_of(f) == split] or list(fonts)
    kind = r.random()
    if kind < 0.55:
        text = r.choice(WORDS)
    elif kind < 0.85:
        day, month = (f"{r.randint(1, most):02}" for most in (28, 12))
        text = r.choice(".-· ").join((day, month, str(r.randint(1950, 2022))))
    else:
        text = r.choice(("XXIII · VII", "MCMXC", "IV.XII.MMV", "XIII", "VI · II · XCI"))
    font = ImageFont.truetype(r.choice(fonts[r.choice(families)]), 96)
    left, top, right, bottom = font.getbbox(text)
    page = Image.new("RGBA", (max(8, round(right - left)) + 16, max(8, round(bottom - top)) + 16))
    ImageDraw.Draw(page).text((8 - left, 8 - top), text, font=font, fill=(*r.choice(INKS), 255))
    return np.array(page)


def pattern(r: Random) -> np.ndarray:
    """A band, a radial pattern or blades, as :meth:`Designs.ink` gives a design."""
    side = DESIGN_PX
    mask = np.zeros((side, side), np.uint8)
    kind, thick = r.choice(("band", "radial", "blades")), r.randint(2, 7)
    if kind == "band":
        high, step = r.randint(24, 90), r.randint(14, 40)
        y = side // 2
        for x in range(0, side, step):
            points = [(x, y - high // 2), (x + step // 2, y + high // 2), (x + step, y - high // 2)]
            cv2.polylines(mask, [np.array(points)], r.random() < 0.3, 255, thick, cv2.LINE_AA)
        for edge in (y - high // 2 - 6, y + high // 2 + 6):
            cv2.line(mask, (0, edge), (side, edge), 255, thick)
    elif kind == "radial":
        arms, centre = r.randint(5, 14), side / 2
        rings = [(r.uniform(0.1, 0.48) * side, r.uniform(0.02, 0.1) * side) for _ in range(3)]
        for k in range(arms):
            a = 2 * math.pi * k / arms
            for far, wide in rings:
                at = (round(centre + far * math.cos(a)), round(centre + far * math.sin(a)))
                axes = (max(2, round(wide * 1.8)), max(1, round(wide)))
                cv2.ellipse(
                    mask, at, axes, math.degrees(a), 0, 360, 255, thick // 2 + 1, cv2.LINE_AA
                )
        cv2.circle(mask, (side // 2, side // 2), round(rings[0][0]), 255, thick, cv2.LINE_AA)
    else:
        for _ in range(r.randint(2, 6)):
            start, end, bend = (
                np.array([r.uniform(0.1, 0.9), r.uniform(0.1, 0.9)]) * side for _ in range(3)
            )
            t = np.linspace(0, 1, 40)[:, None]
            path = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
            along = np.gradient(path, axis=0)
            across = along[:, ::-1] * (1, -1) / (np.linalg.norm(along, axis=1)[:, None] + 1e-6)
            half = across * r.uniform(4, 22) * np.sin(math.pi * t)
            outline = np.vstack([path + half, (path - half)[::-1]])
            cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 255, cv2.LINE_AA)
    colour = np.full((side, side, 3), r.choice(INKS), np.uint8)
    return np.dstack([colour, mask])


def design(r: Random, split: str, designs: Designs) -> np.ndarray:
    """Any ink, as :meth:`Designs.ink` gives a design."""
    kind = r.random()
    if kind < 0.2:
        return lettering(r, split)
    drawn = pattern(r) if kind < 0.32 else designs.ink(r, split)
    if r.random() < 0.3:  # only its outlines
        thick = np.ones((r.randint(2, 6),) * 2, np.uint8)
        drawn[..., 3] = cv2.morphologyEx(drawn[..., 3], cv2.MORPH_GRADIENT, thick)
    if r.random() < 0.7:  # one ink
        drawn[..., :3] = r.choice(INKS)
    return drawn


def inked(
    r: Random, picture: np.ndarray, drawn: np.ndarray, on: np.ndarray
) -> tuple[int, int, int, int] | None:
    """Blend a design into skin, somewhere.

    Args:
        picture: Shape (H, W, 3), uint8, RGB; changed in place.
        on: Where there is skin: shape (H, W), bool.

    Returns:
        The box of its ink, half open; None where no place was found.
    """
    height, width = picture.shape[:2]
    ys, xs = np.nonzero(on)
    if not len(ys):
        return None
    side = max(width, height) * min(0.9, 0.08 + 0.7 * r.random() ** 1.3)
    h, w = drawn.shape[:2]
    scale, turn = side / max(h, w), math.radians(r.choice((0, 0, 90, 180)) + r.gauss(0, 18))
    k = r.randrange(len(ys))
    corners = np.array([(-w, -h), (w, -h), (w, h), (-w, h)], np.float32) / 2 * scale
    corners *= 1 + np.array([[r.uniform(-0.14, 0.14) for _ in range(2)] for _ in range(4)])
    rotation = np.array(((math.cos(turn), -math.sin(turn)), (math.sin(turn), math.cos(turn))))
    target = (corners @ rotation.T + (xs[k], ys[k])).astype(np.float32)
    source = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    # Colours spread beyond the ink, or its edge would mix with what is under it.
    warped = cv2.warpPerspective(drawn, matrix, (width, height), flags=cv2.INTER_AREA)
    if r.random() < 0.5:
        warped = _bent(r, warped)
    warped = cv2.GaussianBlur(warped, (0, 0), r.uniform(0.3, 0.004 * side + 0.6))
    cover = warped[..., 3:].astype(np.float32) / 255 * on[..., None]
    shown = np.argwhere(cover[..., 0] > 0.25)
    if len(shown) < 30:
        return None
    (y1, x1), (y2, x2) = shown.min(axis=0), shown.max(axis=0) + 1
    if min(y2 - y1, x2 - x1) < LEAST_PX // 2 or max(y2 - y1, x2 - x1) < LEAST_PX:
        return None
    if (drawn[..., 3] > 128).sum() * scale * scale * 0.3 > len(shown):  # mostly not on skin
        return None
    g = np.random.default_rng(r.getrandbits(64))
    strength = r.uniform(0.45, 0.97) * (0.7 + 0.3 * clouds(g, height, width, (2, 6, 20))[..., None])
    if r.random() < 0.25:  # shaded to one side
        ramp = np.linspace(r.uniform(0.2, 0.6), 1, max(2, int(x2 - x1)), dtype=np.float32)
        strength[:, x1:x2] *= (ramp if r.random() < 0.5 else ramp[::-1])[None, :, None]
    under = picture.astype(np.float32)
    ink = warped[..., :3].astype(np.float32)
    tinted = 0.72 * ink + 0.28 * ink * under / 160  # skin shines through
    cover = cover * strength
    picture[:] = np.clip(under * (1 - cover) + tinted * cover, 0, 255).astype(np.uint8)
    return int(x1), int(y1), int(x2), int(y2)


def _bent(r: Random, drawn: np.ndarray) -> np.ndarray:
    """As round a limb, or pulled by a fold."""
    h, w = drawn.shape[:2]
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    size = r.uniform(0.004, 0.02) * max(h, w)
    length = r.uniform(0.3, 1.2) * max(h, w)
    shift = (size * np.sin(2 * np.pi * y / length + r.uniform(0, 6))).astype(np.float32)
    lift = (size * np.sin(2 * np.pi * x / length + r.uniform(0, 6))).astype(np.float32)
    return np.asarray(cv2.remap(drawn, x + shift, y + lift, cv2.INTER_LINEAR))


def reals(images: Path) -> list[Labelled]:
    """Pictures of a folder in which tattoos are labelled, and there is none."""
    return [picture for picture in labelled([images], CLASS) if picture.boxes == []]


def _square(r: Random, pixels: np.ndarray) -> np.ndarray:
    """A square of a picture, at the side of training."""
    h, w = pixels.shape[:2]
    side = round(min(h, w) * r.uniform(0.35, 1.0))
    y, x = r.randint(0, h - side), r.randint(0, w - side)
    part = cv2.resize(
        pixels[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA
    )
    part = np.rot90(part, r.randrange(4)) if r.random() < 0.5 else part
    return np.ascontiguousarray(part[:, ::-1] if r.random() < 0.5 else part)


def _toned(r: Random, pixels: np.ndarray) -> np.ndarray:
    """The same skin in another tone and light."""
    shown = pixels.astype(np.float32)
    if r.random() < 0.6:
        mean = shown.reshape(-1, 3).mean(axis=0)
        shown *= (np.array(r.choice(TONES)) / np.maximum(mean, 20)) ** r.uniform(0.3, 1)
    return np.clip(shown * r.uniform(0.75, 1.15), 0, 255).astype(np.uint8)


def _limb(r: Random, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An arm or a leg of invented skin before something else, and where it is."""
    g = np.random.default_rng(r.getrandbits(64))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    spots = [(r.randint(-60, SIDE + 60), r.choice((-60, SIDE + 60)))]
    spots += [
        (r.randint(60, SIDE - 60), r.randint(60, SIDE - 60)),
        (r.randint(-60, SIDE + 60),) * 2,
    ]
    wide = r.randint(90, 190)
    cv2.polylines(mask, [np.array(spots)], False, 255, wide, cv2.LINE_AA)
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3) / (wide / 2)
    shade = (0.45 + 0.6 * np.sqrt(np.clip(depth, 0, 1)))[..., None]
    tone = np.array(r.choice(TONES), np.float32)
    texture = 0.85 + 0.25 * clouds(g, SIDE, SIDE, (3, 9, 40, 100))[..., None]
    flesh = np.clip(tone * texture * shade + g.standard_normal((SIDE, SIDE, 1)) * 3, 0, 255)
    soft = cv2.GaussianBlur(mask, (0, 0), 1)[..., None] / 255
    shown = (ground * (1 - soft) + flesh * soft).astype(np.uint8)
    return shown, depth > 0.12


def sample(
    r: Random, split: str, pictures: list[Labelled], designs: Designs
) -> tuple[np.ndarray, list[Label]]:
    """One picture of SIDE x SIDE px, RGB, with its boxes."""
    mine = [p for p in pictures if split_of(p.source) == split]
    close = [p for p in mine if p.modality == "XC"]
    other = [p for p in mine if p.modality not in SKIN]

    def real(some: list[Labelled]) -> np.ndarray:
        return read_picture(r.choice(some).path)[..., ::-1]

    kind, g = r.random(), np.random.default_rng(r.getrandbits(64))
    on = np.ones((SIDE, SIDE), bool)
    if kind < 0.4 and close:
        shown = _toned(r, _square(r, real(close)))
    elif kind < 0.6:
        ground = _square(r, real(mine)) if r.random() < 0.6 else _invented(r, g)
        shown, on = _limb(r, ground)
    elif kind < 0.8:
        shown = skin(r, g, SIDE, SIDE)
        red, _, blue = shown.reshape(-1, 3).mean(axis=0)
        if red > blue:
            shown = _toned(r, shown)
        else:  # cloth or a table: a print on it is no tattoo
            on = np.zeros_like(on)
    else:
        portraits = [p for p in mine if p.modality == "photo"]
        some = portraits if portraits and r.random() < 0.3 else other
        shown, on = _square(r, real(some)) if some else _invented(r, g), np.zeros_like(on)
    shown = np.ascontiguousarray(shown)
    boxes: list[Label] = []
    if on.any() and r.random() < 0.68:
        for _ in range(r.choice((1, 1, 1, 1, 2, 3))):
            before = shown.copy()
            box = inked(r, shown, design(r, split, designs), on)
            if box is None or any(_touch(box, b[1:]) for b in boxes):
                shown = before
            else:
                boxes.append((CLASS, *box))
    if r.random() < 0.15:  # what a device writes over a picture is no tattoo
        page = Page(shown, r, Phrases(r), split)
        page.boxes += boxes
        overlay(page, "photo")
        shown = page.pixels
    if on.any() and r.random() < 0.35:
        _hairs(r, shown)
    return _worse(r, g, shown), boxes


def _invented(r: Random, g: np.random.Generator) -> np.ndarray:
    return INVENTED[r.choice(sorted(set(INVENTED) - {"photo"}))](r, g, SIDE, SIDE)


def _touch(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _hairs(r: Random, picture: np.ndarray) -> None:
    shade = r.choice(((40, 28, 22), (80, 60, 45), (150, 120, 90), (20, 18, 18)))
    for _ in range(r.randint(2, 25)):
        x, y, a, n = r.uniform(0, SIDE), r.uniform(0, SIDE), r.uniform(0, 6.3), r.randint(15, 110)
        turns = np.cumsum([r.gauss(0, 0.05) for _ in range(n)]) + a
        path = np.stack([x + np.cumsum(np.cos(turns)), y + np.cumsum(np.sin(turns))], axis=1)
        cv2.polylines(picture, [np.round(path).astype(np.int32)], False, shade, 1, cv2.LINE_AA)


def _worse(r: Random, g: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Blur, noise, glare and JPEG, as a camera adds them."""
    if r.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), r.uniform(0.4, 1.6)).astype(np.uint8)
    if r.random() < 0.4:
        noise = g.standard_normal(picture.shape, np.float32) * r.uniform(1, 7)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if r.random() < 0.15:
        spot = np.zeros(picture.shape[:2], np.float32)
        at = (r.randint(0, SIDE), r.randint(0, SIDE))
        cv2.circle(spot, at, r.randint(5, 50), r.uniform(60, 220), -1)
        glare = cv2.GaussianBlur(spot, (0, 0), r.uniform(4, 20))[..., None]
        picture = np.clip(picture + glare, 0, 255).astype(np.uint8)
    if r.random() < 0.08:
        picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return picture


def make(images: Path, designs: Designs, out: Path, counts: dict[str, int], seed: int) -> Path:
    """Write the set and its ``data.yaml``."""
    pictures = reals(images)
    for split, count in counts.items():
        for part in ("images", "labels"):
            (out / part / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            r = Random(f"{seed} {split} {number}")
            pixels, boxes = sample(r, split, pictures, designs)
            name = f"{number:05}"
            quality = [cv2.IMWRITE_JPEG_QUALITY, r.randint(55, 96)]
            cv2.imwrite(str(out / "images" / split / f"{name}.jpg"), pixels[..., ::-1], quality)
            rows = yolo_rows(boxes, SIDE, SIDE, (CLASS,))
            (out / "labels" / split / f"{name}.txt").write_text(rows)
    return write_config(out, list(counts), (CLASS,))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m model.tattoos", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--images", type=Path, help="folder of real pictures, as for model.data")
    parser.add_argument("--designs", type=Path, help="folder with a folder for each icon set")
    parser.add_argument("--out", type=Path, help="folder to write the set to")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--train", type=int, default=5200)
    parser.add_argument("--val", type=int, default=240)
    parser.add_argument("--run", type=Path, help="last.pt of a training to write tattoo.onnx from")
    a = parser.parse_args()
    if a.run is not None:
        from model.export import exported
        from model.verifier import record

        network = exported(a.run)["best.onnx"]
        print(record({TATTOO: network}, Path(__file__).resolve().parent))
        return
    if None in (a.images, a.designs, a.out):
        parser.error("--images, --designs and --out, or --run, are needed")
    counts = {"train": a.train, "val": a.val}
    print(make(a.images, Designs(a.designs), a.out, counts, a.seed))


if __name__ == "__main__":
    main()

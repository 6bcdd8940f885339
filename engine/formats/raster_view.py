"""What a person would see of a picture other than DICOM, and every way in which others may see it.

A reader of a format says what it holds in the facts of the image, and all else follows here:
``bits``, ``colour`` (of :data:`COLOURS`), ``palette`` and ``palette_alpha`` or ``colormap``,
``alpha`` (what the last channel means, see :data:`STRAIGHT`), ``transparent`` (the colour that
stands for no colour), ``gamma`` (of the file) and ``orientation``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from engine.formats import png
from engine.formats.tones import (
    AS_SHOWN,
    LOSSY_NOISE,
    Showing,
    content_range,
    contrast,
    occurring,
    ranges,
    scaled,
    without_palette,
)
from engine.formats.tones import stretched as ranges_in_use
from engine.records import Image

#: What an alpha channel means: colours are stored as they are, or times their alpha, or nobody
#: says so, and readers take it for either or leave it out.
STRAIGHT, ASSOCIATED, UNSPECIFIED = "straight", "associated", "unspecified"
_SCREEN_GAMMA = 2.2
#: Contrast that counts, and how much more of it white must show than black to be the ground.
_MARK, _MORE = 16, 1.5


@dataclass(frozen=True)
class _Colours:
    """One frame before anybody chose how to show it.

    Args:
        values: Stored values, or the colours of a palette: shape (H, W) or (H, W, 3).
        alpha: Shape (H, W), float32, 0 to 1; None where all is opaque.
        associated: Are the values multiplied by alpha already?
        inverted: Is the least value white?
    """

    values: np.ndarray
    bits: int
    alpha: np.ndarray | None = None
    associated: bool = False
    inverted: bool = False


def render(image: Image, frame: int, ground: int | None = None) -> np.ndarray:
    """One page as a person would see it: shape (height, width, 3), uint8, RGB.

    Args:
        ground: Grey under what is transparent; by default as :func:`ground`.
    """
    colours = _colours(image, frame)
    toned = _toned(colours)
    return _over(toned, colours, _ground(toned, colours) if ground is None else ground)


def ground(image: Image, frame: int) -> int:
    """Grey on which a page is shown: black, or white where that shows more of what it holds."""
    colours = _colours(image, frame)
    return _ground(_toned(colours), colours)


def _ground(toned: np.ndarray, colours: _Colours) -> int:
    if colours.alpha is None:
        return 0
    black, white = (
        int(np.count_nonzero(contrast(_over(toned, colours, grey)) >= _MARK)) for grey in (0, 255)
    )
    return 255 if white > _MORE * black else 0


def showings(image: Image, frame: int) -> Iterator[Showing]:
    """Every way in which viewers may show a page; first as :func:`render`.

    Then on the other ground and without regard to transparency, and at the ranges of values that
    the page uses. What stands out on a ground of any other colour does so on black or on white too.
    """
    colours = _colours(image, frame)
    grey = colours.values.ndim == 2 and colours.alpha is None
    toned = _toned(colours)
    table = _table(colours) if grey else None
    own = _ground(toned, colours)
    yield Showing(AS_SHOWN, lambda: _over(toned, colours, own), table, tonal=grey)
    alpha = colours.alpha
    if alpha is not None:
        other_ground = 255 - own
        name = "on white" if other_ground else "on black"
        yield Showing(name, lambda: _over(toned, colours, other_ground))
        yield Showing("without alpha", lambda: toned)
        if image.properties.get("alpha", STRAIGHT) != STRAIGHT:  # readers take it for the other
            other = replace(colours, associated=not colours.associated)
            yield Showing("other alpha on black", lambda: _over(toned, other, 0))
            yield Showing("other alpha on white", lambda: _over(toned, other, 255))
            yield Showing("before alpha", lambda: _divided(colours.values, alpha))
            yield Showing("alpha alone", lambda: _three(scaled(alpha, 0.0, 1.0)))
    yield from _stretched(colours, LOSSY_NOISE if image.properties["lossy"] else 0.0)
    gamma = image.properties.get("gamma")
    if gamma:
        curve = (np.arange(256) / 255.0) ** (1 / (gamma * _SCREEN_GAMMA))
        bent = np.round(255 * curve).astype(np.uint8)
        yield Showing("by its gamma", lambda: _over(bent[toned], colours, 0))
    if "palette" in image.properties or "colormap" in image.properties:
        yield from without_palette(image.pixels[frame], partial(_colours_of, image.properties))


def _colours(image: Image, frame: int) -> _Colours:
    pixels, facts = image.pixels[frame], image.properties
    bits = int(facts["bits"])
    if "palette" in facts:
        rgba = png.expand(pixels, facts["palette"], facts["palette_alpha"])
        return _Colours(rgba[..., :3], 8, _alpha(rgba[..., 3]))
    if "colormap" in facts:
        return _Colours(_mapped(pixels, facts), 8)
    alpha = None
    key = facts.get("transparent")
    if key is not None:
        same = pixels == np.array(key, pixels.dtype)
        clear = same.all(axis=2) if pixels.ndim == 3 else same
        alpha = (~clear).astype(np.float32) if clear.any() else None
    associated = facts.get("alpha", STRAIGHT) != STRAIGHT
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        alpha = _alpha(pixels[..., -1])
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    return _Colours(pixels, bits, alpha, associated, facts["colour"] == "grey inverted")


def _mapped(numbers: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """The colours of a TIFF's palette."""
    table = (facts["colormap"].T >> 8).astype(np.uint8)
    return np.asarray(table[np.minimum(numbers, len(table) - 1)])


def _alpha(stored: np.ndarray) -> np.ndarray | None:
    """Shares from 0 to 1; None where all is opaque."""
    most = _most(stored.dtype)
    if float(stored.min()) >= most:
        return None
    return np.clip(stored.astype(np.float32) / most, 0, 1)


def _table(colours: _Colours) -> np.ndarray | None:
    """The grey of each value from the least to the greatest of a page without alpha."""
    values, counts, _ = occurring(colours.values)
    return _tones(colours, values, counts) if values.ndim == 1 else None


def _tones(colours: _Colours, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Greys of values of a grey page.

    Of more than 8 bits the part is shown that is used, since many files use a small one.
    """
    if colours.values.dtype == np.uint8:
        grey = values if colours.bits >= 8 else values * np.uint8(255 // ((1 << colours.bits) - 1))
    else:
        grey = _graded(values, *_content(values, counts))
    return 255 - grey if colours.inverted else grey


def _graded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Greys of values; what is no number has the tone that most others do not have, so that
    letters made of it are seen."""
    grey = scaled(values.astype(np.float64), low, high)
    if values.dtype.kind == "f" and not (real := np.isfinite(values)).all():
        grey[~real] = 255 if not real.any() or float(np.median(grey[real])) < 128 else 0
    return grey


def _content(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    real = np.isfinite(values)
    if not real.any():
        return 0.0, 0.0
    low, high = content_range(values[real].astype(np.float64), counts[real])
    return (low, high) if high > low else (low, low + 1)


def _toned(colours: _Colours) -> np.ndarray:
    """The picture without regard to alpha: shape (H, W, 3), uint8."""
    values = colours.values
    if values.ndim == 3:
        if values.dtype == np.uint8:
            return np.ascontiguousarray(values)
        if values.dtype.kind == "f":  # measured, of any unit
            return _graded(values, *_content(values, np.ones(values.shape, np.int64)))
        return scaled(values.astype(np.float64), 0.0, _most(values.dtype))
    if values.dtype == np.uint8:
        return _three(_tones(colours, values, values))
    if colours.alpha is not None:  # as colours: it was made for a screen
        return _three(scaled(values.astype(np.float64), 0.0, _most(values.dtype)))
    held, counts, places = occurring(values)
    return _three(_tones(colours, held, counts)[places])


def _most(dtype: np.dtype[Any]) -> float:
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def _three(grey: np.ndarray) -> np.ndarray:
    if grey.ndim == 3:
        return np.ascontiguousarray(grey)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(grey), cv2.COLOR_GRAY2RGB))


def _over(toned: np.ndarray, colours: _Colours, ground: int) -> np.ndarray:
    """A picture on a ground of one grey."""
    if colours.alpha is None:
        return toned
    alpha = colours.alpha[..., None]
    own = toned.astype(np.float32) * (1 if colours.associated else alpha)
    return np.clip(np.round(own + ground * (1 - alpha)), 0, 255).astype(np.uint8)


def _divided(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours before they were multiplied by alpha, as far as they are known."""
    share = np.maximum(alpha, np.float32(1 / 65535))
    share = share[..., None] if values.ndim == 3 else share
    return _three(scaled(values.astype(np.float64) / share, 0.0, _most(values.dtype)))


def _stretched(colours: _Colours, least: float) -> Iterator[Showing]:
    """At the ranges that are used, where these are a small part of what is shown."""
    values = colours.values
    own_scale = values.ndim == 2 and values.dtype != np.uint8 and colours.alpha is None
    if own_scale or values.dtype.kind != "u":
        held, counts, places = occurring(values)
        for name, low, high in ranges(held, counts, least):
            grey = _graded(held, low, high)
            grey = 255 - grey if colours.inverted else grey
            yield Showing(
                name,
                lambda grey=grey: _three(grey[places]),  # type: ignore[misc]
                grey if grey.ndim == 1 else None,
                tonal=True,
            )
    else:
        for name, low, high in ranges_in_use(values, least):
            yield Showing(name, partial(_at_range, values, low, high), tonal=True)


def _at_range(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return _three(scaled(values.astype(np.float64), low, high))


def _colours_of(facts: Mapping[str, Any], used: np.ndarray) -> np.ndarray:
    """Colours of numbers of a palette, as the file has it."""
    if "palette" in facts:
        return png.expand(used, facts["palette"], facts["palette_alpha"])
    return _mapped(used, facts)

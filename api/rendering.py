"""How a client wants a picture rendered (PS3.18 8.3.5.1): window, viewport and quality."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastapi import HTTPException, Request
from PIL import Image as Picture
from PIL import ImageOps

_LARGEST_PX = 8192
_QUALITY = 90


@dataclass(frozen=True)
class Rendering:
    """What is asked for.

    Args:
        window: Centre and width, of the function LINEAR; None for the picture's own.
        viewport: Width and height into which the picture is scaled, and of the source left, top,
            width and height; a negative size mirrors. Empty for the picture as it is.
        quality: Of JPEG, 1 to 100.
    """

    window: tuple[float, float] | None = None
    viewport: tuple[float, ...] = ()
    quality: int = _QUALITY

    def shown(self, picture: Picture.Image) -> Picture.Image:
        """The picture in its viewport; it keeps its shape. Raises HTTPException, 400."""
        if not self.viewport:
            return picture
        wide, high, *source = self.viewport
        if source:
            left, top, width, height = source
            box = (left, top, left + abs(width), top + abs(height))
            if not (0 <= left < picture.width and 0 <= top < picture.height):
                raise _bad("viewport")
            picture = picture.crop(
                (
                    round(box[0]), round(box[1]), min(round(box[2]), picture.width),
                    min(round(box[3]), picture.height),
                )
            )  # fmt: skip
            if width < 0:
                picture = ImageOps.mirror(picture)
            if height < 0:
                picture = ImageOps.flip(picture)
        scale = min(wide / picture.width, high / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture if size == picture.size else picture.resize(size, Picture.Resampling.LANCZOS)


def rendering(request: Request) -> Rendering:
    """What the query asks for. Raises HTTPException, 400, where it makes no sense."""
    asked = request.query_params
    window = None
    if "window" in asked:
        centre, width, function = [*asked["window"].split(","), "linear", "", ""][:3]
        numbers = _numbers("window", [centre, width])
        if function.strip().lower() != "linear" or numbers[1] < 1:
            raise _bad("window")
        window = numbers[0], numbers[1]
    viewport: tuple[float, ...] = ()
    if "viewport" in asked:
        viewport = _numbers("viewport", asked["viewport"].split(","))
        sizes = (*viewport[:2], *viewport[4:])
        if len(viewport) not in (2, 6) or not all(1 <= abs(n) <= _LARGEST_PX for n in sizes):
            raise _bad("viewport")
        if min(viewport[:2]) < 0:
            raise _bad("viewport")
    quality = asked.get("quality", str(_QUALITY))
    if not quality.isdecimal() or not 1 <= int(quality[:4]) <= 100:
        raise _bad("quality")
    return Rendering(window, viewport, int(quality))


def _numbers(name: str, texts: list[str]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(text) for text in texts)
    except ValueError as err:
        raise _bad(name) from err
    if not all(map(math.isfinite, numbers)):
        raise _bad(name)
    return numbers


def _bad(name: str) -> HTTPException:
    return HTTPException(400, f"The value of {name} is not valid, or not supported.")

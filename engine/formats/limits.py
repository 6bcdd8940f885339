"""How large a picture may be, checked from its header before anything is decoded."""

from __future__ import annotations

from engine.errors import CorruptImage, ImageTooLarge


def check_size(
    width: int, height: int, frames: int, pixel_bytes: int, max_side_px: int, max_bytes: int
) -> None:
    """Refuse what would be too large, before it is decoded.

    Raises:
        CorruptImage: No width or no height.
        ImageTooLarge: Over a limit.
    """
    if width < 1 or height < 1 or frames < 1:
        raise CorruptImage(
            "This file is damaged: its picture has no width or height. Export it again."
        )
    if max(width, height) > max_side_px or width * height * frames * pixel_bytes > max_bytes:
        raise ImageTooLarge(
            f"The picture is too large: {width} x {height} px, {frames} pages. The limit is"
            f" {max_side_px} px per side and {max_bytes >> 20} MB decoded.",
            width=width,
            height=height,
            frames=frames,
        )

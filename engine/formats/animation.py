"""GIF and animated WebP: every frame as it is shown, over the ones before it."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image as Pillow

from engine.errors import CorruptImage, ImageTooLarge
from engine.formats import converted
from engine.formats.converted import Read
from engine.formats.limits import check_part, check_size

_MAX_FRAMES = 10_000


def decode(data: bytes, max_side_px: int, max_bytes: int) -> Read:
    """Read all frames.

    Raises:
        CorruptImage, ImageTooLarge: With what is wrong and what to do.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Pillow.open(io.BytesIO(data), formats=("GIF", "WEBP")) as picture:
                check_part(picture.width, picture.height, 1, 4, max_side_px, max_bytes)
                count = int(getattr(picture, "n_frames", 1))
                # A GIF grows where a frame leaves its screen: the size is only known now.
                size = picture.size
                check_size(*size, count, 4, max_side_px, max_bytes)
                if count > _MAX_FRAMES:
                    raise ImageTooLarge("This animation has too many frames. Send it in parts.")
                frames = []
                for number in range(count):
                    picture.seek(number)
                    frames.append(np.asarray(picture.convert("RGBA")))
    except Pillow.DecompressionBombError as err:
        raise ImageTooLarge("This picture has too many pixels. Send a smaller one.") from err
    except (CorruptImage, ImageTooLarge, MemoryError):
        raise
    except Exception as err:  # the library raises anything on damaged files
        raise converted.damaged(err) from err
    high, wide = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    check_size(wide, high, count, 4, max_side_px, max_bytes)
    frames = [_grown(frame, high, wide) for frame in frames]
    if all((frame[..., 3] == 255).all() for frame in frames):
        frames = [frame[..., :3] for frame in frames]
    return converted.reading(frames, lossy=data[:4] == b"RIFF")


def _grown(frame: np.ndarray, high: int, wide: int) -> np.ndarray:
    if frame.shape[:2] == (high, wide):
        return frame
    out = np.zeros((high, wide, 4), np.uint8)
    out[: frame.shape[0], : frame.shape[1]] = frame
    return out

"""How the videos beside this file were made: ``pip install av`` (18.1), then run it here.

The tests need no encoder of patented codecs, so the streams lie here: 12 frames of a drawing, 25 a
second, 96 x 64 px, nobody in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
KINDS = (
    ("libx264", "mpegts", "video_h264.ts"),
    ("libx264", "mp4", "video_h264.mp4"),
    ("libx265", "mpegts", "video_hevc.ts"),
    ("mpeg2video", "mpegts", "video_mpeg2.ts"),
)


def drawing(number: int) -> np.ndarray:
    """A frame, shape (64, 96, 3), uint8, RGB: a plain ground, a light box, a moving one."""
    picture = np.full((64, 96, 3), (190, 90, 85), np.uint8)
    picture[20:44, 40:80] = (235, 230, 220)
    picture[50:56, number * 4 : number * 4 + 8] = 255
    return picture


def make(av: Any) -> None:
    for codec, container, name in KINDS:
        with av.open(str(HERE / name), "w", format=container) as file:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            if codec == "libx264":
                stream.options = {"crf": "30"}
            for number in range(12):
                frame = av.VideoFrame.from_ndarray(drawing(number), format="rgb24")
                for packet in stream.encode(frame):
                    file.mux(packet)
            for packet in stream.encode():
                file.mux(packet)


if __name__ == "__main__":
    import importlib

    make(importlib.import_module("av"))

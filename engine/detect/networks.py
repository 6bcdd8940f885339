"""Neural networks: weights verified by SHA-256, inference on the CPU.

Weights with another SHA-256 than the recorded one are refused, in every format. The runtime is
imported only when a network is loaded, so the engine starts without it.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from engine.errors import DetectorError

CHECKSUMS = "SHA256SUMS"  # lines of "digest  file name", as sha256sum writes them
LEVELS = np.arange(256, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the About line says of a network.

    Args:
        sha256: Digest of its weights in hex; empty for a decoder without weights.
        classes: What it can find.
        source: Who made it and where the file comes from.
    """

    name: str
    version: str
    sha256: str
    licence: str
    classes: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A box in pixels of the picture that was looked at, not yet rounded or clipped."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str
    confidence: float

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)

    def shifted(self, right: int, down: int) -> Finding:
        """Moved, as from the pixels of a part to those of the whole."""
        return replace(
            self, x1=self.x1 + right, y1=self.y1 + down, x2=self.x2 + right, y2=self.y2 + down
        )


class Network(Protocol):
    """Interface of all networks. ``look`` is thread-safe."""

    info: ModelInfo

    def look(self, picture: np.ndarray, floor: float) -> list[Finding]:
        """Detect the classes of this network.

        Args:
            picture: Shape (H, W, 3), uint8, RGB.
            floor: Lowest confidence that is reported, 0 to 1.
        """
        ...


@runtime_checkable
class Arbiter(Protocol):
    """A network that also weighs what a witness found against what it finds itself."""

    info: ModelInfo

    def settle(
        self,
        picture: np.ndarray,
        floor: float,
        witnessed: Sequence[Finding],
        taught: bool = False,
    ) -> list[Finding]:
        """Find, and decide about what was found by another; returns both.

        Args:
            taught: The other learned from what people sealed.
        """
        ...


@runtime_checkable
class Rescaled(Protocol):
    """A network that can look at other sizes than it usually does."""

    def rescaled(self) -> Network:
        """The same weights at other sizes: what was lost at one may be seen at another."""
        ...


@runtime_checkable
class Zoomed(Protocol):
    """A network that enlarges what it is shown."""

    def part_of(self, whole_px: int) -> Network:
        """The same weights for a part of a picture whose longer side is so many pixels: it sees
        the part at the scale at which it would see the whole."""
        ...


@runtime_checkable
class Near(Protocol):
    """A network that can tell small things in a scene from what fills the picture."""

    def near(self) -> Network:
        """The same weights for a picture that shows no scene, by what its file says: small things
        are looked for only where a cheap look at all sees something."""
        ...


@runtime_checkable
class Glancing(Protocol):
    """A network that can say cheaply where it finds nothing."""

    def glance(self, picture: np.ndarray, again: bool) -> list[Finding]:
        """Boxes in which it may find something: many too many rather than one too few.

        Args:
            picture: Shape (H, W, 3), uint8, RGB.
            again: At another size than the first time.
        """
        ...


@runtime_checkable
class Verified(Protocol):
    """A network that asks a verifier about what it finds before it reports it."""

    verifier: Any


def version(package: str) -> str:
    """The installed version of a package."""
    import importlib.metadata

    return importlib.metadata.version(package)


def read_weights(path: Path, sha256: str) -> bytes:
    """Read a weight file and compare it with the digest it must have.

    Raises:
        DetectorError: Missing, or not the file that was recorded.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise DetectorError(
            "The weight file of a network is missing or unreadable. Reinstall MedSec.",
            errno=err.errno,
        ) from err
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DetectorError(
            "The weight file of a network was changed. Reinstall MedSec.",
            expected=sha256,
            found=found,
        )
    return data


def recorded(folder: Path) -> dict[str, str]:
    """SHA-256 by file name, as ``SHA256SUMS`` of a folder records them; empty without one."""
    try:
        text = (folder / CHECKSUMS).read_text(encoding="ascii")
    except OSError:
        return {}
    lines = [line.split() for line in text.splitlines()]
    return {line[1].lstrip("*"): line[0] for line in lines if len(line) == 2}


class CpuModel:
    """An ONNX network compiled by OpenVINO for this processor.

    One inference runs at a time and takes all threads it may have: two at once would be no
    faster, and would need twice the memory.

    Args:
        onnx: The model, serialised.
        threads: Processor threads; 0 takes all.
        shape: Input shape where the file's own is too narrow; -1 is any size.
        precision: ``f32``, ``bf16``, or None for bf16 where the processor computes it itself,
            which is twice as fast and moves boxes by less than a pixel, and f32 elsewhere.
        rewrite: Changes the ``openvino.Model`` before it is compiled.

    Raises:
        DetectorError: Not a network, or one that this runtime cannot run.
    """

    def __init__(
        self,
        onnx: bytes,
        threads: int,
        shape: Sequence[int] | None = None,
        precision: str | None = None,
        rewrite: Callable[[Any], None] | None = None,
    ) -> None:
        # Importing openvino tells its makers about it and writes into the user's home, unless
        # this package of theirs is missing: then its own stand-in says nothing to anybody.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        try:
            core = openvino.Core()
            if precision is None:
                native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
                precision = "bf16" if native else "f32"
            properties: dict[str, Any] = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": precision,
                # Kept per size of picture otherwise: 0.8 GB after 60 different ones, for no speed;
                # 300 or 1000 programs, 0.26 GB after 60, for a tenth.
                "CPU_RUNTIME_CACHE_CAPACITY": 0,
                # Else every process takes the first processors for itself: two workers of a batch
                # with a thread each then share one, and the other one rests.
                "ENABLE_CPU_PINNING": False,
            }
            if threads:
                properties["INFERENCE_NUM_THREADS"] = threads
            model = core.read_model(model=onnx, weights=b"")
            if shape is not None:
                model.reshape(openvino.PartialShape(list(shape)))
            if rewrite is not None:
                rewrite(model)
            self.metadata = _metadata(model)
            self._request = core.compile_model(model, "CPU", properties).create_infer_request()
        except RuntimeError as err:
            raise DetectorError(
                "A network could not be loaded. Reinstall MedSec, or contact support."
            ) from err
        self._lock = threading.Lock()

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run once.

        Args:
            batch: Shape (N, 3, H, W), float32.

        Returns:
            All outputs in the model's order, float32.

        Raises:
            DetectorError: The runtime failed, for instance for lack of memory, or computed
                something that is no number.
        """
        with self._lock:
            try:
                self._request.infer([batch], share_inputs=True)
            except RuntimeError as err:
                raise DetectorError("A network failed on this image. Review the image.") from err
            outputs = [np.array(t.data) for t in self._request.output_tensors]
        if not all(np.isfinite(output).all() for output in outputs):
            # Such a number compares with nothing: a name could go unseen.
            raise DetectorError("A network computed no number for this image. Review the image.")
        return outputs


def _metadata(model: Any) -> dict[str, str]:
    """Texts that the ONNX file carries beside its weights, such as an alphabet."""
    info = model.get_rt_info()
    if "framework" not in info:
        return {}
    return {key: str(text.value) for key, text in info["framework"].items()}


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Shape (height, width, 3): by area when smaller, so that thin strokes fade but never
    vanish between samples; linear when larger."""
    import cv2

    h, w = picture.shape[:2]
    if (w, h) == (width, height):
        return picture
    smaller = width * height < w * h
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=how)


def is_grey(picture: np.ndarray) -> bool:
    """Do the channels of a picture of shape (H, W, 3) say the same?"""
    import cv2

    red, green, blue = cv2.split(picture)
    return not any(cv2.norm(red, other, cv2.NORM_INF) for other in (green, blue))


def batch(picture: np.ndarray, mean: float, scale: float) -> np.ndarray:
    """Shape (1, 3, H, W), float32: ``(value - mean) * scale``."""
    return by_level(picture, (LEVELS - np.float32(mean)) * np.float32(scale))


def by_level(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A picture as networks take it, by a table: a third of the time that arithmetic takes.

    Args:
        picture: Shape (H, W, 3), uint8.
        values: For each grey level, shape (256,), float32.

    Returns:
        Shape (1, 3, H, W), float32.
    """
    import cv2

    shown = np.empty((1, 3, *picture.shape[:2]), np.float32)
    for channel, target in zip(cv2.split(picture), shown[0], strict=True):
        cv2.LUT(channel, values, dst=target)
    return shown

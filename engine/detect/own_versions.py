"""Versions of MedSec's own network that an installation learnt, beside the one that is shipped.

A version takes the place of ``yolov8n`` alone: text and codes. The thorax is seen at another size,
is not learnt, and stays with the shipped weights. Versions are ONNX: a ``.pt`` file is a program.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from engine.detect.networks import CHECKSUMS, ModelInfo
from engine.errors import DetectorError
from engine.installation import MODEL

#: The network of which there are versions, by the name that profiles use.
LEARNING = "yolov8n"
#: What a version finds, as the shipped one does.
LEARNT = ("text", "barcode")
LICENCE = "AGPL-3.0"


@dataclass(frozen=True)
class OwnVersion:
    """A version of MedSec's own network.

    Args:
        name: As the registry and the log have it, such as ``learned-1a2b3c4d``.
        sha256: Of the file, in hex.
        onnx: The file.
    """

    name: str
    sha256: str
    onnx: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if hashlib.sha256(self.onnx).hexdigest() != self.sha256:
            raise DetectorError(
                "The weights of a learned version were altered. Roll back to another version.",
                version=self.name,
            )

    @property
    def info(self) -> ModelInfo:
        """For the list of networks."""
        return ModelInfo(
            name="MedSec YOLOv8n",
            version=self.name,
            sha256=self.sha256,
            licence=LICENCE,
            classes=LEARNT,
            source="learned from kept cases of this installation",
        )


class MissingVersion(OwnVersion):
    """Stands for a version in force whose file is missing or altered: nothing can look with it."""

    def __post_init__(self) -> None:
        pass


def version_name(sha256: str) -> str:
    """The name of a learned version, from the digest of its file."""
    return f"learned-{sha256[:12]}"


def shipped_name() -> str:
    """The name of the version that is shipped, from the digests of its files.

    The network for tattoos is none of them: it is another network, which came later, and names
    that are in logs and learned versions stay as they were.
    """
    try:
        lines = (MODEL / CHECKSUMS).read_bytes().splitlines(keepends=True)
    except OSError:
        lines = []
    recorded = b"".join(line for line in lines if not line.rstrip().endswith(b" tattoo.onnx"))
    return f"shipped-{hashlib.sha256(recorded).hexdigest()[:12]}"

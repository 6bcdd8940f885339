"""The sealed package: everything except the keys that is needed to restore a masked file.

Layout: ``MSPK``, version byte 1, 4-byte big-endian length of a JSON header, header, sealed
container. The header repeats ids, boxes and classes for human readers only; it is not trusted.
Every box is bound by its region's tag, the facts are sealed, and the pixels must match the sealed
digest: a package with a changed header cannot be restored.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from engine.errors import SealBroken
from engine.geometry import FIELDS
from engine.records import Detection, SealedRegion

SUFFIX = ".medsec"
_MAGIC = b"MSPK\x01"


@dataclass(frozen=True)
class Package:
    """A sealed package, taken apart but not opened.

    Args:
        facts: Sealed facts of the image (name, digests).
        regions: Each with its first byte in the container.
    """

    image_id: str
    version: int
    facts: bytes = field(repr=False)
    regions: tuple[tuple[SealedRegion, int], ...]
    container: bytes = field(repr=False)


def write(package: Package) -> bytes:
    """The package as a file."""
    header = json.dumps(
        {
            "image_id": package.image_id,
            "version": package.version,
            "facts": base64.b64encode(package.facts).decode(),
            "regions": [
                {
                    "region_id": region.region_id,
                    "start": start,
                    "size_bytes": region.size_bytes,
                    "encrypt_ms": region.encrypt_ms,
                    **region.detection.to_json(),
                }
                for region, start in package.regions
            ],
        }
    ).encode()
    return b"".join([_MAGIC, len(header).to_bytes(4, "big"), header, package.container])


def read(data: bytes) -> Package:
    """Parse a package.

    Raises:
        SealBroken: It is not a package, or cut off.
    """
    try:
        if not data.startswith(_MAGIC):
            raise ValueError
        start = len(_MAGIC) + 4
        end = start + int.from_bytes(data[len(_MAGIC) : start], "big")
        header: dict[str, Any] = json.loads(data[start:end])
        return Package(
            image_id=str(header["image_id"]),
            version=_whole(header["version"]),
            facts=base64.b64decode(header["facts"], validate=True),
            regions=tuple(
                (
                    SealedRegion(
                        str(r["region_id"]),
                        Detection.from_json({**r, **{k: _whole(r[k]) for k in FIELDS}}),
                        _whole(r["size_bytes"]),
                        float(r["encrypt_ms"]),
                    ),
                    _whole(r["start"]),
                )
                for r in header["regions"]
            ),
            container=data[end:],
        )
    except (
        ValueError, KeyError, TypeError, OverflowError, RecursionError, binascii.Error
    ) as err:  # fmt: skip
        raise SealBroken(
            "This is not a sealed package, or it was changed. Use the package of this image."
        ) from err


def _whole(value: object) -> int:
    """A number that a header may hold. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
        raise ValueError("not a number of a package")
    return value

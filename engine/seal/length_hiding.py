"""How what lies under the boxes is spread over sealed pieces whose lengths tell almost nothing.

A compressed name is shorter or longer than another name, and whoever can render guesses into a
box, which is public, can compare lengths. So the contents of all regions of a class are one
stream, padded to a coarse length class and cut into one piece per region. How long a piece is
depends on the boxes and on that class alone. Whoever may open a class may open all of its
regions, so nobody needs a piece by itself.

The classes start at a public number, a share of the masked file and at most a byte per pixel:
content that fits tells nothing at all. SECURITY.md says what the other classes tell, measured.

Layout of a stream: each patch behind its 32-bit big-endian length, in the order of the regions,
then zeros. Container of version 2: ``MSC2``, the sealed pieces, the sealed remainder. Version 1
began with its first sealed region (``MSEC``), which was a whole patch.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from engine.errors import SealBroken
from engine.vault import pack, pad_length

MAGIC = b"MSC2"
REGIONS_SHARE = 1 / 16  # of the masked file, for each class of regions
REMAINDER_SHARE = 1 / 128
STEP = 3 / 2
SMALLEST_BYTES = 256
#: Above this, content is a picture whose noise nobody can guess; the vault's own padding (3 % at
#: this length) is enough.
PICTURE_BYTES = 1 << 16
_LENGTH_BYTES = 8  # the vault appends the true length before it pads


def length_class(content_bytes: int, public_bytes: float) -> int:
    """The length to which content is padded: at least ``content_bytes``.

    Args:
        public_bytes: Where the classes start; must not depend on anything hidden.
    """
    size = max(SMALLEST_BYTES, round(public_bytes))
    if content_bytes > max(size, PICTURE_BYTES):
        return pad_length(content_bytes + _LENGTH_BYTES) - _LENGTH_BYTES
    while size < content_bytes:
        size = round(size * STEP)
    return size


def split(
    labels: Sequence[str], volumes_px: Sequence[int], patches: Sequence[bytes], masked_bytes: int
) -> list[bytes]:
    """A piece per region, in order.

    Args:
        labels: Class of each region.
        volumes_px: Pixels of each box over all its frames.
        masked_bytes: Length of the masked file.
    """
    pieces = [b""] * len(patches)
    for mine in _by_label(labels):
        stream = pack(*(patches[i] for i in mine))
        volume = sum(volumes_px[i] for i in mine)
        total = length_class(len(stream), min(REGIONS_SHARE * masked_bytes, volume))
        at = 0
        for i in mine:
            wanted = -(-total * volumes_px[i] // volume)
            # what the vault would pad it to anyway is filled with content
            size = pad_length(wanted + _LENGTH_BYTES) - _LENGTH_BYTES
            pieces[i] = stream[at : at + size].ljust(size, b"\0")
            at += size
    return pieces


def join(labels: Sequence[str], pieces: Mapping[int, bytes]) -> dict[int, bytes]:
    """The patches of all classes whose pieces are there.

    Raises:
        SealBroken: The pieces are not those of one sealing.
    """
    patches = {}
    for mine in _by_label(labels):
        if not any(i in pieces for i in mine):
            continue
        try:
            stream, at = b"".join(pieces[i] for i in mine), 0
            for i in mine:
                (size,) = struct.unpack_from(">I", stream, at)
                if at + 4 + size > len(stream):
                    raise ValueError
                patches[i] = stream[at + 4 : at + 4 + size]
                at += 4 + size
        except (KeyError, ValueError, struct.error) as err:
            raise SealBroken(
                "The sealed regions of a class do not belong together. Restore the image from a"
                " backup."
            ) from err
    return patches


def _by_label(labels: Sequence[str]) -> list[list[int]]:
    return [
        [i for i, other in enumerate(labels) if other == label] for label in dict.fromkeys(labels)
    ]

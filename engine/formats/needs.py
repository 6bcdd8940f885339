"""What a file will need while it is read, looked at, sealed or restored: known from its header.

Measured on grey and colour JPEG, PNG, TIFF, JPEG 2000 and DICOM of up to 36 Mpx and 300 frames, as
the peak of each process above what it held before; rounded upward.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.formats.limits import Extent

_MB = 1 << 20
#: In the server: copies of the file (as it came, sealed, as it is written), of its stored values
#: (the original, the masked picture, the one that proves it), and what looking at a frame takes.
_SERVER_FILES, _SERVER_VALUES, _SERVER_PX = 4.5, 4.5, 14
#: In a decoder's process, with the memory in which it answers.
_DECODER_FILES, _DECODER_VALUES, _DECODER_PX = 4.0, 4.0, 8
#: While only the header is read.
_HEADER_FILES = 3.0
_FLOOR_BYTES = 32 * _MB
#: Processor time of one call: what the slowest one takes, ten times over.
_SECONDS, _SECONDS_PER_MPX, _SECONDS_PER_MB = 10.0, 2.0, 1.0


@dataclass(frozen=True)
class Need:
    """Memory that work on a file takes at its peak, and the time that one call may take.

    Args:
        server_bytes: In this process.
        decoder_bytes: In the process that decodes it.
        seconds: Processor time of one call to a decoder.
    """

    server_bytes: int
    decoder_bytes: int
    seconds: float

    @property
    def total_bytes(self) -> int:
        return self.server_bytes + self.decoder_bytes

    @classmethod
    def of(cls, file_bytes: int, extent: Extent) -> Need:
        """To decode a file of this extent, look at it, seal it or restore it."""
        values, frame = extent.decoded_bytes, extent.frame_px
        server = _SERVER_FILES * file_bytes + _SERVER_VALUES * values + _SERVER_PX * frame
        decoder = _DECODER_FILES * file_bytes + _DECODER_VALUES * values + _DECODER_PX * frame
        seconds = _seconds(file_bytes) + _SECONDS_PER_MPX * frame * extent.frames / 1e6
        return cls(int(server) + _FLOOR_BYTES, int(decoder) + _FLOOR_BYTES, seconds)

    @classmethod
    def of_header(cls, file_bytes: int, inflated_bytes: int = 0) -> Need:
        """To read the header of a file.

        Args:
            inflated_bytes: What it may inflate to, where it is deflated as a whole.
        """
        decoder = _HEADER_FILES * (file_bytes + inflated_bytes)
        return cls(2 * file_bytes, int(decoder) + _FLOOR_BYTES, _seconds(file_bytes))


def _seconds(file_bytes: int) -> float:
    return _SECONDS + _SECONDS_PER_MB * file_bytes / 1e6

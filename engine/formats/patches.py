"""Patches (the content of one box, coded without loss), and the container of a sealed file.

A patch names its own coding, so that it can be read in the future. The coder is chosen per patch
by size. Container and patch are parsed only after their tag was verified; bytes that are still
invalid are :class:`SealBroken`, never a picture.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import imagecodecs
import numpy as np

from engine.errors import SealBroken

STORED, ZSTD, JPEGLS, DELTA, WEBP, JPEGXL = range(6)
_DTYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<f8", "<u8", "<i8")
#: Above, the thorough level of the general coder costs seconds, and JPEG XL at its fastest takes a
#: third of JPEG-LS's time for a few hundredths more bytes.
_LARGE_BYTES = 1 << 18
_MAX_SIDE = 65_535  # of a JPEG-LS picture
_MAX_WEBP_SIDE = 16_383
_FLAT = 8  # what shrinks this much is drawn, not taken: codes, forms, printed text


def encode(pixels: np.ndarray) -> bytes:
    """Code an array of any shape up to (frames, height, width, channels).

    Args:
        pixels: Integers of 8 to 64 bit or floats, either byte order.

    Returns:
        One byte codec, one byte type, one byte axes, the shape, the body, a CRC-32 (a
        damaged stream can keep a JPEG-LS decoder busy for seconds).
    """
    dtype = pixels.dtype.newbyteorder("<") if pixels.dtype.itemsize > 1 else pixels.dtype
    kind = _DTYPES.index(dtype.str)
    pixels = np.ascontiguousarray(pixels.astype(dtype, copy=False))
    raw = pixels.tobytes()
    large = len(raw) > _LARGE_BYTES
    quick = bytes(imagecodecs.zstd_encode(raw, 1))
    drawn = len(quick) * _FLAT < len(raw)
    level = 1 if large and not drawn else _level(raw)
    bodies = {STORED: raw, ZSTD: bytes(imagecodecs.zstd_encode(raw, level)) if level > 1 else quick}
    if pixels.dtype.kind in "ui" and pixels.dtype.itemsize <= 2 and pixels.ndim >= 3:
        plane = _to_plane(pixels)
        if large and not drawn:
            bodies[JPEGXL] = bytes(
                imagecodecs.jpegxl_encode(plane, lossless=True, effort=1, numthreads=1)
            )
        elif max(plane.shape) <= _MAX_SIDE and plane.size:
            bodies[JPEGLS] = bytes(imagecodecs.jpegls_encode(plane, out=2 * plane.nbytes + 1024))
    if not large or drawn:
        picture = _to_picture(pixels)
        if picture is not None:
            bodies[WEBP] = bytes(imagecodecs.webp_encode(picture, lossless=True))
    if pixels.dtype.kind in "ui" and pixels.ndim >= 3 and pixels.shape[0] > 1:
        # a static overlay is the same on each frame: all but the first become zeros
        first, steps = encode(pixels[:1]), np.diff(pixels, axis=0)
        packed = bytes(imagecodecs.zstd_encode(steps.tobytes(), level))
        bodies[DELTA] = len(first).to_bytes(4, "little") + first + packed
    codec = min(bodies, key=lambda c: (len(bodies[c]), c))
    head = struct.pack(f"<BBB{pixels.ndim}I", codec, kind, pixels.ndim, *pixels.shape)
    patch = head + bodies[codec]
    return patch + zlib.crc32(patch).to_bytes(4)


def decode(patch: bytes) -> np.ndarray:
    """The array that :func:`encode` was given, in little-endian order.

    Raises:
        SealBroken: Not a patch of this version.
    """
    try:
        patch, checksum = patch[:-4], patch[-4:]
        if zlib.crc32(patch).to_bytes(4) != checksum:
            raise ValueError("checksum")
        codec, kind, axes = struct.unpack_from("<BBB", patch)
        shape = struct.unpack_from(f"<{axes}I", patch, 3)
        dtype = np.dtype(_DTYPES[kind])
        body = patch[3 + 4 * axes :]
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if codec == JPEGLS:
            return _from_plane(imagecodecs.jpegls_decode(body), shape, dtype)
        if codec == JPEGXL:
            return _from_plane(imagecodecs.jpegxl_decode(body, numthreads=1), shape, dtype)
        if codec == WEBP:
            picture = imagecodecs.webp_decode(body)
            return (picture if axes == 4 else picture[..., 0]).reshape(shape)
        if codec == DELTA:
            return _from_steps(body, shape, dtype)
        raw = body if codec == STORED else imagecodecs.zstd_decode(body, out=size)
        return np.frombuffer(raw, dtype).reshape(shape).copy()
    except (struct.error, IndexError, ValueError, RuntimeError) as err:
        raise SealBroken(
            "A sealed region has invalid content. Restore the image from a backup."
        ) from err


def _level(raw: bytes) -> int:
    return 3 if len(raw) > _LARGE_BYTES else 19


def _to_plane(pixels: np.ndarray) -> np.ndarray:
    """Frames and channels below each other as one unsigned picture.

    Colour becomes differences to green, modulo the word: burned-in text is mostly grey.
    """
    word = np.dtype(f"u{pixels.dtype.itemsize}")
    plane = pixels.view(word)
    if pixels.dtype.kind == "i":
        plane = plane ^ word.type(1 << (8 * word.itemsize - 1))
    if plane.ndim == 4:
        plane = np.moveaxis(plane, -1, 1)
        if plane.shape[1] >= 3:
            plane = plane.copy()
            plane[:, 0] -= plane[:, 1]
            plane[:, 2] -= plane[:, 1]
    return np.ascontiguousarray(plane.reshape(-1, pixels.shape[2]))


def _to_picture(pixels: np.ndarray) -> np.ndarray | None:
    """Frames below each other as one RGB picture; None where WebP cannot hold them."""
    if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or pixels.shape[3:] == (3,)):
        return None
    picture = pixels.reshape(-1, *pixels.shape[2:])
    if not picture.size or max(picture.shape[:2]) > _MAX_WEBP_SIDE:
        return None
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    return picture


def _from_plane(plane: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    word = np.dtype(f"u{dtype.itemsize}")
    if len(shape) == 4:
        pixels = plane.astype(word).reshape(shape[0], shape[3], shape[1], shape[2])
        if shape[3] >= 3:
            pixels[:, 0] += pixels[:, 1]
            pixels[:, 2] += pixels[:, 1]
        pixels = np.ascontiguousarray(np.moveaxis(pixels, 1, -1))
    else:
        pixels = plane.astype(word).reshape(shape)
    if dtype.kind == "i":
        pixels ^= word.type(1 << (8 * word.itemsize - 1))
    return pixels.view(dtype)


def _from_steps(body: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    end = 4 + int.from_bytes(body[:4], "little")
    first = decode(body[4:end])
    raw = imagecodecs.zstd_decode(body[end:], out=(shape[0] - 1) * first.nbytes)
    steps = np.frombuffer(raw, dtype).reshape(shape[0] - 1, *shape[1:])
    return np.cumsum(np.concatenate([first, steps]), axis=0, dtype=dtype)


def pack(parts: Mapping[str, bytes]) -> bytes:
    """Named byte strings as one, each compressed where that makes it smaller, and a CRC-32."""
    out = [struct.pack("<BI", 1, len(parts))]
    for name, part in parts.items():
        small = bytes(imagecodecs.zstd_encode(part, 1)) if part else b""
        if len(small) < 0.98 * len(part):  # not coded already: worth some time
            small = bytes(imagecodecs.zstd_encode(part, _level(part)))
        codec, body = (ZSTD, small) if 0 < len(small) < len(part) else (STORED, part)
        label = name.encode("ascii")
        out.append(struct.pack("<BBQQ", len(label), codec, len(part), len(body)) + label)
        out.append(body)
    packed = b"".join(out)
    return packed + zlib.crc32(packed).to_bytes(4)


def unpack(packed: bytes) -> dict[str, bytes]:
    """The parts that :func:`pack` was given.

    Raises:
        SealBroken: Not such a container.
    """
    try:
        version, count = struct.unpack_from("<BI", packed)
        if version != 1 or zlib.crc32(memoryview(packed)[:-4]).to_bytes(4) != packed[-4:]:
            raise ValueError("not a container of version 1, or damaged")
        parts: dict[str, bytes] = {}
        at = 5
        for _ in range(count):
            label_size, codec, size, body_size = struct.unpack_from("<BBQQ", packed, at)
            at += 18
            name = packed[at : at + label_size].decode("ascii")
            at += label_size
            body = packed[at : at + body_size]
            at += body_size
            part = body if codec == STORED else bytes(imagecodecs.zstd_decode(body, out=size))
            if len(part) != size:
                raise ValueError("short part")
            parts[name] = part
        return parts
    except (struct.error, ValueError, RuntimeError) as err:
        raise SealBroken(
            "A sealed part has invalid content. Restore the image from a backup."
        ) from err

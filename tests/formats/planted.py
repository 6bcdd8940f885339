"""Pictures with a name at every place that their format leaves open and no viewer shows.

Each entry is a file that opens, made by code, with :data:`NAME` in it: as plain bytes, inside a
compressed stream, as stored values, or as the bytes of a colour. The person is invented.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tifffile
from PIL import Image as Pillow
from PIL import ImageCms

from engine.formats import jpeg_file, png
from tests import builders

NAME = b"Quastenberg Ottilie 19470823"
_GREY = builders.radiograph(61, 43)
_COLOUR = builders.radiograph(61, 43, colour=True)
_MARK = np.frombuffer(NAME, np.uint8)


def profile(words: bytes = NAME) -> bytes:
    """A colour profile that says the name in a tag of its own, and behind its last tag."""
    whole = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = whole.index("sRGB".encode("utf-16-be"))
    whole[at : at + 8] = words[:8]
    whole += words + bytes(-len(words) % 4)
    whole[0:4] = len(whole).to_bytes(4)
    return bytes(whole)


# --- PNG ----------------------------------------------------------------------------------------


def png_file(
    pixels: np.ndarray,
    *,
    colour: int | None = None,
    depth: int | None = None,
    front: tuple[tuple[bytes, bytes], ...] = (),
    between: tuple[tuple[bytes, bytes], ...] = (),
    back: tuple[tuple[bytes, bytes], ...] = (),
    rows_more: bytes = b"",
    stream_more: bytes = b"",
    change: Callable[[bytearray], None] = lambda rows: None,
) -> bytes:
    """A PNG with more in it than a picture.

    Args:
        front, between, back: Chunks in front of the picture, in its middle and behind it.
        rows_more: Behind the rows, inside the compressed stream.
        stream_more: Behind the compressed stream, inside its chunk.
        change: Changes the packed rows.
    """
    header = png.header_of(pixels)
    if colour is not None or depth is not None:
        header = png.Header(
            header.width, header.height, depth or header.depth,
            header.colour if colour is None else colour, False,
        )  # fmt: skip
    rows = bytearray(png.filtered(pixels, header, np.zeros(header.height, np.uint8)))
    change(rows)
    stream = zlib.compress(bytes(rows) + rows_more) + stream_more
    half = len(stream) // 2
    head = struct.pack(
        ">IIBBBBB", header.width, header.height, header.depth, header.colour, 0, 0, 0
    )
    chunks = [
        (b"IHDR", head), *front, (b"IDAT", stream[:half]), *between, (b"IDAT", stream[half:]),
        *back, (b"IEND", b""),
    ]  # fmt: skip
    return png.SIGNATURE + b"".join(png.chunk(kind, body) for kind, body in chunks)


def _spelled(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    """A picture whose upper half is clear, with the name as colours in it."""
    top = np.iinfo(dtype).max
    pixels = np.full((44, 60, channels), top, dtype)
    pixels[30:, 9:50, :-1] = top // 3
    pixels[:20] = 0
    spelled = _MARK.astype(dtype) * (257 if top > 255 else 1)
    pixels[5, 3 : 3 + len(_MARK), 0] = spelled
    return pixels


def _spelled_indices() -> tuple[np.ndarray, bytes]:
    """Indices that spell the name in entries of one and the same colour, and the palette."""
    indices = np.zeros((30, 60), np.uint8)
    indices[4, 2 : 2 + len(_MARK)] = _MARK
    indices[20:, 10:30] = 1
    return indices, bytes(3) + b"\xff" * 3 + bytes(254 * 3)


def _unused_entries() -> bytes:
    filled = NAME + bytes(-len(NAME) % 3)
    return bytes((10, 20, 30, 200, 210, 220)) + filled


def _animated() -> bytes:
    frames = [Pillow.fromarray(p) for p in (_GREY, builders.labelled(width=61, height=43)[0])]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    data = buffer.getvalue()
    hidden = png.chunk(b"fdAT", struct.pack(">I", 9) + NAME)
    return data[:-12] + hidden + data[-12:]


def _padding_bits(rows: bytearray) -> None:
    """Put the name into the seven bits behind the last pixel of each row."""
    for row, letter in enumerate(NAME):
        rows[10 * row + 9] |= letter & 127


def _icc(body: bytes, name: bytes = b"colours") -> tuple[bytes, bytes]:
    return b"iCCP", name + b"\0\0" + zlib.compress(body)


def pngs() -> Iterator[tuple[str, bytes]]:
    for kind in (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"tIME", b"bKGD", b"hIST", b"sPLT", b"prVt"):
        yield f"{kind.decode()} in front", png_file(_GREY, front=((kind, NAME),))
        yield f"{kind.decode()} behind", png_file(_GREY, back=((kind, NAME),))
    yield "between data", png_file(_GREY, between=((b"prVt", NAME),))
    yield "compressed text", png_file(_GREY, front=((b"zTXt", b"a\0\0" + zlib.compress(NAME)),))
    yield "behind the end", builders.png(_GREY) + NAME
    yield (
        "second file behind the end",
        builders.png(_GREY) + png_file(_GREY, front=((b"tEXt", b"a\0" + NAME),)),
    )
    yield "behind the rows", png_file(_GREY, rows_more=NAME * 3)
    yield "behind the stream", png_file(_GREY, stream_more=NAME)
    for kind, good in (
        (b"gAMA", 4), (b"cHRM", 32), (b"sRGB", 1), (b"sBIT", 1), (b"pHYs", 9), (b"tRNS", 2),
    ):  # fmt: skip
        yield f"long {kind.decode()}", png_file(_GREY, front=((kind, b"\0" * good + NAME),))
        yield f"words as {kind.decode()}", png_file(_GREY, front=((kind, (NAME * 2)[:good]),))
        yield f"second {kind.decode()}", png_file(_GREY, front=((kind, bytes(good)), (kind, NAME)))
    yield "name of a profile", png_file(_COLOUR, front=(_icc(profile(b"sRGB"), NAME),))
    yield "words of a profile", png_file(_COLOUR, front=(_icc(profile()),))
    yield "no profile at all", png_file(_COLOUR, front=(_icc(NAME * 5),))
    yield "colours of clear pixels", png_file(_spelled(4))
    yield "greys of clear pixels", png_file(_spelled(2))
    yield "deep colours of clear pixels", png_file(_spelled(4, np.uint16))
    indices, palette = _spelled_indices()
    yield (
        "entries that look the same",
        png_file(indices, colour=png.PALETTE, front=((b"PLTE", palette),)),
    )
    yield "clear entries", png_file(
        indices, colour=png.PALETTE,
        front=((b"PLTE", bytes(range(256)) * 3), (b"tRNS", b"\0\xff" + bytes(254))),
    )  # fmt: skip
    yield "entries that nothing uses", png_file(
        (indices == 1).astype(np.uint8), colour=png.PALETTE,
        front=((b"PLTE", _unused_entries()), (b"tRNS", b"\xff\x80" + NAME[:8])),
    )  # fmt: skip
    yield "bits behind a row", png_file(np.zeros((43, 65), np.uint8), depth=1, change=_padding_bits)
    yield "frames of an animation", _animated()


# --- JPEG ---------------------------------------------------------------------------------------


def _segment(marker: int, body: bytes) -> bytes:
    return jpeg_file.put_segment(marker, body)


def _with_segment(marker: int, body: bytes, data: bytes | None = None) -> bytes:
    data = data or builders.jpeg(_COLOUR)
    return data[:2] + _segment(marker, body) + data[2:]


def _tall() -> bytes:
    """Rows of blocks below the height that the header says."""
    pixels = np.vstack([_GREY[:40], builders.labelled(width=61, height=40)[0]])
    data = builders.jpeg(pixels)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">H", 40) + data[at + 2 :] + NAME


def jpegs() -> Iterator[tuple[str, bytes]]:
    plain = builders.jpeg(_COLOUR)
    small = builders.pillow(builders.labelled(width=61, height=43)[0], "JPEG", comment=NAME)
    yield "comment", builders.jpeg(_COLOUR, comment=NAME)
    for number in range(16):
        yield f"APP{number}", _with_segment(0xE0 + number, NAME * 2)
    yield (
        "thumbnail of JFIF",
        _with_segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\3\3" + NAME[:27], plain[:2] + plain[20:]),
    )
    yield "JFXX", _with_segment(0xE0, b"JFXX\0\x10" + small)
    yield (
        "density",
        _with_segment(0xE0, b"JFIF\0\1\2\1" + NAME[:4] + b"\0\0", plain[:2] + plain[20:]),
    )
    yield (
        "long JFIF",
        _with_segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\0\0" + NAME, plain[:2] + plain[20:]),
    )
    yield "EXIF thumbnail", _with_segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0" + small)
    yield "XMP", _with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + NAME)
    yield "several pictures", _with_segment(0xE2, b"MPF\0" + NAME) + small
    yield "FlashPix", _with_segment(0xE2, b"FPXR\0" + NAME)
    yield "Photoshop", _with_segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\x1c" + NAME)
    yield "long Adobe", _with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\1" + NAME)
    yield "flags of Adobe", _with_segment(0xEE, b"Adobe" + NAME[:6] + b"\1")
    yield "words of a profile", builders.jpeg(_COLOUR, icc_profile=profile())
    yield "piece of a profile", _with_segment(0xE2, b"ICC_PROFILE\0\7\7" + NAME)
    yield "behind the end", plain + NAME
    yield "second picture behind the end", plain + small
    yield "unused quantisers", _with_segment(0xDB, b"\3" + (NAME * 3)[:64])
    lengths = bytes([0] * 7 + [len(NAME)] + [0] * 8)
    yield "unused code table", _with_segment(0xC4, b"\x13" + lengths + NAME)
    yield "behind the picture's bits", plain[:-2] + NAME + plain[-2:]
    yield "below the height", _tall()
    yield "progressive", builders.jpeg(_COLOUR, progressive=True, comment=NAME)
    at = plain.index(b"\xff\xc0")
    ids = bytearray(plain)
    for place, old in ((at + 10, 1), (at + 13, 2), (at + 16, 3)):
        ids[place] = NAME[old]
    scan = ids.index(b"\xff\xda")
    ids[scan + 5], ids[scan + 7], ids[scan + 9] = NAME[1], NAME[2], NAME[3]
    yield "numbers of components", bytes(ids) + NAME


# --- TIFF, BMP, WebP ----------------------------------------------------------------------------


def _tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(pixels, metadata=None, **options)
    return buffer.getvalue()


def _tiff_gap() -> bytes:
    """Bytes between the directory and the first strip."""
    data = bytearray(_tiff(_GREY, software=""))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        offsets = file.pages[0].tags["StripOffsets"]
        start, place = int(offsets.value[0]), offsets.valueoffset
    data[start:start] = NAME
    data[place : place + 4] = struct.pack("<I", start + len(NAME))
    return bytes(data)


def _tiff_tile() -> bytes:
    """Letters in the part of the last tiles that lies beyond the picture."""
    data = bytearray(_tiff(builders.radiograph(40, 30), tile=(32, 32)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        start = file.pages[0].dataoffsets[1]
    data[start + 8 + 3 : start + 8 + 3 + 20] = NAME[:20]
    return bytes(data) + NAME


def _tiff_below() -> bytes:
    """A second picture, with a name, in a directory below that of the first."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(_GREY, subifds=1, metadata=None)
        file.write(_GREY[:20, :20], subfiletype=1, metadata=None, description=NAME.decode())
    return buffer.getvalue()


def tiffs() -> Iterator[tuple[str, bytes]]:
    yield "description", _tiff(_GREY, description=NAME.decode())
    yield "software", _tiff(_GREY, software=NAME.decode())
    for tag in (315, 33432, 65000):
        yield f"tag {tag}", _tiff(_GREY, extratags=[(tag, 2, 0, NAME.decode(), True)])
    for tag in (700, 33723, 34377, 34675, 50000):
        yield f"bytes of tag {tag}", _tiff(_GREY, extratags=[(tag, 7, len(NAME), NAME, True)])
    yield "words of a profile", _tiff(_COLOUR, photometric="rgb", iccprofile=profile())
    yield "directory below", _tiff_below()
    yield "behind the end", _tiff(_GREY) + NAME
    yield "between", _tiff_gap()
    yield "beyond the last tile", _tiff_tile()
    yield "colours of clear pixels", _tiff(_spelled(4), photometric="rgb", extrasamples=[2])
    yield (
        "deep colours of clear pixels",
        _tiff(_spelled(4, np.uint16), photometric="rgb", extrasamples=[2]),
    )
    wave = builders.radiograph(60, 44).astype(np.float32)
    wave.view(np.uint32)[5, 3 : 3 + len(_MARK)] = 0x7FC00000 | _MARK.astype(np.uint32)
    yield "bits of what is no number", _tiff(wave)
    yield "bits of what is no number, compressed", _tiff(wave, compression="zlib")
    indices, _ = _spelled_indices()
    flat = np.zeros((3, 256), np.uint16)
    flat[:, 1] = 65535
    yield "entries that look the same", _tiff(indices, photometric="palette", colormap=flat)
    words = flat.copy()
    words[0, 100 : 100 + len(_MARK)] = _MARK.astype(np.uint16) * 257
    yield (
        "entries that nothing uses",
        _tiff((indices == 1).astype(np.uint8), photometric="palette", colormap=words),
    )
    fine = flat.copy()
    fine[0, 0] = struct.unpack("<H", b"Q\0")[0]
    yield (
        "steps too fine to see",
        _tiff((indices == 1).astype(np.uint8), photometric="palette", colormap=fine) + NAME,
    )


def bmps() -> Iterator[tuple[str, bytes]]:
    plain = builders.pillow(_COLOUR, "BMP")
    (start,) = struct.unpack_from("<I", plain, 10)
    moved = struct.pack("<I", start + len(NAME))
    yield "behind the end", plain + NAME
    yield "in front of the pixels", plain[:10] + moved + plain[14:start] + NAME + plain[start:]
    grey = bytearray(builders.pillow(builders.radiograph(61, 43), "BMP"))
    first = struct.unpack_from("<I", grey, 10)[0]
    for row, letter in enumerate(NAME):
        grey[first + 64 * row + 62] = letter
    yield "behind the rows", bytes(grey)
    few = builders.radiograph(61, 43) // 128
    palette = bytearray(builders.pillow(few, "BMP", "P"))
    palette[54 + 400 : 54 + 400 + len(NAME)] = NAME
    yield "entries that nothing uses", bytes(palette)
    reserved = bytearray(plain)
    reserved[6:10] = NAME[:4]
    yield "reserved bytes", bytes(reserved) + NAME
    wide = np.dstack([_COLOUR[..., ::-1], np.zeros(_COLOUR.shape[:2], np.uint8)])[::-1].copy()
    wide[4, 3 : 3 + len(_MARK), 3] = _MARK
    head = b"BM" + struct.pack("<IHHI", 54 + wide.size, 0, 0, 54)
    head += struct.pack("<IiiHHIIiiII", 40, 61, 43, 1, 32, 0, wide.size, 0, 0, 0, 0)
    yield "fourth byte of a pixel", head + wide.tobytes()


def webps() -> Iterator[tuple[str, bytes]]:
    plain = builders.pillow(_COLOUR, "WEBP", lossless=True)

    def grown(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
        more = b"".join(
            kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
            for kind, body in chunks
        )
        size = struct.pack("<I", len(data) - 8 + len(more))
        return data[:4] + size + data[8:] + more

    extended = builders.pillow(_COLOUR, "WEBP", lossless=True, exif=b"Exif\0\0" + NAME)
    yield "EXIF", extended
    yield "XMP", builders.pillow(_COLOUR, "WEBP", lossless=True, xmp=NAME)
    yield (
        "words of a profile",
        builders.pillow(_COLOUR, "WEBP", lossless=True, icc_profile=profile()),
    )
    yield "unknown chunk", grown(extended, (b"prVt", NAME))
    yield "behind the end", plain + NAME
    yield (
        "colours of clear pixels",
        builders.pillow(_spelled(4), "WEBP", lossless=True, exact=True, quality=100),
    )


def pictures() -> dict[str, bytes]:
    """Every one of them, by a telling name."""
    makers = {"PNG": pngs, "JPEG": jpegs, "TIFF": tiffs, "BMP": bmps, "WebP": webps}
    return {f"{kind}: {what}": data for kind, make in makers.items() for what, data in make()}

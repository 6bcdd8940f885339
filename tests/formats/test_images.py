"""Images as files: found from content, refused with a sentence, apart and together again."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps
from PIL.PngImagePlugin import PngInfo

from engine.errors import (
    CorruptImage,
    EngineError,
    ImageTooLarge,
    InputError,
    NotFound,
    SealBroken,
    UnsupportedFormat,
)
from engine.formats import images, png
from engine.records import Detection, Dissection, Format, Image, Region
from engine.settings import Settings
from tests import builders

LIMITS = images.Limits.of(Settings())
KEY = b"secret of one patient, 32 bytes."
FILES = builders.every_format()


def read(data: bytes) -> Image:
    return images.decode("any", data, LIMITS)


def three_boxes(image: Image) -> list[Region]:
    """Two that overlap, over all frames and over one, and one in the last corner."""
    w, h = image.width, image.height
    boxes = [
        Region(w // 20, h // 20, w // 2, h // 3, 0, image.frames),
        Region(w // 3, h // 6, w * 2 // 3, h * 2 // 3, image.frames - 1),
        Region(w - 7, h - 5, w, h, image.frames // 2),
    ]
    aligned = [b.aligned(image.grid).clipped(w, h, image.frames) for b in boxes]
    return [b for b in aligned if b is not None]


@cache
def taken(name: str) -> tuple[Image, list[Region], Dissection]:
    """A file of the table, three boxes on it, and its parts."""
    image = read(FILES[name])
    regions = three_boxes(image)
    return image, regions, images.dissect(image, regions, KEY)


def under(image: Image, regions: list[Region]) -> np.ndarray:
    """Which pixels lie under a box: shape (frames, height, width)."""
    hidden = np.zeros(image.pixels.shape[:3], bool)
    for region in regions:
        hidden[region.slices] = True
    return hidden


# --- apart and together ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_everything_together_gives_the_original_back(name: str) -> None:
    _, regions, made = taken(name)
    back = images.assemble(made.masked, regions, dict(enumerate(made.patches)), made.remainder)
    assert back == FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_the_masked_file_is_of_the_same_format_and_size_and_hides_the_boxes(name: str) -> None:
    image, regions, made = taken(name)
    masked = read(made.masked)
    assert masked.format is image.format
    assert masked.pixels.shape == image.pixels.shape
    assert masked.pixels.dtype == image.pixels.dtype
    hidden = under(image, regions)
    before = [images.render(image, f) for f in range(image.frames)]
    after = [images.render(masked, f) for f in range(image.frames)]
    for frame, (seen, kept) in enumerate(zip(before, after, strict=True)):
        assert seen.shape == kept.shape == (image.height, image.width, 3)
        if hidden[frame].any():
            fill = kept[hidden[frame]].astype(int)
            assert fill.max() - fill.min() > 20, "a fill that nobody can see"
    if not image.properties["lossy"] and "palette" not in name:
        assert np.array_equal(masked.pixels[~hidden], image.pixels[~hidden])


@pytest.mark.parametrize("name", FILES)
def test_one_patch_alone_opens_its_own_pixels_and_no_others(name: str) -> None:
    image, regions, made = taken(name)
    masked = read(made.masked)
    partial = read(images.assemble(made.masked, regions, {1: made.patches[1]}, None))
    own = np.zeros(image.pixels.shape[:3], bool)
    own[regions[1].slices] = True
    own[regions[0].slices] = False  # the first region owns what both hold
    shown = [images.render(p) for p in (image, masked, partial)]
    if partial.pixels.shape == masked.pixels.shape:
        assert np.array_equal(partial.pixels[own], image.pixels[own]) or image.properties["lossy"]
        still = under(image, regions) & ~own
        if not image.properties["lossy"]:
            assert np.array_equal(partial.pixels[still], masked.pixels[still])
    else:  # a palette picture opens to colours
        frame = regions[1].frame
        assert np.array_equal(shown[2][own[frame]], shown[0][own[frame]])
        still = under(image, regions)[frame] & ~own[frame]
        assert np.array_equal(shown[2][still], shown[1][still])


def test_a_later_patch_holds_blanks_where_an_earlier_region_owns_the_pixel() -> None:
    pixels = builders.radiograph(64, 48)
    regions = [Region(0, 0, 32, 32), Region(16, 16, 48, 48)]
    other = pixels.copy()
    other[16:32, 16:32] ^= 255  # only what both hold
    patches = [images.dissect(read(builders.png(p)), regions, KEY).patches for p in (pixels, other)]
    assert patches[0][0] != patches[1][0]
    assert patches[0][1] == patches[1][1]


def test_the_order_in_which_patches_are_put_back_does_not_matter() -> None:
    image = read(FILES["PNG grey 8"])
    regions = three_boxes(image)
    made = images.dissect(image, regions, KEY)
    backwards = dict(reversed(list(enumerate(made.patches))))
    assert images.assemble(made.masked, regions, backwards, made.remainder) == image.data


def test_without_regions_the_masked_file_still_loses_its_metadata() -> None:
    data = builders.jpeg(builders.radiograph(colour=True), comment=b"Musterfrau Erika")
    made = images.dissect(read(data), [], KEY)
    assert b"Musterfrau" not in made.masked
    assert images.assemble(made.masked, [], {}, made.remainder) == data


def test_a_remainder_without_all_patches_is_refused() -> None:
    image = read(FILES["PNG grey 8"])
    regions = three_boxes(image)
    made = images.dissect(image, regions, KEY)
    with pytest.raises(ValueError, match="without all patches"):
        images.assemble(made.masked, regions, {0: made.patches[0]}, made.remainder)


@pytest.mark.parametrize("name", ["PNG RGB", "JPEG 4:2:0", "TIFF 16", "DICOM RLELossless cine"])
def test_a_patch_of_another_image_is_a_named_error(name: str) -> None:
    image, other = read(FILES[name]), read(builders.png(builders.radiograph(50, 40)))
    regions = three_boxes(image)
    made = images.dissect(image, regions, KEY)
    stranger = images.dissect(other, [Region(0, 0, 8, 8)], KEY).patches[0]
    for wrong in (stranger, b"", b"\x01\x02\x03", made.patches[0][:-9]):
        with pytest.raises(SealBroken):
            images.assemble(made.masked, regions, {0: wrong}, None)


@pytest.mark.parametrize("box", [(0, 0, 9999, 8), (3, 0, 24, 16), (0, 1, 16, 16), (0, 0, 17, 16)])
def test_a_region_off_the_grid_or_outside_is_refused(box: tuple[int, int, int, int]) -> None:
    image = read(FILES["JPEG 4:2:0"])
    assert image.grid == (16, 16)
    with pytest.raises(ValueError, match="region"):
        images.dissect(image, [Region(*box)], KEY)


# --- nothing leaks ----------------------------------------------------------------------------


def _differ_inside(name: str) -> tuple[bytes, bytes, list[Region]]:
    """Two files that differ only inside the boxes, and the boxes."""
    colour = "grey" not in name
    moving = "cine" in name or "pages" in name
    kind = name.split()[0]
    if moving:
        pixels, static, once = builders.cine(width=160, height=128)
        boxes = [static.padded(0.04, 4), once.padded(0.04, 4)]
    else:
        bits = 16 if "16" in name else 12 if "12" in name else 8
        pixels, box = builders.labelled(width=161, height=123, bits=bits, colour=colour)
        boxes = [box.padded(0.04, 4), Region(100, 60, 161, 123)]
    frames = len(pixels) if moving else 1
    grid = (16, 16) if "JPEG" in name or "lossy" in name else (2, 1)
    height, width = pixels.shape[1:3] if moving else pixels.shape[:2]
    regions = [r for b in boxes if (r := b.aligned(grid).clipped(width, height, frames))]
    pair = (pixels, builders.differing_inside(pixels, regions))
    makers = {
        "PNG": lambda p: builders.png(p),
        "JPEG": lambda p: builders.jpeg(
            p, sampling=name[5:] if ":" in name else "4:4:4", optimize="optimised" in name,
            progressive="progressive" in name,
        ),
        "TIFF": lambda p: builders.pillow(
            p[0] if moving else p, "TIFF", save_all=moving,
            append_images=[Pillow.fromarray(f) for f in p[1:]] if moving else [],
        ),
        "BMP": lambda p: builders.pillow(p, "BMP"),
        "WebP": lambda p: builders.pillow(p, "WEBP", lossless=True),
    }  # fmt: skip
    if kind == "DICOM":
        syntax = next(
            s for s in (*builders.UNCOMPRESSED, *builders.LOSSLESS, builders.JPEGBaseline8Bit)
            if s.keyword in name
        )  # fmt: skip
        one, two = (
            builders.dicom(
                p, syntax=syntax, bits=12 if "12" in name else None,
                SmallestImagePixelValue=int(p.min()), LargestImagePixelValue=int(p.max()),
            )
            for p in pair
        )  # fmt: skip
    else:
        one, two = (makers[kind](p) for p in pair)
    return one, two, regions


LEAK_CASES = [
    "PNG grey", "PNG RGB", "PNG grey 16", "JPEG grey", "JPEG 4:2:0", "JPEG 4:2:2", "JPEG 4:4:4",
    "JPEG optimised", "JPEG progressive", "TIFF grey", "TIFF grey pages", "BMP RGB", "WebP RGB",
    *(f"DICOM {s.keyword} {kind}" for s in (*builders.UNCOMPRESSED, *builders.LOSSLESS)
      for kind in ("grey 8", "grey 12", "RGB", "cine grey")),
    "DICOM JPEGBaseline8Bit grey", "DICOM JPEGBaseline8Bit RGB", "DICOM JPEGBaseline8Bit cine grey",
]  # fmt: skip


@pytest.mark.parametrize("name", LEAK_CASES)
def test_what_is_under_the_boxes_leaves_no_trace_in_the_masked_file(name: str) -> None:
    one, two, regions = _differ_inside(name)
    assert one != two
    first, second = (images.dissect(read(data), regions, KEY) for data in (one, two))
    assert first.masked == second.masked
    assert all(a != b for a, b in zip(first.patches, second.patches, strict=True))
    pictures = [images.render(read(d.masked)) for d in (first, second)]
    boxes = [Detection(r, "text", 0.9, "test") for r in regions]
    assert images.thumbnail(pictures[0]) == images.thumbnail(pictures[1])
    assert images.grid_picture(pictures[0], boxes) == images.grid_picture(pictures[1], boxes)


def test_a_colour_that_only_a_box_uses_is_not_in_the_masked_palette() -> None:
    indices = np.zeros((40, 60), np.uint8)
    indices[5:15, 5:30] = 7
    picture = Pillow.fromarray(indices).convert("P")
    picture.putpalette(bytes(range(30)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=False)
    image = read(buffer.getvalue())
    made = images.dissect(image, [Region(5, 5, 30, 15)], KEY)
    assert bytes((21, 22, 23)) not in made.masked.split(b"PLTE")[1].split(b"IDAT")[0]
    back = images.assemble(
        made.masked, [Region(5, 5, 30, 15)], {0: made.patches[0]}, made.remainder
    )
    assert back == buffer.getvalue()


def test_metadata_of_pictures_comes_back_and_is_not_in_the_masked_file() -> None:
    colour = builders.radiograph(colour=True)
    exif = Pillow.Exif()
    exif[0x013B] = "Musterfrau Erika"
    exif[0x0112] = 6
    words = PngInfo()
    words.add_text("Patient", "Musterfrau Erika")
    for data in (
        builders.jpeg(colour, exif=exif, comment=b"Musterfrau Erika"),
        builders.pillow(colour, "PNG", pnginfo=words, exif=exif),
        builders.pillow(colour, "TIFF", description="Musterfrau Erika", artist="Musterfrau Erika"),
        builders.pillow(colour, "WEBP", exif=exif, lossless=True),
        builders.jpeg(colour) + b"Musterfrau Erika",
        builders.png(colour) + b"Musterfrau Erika",
    ):
        assert b"Musterfrau" in data
        image = read(data)
        regions = [Region(0, 0, 32, 32)]
        made = images.dissect(image, regions, KEY)
        assert b"Musterfrau" not in made.masked
        back = images.assemble(made.masked, regions, {0: made.patches[0]}, made.remainder)
        assert back == data


def test_the_masked_jpeg_is_still_shown_upright() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    image = read(builders.jpeg(builders.radiograph(colour=True), exif=exif))
    assert image.properties["orientation"] == 6
    masked = images.dissect(image, [Region(0, 0, 16, 16)], KEY).masked
    assert Pillow.open(io.BytesIO(masked)).getexif() == {0x0112: 6}


# --- refusals -----------------------------------------------------------------------------------


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_of(width: int, height: int, *chunks: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + _chunk(b"IEND", b"")


def _animated(kind: str) -> bytes:
    frames = [Pillow.fromarray(builders.radiograph(40, 30, seed=i)).convert("RGB") for i in (1, 2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _huge_jpeg() -> bytes:
    data = bytearray(builders.jpeg(builders.radiograph(40, 30)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


GREY = builders.radiograph(60, 40)
REFUSED = {
    "nothing": (b"", CorruptImage),
    "text": (b"Dear Dr. Smith, please find attached the image", UnsupportedFormat),
    "PDF": (b"%PDF-1.7 " + bytes(500), UnsupportedFormat),
    "cut GIF": (_animated("GIF")[:-200], CorruptImage),
    "cut animated WebP": (_animated("WEBP")[:-60], CorruptImage),
    "cut CMYK JPEG": (builders.pillow(GREY, "JPEG", "CMYK")[:-200], CorruptImage),
    "Lab TIFF": (builders.pillow(builders.radiograph(60, 40, colour=True), "TIFF", "LAB"),
                 UnsupportedFormat),
    "cut PNG": (builders.png(GREY)[:-200], CorruptImage),
    "cut JPEG": (builders.jpeg(GREY)[:-200], CorruptImage),
    "cut TIFF": (builders.pillow(GREY, "TIFF")[:600], CorruptImage),
    "cut BMP": (builders.pillow(GREY, "BMP")[:-200], CorruptImage),
    "cut WebP": (builders.pillow(GREY, "WEBP")[:-60], CorruptImage),
    "cut DICOM": (builders.dicom(GREY)[:-200], CorruptImage),
    "PNG magic only": (b"\x89PNG\r\n\x1a\n", CorruptImage),
    "JPEG magic only": (b"\xff\xd8\xff\xe0", CorruptImage),
    "DICOM magic only": (bytes(128) + b"DICM", UnsupportedFormat),
    "PNG without width": (_png_of(0, 5, _chunk(b"IDAT", zlib.compress(b""))), CorruptImage),
    "PNG without picture": (_png_of(5, 5), CorruptImage),
    "PNG flood": (_png_of(30_000, 30_000, _chunk(b"IDAT", zlib.compress(b"0" * 9))), CorruptImage),
    "PNG of gigapixels": (_png_of(32_000, 60_000, _chunk(b"IDAT", b"")), ImageTooLarge),
    "PNG that promises too little": (
        _png_of(4, 4, _chunk(b"IDAT", zlib.compress(b"0" * 9))), CorruptImage,
    ),
    "JPEG of gigapixels": (_huge_jpeg(), ImageTooLarge),
    "DICOM of gigapixels": (
        builders.dicom(GREY, Rows=65_000, Columns=32_000), ImageTooLarge,
    ),
    "DICOM of too many frames": (
        builders.dicom(GREY, NumberOfFrames=2_000_000), ImageTooLarge,
    ),
    "DICOM of no rows": (builders.dicom(GREY, Rows=0), CorruptImage),
    "DICOM of unknown syntax": (
        builders.dicom(GREY, syntax="1.2.3.4.5", fragments=[b"what..."]), UnsupportedFormat,
    ),
    "DICOM without pixels": (
        builders.dicom(GREY).split(b"\xe0\x7f\x10\x00")[0], UnsupportedFormat,
    ),
}  # fmt: skip


def test_of_an_animated_png_the_default_picture_is_taken_and_the_others_are_sealed() -> None:
    data = _animated("PNG")
    image = read(data)
    first = builders.radiograph(40, 30, seed=1)
    assert np.array_equal(image.pixels[0], np.repeat(first[..., None], 3, 2))
    made = images.dissect(image, [Region(0, 0, 9, 9)], KEY)
    assert b"fdAT" in data
    assert not {b"fdAT", b"fcTL", b"acTL"} & set(_kinds(made.masked))
    back = images.assemble(made.masked, [Region(0, 0, 9, 9)], {0: made.patches[0]}, made.remainder)
    assert back == data


def _kinds(data: bytes) -> list[bytes]:
    return [chunk.kind for chunk in png.parse(data).chunks]


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input_gets_a_sentence_that_helps(name: str) -> None:
    data, kind = REFUSED[name]
    with pytest.raises(InputError) as caught:
        read(data)
    assert type(caught.value) is kind
    sentence = caught.value.message
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert len(sentence) > 20


def test_a_file_over_its_limit_is_refused_before_it_is_read() -> None:
    small = replace(LIMITS, picture_bytes=1000, dicom_bytes=2000)
    with pytest.raises(ImageTooLarge) as caught:
        images.decode("a.png", builders.png(GREY), small)
    assert caught.value.facts["limit_bytes"] == 1000
    with pytest.raises(ImageTooLarge):
        images.decode("a.dcm", builders.dicom(builders.radiograph()), small)
    assert images.decode("a.png", builders.png(GREY[:8, :8]), small).frames == 1


def test_limits_are_those_of_the_settings() -> None:
    limits = images.Limits.of(Settings(picture_limit_mb=3, dicom_limit_mb=7, max_side_px=99))
    assert (limits.picture_bytes, limits.dicom_bytes) == (3_000_000, 7_000_000)
    assert limits.max_side_px == 99
    with pytest.raises(ImageTooLarge):
        images.decode("a.png", builders.png(builders.radiograph(100, 20)), limits)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("JPEG 4:2:0", Format.JPEG), ("PNG RGB", Format.PNG), ("TIFF 16", Format.TIFF),
     ("BMP RGB", Format.BMP), ("WebP lossy", Format.WEBP),
     ("DICOM RLELossless RGB", Format.DICOM)],
)  # fmt: skip
def test_the_format_is_found_from_content_whatever_the_name_says(name: str, kind: Format) -> None:
    assert images.sniff(FILES[name]) is kind
    assert images.decode("patient.exe", FILES[name], LIMITS).format is kind


def test_a_dicom_without_its_preamble_is_found_too() -> None:
    whole = builders.dicom(GREY)
    assert images.sniff(whole[132:]) is Format.DICOM
    assert np.array_equal(read(whole[132:]).pixels[0], GREY)


# --- what a person sees -----------------------------------------------------------------------


def test_stored_values_are_those_that_other_decoders_find() -> None:
    for name in ("PNG grey 8", "PNG grey 16", "PNG RGB", "PNG RGB 16", "PNG RGBA"):
        theirs = cv2.imdecode(np.frombuffer(FILES[name], np.uint8), cv2.IMREAD_UNCHANGED)
        if theirs.ndim == 3:
            theirs = theirs[..., [2, 1, 0, 3][: theirs.shape[2]]]
        assert np.array_equal(read(FILES[name]).pixels[0], theirs), name
    for name, data in FILES.items():
        if name.startswith(("JPEG", "BMP", "WebP", "TIFF RGB", "TIFF grey")):
            picture = Pillow.open(io.BytesIO(data))
            theirs = np.asarray(picture if picture.mode != "P" else picture.convert("RGB"))
            assert np.array_equal(read(data).pixels[0], theirs), name


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("PNG") and "16" not in n])
def test_a_png_is_shown_as_pillow_shows_it(name: str) -> None:
    picture = Pillow.open(io.BytesIO(FILES[name])).convert("RGBA")
    black = Pillow.new("RGBA", picture.size, (0, 0, 0, 255))
    theirs = np.asarray(Pillow.alpha_composite(black, picture).convert("RGB"))
    assert np.array_equal(images.render(read(FILES[name])), theirs)


def test_transparency_is_shown_on_black() -> None:
    pixels = np.full((4, 6, 4), 200, np.uint8)
    pixels[:, :3, 3] = 0
    seen = images.render(read(builders.png(pixels)))
    assert (seen[:, :3] == 0).all()
    assert (seen[:, 3:] == (200 * 200 + 127) // 255).all()


def test_a_frame_that_is_not_there_is_not_found() -> None:
    image = read(FILES["PNG grey 8"])
    for frame in (-1, 1):
        with pytest.raises(NotFound, match="frame"):
            images.render(image, frame)


def test_the_digest_tells_type_shape_and_every_value() -> None:
    pixels = np.arange(24, dtype=np.uint16).reshape(1, 4, 6)
    one_bit = pixels.copy()
    one_bit[0, 3, 5] ^= 1
    others = [one_bit, pixels.reshape(1, 6, 4), pixels.astype(np.int16), pixels.reshape(2, 2, 6)]
    digests = {images.pixel_digest(p) for p in (pixels, *others)}
    assert len(digests) == 5
    assert images.pixel_digest(pixels.astype(">u2")) == images.pixel_digest(pixels)
    strided = np.moveaxis(np.moveaxis(pixels, 0, -1).copy(), -1, 0)
    assert images.pixel_digest(strided) == images.pixel_digest(pixels)


def test_pictures_for_people_have_the_size_they_promise() -> None:
    image = read(builders.png(builders.radiograph(1500, 900)))
    seen = images.render(image)
    boxes = [
        Detection(Region(10, 10, 400, 80), "text", 0.91, "net"),
        Detection(Region(0, 800, 1500, 900), "barcode", 1.0),
    ]
    small = Pillow.open(io.BytesIO(images.thumbnail(seen)))
    assert max(small.size) == 256
    plain = Pillow.open(io.BytesIO(images.grid_picture(seen, [])))
    grid = Pillow.open(io.BytesIO(images.grid_picture(seen, boxes)))
    assert grid.format == plain.format == "PNG"
    assert grid.width == 640
    assert grid.height > plain.height > 384
    assert np.array_equal(np.asarray(Pillow.open(io.BytesIO(images.encode_png(seen)))), seen)
    assert Pillow.open(io.BytesIO(images.encode_jpeg(seen))).size == (1500, 900)
    assert images.enhance(seen).shape == seen.shape
    assert images.enhance(seen).std() > seen.std()


def test_errors_never_quote_the_name_or_the_patient() -> None:
    named = builders.dicom(GREY, Rows=0)
    with pytest.raises(EngineError) as caught:
        images.decode("Musterfrau_Erika.dcm", named, LIMITS)
    said = str(caught.value) + repr(caught.value.facts)
    for secret in ("Musterfrau", "Erika", "Doe", "H-000001"):
        assert secret not in said


def test_names_are_kept_to_255_characters_from_the_end() -> None:
    image = images.decode("x" * 400 + ".png", builders.png(GREY), LIMITS)
    assert len(image.name) == 255
    assert image.name.endswith(".png")


def test_times_of_a_cine_are_regions_of_frames() -> None:
    pixels, static, once = builders.cine()
    image = read(builders.dicom(pixels))
    regions = [static, once]
    made = images.dissect(image, regions, KEY)
    masked = read(made.masked)
    for frame in range(image.frames):
        here = masked.pixels[frame, once.y1 : once.y2, once.x1 : once.x2]
        original = image.pixels[frame, once.y1 : once.y2, once.x1 : once.x2]
        assert np.array_equal(here, original) == (frame != once.frame)
    fills = [masked.pixels[f][static.slices[1:]] for f in range(image.frames)]
    assert all(np.array_equal(a, b) for a, b in pairwise(fills))


@pytest.mark.parametrize("name", FILES)
def test_a_masked_file_comes_back_from_storage_unchanged(name: str) -> None:
    masked = taken(name)[2].masked
    stored = images.for_storage(masked)
    assert images.from_storage(stored) == masked
    if name.startswith("DICOM") and "LittleEndian" in name and "Deflated" not in name:
        assert len(stored) < 0.7 * len(masked)


def test_what_was_not_stored_here_is_a_named_error() -> None:
    for wrong in (b"", b"\x02abc", b"\x01abc"):
        with pytest.raises(SealBroken):
            images.from_storage(wrong)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_turned_upright_and_its_boxes_back(orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    pixels = builders.radiograph(61, 40, colour=True)
    data = builders.pillow(pixels, "PNG", exif=exif)
    theirs = np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))))
    turned = images.upright(pixels, orientation)
    assert np.array_equal(turned, theirs)
    region = Region(5, 3, 17, 9)
    stored = images.from_upright(region, orientation, 61, 40)
    found = np.zeros(pixels.shape[:2], bool)
    found[stored.slices[1:]] = True
    expected = np.zeros(turned.shape[:2], bool)
    expected[region.slices[1:]] = True
    assert np.array_equal(images.upright(found, orientation), expected)


# --- old files open for ever --------------------------------------------------------------------

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "images-v1.json").read_text())[
    "cases"
]


@pytest.mark.parametrize("case", VECTORS, ids=lambda c: c["name"])
def test_parts_of_version_1_still_open(case: dict[str, Any]) -> None:
    regions = [Region(*box) for box in case["regions"]]
    patches = {i: base64.b64decode(p) for i, p in enumerate(case["patches"])}
    masked = images.from_storage(base64.b64decode(case["stored"]))
    assert masked == base64.b64decode(case["masked"])
    back = images.assemble(masked, regions, patches, base64.b64decode(case["remainder"]))
    assert back == base64.b64decode(case["original"])
    alone = read(images.assemble(masked, regions, {0: patches[0]}, None))
    assert alone.pixels.shape[:3] == read(back).pixels.shape[:3]

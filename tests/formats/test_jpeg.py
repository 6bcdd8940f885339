"""JPEG in the DCT domain: not one coefficient outside a box changes, and the bytes come back."""

from __future__ import annotations

import io
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms
from pydicom.data import get_testdata_file

from engine.errors import CorruptImage, SealBroken, UnsupportedFormat
from engine.formats import huffman, icc, jpeg, jpeg_edges, jpeg_file, raster
from engine.records import Region
from tests import builders

COLOUR = builders.labelled(width=203, height=149, colour=True)[0]
GREY = builders.labelled(width=203, height=149)[0]
WIDE = builders.labelled(width=640, height=480, colour=True)[0]

KINDS: dict[str, bytes] = {
    "grey": builders.jpeg(GREY),
    "4:4:4": builders.jpeg(COLOUR, sampling="4:4:4"),
    "4:2:2": builders.jpeg(COLOUR, sampling="4:2:2"),
    "4:2:0": builders.jpeg(COLOUR),
    "optimised": builders.jpeg(COLOUR, optimize=True),
    "progressive": builders.jpeg(COLOUR, progressive=True),
    "progressive grey": builders.jpeg(GREY, progressive=True),
    "restart every block": builders.jpeg(COLOUR, restart_marker_blocks=1),
    "restart every row": builders.jpeg(GREY, restart_marker_rows=1),
    "worst quality": builders.jpeg(COLOUR, quality=1),
    "best quality": builders.jpeg(COLOUR, quality=100),
    "RGB planes": builders.jpeg(COLOUR, sampling="4:4:4", keep_rgb=True),
    "one block": builders.jpeg(GREY[:8, :8]),
    "one pixel": builders.jpeg(COLOUR[:1, :1]),
    "narrow": builders.jpeg(COLOUR[:, :9]),
    "flat": builders.jpeg(np.full((40, 50, 3), 77, np.uint8)),
    "noise": builders.jpeg(np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)),
    "larger than a chunk": builders.jpeg(np.tile(WIDE, (3, 4, 1)), restart_marker_rows=3),
    "by OpenCV": cv2.imencode(".jpg", COLOUR, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes(),
    "16-bit quantisers": builders.jpeg(COLOUR, qtables=[[300] * 64, [400] * 64]),
}


def boxes(header: jpeg_file.Header) -> list[Region]:
    w, h = header.width, header.height
    wanted = [
        Region(w // 9, h // 9, w // 2 + 1, h // 3 + 1),
        Region(w // 3, h // 5, w * 3 // 4 + 1, h * 2 // 3 + 1),
        Region(max(0, w - 5), max(0, h - 3), w, h),
    ]
    return [r for b in wanted if (r := b.aligned(header.mcu).clipped(w, h))]


def hidden_blocks(header: jpeg_file.Header, regions: list[Region], number: int) -> np.ndarray:
    component = header.components[number]
    hidden = np.zeros(header.blocks(component), bool)
    for region in regions:
        hidden[header.window(component, region)] = True
    return hidden


def last_blocks(header: jpeg_file.Header, number: int) -> np.ndarray:
    """Blocks of a component that reach beyond the picture: shape (rows, columns), bool."""
    component = header.components[number]
    last = np.zeros(header.blocks(component), bool)
    rows, columns = jpeg_edges.shown(header, component)
    last[-1:] = rows % 8 > 0
    last[:, -1] |= columns % 8 > 0
    return last


@pytest.mark.parametrize("name", KINDS)
def test_blocks_outside_the_boxes_keep_their_coefficients(name: str) -> None:
    data = KINDS[name]
    header = jpeg_file.parse(data)
    regions = boxes(header)
    before, after = jpeg_file.read(data), jpeg_file.read(jpeg.dissect(data, regions).data)
    for number, (old, new) in enumerate(zip(before.planes, after.planes, strict=True)):
        hidden = hidden_blocks(header, regions, number)
        kept = ~hidden & ~last_blocks(header, number)
        assert np.array_equal(old[kept], new[kept])
        assert hidden.any()
    for slot, steps in before.quantisers.items():
        assert np.array_equal(after.quantisers[slot], steps)


@pytest.mark.parametrize("name", KINDS)
def test_the_original_comes_back(name: str) -> None:
    data = KINDS[name]
    regions = boxes(jpeg_file.parse(data))
    made = jpeg.dissect(data, regions)
    patches = dict(enumerate(made.patches))
    back = jpeg.assemble(made.data, regions, patches, made.bones, made.edges)
    if "progressive" not in name:
        assert back == data
    for decode in (
        lambda d: np.asarray(Pillow.open(io.BytesIO(d))),
        lambda d: cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_UNCHANGED),
        raster.jpeg_pixels,
    ):
        assert np.array_equal(decode(back), decode(data))


@pytest.mark.parametrize("name", KINDS)
def test_the_masked_file_is_a_plain_jpeg_of_about_the_same_size(name: str) -> None:
    data = KINDS[name]
    made = jpeg.dissect(data, boxes(jpeg_file.parse(data)))
    header = jpeg_file.parse(made.data)
    assert header.kind in ("baseline", "extended")
    picture = Pillow.open(io.BytesIO(made.data))
    picture.load()
    assert picture.size == (header.width, header.height)
    if len(data) > 8000:
        assert len(made.data) + sum(map(len, made.patches)) + len(made.bones) < 1.15 * len(data)


def test_tables_are_built_anew_and_cost_no_more_than_those_of_libjpeg() -> None:
    for pixels in (COLOUR, GREY, WIDE):
        data = builders.jpeg(pixels, optimize=True)
        assert len(jpeg.dissect(data, []).data) <= len(data)


def test_scans_of_one_component_each_come_back() -> None:
    header = jpeg_file.parse(KINDS["4:2:0"])
    source = jpeg_file.read(KINDS["4:2:0"])
    plain = jpeg_file.write_plain(source, KINDS["4:2:0"])
    front = plain[: plain.index(b"\xff\xc4")]
    out = [front]
    for number, component in enumerate(header.components):
        tables, entropy = jpeg_file.encode_scan([source.planes[number]], [component])
        for slot, table in enumerate(tables):
            assert table is not None
            body = table.segment(slot, 0)
            out.append(struct.pack(">BBH", 0xFF, 0xC4, len(body) + 2) + body)
        out.append(b"\xff\xda" + struct.pack(">HBBB", 8, 1, component.id, 0) + b"\0\x3f\0")
        out.append(entropy)
    data = b"".join([*out, b"\xff\xd9"])
    assert np.array_equal(raster.jpeg_pixels(data), raster.jpeg_pixels(KINDS["4:2:0"]))
    regions = boxes(header)
    made = jpeg.dissect(data, regions)
    patches = dict(enumerate(made.patches))
    assert jpeg.assemble(made.data, regions, patches, made.bones, made.edges) == data


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(0, 9), st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 40, 1023, 32767]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_coefficients_survive_our_coder_and_a_foreign_decoder(
    rows: int, columns: int, restart: int, seed: int, largest: int
) -> None:
    rng = np.random.default_rng(seed)
    plane = rng.integers(-largest, largest, (rows, columns, 64)).astype(np.int16)
    plane[rng.random(plane.shape) < rng.choice([0.2, 0.9, 0.99])] = 0
    plane = np.clip(plane, -1023, 1023)
    blocks, owner = huffman.blocks_of_scan([plane[..., huffman.ZIGZAG]], [(1, 1)])
    tables = huffman.best_tables(huffman.tokenize(blocks, owner, restart), 2, [0, 1])
    entropy = huffman.write(huffman.tokenize(blocks, owner, restart), tables)
    out = [b"\xff\xd8\xff\xdb\0\x43\0" + b"\x01" * 64]
    out.append(
        b"\xff\xc0\0\x0b\x08" + struct.pack(">HH", rows * 8, columns * 8) + b"\x01\x01\x11\0"
    )
    if restart:
        out.append(b"\xff\xdd\0\x04" + struct.pack(">H", restart))
    for slot, table in enumerate(tables):
        body = (table or huffman.Table((0,) * 16, ())).segment(slot, 0)
        out.append(struct.pack(">BBH", 0xFF, 0xC4, len(body) + 2) + body)
    out += [b"\xff\xda\0\x08\x01\x01\0\0\x3f\0", entropy, b"\xff\xd9"]
    assert np.array_equal(jpeg_file.read(b"".join(out)).planes[0], plane)


def test_best_tables_are_best() -> None:
    rng = np.random.default_rng(2)
    counts = np.zeros(256, np.int64)
    counts[:200] = np.maximum(1, (1e6 / (1 + np.arange(200)) ** 2.5)).astype(int)
    rng.shuffle(counts)
    table = huffman._best(counts)
    code, length = table.codes()
    used = counts > 0
    assert (length[used] > 0).all()
    assert length.max() <= 16
    words = sorted(f"{c:0{n}b}" for c, n in zip(code[used], length[used], strict=True))
    assert all(not b.startswith(a) for a, b in pairwise(words))
    assert "1" * int(length.max()) not in words  # reserved
    share = counts[used] / counts.sum()
    entropy = float(-(share * np.log2(share)).sum())
    assert entropy <= float((share * length[used]).sum()) < entropy + 1


@pytest.mark.parametrize("patch_of", [0, 1])
def test_a_changed_patch_is_never_a_picture(patch_of: int) -> None:
    data = KINDS["4:2:0"]
    regions = boxes(jpeg_file.parse(data))
    made = jpeg.dissect(data, regions)
    patch = made.patches[patch_of]
    for wrong in (b"", patch[:-1], patch[:40], patch + b"\0", bytes([patch[0] ^ 2]) + patch[1:]):
        with pytest.raises(SealBroken):
            jpeg.assemble(made.data, regions, {patch_of: wrong}, None)
    with pytest.raises(SealBroken):
        jpeg.assemble(made.data, regions, {0: made.patches[1]}, None)


@pytest.mark.parametrize(
    "box", [(0, 0, 15, 16), (1, 0, 16, 16), (0, 0, 16, 17), (0, 0, 208, 16), (192, 144, 203, 160)]
)
def test_a_region_off_the_mcu_grid_is_a_mistake(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="aligned"):
        jpeg.dissect(KINDS["4:2:0"], [Region(*box)])


def _with(data: bytes, at: bytes, change: Any) -> bytes:
    place = data.index(at)
    body = bytearray(data)
    change(body, place)
    return bytes(body)


def _precision(body: bytearray, at: int) -> None:
    body[at + 4] = 12


def _kind(marker: int) -> Any:
    def change(body: bytearray, at: int) -> None:
        body[at + 1] = marker

    return change


def _no_width(body: bytearray, at: int) -> None:
    body[at + 7 : at + 9] = b"\0\0"


def _sampling(body: bytearray, at: int) -> None:
    body[at + 11] = 0x50


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (_with(KINDS["grey"], b"\xff\xc0", _precision), UnsupportedFormat),
        (_with(KINDS["grey"], b"\xff\xc0", _kind(0xC3)), UnsupportedFormat),  # lossless
        (_with(KINDS["grey"], b"\xff\xc0", _kind(0xC9)), UnsupportedFormat),  # arithmetic
        (_with(KINDS["grey"], b"\xff\xc0", _kind(0xC5)), UnsupportedFormat),  # hierarchical
        (_with(KINDS["grey"], b"\xff\xc0", _no_width), CorruptImage),
        (_with(KINDS["grey"], b"\xff\xc0", _sampling), CorruptImage),
        (_with(KINDS["grey"], b"\xff\xda", _kind(0x3F)), CorruptImage),
        (KINDS["grey"][:2] + b"\0\0" + KINDS["grey"][2:], CorruptImage),
        (KINDS["grey"].replace(b"\xff\xd9", b""), CorruptImage),
        (b"\xff\xd8\xff\xd9", CorruptImage),
        (b"\xff\xd8" + KINDS["grey"][2:].replace(b"\xff\xda", b"\xff\xc0\0\x0b"), CorruptImage),
    ],
)
def test_other_kinds_and_damage_are_named_errors(data: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        jpeg_file.parse(data)


def test_the_colours_of_a_profile_stay_and_everything_else_goes() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    named = profile.replace("sRGB".encode("utf-16-be"), "Must".encode("utf-16-be"))
    assert named != profile
    data = builders.jpeg(COLOUR, icc_profile=named, comment=b"Musterfrau", dpi=(300, 300))
    masked = jpeg.dissect(data, []).data
    kept = Pillow.open(io.BytesIO(masked))
    assert kept.info["icc_profile"] == icc.without_words(profile)
    assert kept.info["dpi"] == (300, 300)
    assert b"Musterfrau" not in masked
    assert "Must".encode("utf-16-be") not in masked


@pytest.mark.parametrize("seed", range(4))
def test_what_lossless_cropping_left_is_not_in_the_masked_file(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 8 * int(rng.integers(5, 9)), 8 * int(rng.integers(12, 16))
    letters = rng.integers(0, 2, (height // 2, width // 2)).repeat(2, 0).repeat(2, 1)
    pixels = (90 + 80 * letters).astype(np.uint8)
    cut_rows, cut_columns = (int(n) for n in rng.integers(3, 8, 2))
    shown = np.s_[: height - cut_rows, : width - cut_columns]
    pixels[shown] = builders.radiograph(width, height)[shown]
    whole = pixels if seed % 2 else np.repeat(pixels[..., None], 3, 2)
    data = builders.jpeg(whole, quality=92, sampling="4:4:4")
    at = data.index(b"\xff\xc0") + 5
    size = struct.pack(">HH", height - cut_rows, width - cut_columns)
    cropped = data[:at] + size + data[at + 4 :]
    made = jpeg.dissect(cropped, [])
    at = made.data.index(b"\xff\xc0") + 5
    grown = made.data[:at] + struct.pack(">HH", height, width) + made.data[at + 4 :]
    before, after = (
        np.asarray(Pillow.open(io.BytesIO(d)).convert("L")).astype(float) for d in (data, grown)
    )
    beyond = np.ones((height, width), bool)
    beyond[shown] = False
    assert np.corrcoef(before[beyond], pixels[beyond])[0, 1] > 0.9
    assert abs(np.corrcoef(after[beyond], pixels[beyond])[0, 1]) < 0.3
    assert np.abs(before[shown] - after[shown]).max() < 24
    assert jpeg.assemble(made.data, [], {}, made.bones, made.edges) == cropped


def test_a_profile_of_tables_or_with_numbers_that_no_colour_has_goes() -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert icc.without_words(bytes(profile)) is not None
    at = profile.index(b"XYZ \0\0\0\0")
    profile[at + 8 : at + 20] = b"Musterfrau E"
    assert icc.without_words(bytes(profile)) is None
    assert icc.without_words(b"ICC" * 80) is None
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert icc.without_words(lab) is None


def test_a_profile_keeps_its_colours_to_the_last_level() -> None:
    path = get_testdata_file("crayons.icc")
    assert path is not None
    picture = Pillow.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8))
    for profile in (
        Path(path).read_bytes(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ):
        plain = icc.without_words(profile)
        assert plain is not None
        assert icc.without_words(plain) == plain
        one, other = (
            ImageCms.profileToProfile(
                picture, io.BytesIO(p), ImageCms.createProfile("LAB"), outputMode="LAB"
            )
            for p in (profile, plain)
        )
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_progressive_file_comes_back_with_exactly_its_own_metadata() -> None:
    exif = Pillow.Exif()
    exif[0x0112], exif[0x013B] = 6, "Musterfrau Erika"
    data = builders.jpeg(COLOUR, progressive=True, exif=exif, comment=b"Musterfrau", dpi=(72, 72))
    made = jpeg.dissect(data, [])
    back = jpeg.assemble(made.data, [], {}, made.bones)

    def said(file: bytes) -> list[bytes]:
        segments = jpeg_file.parse(file).segments
        return [
            file[s.start : s.end] for s in segments
            if s.marker is not None and (s.marker == jpeg_file.COM or 0xE0 <= s.marker <= 0xEF)
        ]  # fmt: skip

    assert said(back) == said(data)
    assert b"Musterfrau" not in made.data

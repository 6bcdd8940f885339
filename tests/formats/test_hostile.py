"""Hostile files: each ends in a result or a named error, in bounded time, and nothing crashes.

The inputs are made from good files of every format by cutting, flipping, lying about sizes,
removing, inserting and splicing, from fixed seeds, so that a failure can be repeated.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from engine.errors import (
    CorruptImage,
    EngineError,
    ImageTooLarge,
    InputError,
    OverBudget,
    UnsupportedFormat,
)
from engine.formats import images, sandbox
from engine.formats.sandbox import Sandbox
from engine.records import Region
from engine.settings import Settings
from tests import builders
from tests.formats import planted, rare_dicom

LIMITS = images.Limits.of(Settings(max_decoded_mb=64))
KEY = bytes(32)
SECONDS = 20.0  # for one input, on a busy machine
NAME = b"Musterfrau Erika"  # in no file here but where a test puts it


def seeds() -> dict[str, bytes]:
    """Small good files, one per format and coder."""
    grey = builders.radiograph(41, 33)
    colour = builders.radiograph(41, 33, colour=True)
    twelve = builders.radiograph(41, 33, bits=12)
    moving = builders.cine(frames=3)[0][:, :40, :48]
    files = {
        "png": builders.png(grey), "png rgb": builders.png(colour),
        "png 16": builders.png(builders.radiograph(41, 33, bits=16)),
        "png palette": builders.pillow(colour, "PNG", "P"),
        "jpeg": builders.jpeg(colour), "jpeg grey": builders.jpeg(grey),
        "jpeg progressive": builders.jpeg(colour, progressive=True),
        "jpeg restart": builders.jpeg(colour, restart_marker_blocks=2),
        "tiff": builders.pillow(grey, "TIFF"),
        "tiff lzw": builders.pillow(colour, "TIFF", compression="tiff_lzw"),
        "tiff zip": builders.pillow(colour, "TIFF", compression="tiff_adobe_deflate"),
        "bmp": builders.pillow(colour, "BMP"), "bmp palette": builders.pillow(colour, "BMP", "P"),
        "webp": builders.pillow(colour, "WEBP"),
        "webp lossless": builders.pillow(colour, "WEBP", lossless=True),
    }  # fmt: skip
    for syntax in (*builders.UNCOMPRESSED, *builders.LOSSLESS):
        files[f"dicom {syntax.keyword}"] = builders.dicom(twelve, bits=12, syntax=syntax)
        files[f"dicom {syntax.keyword} cine"] = builders.dicom(moving, syntax=syntax)
    files |= {f"dicom {name}": data for name, data in rare_dicom.rare_kinds().items()}
    files["dicom jpeg"] = builders.dicom(colour, syntax=JPEGBaseline8Bit)
    files["dicom jpeg cine"] = builders.dicom(moving, syntax=JPEGBaseline8Bit)
    return files


SEEDS = seeds()
LIES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\xff\xff",
        b"\x80\0\0\0", b"\xfe\xff\0\xe0", b"SQ\0\0", b"UN\0\0", b"OB\0\0")  # fmt: skip


def hostile(number: int, good: Mapping[str, bytes] = SEEDS) -> tuple[str, bytes]:
    """The hostile input of this number."""
    rng = random.Random(number)
    name, data = rng.choice(sorted(good.items()))
    body = bytearray(data)
    front = min(len(body), 1500)  # where headers are
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.randrange(8)
        at = rng.randrange(max(1, rng.choice((front, len(body)))))
        if kind == 0:
            del body[at:]
        elif kind == 1:
            for _ in range(rng.choice((1, 4, 30))):
                place = rng.randrange(max(1, len(body)))
                body[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            body[at : at + 4] = rng.choice(LIES)
        elif kind == 3:
            del body[at : at + rng.randrange(1, 200)]
        elif kind == 4:
            body[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 5:
            body[at:at] = body[at : at + rng.randrange(1, 400)]  # said twice
        elif kind == 6:
            other = rng.choice(list(good.values()))
            body[at:] = other[rng.randrange(len(other)) :]  # half one thing, half another
        elif body:
            body[at % len(body)] ^= 1 << rng.randrange(8)
        if not body:
            break
    return name, bytes(body)


def use(data: bytes) -> str:
    """All that the engine would do with an upload; says how it ended."""
    try:
        image = images.decode("upload", data, LIMITS)
        images.render(image, image.frames - 1)
        box = Region(0, 0, min(20, image.width), min(9, image.height), 0, image.frames)
        region = box.aligned(image.grid).clipped(image.width, image.height, image.frames)
        assert region is not None
        made = images.dissect(image, [region], KEY)
        for name in (NAME, planted.NAME):  # unless damage made it into a part of the picture
            assert name not in made.masked or name in image.pixels.tobytes()
        masked = images.decode("upload", made.masked, LIMITS)
        assert masked.pixels.shape == image.pixels.shape
        back = images.assemble(made.masked, [region], dict(enumerate(made.patches)), made.remainder)
        assert back == data
    except InputError as err:
        return type(err).__name__
    return "result"


def run(numbers: range, good: Mapping[str, bytes] = SEEDS) -> Counter[str]:
    ends: Counter[str] = Counter()
    for number in numbers:
        name, data = hostile(number, good)
        start = time.monotonic()
        try:
            ends[use(data)] += 1
        except Exception as err:
            raise AssertionError(f"input {number}, from {name}, ended in {err!r}") from err
        assert time.monotonic() - start < SECONDS, f"input {number}, from {name}, took too long"
    return ends


def test_hostile_files_end_in_a_result_or_a_named_error() -> None:
    ends = run(range(800))
    assert sum(ends.values()) == 800
    assert ends["result"] > 50, "all refused: the inputs are no test"
    assert ends["CorruptImage"] > 50


@pytest.mark.slow
def test_many_more_hostile_files_end_in_a_result_or_a_named_error() -> None:
    assert sum(run(range(10_000, 13_000)).values()) == 3_000


def test_every_file_cut_anywhere_is_refused_or_whole() -> None:
    for name in (
        "png",
        "jpeg",
        "dicom ExplicitVRLittleEndian",
        "dicom RLELossless cine",
        "tiff lzw",
    ):
        data = SEEDS[name]
        for cut in np.linspace(1, len(data) - 1, 25).astype(int):
            assert use(data[:cut]) in ("CorruptImage", "UnsupportedFormat", "result")


def _elements(data: bytes) -> list[int]:
    """Where the value representations of an explicit little-endian file stand."""
    long = (
        b"OB",
        b"OD",
        b"OF",
        b"OL",
        b"OV",
        b"OW",
        b"SQ",
        b"SV",
        b"UC",
        b"UN",
        b"UR",
        b"UT",
        b"UV",
    )
    found, at = [], 132
    while at + 8 <= len(data):
        found.append(at + 4)
        if data[at + 4 : at + 6] in long:
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    return found


VRS = (
    b"AT",
    b"CS",
    b"DS",
    b"FD",
    b"IS",
    b"OB",
    b"PN",
    b"SQ",
    b"UI",
    b"UN",
    b"US",
    b"UT",
    b"ZZ",
    b"\0\0",
)


def test_wrong_value_representations_end_in_a_result_or_a_named_error() -> None:
    data = builders.dicom(builders.radiograph(24, 16, bits=12), bits=12)
    places = _elements(data)
    ends: Counter[str] = Counter()
    for place in places:
        for vr in VRS:
            ends[use(data[:place] + vr + data[place + 2 :])] += 1
    assert sum(ends.values()) == len(places) * len(VRS) > 400
    assert ends["result"] > 100


#: What follows a file: one of each form of file, and of each way in which DICOM holds pixels.
BEHIND = ("png", "jpeg", "tiff", "bmp", "webp", "dicom ExplicitVRLittleEndian",
          "dicom ImplicitVRLittleEndian", "dicom JPEG2000Lossless")  # fmt: skip


def two_in_one(behind: Iterable[str]) -> Counter[str]:
    """How every file ends that has one of those behind it."""
    ends: Counter[str] = Counter()
    for name, one in SEEDS.items():
        if "cine" not in name:
            ends.update(use(one + NAME + SEEDS[second]) for second in behind)
    return ends


def test_two_files_in_one_are_the_first_and_nothing_of_the_second_is_shared() -> None:
    ends = two_in_one(BEHIND)
    assert sum(ends.values()) > 25 * len(BEHIND)
    assert ends["result"] > 13 * len(BEHIND)


@pytest.mark.slow
def test_any_two_files_in_one_are_the_first_and_nothing_of_the_second_is_shared() -> None:
    ends = two_in_one([name for name in SEEDS if "cine" not in name])
    assert sum(ends.values()) > 600
    assert ends["result"] > 300


# --- bombs -------------------------------------------------------------------------------------


def _png(width: int, height: int, stream: bytes, *, depth: int = 8) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
    )


def _nested(depth: int) -> bytes:
    """A DICOM whose sequences go ever deeper."""
    data = builders.dicom(builders.radiograph(8, 8), syntax=ImplicitVRLittleEndian)
    at = data.index(b"\x28\0\x02\0")
    deep = b"\x08\0\x40\x11" + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4
    return data[:at] + deep * depth + data[at:]


def _wide_codestream() -> bytes:
    """A small DICOM with a JPEG 2000 frame that says it has a thousand million pixels."""
    pixels = builders.radiograph(16, 16)
    frame = bytearray(builders.LOSSLESS[JPEG2000Lossless](pixels))
    frame[8:16] = struct.pack(">II", 60_000, 60_000)
    return builders.dicom(pixels, syntax=JPEG2000Lossless, fragments=[bytes(frame)])


def _deflated_bomb() -> bytes:
    whole = builders.dicom(builders.radiograph(8, 8), syntax="1.2.840.10008.1.2.1.99")
    end = whole.index(b"DICM") + 4
    start = end + 12 + int.from_bytes(whole[end + 8 : end + 12], "little")
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = engine.compress(b"\x08\0\x05\0CS\0\0" * 20_000_000) + engine.flush()
    return whole[:start] + bomb


BOMBS = {
    "rows that inflate to more than promised": (
        lambda: _png(8, 8, zlib.compress(bytes(200_000_000), 9)), None,
    ),
    "a picture of gigapixels": (lambda: _png(32_000, 32_000, zlib.compress(b"")), ImageTooLarge),
    "gigapixels of single bits": (
        lambda: _png(32_000, 32_000, zlib.compress(b""), depth=1), ImageTooLarge,
    ),
    "sequences without end": (lambda: _nested(20_000), CorruptImage),
    "a codestream larger than its header": (_wide_codestream, CorruptImage),
    "a deflated data set": (_deflated_bomb, InputError),
    "a TIFF directory that points to itself": (
        lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0" + bytes(40), InputError,
    ),
    "a thousand chunks of nothing": (
        lambda: builders.png(builders.radiograph(8, 8))[:33] + b"\0\0\0\0IDAT5\xafZ\xef" * 300_000,
        CorruptImage,
    ),
    "a run of text": (lambda: b"A" * 1_000_000, UnsupportedFormat),
    "a BMP of gigapixels": (
        lambda: b"BM" + struct.pack("<4I2i2H", 100, 0, 54, 40, 30_000, 30_000, 1, 24) + bytes(24),
        ImageTooLarge,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly_and_without_memory(name: str) -> None:
    make, kind = BOMBS[name]
    data = make()
    start = time.monotonic()
    if kind is None:
        assert images.decode("bomb", data, LIMITS).pixels.shape == (1, 8, 8)
    else:
        with pytest.raises(kind):
            images.decode("bomb", data, LIMITS)
    assert time.monotonic() - start < 10


def test_a_polyglot_is_what_its_first_bytes_say() -> None:
    inner = builders.png(builders.radiograph(16, 16))
    dicom = builders.dicom(builders.radiograph(24, 24))
    disguised = (b"\x89PNG\r\n\x1a\n" + bytes(120)) + dicom[128:]
    with pytest.raises(InputError):
        images.decode("a.dcm", disguised, LIMITS)
    image = images.decode("a.dcm", inner + dicom, LIMITS)
    assert image.format == "PNG"
    made = images.dissect(image, [Region(0, 0, 8, 8)], KEY)
    assert b"DICM" not in made.masked
    back = images.assemble(made.masked, [Region(0, 0, 8, 8)], {0: made.patches[0]}, made.remainder)
    assert back == inner + dicom


# --- the sandbox -------------------------------------------------------------------------------


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _sleep() -> None:
    time.sleep(60)


def _eat() -> int:
    return len(np.ones(20 << 30, np.uint8))


def _surprise() -> None:
    raise RuntimeError("Musterfrau Erika")


def _environment() -> tuple[str, ...]:
    return tuple(os.environ)


def _modules() -> tuple[str, ...]:
    return tuple(sys.modules)


def _refuse() -> None:
    raise UnsupportedFormat("This is not taken: send another.", width=5, secret=b"no")


def _mirror(*values: Any) -> Any:
    return values


def _spin() -> None:
    while True:
        pass


OPERATIONS = {
    "crash": _crash, "sleep": _sleep, "eat": _eat, "surprise": _surprise, "refuse": _refuse,
    "environment": _environment, "modules": _modules, "mirror": _mirror, "spin": _spin,
}  # fmt: skip


@pytest.fixture
def box() -> Iterator[Sandbox]:
    made = Sandbox(__name__, workers=2, seconds=30)
    yield made
    made.close()


@pytest.fixture(autouse=True, scope="module")
def _importable() -> None:
    """Workers import this module by name, as they import the engine's."""
    assert __name__ in ("tests.formats.test_hostile", "test_hostile")


def test_a_decoder_that_crashes_is_a_named_error_and_the_next_call_works(box: Sandbox) -> None:
    for operation, kind in (
        ("crash", CorruptImage),
        ("surprise", CorruptImage),
        ("eat", ImageTooLarge),
    ):
        with pytest.raises(kind) as caught:
            box.call(operation)
        assert "Musterfrau" not in str(caught.value)
        assert box.call("mirror", 1) == (1,)


def test_a_server_that_may_open_no_more_files_says_so_and_blames_no_file(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    for name in ("subprocess.Popen", "socket.socketpair"):
        with monkeypatch.context() as patch:
            patch.setattr(name, refuse)
            with pytest.raises(EngineError, match="limits of open files and processes") as caught:
                box.call("mirror", 1)
            assert not isinstance(caught.value, InputError)
    assert box.call("mirror", 1) == (1,)


def test_a_worker_that_died_while_idle_is_replaced(box: Sandbox) -> None:
    assert box.call("mirror", 1) == (1,)
    box._idle[0].process.kill()
    box._idle[0].process.wait()
    assert box.call("mirror", 2) == (2,)


def test_a_decoder_that_hangs_is_stopped() -> None:
    impatient = Sandbox(__name__, workers=1, seconds=5)
    assert impatient.call("mirror") == ()
    start = time.monotonic()
    with pytest.raises(CorruptImage):
        impatient.call("sleep")
    assert time.monotonic() - start < 15
    impatient.close()


def test_a_decoder_over_its_time_is_ended_and_named(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_BUSY_FACTOR", 1000.0)  # others may have all processors
    assert box.call("mirror", 1) == (1,)
    process = box._idle[0].process
    with pytest.raises(OverBudget) as ended:
        box.call("spin", seconds=1.0)
    assert process.poll() is not None
    assert ended.value.facts == {"seconds": 1}
    assert box.call("mirror", 2) == (2,)


def test_refusals_arrive_as_they_were_raised(box: Sandbox) -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        box.call("refuse")
    assert caught.value.message == "This is not taken: send another."
    assert caught.value.facts == {"width": 5}


def test_values_travel_unchanged(box: Sandbox) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    sent = (None, True, 2, 2.5, "ä", b"\0\xff" * 70_001, (1, (2, b"")), {"a": (b"x",), 7: "b"})
    assert box.call("mirror", *sent) == sent
    (back,) = box.call("mirror", array)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    (strided,) = box.call("mirror", np.moveaxis(array, 0, -1))
    assert np.array_equal(strided, np.moveaxis(array, 0, -1))
    with pytest.raises(TypeError):
        box.call("mirror", object())


def test_a_worker_inherits_no_secret_and_loads_no_vault(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSEC_KEY", "root key")
    fresh = box.call("environment")
    assert not {"MEDSEC_KEY", "HOME", "PATH", "USER"} & set(fresh)
    real = Sandbox("engine.formats.images", workers=1)
    grey = builders.png(builders.radiograph(8, 8))
    assert len(real.call("decode", "PNG", grey, 100, 100_000)) == 4
    real.close()
    loaded = images._SANDBOX.call("decode", "PNG", grey, 100, 100_000)
    assert loaded[0].shape == (1, 8, 8)
    for module in (
        "engine.crypto.vault",
        "engine.crypto.keyring",
        "engine.store.catalog",
        "engine.store.database",
        "duckdb",
    ):
        assert module not in box.call("modules")


def test_a_message_is_its_sender_s_no_longer_once_it_is_read() -> None:
    message = struct.pack("<IQ", 0, 1).ljust(64, b"\0") + b"7"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def send(flags: int) -> int:
        descriptor = os.memfd_create("hostile", flags)
        os.pwrite(descriptor, message, 0)
        socket.send_fds(theirs, [struct.pack("<Q", len(message))], [descriptor])
        return descriptor

    with ours, theirs:
        held = send(os.MFD_ALLOW_SEALING)
        assert sandbox._receive(ours) == 7
        with pytest.raises(PermissionError):
            os.ftruncate(held, 0)
        with pytest.raises(PermissionError):
            os.pwrite(held, b"8", 64)
        unsealable = send(0)
        with pytest.raises(PermissionError):
            sandbox._receive(ours)
        os.close(held)
        os.close(unsealable)


def test_calls_from_many_threads_do_not_mix(box: Sandbox) -> None:
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(10):
            data = bytes([number]) * (1000 + number)
            if box.call("mirror", data, number) != (data, number):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_worker_that_lies_is_no_more_than_an_error() -> None:
    for answer in (
        "done",
        ("done",),
        ("refused", "SystemExit", "x", {}),
        {"a": 1},
        None,
        ("what", 2),
    ):
        with pytest.raises(CorruptImage):
            sandbox._outcome(answer)
    with pytest.raises(ValueError, match="numbers"):
        sandbox._decode({"array": 0, "type": "O", "shape": [1]}, [memoryview(bytes(8))])


def test_nothing_is_written_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No part of the image engine opens a file for writing (audited in this process)."""
    opened: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and watching and isinstance(arguments[2], int):
            path, flags = str(arguments[0]), arguments[2]
            if flags & (os.O_WRONLY | os.O_RDWR) and not path.isdigit():
                opened.append(path)
        elif event.startswith("tempfile") and watching:
            opened.append(event)

    watching = False
    sys.addaudithook(watch)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    monkeypatch.setenv("TMPDIR", "/nowhere")
    files = dict(SEEDS)
    files["rle"] = builders.dicom(builders.radiograph(41, 33), syntax=RLELossless)
    for name, data in files.items():
        kind = str(images.sniff(data))
        watching = True
        _, grid, *_ = images.OPERATIONS["decode"](kind, data, 10_000, 1 << 30)
        region = Region(0, 0, 16, 16).aligned(grid)
        box = (region.x1, region.y1, region.x2, region.y2)
        masked, coded, remainder, _ = images.OPERATIONS["dissect"](kind, data, [box], KEY)
        images.OPERATIONS["assemble"](masked, [box], dict(enumerate(coded)), remainder)
        watching = False
        assert not opened, name


def test_a_fork_has_workers_of_its_own(box: Sandbox) -> None:
    assert box.call("mirror", 1) == (1,)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with open(writing, "w") as pipe:
            pipe.write(str(box.call("mirror", 2)))
        box.close()
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        assert pipe.read() == "(2,)"
    os.waitpid(child, 0)
    assert box.call("mirror", 3) == (3,)


def test_a_page_that_the_kernel_holds_for_a_moment_costs_no_file(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, busy = fcntl.fcntl, 3

    def held(descriptor: int, command: int, *rest: Any) -> Any:
        nonlocal busy
        if command == fcntl.F_ADD_SEALS and busy:
            busy -= 1
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(descriptor, command, *rest)

    box.call("mirror", 1)  # the worker has started
    monkeypatch.setattr(sandbox.fcntl, "fcntl", held)
    assert box.call("mirror", 1) == (1,)
    busy = 1000  # somebody can write for good
    with pytest.raises(CorruptImage):
        box.call("mirror", 1)

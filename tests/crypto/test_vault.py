"""The vault: what it seals opens only whole, unchanged and in its own place."""

from __future__ import annotations

import ast
import base64
import hashlib
import inspect
import itertools
import os
import statistics
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.crypto import vault
from engine.crypto.vault import (
    RegionIdentity,
    Scheme,
    Sealing,
    Signer,
    blind_index,
    decrypt,
    derive,
    encrypt,
    open_field,
    pad_length,
    seal_field,
)
from engine.errors import SealBroken
from engine.records import Region
from tests import peer, vectors
from tests.vectors.make import seeded

KEY = bytes(range(32))
HERE = RegionIdentity("im_1", "rg_1", "text", 10, 20, 110, 60, 0, 1, 1)
SCHEMES = pytest.mark.parametrize("scheme", list(Scheme))

#: Every way to claim that a region is another one. A comment says who would.
ELSEWHERE = [
    {"image_id": "im_2"},  # swapped between images
    {"region_id": "rg_2"},  # swapped within an image
    {"label": "face"},  # opened by whoever may see only faces
    {"x1": 9},  # box moved by a pixel
    {"y1": 19},
    {"x2": 111},
    {"y2": 61},
    {"frame": 1, "frame_end": 2},  # pasted on another frame
    {"frame_end": 2},  # pasted on one frame more
    {"version": 2},  # an older sealing played back
]


def sealed_region(scheme: Scheme, plaintext: bytes = b"Erika Musterfrau") -> bytes:
    return encrypt(KEY, HERE, plaintext, os.urandom, "k1", Sealing(scheme))


def test_every_part_of_an_identity_has_its_row() -> None:
    changed = {name for row in ELSEWHERE for name in row}
    assert changed == {f.name for f in fields(RegionIdentity)}


@SCHEMES
@settings(max_examples=60, deadline=None)
@given(plaintext=st.binary(max_size=3000), floor=st.none() | st.integers(0, 5000))
def test_what_is_sealed_opens_again(scheme: Scheme, plaintext: bytes, floor: int | None) -> None:
    sealed = encrypt(KEY, HERE, plaintext, os.urandom, "k1", Sealing(scheme, floor))
    assert decrypt(KEY, HERE, sealed) == plaintext
    assert open_field(KEY, "c", seal_field(KEY, "c", plaintext, os.urandom, scheme)) == plaintext


@SCHEMES
@pytest.mark.parametrize("size", [0, 5, 1 << 18])
def test_it_opens_while_somebody_holds_the_frames_of_the_call(scheme: Scheme, size: int) -> None:
    """As a profiler does, from another thread and at any moment: what the frames hold lives on.

    It failed one file of a batch on a busy machine: "Existing exports of data: object cannot be
    re-sized".
    """
    key, held = os.urandom(32), []

    def hold(frame: FrameType, _event: str, _value: object) -> None:
        held.append(frame)

    sys.setprofile(hold)
    try:
        sealed = vault.seal_field(key, "image/1", b"x" * size, os.urandom, scheme)
        opened = vault.open_field(key, "image/1", sealed)
    finally:
        sys.setprofile(None)
    assert opened == b"x" * size
    assert {"_stream", "_collect"} <= {frame.f_code.co_name for frame in held}


@SCHEMES
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, 3 << 20])
def test_sizes_around_blocks_and_chunks_open_again(scheme: Scheme, size: int) -> None:
    plaintext = os.urandom(size)
    sealed = encrypt(KEY, HERE, plaintext, os.urandom, "k1", Sealing(scheme, 0))
    assert decrypt(KEY, HERE, sealed) == plaintext
    for view in (bytearray(plaintext), memoryview(plaintext)):
        assert decrypt(KEY, HERE, memoryview(encrypt(KEY, HERE, view, os.urandom, ""))) == plaintext


@SCHEMES
@settings(max_examples=60, deadline=None)
@given(
    plaintext=st.binary(max_size=2000),
    data_key=st.binary(min_size=32, max_size=32),
    floor=st.integers(0, 3000),
    key_id=st.text("abcdefgh0123456789-_", max_size=64),
    label=st.text(max_size=20),
    version=st.integers(0, (1 << 32) - 1),
)
def test_an_independent_implementation_writes_and_reads_the_same_bytes(
    scheme: Scheme,
    plaintext: bytes,
    data_key: bytes,
    floor: int,
    key_id: str,
    label: str,
    version: int,
) -> None:
    identity = replace(HERE, label=label, version=version)
    binding = peer.region_binding(asdict(identity))
    drawn: list[bytes] = []

    def recorded(count: int) -> bytes:
        drawn.append(os.urandom(count))
        return drawn[-1]

    ours = encrypt(data_key, identity, plaintext, recorded, key_id, Sealing(scheme, floor))
    theirs = peer.seal(
        data_key, scheme, peer.REGION, key_id, binding, plaintext, b"".join(drawn), floor
    )
    assert ours == theirs
    assert peer.open_sealed(data_key, binding, ours) == plaintext

    drawn.clear()
    ours = seal_field(data_key, label, plaintext, recorded, scheme, floor)
    binding = peer.field_binding(label)
    theirs = peer.seal(data_key, scheme, peer.FIELD, "", binding, plaintext, b"".join(drawn), floor)
    assert ours == theirs
    assert peer.open_sealed(data_key, binding, ours) == plaintext


@settings(max_examples=100, deadline=None)
@given(key=st.binary(min_size=32, max_size=32), context=st.text(max_size=30), value=st.text())
def test_derived_keys_and_blind_indexes_agree_with_an_independent_implementation(
    key: bytes, context: str, value: str
) -> None:
    assert derive(key, context) == peer.derive(key, context)
    assert blind_index(key, context, value) == peer.blind_index(key, context, value.encode())
    assert blind_index(key, context, value) == blind_index(key, context, value.encode())


@SCHEMES
def test_any_flipped_bit_is_found(scheme: Scheme) -> None:
    sealed = sealed_region(scheme, b"Erika")[:]
    short = encrypt(KEY, HERE, b"Erika", os.urandom, "k1", Sealing(scheme, 0))
    assert decrypt(KEY, HERE, sealed) == decrypt(KEY, HERE, short) == b"Erika"
    for place, bit in itertools.product(range(len(short)), range(8)):
        altered = bytearray(short)
        altered[place] ^= 1 << bit
        with pytest.raises(SealBroken):
            decrypt(KEY, HERE, altered)


@SCHEMES
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_other_damage_is_found(scheme: Scheme, data: st.DataObject) -> None:
    sealed = sealed_region(scheme)
    at = data.draw(st.integers(0, len(sealed) - 1))
    junk = data.draw(st.binary(max_size=40))
    damaged = data.draw(
        st.sampled_from(
            [
                sealed[:at],  # cut
                sealed[at:],
                sealed[:at] + sealed[at + 1 :],  # a byte lost
                sealed[:at] + sealed[at + 16 :],  # a block lost
                sealed[:at] + junk + sealed[at:],  # something put in
                sealed[:at] + junk,  # something else instead of the end
                sealed + junk,
                junk + sealed,
                junk,
            ]
        )
    )
    if damaged != sealed:
        with pytest.raises(SealBroken):
            decrypt(KEY, HERE, damaged)
        with pytest.raises(SealBroken):
            open_field(KEY, "im_1", damaged)


@SCHEMES
@pytest.mark.parametrize("change", ELSEWHERE, ids=str)
def test_a_region_does_not_open_in_another_place(scheme: Scheme, change: dict[str, object]) -> None:
    with pytest.raises(SealBroken):
        decrypt(KEY, replace(HERE, **change), sealed_region(scheme))  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_names_that_run_into_each_other_are_different_places(data: st.DataObject) -> None:
    text = data.draw(st.text("ab/", max_size=6))
    cuts = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    others = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    one, two = (
        replace(HERE, image_id=text[:i], region_id=text[i:j], label=text[j:])
        for i, j in (cuts, others)
    )
    assert (one == two) == (one.encode() == two.encode())


@SCHEMES
def test_swapped_regions_do_not_open(scheme: Scheme) -> None:
    there = replace(HERE, region_id="rg_2", x1=50)
    one, two = sealed_region(scheme), encrypt(KEY, there, b"x", os.urandom, "k1", Sealing(scheme))
    with pytest.raises(SealBroken):
        decrypt(KEY, HERE, two)
    with pytest.raises(SealBroken):
        decrypt(KEY, there, one)


@SCHEMES
def test_another_key_does_not_open(scheme: Scheme) -> None:
    with pytest.raises(SealBroken):
        decrypt(bytes(32), HERE, sealed_region(scheme))


def test_a_field_and_a_region_are_never_taken_for_each_other() -> None:
    context = HERE.encode()[4:].decode("latin-1")
    field = seal_field(KEY, context, b"x", os.urandom)
    with pytest.raises(SealBroken):
        decrypt(KEY, HERE, field)
    region = bytearray(sealed_region(Scheme.CBC_HMAC))
    region[6] = 2
    with pytest.raises(SealBroken):
        open_field(KEY, context, region)


def test_a_scheme_cannot_be_relabelled() -> None:
    for scheme, other in itertools.permutations(Scheme):
        relabelled = bytearray(sealed_region(scheme))
        relabelled[5] = other
        with pytest.raises(SealBroken):
            decrypt(KEY, HERE, relabelled)


def failures() -> dict[str, Callable[[], bytes]]:
    """Every stage at which opening can stop, each by its own way."""
    good = sealed_region(Scheme.CBC_HMAC)
    gcm = sealed_region(Scheme.GCM)
    head, binding = good[: good[7]], HERE.encode()
    encryption_key, mac_key = peer.subkeys(KEY, head, binding)

    def forged(body: bytes) -> bytes:
        """With a right tag: what only a holder of the key could make."""
        tag = vault.hmac_sha256(mac_key, peer.pack(head, binding), bytes(16), body)
        return head + bytes(16) + body + tag

    def relabelled(place: int, value: int) -> bytes:
        """With a right tag over a header that says something else."""
        other = head[:place] + bytes([value]) + head[place + 1 :]
        encryption, mac = peer.subkeys(KEY, other, binding)
        body = peer.AES.new(encryption, peer.AES.MODE_CBC, iv=bytes(16)).encrypt(
            bytes(16) + b"\x10" * 16
        )
        tag = vault.hmac_sha256(mac, peer.pack(other, binding), bytes(16), body)
        return other + bytes(16) + body + tag

    def cbc(plain: bytes) -> bytes:
        return vault._cipher(Scheme.CBC_HMAC, encryption_key, bytes(16)).encryptor().update(plain)

    return {
        "empty": lambda: decrypt(KEY, HERE, b""),
        "magic": lambda: decrypt(KEY, HERE, b"X" + good[1:]),
        "format": lambda: decrypt(KEY, HERE, good[:4] + b"\2" + good[5:]),
        "scheme": lambda: decrypt(KEY, HERE, good[:5] + b"\x09" + good[6:]),
        "kind": lambda: decrypt(KEY, HERE, good[:6] + b"\2" + good[7:]),
        "header": lambda: decrypt(KEY, HERE, good[:7] + b"\0" + good[8:]),
        "cut header": lambda: decrypt(KEY, HERE, good[:7]),
        "cut body": lambda: decrypt(KEY, HERE, good[:60]),
        "tag": lambda: decrypt(KEY, HERE, good[:-1] + bytes([good[-1] ^ 1])),
        "gcm tag": lambda: decrypt(KEY, HERE, gcm[:-1] + bytes([gcm[-1] ^ 1])),
        "wrong key": lambda: decrypt(bytes(32), HERE, good),
        "wrong place": lambda: decrypt(KEY, replace(HERE, x1=0), good),
        "half a block": lambda: decrypt(KEY, HERE, forged(bytes(24))),
        "padding": lambda: decrypt(KEY, HERE, forged(cbc(bytes(32)))),
        "length": lambda: decrypt(KEY, HERE, forged(cbc(b"\xff" * 16 + b"\x10" * 16))),
        "length by one": lambda: decrypt(
            KEY, HERE, forged(cbc(bytes(15) + b"\x09" + b"\x10" * 16))
        ),
        "forged format": lambda: decrypt(KEY, HERE, relabelled(4, 2)),
        "forged magic": lambda: decrypt(KEY, HERE, relabelled(0, 0)),
        "forged kind": lambda: decrypt(KEY, HERE, relabelled(6, 2)),
        "field": lambda: open_field(KEY, "another", seal_field(KEY, "c", b"", os.urandom)),
    }


def test_what_the_forger_makes_would_open_if_it_said_the_right_thing() -> None:
    """So that the rows above fail for the reason that they name."""
    head, binding = peer.header(1, peer.REGION, "k1"), HERE.encode()
    encryption_key, mac_key = peer.subkeys(KEY, head, binding)
    body = peer.AES.new(encryption_key, peer.AES.MODE_CBC, iv=bytes(16)).encrypt(
        bytes(15) + b"\x08" + b"\x10" * 16
    )
    tag = vault.hmac_sha256(mac_key, peer.pack(head, binding), bytes(16), body)
    assert decrypt(KEY, HERE, head + bytes(16) + body + tag) == bytes(8)


@pytest.mark.parametrize("name", failures())
def test_every_failure_is_one_and_the_same_error(name: str) -> None:
    with pytest.raises(SealBroken) as caught:
        failures()[name]()
    assert type(caught.value) is SealBroken
    assert caught.value.message == vault._BROKEN
    assert caught.value.facts == {}
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_tag_is_checked_before_anything_is_decrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = bytearray(sealed_region(Scheme.CBC_HMAC))
    sealed[-1] ^= 1

    def decrypted(*_: object) -> None:
        raise AssertionError("decrypted before the tag was checked")

    monkeypatch.setattr(vault, "_collect", decrypted)
    with pytest.raises(SealBroken):
        decrypt(KEY, HERE, sealed)
    sealed[-1] ^= 1
    with pytest.raises(AssertionError):  # the trap does catch a decryption
        decrypt(KEY, HERE, sealed)


def test_tags_are_compared_by_the_library_in_constant_time() -> None:
    """Nothing in the module compares secret bytes with ``==``: only the header's public ones."""
    compared = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(inspect.getsource(vault)))
        if isinstance(node, ast.Compare)
    ]
    assert not [text for text in compared if "tag" in text or "mac" in text]
    assert "mac.verify(tag)" in inspect.getsource(vault._decrypted)


def test_the_iv_is_fresh_and_lies_in_front_of_the_ciphertext() -> None:
    ivs = set()
    for _ in range(50):
        sealed = sealed_region(Scheme.CBC_HMAC)
        head = sealed[: sealed[7]]
        iv, body = sealed[len(head) : len(head) + 16], sealed[len(head) + 16 : -32]
        encryption_key, _ = peer.subkeys(KEY, head, HERE.encode())
        plain = peer.AES.new(encryption_key, peer.AES.MODE_CBC, iv=iv).decrypt(body)
        assert plain.startswith(b"Erika Musterfrau")
        ivs.add(iv)
    assert len(ivs) == 50


def test_a_broken_source_of_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="randomness"):
        encrypt(KEY, HERE, b"x", lambda count: bytes(count - 1), "k1")


def test_keys_of_a_wrong_length_are_a_mistake_of_the_program() -> None:
    for short in (b"", bytes(16), bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32 bytes"):
            encrypt(short, HERE, b"x", os.urandom, "k1")
        with pytest.raises(ValueError, match="32 bytes"):
            decrypt(short, HERE, b"x")
        with pytest.raises(ValueError, match="32 bytes"):
            derive(short, "x")


def test_every_region_has_keys_of_its_own() -> None:
    used = set()
    for change in ({}, *ELSEWHERE):
        place = replace(HERE, **change)  # type: ignore[arg-type]
        head = peer.header(1, peer.REGION, "k1")
        used.update(vault._keys(KEY, Scheme.CBC_HMAC, head, place.encode()))
    assert len(used) == 2 * (1 + len(ELSEWHERE))
    assert KEY not in used


def test_the_length_of_a_sealed_region_depends_on_its_box_and_not_on_its_content() -> None:
    box = replace(HERE, x1=0, y1=0, x2=300, y2=40)
    lengths = {
        len(encrypt(KEY, box, os.urandom(size), os.urandom, "k1", Sealing(scheme)))
        for scheme in [Scheme.CBC_HMAC]
        for size in (0, 1, 700, 5000, 12_000)
    }
    assert len(lengths) == 1


def test_the_length_of_a_sealed_field_hides_short_contents() -> None:
    assert len({len(seal_field(KEY, "c", bytes(n), os.urandom)) for n in range(257)}) == 1


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 1 << 40), st.integers(0, 1 << 20))
def test_padding_follows_the_paper_and_costs_at_most_twelve_percent(
    length: int, floor: int
) -> None:
    padded = pad_length(length)
    assert padded == peer.padme(length)
    assert length <= padded <= length * 1.12
    assert pad_length(length, floor) == pad_length(max(length, floor))
    assert pad_length(padded) == padded


def test_padding_leaves_few_lengths_to_tell_apart() -> None:
    assert len({pad_length(n) for n in range(1 << 19, (1 << 20) - (1 << 14))}) == 32


@SCHEMES
def test_ciphertext_looks_random_whatever_it_hides(scheme: Scheme) -> None:
    """Byte frequencies of sealed zeros: chi-square with 255 degrees of freedom, mean of 20.

    The mean has a standard deviation of sqrt(2 * 255 / 20) = 5; six of them is 30.
    """
    values = []
    for _ in range(20):
        body = encrypt(KEY, HERE, bytes(100_000), os.urandom, "k1", Sealing(scheme))[26:-32]
        expected = len(body) / 256
        values.append(sum((body.count(b) - expected) ** 2 / expected for b in range(256)))
    assert abs(statistics.mean(values) - 255) < 30


@SCHEMES
def test_sealing_and_opening_copy_nothing_large(scheme: Scheme) -> None:
    """One copy of a large result costs as much time as its HMAC."""
    plaintext = os.urandom(8 << 20)
    tracemalloc.start()
    try:
        sealed = encrypt(KEY, HERE, plaintext, os.urandom, "k1", Sealing(scheme))
        assert tracemalloc.get_traced_memory()[1] < 1.1 * len(sealed)
        tracemalloc.reset_peak()
        assert decrypt(KEY, HERE, sealed) == plaintext
        assert tracemalloc.get_traced_memory()[1] < 2.1 * len(sealed)  # and the sealed bytes
    finally:
        tracemalloc.stop()


def test_an_identity_comes_from_a_region() -> None:
    region = Region(10, 20, 110, 60, 3, 7)
    identity = RegionIdentity.of("im_1", "rg_1", "text", region, version=2)
    assert identity == RegionIdentity("im_1", "rg_1", "text", 10, 20, 110, 60, 3, 7, 2)
    assert identity.volume_px == 100 * 40 * 4


@pytest.mark.parametrize("change", [{"x1": -1}, {"version": 1 << 32}])
def test_an_identity_that_cannot_be_encoded_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="identity"):
        replace(HERE, **change)


def test_key_ids_are_short_and_ascii() -> None:
    with pytest.raises(ValueError, match="64"):
        encrypt(KEY, HERE, b"", os.urandom, "k" * 65)
    with pytest.raises(ValueError, match="ascii"):
        encrypt(KEY, HERE, b"", os.urandom, "schlüssel")


def test_blind_indexes_differ_by_key_context_and_value() -> None:
    made = [
        blind_index(key, context, value)
        for key in (KEY, bytes(32))
        for context in ("patient/id", "patient/name", "patient")
        for value in ("1", "", "11", "/id1")
    ]
    assert len(set(made)) == len(made)
    assert {len(m) for m in made} == {16}


def test_a_signature_binds_data_and_key() -> None:
    signer, other = Signer(KEY), Signer(bytes(32))
    signature = signer.sign(b"checkpoint")
    Signer.verify(signer.public_bytes, b"checkpoint", signature)
    for public, data, signed in (
        (other.public_bytes, b"checkpoint", signature),
        (signer.public_bytes, b"checkpoinT", signature),
        (signer.public_bytes, b"checkpoint", signature[:-1]),
        (signer.public_bytes, b"checkpoint", bytes(64)),
        (b"short", b"checkpoint", signature),
    ):
        with pytest.raises(SealBroken):
            Signer.verify(public, data, signed)


def test_a_signer_shows_only_its_public_key() -> None:
    signer = Signer(KEY)
    assert signer.public_bytes.hex() in repr(signer)
    assert KEY.hex() not in repr(signer)


#: SHA-256 of what was frozen. A change here means that files in archives no longer open.
FROZEN = {
    "sealed-v1.json": "c116db6a488674e5ba3e99d7c0c57e8d1faef998ba8966998f4efa505ff3e5dc",
    "keys-v1.json": "71c239d8764c31fd120df91962d2dcc0405cc191bf00765e1798a83afcbbfb7d",
    "exchange-v1.json": "d655461309867338df51845be0365d22965f737ffba1e58a22501fca4db7db42",
}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_vectors_are_the_ones_that_were_frozen(name: str) -> None:
    data = (Path(vectors.__file__).parent / name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == FROZEN[name]


def opened(case: dict[str, Any]) -> bytes:
    key, sealed = bytes.fromhex(case["data_key"]), base64.b64decode(case["sealed"])
    if case["kind"] == "field":
        return open_field(key, case["context"], sealed)
    return decrypt(key, RegionIdentity(**case["identity"]), sealed)


@pytest.mark.parametrize("case", vectors.load("sealed-v1"), ids=lambda c: c["name"])
def test_sealed_vectors_have_the_outcome_that_they_name(case: dict[str, Any]) -> None:
    if case["outcome"] == "broken":
        with pytest.raises(SealBroken):
            opened(case)
        return
    assert case["outcome"] == "opens"
    plaintext = bytes.fromhex(case["plaintext"])
    assert opened(case) == plaintext
    # ... and the same randomness still gives the same bytes.
    key, random = bytes.fromhex(case["data_key"]), seeded(case["name"])
    scheme, floor = Scheme[case["scheme"]], case["floor_bytes"]
    if case["kind"] == "field":
        again = seal_field(key, case["context"], plaintext, random, scheme, floor)
    else:
        identity = RegionIdentity(**case["identity"])
        again = encrypt(key, identity, plaintext, random, case["key_id"], Sealing(scheme, floor))
    assert base64.b64encode(again).decode() == case["sealed"]


def test_the_worked_example_of_the_specification_is_true() -> None:
    page = (Path(vectors.__file__).parents[2] / "FORMAT.md").read_text(encoding="utf-8")
    block = page.split("### Worked example")[1].split("```")[1]
    said = dict(line.split(maxsplit=1) for line in block.strip().splitlines())
    identity = RegionIdentity("im_1", "rg_1", "text", 10, 20, 110, 60, 0, 1, 1)
    assert said["identity"] == (
        "image im_1, region rg_1, class text, box 10 20 110 60, frames 0 1, version 1"
    )
    raw = {n: bytes.fromhex(v) for n, v in said.items() if n not in ("identity", "floor", "data")}
    key = bytes.fromhex(said["data"].removeprefix("key "))
    sealed = encrypt(
        key, identity, raw["plaintext"], lambda n: raw["iv"][:n], "im_1", Sealing(floor_bytes=0)
    )
    assert sealed == raw["header"] + raw["iv"] + raw["ciphertext"] + raw["tag"]
    assert raw["binding"] == identity.encode()
    assert (raw["encryption"], raw["mac"]) == peer.subkeys(key, raw["header"], raw["binding"])

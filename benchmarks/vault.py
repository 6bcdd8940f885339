"""How fast regions are sealed and opened, beside OpenSSL called bare in the same run.

    python -m benchmarks.vault [--megabytes 20] [--rounds 15]

*Bare* is one call of AES-256-CBC and one of HMAC-SHA256 over what it wrote, without header,
key derivation or padding: through the system's libcrypto (ctypes) and through the library
that the vault uses, each into new memory as large as the vault's result, and once more into
one buffer again and again, as if nobody needed the result. The vault is compared round by
round with the fastest of the three; the median counts, and below 0.85 the exit status is 1.

These times are those of the processor for the one thread, so that a busy machine does not
decide; those of small things are by the clock on the wall. The order changes every round,
since what ran before decides how much memory is at hand.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import os
import random
import statistics
import sys
import time
from collections.abc import Callable

from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES256

from engine.crypto.key_exchange import Client, Exchanges, Group
from engine.crypto.keyring import unwrap_key, wrap_key
from engine.crypto.root_keys import PassphraseCost
from engine.crypto.vault import (
    RegionIdentity,
    Scheme,
    Sealing,
    Signer,
    decrypt,
    encrypt,
    hmac_sha256,
    open_field,
    seal_field,
)
from engine.host import Host

WANTED = 0.85
KEY, MAC_KEY, IV = os.urandom(32), os.urandom(32), os.urandom(16)
IDENTITY = RegionIdentity("im_1", "rg_1", "text", 0, 0, 640, 64, 0, 1, 1)


class Bare:
    """OpenSSL's own functions, through ctypes."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("crypto")
        if name is None:
            raise SystemExit("There is no libcrypto on this machine to compare with.")
        lib = self._lib = ctypes.CDLL(name)
        for function in ("EVP_CIPHER_CTX_new", "EVP_aes_256_cbc", "EVP_sha256", "HMAC"):
            getattr(lib, function).restype = ctypes.c_void_p
        lib.OpenSSL_version.restype = ctypes.c_char_p
        self.version = lib.OpenSSL_version(0).decode()
        self._context = ctypes.c_void_p(lib.EVP_CIPHER_CTX_new())
        self._cipher = ctypes.c_void_p(lib.EVP_aes_256_cbc())
        self._digest = ctypes.c_void_p(lib.EVP_sha256())

    def seal(self, plaintext: bytes, out: bytes) -> tuple[bytes, bytes]:
        """Writes into ``out``, whatever Python thinks of its immutability; returns out, tag."""
        lib, length, tail, tag = self._lib, ctypes.c_int(), ctypes.c_int(), bytes(32)
        start = ctypes.cast(out, ctypes.c_void_p).value or 0
        lib.EVP_EncryptInit_ex(self._context, self._cipher, None, KEY, IV)
        lib.EVP_EncryptUpdate(self._context, out, ctypes.byref(length), plaintext, len(plaintext))
        end = ctypes.c_void_p(start + length.value)
        lib.EVP_EncryptFinal_ex(self._context, end, ctypes.byref(tail))
        size = ctypes.c_size_t(length.value + tail.value)
        lib.HMAC(self._digest, MAC_KEY, 32, out, size, tag, None)
        return out, tag


def library(plaintext: bytes, out: bytearray) -> tuple[bytearray, bytes]:
    """The same through the library that the vault uses, in two calls, without PKCS#7."""
    Cipher(AES256(KEY), modes.CBC(IV)).encryptor().update_into(plaintext, out)
    return out, hmac_sha256(MAC_KEY, memoryview(out)[: len(plaintext)])


def time_ms(work: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    start = clock()
    work()
    return (clock() - start) * 1000.0


def check(bare: Bare) -> None:
    """That the bare calls do the work which they are credited with."""
    block = bytes(range(16)) * 100
    theirs, tag = bare.seal(block, bytes(len(block) + 16))
    ours, ours_tag = library(block + b"\x10" * 16, bytearray(len(block) + 31))
    if theirs != ours[: len(theirs)] or tag != ours_tag:
        raise SystemExit("The bare calls do not give AES-256-CBC and HMAC-SHA256.")


def bulk(megabytes: int, rounds: int) -> float:
    """Prints the table; returns the ratio that is asked for."""
    plaintext = os.urandom(megabytes * 1_000_000)
    size = len(encrypt(KEY, IDENTITY, plaintext, os.urandom, "k1"))
    bare = Bare()
    check(bare)
    kept = b"\1" * size
    print(f"{megabytes} MB, {rounds} rounds, medians; ctypes: {bare.version};")
    print(f"library: {backend.openssl_version_text()}\n")
    works: dict[str, Callable[[], object]] = {
        "bare, ctypes": lambda: bare.seal(plaintext, bytes(size)),
        "bare, library": lambda: library(plaintext, bytearray(size)),
        "bare, ctypes, same buffer": lambda: bare.seal(plaintext, kept),
        "vault, CBC + HMAC": lambda: encrypt(KEY, IDENTITY, plaintext, os.urandom, "k1"),
        "vault, GCM": lambda: encrypt(
            KEY, IDENTITY, plaintext, os.urandom, "k1", Sealing(Scheme.GCM)
        ),
        "vault, whole file": lambda: seal_field(KEY, "image/im_1", plaintext, os.urandom),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            times[name].append(time_ms(works[name]))
    times = {name: each[1:] for name, each in times.items()}  # the first warms up
    bares = (each for name, each in times.items() if name.startswith("bare"))
    fastest = [min(together) for together in zip(*bares, strict=True)]
    print("| seal | ms | MB/s | speed, bare = 1 |\n|---|---|---|---|")
    ratios = {}
    for name, each in times.items():
        ratios[name] = statistics.median(b / e for b, e in zip(fastest, each, strict=True))
        ms = statistics.median(each)
        print(f"| {name} | {ms:.1f} | {megabytes / ms * 1000:.0f} | {ratios[name]:.2f} |")

    print("\n| open | ms | MB/s |\n|---|---|---|")
    for scheme in Scheme:
        sealed = encrypt(KEY, IDENTITY, plaintext, os.urandom, "k1", Sealing(scheme))
        ms = statistics.median(
            time_ms(lambda data=sealed: decrypt(KEY, IDENTITY, data))  # type: ignore[misc]
            for _ in range(rounds)
        )
        print(f"| vault, {scheme.name} | {ms:.1f} | {megabytes / ms * 1000:.0f} |")
    return ratios["vault, CBC + HMAC"]


def small() -> None:
    """Fixed costs, which decide where regions are small."""
    data = os.urandom(2000)
    sealed = encrypt(KEY, IDENTITY, data, os.urandom, "k1")
    field = seal_field(KEY, "patient/pt_1", data[:100], os.urandom)
    wrapped = wrap_key(KEY, MAC_KEY, "image/im_1")
    signer = Signer(KEY)
    server = Exchanges(signer, Host.__new__(Host))
    client = Client(signer.public_bytes, "se_1", os.urandom)

    def handshake(group: Group) -> None:
        client.handshake(lambda: server.offer("se_1", group), lambda a: server.accept("se_1", a))

    print("\n| small | ms |\n|---|---|")
    for name, work, rounds in (
        ("region of 640 x 64 px, seal", lambda: encrypt(KEY, IDENTITY, data, os.urandom, ""), 500),
        ("region of 640 x 64 px, open", lambda: decrypt(KEY, IDENTITY, sealed), 500),
        ("field, open", lambda: open_field(KEY, "patient/pt_1", field), 500),
        ("wrapped key, open", lambda: unwrap_key(KEY, wrapped, "image/im_1"), 500),
        ("exchange, both sides, ffdhe3072", lambda: handshake(Group.FFDHE3072), 5),
        ("exchange, both sides, x25519", lambda: handshake(Group.X25519), 50),
        ("passphrase, default cost", lambda: PassphraseCost().derive("x" * 16, bytes(16)), 3),
    ):  # fmt: skip
        ms = statistics.median(time_ms(work, time.perf_counter) for _ in range(rounds))
        print(f"| {name} | {ms:.3f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    ratio = bulk(options.megabytes, options.rounds)
    small()
    print(f"\nsealing a region runs at {ratio:.2f} of the fastest bare OpenSSL; wanted {WANTED}")
    return 0 if ratio >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())

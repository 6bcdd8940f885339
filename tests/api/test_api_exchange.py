"""The key exchange over HTTP with a client written from FORMAT.md alone, on pycryptodome."""

from __future__ import annotations

import base64
import hashlib
import io
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from Crypto.Hash import HMAC, SHA256
from Crypto.Protocol.KDF import HKDF
from Crypto.Signature import eddsa
from PIL import Image as Pillow

from engine import Role
from tests.conftest import WHY
from tests.peer import field_binding, open_sealed, pack
from tests.rest import Hospital, ask, hospital

REASON = {"X-Reason": WHY}
X25519_PRIME = 2**255 - 19
A24 = 121665


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    with hospital(tmp_path_factory.mktemp("exchange")) as place:
        yield place


@dataclass
class Sealed:
    """An image in the house and the file that it was made of."""

    image_id: str
    region_id: str
    original: bytes


@pytest.fixture(scope="module")
def image(ward: Hospital) -> Sealed:
    token, data = ward.team.technician, ward.picture()
    taken = ward.engine.drafts.upload(token, ward.patient(), "erika.png", data)
    ward.engine.drafts.seal(token, taken.image_id, ward.detector.found)  # type: ignore[arg-type]
    [region] = ward.engine.images.regions(token, taken.image_id)
    return Sealed(taken.image_id, region.region_id, data)


def ladder(scalar: bytes, point: bytes) -> bytes:
    """X25519 as RFC 7748, section 5, writes it down; plain on purpose."""
    k = int.from_bytes(scalar, "little") & ~7 & (1 << 255) - 1 | 1 << 254
    p, u = X25519_PRIME, int.from_bytes(point, "little") & (1 << 255) - 1
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3 = pow(da + cb, 2, p), u * pow(da - cb, 2, p) % p
        x2, z2 = aa * bb % p, e * (aa + A24 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


class Client:
    """What a hospital system would write: signs in, exchanges a key, opens what it gets."""

    def __init__(self, ward: Hospital, username: str = "doctor") -> None:
        pair = ward.sign_in(username)
        self.token: str = pair["access"]
        self.session_id: str = pair["session_id"]
        self.received = 0
        pinned = base64.b64decode(ask("GET", "/auth/signing-key/").json()["ed25519"])
        self.verifier = eddsa.new(eddsa.import_public_key(pinned), "rfc8032")

    def exchange(self, group: str) -> None:
        offer = ask("GET", "/auth/key-exchange/", self.token, params={"group": group}).json()
        theirs = base64.b64decode(offer["public"])
        names = (offer["exchange_id"], self.session_id, group, str(offer["expires_in_s"]))
        offered = pack(b"medsec exchange v1 offer", *(n.encode() for n in names), theirs)
        self.verifier.verify(offered, base64.b64decode(offer["signature"]))

        secret = secrets.token_bytes(32)
        if group == "x25519":
            mine, shared = ladder(secret, bytes([9]).ljust(32, b"\0")), ladder(secret, theirs)
        else:
            p, g, x = int(offer["p"], 16), int(offer["g"]), int.from_bytes(secret)
            y = int.from_bytes(theirs)
            assert 1 < y < p - 1
            assert pow(y, (p - 1) // 2, p) == 1
            mine, shared = (pow(b, x, p).to_bytes(len(theirs)) for b in (g, y))

        answer = {
            "exchange_id": offer["exchange_id"],
            "public": base64.b64encode(mine).decode(),
        }
        reply = ask("POST", "/auth/key-exchange/", self.token, json=answer).json()
        transcript = pack(b"medsec exchange v1 transcript", offered, mine)
        salt = hashlib.sha256(transcript).digest()
        both = HKDF(shared, 64, salt, SHA256, context=b"medsec exchange v1 keys")
        assert isinstance(both, bytes)
        expected = HMAC.new(both[32:], transcript, SHA256).digest()
        confirmation = base64.b64decode(reply["confirmation"])
        assert confirmation == expected
        seconds = str(reply["expires_in_s"]).encode()
        confirmed = pack(b"medsec exchange v1 confirmation", transcript, confirmation, seconds)
        self.verifier.verify(confirmed, base64.b64decode(reply["signature"]))
        self.exchange_id, self.key = offer["exchange_id"], both[:32]

    def get(self, path: str, **params: str) -> httpx.Response:
        headers = {**REASON, "X-Key-Exchange": self.exchange_id}
        return ask("GET", path, self.token, params=params, headers=headers)

    def open(self, message: bytes, context: str) -> bytes:
        number = int.from_bytes(message[:8])
        assert number > self.received
        self.received = number
        bound = f"exchange/{self.exchange_id}/server/{number}/{context}"
        return open_sealed(self.key, field_binding(bound), message[8:])


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(data)).convert("L"))


def test_the_plain_ladder_is_the_one_of_the_rfc() -> None:
    """RFC 7748, section 5.2."""
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    product = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert ladder(scalar, point).hex() == product


@pytest.mark.parametrize("group", ["ffdhe3072", "ffdhe4096", "x25519"])
def test_an_independent_client_restores_pixels_under_the_exchanged_key(
    ward: Hospital, image: Sealed, group: str
) -> None:
    client = Client(ward)
    client.exchange(group)
    path = f"/images/{image.image_id}/restore/"
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-rendition"] == "rendered"
    assert not any(p in answer.content for p in (b"PNG\r\n", b"IHDR", b"IDAT", b"IEND"))
    opened = client.open(answer.content, f"image/{image.image_id}/png/0/plain")
    assert (pixels(opened) == pixels(image.original)).all()
    original = client.get(path, format="original")
    assert (
        client.open(original.content, f"image/{image.image_id}/original/0/plain") == image.original
    )


def test_a_region_opens_under_the_exchanged_key(ward: Hospital, image: Sealed) -> None:
    client = Client(ward)
    client.exchange("x25519")
    path = f"/regions/{image.region_id}/"
    box = ask("GET", path, client.token).json()
    assert (box["image_id"], box["label"]) == (image.image_id, "text")
    answer = client.get(path)
    assert answer.headers["content-type"] == "application/octet-stream"
    opened = pixels(client.open(answer.content, f"region/{image.region_id}/0"))
    under = pixels(image.original)[box["y1"] : box["y2"], box["x1"] : box["x2"]]
    assert (opened == under).all()
    entries = ask("GET", "/audit/", ward.tokens[Role.ADMINISTRATOR]).json()["items"]
    assert any(e["region_id"] == image.region_id and e["reason"] == WHY for e in entries)


def test_a_sealed_answer_is_bound_to_what_was_asked_for(ward: Hospital, image: Sealed) -> None:
    client = Client(ward)
    client.exchange("x25519")
    other = ward.image(ward.patient())
    answer = client.get(f"/images/{other}/restore/")
    with pytest.raises(ValueError, match="MAC"):
        client.open(answer.content, f"image/{image.image_id}/png/0/plain")


def test_an_exchange_of_another_session_or_none_is_refused(ward: Hospital, image: Sealed) -> None:
    client, thief = Client(ward), Client(ward)
    client.exchange("x25519")
    thief.exchange_id = client.exchange_id
    for path in (f"/images/{image.image_id}/restore/", f"/regions/{image.region_id}/"):
        answer = thief.get(path)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:medsec:exchange-error")
    thief.exchange_id = "ex_nothing"
    assert thief.get(f"/images/{image.image_id}/restore/").status_code == 409


@pytest.mark.parametrize("public", ["", "AAAA", "!", base64.b64encode(bytes(32)).decode()])
def test_a_bad_public_value_is_refused_and_uses_the_offer_up(ward: Hospital, public: str) -> None:
    client = Client(ward)
    offer = ask("GET", "/auth/key-exchange/", client.token, params={"group": "x25519"}).json()
    answer = {"exchange_id": offer["exchange_id"], "public": public}
    codes = [
        ask("POST", "/auth/key-exchange/", client.token, json=answer).status_code for _ in range(2)
    ]
    assert codes == [409, 409]


def test_the_signing_key_shows_its_fingerprint(ward: Hospital) -> None:
    shown = ask("GET", "/auth/signing-key/").json()
    key = base64.b64decode(shown["ed25519"])
    assert hashlib.sha256(key).hexdigest() == shown["fingerprint"]
    assert key == ward.engine.keys.signing_key()

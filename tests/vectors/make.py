"""Wrote the frozen vectors; writes those of the next format. Never over a file that is there.

``python -m tests.vectors.make`` from the repository's root. A vector names its expected
outcome: ``opens``, or ``broken`` with what was done to it. Files of older formats stay for
ever: what they hold lies in somebody's archive.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from engine.crypto import vault
from engine.crypto.key_exchange import Channel, Group, _agree, _offered
from engine.crypto.keyring import Keyring, wrap_key
from engine.crypto.root_keys import PassphraseCost, key_id_of, line_of
from engine.crypto.vault import RegionIdentity, Scheme, Sealing, pack

FOLDER = Path(__file__).parent
HERE = RegionIdentity("im_1", "rg_1", "text", 10, 20, 110, 60, 0, 1, 1)


def seeded(label: str) -> Callable[[int], bytes]:
    """Randomness that can be had again: SHAKE-256 of a label, read on and on."""
    drawn = 0

    def random(count: int) -> bytes:
        nonlocal drawn
        drawn += count
        return hashlib.shake_256(label.encode()).digest(drawn)[-count:]

    return random


def sealed() -> list[dict[str, Any]]:
    """Regions and fields in both schemes, opening and broken."""
    cases: list[dict[str, Any]] = []
    key = seeded("data key")(32)
    contents = {"empty": b"", "name": "Erika Mustermann ✚".encode(), "block": bytes(range(64))}
    places = {
        "first frame": HERE,
        "every frame": replace(HERE, frame_end=300, label="Gesicht", version=7),
    }
    for scheme in Scheme:
        for what, plaintext in contents.items():
            for where, place in places.items():
                name = f"{scheme.name}, {what}, {where}"
                data = vault.encrypt(
                    key, place, plaintext, seeded(name), "k-1", Sealing(scheme, 64)
                )
                cases.append(
                    {
                        "name": name,
                        "kind": "region",
                        "scheme": scheme.name,
                        "key_id": "k-1",
                        "identity": asdict(place),
                    }
                    | _case(key, plaintext, data, 64, "opens")
                )
            name = f"{scheme.name}, {what}, field"
            data = vault.seal_field(key, "patient/pt_1/record", plaintext, seeded(name), scheme)
            cases.append(
                {"name": name, "kind": "field", "scheme": scheme.name, "key_id": ""}
                | {"context": "patient/pt_1/record"}
                | _case(key, plaintext, data, 256, "opens")
            )
        whole = next(c for c in cases if c["name"] == f"{scheme.name}, name, first frame")
        data = base64.b64decode(whole["sealed"])
        for damage, altered in {
            "last bit of the tag": data[:-1] + bytes([data[-1] ^ 1]),
            "first bit of the IV": data[:11] + bytes([data[11] ^ 128]) + data[12:],
            "a bit of the ciphertext": data[:40] + bytes([data[40] ^ 4]) + data[41:],
            "another key id": data[:8] + b"k-2" + data[11:],
            "format version 2": data[:4] + b"\2" + data[5:],
            "the other scheme": data[:5] + bytes([3 - data[5]]) + data[6:],
            "last byte cut": data[:-1],
            "a byte behind": data + b"\0",
            "header only": data[:11],
            "nothing": b"",
        }.items():
            case = {**whole, "name": f"{scheme.name}, {damage}", "outcome": "broken"}
            cases.append(case | {"sealed": base64.b64encode(altered).decode()})
        for change in (
            {"image_id": "im_2"}, {"region_id": "rg_2"}, {"label": "face"}, {"x2": 111},
            {"frame": 1, "frame_end": 2}, {"version": 2},
        ):  # fmt: skip
            moved = asdict(replace(HERE, **change))  # type: ignore[arg-type]
            case = {**whole, "name": f"{scheme.name}, as {change}", "outcome": "broken"}
            cases.append(case | {"identity": moved})
        cases.append(
            {**whole, "name": f"{scheme.name}, another data key", "outcome": "broken"}
            | {"data_key": bytes(32).hex()}
        )
    return cases


def _case(key: bytes, plain: bytes, data: bytes, floor: int, outcome: str) -> dict[str, Any]:
    return {
        "data_key": key.hex(),
        "plaintext": plain.hex(),
        "floor_bytes": floor,
        "sealed": base64.b64encode(data).decode(),
        "outcome": outcome,
    }


def keys() -> dict[str, Any]:
    """Root keys, what they wrap, derived keys, indexes, signatures, a passphrase, shares."""
    old, new, inner = (seeded(n)(32) for n in ("old root", "new root", "inner"))
    ring = Keyring([old, new])
    key_id, wrapped = ring.wrap(inner, "patient/pt_1")
    cost = PassphraseCost(19_456, 2, 1)
    salt, phrase = seeded("salt")(16), "correct horse battery staple"
    signer = vault.Signer(inner)
    other = wrap_key(inner, old, "image/im_1")
    return {
        "key_file": "# a remark\n" + line_of(old) + line_of(new),
        "root_keys": [
            {"key": k.hex(), "key_id": key_id_of(k), "check_value": ring.check_value(key_id_of(k))}
            for k in (old, new)
        ],
        "wrapped_by_root": {
            "key_id": key_id,
            "context": "patient/pt_1",
            "key": inner.hex(),
            "wrapped": wrapped.hex(),
        },
        "wrapped": [
            {"kek": inner.hex(), "context": c, "wrapped": w.hex(), "key": old.hex(), "outcome": o}
            for c, w, o in (
                ("image/im_1", other, "opens"),
                ("", wrap_key(inner, old), "opens"),
                ("image/im_2", other, "broken"),
                ("", other, "broken"),
                ("image/im_1", other[:-1] + bytes([other[-1] ^ 1]), "broken"),
                ("image/im_1", other[:-8], "broken"),
            )
        ],
        "derived": {"key": inner.hex(), "context": "c", "made": vault.derive(inner, "c").hex()},
        "blind_index": {
            "key": inner.hex(),
            "context": "patient/id",
            "value": "4711",
            "made": vault.blind_index(inner, "patient/id", "4711").hex(),
        },
        "signature": {
            "public": signer.public_bytes.hex(),
            "data": b"checkpoint".hex(),
            "signature": signer.sign(b"checkpoint").hex(),
        },
        "passphrase": {
            "passphrase": phrase,
            "record": 'kdf = "argon2id"\nsalt = "'
            + salt.hex()
            + '"\nmemory_kib = 19456\niterations = 2\nlanes = 1\n',
            "key_id": key_id_of(cost.derive(phrase, salt)),
        },
        # Shares hold the library's own randomness: these are the ones of one afternoon.
        "shares": {
            "key_id": ring.newest_id,
            "key": new.hex(),
            "needed": 3,
            "texts": ring.split(ring.newest_id, seeded("split"), 3, 5),
        },
    }


def exchange() -> dict[str, Any]:
    """What both sides compute from a shared secret, and a message under it."""
    shared, theirs, ours = (seeded(n)(32) for n in ("shared", "server", "client"))
    offered = _offered("ex_1", "se_1", Group.X25519, theirs, 60)
    transcript = pack(b"medsec exchange v1 transcript", offered, ours)
    key, confirmation = _agree(shared, transcript)
    message = Channel("ex_1", key, "server", seeded("iv")).encrypt(b"pixels", "image/im_1")
    return {
        "exchange_id": "ex_1",
        "session_id": "se_1",
        "group": "x25519",
        "expires_in_s": 60,
        "server_public": theirs.hex(),
        "client_public": ours.hex(),
        "shared": shared.hex(),
        "key": key.hex(),
        "confirmation": confirmation.hex(),
        "context": "image/im_1",
        "payload": b"pixels".hex(),
        "message": base64.b64encode(message).decode(),
    }


def main() -> None:
    for name, made in (("sealed", sealed), ("keys", keys), ("exchange", exchange)):
        path = FOLDER / f"{name}-v{vault.FORMAT_VERSION}.json"
        if not path.exists():
            path.write_text(json.dumps(made(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

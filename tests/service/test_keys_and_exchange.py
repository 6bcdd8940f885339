"""Exchanged keys that are really used, recovery shares, rotation while images stay readable."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from engine import Engine, errors
from engine.crypto.key_exchange import Client
from tests.conftest import PASSWORD, WHY, Ward, text_png
from tests.fakes import FakeHost

GROUPS = ("ffdhe3072", "x25519")


def handshake(engine: Engine, token: str, host: FakeHost, group: str):
    session_id = engine.caller(token).session_id
    client = Client(engine.context.hierarchy.signer().public_bytes, session_id, host.random)
    offer = engine.exchange.offer(token, group)
    channel = client.handshake(lambda: offer, lambda answer: engine.exchange.answer(token, answer))
    return channel, offer


@pytest.mark.parametrize("group", GROUPS)
def test_a_restoration_travels_under_the_exchanged_key_only(
    ward: Ward,
    host: FakeHost,
    group: str,
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, token = ward.engine, ward.team.doctor
    channel, offer = handshake(engine, token, host, group)
    opened = engine.images.restore(token, image_id, WHY)
    message = engine.exchange.deliver_file(token, opened.handle, offer["exchange_id"])
    assert data[100:200] not in message
    context = f"image/{image_id}/original/0/plain"
    assert channel.decrypt(message, context) == data
    with pytest.raises(errors.SealError):  # the same message a second time
        channel.decrypt(message, context)


def test_a_region_travels_under_the_exchanged_key(ward: Ward, host: FakeHost) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, token = ward.engine, ward.team.doctor
    channel, offer = handshake(engine, token, host, "ffdhe3072")
    [region] = engine.images.regions(token, image_id)
    message = engine.exchange.deliver_region(
        token, image_id, region.region_id, WHY, offer["exchange_id"]
    )
    opened = channel.decrypt(message, f"region/{region.region_id}/0")
    box = region.detection.region
    seen, original = (np.asarray(Image.open(io.BytesIO(d)).convert("L")) for d in (opened, data))
    assert (seen == original[box.y1 : box.y2, box.x1 : box.x2]).all()
    with pytest.raises(errors.NotFound):
        engine.exchange.deliver_region(token, image_id, "rg_other", WHY, offer["exchange_id"])


def test_an_exchange_belongs_to_its_session_and_ends_with_it(
    ward: Ward,
    host: FakeHost,
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, token = ward.engine, ward.team.doctor
    _, offer = handshake(engine, token, host, "x25519")
    other = engine.sessions.sign_in("doctor", PASSWORD).token
    opened = engine.images.restore(other, image_id, WHY)
    with pytest.raises(errors.ExchangeError):
        engine.exchange.deliver_file(other, opened.handle, offer["exchange_id"])
    with pytest.raises(errors.InputError):
        engine.exchange.offer(token, "modp-512")


def test_images_restore_after_rotation_and_shares_prove_themselves(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, admin = ward.engine, ward.team.administrator
    assert list(engine.keys.rotate(admin))[-1] == 0
    assert engine.images.restore(ward.team.doctor, image_id, WHY).proof == "bytes"
    shares = engine.keys.recovery_shares(admin)
    assert len(shares) == 3
    newest = engine.health.state(admin)["root_keys"][-1]
    assert engine.keys.drill_shares(admin, shares[1:]) == newest
    with pytest.raises(errors.InputError):
        engine.keys.drill_shares(admin, shares[:1])
    with pytest.raises(errors.InputError):
        engine.keys.recovery_shares(admin, 1, 3)
    log = str(engine.audit.entries(admin))
    assert not any(share in log for share in shares)

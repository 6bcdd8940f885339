"""Known-answer tests at every start: they stop what does not compute rightly."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Settings
from engine.crypto import keyring, self_tests, vault
from engine.errors import SelfTestFailed
from engine.host import Folder
from engine.operations import worker
from engine.operations.worker import WorkerSetup
from tests.fakes import FakeHost, ScriptedDetector

VECTORS = Path(__file__).parents[1] / "vectors" / "sealed-v1.json"


def test_every_known_answer_is_given() -> None:
    self_tests.self_test(os.urandom)


def test_the_sealed_answers_are_the_frozen_ones() -> None:
    frozen = {base64.b64decode(v["sealed"]) for v in json.loads(VECTORS.read_text())
              if v["outcome"] == "opens"}  # fmt: skip
    assert set(self_tests._SEALED.values()) <= frozen


def hkdf(key: bytes, info: bytes, length: int, salt: bytes | None = None) -> bytes:
    return bytes(length)


def raises(*_: Any) -> bytes:
    raise RuntimeError("the library is broken")


def flipped(call: Callable[..., bytes]) -> Callable[..., bytes]:
    def wrong(*arguments: Any, **named: Any) -> bytes:
        said = call(*arguments, **named)
        return said[:-1] + bytes([said[-1] ^ 1])

    return wrong


@pytest.mark.parametrize(
    ("module", "name", "broken", "told"),
    [
        (vault, "hkdf", hkdf, "HKDF-SHA256"),
        (vault, "hkdf", raises, "HKDF-SHA256"),
        (vault, "hmac_sha256", flipped(vault.hmac_sha256), "HMAC-SHA256"),
        (self_tests, "wrap_key", flipped(keyring.wrap_key), "AES-KWP"),
        # Opens whatever the context is: what has to be refused is tried too.
        (self_tests, "unwrap_key", lambda kek, w, c="": self_tests._DATA_KEY, "AES-KWP"),
        (vault.Signer, "verify", staticmethod(lambda *_: None), "Ed25519"),
        (self_tests, "ffdhe_prime", lambda group: (1 << 3072) - 1, "RFC 7919 groups"),
        (vault, "decrypt", lambda *_: self_tests._CONTENT, "sealing of regions"),
        (vault, "pad_length", lambda length, floor=0: length, "sealing of regions"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, broken: Any, told: str
) -> None:
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(SelfTestFailed) as caught:
        self_tests.self_test(os.urandom)
    assert caught.value.facts == {"test": told}


@pytest.mark.parametrize("source", [bytes, lambda count: b"ab" * (count // 2), lambda _: b"few"])
def test_randomness_that_repeats_itself_is_found(source: Callable[[int], bytes]) -> None:
    with pytest.raises(SelfTestFailed) as caught:
        self_tests.self_test(source)
    assert caught.value.facts == {"test": "randomness"}


def test_nothing_starts_on_cryptography_that_fails(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    monkeypatch.setattr(vault, "hkdf", hkdf)
    with pytest.raises(SelfTestFailed):
        Engine.open(
            settings, FakeHost(settings.data / "blobs"), detector=ScriptedDetector(settings)
        )
    assert settings.key_file is not None
    assert not settings.key_file.exists()
    monkeypatch.setattr(worker, "_HERE", None)
    with pytest.raises(SelfTestFailed):
        WorkerSetup.of(settings, {}, partial(Folder, tmp_path), 1)()
    assert worker._HERE is None

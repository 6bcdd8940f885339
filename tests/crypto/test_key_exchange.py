"""The key exchange: both sides agree, nobody between them does, and nothing opens twice."""

from __future__ import annotations

import base64
import inspect
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.crypto import key_exchange
from engine.crypto.key_exchange import (
    Channel,
    Client,
    Exchanges,
    FiniteField,
    Group,
    agreement,
    ffdhe_prime,
)
from engine.crypto.vault import Signer, pack
from engine.errors import ExchangeError, SealBroken
from engine.host import Host
from tests import vectors

GROUPS = pytest.mark.parametrize("group", list(Group))
SIGNER = Signer(bytes(range(32)))


class Clock(Host):
    """A host whose time is moved by hand."""

    moved = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC).replace(tzinfo=None) + self.moved


@pytest.fixture
def host(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def server(host: Clock) -> Exchanges:
    return Exchanges(SIGNER, host)


def client(session: str = "se_1", pinned: bytes = SIGNER.public_bytes) -> Client:
    return Client(pinned, session, os.urandom)


def connect(
    server: Exchanges, session: str = "se_1", group: Group = Group.X25519
) -> tuple[Channel, Channel]:
    """Server's and client's side of one exchange."""
    mine = client(session).handshake(
        lambda: wire(server.offer(session, group)),
        lambda answer: wire(server.accept(session, wire(answer))),
    )
    return server.channel(session, mine.exchange_id), mine


def wire(message: dict[str, Any]) -> dict[str, Any]:
    """Through JSON and back, as over HTTP."""
    back = json.loads(json.dumps(message))
    assert isinstance(back, dict)
    return back


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


# --- both sides agree -------------------------------------------------------------------


@GROUPS
def test_both_sides_hold_the_same_key_and_use_it(server: Exchanges, group: Group) -> None:
    ours, theirs = connect(server, group=group)
    assert ours._key == theirs._key
    assert len(ours._key) == 32
    picture = os.urandom(100_000)
    sealed = ours.encrypt(picture, "image/im_1")
    assert picture[:64] not in sealed
    assert theirs.decrypt(sealed, "image/im_1") == picture
    assert ours.decrypt(theirs.encrypt(b"thanks", "answer"), "answer") == b"thanks"


def test_the_default_group_is_the_one_that_was_asked_for(server: Exchanges) -> None:
    offer = server.offer("se_1")
    assert offer["group"] == "ffdhe3072"
    assert int(offer["p"], 16) == ffdhe_prime(Group.FFDHE3072)
    assert offer["g"] == "2"
    assert len(base64.b64decode(offer["public"])) == 384


def test_every_exchange_has_another_key(server: Exchanges) -> None:
    assert len({connect(server)[0]._key for _ in range(10)}) == 10


@pytest.mark.parametrize("group", [Group.FFDHE3072, Group.FFDHE4096])
def test_the_shared_secret_is_what_the_textbook_says(group: Group) -> None:
    ours, theirs = FiniteField(group), FiniteField(group)
    prime = ffdhe_prime(group)
    secret = theirs._private.private_numbers().x
    assert secret.bit_length() > 250
    expected = pow(int.from_bytes(ours.public), secret, prime)
    assert ours.shared(theirs.public) == expected.to_bytes(prime.bit_length() // 8)
    assert theirs.shared(ours.public) == ours.shared(theirs.public)


def test_a_shared_secret_with_leading_zeros_keeps_its_length() -> None:
    """Dropping them tells the attacker something by time (Raccoon), and keys would differ."""
    ours = FiniteField(Group.FFDHE3072)
    prime, secret = ffdhe_prime(Group.FFDHE3072), ours._private.private_numbers().x
    for exponent in itertools.count(3):
        public = pow(2, exponent, prime)
        if pow(public, secret, prime) >> (prime.bit_length() - 8) == 0:
            break
    shared = ours.shared(public.to_bytes(384))
    assert len(shared) == 384
    assert shared[0] == 0


def test_frozen_exchanges_give_the_same_key_for_ever() -> None:
    case = vectors.load("exchange-v1")
    server_public, client_public, shared = (
        bytes.fromhex(case[name]) for name in ("server_public", "client_public", "shared")
    )
    offered = key_exchange._offered(
        case["exchange_id"],
        case["session_id"],
        Group(case["group"]),
        server_public,
        case["expires_in_s"],
    )
    transcript = pack(b"medsec exchange v1 transcript", offered, client_public)
    key, confirmation = key_exchange._agree(shared, transcript)
    assert (key.hex(), confirmation.hex()) == (case["key"], case["confirmation"])
    channel = Channel(case["exchange_id"], key, "client", os.urandom)
    opened = channel.decrypt(base64.b64decode(case["message"]), case["context"])
    assert opened.hex() == case["payload"]


# --- public values ----------------------------------------------------------------------

P = ffdhe_prime(Group.FFDHE3072)
GOOD = pow(2, 12345, P)
BAD_VALUES = {
    "zero": 0,
    "one": 1,
    "order two": P - 1,
    "the prime": P,
    "over the prime": P + 2,
    "no square: the library takes it, and it tells a bit of the exponent": P - GOOD,
    "the negative of the generator": P - 2,
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_public_values_outside_the_subgroup_are_refused_by_both_sides(
    server: Exchanges, name: str
) -> None:
    public = BAD_VALUES[name].to_bytes(384)
    offer = server.offer("se_1")
    with pytest.raises(ExchangeError, match="none that this group allows"):
        server.accept("se_1", {"exchange_id": offer["exchange_id"], "public": encoded(public)})
    # The same from a server that the client trusts: it checks all the same.
    offered = key_exchange._offered(offer["exchange_id"], "se_1", Group.FFDHE3072, public, 60)
    bad = {**offer, "public": encoded(public), "signature": encoded(SIGNER.sign(offered))}
    with pytest.raises(ExchangeError, match="none that this group allows"):
        client().handshake(lambda: bad, unreachable)


def test_a_value_of_the_subgroup_is_accepted() -> None:
    assert len(FiniteField(Group.FFDHE3072).shared(GOOD.to_bytes(384))) == 384


@pytest.mark.parametrize("public", [b"", b"\2", GOOD.to_bytes(385), bytes(383)], ids=len)
def test_public_values_of_another_length_are_refused(public: bytes) -> None:
    with pytest.raises(ExchangeError):
        FiniteField(Group.FFDHE3072).shared(public)


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), b"", bytes(31), bytes(33)])
def test_curve_points_of_small_order_or_wrong_length_are_refused(public: bytes) -> None:
    with pytest.raises(ExchangeError):
        agreement(Group.X25519).shared(public)


def test_only_named_groups_of_128_bits_and_more_are_offered() -> None:
    assert {g.value for g in Group} == {"ffdhe3072", "ffdhe4096", "x25519"}


def unreachable(_: object) -> dict[str, Any]:
    raise AssertionError("the client answered")


# --- nobody in between ------------------------------------------------------------------


def test_a_man_in_the_middle_with_another_key_is_found(host: Clock) -> None:
    mallory = Exchanges(Signer(bytes(32)), host)
    with pytest.raises(SealBroken):
        client().handshake(lambda: mallory.offer("se_1", Group.X25519), unreachable)


OFFER_CHANGES: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda o: {**o, "public": encoded(agreement(Group.X25519).public)},  # his own value
    lambda o: {**o, "exchange_id": "ex_other"},
    lambda o: {**o, "expires_in_s": 9999},
    lambda o: {**o, "group": "ffdhe3072"},  # another group
    lambda o: {**o, "signature": encoded(bytes(64))},
]


@pytest.mark.parametrize("change", OFFER_CHANGES)
def test_a_changed_offer_is_found(
    server: Exchanges, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    with pytest.raises(SealBroken):
        client().handshake(lambda: change(server.offer("se_1", Group.X25519)), unreachable)


def test_an_offer_to_another_session_is_found(server: Exchanges) -> None:
    with pytest.raises(SealBroken):
        client("se_2").handshake(lambda: server.offer("se_1", Group.X25519), unreachable)


def test_a_client_value_changed_on_the_way_is_found(server: Exchanges) -> None:
    swapped = encoded(agreement(Group.X25519).public)
    with pytest.raises(SealBroken):  # the server signed for another transcript
        client().handshake(
            lambda: server.offer("se_1", Group.X25519),
            lambda answer: server.accept("se_1", {**answer, "public": swapped}),
        )


CONFIRMATION_CHANGES: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda c: {**c, "confirmation": encoded(bytes(32))},
    lambda c: {**c, "expires_in_s": 1 << 30},
    lambda c: {**c, "signature": encoded(bytes(64))},
]


@pytest.mark.parametrize("change", CONFIRMATION_CHANGES)
def test_a_changed_confirmation_is_found(
    server: Exchanges, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    with pytest.raises(SealBroken):
        client().handshake(
            lambda: server.offer("se_1", Group.X25519),
            lambda answer: change(server.accept("se_1", answer)),
        )


def test_a_server_without_the_key_cannot_confirm(server: Exchanges) -> None:
    """Signed by the right key, but over a wrong proof: as if its memory were broken."""

    def confirm(answer: dict[str, Any]) -> dict[str, Any]:
        pending = server._pending["se_1"]
        transcript = pack(
            b"medsec exchange v1 transcript", pending.offered, base64.b64decode(answer["public"])
        )
        signed = SIGNER.sign(key_exchange._confirmed(transcript, bytes(32), 900))
        return {
            "confirmation": encoded(bytes(32)),
            "expires_in_s": 900,
            "signature": encoded(signed),
        }

    with pytest.raises(ExchangeError, match="different keys"):
        client().handshake(lambda: server.offer("se_1", Group.X25519), confirm)


def test_a_confirmation_is_no_offer_and_an_offer_no_confirmation() -> None:
    """One key signs both, and audit checkpoints too: what is signed never starts alike."""
    offered = key_exchange._offered("ex_1", "se_1", Group.X25519, bytes(32), 60)
    confirmed = key_exchange._confirmed(b"transcript", bytes(32), 900)
    assert offered[:40] != confirmed[:40]
    assert all(b"medsec exchange v1" in part[:30] for part in (offered, confirmed))


WRONG_FIELDS = [
    {"public": None}, {"public": 7}, {"public": "no base64!"}, {"group": "ffdhe2048"},
    {"group": None}, {"expires_in_s": "60"}, {"exchange_id": None}, {"signature": None},
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG_FIELDS, ids=str)
def test_malformed_offers_are_refused(server: Exchanges, change: dict[str, Any]) -> None:
    with pytest.raises(ExchangeError):
        client().handshake(lambda: {**server.offer("se_1", Group.X25519), **change}, unreachable)


@pytest.mark.parametrize(
    "answer", [{}, {"exchange_id": "ex"}, {"exchange_id": 1, "public": ""}, {"public": "AA=="}]
)
def test_malformed_answers_are_refused(server: Exchanges, answer: dict[str, Any]) -> None:
    server.offer("se_1")
    with pytest.raises(ExchangeError):
        server.accept("se_1", answer)


# --- once, in time, for one session -----------------------------------------------------


def answer_to(offer: dict[str, Any]) -> dict[str, Any]:
    pair = agreement(Group(offer["group"]))
    return {"exchange_id": offer["exchange_id"], "public": encoded(pair.public)}


def test_an_offer_takes_one_answer(server: Exchanges) -> None:
    offer = server.offer("se_1", Group.X25519)
    server.accept("se_1", answer_to(offer))
    with pytest.raises(ExchangeError, match="not open"):
        server.accept("se_1", answer_to(offer))


def test_a_bad_answer_uses_the_offer_up(server: Exchanges) -> None:
    offer = server.offer("se_1", Group.X25519)
    with pytest.raises(ExchangeError):
        server.accept("se_1", {**answer_to(offer), "public": encoded(bytes(32))})
    with pytest.raises(ExchangeError, match="not open"):
        server.accept("se_1", answer_to(offer))


def test_of_many_answers_at_once_one_is_taken(server: Exchanges) -> None:
    offer = server.offer("se_1", Group.X25519)
    answers = [answer_to(offer) for _ in range(8)]
    outcomes: list[str] = []
    together = threading.Barrier(8)

    def try_it(answer: dict[str, Any]) -> None:
        together.wait()
        try:
            server.accept("se_1", answer)
            outcomes.append("taken")
        except ExchangeError:
            outcomes.append("refused")

    threads = [threading.Thread(target=try_it, args=(a,)) for a in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["taken"]


def test_a_new_offer_replaces_the_last_one(server: Exchanges) -> None:
    first = server.offer("se_1", Group.X25519)
    second = server.offer("se_1", Group.X25519)
    with pytest.raises(ExchangeError):
        server.accept("se_1", answer_to(first))
    server.accept("se_1", answer_to(second))


def test_an_offer_expires(server: Exchanges, host: Clock) -> None:
    offer = server.offer("se_1", Group.X25519)
    host.moved = timedelta(seconds=key_exchange.OFFER_SECONDS)
    with pytest.raises(ExchangeError, match="not open"):
        server.accept("se_1", answer_to(offer))


def test_another_session_can_neither_answer_nor_spoil_an_offer(server: Exchanges) -> None:
    offer = server.offer("se_1", Group.X25519)
    with pytest.raises(ExchangeError, match="not open"):
        server.accept("se_2", answer_to(offer))
    server.accept("se_1", answer_to(offer))


def test_a_channel_belongs_to_its_session_and_expires(server: Exchanges, host: Clock) -> None:
    ours, _ = connect(server)
    for wrong in (("se_2", ours.exchange_id), ("se_1", "ex_none")):
        with pytest.raises(ExchangeError, match="not open"):
            server.channel(*wrong)
    host.moved = timedelta(seconds=key_exchange.CHANNEL_SECONDS - 1)
    assert server.channel("se_1", ours.exchange_id) is ours
    host.moved = timedelta(seconds=key_exchange.CHANNEL_SECONDS + 1)
    with pytest.raises(ExchangeError, match="not open"):
        server.channel("se_1", ours.exchange_id)


def test_closing_a_session_forgets_its_exchanges_and_no_others(server: Exchanges) -> None:
    ours, _ = connect(server, "se_1")
    others, _ = connect(server, "se_2")
    offer = server.offer("se_1", Group.X25519)
    server.close("se_1")
    with pytest.raises(ExchangeError):
        server.channel("se_1", ours.exchange_id)
    with pytest.raises(ExchangeError):
        server.accept("se_1", answer_to(offer))
    assert server.channel("se_2", others.exchange_id) is others
    server.close("se_none")


def test_a_session_holds_few_channels_and_the_oldest_goes_first(server: Exchanges) -> None:
    opened = [connect(server)[0].exchange_id for _ in range(key_exchange.CHANNELS_PER_SESSION + 2)]
    for gone in opened[:2]:
        with pytest.raises(ExchangeError):
            server.channel("se_1", gone)
    for held in opened[2:]:
        server.channel("se_1", held)
    assert len(server._open) == key_exchange.CHANNELS_PER_SESSION


# --- what travels -----------------------------------------------------------------------


def test_only_the_sessions_own_channel_opens_a_message(server: Exchanges) -> None:
    ours, theirs = connect(server, "se_1")
    _, stranger = connect(server, "se_2")
    sealed = ours.encrypt(b"pixels", "image/im_1")
    with pytest.raises(SealBroken):
        stranger.decrypt(sealed, "image/im_1")
    assert theirs.decrypt(sealed, "image/im_1") == b"pixels"


def test_a_message_opens_once(server: Exchanges) -> None:
    ours, theirs = connect(server)
    sealed = ours.encrypt(b"pixels", "image/im_1")
    theirs.decrypt(sealed, "image/im_1")
    with pytest.raises(SealBroken, match="replayed"):
        theirs.decrypt(sealed, "image/im_1")


def test_messages_may_overtake_each_other(server: Exchanges) -> None:
    ours, theirs = connect(server)
    sealed = [ours.encrypt(bytes([i]), "frame") for i in range(5)]
    assert [theirs.decrypt(m, "frame") for m in reversed(sealed)] == [
        bytes([i]) for i in range(4, -1, -1)
    ]


def test_a_forged_number_does_not_block_the_real_message(server: Exchanges) -> None:
    ours, theirs = connect(server)
    sealed = ours.encrypt(b"pixels", "image/im_1")
    for forged in (sealed[:8] + bytes(len(sealed) - 8), sealed[:-1] + b"\0", b"", sealed[:8]):
        if forged != sealed:
            with pytest.raises(SealBroken):
                theirs.decrypt(forged, "image/im_1")
    assert theirs.decrypt(sealed, "image/im_1") == b"pixels"


def test_a_message_is_bound_to_its_context_number_and_direction(server: Exchanges) -> None:
    ours, theirs = connect(server)
    sealed = ours.encrypt(b"pixels", "image/im_1")
    with pytest.raises(SealBroken):
        theirs.decrypt(sealed, "image/im_2")
    with pytest.raises(SealBroken):
        theirs.decrypt((2).to_bytes(8) + sealed[8:], "image/im_1")
    with pytest.raises(SealBroken):
        ours.decrypt(sealed, "image/im_1")  # reflected


def test_a_channel_carries_a_limited_number_of_messages(
    server: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_exchange, "MESSAGES_PER_CHANNEL", 3)
    ours, _ = connect(server)
    for _ in range(3):
        ours.encrypt(b"", "c")
    with pytest.raises(ExchangeError, match="message limit"):
        ours.encrypt(b"", "c")


def test_numbers_are_not_given_twice_under_many_threads(server: Exchanges) -> None:
    ours, theirs = connect(server)
    made: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: made.extend(ours.encrypt(b"x", "c") for _ in range(50)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({m[:8] for m in made}) == 400
    assert all(theirs.decrypt(m, "c") == b"x" for m in made)


def test_nothing_shows_a_key(server: Exchanges) -> None:
    ours, theirs = connect(server)
    for shown in (repr(ours), repr(theirs), repr(server), str(ours)):
        assert ours._key.hex() not in shown
        assert repr(ours._key) not in shown


def test_the_librarys_deprecation_does_not_leak_out() -> None:
    """In a fresh process that turns every warning into an error, the whole exchange runs."""
    code = f"""
import os, sys, types
from pathlib import Path
package = types.ModuleType("engine")  # the package without its roof, which other tests load
package.__path__ = [{str(Path(inspect.getfile(key_exchange)).parents[1])!r}]
sys.modules["engine"] = package
from engine.crypto.key_exchange import Client, Exchanges, Group
from engine.host import Host
from engine.crypto.vault import Signer
signer = Signer(bytes(32)); server = Exchanges(signer, Host(Path("nowhere")))
for group in Group:
    Client(signer.public_bytes, "s", os.urandom).handshake(
        lambda: server.offer("s", group), lambda m: server.accept("s", m))
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr

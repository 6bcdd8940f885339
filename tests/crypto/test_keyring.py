"""Root keys: where they may lie, what they wrap, how they rotate and how they are recovered."""

from __future__ import annotations

import base64
import copy
import itertools
import os
import pickle
import random
import stat
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from engine.crypto import recovery_shares, root_keys
from engine.crypto.keyring import Keyring, new_key, recover, unwrap_key, wrap_key
from engine.crypto.root_keys import PassphraseCost
from engine.errors import InputError, SealBroken, SettingsError, UnknownKey
from engine.settings import Secret, Settings
from engine.vault import Signer, blind_index, derive
from tests import peer, vectors

KEYS = [bytes(random.Random(i).randbytes(32)) for i in range(4)]
CHEAP = PassphraseCost(19_456, 2, 1)
PHRASE = "correct horse battery staple"


def encoded(*keys: bytes) -> str:
    return ",".join(base64.b64encode(k).decode() for k in keys)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", key_file=tmp_path / "safe" / "root.key")


def written(settings: Settings, text: str, mode: int = 0o600) -> Settings:
    assert settings.key_file is not None
    settings.key_file.parent.mkdir(exist_ok=True)
    settings.key_file.write_text(text)
    settings.key_file.chmod(mode)
    return settings


def refused(settings: Settings, match: str, create: bool = False) -> SettingsError:
    with pytest.raises(SettingsError, match=match) as caught:
        Keyring.load(settings, os.urandom, create)
    return caught.value


# --- where keys come from ---------------------------------------------------------------


def test_a_new_key_file_is_private_and_opens_again(settings: Settings) -> None:
    made = Keyring.load(settings, os.urandom, create=True)
    path = settings.key_file
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    key_id, wrapped = made.wrap(KEYS[0])
    assert Keyring.load(settings, os.urandom).unwrap(key_id, wrapped) == KEYS[0]


def test_creating_never_replaces_a_key_that_is_there(settings: Settings) -> None:
    first = Keyring.load(settings, os.urandom, create=True)
    assert Keyring.load(settings, os.urandom, create=True).ids == first.ids


def test_a_race_for_the_first_key_has_one_winner(settings: Settings) -> None:
    path = settings.key_file
    assert path is not None
    root_keys.create_file(path, root_keys.line_of(KEYS[0]))
    with pytest.raises(SettingsError):
        root_keys.create_file(path, root_keys.line_of(KEYS[1]))
    assert Keyring.load(settings, os.urandom).ids == (root_keys.key_id_of(KEYS[0]),)


def test_a_missing_key_is_not_invented(settings: Settings) -> None:
    refused(settings, "no root key at")
    assert settings.key_file is not None
    assert not settings.key_file.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610, 0o601])
def test_a_key_file_that_others_can_reach_is_refused(settings: Settings, mode: int) -> None:
    refused(written(settings, encoded(KEYS[0]), mode), "read by others")


def test_a_key_folder_is_no_key_file(settings: Settings) -> None:
    assert settings.key_file is not None
    settings.key_file.mkdir(parents=True)
    refused(settings, "cannot be read")


def test_by_default_the_key_lies_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Keyring.load(Settings(data=tmp_path / "data"), os.urandom, create=True)
    assert (tmp_path / "home/.config/medsec/root.key").exists()
    assert not (tmp_path / "data").exists()


def test_the_default_key_is_refused_inside_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    refused(Settings(data=tmp_path / ".config"), "inside the data folder", create=True)
    assert not (tmp_path / ".config").exists()


def test_a_key_that_was_asked_for_inside_the_data_folder_is_warned_about(tmp_path: Path) -> None:
    inside = Settings(data=tmp_path, key_file=tmp_path / "root.key")
    outside = Settings(data=tmp_path / "data", key_file=tmp_path / "root.key")
    assert "inside the data folder" in Keyring.load(inside, os.urandom, create=True).warnings[0]
    assert Keyring.load(outside, os.urandom).warnings == ()


def test_a_link_does_not_smuggle_the_key_into_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "home/.config").symlink_to(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    refused(Settings(data=tmp_path / "data"), "inside the data folder", create=True)


def test_keys_from_the_environment_are_oldest_first(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, key=Secret(encoded(*KEYS[:3])))
    ring = Keyring.load(settings, os.urandom)
    assert ring.ids == tuple(map(root_keys.key_id_of, KEYS[:3]))
    assert ring.newest_id == root_keys.key_id_of(KEYS[2])


@pytest.mark.parametrize("separator", [",", " ", "\n", ", ", "\n\n"])
def test_entries_are_parted_by_commas_or_white_space(separator: str) -> None:
    text = separator.join([encoded(KEYS[0]), root_keys.line_of(KEYS[1]).strip()])
    assert root_keys.parse(f"# a remark, with a comma\n{text}\n", "here") == KEYS[:2]


NO_KEYS = [
    ("", "is no root key"),
    ("# only a remark", "is no root key"),
    ("secret-word-of-mine", "is no root key"),
    (encoded(KEYS[0])[:-2], "is no root key"),  # cut
    (encoded(KEYS[0][:31]), "is no root key"),
    (encoded(KEYS[0] + b"x"), "is no root key"),
    (encoded(bytes(32)), "is not random"),
    (encoded(b"changeme" * 4), "is not random"),
    (encoded(KEYS[0], KEYS[0]), "entry 2 is there twice"),
    (f"r1-00000000:{encoded(KEYS[0])}", "its id names"),
    (f"{encoded(KEYS[0])}:{encoded(KEYS[1])}", "its id names"),
]


@pytest.mark.parametrize(("text", "match"), NO_KEYS, ids=str)
def test_what_is_no_key_is_refused_without_showing_it(
    settings: Settings, text: str, match: str
) -> None:
    errors = [refused(written(settings, text), match)]
    if text:
        errors.append(refused(Settings(data=settings.data, key=Secret(text)), match))
    for error in errors:
        shown = "".join(traceback.format_exception(error)) + repr(error.facts)
        assert not [piece for piece in text.split() if len(piece) > 8 and piece in shown]
        assert error.__cause__ is None


def test_a_binary_file_is_no_key_file(settings: Settings) -> None:
    written(settings, "")
    assert settings.key_file is not None
    settings.key_file.write_bytes(KEYS[0] + b"\xff")
    refused(settings, "not a text")


def test_several_sources_unwrap_together_and_the_file_wraps(tmp_path: Path) -> None:
    """How keys move from the environment to a file."""
    before = Keyring.load(Settings(data=tmp_path, key=Secret(encoded(KEYS[0]))), os.urandom)
    key_id, wrapped = before.wrap(KEYS[3])
    path = tmp_path / "safe" / "root.key"
    both = Settings(data=tmp_path / "data", key=Secret(encoded(KEYS[0])), key_file=path)
    ring = Keyring.load(both, os.urandom, create=True)
    new_id, rewrapped = ring.rewrap(key_id, wrapped)
    assert new_id == ring.newest_id != key_id
    after = Keyring.load(Settings(data=tmp_path / "data", key_file=path), os.urandom)
    assert after.unwrap(new_id, rewrapped) == KEYS[3]


# --- a passphrase -----------------------------------------------------------------------


def phrased(tmp_path: Path, phrase: str = PHRASE) -> Settings:
    return Settings(data=tmp_path, key_passphrase=Secret(phrase))


def test_a_passphrase_and_its_record_give_the_same_key_again(tmp_path: Path) -> None:
    first = Keyring.load(phrased(tmp_path), os.urandom, create=True, cost=CHEAP)
    assert Keyring.load(phrased(tmp_path), os.urandom).ids == first.ids
    assert Keyring.load(phrased(tmp_path, PHRASE + "!"), os.urandom).ids != first.ids
    record = (tmp_path / root_keys.SALT_RECORD).read_text()
    assert "memory_kib = 19456" in record
    assert PHRASE not in record


def test_a_passphrase_is_the_same_on_every_keyboard(tmp_path: Path) -> None:
    composed, decomposed = "schlüssel für röntgen", "schlu\u0308ssel fu\u0308r ro\u0308ntgen"
    first = Keyring.load(phrased(tmp_path, composed), os.urandom, create=True, cost=CHEAP)
    assert Keyring.load(phrased(tmp_path, decomposed), os.urandom).ids == first.ids


def test_two_installations_with_one_passphrase_have_different_keys(tmp_path: Path) -> None:
    ids = {
        Keyring.load(phrased(tmp_path / name), os.urandom, create=True, cost=CHEAP).ids
        for name in ("a", "b")
    }
    assert len(ids) == 2


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    refused(phrased(tmp_path, "hunter2 hunter2"), "fewer than 16", create=True)


def test_a_lost_salt_is_not_made_anew(tmp_path: Path) -> None:
    refused(phrased(tmp_path), "missing in the data folder")
    assert not list(tmp_path.iterdir())


RECORDS = [
    ('kdf = "argon2id"', 'kdf = "md5"', "is not valid"),
    ("memory_kib = 19456", "memory_kib = 8", "out of range"),  # guessing made cheap
    ("memory_kib = 19456", "memory_kib = 99999999", "out of range"),  # a start that never ends
    ("memory_kib = 19456", 'memory_kib = "x"', "is not valid"),
    ("lanes = 1", "", ""),  # the default instead: another key, which verify() tells
    ("lanes = 1", "pepper = 1", "is not valid"),
    ('salt = "', 'salt = "zz', "is not valid"),
    ('salt = "', 'salt = "00', "is not valid"),
    ("iterations = 2", "iterations = ", "is not valid"),
]


@pytest.mark.parametrize(("old", "new", "match"), RECORDS, ids=str)
def test_a_spoilt_record_is_refused_or_gives_another_key(
    tmp_path: Path, old: str, new: str, match: str
) -> None:
    first = Keyring.load(phrased(tmp_path), os.urandom, create=True, cost=CHEAP)
    known = {first.newest_id: first.check_value(first.newest_id)}
    record = tmp_path / root_keys.SALT_RECORD
    text = record.read_text()
    assert old in text
    record.write_text(text.replace(old, new))
    if match:
        refused(phrased(tmp_path), match)
    else:
        with pytest.raises(SettingsError, match="keys at hand"):
            Keyring.load(phrased(tmp_path), os.urandom).verify(known)


# --- nothing shows ----------------------------------------------------------------------


def test_a_keyring_shows_ids_and_nothing_else() -> None:
    ring = Keyring(KEYS)
    shown = f"{ring!r} {ring} {[ring]!r}"
    assert ring.newest_id in shown
    for key in KEYS:
        assert key.hex() not in shown
        assert base64.b64encode(key).decode() not in shown
        assert repr(key) not in shown


def test_a_keyring_does_not_leave_the_process() -> None:
    ring = Keyring(KEYS)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="do not leave"):
            leave(ring)


def test_check_values_tell_keys_apart_and_are_not_part_of_them() -> None:
    ring = Keyring(KEYS)
    values = [ring.check_value(i) for i in ring.ids]
    assert len(set(values)) == len(KEYS)
    for key, value in zip(KEYS, values, strict=True):
        assert len(value) == 16
        assert value not in key.hex()
        assert value != wrap_key(key, bytes(8)).hex()[:16]


# --- wrapping ---------------------------------------------------------------------------


def test_new_keys_come_from_the_source_and_are_whole() -> None:
    assert new_key(lambda count: KEYS[0][:count]) == KEYS[0]
    with pytest.raises(ValueError, match="randomness"):
        new_key(lambda count: bytes(count - 1))


@budget(max_examples=100, deadline=None)
@given(
    kek=st.binary(min_size=32, max_size=32),
    key=st.binary(min_size=1, max_size=100),
    context=st.text(max_size=20),
)
def test_wrapped_keys_agree_with_an_independent_implementation(
    kek: bytes, key: bytes, context: str
) -> None:
    wrapped = wrap_key(kek, key, context)
    assert wrapped == peer.wrap(kek, key, context)
    assert unwrap_key(kek, wrapped, context) == key


def test_any_flipped_bit_of_a_wrapped_key_is_found() -> None:
    wrapped = wrap_key(KEYS[0], KEYS[1], "image/im_1")
    assert len(wrapped) == 40
    for place, bit in itertools.product(range(len(wrapped)), range(8)):
        altered = bytearray(wrapped)
        altered[place] ^= 1 << bit
        with pytest.raises(SealBroken):
            unwrap_key(KEYS[0], bytes(altered), "image/im_1")


@given(st.binary(max_size=100))
def test_whatever_is_no_wrapped_key_is_broken(junk: bytes) -> None:
    with pytest.raises(SealBroken):
        unwrap_key(KEYS[0], junk)


def test_a_wrapped_key_opens_in_its_own_place_only() -> None:
    ring = Keyring(KEYS[:2])
    key_id, wrapped = ring.wrap(KEYS[3], "patient/pt_1")
    assert ring.unwrap(key_id, wrapped, "patient/pt_1") == KEYS[3]
    for other in ("patient/pt_2", "", "system/index"):
        with pytest.raises(SealBroken):
            ring.unwrap(key_id, wrapped, other)
    with pytest.raises(SealBroken):
        ring.unwrap(ring.ids[0], wrapped, "patient/pt_1")
    with pytest.raises(UnknownKey) as caught:
        ring.unwrap("r1-00000000", wrapped, "patient/pt_1")
    assert caught.value.facts == {"key_id": "r1-00000000"}


def test_the_root_key_itself_wraps_nothing() -> None:
    """So that its check value, its wrapping and nothing else come from one derivation each."""
    ring = Keyring(KEYS[:1])
    _, wrapped = ring.wrap(KEYS[1])
    with pytest.raises(SealBroken):
        unwrap_key(KEYS[0], wrapped)


# --- the right keys? --------------------------------------------------------------------


def test_a_wrong_key_is_told_at_start() -> None:
    ring = Keyring(KEYS[:2])
    known = {i: ring.check_value(i) for i in ring.ids}
    ring.verify({})
    ring.verify(known)
    Keyring(KEYS[:3]).verify(known)  # one more is fine
    with pytest.raises(SettingsError) as caught:
        Keyring(KEYS[1:2]).verify(known)
    assert caught.value.facts["expected"] == ring.ids[0]
    assert ring.ids[0] in caught.value.message
    with pytest.raises(SettingsError, match="check value differs"):
        ring.verify({ring.ids[0]: "0" * 16})


# --- rotation ---------------------------------------------------------------------------


def test_rotation_appends_a_key_that_wraps_while_the_old_ones_unwrap(settings: Settings) -> None:
    ring = Keyring.load(settings, os.urandom, create=True)
    old_id, wrapped = ring.wrap(KEYS[0], "patient/pt_1")
    new_id = ring.add(os.urandom)
    assert ring.ids == (old_id, new_id) == Keyring.load(settings, os.urandom).ids
    assert ring.unwrap(old_id, wrapped, "patient/pt_1") == KEYS[0]

    moved = ring.rewrap(old_id, wrapped, "patient/pt_1")
    assert moved[0] == new_id
    assert ring.rewrap(*moved, "patient/pt_1") == moved  # done already: a resumed batch
    assert ring.unwrap(*moved, "patient/pt_1") == KEYS[0]
    with pytest.raises(SealBroken):
        ring.rewrap(old_id, wrapped, "patient/pt_2")
    assert settings.key_file is not None
    assert stat.S_IMODE(settings.key_file.stat().st_mode) == 0o600


def test_rotation_keeps_remarks_and_keys_without_ids(settings: Settings) -> None:
    written(settings, f"# mine\n{encoded(KEYS[0])}")
    ring = Keyring.load(settings, os.urandom)
    ring.add(os.urandom)
    assert settings.key_file is not None
    text = settings.key_file.read_text()
    assert text.startswith(f"# mine\n{encoded(KEYS[0])}\nr1-")
    assert Keyring.load(settings, os.urandom).ids == ring.ids


def test_a_removed_old_key_does_not_rename_the_others(settings: Settings) -> None:
    ring = Keyring.load(written(settings, encoded(*KEYS[:2])), os.urandom)
    wrapped = ring.wrap(KEYS[3])
    later = Keyring.load(written(settings, encoded(KEYS[1])), os.urandom)
    assert later.unwrap(*wrapped) == KEYS[3]


def test_rotation_follows_a_link_to_the_real_file(tmp_path: Path) -> None:
    real, link = tmp_path / "real.key", tmp_path / "link.key"
    root_keys.create_file(real, root_keys.line_of(KEYS[0]))
    link.symlink_to(real)
    Keyring.load(Settings(data=tmp_path / "data", key_file=link), os.urandom).add(os.urandom)
    assert link.is_symlink()
    assert len(root_keys.parse(real.read_text(), "real")) == 2


@pytest.mark.parametrize(
    "keys", [[], KEYS[:1], KEYS[2:3], [KEYS[0], KEYS[1], KEYS[2]], KEYS[1::-1]]
)
def test_rotation_does_not_touch_a_key_file_that_changed(
    settings: Settings, keys: list[bytes]
) -> None:
    ring = Keyring.load(written(settings, encoded(*KEYS[:2])), os.urandom)
    written(settings, encoded(*keys))
    with pytest.raises(SettingsError):
        ring.add(os.urandom)
    assert settings.key_file is not None
    assert settings.key_file.read_text() == encoded(*keys)


def test_a_repeating_source_of_randomness_adds_no_key(settings: Settings) -> None:
    ring = Keyring.load(settings, lambda count: KEYS[0][:count], create=True)
    with pytest.raises(SettingsError, match="twice"):
        ring.add(lambda count: KEYS[0][:count])
    assert Keyring.load(settings, os.urandom).ids == ring.ids


def test_keys_from_the_environment_say_how_to_rotate(tmp_path: Path) -> None:
    ring = Keyring.load(Settings(data=tmp_path, key=Secret(encoded(KEYS[0]))), os.urandom)
    with pytest.raises(SettingsError, match="MEDSEC_KEY_FILE"):
        ring.add(os.urandom)


# --- recovery shares --------------------------------------------------------------------


@pytest.mark.parametrize(("needed", "total"), [(2, 2), (2, 3), (3, 5), (5, 5)])
def test_any_k_of_n_shares_give_the_key_back(needed: int, total: int) -> None:
    ring = Keyring(KEYS[:1])
    texts = ring.split(ring.newest_id, os.urandom, needed, total)
    assert len(texts) == total
    for count in range(1, total + 1):
        for chosen in itertools.combinations(texts, count):
            if count >= needed:
                assert recovery_shares.combine(chosen) == (ring.newest_id, KEYS[0])
                assert ring.drill(chosen) == ring.newest_id
            else:
                with pytest.raises(InputError):
                    recovery_shares.combine(chosen)


def doubled(element: int) -> int:
    """Times x in GF(2^128) with the polynomial x^128 + x^7 + x^2 + x + 1."""
    element <<= 1
    return element ^ (1 << 128 | 0x87) if element >> 128 else element


def test_fewer_than_k_shares_say_nothing() -> None:
    """Beside one share of two, every key is possible: each has a second share that leads to it."""
    text = recovery_shares.split("r1-00000000", KEYS[0], os.urandom, 2, 2)[0]
    held = recovery_shares._Share.decode(recovery_shares._scan(text))
    for guess in KEYS:
        second = b""
        for at in (0, 16):
            one, zero = (int.from_bytes(v[at : at + 16]) for v in (held.value, guess))
            second += (zero ^ doubled(one ^ zero)).to_bytes(16)  # the line through both, at 2
        assert recovery_shares._interpolate([held, replace(held, number=2, value=second)]) == guess


def test_the_same_key_is_never_split_the_same_way() -> None:
    texts = [
        recovery_shares.split("r1-00000000", KEYS[0], lambda n: bytes(n))[0] for _ in range(20)
    ]
    assert len(set(texts)) == 20


def test_a_drill_shows_no_key_and_finds_shares_of_another(tmp_path: Path) -> None:
    ring, other = Keyring(KEYS[:2]), Keyring(KEYS[2:3])
    texts = ring.split(ring.ids[0], os.urandom)
    assert ring.drill(texts[:2]) == ring.ids[0]
    with pytest.raises(UnknownKey):
        other.drill(texts[:2])


def test_shares_are_typed_in_as_people_type() -> None:
    texts = recovery_shares.split(root_keys.key_id_of(KEYS[0]), KEYS[0], os.urandom)
    body = "\n".join(texts[0].splitlines()[2:])
    for typed in (
        body,  # without the head
        body.lower(),
        body.replace("-", " "),
        body.replace("0", "O").replace("1", "l"),
        f"\n\n  {body}\n\n",
        texts[0].lower(),
    ):
        assert recovery_shares.combine([typed, texts[1]])[1] == KEYS[0]


def test_a_mistyped_line_is_named() -> None:
    texts = recovery_shares.split(root_keys.key_id_of(KEYS[0]), KEYS[0], os.urandom)
    lines = texts[0].splitlines()
    for at in range(4):
        wrong = list(lines)
        row = wrong[2 + at]
        wrong[2 + at] = ("2" if row[0] != "2" else "3") + row[1:]
        with pytest.raises(InputError, match=f"Line {at + 1} ") as caught:
            recovery_shares.combine(["\n".join(wrong), texts[1]])
        assert caught.value.facts == {"line": at + 1}
    with pytest.raises(InputError, match="4 lines"):
        recovery_shares.combine(["\n".join(lines[:-1]), texts[1]])
    swapped = [*lines[:2], lines[3], lines[2], *lines[4:]]
    with pytest.raises(InputError, match="typing error"):
        recovery_shares.combine(["\n".join(swapped), texts[1]])


def test_a_mistake_that_slips_past_its_line_is_found_by_the_checksum() -> None:
    texts = recovery_shares.split(root_keys.key_id_of(KEYS[0]), KEYS[0], os.urandom)
    lines = texts[0].splitlines()
    letters = lines[4].replace("-", "")[:20]
    letters = ("2" if letters[0] != "2" else "3") + letters[1:]
    lines[4] = letters + recovery_shares._line_check(2, letters)
    with pytest.raises(InputError, match="checksum"):
        recovery_shares.combine(["\n".join(lines), texts[1]])


@budget(max_examples=300, deadline=None)
@given(st.data())
def test_a_mistyped_share_never_gives_a_wrong_key(data: st.DataObject) -> None:
    texts = recovery_shares.split(root_keys.key_id_of(KEYS[0]), KEYS[0], os.urandom)
    lines = texts[0].splitlines()[2:]
    for _ in range(data.draw(st.integers(1, 4))):
        row = data.draw(st.integers(0, 3))
        place = data.draw(st.integers(0, len(lines[row]) - 1))
        letter = data.draw(st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ-I?ü"))
        lines[row] = lines[row][:place] + letter + lines[row][place + 1 :]
    try:
        made = recovery_shares.combine(["\n".join(lines), texts[1]])
    except (InputError, SealBroken):
        return
    assert made == (root_keys.key_id_of(KEYS[0]), KEYS[0])


def test_a_forged_share_does_not_pass(tmp_path: Path) -> None:
    """A holder who makes a share with a right checksum cannot give another key."""
    ring = Keyring(KEYS[:1])
    texts = ring.split(ring.newest_id, os.urandom, 2, 3)
    real = recovery_shares._Share.decode(recovery_shares._scan(texts[0]))
    forged = recovery_shares._print(
        recovery_shares._Share(
            2, 3, 1, real.split, real.key_check, bytes([real.value[0] ^ 1]) + real.value[1:]
        )
    )
    with pytest.raises(SealBroken, match="altered"):
        ring.drill([forged, texts[1]])
    with pytest.raises(SealBroken, match="do not match"):
        ring.drill([forged, texts[1], texts[2]])
    with pytest.raises(SealBroken):
        recover([forged, texts[1]], tmp_path / "root.key")
    assert not (tmp_path / "root.key").exists()


def test_shares_of_different_splits_do_not_mix() -> None:
    ring = Keyring(KEYS[:2])
    one, two = (ring.split(ring.ids[0], os.urandom) for _ in range(2))
    other = ring.split(ring.ids[1], os.urandom)
    for mixed in ([one[0], two[1]], [one[0], other[1]]):
        with pytest.raises(InputError, match="different"):
            ring.drill(mixed)
    with pytest.raises(InputError, match="twice"):
        ring.drill([one[0], one[0]])
    with pytest.raises(InputError, match="No recovery share"):
        ring.drill([])


@pytest.mark.parametrize(("needed", "total"), [(1, 3), (4, 3), (2, 17), (0, 0)])
def test_numbers_of_shares_that_make_no_sense_are_refused(needed: int, total: int) -> None:
    with pytest.raises(ValueError, match="shares"):
        recovery_shares.split("r1-00000000", KEYS[0], os.urandom, needed, total)


def test_a_lost_key_file_comes_back_from_its_shares(settings: Settings) -> None:
    ring = Keyring.load(settings, os.urandom, create=True)
    wrapped = ring.wrap(KEYS[0])
    known = {i: ring.check_value(i) for i in ring.ids}
    texts = ring.split(ring.newest_id, os.urandom)
    assert settings.key_file is not None
    with pytest.raises(SettingsError):
        recover(texts[1:], settings.key_file)  # never over a key that is there
    settings.key_file.unlink()
    assert recover(texts[1:], settings.key_file) == ring.newest_id
    again = Keyring.load(settings, os.urandom)
    again.verify(known)
    assert again.unwrap(*wrapped) == KEYS[0]


# --- frozen -----------------------------------------------------------------------------

FROZEN = vectors.load("keys-v1")


def test_frozen_key_files_and_wrapped_keys_open_for_ever(settings: Settings) -> None:
    ring = Keyring.load(written(settings, FROZEN["key_file"]), os.urandom)
    known = {entry["key_id"]: entry["check_value"] for entry in FROZEN["root_keys"]}
    assert list(ring.ids) == list(known)
    ring.verify(known)
    by_root = FROZEN["wrapped_by_root"]
    wrapped = bytes.fromhex(by_root["wrapped"])
    assert ring.unwrap(by_root["key_id"], wrapped, by_root["context"]).hex() == by_root["key"]
    assert ring.rewrap(by_root["key_id"], wrapped, by_root["context"])[1] == wrapped
    for case in FROZEN["wrapped"]:
        facts = bytes.fromhex(case["kek"]), bytes.fromhex(case["wrapped"]), case["context"]
        if case["outcome"] == "broken":
            with pytest.raises(SealBroken):
                unwrap_key(*facts)
        else:
            assert unwrap_key(*facts).hex() == case["key"]


def test_a_frozen_passphrase_gives_its_key_for_ever(tmp_path: Path) -> None:
    case = FROZEN["passphrase"]
    (tmp_path / root_keys.SALT_RECORD).write_text(case["record"])
    ring = Keyring.load(phrased(tmp_path, case["passphrase"]), os.urandom)
    assert ring.ids == (case["key_id"],)


def test_frozen_shares_give_their_key_for_ever() -> None:
    case = FROZEN["shares"]
    for chosen in itertools.combinations(case["texts"], case["needed"]):
        key_id, key = recovery_shares.combine(chosen)
        assert (key_id, key.hex()) == (case["key_id"], case["key"])


def test_frozen_derivations_and_signatures_hold_for_ever() -> None:
    case = FROZEN["derived"]
    assert derive(bytes.fromhex(case["key"]), case["context"]).hex() == case["made"]
    case = FROZEN["blind_index"]
    key = bytes.fromhex(case["key"])
    assert blind_index(key, case["context"], case["value"]).hex() == case["made"]
    case = FROZEN["signature"]
    Signer.verify(*(bytes.fromhex(case[name]) for name in ("public", "data", "signature")))

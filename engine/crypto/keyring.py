"""Root keys: where they come from, and the keys that they wrap.

Promise: a root key is random, lives outside the data folder, never shows in a repr, a log or
an error, and never seals anything itself: it wraps patients' keys, which wrap images' keys.
Keys are a list, oldest first: the newest wraps, all unwrap. A wrong or missing key is reported at
the start, before anything is read or written.

Refuses: key files readable by other users, a key file inside the data folder unless configured,
keys that are clearly not random, and creating a new key if the right one is missing.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from engine.crypto import recovery_shares, root_keys
from engine.crypto.vault import KEY_BYTES, Randomness, derive
from engine.errors import SealBroken, SettingsError, UnknownKey
from engine.host import write_durably
from engine.settings import Settings


def new_key(randomness: Randomness) -> bytes:
    """A fresh 32-byte key.

    Raises:
        ValueError: The source gave a wrong number of bytes.
    """
    key = randomness(KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise ValueError("the source of randomness gave a wrong number of bytes")
    return key


def wrap_key(kek: bytes, key: bytes, context: str = "") -> bytes:
    """Wrap a key under another one with AES-KWP.

    Args:
        kek: The wrapping key.
        key: What to wrap, 1 byte or more.
        context: Binds the result to its place, such as ``patient/pt_x``, so that two wrapped
            keys cannot be swapped in the catalog. Empty is RFC 5649 as it stands.

    Returns:
        40 bytes for a key of 32.

    Source: RFC 5649; NIST SP 800-38F.
    """
    return aes_key_wrap_with_padding(_bound(kek, context), key)


def unwrap_key(kek: bytes, wrapped: bytes, context: str = "") -> bytes:
    """Undo :func:`wrap_key`.

    Raises:
        SealBroken: Changed, swapped, or wrapped under another key or context.
    """
    try:
        return aes_key_unwrap_with_padding(_bound(kek, context), wrapped)
    except InvalidUnwrap:
        raise SealBroken(
            "A wrapped key was changed or swapped. Restore it from a backup."
        ) from None


def recover(texts: Sequence[str], file: Path) -> str:
    """Write the root key that recovery shares give to a new key file.

    Returns:
        Id of the key. Whether it is the right one for a data folder, :meth:`Keyring.verify`
        tells at the next start.

    Raises:
        InputError: Mistyped, too few or mixed shares.
        SealBroken: They do not give the key that is named on them.
        SettingsError: The file is there already, or cannot be made.
    """
    key_id, key = _recovered(texts)
    root_keys.create_file(root_keys.resolved(file), root_keys.FILE_HEAD + root_keys.line_of(key))
    return key_id


def _recovered(texts: Sequence[str]) -> tuple[str, bytes]:
    key_id, key = recovery_shares.combine(texts)
    if root_keys.key_id_of(key) != key_id:
        raise SealBroken(
            "These recovery shares do not produce the key named on them. One of them was altered.",
            key_id=key_id,
        )
    return key_id, key


def _bound(kek: bytes, context: str) -> bytes:
    return derive(kek, f"wrap/{context}") if context else kek


class Keyring:
    """Root keys by id, oldest first.

    An id such as ``r1-1f0c93ab`` is the start of the key's check value: safe to print.

    Args:
        keys: 32 bytes each, oldest first; see :meth:`load` for the usual way.
        file: Where :meth:`add` appends; None where the keys came from elsewhere.
        warnings: Sentences for the administrator about how the keys are kept.

    Raises:
        SettingsError: No key, or one twice.
    """

    def __init__(
        self, keys: Iterable[bytes], file: Path | None = None, warnings: tuple[str, ...] = ()
    ) -> None:
        self._keys: dict[str, bytes] = {}
        for key in keys:
            key_id = root_keys.key_id_of(key)
            if key_id in self._keys:
                raise SettingsError(
                    f"The root key {key_id} is listed twice. Remove one of the two."
                )
            self._keys[key_id] = key
        if not self._keys:
            raise SettingsError(
                "There is no root key. Set MEDSEC_KEY_FILE, or restore the key from its"
                " recovery shares."
            )
        self._file = file
        self.warnings = warnings

    @classmethod
    def load(
        cls,
        settings: Settings,
        randomness: Randomness,
        create: bool = False,
        cost: root_keys.PassphraseCost | None = None,
    ) -> Keyring:
        """Collect the root keys from passphrase, environment and key file, in this order.

        Several sources together are how keys move from one to another: all unwrap, the last
        one wraps. Without any, the key file is ``~/.config/medsec/root.key``.

        Args:
            create: Make the key file, or the passphrase's salt, where there is none. Only for
                a data folder that holds nothing yet.
            cost: Of a passphrase that is used for the first time.

        Raises:
            SettingsError: No key, one that is no key, or one that is kept badly.
        """
        found: list[bytes] = []
        warnings: list[str] = []
        if settings.key_passphrase:
            record = settings.data / root_keys.SALT_RECORD
            found.append(
                root_keys.from_passphrase(
                    settings.key_passphrase,
                    record,
                    randomness,
                    create,
                    cost or root_keys.PassphraseCost(),
                )
            )
        if settings.key:
            found += root_keys.parse(settings.key, "MEDSEC_KEY")
        path = settings.key_file
        if path is None and not found:
            path = root_keys.DEFAULT_KEY_FILE
        if path is not None:
            path = root_keys.resolved(path)
            if path.is_relative_to(settings.data.resolve()):
                if settings.key_file is None:
                    raise SettingsError(
                        f"The root key {path} would lie inside the data folder, where a thief"
                        " of the folder gets it too. Move the data folder, or name another"
                        " place in MEDSEC_KEY_FILE."
                    )
                warnings.append(
                    "The root key lies inside the data folder: whoever copies the folder can"
                    " open everything in it. Move the key file elsewhere."
                )
            if create and not path.exists():
                line = root_keys.line_of(new_key(randomness))
                root_keys.create_file(path, root_keys.FILE_HEAD + line)
            found += root_keys.parse(root_keys.read_file(path), str(path))
        return cls(found, path, tuple(warnings))

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("root keys do not leave the process: pass what they wrap")

    @property
    def ids(self) -> tuple[str, ...]:
        """Oldest first."""
        return tuple(self._keys)

    @property
    def newest_id(self) -> str:
        """The key that wraps."""
        return self.ids[-1]

    def check_value(self, key_id: str) -> str:
        """What the catalog records to know this key again; see
        :func:`engine.crypto.root_keys.check_value`."""
        return root_keys.check_value(self._root(key_id))

    def verify(self, known: Mapping[str, str]) -> None:
        """Check that these keys are the keys of the catalog.

        Args:
            known: Check values by key id, of every root key that still wraps something.

        Raises:
            SettingsError: One is missing or another key. Nothing was touched.
        """
        for key_id, recorded in known.items():
            if key_id not in self._keys:
                raise SettingsError(
                    f"The data folder was sealed under the root key {key_id}, but the keys at"
                    f" hand are {', '.join(self.ids)}. Point MEDSEC_KEY_FILE (or MEDSEC_KEY,"
                    " or MEDSEC_KEY_PASSPHRASE) at the right one, or restore it from its"
                    " recovery shares. Nothing was changed.",
                    expected=key_id,
                    found=self.ids,
                )
            if self.check_value(key_id) != recorded:
                raise SettingsError(
                    f"The root key {key_id} is not the one that the data folder was sealed"
                    " under: its check value differs. Nothing was changed.",
                    expected=recorded,
                    found=self.check_value(key_id),
                )

    def wrap(self, key: bytes, context: str = "") -> tuple[str, bytes]:
        """Wrap under the newest root key.

        Returns:
            Id of the root key, and 40 bytes for a key of 32.
        """
        return self.newest_id, wrap_key(self._root(self.newest_id), key, f"root/{context}")

    def unwrap(self, key_id: str, wrapped: bytes, context: str = "") -> bytes:
        """Undo :meth:`wrap`.

        Raises:
            UnknownKey: Wrapped under a root key that is not at hand.
            SealBroken: Changed, swapped or under another context.
        """
        return unwrap_key(self._root(key_id), wrapped, f"root/{context}")

    def rewrap(self, key_id: str, wrapped: bytes, context: str = "") -> tuple[str, bytes]:
        """The same key under the newest root key; the same bytes where it is there already.

        Raises:
            UnknownKey, SealBroken: As :meth:`unwrap`.
        """
        return self.wrap(self.unwrap(key_id, wrapped, context), context)

    def add(self, randomness: Randomness) -> str:
        """Append a new root key to the key file, durably; from now on it wraps.

        The old ones stay until nothing is wrapped under them any more, backups included.

        Returns:
            Id of the new key.

        Raises:
            SettingsError: The keys do not come from a file, or the file was changed since.
        """
        if self._file is None:
            raise SettingsError(
                "Only a key file can be rotated here. Set MEDSEC_KEY_FILE to a new file in"
                " addition to MEDSEC_KEY or MEDSEC_KEY_PASSPHRASE. Its key then wraps new keys,"
                " and the old key is no longer needed after the rotation."
            )
        text = root_keys.read_file(self._file)
        on_file = root_keys.parse(text, str(self._file))
        here = list(self._keys.values())
        if here[-len(on_file) :] != on_file:
            raise SettingsError(
                "The key file was changed while MedSec was running. Restart MedSec and try again."
            )
        key = new_key(randomness)
        longer = Keyring([*here, key])  # refuses a key that is there already, before it is written
        whole = text.rstrip("\n") + "\n" + root_keys.line_of(key)
        write_durably(self._file, whole.encode())
        self._keys = longer._keys
        return self.newest_id

    def split(
        self, key_id: str, randomness: Randomness, needed: int = 2, total: int = 3
    ) -> tuple[str, ...]:
        """Printable shares of one root key; see :func:`engine.crypto.recovery_shares.split`.

        Split the newest one once a rotation is through, and every one that still wraps
        something: a key without shares is lost with its file.
        """
        return recovery_shares.split(key_id, self._root(key_id), randomness, needed, total)

    def drill(self, texts: Sequence[str]) -> str:
        """Prove that these shares give back a key of this ring, without showing it.

        Returns:
            Id of the key.

        Raises:
            InputError: Mistyped, too few or mixed shares.
            SealBroken: They give another key.
            UnknownKey: They are for a key that is not at hand.
        """
        key_id, key = _recovered(texts)
        if not hmac.compare_digest(key, self._root(key_id)):
            raise SealBroken("These recovery shares belong to another key.", key_id=key_id)
        return key_id

    def _root(self, key_id: str) -> bytes:
        try:
            return self._keys[key_id]
        except KeyError:
            raise UnknownKey(
                "The root key for this data is missing. Add it to the key file, or restore it"
                " from its recovery shares.",
                key_id=key_id,
            ) from None

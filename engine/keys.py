"""Root keys: where they come from, and the keys that they wrap.

Promise: a root key is random, lives outside the data folder, never shows in a repr, a log or
an error, and never seals anything itself: it wraps patients' keys, which wrap images' keys.
Keys are a list, oldest first: the newest wraps, all unwrap. A wrong or missing key is said at
start, before anything is read or written.

Refuses: key files that others can read, a key file inside the data folder unless told so,
keys that are plainly not random, and to invent a key where one is missing.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from engine.errors import SealBroken, SettingsError, UnknownKey
from engine.host import write_durably
from engine.settings import Settings
from engine.vault import KEY_BYTES, Randomness, derive

DEFAULT_KEY_FILE = Path("~/.config/medsec/root.key")
SALT_RECORD = "root-key.toml"
PASSPHRASE_MIN_CHARACTERS = 16

_KEY_ID = re.compile(r"r([1-9][0-9]{0,4})-([0-9a-f]{8})")
_FILE_HEAD = """\
# MedSec root keys, oldest first: the newest wraps, all unwrap.
# Whoever holds this file can open everything; without it nothing opens.
# Keep copies apart from the data folder and from its backups.
"""


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
            "A wrapped key does not open: it was changed or swapped, or belongs to"
            " something else. Restore it from a backup."
        ) from None


def _bound(kek: bytes, context: str) -> bytes:
    return derive(kek, f"wrap/{context}") if context else kek


def check_value(key: bytes) -> str:
    """Sixteen hex digits that tell a wrong key from the right one and nothing else."""
    return derive(key, "root/check", 8).hex()


@dataclass(frozen=True)
class PassphraseCost:
    """What one guess at the passphrase costs: Argon2id parameters.

    The default takes four times the memory of RFC 9106's second recommendation. It is paid
    once per start. Recorded values below the smallest that OWASP names are refused, since
    whoever can write the data folder could otherwise make guessing cheap.
    """

    memory_kib: int = 262_144
    iterations: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        if not (
            19_456 <= self.memory_kib <= 1 << 22
            and 2 <= self.iterations <= 64
            and 1 <= self.lanes <= 64
        ):
            raise SettingsError(
                "The recorded cost of the passphrase is out of range: restore"
                f" {SALT_RECORD} in the data folder from a backup."
            )

    def derive(self, passphrase: str, salt: bytes) -> bytes:
        """32 bytes; the passphrase is taken in Unicode form NFKC, as keyboards differ."""
        secret = unicodedata.normalize("NFKC", passphrase).encode()
        kdf = Argon2id(
            salt=salt,
            length=KEY_BYTES,
            iterations=self.iterations,
            lanes=self.lanes,
            memory_cost=self.memory_kib,
        )
        return kdf.derive(secret)


class Keyring:
    """Root keys by id, oldest first.

    An id such as ``r2-1f0c93ab`` is the key's number and the start of its check value: safe
    to print.

    Args:
        keys: Ids and 32-byte keys, oldest first; see :meth:`load` for the usual way.
        file: Where :meth:`add` appends; None where the keys came from elsewhere.
        warnings: Sentences for the administrator about how the keys are kept.

    Raises:
        SettingsError: No key, one twice, one that is not random, or one under a wrong id.
    """

    def __init__(
        self,
        keys: Iterable[tuple[str, bytes]],
        file: Path | None = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self._keys: dict[str, bytes] = {}
        for key_id, key in keys:
            if key_id != _id(_number(key_id), key):
                raise SettingsError(f"The root key {key_id} does not match its id: mistyped?")
            if len(set(key)) < KEY_BYTES // 2:
                raise SettingsError(
                    f"The root key {key_id} is not random: make one with"
                    " `head -c 32 /dev/urandom | base64`."
                )
            if key in self._keys.values():
                raise SettingsError(f"The root key {key_id} is listed twice.")
            self._keys[key_id] = key
        if not self._keys:
            raise SettingsError("There is no root key: nothing could be sealed or opened.")
        self._file = file
        self.warnings = warnings

    @classmethod
    def load(
        cls,
        settings: Settings,
        randomness: Randomness,
        create: bool = False,
        cost: PassphraseCost | None = None,
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
        found: list[tuple[str, bytes]] = []
        warnings: list[str] = []
        if settings.key_passphrase:
            record = settings.data / SALT_RECORD
            key = _from_passphrase(
                settings.key_passphrase, record, randomness, create, cost or PassphraseCost()
            )
            found.append((_id(1, key), key))
        if settings.key:
            found += _parse(settings.key, "MEDSEC_KEY")
        path = settings.key_file
        if path is None and not found:
            path = DEFAULT_KEY_FILE
        if path is not None:
            path = _resolved(path)
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
                key = new_key(randomness)
                _create(path, _FILE_HEAD + _line(_id(1, key), key))
            found += _parse(_read(path), str(path))
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
        """What the catalog records to know this key again; see :func:`check_value`."""
        return check_value(self._root(key_id))

    def verify(self, known: Mapping[str, str]) -> None:
        """Are these the keys that the catalog was sealed under?

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
        """The same key under the newest root key; unchanged where it is there already.

        Raises:
            UnknownKey, SealBroken: As :meth:`unwrap`; also where nothing would change, so
            that a rotation finds every key that does not open.
        """
        key = self.unwrap(key_id, wrapped, context)
        if key_id == self.newest_id:
            return key_id, wrapped
        return self.wrap(key, context)

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
                "Only a key file can be rotated from here. Set MEDSEC_KEY_FILE to a new file"
                " beside MEDSEC_KEY or MEDSEC_KEY_PASSPHRASE: its key then wraps, and the old"
                " one is no longer needed when rotation is through."
            )
        text = _read(self._file)
        on_file = _parse(text, str(self._file))
        if any(self._keys.get(key_id) != key for key_id, key in on_file):
            raise SettingsError("The key file was changed since the start: restart first.")
        if on_file[-1][0] != self.newest_id:
            raise SettingsError("The key file lost a key since the start: restore it first.")
        key = new_key(randomness)
        key_id = _id(1 + max(map(_number, self._keys)), key)
        write_durably(self._file, (text.rstrip("\n") + "\n" + _line(key_id, key)).encode())
        self._keys = {**self._keys, key_id: key}
        return key_id

    def _root(self, key_id: str) -> bytes:
        try:
            return self._keys[key_id]
        except KeyError:
            raise UnknownKey(
                "This is sealed under a root key that is not at hand. Add it to the key file,"
                " or restore it from its recovery shares.",
                key_id=key_id,
            ) from None


def _id(number: int, key: bytes) -> str:
    return f"r{number}-{check_value(key)[:8]}"


def _number(key_id: str) -> int:
    match = _KEY_ID.fullmatch(key_id)
    if match is None:
        raise SettingsError("A root key has an id that is none: expected one like r1-1f0c93ab.")
    return int(match[1])


def _line(key_id: str, key: bytes) -> str:
    return f"{key_id}:{base64.b64encode(key).decode()}\n"


def _parse(text: str, where: str) -> list[tuple[str, bytes]]:
    """Entries ``id:base64`` or ``base64``, parted by commas or white space, oldest first."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    keys: list[tuple[str, bytes]] = []
    for entry in re.split(r"[\s,]+", " ".join(lines).strip()):
        key_id, _, encoded = entry.rpartition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            # The entry itself is not shown: it may be most of a key.
            raise SettingsError(
                f"{where}: entry {len(keys) + 1} is no root key. Expected 32 bytes in base64,"
                " 44 characters, with or without an id in front."
            ) from None
        keys.append((key_id or _id(_number(keys[-1][0]) + 1 if keys else 1, key), key))
    return keys


def _resolved(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except RuntimeError:
        raise SettingsError(
            "There is no home folder for the root key: set MEDSEC_KEY_FILE."
        ) from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise SettingsError(f"The root key {path} is not a file.")
            if mode & 0o077:
                raise SettingsError(
                    f"The root key {path} can be read by others (mode {mode & 0o777:04o})."
                    f" Run `chmod 600 {path}`, and rotate the key if somebody else was"
                    " on this machine."
                )
            return file.read().decode("ascii")
    except FileNotFoundError:
        raise SettingsError(
            f"There is no root key at {path}. Put the right one there, or name its place in"
            " MEDSEC_KEY_FILE. A new one opens nothing that is sealed already."
        ) from None
    except OSError as err:
        raise SettingsError(f"The root key {path} cannot be read: {err.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"The root key {path} is not a text of base64 keys.") from None


def _create(path: Path, text: str) -> None:
    """Write a file that is not there yet; never over one that somebody else just made."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as err:
        raise SettingsError(f"{path} cannot be made: {err.strerror}.") from None


def _from_passphrase(
    passphrase: str, record: Path, randomness: Randomness, create: bool, cost: PassphraseCost
) -> bytes:
    if len(passphrase) < PASSPHRASE_MIN_CHARACTERS:
        raise SettingsError(
            f"MEDSEC_KEY_PASSPHRASE has fewer than {PASSPHRASE_MIN_CHARACTERS} characters:"
            " take six random words or more."
        )
    if create and not record.exists():
        numbers = "".join(f"{name} = {value}\n" for name, value in asdict(cost).items())
        _create(
            record,
            "# Not secret, but needed: without this salt the passphrase gives another key.\n"
            f'kdf = "argon2id"\nsalt = "{randomness(16).hex()}"\n{numbers}',
        )
    try:
        table = tomllib.loads(record.read_text(encoding="ascii"))
        kdf, salt = table.pop("kdf"), bytes.fromhex(table.pop("salt"))
        recorded = PassphraseCost(**{name: int(value) for name, value in table.items()})
    except FileNotFoundError:
        raise SettingsError(
            f"{SALT_RECORD} is missing from the data folder: without its salt the"
            " passphrase gives another key. Restore it from a backup."
        ) from None
    except (OSError, KeyError, TypeError, ValueError):
        kdf, salt, recorded = "", b"", cost
    if kdf != "argon2id" or len(salt) < 16:
        raise SettingsError(
            f"{SALT_RECORD} in the data folder cannot be understood: restore it from a backup."
        ) from None
    return recorded.derive(passphrase, salt)

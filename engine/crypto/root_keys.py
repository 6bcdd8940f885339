"""Where root keys come from: a key file, the environment, or a passphrase.

Promise: a key file is readable by its owner only, a new one never replaces one that is there,
and it is complete on disk before anything is wrapped under it. No error shows a part of a key.

Refuses: files readable by other users, entries that are not 32 bytes, ids that do not match their
key, short passphrases, and a reduced cost of guessing.
"""

from __future__ import annotations

import base64
import os
import re
import stat
import tomllib
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from engine.crypto.vault import KEY_BYTES, Randomness, derive
from engine.errors import SettingsError

DEFAULT_KEY_FILE = Path("~/.config/medsec/root.key")
SALT_RECORD = "root-key.toml"
PASSPHRASE_MIN_CHARACTERS = 16

FILE_HEAD = """\
# MedSec root keys, oldest first: the newest wraps, all unwrap.
# Anybody with this file can decrypt all data; without it, nobody can.
# Keep copies apart from the data folder and from its backups.
"""


def check_value(key: bytes) -> str:
    """Sixteen hex digits that tell a wrong key from the right one and nothing else."""
    return derive(key, "root/check", 8).hex()


@dataclass(frozen=True)
class PassphraseCost:
    """What one guess at the passphrase costs: Argon2id parameters.

    The default takes four times the memory of RFC 9106's second recommendation. It is paid
    once per start. Recorded values below the smallest that OWASP names are refused, since
    an attacker with write access to the data folder could otherwise make guessing cheap.
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
                f"The stored cost of the passphrase is out of range. Restore {SALT_RECORD} in"
                " the data folder from a backup."
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


def key_id_of(key: bytes) -> str:
    """Public name of a root key: ``r1-`` and the first half of its check value."""
    return f"r1-{check_value(key)[:8]}"


def line_of(key: bytes) -> str:
    """How a key file holds a key."""
    return f"{key_id_of(key)}:{base64.b64encode(key).decode()}\n"


def parse(text: str, where: str) -> list[bytes]:
    """Entries ``id:base64`` or ``base64``, parted by commas or white space, oldest first.

    Raises:
        SettingsError: An entry that is no key, is not random, is not the one its id names,
            or comes twice. The entry itself is not shown: it may be most of a key.
    """
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    keys: list[bytes] = []
    for entry in re.split(r"[\s,]+", " ".join(lines).strip()):
        key_id, _, encoded = entry.rpartition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        complaint = ""
        if len(key) != KEY_BYTES:
            complaint = "is no root key: expected 32 bytes in base64, 44 characters"
        elif key_id not in ("", key_id_of(key)):
            complaint = "is not the key that its id names: mistyped, or half replaced"
        elif len(set(key)) < KEY_BYTES // 2:
            complaint = "is not random: make one with `head -c 32 /dev/urandom | base64`"
        elif key in keys:
            complaint = "is there twice"
        if complaint:
            raise SettingsError(f"{where}: entry {len(keys) + 1} {complaint}.")
        keys.append(key)
    return keys


def resolved(path: Path) -> Path:
    """Absolute, with ``~`` and links followed."""
    try:
        return path.expanduser().resolve()
    except RuntimeError:
        raise SettingsError(
            "There is no home folder for the root key. Set MEDSEC_KEY_FILE."
        ) from None


def read_file(path: Path) -> str:
    """Text of a key file.

    Raises:
        SettingsError: Not there, not a file, or readable by others.
    """
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
            f"There is no root key at {path}. Put the right key there, or set MEDSEC_KEY_FILE to"
            " its path. A new key cannot open data that is already sealed."
        ) from None
    except OSError as err:
        raise SettingsError(f"The root key {path} cannot be read: {err.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"The root key {path} is not a text of base64 keys.") from None


def create_file(path: Path, text: str) -> None:
    """Create a file; never overwrite one that another process just created."""
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


def from_passphrase(
    passphrase: str, record: Path, randomness: Randomness, create: bool, cost: PassphraseCost
) -> bytes:
    """A root key from a passphrase and the salt and cost recorded in the data folder.

    Args:
        record: The file of salt and cost. Not secret, but it belongs into every backup.
        create: Make the record where there is none, with this cost.

    Raises:
        SettingsError: Too short, or the record is missing or cannot be understood.
    """
    if len(passphrase) < PASSPHRASE_MIN_CHARACTERS:
        raise SettingsError(
            f"MEDSEC_KEY_PASSPHRASE has fewer than {PASSPHRASE_MIN_CHARACTERS} characters. Use"
            " at least six random words."
        )
    if create and not record.exists():
        numbers = "".join(f"{name} = {value}\n" for name, value in asdict(cost).items())
        create_file(
            record,
            "# Not secret, but needed: without this salt the passphrase gives another key.\n"
            f'kdf = "argon2id"\nsalt = "{randomness(16).hex()}"\n{numbers}',
        )
    try:
        table = tomllib.loads(record.read_text(encoding="ascii"))
        kdf, salt = table.pop("kdf"), bytes.fromhex(table.pop("salt"))
        recorded = PassphraseCost(**table)
        if kdf != "argon2id" or len(salt) != 16:
            raise ValueError
    except FileNotFoundError:
        raise SettingsError(
            f"{SALT_RECORD} is missing in the data folder. Without its salt, the passphrase"
            " gives another key. Restore it from a backup."
        ) from None
    except (OSError, KeyError, TypeError, ValueError):
        raise SettingsError(
            f"{SALT_RECORD} in the data folder is not valid. Restore it from a backup."
        ) from None
    return recorded.derive(passphrase, salt)

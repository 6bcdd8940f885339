"""Root keys: rotation, recovery shares, and the key that signs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.errors import InputError
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.permissions import Permission
from engine.records import Caller
from engine.store.audit import Event


class Keys:
    """Keys of the installation."""

    def __init__(self, context: Context, guard: Guard) -> None:
        self._audit = context.audit
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._guard = guard

    @needs(Permission.MANAGE_KEYS)
    def rotate(self, caller: Caller, *, new_root: bool = True) -> Iterator[int]:
        """Add a root key and re-wrap every key under it; yields how many are left.

        Can be stopped anywhere: called again with ``new_root=False`` it goes on.

        Raises:
            InputError: Several servers run, which would not have the new key.
            SettingsError: The root keys do not come from a file that can be added to.
        """
        if self._database.server_id:
            raise InputError(
                "Other servers would not have the new root key. Stop all servers, run medsec rotate"
                " on one machine, give every server the new keys, and start them."
            )
        if new_root:
            key_id = self._hierarchy.add_root_key()
            self._audit.record(caller, Event("key.add", detail={"key_id": key_id}))
        return self._rotation(caller)

    def _rotation(self, caller: Caller) -> Iterator[int]:
        yield from self._hierarchy.rotate()
        self._audit.record(caller, Event("key.rotate"))

    @needs(Permission.MANAGE_KEYS)
    def recovery_shares(self, caller: Caller, needed: int = 2, total: int = 3) -> tuple[str, ...]:
        """Printable shares of the newest root key. Show each once, to a different holder.

        Raises:
            InputError: Not 2 <= needed <= total <= 16.
        """
        try:
            shares = self._hierarchy.split_newest(needed, total)
        except ValueError as err:
            raise InputError("Choose 2 to 16 shares, of which at least 2 are required.") from err
        detail = {"key_id": self._hierarchy.root_key_ids[-1], "needed": needed, "total": total}
        self._audit.record(caller, Event("key.share", detail=detail))
        return shares

    @needs(Permission.MANAGE_KEYS)
    def drill_shares(self, caller: Caller, shares: Sequence[str]) -> str:
        """Prove that shares give back a root key, without showing it.

        Returns:
            Id of the key.

        Raises:
            InputError: Mistyped, too few, or of different keys.
            SealError: They give another key than they say, or one that is not at hand.
        """
        key_id = self._hierarchy.drill(shares)
        self._audit.record(caller, Event("key.drill", detail={"key_id": key_id}))
        return key_id

    def signing_key(self) -> bytes:
        """The Ed25519 public key that signs exchanges and checkpoints, for clients to pin."""
        return self._hierarchy.signer().public_bytes

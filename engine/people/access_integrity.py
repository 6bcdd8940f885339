"""Integrity of accounts and access rights: one keyed tag over all their rows.

These rows are read on every call and are therefore not encrypted. An attacker who can write to the
catalog's file, but has no key, could add a care relation, or change the password or role of an
account. A keyed tag over all rows prevents this: every change writes the tag to the audit log, in
the same transaction, and the rows are compared with the newest tag at every start and every hour.
Any added, altered, removed or rolled back row is detected, but not which row it is.

Not covered: values that change at every sign-in (times, counters, used codes), and sessions and
refresh tokens, which have their own tags (``sessions`` and ``tokens`` beside this module).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Final

from engine.errors import RosterBroken
from engine.store.database import Cursor
from engine.vault import blind_index

_ROWS: Final[Mapping[str, tuple[str, ...]]] = {
    "accounts": ("username", "name", "role", "password_hash", "enabled", "created_at"),
    "account_requests": (
        "request_id", "username", "name", "role", "password_hash", "requested_at", "origin",
    ),
    "second_factors": ("username", "secret", "confirmed_at"),
    "recovery_codes": ("username", "code_digest"),
    "identities": ("username", "email", "issuer", "subject"),
    "care": ("patient_id", "username", "since", "assigned_by"),
    "glass": (
        "glass_id", "patient_id", "username", "reason", "opened_at", "expires_at", "ended_at",
        "ended_by", "reviewed_at", "reviewed_by", "verdict", "remark",
    ),
    "class_grants": ("username", "labels", "granted_at", "granted_by"),
    "passkeys": ("credential_id", "username", "added_at"),
}  # fmt: skip
#: Columns of bytes; all others are text, numbers, truth values and times.
_BYTES: Final = frozenset({"secret", "reason", "remark"})
#: An unconfirmed secret has no effect and can be replaced without an audit entry.
#: Later than the first tags: without rows they do not count, so that earlier tags stay right.
_LATER: Final = frozenset({"passkeys"})
_ONLY: Final = {"second_factors": "WHERE confirmed_at IS NOT NULL"}
#: Names of the tables that have rows: to digest an empty one costs as much as to digest a few rows.
_FILLED: Final = " UNION ALL ".join(
    f"(SELECT '{table}' AS name FROM {table} LIMIT 1)"  # noqa: S608
    for table in _ROWS
)
_NO_ROWS: Final = hashlib.sha256().hexdigest()

#: Audit actions that change these rows; their entries hold the tag after the change.
CHANGES: Final = frozenset(
    {
        "account.approve", "account.change-password", "account.create", "account.decline",
        "account.disable", "account.enable", "account.first-administrator",
        "account.link-identity", "account.meet-identity", "account.recovery-codes",
        "account.request", "account.reset-password", "account.reset-second-factor",
        "account.passkey-add", "account.passkey-remove",
        "account.second-factor-off", "account.second-factor-on", "account.set-role",
        "care.assign", "care.end", "class.grant", "glass.break", "glass.end", "glass.review",
        "patient.erase", "patient.merge", "roster.accept", "roster.begin",
    }
)  # fmt: skip


class AccessIntegrity:
    """The rows of one catalog.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def tag(self, tx: Cursor) -> str:
        """The tag of all current rows, in hex."""
        filled = {row["name"] for row in tx.all(_FILLED)}
        digests = {
            table: _digest(tx, table) if table in filled else _NO_ROWS
            for table in _ROWS
            if table not in _LATER or table in filled
        }
        return blind_index(self._key, "roster", json.dumps(digests)).hex()

    def check(self, tx: Cursor) -> bool:
        """Compare the rows with the log; they must not change during the call.

        Returns:
            Does the log have a tag? Data folders of earlier versions have none.

        Raises:
            RosterBroken: They differ.
        """
        known = _newest(tx)
        if known is not None and not hmac.compare_digest(known, self.tag(tx)):
            raise RosterBroken(
                "Accounts or access rights were changed outside MedSec. Restore a backup, or"
                " check the changes and accept them with cli.py accept-roster."
            )
        return known is not None


def _newest(tx: Cursor) -> str | None:
    row = tx.one(
        "SELECT detail ->> 'roster' AS tag FROM audit WHERE detail ->> 'roster' IS NOT NULL"
        " AND action IN (SELECT unnest($1::VARCHAR[])) ORDER BY sequence DESC LIMIT 1",
        sorted(CHANGES),
    )
    return None if row is None else str(row["tag"])


def _digest(tx: Cursor, table: str) -> str:
    """SHA-256 over the rows of a table in an order of their own; every field with its length."""
    texts = [tx.bytes_as_text(c) if c in _BYTES else f"{c}::VARCHAR" for c in _ROWS[table]]
    fields = " || ".join(f"coalesce(strlen({text}) || ':' || {text}, '-')" for text in texts)
    row = tx.one(
        "SELECT sha256(coalesce(string_agg(line, '' ORDER BY line), '')) AS digest"  # noqa: S608
        f" FROM (SELECT {fields} AS line FROM {table} {_ONLY.get(table, '')}) AS lines"
    )
    assert row is not None
    return str(row["digest"])

"""Front door of :mod:`engine.crypto`: what the other packages use of it.

Sealing and opening, keys and their recovery, key exchange, and certificates.
"""

from __future__ import annotations

from engine.crypto import root_keys
from engine.crypto.envelopes import Recipient, envelope, recipients_of
from engine.crypto.key_exchange import (
    Exchanges,
    Group,
)
from engine.crypto.keyring import (
    Keyring,
    new_key,
    recover,
    unwrap_key,
    wrap_key,
)
from engine.crypto.root_keys import (
    SALT_RECORD,
    key_id_of,
)
from engine.crypto.self_tests import self_test
from engine.crypto.tagged_tokens import (
    TaggedTokens,
    random_text,
    token_digest,
)
from engine.crypto.tls_certificate import server_certificate
from engine.crypto.vault import (
    Randomness,
    RegionIdentity,
    Sealing,
    Signer,
    blind_index,
    decrypt,
    derive,
    encrypt,
    open_field,
    pack,
    pad_length,
    public_key_pem,
    raw_public_key,
    seal_field,
    without_header,
)

__all__ = [
    "SALT_RECORD",
    "Exchanges",
    "Group",
    "Keyring",
    "Randomness",
    "Recipient",
    "RegionIdentity",
    "Sealing",
    "Signer",
    "TaggedTokens",
    "blind_index",
    "decrypt",
    "derive",
    "encrypt",
    "envelope",
    "key_id_of",
    "new_key",
    "open_field",
    "pack",
    "pad_length",
    "public_key_pem",
    "random_text",
    "raw_public_key",
    "recipients_of",
    "recover",
    "root_keys",
    "seal_field",
    "self_test",
    "server_certificate",
    "token_digest",
    "unwrap_key",
    "without_header",
    "wrap_key",
]

"""The TLS certificate of the server: from the settings, or self-signed on first use.

A self-signed certificate does not prove the server's identity: users compare its fingerprint with
the server's console, or install the file. A hospital sets its own certificate in the settings.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.crypto.root_keys import DEFAULT_KEY_FILE
from engine.errors import SettingsError
from engine.host import Host, write_durably
from engine.settings import Settings

#: The longest lifetime that browsers accept; renewed a month before it ends.
LIFETIME = timedelta(days=397)
RENEWAL = timedelta(days=30)
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Certificate:
    """Files for a TLS server.

    Args:
        path: Certificate, PEM; with those between it and its root, if there are any.
        key: Its private key, PEM, mode 0600 where it was made here.
        fingerprint: SHA-256 of the certificate in hex, as browsers show it.
    """

    path: Path
    key: Path
    fingerprint: str


def server_certificate(settings: Settings, host: Host) -> Certificate:
    """The certificate of the settings, or a self-signed one next to the root key.

    Raises:
        SettingsError: Only one of the two files is named, or they cannot be read or written.
    """
    path, key = settings.tls_certificate, settings.tls_key
    if (path is None) != (key is None):
        raise SettingsError("Set MEDSEC_TLS_CERTIFICATE and MEDSEC_TLS_KEY together, or neither.")
    try:
        if path is None or key is None:
            folder = (settings.key_file or DEFAULT_KEY_FILE).expanduser().parent
            path, key = folder / "tls-certificate.pem", folder / "tls-key.pem"
            if not _good(path, key, settings, host):
                _make(path, key, settings, host)
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as err:
        raise SettingsError(f"The TLS certificate {path} cannot be used: {err}.") from err
    return Certificate(path.resolve(), key.resolve(), found.fingerprint(hashes.SHA256()).hex(":"))


def _good(path: Path, key: Path, settings: Settings, host: Host) -> bool:
    """Is the existing certificate valid for this address and time?"""
    if not (path.exists() and key.exists()):
        return False
    found = x509.load_pem_x509_certificate(path.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    until = found.not_valid_after_utc.replace(tzinfo=None)
    return set(names) >= set(_names(settings)) and host.now() + RENEWAL < until


def _make(path: Path, key: Path, settings: Settings, host: Host) -> None:
    """Key first: a certificate without its key would stop the next start."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MedSec")])
    now = host.now()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(_names(settings)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False)
        # As a client, where images are sent to other systems over TLS.
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .sign(private, hashes.SHA256())
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    coded = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_durably(key, coded)
    write_durably(path, made.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _names(settings: Settings) -> list[x509.GeneralName]:
    """All names and addresses of this machine."""
    names: list[x509.GeneralName] = []
    for text in dict.fromkeys((*_LOCAL, settings.host, socket.gethostname())):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            names.append(x509.DNSName(text))
    return names

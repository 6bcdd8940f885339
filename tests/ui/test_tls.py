"""TLS: a certificate made on first use, and a server that speaks https and nothing else."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from engine import Engine, Settings, errors, server_certificate
from tests.conftest import PASSWORD
from tests.fakes import FakeHost, ScriptedDetector
from tests.serving import people, serve
from tests.serving import settings as settings_of


def test_a_certificate_is_made_once_and_its_key_is_for_nobody_else(
    settings: Settings, host: FakeHost
) -> None:
    made = server_certificate(settings, host)
    assert settings.key_file is not None
    assert made.path.parent == made.key.parent == settings.key_file.parent
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert server_certificate(settings, host) == made
    read = x509.load_pem_x509_certificate(made.path.read_bytes())
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert ipaddress.ip_address("127.0.0.1") in names.get_values_for_type(x509.IPAddress)


def test_a_certificate_is_made_anew_before_it_lapses_and_for_another_address(
    settings: Settings, host: FakeHost
) -> None:
    first = server_certificate(settings, host).fingerprint
    host.advance(days=366)
    assert server_certificate(settings, host).fingerprint == first
    host.advance(days=2)
    second = server_certificate(settings, host).fingerprint
    assert second != first
    elsewhere = replace(settings, host="192.0.2.7")
    third = server_certificate(elsewhere, host).fingerprint
    assert third != second
    assert server_certificate(elsewhere, host).fingerprint == third


def test_a_certificate_of_ones_own_is_taken_as_it_is(
    settings: Settings, host: FakeHost, tmp_path: Path
) -> None:
    made = server_certificate(settings, host)
    folder = tmp_path / "given"
    folder.mkdir()
    given = replace(
        settings,
        tls_certificate=made.path.rename(folder / "chain.pem"),
        tls_key=made.key.rename(folder / "key.pem"),
    )
    assert server_certificate(given, host).fingerprint == made.fingerprint
    assert not made.path.exists()
    with pytest.raises(errors.SettingsError, match="together"):
        server_certificate(replace(given, tls_key=None), host)
    (folder / "chain.pem").write_text("nothing")
    with pytest.raises(errors.SettingsError):
        server_certificate(given, host)


def test_the_server_speaks_tls_and_nothing_else(tmp_path: Path) -> None:
    chosen = settings_of(tmp_path)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
    people(engine)
    engine.close()
    with serve(tmp_path, MEDSEC_TLS="1") as server:
        pinned = ssl.create_default_context(cafile=str(tmp_path / "keys" / "tls-certificate.pem"))
        with httpx.Client(base_url=server.url, verify=pinned) as client:
            page = client.get("/")
            assert page.status_code == 200
            assert page.headers["strict-transport-security"].startswith("max-age=31536000")
            body = {"username": "doctor", "password": PASSWORD}
            signed_in = client.post("/api/auth/token/", json=body)
            assert signed_in.status_code == 200
            assert signed_in.headers["strict-transport-security"]
            cookie = client.delete("/api/session").headers["set-cookie"].lower()
            assert {"secure", "httponly", "samesite=strict"} <= set(cookie.split("; "))
        with httpx.Client(base_url=server.url) as stranger, pytest.raises(httpx.ConnectError):
            stranger.get("/")  # nobody vouches for this certificate
        plain = server.url.replace("https", "http")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{plain}/api/health")
        host, port = server.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), 20) as line:
            line.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not line.recv(100).startswith(b"HTTP")
        assert server_certificate(replace(chosen, tls=True), FakeHost(tmp_path)).fingerprint in (
            server.log.read_text()
        )

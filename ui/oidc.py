"""Single sign-on by OpenID Connect, through Streamlit's ``st.login``; off unless configured.

Streamlit and Authlib speak the protocol: code flow, state and nonce bound to the browser, PKCE,
the ID token's signature, audience and expiry. Streamlit then keeps the identity in a cookie that
lasts a month and that no sign-out revokes. Nothing here relies on that cookie: what it says is
taken once, while it is fresh, for a session of the engine, and the browser is told to drop it.
"""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from streamlit import config

from engine import Settings, errors
from ui import state

DISCOVERY = "/.well-known/openid-configuration"
CALLBACK = "/oauth2callback"
_NAMES = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def configure(settings: Settings) -> None:
    """Before the server is built: read the one file that the settings name, and no other.

    Raises:
        SettingsError: The file can be read by others, lacks something, or is not safe.
    """
    if settings.single_sign_on is None:
        config.set_option("secrets.files", [])  # whatever lies in the folder it is started from
        return
    _section(settings.single_sign_on)
    if config.get_option("server.trustedUserHeaders"):
        raise errors.SettingsError(
            "server.trustedUserHeaders would let a header sign anybody in: remove it."
        )
    config.set_option("secrets.files", [str(settings.single_sign_on)])


def offered() -> bool:
    """Is single sign-on configured?"""
    return state.engine().settings.single_sign_on is not None


def button() -> None:
    """The way to the identity provider."""
    if st.button("Sign in through your organisation", icon=":material/domain:"):
        st.login()


def arrived() -> bool:
    """Has the provider just said who this is?"""
    return offered() and bool(st.user.get("is_logged_in", False))


def redeem() -> None:
    """Trade what the provider said for a session. Raises NotSignedIn, CodeNeeded put aside."""
    file = state.engine().settings.single_sign_on
    assert file is not None
    state.sign_in_identity(st.user.to_dict(), _issuer(_section(file)))


def _section(file: Path) -> dict[str, str]:
    """Streamlit's ``[auth]`` section, checked."""
    try:
        mode = file.stat().st_mode
        section: Any = tomllib.loads(file.read_text(encoding="utf-8")).get("auth")
    except (OSError, tomllib.TOMLDecodeError) as err:
        raise errors.SettingsError(f"The file of single sign-on cannot be read: {err}.") from err
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise errors.SettingsError("The file of single sign-on holds secrets: give it mode 0600.")
    if not isinstance(section, dict) or set(section) != set(_NAMES):
        raise errors.SettingsError(
            f"The file of single sign-on needs a section [auth] with {', '.join(_NAMES)}, and"
            " nothing else."
        )
    if len(str(section["cookie_secret"])) < 32:
        raise errors.SettingsError("cookie_secret needs 32 random characters or more.")
    for name, end in (("redirect_uri", CALLBACK), ("server_metadata_url", DISCOVERY)):
        parts = urlsplit(str(section[name]))
        safe = parts.scheme == "https" or parts.hostname in _LOOPBACK
        if not safe or not str(section[name]).endswith(end):
            raise errors.SettingsError(f"{name} must begin with https and end with {end}.")
    return {name: str(section[name]) for name in _NAMES}


def _issuer(section: dict[str, str]) -> str:
    """OpenID Connect Discovery 1.0, section 4.1: the address is the issuer and a fixed ending."""
    return section["server_metadata_url"].removesuffix(DISCOVERY)

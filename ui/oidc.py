"""Single sign-on by OpenID Connect, through Streamlit's ``st.login``; off unless configured.

Streamlit and Authlib speak the protocol: code flow, state and nonce bound to the browser, PKCE,
the ID token's signature, audience and expiry. Streamlit then keeps the identity in a cookie that
lasts a month and that no sign-out revokes. Nothing here relies on that cookie: a fresh ID token is
exchanged once for an engine session, and the browser is told to delete the cookie.
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
    """Read only the configuration file named in the settings, before the server is built.

    Raises:
        SettingsError: The file is readable by other users, incomplete, or insecure.
    """
    if settings.single_sign_on is None:
        config.set_option("secrets.files", [])  # ignore files in the working directory
        return
    _section(settings.single_sign_on)
    if config.get_option("server.trustedUserHeaders"):
        raise errors.SettingsError(
            "server.trustedUserHeaders lets a header sign in any user. Remove it."
        )
    config.set_option("secrets.files", [str(settings.single_sign_on)])


def offered() -> bool:
    """Is single sign-on configured?"""
    return state.engine().settings.single_sign_on is not None


def button() -> None:
    """The button that starts the sign-in at the identity provider."""
    if st.button("Sign in through your organisation", icon=":material/domain:"):
        st.login()


def arrived() -> bool:
    """Has the user just come back from the identity provider?"""
    return offered() and bool(st.user.get("is_logged_in", False))


def redeem() -> None:
    """Exchange the ID token for a session. Raises NotSignedIn; keeps a CodeNeeded for later."""
    file = state.engine().settings.single_sign_on
    assert file is not None
    state.sign_in_identity(st.user.to_dict(), _issuer(_section(file)))


def _section(file: Path) -> dict[str, str]:
    """Streamlit's ``[auth]`` section, checked."""
    try:
        mode = file.stat().st_mode
        section: Any = tomllib.loads(file.read_text(encoding="utf-8")).get("auth")
    except (OSError, tomllib.TOMLDecodeError) as err:
        raise errors.SettingsError(
            f"Cannot read the single sign-on file: {err}. Check MEDSEC_SINGLE_SIGN_ON."
        ) from err
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise errors.SettingsError("The single sign-on file holds secrets. Set its mode to 0600.")
    if not isinstance(section, dict) or set(section) != set(_NAMES):
        raise errors.SettingsError(
            f"The single sign-on file needs a section [auth] with exactly these names:"
            f" {', '.join(_NAMES)}."
        )
    if len(str(section["cookie_secret"])) < 32:
        raise errors.SettingsError("cookie_secret must have at least 32 random characters.")
    for name, end in (("redirect_uri", CALLBACK), ("server_metadata_url", DISCOVERY)):
        parts = urlsplit(str(section[name]))
        safe = parts.scheme == "https" or parts.hostname in _LOOPBACK
        if not safe or not str(section[name]).endswith(end):
            raise errors.SettingsError(f"{name} must begin with https and end with {end}.")
    return {name: str(section[name]) for name in _NAMES}


def _issuer(section: dict[str, str]) -> str:
    """The issuer: the discovery URL without its suffix (OpenID Connect Discovery 1.0, 4.1)."""
    return section["server_metadata_url"].removesuffix(DISCOVERY)

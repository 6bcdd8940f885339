"""The sign-in form of streamlit-authenticator, with the engine in charge behind it.

Of the package only the form is used. Its own cookie is readable by scripts and outlives the
sign-out, it changes what was typed, and it answers faster for unknown names: so the two
collaborators that would do this are replaced by ones that cannot.
"""

from __future__ import annotations

from collections.abc import Callable

from streamlit_authenticator import Authenticate

_FIELDS = {
    "Form name": "Sign in",
    "Username": "User name",
    "Password": "Password",
    "Login": "Sign in",
}


class _NoCookie:
    """Remembers nothing: the session's cookie is set by the HTTP door, out of reach of scripts."""

    def get_cookie(self) -> None:
        return None

    def set_cookie(self) -> None:
        return None


class _EngineDecides:
    """Passes on what was typed, untouched."""

    def __init__(self, check: Callable[[str, str], None]) -> None:
        self._check = check

    def login(self, username: str, password: str, *_limits: object, **_options: object) -> bool:
        self._check(username, password)
        return False  # nothing more for the package to do


class SignInForm(Authenticate):  # type: ignore[misc]
    """The form; ``check`` gets user name and password when it is sent."""

    def __init__(self, check: Callable[[str, str], None]) -> None:
        self.attrs = {"login_sleep_time": 0}
        self.path = None
        self.cookie_controller = _NoCookie()
        self.authentication_controller = _EngineDecides(check)

    def show(self) -> None:
        self.login(fields=_FIELDS, key="sign-in")

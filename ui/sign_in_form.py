"""The sign-in form of streamlit-authenticator; the engine checks name and password.

Only the form of the package is used. The package's cookie is readable by scripts and stays valid
after sign-out, its check alters the input and answers faster for unknown names. The two objects
that do this are therefore replaced.
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
    """No cookie: the REST API sets the session cookie, which scripts cannot read."""

    def get_cookie(self) -> None:
        return None

    def set_cookie(self) -> None:
        return None


class _EngineDecides:
    """Passes the input to ``check`` unchanged."""

    def __init__(self, check: Callable[[str, str], None]) -> None:
        self._check = check

    def login(self, username: str, password: str, *_limits: object, **_options: object) -> bool:
        self._check(username, password)
        return False  # the package does nothing further


class SignInForm(Authenticate):  # type: ignore[misc]
    """The form; ``check`` is called with user name and password."""

    def __init__(self, check: Callable[[str, str], None]) -> None:
        self.attrs = {"login_sleep_time": 0}
        self.path = None
        self.cookie_controller = _NoCookie()
        self.authentication_controller = _EngineDecides(check)

    def show(self) -> None:
        self.login(fields=_FIELDS, key="sign-in")

"""The state of one user's session between clicks.

The only module that uses ``st.session_state``. The session token is in a cookie that scripts
cannot read; this module only reads it. Pictures and decrypted data are never kept here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import streamlit as st

import api
from engine import Account, Engine, Permission, errors

_PREFIX = "medsec."


def engine() -> Engine:
    """The engine of this process, shared with the REST API."""
    held: Engine = api.app.state.engine
    return held


def token() -> str:
    """The session token from the cookie; empty without a session.

    The cookies are those with which the page was opened. After a fresh proof the browser has
    another one, which this page's session knows already.
    """
    renewed = recall("token")
    if isinstance(renewed, str):
        return renewed
    value = st.context.cookies.get(api.COOKIE)
    return value if isinstance(value, str) else ""


def account() -> Account | None:
    """The signed-in account, checked anew, so that a disabled account is out at the next click."""
    if not token():
        return None
    try:
        return engine().sessions.whoami(token())
    except errors.NotSignedIn:
        return None


def factor_due() -> bool:
    """Must this user set up a second factor first?"""
    now = engine().account.second_factor(token())
    return now.required and now.enabled_at is None


def page(title: str, permission: Permission) -> str:
    """The first line of every page: stop without the permission for it.

    Returns:
        The session token; the engine checks it again on every call.
    """
    who = account()
    if who is None:
        st.error("Please sign in to see this page.", icon=":material/lock:")
        st.stop()
    if not engine().sessions.may(token(), permission):
        st.error(
            "Your role has no access to this page. Choose another page in the menu.",
            icon=":material/lock:",
        )
        st.stop()
    st.title(title)
    place = st.empty()  # always present, so that the widgets below keep their identity
    said = take("said")
    keep("shown", said)
    if said:
        place.success(said, icon=":material/check:")
    return token()


def sign_in(username: str, password: str) -> None:
    """Open a session and keep a one-time ticket that the browser exchanges for the cookie.

    If a second factor is required, the challenge is kept instead; see :func:`waits_for_code`.

    Raises:
        NotSignedIn: Name and password do not match.
        AccountLocked: Too many failures.
    """
    try:
        session = engine().sessions.sign_in(username, password, origin=origin())
    except errors.CodeNeeded as step:
        _wait_for_code(step)
    else:
        keep("ticket", api.issue_ticket(engine(), session.token))


def sign_in_identity(claims: dict[str, Any], issuer: str) -> None:
    """As :func:`sign_in`, with the claims of an identity provider. Raises NotSignedIn."""
    try:
        session = engine().sessions.sign_in_identity(claims, issuer, origin=origin())
    except errors.CodeNeeded as step:
        _wait_for_code(step)
    else:
        keep("ticket", api.issue_ticket(engine(), session.token))


def _wait_for_code(step: errors.CodeNeeded) -> None:
    keep("challenge", step.challenge)
    keep("passkey", step.passkey)


def prove(password: str = "", code: str = "") -> None:
    """Prove again who sits there; the browser gets another token. Raises PermissionDenied."""
    engine().sessions.prove(token(), password, code)
    fresh = engine().sessions.renew(token())
    keep("token", fresh)
    keep("renewal", api.issue_ticket(engine(), fresh))


def waits_for_code() -> bool:
    """Was the password correct, with the code of the second factor still missing?"""
    return recall("challenge") is not None


def passkey_options() -> str:
    """What the account's passkeys are asked for in the second step; empty without any."""
    return str(recall("passkey", ""))


def finish_sign_in(code: str) -> None:
    """Complete the sign-in with a code or a passkey's answer. Raises NotSignedIn, AccountLocked."""
    session = engine().sessions.finish_sign_in(recall("challenge", ""), code, origin=origin())
    give_up_sign_in()
    keep("ticket", api.issue_ticket(engine(), session.token))


def give_up_sign_in() -> None:
    """Return to the first step of the sign-in."""
    take("challenge")
    take("passkey")


def origin() -> str:
    """The client's IP address, for the audit log."""
    address = st.context.ip_address  # None for localhost
    return address if isinstance(address, str) else "this machine"


def sign_out() -> None:
    """End the session in the engine, so that a copied cookie is useless."""
    with suppress(errors.NotSignedIn):  # it may have expired
        engine().sessions.sign_out(token())
    forget()


def forget() -> None:
    """Delete the state of this user."""
    for name in [k for k in st.session_state if str(k).startswith(_PREFIX)]:
        del st.session_state[name]


def keep(name: str, value: Any) -> None:
    """Keep a value for this user: ids, counts, messages; never a picture."""
    st.session_state[_PREFIX + name] = value


def recall(name: str, default: Any = None) -> Any:
    """A kept value."""
    return st.session_state.get(_PREFIX + name, default)


def take(name: str, default: Any = None) -> Any:
    """A kept value; it is removed."""
    return st.session_state.pop(_PREFIX + name, default)


def say(sentence: str) -> None:
    """A message for the top of the next page."""
    keep("said", sentence)


def say_again() -> None:
    """Before a run that shows nothing is given up for another: its message goes there."""
    say(recall("shown", ""))


def turn(name: str) -> int:
    """A number for a widget's key; :func:`renew` changes it and so resets the widget."""
    return int(recall(f"turn.{name}", 0))


def renew(name: str) -> None:
    """Give a widget a new key, which also deletes its files and values on the server."""
    keep(f"turn.{name}", turn(name) + 1)

"""The session of one visitor: who they are and what their pages remember between two clicks.

Sole user of ``st.session_state``. The session's token lives in a cookie that scripts cannot
read; here it is only looked up. No picture and nothing decrypted is ever kept here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import streamlit as st

import api
from engine import Account, Engine, Permission, errors

_PREFIX = "medsec."


def engine() -> Engine:
    """The one engine of this process, the same that the HTTP door uses."""
    held: Engine = api.app.state.engine
    return held


def token() -> str:
    """The session from the cookie; empty for a visitor who has none."""
    value = st.context.cookies.get(api.COOKIE)
    return value if isinstance(value, str) else ""


def account() -> Account | None:
    """Who is signed in, asked afresh, so that a disabled account is out at the next click."""
    if not token():
        return None
    try:
        return engine().whoami(token())
    except errors.NotSignedIn:
        return None


def factor_due() -> bool:
    """Must this person set up a second factor before anything else?"""
    now = engine().second_factor(token())
    return now.required and now.enabled_at is None


def page(title: str, permission: Permission) -> str:
    """The first line of every page: stop unless this visitor may see it.

    Returns:
        The token for the engine, which checks it again on every call.
    """
    who = account()
    if who is None:
        st.error("Please sign in.", icon=":material/lock:")
        st.stop()
    if not engine().may(token(), permission):
        st.error("This page is not part of your role.", icon=":material/lock:")
        st.stop()
    st.title(title)
    place = st.empty()  # always there, so that what follows keeps its identity
    said = take("said")
    if said:
        place.success(said, icon=":material/check:")
    return token()


def sign_in(username: str, password: str) -> None:
    """Open a session and put a one-time ticket aside that the browser trades for the cookie.

    Where a code is missing, what it is sent with is put aside instead; see :func:`waits_for_code`.

    Raises:
        NotSignedIn: Name and password do not match.
        AccountLocked: Too many failures.
    """
    try:
        session = engine().sign_in(username, password, origin=origin())
    except errors.CodeNeeded as step:
        keep("challenge", step.challenge)
    else:
        keep("ticket", api.tickets.issue(session.token))


def sign_in_identity(claims: dict[str, Any], issuer: str) -> None:
    """As :func:`sign_in`, by what an identity provider says. Raises NotSignedIn."""
    try:
        session = engine().sign_in_identity(claims, issuer, origin=origin())
    except errors.CodeNeeded as step:
        keep("challenge", step.challenge)
    else:
        keep("ticket", api.tickets.issue(session.token))


def waits_for_code() -> bool:
    """Was the password right, and is the second factor's code still to come?"""
    return recall("challenge") is not None


def finish_sign_in(code: str) -> None:
    """The second step. Raises NotSignedIn, AccountLocked."""
    session = engine().finish_sign_in(recall("challenge", ""), code, origin=origin())
    give_up_sign_in()
    keep("ticket", api.tickets.issue(session.token))


def give_up_sign_in() -> None:
    """Back to the first step."""
    take("challenge")


def origin() -> str:
    """Where this visitor comes from, for the log."""
    address = st.context.ip_address  # None for this machine itself
    return address if isinstance(address, str) else "this machine"


def sign_out() -> None:
    """End the session in the engine: a copied cookie is worth nothing from here on."""
    with suppress(errors.NotSignedIn):  # it may have ended by itself
        engine().sign_out(token())
    forget()


def forget() -> None:
    """Drop all that was remembered of this visitor."""
    for name in [k for k in st.session_state if str(k).startswith(_PREFIX)]:
        del st.session_state[name]


def keep(name: str, value: Any) -> None:
    """Remember something of this visitor: ids, counts, sentences; never a picture."""
    st.session_state[_PREFIX + name] = value


def recall(name: str, default: Any = None) -> Any:
    """What was remembered."""
    return st.session_state.get(_PREFIX + name, default)


def take(name: str, default: Any = None) -> Any:
    """What was remembered, once."""
    return st.session_state.pop(_PREFIX + name, default)


def say(sentence: str) -> None:
    """A sentence for the top of the next page."""
    keep("said", sentence)


def turn(name: str) -> int:
    """A number that goes into a widget's key; :func:`renew` empties the widget."""
    return int(recall(f"turn.{name}", 0))


def renew(name: str) -> None:
    """Give a widget a new key: its files and values are dropped on the server too."""
    keep(f"turn.{name}", turn(name) + 1)

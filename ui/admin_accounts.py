"""The Accounts tab: accounts, their roles and sessions, and requests for new ones."""

from __future__ import annotations

from functools import partial

import streamlit as st

from engine import ACCOUNT_ROLES, Account
from ui import proposals, state, widgets


def accounts(token: str) -> None:
    """All accounts, open requests, and forms to create and change accounts."""
    everybody = state.engine().people.accounts(token)
    _requests(token)
    _proposals(token)
    st.dataframe(
        {
            "User name": [a.username for a in everybody],
            "Name": [a.name for a in everybody],
            "Role": [str(a.role) for a in everybody],
            "Active": [a.enabled for a in everybody],
            "Second factor": [a.second_factor for a in everybody],
            **widgets.times("Created", [a.created_at for a in everybody]),
            "Last sign-in": [
                widgets.when(a.last_sign_in_at) if a.last_sign_in_at else "never" for a in everybody
            ],
        },
        hide_index=True,
    )
    left, right = st.columns(2)
    with left:
        _new(token)
    with right:
        _change(token, {a.username: a for a in everybody})


def _requests(token: str) -> None:
    waiting = state.engine().people.requests(token)
    if not waiting:
        return
    st.header("Account requests")
    st.caption("Approve only people you know. Ask them for their reference and compare it.")
    for request in waiting:
        key = request.request_id
        with st.container(border=True), widgets.banner(), proposals.shown():
            st.markdown(
                f"**{widgets.plain(request.name)}** ({widgets.plain(request.username)})"
                f" requests the role {request.role}  \nReference `{key}`,"
                f" {widgets.when(request.requested_at)}"
            )
            if request.taken:
                st.warning("This user name is taken. Decline the request and tell the person.")
            role = st.selectbox(
                "Role to assign",
                ACCOUNT_ROLES,
                index=None,  # the administrator decides, not the request
                placeholder="Choose",
                format_func=str,
                key=f"give-{key}",
            )
            with st.container(horizontal=True):
                ready = role is not None and not request.taken
                approve = widgets.button_for(
                    "Approve", request.username, f"approve-{key}", disabled=not ready
                )
                if approve and role:
                    state.engine().people.approve(token, key, role)
                    state.say("Account created. Its owner can sign in now.")
                    st.rerun()
                if widgets.button_for("Decline", request.username, f"decline-{key}"):
                    state.engine().people.decline(token, key)
                    state.say("Request declined.")
                    st.rerun()


#: What is proposed, in words.
_CHANGES = {
    "account.approve": "approve the requested account",
    "account.create": "create the account",
    "account.enable": "enable the account",
    "account.link-identity": "link an address for single sign-on to the account",
    "account.reset-password": "reset the password of the account",
    "account.reset-second-factor": "remove the second factor of the account",
    "account.set-role": "change the role of the account",
}


def _proposals(token: str) -> None:
    """Changes that a second administrator has to confirm."""
    waiting = state.engine().people.proposals(token)
    if not waiting:
        return
    st.header("Changes to confirm")
    st.caption("Ask the administrator who proposed a change before you confirm it.")
    people = state.engine().people
    for proposal in waiting:
        role = f" with the role {proposal.role}" if proposal.role else ""
        proposals.card(
            proposal,
            f"{_CHANGES[proposal.action]} **{widgets.plain(proposal.username)}**{role}",
            "Change confirmed. It takes effect immediately.",
            "Change dropped.",
            partial(people.confirm, token),
            partial(people.drop_proposal, token),
        )


def _new(token: str) -> None:
    with st.form(f"new-account-{state.turn('account')}"), widgets.banner(), proposals.shown():
        st.markdown("**New account**")
        username = st.text_input("User name", autocomplete="off")
        name = st.text_input("Name", autocomplete="off")
        role = st.selectbox("Role", ACCOUNT_ROLES, format_func=str)
        password = st.text_input(
            "Initial password",
            type="password",
            autocomplete="new-password",
            help=f"At least {state.engine().settings.password_min_length} characters.",
        )
        if st.form_submit_button("Create account", type="primary"):
            state.engine().people.create(token, username, name, role, password)
            state.renew("account")  # the form does not keep a password
            state.say("Account created.")
            st.rerun()


def _change(token: str, by_name: dict[str, Account]) -> None:
    with st.container(border=True), widgets.banner(), proposals.shown():
        st.markdown("**Change an account**")
        chosen = st.selectbox("Account", list(by_name))
        account = by_name[chosen]
        role = st.selectbox(
            "New role",
            ACCOUNT_ROLES,
            index=ACCOUNT_ROLES.index(account.role),
            format_func=str,
            key=f"role-{chosen}",
        )
        with st.container(horizontal=True):
            if st.button("Change role", disabled=role == account.role):
                state.engine().people.set_role(token, chosen, role)
                state.say("Role changed. It takes effect immediately.")
                st.rerun()
            if account.enabled:
                _disable(token, chosen)
            elif st.button("Enable account"):
                _set_enabled(token, chosen, True)
        password = st.text_input(
            "New password",
            type="password",
            autocomplete="new-password",
            key=f"reset-{chosen}-{state.turn('reset')}",
        )
        if st.button("Reset password"):
            state.engine().people.reset_password(token, chosen, password)
            state.renew("reset")
            state.say("Password reset. The account's sessions have ended.")
            st.rerun()
        if state.engine().settings.single_sign_on is not None:
            _identity(token, account)
        _sessions(token, account)


def _disable(token: str, username: str) -> None:
    """Ask before an account is closed: its sessions end and its work stops."""
    with st.popover("Disable account …"):
        st.write(f"{widgets.plain(username)} is signed out at once and cannot sign in again.")
        if st.button("Disable account", type="primary", key=f"disable-{username}"):
            _set_enabled(token, username, False)


def _set_enabled(token: str, username: str, enabled: bool) -> None:
    state.engine().people.set_enabled(token, username, enabled)
    state.say("Account changed. It takes effect immediately.")
    st.rerun()


def _identity(token: str, account: Account) -> None:
    email = st.text_input(
        "E-mail address for single sign-on",
        value=account.email,
        autocomplete="off",
        key=f"email-{account.username}",
    )
    if st.button("Link address", disabled=email.strip() == account.email):
        state.engine().people.link_identity(token, account.username, email.strip())
        state.say("Address linked. It takes effect at the next sign-in.")
        st.rerun()


def _sessions(token: str, account: Account) -> None:
    held = state.engine().people.sessions(token, account.username)
    if held:
        clients = ", ".join(sorted({f"{s.door} on {s.origin or 'this machine'}" for s in held}))
        st.caption(
            f"Signed in, {widgets.counted(len(held), 'session')}: {widgets.plain(clients)}; last"
            f" seen {widgets.when(held[0].seen_at)}."
        )
    else:
        st.caption("Not signed in.")
    with st.container(horizontal=True):
        if st.button("End all sessions of this account", disabled=not held):
            count = state.engine().people.end_sessions(token, account.username)
            state.say(f"{widgets.counted(count, 'session')} ended.")
            st.rerun()
        if st.button("Remove the second factor", disabled=not account.second_factor):
            state.engine().people.reset_second_factor(token, account.username)
            state.say("Second factor removed. The account's sessions have ended.")
            st.rerun()

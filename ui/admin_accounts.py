"""The administrator's tab of accounts: who may sign in as what, and who asked for it."""

from __future__ import annotations

import streamlit as st

from engine import ACCOUNT_ROLES, Account
from ui import state, widgets


def accounts(token: str) -> None:
    """Everybody, requests, and what can be changed."""
    everybody = state.engine().accounts(token)
    _requests(token)
    st.dataframe(
        {
            "User name": [a.username for a in everybody],
            "Name": [a.name for a in everybody],
            "Role": [str(a.role) for a in everybody],
            "Open": [a.enabled for a in everybody],
            "Second factor": [a.second_factor for a in everybody],
            "Created (UTC)": [a.created_at for a in everybody],
            "Last sign-in (UTC)": [a.last_sign_in_at for a in everybody],
        },
        hide_index=True,
    )
    left, right = st.columns(2)
    with left:
        _new(token)
    with right:
        _change(token, {a.username: a for a in everybody})


def _requests(token: str) -> None:
    waiting = state.engine().account_requests(token)
    if not waiting:
        return
    st.header("Asked for an account")
    st.caption("Approve only whom you know: compare the reference with the one they tell you.")
    for request in waiting:
        key = request.request_id
        with st.container(border=True), widgets.banner():
            st.markdown(
                f"**{widgets.plain(request.name)}** ({widgets.plain(request.username)})"
                f" requests the role {request.role}  \nReference `{key}`,"
                f" {widgets.when(request.requested_at)} UTC"
            )
            if request.taken:
                st.warning("There is an account of this user name: decline, and tell the person.")
            role = st.selectbox(
                "Role to give",
                ACCOUNT_ROLES,
                index=None,  # the wish is not the answer
                placeholder="Choose",
                format_func=str,
                key=f"give-{key}",
            )
            with st.container(horizontal=True):
                ready = role is not None and not request.taken
                if st.button("Approve", key=f"approve-{key}", disabled=not ready) and role:
                    state.engine().approve_account(token, key, role)
                    state.say("The account was made; its owner can sign in.")
                    st.rerun()
                if st.button("Decline", key=f"decline-{key}"):
                    state.engine().decline_account(token, key)
                    state.say("The request was dropped.")
                    st.rerun()


def _new(token: str) -> None:
    with st.form(f"new-account-{state.turn('account')}"), widgets.banner():
        st.markdown("**New account**")
        username = st.text_input("User name", autocomplete="off")
        name = st.text_input("Name", autocomplete="off")
        role = st.selectbox("Role", ACCOUNT_ROLES, format_func=str)
        password = st.text_input("First password", type="password", autocomplete="new-password")
        if st.form_submit_button("Create the account", type="primary"):
            state.engine().create_account(token, username, name, role, password)
            state.renew("account")  # a password does not stay in a form
            state.say("The account was created.")
            st.rerun()


def _change(token: str, by_name: dict[str, Account]) -> None:
    with st.container(border=True), widgets.banner():
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
            if st.button("Set the role", disabled=role == account.role):
                state.engine().set_account_role(token, chosen, role)
                state.say("The role was changed; it counts from the next click.")
                st.rerun()
            if st.button("Close the account" if account.enabled else "Open the account"):
                state.engine().set_account_enabled(token, chosen, not account.enabled)
                state.say("The account was changed; it counts at once.")
                st.rerun()
        password = st.text_input(
            "New password",
            type="password",
            autocomplete="new-password",
            key=f"reset-{chosen}-{state.turn('reset')}",
        )
        if st.button("Reset the password", disabled=not password):
            state.engine().reset_password(token, chosen, password)
            state.renew("reset")
            state.say("The password was reset and the account's sessions have ended.")
            st.rerun()
        if state.engine().settings.single_sign_on is not None:
            _identity(token, account)
        _sessions(token, account)


def _identity(token: str, account: Account) -> None:
    email = st.text_input(
        "E-mail address for single sign-on",
        value=account.email,
        autocomplete="off",
        key=f"email-{account.username}",
    )
    if st.button("Link the address", disabled=email.strip() == account.email):
        state.engine().link_identity(token, account.username, email.strip())
        state.say("The link was changed; it counts from the next sign-in.")
        st.rerun()


def _sessions(token: str, account: Account) -> None:
    held = state.engine().account_sessions(token, account.username)
    if held:
        doors = ", ".join(sorted(s.door for s in held))
        st.caption(f"Signed in: {doors}; last seen {widgets.when(held[0].seen_at)} UTC.")
    else:
        st.caption("Not signed in.")
    with st.container(horizontal=True):
        if st.button("End their sessions", disabled=not held):
            count = state.engine().end_account_sessions(token, account.username)
            state.say(f"Sessions ended: {count}.")
            st.rerun()
        if st.button("Take the second factor away", disabled=not account.second_factor):
            state.engine().reset_second_factor(token, account.username)
            state.say("The second factor is gone and the account's sessions have ended.")
            st.rerun()

"""First administrator, sign-in, and the home page of each role."""

from __future__ import annotations

import streamlit as st

from demo import PASSWORD
from engine import ACCOUNT_ROLES, Account, ImageState, Role, errors, version
from ui import (
    account_request,
    admin_release,
    care,
    oidc,
    queue,
    search,
    second_factor,
    state,
    step_up,
    widgets,
)


def demo_banner(accounts: bool = False) -> None:
    """Show that this is a demo and, on the sign-in page, how to sign in."""
    if not state.engine().settings.demo:
        return
    how = ""
    if accounts:
        names = ", ".join(f"<code>{role}</code>" for role in ACCOUNT_ROLES)
        how = f"<br>Sign in as {names}, each with the password <code>{PASSWORD}</code>."
    st.html(
        '<p class="demo-banner" role="note"><strong>Demo.</strong> All patients are'
        f" fictitious. Do not upload real images.{how}</p>"
    )


def sign_in() -> None:
    """The sign-in page, shown without a session for every URL."""
    if state.engine().people.setup_needed():
        first_administrator()
        return
    ticket = state.take("ticket")
    if ticket is not None:
        st.info("Signing in …")
        if widgets.trade_ticket(ticket):
            st.error(
                "Your browser did not store the session cookie. Allow cookies for this site and"
                " sign in again."
            )
        return
    if state.waits_for_code():
        second_factor.code_form()
        return
    if oidc.arrived():
        _arrived()
        return
    left, right = st.columns([2, 3], gap="large", vertical_alignment="center")

    # Not imported at the top: the package registers components on import, which requires a
    # running script.
    from ui.sign_in_form import SignInForm

    def check(username: str, password: str) -> None:
        with widgets.banner():
            state.sign_in(username, password)
            st.rerun()

    with left:
        st.title("MedSec")
        st.write(
            "Finds private regions of medical images, encrypts exactly these regions, and restores"
            " the original, pixel for pixel, for doctors with permission."
        )
        demo_banner(accounts=True)
        if state.engine().settings.demo:
            with st.container(horizontal=True):
                for role in ACCOUNT_ROLES:
                    if st.button(f"Enter as {role}", key=f"demo-{role}"):
                        check(str(role), PASSWORD)
        if state.token():
            st.info("Your session has ended. Sign in again to go on.", icon=":material/timer_off:")
        SignInForm(check).show()
        if oidc.offered():
            oidc.button()
        account_request.form()
        st.caption("Not for primary diagnosis. Every access is logged.")
    with right:
        widgets.story()


def _arrived() -> None:
    """Sign in with the identity provider's token; an error offers a way back to the form."""
    try:
        oidc.redeem()
        st.rerun()
    except errors.NotSignedIn as err:
        st.error(err.message, icon=":material/error:")
        if st.button("Back to the sign-in"):
            widgets.end_session()
            st.stop()


def first_administrator() -> None:
    """First start: create the first account with the code from the console."""
    st.title("Welcome to MedSec")
    st.write(
        "There is no account yet. Create the first administrator with the setup code that the"
        " server printed on its console."
    )
    with st.form("setup", width=440), widgets.banner():
        code = st.text_input("Setup code from the console", autocomplete="off")
        username = st.text_input("User name", autocomplete="username")
        name = st.text_input("Your name", autocomplete="name")
        password = st.text_input(
            "Password",
            type="password",
            autocomplete="new-password",
            help=f"At least {state.engine().settings.password_min_length} characters;"
            " four unrelated words work well.",
        )
        again = st.text_input("Repeat password", type="password", autocomplete="new-password")
        if st.form_submit_button("Create administrator", type="primary"):
            if password != again:
                st.error(
                    "The two passwords differ. Type the same password twice.",
                    icon=":material/error:",
                )
            else:
                state.engine().people.create_first_administrator(code, username, name, password)
                state.sign_in(username, password)
                st.rerun()


def home() -> None:
    """The tasks of the signed-in user."""
    who = state.account()
    if who is None:
        sign_in()
        return
    st.title(f"Good day, {who.name}")
    demo_banner()
    with widgets.banner():
        _TODAY[who.role](state.token())


def _technician(token: str) -> None:
    items = [item for group in state.engine().worklist.groups(token) for item in group.items]
    look = sum(item.record.state is ImageState.REVIEW for item in items)
    free = [item for item in items if not item.worked_on_by]
    widgets.figures([("To review", f"{look:,}"), ("Ready to seal", f"{len(items) - look:,}")])
    with st.container(horizontal=True):
        if st.button("Upload images", type="primary", icon=":material/upload:"):
            st.switch_page("pages/1_Upload.py")
        if free and st.button("Work through the queue"):
            queue.open_draft(min(free, key=queue.rank).record.image_id)
            st.switch_page("pages/1_Upload.py")
    st.write(
        "Upload files, check the detected boxes, correct them and seal the image. After sealing,"
        " the content of the boxes is visible only to users with permission to restore it. You"
        " cannot see it either."
    )


def _doctor(token: str) -> None:
    care.open_emergencies(token)
    _withdrawn(token)
    newest = state.engine().search.images(token, limit=4)
    widgets.figures([("Sealed images", f"{newest.total:,}{'+' * newest.more}")])
    if st.button("Find an image", type="primary", icon=":material/search:"):
        st.switch_page("pages/2_Review.py")
    if not newest.total:
        st.info("No sealed images yet. A technician must upload and seal one first.")
        return
    st.header("Recently sealed")
    called = search.names(token, [r.patient_id for r in newest.images])
    chosen = widgets.cards(newest.images, "home", called, newest.dates)
    if chosen:
        st.switch_page("pages/2_Review.py", query_params={"image": chosen})


def _withdrawn(token: str) -> None:
    """Flagged images, hidden from all users until a doctor sends them back."""
    waiting = state.engine().withdrawals.waiting(token)
    if not waiting:
        return
    st.header("Withdrawn images")
    st.write(
        "A user reported that these images show private content. Send them back to the technicians'"
        " review queue to have them corrected and sealed again."
    )
    names = search.names(token, [r.patient_id for r in waiting])
    for record in waiting:
        of = names.get(record.patient_id, "a patient")
        label = f"Send back: {of}, {widgets.when(record.uploaded_at)}"
        if st.button(label, key=f"reopen-{record.image_id}", icon=":material/undo:"):
            with widgets.banner(), step_up.step_up_prompt():
                state.engine().withdrawals.reopen(token, record.image_id)
                st.rerun()


def _researcher(token: str) -> None:
    totals = state.engine().statistics.tables(token).totals
    widgets.figures(
        [
            ("Sealed images", f"{totals['images']:.0f}"),
            ("Sealed regions", f"{totals['regions']:.0f}"),
        ]
    )
    if st.button("Open Analytics", type="primary", icon=":material/monitoring:"):
        st.switch_page("pages/3_Analytics.py")


def _administrator(token: str) -> None:
    health = state.engine().health.state(token)
    held, due = state.engine().care.emergency_access_due(token)
    waiting = sum(health["images"].get(s, 0) for s in (ImageState.DRAFT, ImageState.REVIEW))
    widgets.figures(
        [
            ("Accounts", str(health["accounts"])),
            ("Images waiting", str(waiting)),
            ("Images withdrawn", str(health["images"].get(ImageState.WITHDRAWN, 0))),
            ("Free disk", widgets.size(health["disk_free_bytes"])),
            ("Reviews due", str(due)),
        ]
    )
    if held or due:
        st.warning(
            f"Emergency access: {held} open now, {due} to review. See Admin, tab Access.",
            icon=":material/emergency_home:",
        )
    admin_release.saved(token)
    if st.button("Open Admin", type="primary", icon=":material/settings:"):
        st.switch_page("pages/4_Admin.py")


_TODAY = {
    Role.TECHNICIAN: _technician,
    Role.DOCTOR: _doctor,
    Role.RESEARCHER: _researcher,
    Role.ADMINISTRATOR: _administrator,
}


def sidebar(who: Account) -> None:
    """The signed-in user, and the sign-out button."""
    with st.sidebar:
        st.caption(f"{who.name}  \n{who.role}")
        if st.button("Sign out", icon=":material/logout:", width="stretch"):
            widgets.end_session()
            state.sign_out()
            st.stop()
        st.caption(f"MedSec {version()}")

"""The way in: first administrator, sign-in, and what there is to do now for each role."""

from __future__ import annotations

import streamlit as st

from demo import PASSWORD
from engine import ACCOUNT_ROLES, Account, ImageState, Role, errors
from ui import care, oidc, queue, search, second_factor, state, step_up, widgets


def demo_banner(accounts: bool = False) -> None:
    """Say plainly that this is a demo, and on the sign-in page how to get in."""
    if not state.engine().settings.demo:
        return
    how = ""
    if accounts:
        names = ", ".join(f"<code>{role}</code>" for role in ACCOUNT_ROLES)
        how = f"<br>Sign in as {names}, each with the password <code>{PASSWORD}</code>."
    st.html(
        '<p class="demo-banner" role="note"><strong>Demo.</strong> Every patient here is'
        f" invented. Do not put real images into it.{how}</p>"
    )


def sign_in() -> None:
    """What a visitor without a session sees, whatever address they asked for."""
    if state.engine().setup_needed():
        first_administrator()
        return
    ticket = state.take("ticket")
    if ticket is not None:
        st.info("Signing in …")
        if widgets.trade_ticket(ticket):
            st.error("The browser could not keep the session. Allow cookies for this address.")
        return
    if state.waits_for_code():
        second_factor.code_form()
        return
    if oidc.arrived():
        _arrived()
        return
    left, right = st.columns([2, 3], gap="large", vertical_alignment="center")

    # Not at the top: as it is imported, the package registers components, for which it wants
    # a visitor.
    from ui.sign_in_form import SignInForm

    def check(username: str, password: str) -> None:
        with widgets.banner():
            state.sign_in(username, password)
            st.rerun()

    with left:
        st.title("MedSec")
        st.write(
            "Finds what not everyone may see in a medical image, encrypts exactly that, and gives"
            " doctors with permission the original back, pixel for pixel."
        )
        demo_banner(accounts=True)
        SignInForm(check).show()
        if oidc.offered():
            oidc.button()
        second_factor.request_form()
        st.caption("Not for primary diagnosis. Every access is recorded.")
    with right:
        widgets.story()


def _arrived() -> None:
    """From the identity provider; a refusal is said once, and the browser can begin again."""
    try:
        oidc.redeem()
        st.rerun()
    except errors.NotSignedIn as err:
        st.error(err.message, icon=":material/error:")
        if st.button("Back to the sign-in"):
            widgets.end_session()
            st.stop()


def first_administrator() -> None:
    """First start: the code from the console makes the first account."""
    st.title("Welcome to MedSec")
    st.write(
        "There is no account yet. Make the first administrator with the code that the server"
        " has printed on its console."
    )
    with st.form("setup", width=440), widgets.banner():
        code = st.text_input("Code from the console", autocomplete="off")
        username = st.text_input("User name", autocomplete="username")
        name = st.text_input("Your name", autocomplete="name")
        password = st.text_input(
            "Password",
            type="password",
            autocomplete="new-password",
            help=f"At least {state.engine().settings.password_min_length} characters;"
            " four unrelated words are fine.",
        )
        again = st.text_input("Password again", type="password", autocomplete="new-password")
        if st.form_submit_button("Create the administrator", type="primary"):
            if password != again:
                st.error("The two passwords differ.", icon=":material/error:")
            else:
                state.engine().create_first_administrator(code, username, name, password)
                state.sign_in(username, password)
                st.rerun()


def home() -> None:
    """What this person has to do now."""
    who = state.account()
    if who is None:
        sign_in()
        return
    st.title(f"Good day, {who.name}")
    demo_banner()
    with widgets.banner():
        _TODAY[who.role](state.token())


def _technician(token: str) -> None:
    drafts = state.engine().drafts(token)
    look = [d for d in drafts if d.state is ImageState.REVIEW]
    widgets.figures(
        [("To look at", str(len(look))), ("Ready to seal", str(len(drafts) - len(look)))]
    )
    with st.container(horizontal=True):
        if st.button("Upload images", type="primary", icon=":material/upload:"):
            st.switch_page("pages/1_Upload.py")
        if drafts and st.button("Work through the queue"):
            queue.open_draft((look or drafts)[0].image_id)
            st.switch_page("pages/1_Upload.py")
    st.write(
        "Drop files, look at what was found, correct it, seal it. From sealing on, nobody sees"
        " what is under a box without the permission to restore it, and nor do you."
    )


def _doctor(token: str) -> None:
    care.broken(token)
    _withdrawn(token)
    newest = state.engine().find_images(token, limit=4)
    widgets.figures([("Sealed images open to you", f"{newest.total:,}")])
    if st.button("Find an image", type="primary", icon=":material/search:"):
        st.switch_page("pages/2_Review.py")
    if not newest.total:
        st.info("No sealed image yet: a technician has to upload and seal one.")
        return
    st.header("Sealed last")
    called = search.names(token, [r.patient_id for r in newest.images])
    chosen = widgets.cards(newest.images, "home", called)
    if chosen:
        st.switch_page("pages/2_Review.py", query_params={"image": chosen})


def _withdrawn(token: str) -> None:
    """Images that somebody flagged: nobody sees them until a doctor sends them back."""
    waiting = state.engine().withdrawn(token)
    if not waiting:
        return
    st.header("Withdrawn, waiting for you")
    st.write(
        "Somebody saw something that should be hidden. Sent back, the image is restored for the"
        " technicians' review queue, to be boxed and sealed anew."
    )
    names = search.names(token, [r.patient_id for r in waiting])
    for record in waiting:
        of = names.get(record.patient_id, "a patient")
        label = f"Send back: {of}, {widgets.when(record.uploaded_at)}"
        if st.button(label, key=f"reopen-{record.image_id}", icon=":material/undo:"):
            with widgets.banner(), step_up.asked_again():
                state.engine().reopen(token, record.image_id)
                st.rerun()


def _researcher(token: str) -> None:
    totals = state.engine().statistics(token).totals
    widgets.figures(
        [
            ("Sealed images", f"{totals['images']:.0f}"),
            ("Sealed regions", f"{totals['regions']:.0f}"),
        ]
    )
    if st.button("Open the analytics", type="primary", icon=":material/monitoring:"):
        st.switch_page("pages/3_Analytics.py")


def _administrator(token: str) -> None:
    health = state.engine().health(token)
    held, due = state.engine().glass_due(token)
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
            f"Emergency access: {held} open now, {due} to review, on the tab Access.",
            icon=":material/emergency_home:",
        )
    if st.button("Open the administration", type="primary", icon=":material/settings:"):
        st.switch_page("pages/4_Admin.py")


_TODAY = {
    Role.TECHNICIAN: _technician,
    Role.DOCTOR: _doctor,
    Role.RESEARCHER: _researcher,
    Role.ADMINISTRATOR: _administrator,
}


def sidebar(who: Account) -> None:
    """Who is signed in, and the way out."""
    with st.sidebar:
        st.caption(f"{who.name}  \n{who.role}")
        if st.button("Sign out", icon=":material/logout:", width="stretch"):
            widgets.end_session()
            state.sign_out()
            st.stop()

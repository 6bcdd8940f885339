"""One process: the pages, the HTTP door, and the one engine that both use.

The server imports this file and finds ``app``; every visitor's run executes it as a script.
"""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st
from anyio import to_thread
from starlette.middleware import Middleware
from starlette.routing import Mount
from streamlit import config
from streamlit.runtime.pages_manager import PagesManager

import api
from api import observing
from engine import Engine, Permission, Settings, begin_request, come_from, log_as_json
from ui import account, gate, guide, jobs, panes, single, state, theme, welcome

PAGES = (
    ("pages/1_Upload.py", "Upload", ":material/upload:", Permission.UPLOAD),
    ("pages/2_Review.py", "Review", ":material/search:", Permission.VIEW_MASKED),
    ("pages/3_Analytics.py", "Analytics", ":material/monitoring:", Permission.STATISTICS),
    ("pages/4_Admin.py", "Admin", ":material/settings:", Permission.MANAGE_ACCOUNTS),
)
ACCOUNT = "account"


@asynccontextmanager
async def lifespan(_app: st.App) -> AsyncIterator[None]:
    """Open the engine before the first visitor and close it after the last."""
    settings = Settings.load(os.environ)
    # A picture limit above Streamlit's own would end in a broken upload instead of a sentence.
    largest = max(settings.dicom_limit_mb, settings.picture_limit_mb) + 1
    config.set_option("server.maxUploadSize", largest)
    engine = await to_thread.run_sync(Engine.open, settings)
    api.door.state.engine = engine
    engine.start_upkeep()
    try:
        if engine.setup_needed():
            print(f"\n  Code for the first administrator: {engine.setup_code()}\n")  # noqa: T201
        jobs.begin(engine.warm)  # the numbers of many images take seconds to open
        async with api.door.router.lifespan_context(api.door):
            yield
    finally:
        await to_thread.run_sync(jobs.stop)
        await to_thread.run_sync(engine.close)


if __name__ != "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold plaintext
    gate.keep_bodies_in_memory()
    log_as_json()
    single.configure(Settings.load(os.environ))
    # Otherwise the first visitor of a fresh process runs any page without this file.
    PagesManager.uses_pages_directory = False
    app = st.App(
        __file__,
        routes=[Mount("/api", api.door)],
        middleware=[
            Middleware(observing.Observed, words=observing.words(api.door.openapi()["paths"])),
            Middleware(gate.Gate, engine=state.engine),
        ],
        lifespan=lifespan,
        on_script_error=panes.failed,
        exception_handlers={Exception: api.unexpected},
    )


def main() -> None:
    """One run for one visitor."""
    begin_request()
    come_from(state.origin())
    st.set_page_config(page_title="MedSec", page_icon=theme.MARK.strip(), layout="wide")
    theme.apply()
    who = state.account()
    if who is None:
        # Every known address leads to the sign-in, so that a link survives it.
        paths = [title for _, title, _, _ in PAGES] + [ACCOUNT]
        pages = [st.Page(welcome.sign_in, title="MedSec", default=True)]
        pages += [st.Page(welcome.sign_in, title="MedSec", url_path=path) for path in paths]
        st.navigation(pages, position="hidden").run()
        return
    pages = [st.Page(welcome.home, title="Home", icon=":material/home:", default=True)]
    pages += [
        st.Page(path, title=title, icon=icon)
        for path, title, icon, permission in PAGES
        if state.engine().may(state.token(), permission)
    ]
    if state.factor_due():
        pages = []  # nothing but the way to the second factor that the role wants
    pages.append(
        st.Page(
            account.page,
            title="My account",
            icon=":material/account_circle:",
            url_path=ACCOUNT,
            default=not pages,
        )
    )
    page = st.navigation(pages)
    welcome.sidebar(who)
    guide.show(who.role)
    with panes.banner():
        page.run()


if __name__ == "__main__":
    main()

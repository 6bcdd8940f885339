"""The server process: pages, REST API, and the engine that both share.

The server imports this file and uses ``app``; each run of a page executes it as a script.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st
from anyio import to_thread
from starlette.middleware import Middleware
from starlette.routing import Mount
from streamlit import config
from streamlit.runtime.pages_manager import PagesManager

import api
import dimse
from api import telemetry
from engine import (
    Engine,
    Permission,
    Settings,
    begin_request,
    come_from,
    errors,
    log_as_json,
    name_server,
)
from ui import (
    account,
    asgi_guard,
    background_jobs,
    connections,
    demo_guide,
    intake,
    oidc,
    queue,
    shutdown,
    state,
    theme,
    welcome,
    widgets,
)

PAGES = (
    ("pages/1_Upload.py", "Upload", ":material/upload:", Permission.UPLOAD),
    ("pages/2_Review.py", "Review", ":material/search:", Permission.VIEW_MASKED),
    ("pages/3_Analytics.py", "Analytics", ":material/monitoring:", Permission.STATISTICS),
    ("pages/4_Admin.py", "Admin", ":material/settings:", Permission.MANAGE_ACCOUNTS),
)
ACCOUNT = "account"


@asynccontextmanager
async def lifespan(_app: st.App) -> AsyncIterator[None]:
    """Open the engine before the first request and close it after the last."""
    settings = Settings.load(os.environ)
    # If Streamlit's limit were lower than MedSec's, an upload would break without a message.
    largest = max(settings.dicom_limit_mb, settings.picture_limit_mb) + 1
    config.set_option("server.maxUploadSize", largest)
    try:
        engine = await to_thread.run_sync(Engine.open, settings)
    except errors.EngineError as err:
        shutdown.refuse(err)
    api.app.state.engine = engine
    name_server(engine.server_id)
    # One that was taken for dead ends. Its process manager starts it again, as another server.
    engine.upkeep.start(lambda: os.kill(os.getpid(), signal.SIGTERM))
    engine.reception.start()
    receiver, courier = dimse.Receiver(engine), dimse.Courier(engine)
    engine.sendings.start(courier.deliver)
    shutdown.heed_signals()
    try:
        if engine.people.setup_needed():
            print(f"\n  Code for the first administrator: {engine.people.setup_code()}\n")  # noqa: T201
        receiver.start()
        background_jobs.begin(
            engine.statistics.warm
        )  # decrypting the metrics of many images takes seconds
        async with api.app.router.lifespan_context(api.app):
            # Streamlit looks for garbage among all objects after each run of a page, and nobody's
            # request goes on meanwhile. What the start has made stays, and need not be looked at.
            gc.collect()
            gc.freeze()
            gc.enable()  # serve.py switched it off for the start
            yield
    finally:
        gc.unfreeze()
        await to_thread.run_sync(courier.stop)
        await to_thread.run_sync(receiver.stop)
        await to_thread.run_sync(background_jobs.stop)
        await to_thread.run_sync(engine.close)


if __name__ != "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain plaintext
    settings = Settings.load(os.environ)
    connections.allow_many()
    connections.install(connections.Watch(settings.request_patience_seconds))
    asgi_guard.keep_bodies_in_memory()
    log_as_json()
    # Otherwise Streamlit writes a hundred lines for each error of a page, with its text, where the
    # package rich is installed; a stranger's widget of the wrong type is one.
    config.set_option("logger.enableRich", False)
    oidc.configure(settings)
    # Otherwise the first request of a new process could run any page without this file.
    PagesManager.uses_pages_directory = False
    names = telemetry.words(api.paths())
    app = st.App(
        __file__,
        routes=[Mount("/api", api.app)],
        middleware=[
            Middleware(telemetry.RequestTelemetry, words=names),
            Middleware(asgi_guard.AsgiGuard, engine=state.engine),
        ],
        lifespan=lifespan,
        on_script_error=widgets.failed,
        exception_handlers={Exception: api.unexpected},
    )


def main() -> None:
    """One run of a page for one user."""
    begin_request()
    come_from(state.origin())
    st.set_page_config(page_title="MedSec", page_icon=theme.MARK.strip(), layout="wide")
    theme.apply()
    who = state.account()
    if who is None:
        theme.hide_sidebar()
        if state.token():
            widgets.look_for_cookie()
        # Every known URL shows the sign-in, so that a link still works after it.
        paths = [title for _, title, _, _ in PAGES] + [ACCOUNT]
        pages = [st.Page(welcome.sign_in, title="MedSec", default=True)]
        pages += [st.Page(welcome.sign_in, title="MedSec", url_path=path) for path in paths]
        st.navigation(pages, position="hidden").run()
        return
    pages = [st.Page(welcome.home, title="Home", icon=":material/home:", default=True)]
    pages += [
        st.Page(path, title=title, icon=icon)
        for path, title, icon, permission in PAGES
        if state.engine().sessions.may(state.token(), permission)
    ]
    if state.factor_due():
        pages = []  # only the account page, until the required second factor is set up
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
    if renewal := state.recall("renewal"):
        widgets.renew_cookie(renewal)
    welcome.sidebar(who)
    if state.engine().sessions.may(state.token(), Permission.UPLOAD):
        listed = page.title == "Upload" and not queue.opened() and not state.recall("sheet")
        intake.line(refresh=listed)
    demo_guide.show(who.role)
    with widgets.banner():
        page.run()


if __name__ == "__main__":
    main()

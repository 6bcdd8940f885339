"""Fixtures for pages."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import local_script_runner
from streamlit.testing.v1.local_script_runner import LocalScriptRunner

from tests import browsing


@pytest.fixture(scope="module", autouse=True)
def browser_ends() -> Iterator[None]:
    """What visitors of a module share is gone before the next, which may run an event loop."""
    yield
    browsing.stop()


@pytest.fixture(scope="session", autouse=True)
def packages_are_searched_once() -> Iterator[None]:
    """Streamlit's tester reads what all installed packages say of themselves at each run of a page,
    in search of components; a server does it once, at its start."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(manifest_scanner.scan_component_manifests)
        patch.setattr(manifest_scanner, "scan_component_manifests", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def runs_are_waited_for() -> Iterator[None]:
    """Streamlit's tester asks a thousand times a second whether a run is over, looking through all
    that was said so far; its thread ends with the run."""
    asked = local_script_runner.require_widgets_deltas

    def ended(runner: LocalScriptRunner, timeout: float = 3) -> None:
        assert runner._script_thread is not None
        runner._script_thread.join(timeout)
        asked(runner, 0 if runner._script_thread.is_alive() else timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_script_runner, "require_widgets_deltas", ended)
        yield

"""Memory for files that come in through the uploader of a page, which Streamlit keeps in memory.

A file waits before its body is read until there is room for it: what lies in Streamlit's memory,
what comes in now, and what waits in the background to be taken in count together. One account has
at most half of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from streamlit import runtime
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

from engine import errors
from ui import background_jobs

_PATIENCE_SECONDS: Final = 600.0
_LOOK_SECONDS: Final = 0.25
#: So many pages are known by their accounts; Streamlit has forgotten the files of older ones.
_SESSIONS: Final = 4096


class UploadRoom:
    """Of one server; used by its event loop only."""

    def __init__(self) -> None:
        self._coming = Counter[str]()
        #: Whose a page's session is, once it has sent something.
        self._accounts: dict[str, str] = {}

    @asynccontextmanager
    async def take(
        self, account: str, session: str, size: int, most_bytes: int
    ) -> AsyncIterator[None]:
        """Wait for room for a file and keep it until the block ends, when Streamlit has it.

        Args:
            session: Streamlit's name of the page.
            size: Of its body in bytes.
            most_bytes: For all accounts.

        Raises:
            StorageBusy: There was none for ten minutes.
        """
        self._accounts[session] = account
        while len(self._accounts) > _SESSIONS:
            del self._accounts[next(iter(self._accounts))]
        clock = asyncio.get_running_loop().time
        until = clock() + _PATIENCE_SECONDS
        while not self._fits(account, size, most_bytes):
            if clock() > until:
                raise errors.StorageBusy("The server is receiving other files. Send this again.")
            await asyncio.sleep(_LOOK_SECONDS)
        self._coming[account] += size
        try:
            yield
        finally:
            self._coming[account] -= size

    def _fits(self, account: str, size: int, most_bytes: int) -> bool:
        held = self._coming + self._kept() + background_jobs.held_bytes()
        own = held[account]
        return (not own or own + size <= most_bytes // 2) and (
            not held or held.total() + size <= most_bytes
        )

    def _kept(self) -> Counter[str]:
        """Bytes that Streamlit keeps, by account."""
        files = _files()
        kept = Counter[str]()
        if files is None:
            return kept
        for session, own in list(files.file_storage.items()):
            account = self._accounts.get(session, "")
            kept[account] += sum(len(file.data) for file in list(own.values()))
        return kept


def forget(file_id: str) -> None:
    """Let Streamlit forget a file of this page, whose bytes a job has now."""
    files, context = _files(), get_script_run_ctx()
    if files is not None and context is not None:
        files.remove_file(context.session_id, file_id)


def _files() -> MemoryUploadedFileManager | None:
    """Streamlit's files; None outside of its server."""
    if not runtime.exists():
        return None
    files: Any = runtime.get_instance().uploaded_file_mgr
    return files if isinstance(files, MemoryUploadedFileManager) else None

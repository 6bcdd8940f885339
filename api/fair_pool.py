"""Threads for what people started and do not wait for: turns are fair among accounts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from engine import Shares, giving_way

T = TypeVar("T")

#: Jobs at a time for all users together: the networks use all processors anyway.
_AT_ONCE: Final = 2


class FairPool:
    """Runs jobs in threads, a few at a time, in turns that are fair among accounts."""

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._at_once = at_once
        self._threads = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="job")
        self._guard = threading.Lock()
        self._shares = Shares()
        self._waiting: list[tuple[str, Future[None], Callable[[], None]]] = []
        self._stopped = False
        self._held = Counter[str]()

    def held_bytes(self) -> Counter[str]:
        """Bytes of files that jobs hold, by account."""
        with self._guard:
            return Counter(self._held)

    def submit(self, account: str, work: Callable[[], T], held_bytes: int = 0) -> Future[T]:
        """Run work when it is this account's turn.

        Args:
            held_bytes: Of the file that it holds until it has ended.

        Returns:
            Its result; it can be cancelled until it begins.
        """
        result: Future[T] = Future()

        def give_back(_: Future[T]) -> None:
            with self._guard:
                self._held[account] -= held_bytes

        def run() -> None:
            try:
                with giving_way():
                    result.set_result(work())
            except BaseException as err:  # noqa: BLE001 - whoever asks for the result gets it
                result.set_exception(err)

        with self._guard:
            if self._stopped:
                result.cancel()
                return result
            self._waiting.append((account, result, run))  # type: ignore[arg-type]
            self._held[account] += held_bytes
        result.add_done_callback(give_back)
        self._call()
        return result

    def _call(self) -> None:
        """Let those begin whose turn it is."""
        with self._guard:
            while self._shares.at_work < self._at_once:
                first = self._shares.first(self._waiting, lambda one: one[0])
                if first is None:
                    return
                self._waiting.remove(first)
                account, result, run = first
                if result.set_running_or_notify_cancel():
                    self._shares.begin(account)
                    self._threads.submit(self._run, account, run)

    def _run(self, account: str, run: Callable[[], None]) -> None:
        try:
            run()
        finally:
            with self._guard:
                self._shares.end(account)
            self._call()

    def stop(self) -> None:
        """Complete running jobs and drop waiting ones."""
        with self._guard:
            self._stopped = True
            waiting, self._waiting = self._waiting, []
        for _, result, _ in waiting:
            result.cancel()
        self._threads.shutdown(wait=True)


#: Of this process.
jobs = FairPool()

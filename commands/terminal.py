"""What a command writes: results, errors, and how far it is.

Progress is one line on the standard error, redrawn while a command works and erased when it
ends. It is shown on a terminal only, so that pipes, log files and mails of cron hold nothing
but results and errors. It names no file and no patient.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

#: A command that ends sooner shows no progress.
FIRST_SECONDS = 1.0
REDRAW_SECONDS = 0.5
USUAL_WIDTH = 80
ERASE = "\r\033[K"


class Work:
    """How far one stage of a command is.

    Args:
        stage: What it does, such as ``detecting``.
        total: How many there are to do; None where nobody knows.
        unit: Of what, in the plural.
        now_s: Monotonic seconds at its beginning, as in all calls.
    """

    def __init__(self, stage: str, total: int | None, unit: str, now_s: float) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._began = self._last = now_s
        self._done = self._worked = 0

    def advance(self, count: int = 1, *, worked: bool = True) -> None:
        """So many more are done.

        Args:
            worked: False for what took no time, so that it does not count into the rate.
        """
        self._done += count
        self._worked += count if worked else 0
        self._last = time.monotonic()

    def reached(self, done: int, total: int) -> None:
        """So many of so many are done, where what does the work counts both."""
        self._total = total
        self.advance(done - self._done)

    def line(self, now_s: float) -> str:
        """Stage, count, remaining time and rate, as far as they are known.

        The rate is the mean since the stage began. Remaining time stands before it, because a
        narrow terminal cuts the end.
        """
        so_far = f"{timedelta(seconds=int(now_s - self._began))} so far"
        if self._total is None or self._total == 1:
            if self._done < 2:
                return f"{self._stage}, {so_far}"
            counted = f"{self._stage}: {self._done} {self._unit}"
        else:
            counted = f"{self._stage}: {self._done} of {self._total} {self._unit}"
        spent = self._last - self._began
        if not self._worked or spent <= 0:
            return f"{counted}, {so_far}"
        each = spent / self._worked
        rate = f"{1 / each:.1f} {self._unit}/s" if each <= 1 else f"{each:.1f} s/{self._unit[:-1]}"
        if self._total is None:
            return f"{counted}, {rate}, {so_far}"
        left = self._total - self._done
        if left <= 0:  # worker processes take seconds to end
            return f"{counted}, {rate}, finishing"
        # The next one may take longer than the mean; those after it still need their time.
        seconds = max(left * each - (now_s - self._last), (left - 1) * each, 0)
        return f"{counted}, about {timedelta(seconds=round(seconds))} left, {rate}"


class Terminal:
    """Where a command writes.

    Args:
        quiet: Show no progress.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._out, self._err = sys.stdout, sys.stderr
        # A terminal that calls itself dumb cannot erase a line.
        self._shows = not quiet and self._err.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._drawn = False

    def tell(self, text: str) -> None:
        """A result, on the standard output."""
        with self._lock:
            self._erase()
            print(text, file=self._out, flush=True)

    def warn(self, text: str) -> None:
        """An error, on the standard error."""
        with self._lock:
            self._erase()
            print(text, file=self._err, flush=True)

    def log_handler(self) -> logging.Handler:
        """Writes log lines as :meth:`warn` does, so that they do not run into the progress."""
        return _LogHandler(self)

    @contextlib.contextmanager
    def working(self, stage: str, total: int | None = None, unit: str = "files") -> Iterator[Work]:
        """Show progress while the block runs, one stage at a time."""
        work = Work(stage, total, unit, time.monotonic())
        if not self._shows:
            yield work
            return
        ended = threading.Event()
        # The engine blocks for long in one call, so another thread draws.
        thread = threading.Thread(target=self._redraw, args=(work, ended), daemon=True)
        thread.start()
        try:
            yield work
        finally:
            ended.set()
            thread.join()
            with self._lock:
                self._erase()

    def _redraw(self, work: Work, ended: threading.Event) -> None:
        wait = max(self._began + FIRST_SECONDS - time.monotonic(), 0.1)
        while not ended.wait(wait):
            wait = REDRAW_SECONDS
            with self._lock:
                self._write(ERASE + work.line(time.monotonic())[: self._width() - 1])
                self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._write(ERASE)
            self._drawn = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the window was closed: work goes on
            self._err.write(text)
            self._err.flush()

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._err.fileno()).columns or USUAL_WIDTH
        except (OSError, ValueError):
            return USUAL_WIDTH


class _LogHandler(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._terminal.warn(self.format(record))
        except (OSError, ValueError):
            self.handleError(record)

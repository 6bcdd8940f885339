"""Progress is on a terminal, in time, and nowhere else."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

import cli
from commands import terminal
from commands.terminal import Terminal, Work
from engine import Finder
from tests import builders
from tests.commands.calls import labelled, where

ROOT = Path(cli.__file__).parent


class Screen:
    """A pseudo-terminal, and what was written to it."""

    def __init__(self) -> None:
        self._main, side = pty.openpty()
        self.resize(100)
        self.stream: TextIO = os.fdopen(side, "w")
        self.pieces: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def replace_stderr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Within a test only: pytest sets the stream anew after its fixtures."""
        monkeypatch.setattr(sys, "stderr", self.stream)

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._main, 4096)
            except OSError:  # the other end was closed
                return
            self.pieces.append((time.monotonic(), piece.decode()))

    def close(self) -> str:
        """All that was written."""
        if not self.stream.closed:
            self.stream.close()
        self._reader.join(timeout=30)
        os.close(self._main)
        return "".join(text for _, text in self.pieces)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    yield screen
    if not screen.stream.closed:
        screen.close()


def lines(written: str) -> list[str]:
    """The progress lines, in order."""
    return [
        line for line in re.split(r"\r?\x1b\[K|\r\n", written.replace("\r\x1b", "\x1b")) if line
    ]


def remains(written: str) -> str:
    """What a person sees at the end, with every erased line gone."""
    return re.sub(r"[^\n]*\r\x1b\[K", "", written)


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(Finder, "find", lambda *_, **__: time.sleep(seconds) or [])


def call(place: Path, files: int, *options: str) -> list[str]:
    paths = [place / "in" / f"nowak{n}.png" for n in range(files)]
    for path in paths:
        path.write_bytes(b"as if it were a picture")
    return ["detect", *map(str, paths), "--json", str(place / "out.json"), *options]


def test_a_long_command_shows_rate_and_remaining_time_on_a_terminal(
    place: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow(monkeypatch, 0.7)
    screen.replace_stderr(monkeypatch)
    began = time.monotonic()
    assert cli.main(call(place, 4)) == 0
    took = time.monotonic() - began
    written = screen.close()
    assert screen.pieces[0][0] - began < took / 2  # not at the end
    shown = [line for line in lines(written) if line.startswith("detecting: 2 of 4 files")]
    assert shown
    found = re.fullmatch(
        r"detecting: 2 of 4 files, about 0:00:0(\d) left, ([\d.]+) (files/s|s/file)", shown[0]
    )
    assert found is not None, shown
    rate = float(found[2]) if found[3] == "files/s" else 1 / float(found[2])
    assert 2 / took - 0.1 < rate < 1 / 0.7 + 0.1  # of the first two, each of which waits 0.7 s
    assert int(found[1]) <= took
    assert remains(written) == ""  # the last line is erased
    assert "nowak" not in written
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("quiet", ["pipe", "--quiet", "TERM"])
def test_nothing_is_shown_elsewhere(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], quiet: str
) -> None:
    slow(monkeypatch, 0.6)
    options = ["--quiet"] if quiet == "--quiet" else []
    screen = Screen()
    if quiet != "pipe":
        screen.replace_stderr(monkeypatch)
        monkeypatch.setenv("TERM", "dumb" if quiet == "TERM" else "xterm")
    assert cli.main(call(place, 3, *options)) == 0
    assert screen.close() == ""
    assert capfd.readouterr() == ("", "")


def test_results_and_errors_stand_on_lines_of_their_own(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen.replace_stderr(monkeypatch)
    monkeypatch.setattr(sys, "stdout", screen.stream)
    monkeypatch.setattr(terminal, "REDRAW_SECONDS", 0.05)
    shown = Terminal()
    log = logging.getLogger("of this test")
    log.propagate = False
    log.addHandler(shown.log_handler())
    with shown.working("working", 3) as work:
        for say in (shown.tell, shown.warn, log.error):
            time.sleep(0.5)
            say("a result")
            work.advance()
    assert remains(screen.close().replace("\r\n", "\n")) == "a result\n" * 3


def test_a_line_fits_into_the_terminal(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    screen.replace_stderr(monkeypatch)
    screen.resize(20)
    with Terminal().working("a stage with a long name that does not fit", 10):
        time.sleep(1.5)
    written = lines(screen.close())
    assert written
    assert {len(line) for line in written} == {19}


@pytest.mark.parametrize(("total", "done", "now_s", "line"), [
    (None, 0, 5, "s, 0:00:05 so far"),
    (1, 0, 5, "s, 0:00:05 so far"),
    (40, 0, 5, "s: 0 of 40 files, 0:00:05 so far"),
    (40, 10, 20, "s: 10 of 40 files, about 0:01:00 left, 2.0 s/file"),
    (40, 10, 21, "s: 10 of 40 files, about 0:00:59 left, 2.0 s/file"),
    (40, 10, 90, "s: 10 of 40 files, about 0:00:58 left, 2.0 s/file"),  # a slow one
    (100, 80, 20, "s: 80 of 100 files, about 0:00:05 left, 4.0 files/s"),
    (40, 40, 20, "s: 40 of 40 files, 2.0 files/s, finishing"),
    (None, 80, 20, "s: 80 files, 4.0 files/s, 0:00:20 so far"),
])  # fmt: skip
def test_a_line_says_what_is_known(
    monkeypatch: pytest.MonkeyPatch, total: int | None, done: int, now_s: float, line: str
) -> None:
    work = Work("s", total, "files", 0)
    if done:
        monkeypatch.setattr(time, "monotonic", lambda: 20.0)
        work.advance(done)
    assert work.line(now_s) == line


def test_what_took_no_time_does_not_count_into_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work("s", 100, "files", 0)
    monkeypatch.setattr(time, "monotonic", lambda: 20.0)
    work.advance(80, worked=False)
    assert work.line(20) == "s: 80 of 100 files, 0:00:20 so far"
    work.advance(10)
    assert work.line(20) == "s: 90 of 100 files, about 0:00:20 left, 2.0 s/file"


def test_a_whole_program_shows_progress_on_a_terminal_and_none_in_a_pipe(place: Path) -> None:
    """On real networks; each call in a process of its own."""
    (place / "in" / "a.png").write_bytes(builders.png(labelled("NOWAK JAN")))
    (place / "in" / "b.png").write_bytes(builders.png(labelled("LARSEN ODIN")))
    command = [
        sys.executable, str(ROOT / "cli.py"), "seal", str(place / "in"), "--out",
        str(place / "out"), "--seal-proposals", *where(place),
    ]  # fmt: skip
    environment = {**os.environ, "TERM": "xterm"}
    screen = Screen()
    done = subprocess.run(command, stderr=screen.stream, stdout=subprocess.PIPE, env=environment)
    written = screen.close()
    assert done.returncode == 0, written
    assert any(line.startswith("sealing: 0 of 2 files") for line in lines(written))
    assert remains(written) == ""
    assert done.stdout.decode().count("sealed") == 2
    again = subprocess.run(command, capture_output=True, env=environment)
    assert again.returncode == 0
    assert again.stderr == b""
    assert again.stdout.decode().splitlines() == ["a.png: sealed before", "b.png: sealed before"]

from __future__ import annotations

import threading
import time

import pytest

from engine.errors import StorageBusy
from engine.store.turns import Turns


def ask(turns: Turns, name: str, order: list[str]) -> threading.Thread:
    """A thread that waits for its turn, and is in the queue by now."""

    def write() -> None:
        with turns.take(60):
            order.append(name)

    thread = threading.Thread(target=write)
    before = len(turns._waiting)
    thread.start()
    while len(turns._waiting) == before:
        time.sleep(0.001)
    return thread


def test_who_asked_first_writes_first_and_nobody_overtakes_who_waits() -> None:
    turns, order = Turns(), list[str]()
    with turns.take(1):
        threads = [ask(turns, name, order) for name in "abc"]
    with turns.take(60):  # at once, as a thread that writes in a row does
        order.append("again")
    for thread in threads:
        thread.join()
    assert order == ["a", "b", "c", "again"]


def test_who_gave_up_is_not_waited_for() -> None:
    turns, order = Turns(), list[str]()
    with turns.take(1):
        with pytest.raises(StorageBusy), turns.take(0.01):
            raise AssertionError("two turns at once")
        waiting = ask(turns, "next", order)
    waiting.join()
    with turns.take(1):
        assert order == ["next"]


def test_a_turn_ends_with_an_error_too() -> None:
    turns = Turns()
    with pytest.raises(KeyboardInterrupt), turns.take(1):
        raise KeyboardInterrupt
    with turns.take(0):
        pass

from __future__ import annotations

import threading
import time

import pytest

from engine.errors import StorageBusy
from engine.store.turns import PASSED_AT_MOST, Turns


def ask(turns: Turns, name: str, order: list[str], gives_way: bool = False) -> threading.Thread:
    """A thread that waits for its turn, and is in the queue by now."""

    def write() -> None:
        with turns.take(60, gives_way):
            order.append(name)

    thread = threading.Thread(target=write)
    queue = turns._behind if gives_way else turns._waiting
    before = len(queue)
    thread.start()
    while len(queue) == before:
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


def test_what_gives_way_waits_behind_the_others_but_not_for_ever() -> None:
    turns, order = Turns(), list[str]()
    with turns.take(1):
        threads = [ask(turns, name, order, gives_way=True) for name in ("file 1", "file 2")]
        threads += [ask(turns, "page", order) for _ in range(2 * PASSED_AT_MOST)]
    for thread in threads:
        thread.join()
    pages = ["page"] * PASSED_AT_MOST
    assert order == [*pages, "file 1", *pages, "file 2"]


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

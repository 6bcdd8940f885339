"""Jobs of pages: turns, cancelling, the end."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from api import FairPool
from engine.fairness import gives_way


def test_many_files_of_one_person_delay_somebody_else_by_the_jobs_at_work_only() -> None:
    pool, free, order = FairPool(at_once=1), threading.Event(), list[str]()
    busy = pool.submit("a", lambda: free.wait(30))
    many = [pool.submit("a", lambda: order.append("a")) for _ in range(40)]
    one = pool.submit("b", lambda: order.append("b"))
    free.set()
    one.result(30)
    assert busy.result(30)
    for job in many:
        job.result(30)
    assert order == ["b", *["a"] * 40]
    pool.stop()


def test_what_fails_gives_its_place_back_and_tells_who_asks() -> None:
    pool = FairPool(at_once=1)

    def wrong() -> None:
        raise ValueError("wrong")

    failed = pool.submit("a", wrong)
    with pytest.raises(ValueError, match="wrong"):
        failed.result(30)
    assert pool.submit("a", lambda: "right").result(30) == "right"
    pool.stop()


def test_what_was_cancelled_takes_no_turn() -> None:
    pool, free = FairPool(at_once=1), threading.Event()
    pool.submit("a", lambda: free.wait(30))
    cancelled, following = pool.submit("a", lambda: 1), pool.submit("a", lambda: 2)
    assert cancelled.cancel()
    free.set()
    assert following.result(30) == 2
    pool.stop()


def test_a_pool_that_stops_completes_what_runs_and_drops_what_waits() -> None:
    pool, begun, free = FairPool(at_once=1), threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        free.wait(30)
        return "done"

    running, waiting = pool.submit("a", work), pool.submit("a", work)
    assert begun.wait(30)
    threading.Timer(0.05, free.set).start()
    pool.stop()
    assert running.result(30) == "done"
    for late in (waiting, pool.submit("a", work)):
        with pytest.raises(CancelledError):
            late.result(30)


def test_jobs_of_pages_give_way_to_who_looks_at_something() -> None:
    pool = FairPool()
    assert pool.submit("a", gives_way).result(30)
    assert not gives_way()
    pool.stop()

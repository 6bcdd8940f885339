"""Whose turn it is, among those who share something, and work that gives way to other work."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
_gives_way: ContextVar[bool] = ContextVar("medsec_gives_way", default=False)


@contextmanager
def giving_way() -> Iterator[None]:
    """Let work of this thread or task, and of threads that it runs, give way.

    Set for files that come in, at whose result nobody looks now. It decides who writes into the
    catalog next; processors and memory are shared by :mod:`engine.operations.admission`.
    """
    before = _gives_way.set(True)
    try:
        yield
    finally:
        _gives_way.reset(before)


def gives_way() -> bool:
    """Does the work of this thread?"""
    return _gives_way.get()


def source(address: str) -> str:
    """Who is behind an address: of IPv6 the network of 64 bits, which one household gets whole."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return str(known)
    return str(ipaddress.ip_network(f"{known}/64", strict=False))


class Shares:
    """First goes the account that has the fewest jobs at work and was served the longest ago.

    Not locked: who uses it from several threads holds a lock of their own.
    """

    def __init__(self) -> None:
        self._at_work: Counter[str] = Counter()
        #: When an account was served last, as a count of jobs.
        self._served: dict[str, int] = {}
        self._begun = 0

    @property
    def at_work(self) -> int:
        """Jobs at work, of all accounts."""
        return self._at_work.total()

    def first(self, waiting: Iterable[T], account: Callable[[T], str]) -> T | None:
        """Of those that wait, in the order in which they came, the one whose turn it is."""
        return min(
            waiting,
            key=lambda one: (self._at_work[account(one)], self._served.get(account(one), 0)),
            default=None,
        )

    def begin(self, account: str) -> None:
        """A job of an account is at work from here on."""
        self._at_work[account] += 1
        self._begun += 1
        self._served[account] = self._begun

    def end(self, account: str) -> None:
        """It has ended."""
        self._at_work[account] -= 1

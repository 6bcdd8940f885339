"""Files that move from one place to another while servers read and write them.

They never change and are named by their content, so it does not matter from where one is read.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from functools import partial

from engine.errors import NotFound
from engine.host import FileStore


class TwoPlaces:
    """Files at either of two places; new ones are written to the first.

    Args:
        to: Where files are to be in the end.
        source: Where some still are.
    """

    def __init__(self, to: FileStore, source: FileStore) -> None:
        self.to = to
        self.source = source

    def put(self, name: str, data: bytes) -> bool:
        return self.to.put(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self.to.replace(name, data)

    def get(self, name: str) -> bytes:
        # The last time for a file that moved after the first.
        for place in (self.to, self.source):
            try:
                return place.get(name)
            except NotFound:
                continue
        return self.to.get(name)

    def versions(self, name: str, *, newest_first: bool = False) -> Iterator[bytes]:
        for place in (self.to, self.source):
            yield from place.versions(name, newest_first=newest_first)

    def delete(self, name: str) -> None:
        for place in (self.source, self.to):
            place.delete(name)

    def names(self, under: str = "") -> Iterator[str]:
        last = ""
        # What moves meanwhile may be missing, as what was just written may be.
        for name in heapq.merge(self.source.names(under), self.to.names(under)):
            if name != last:
                yield name
            last = name

    def age_seconds(self, name: str) -> float:
        return self.to.age_seconds(name) or self.source.age_seconds(name)

    def delete_under(self, name: str) -> None:
        for place in (self.source, self.to):
            place.delete_under(name)

    def under(self, name: str) -> FileStore:
        return TwoPlaces(self.to.under(name), self.source.under(name))

    def clear_unfinished(self, older_than_seconds: float = 0.0) -> int:
        return sum(p.clear_unfinished(older_than_seconds) for p in (self.to, self.source))

    def opener(self, elsewhere: bool) -> Callable[[], FileStore]:
        return partial(_open, self.to.opener(elsewhere), self.source.opener(elsewhere))


def _open(to: Callable[[], FileStore], source: Callable[[], FileStore]) -> FileStore:
    return TwoPlaces(to(), source())

"""Recently logged reads, so that redrawing a page does not log the same read again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from datetime import datetime, timedelta

from engine.host import Host

#: The same read by the same session within this time is one row in the audit log.
REPEAT = timedelta(minutes=5)
_REMEMBERED = 10_000


class ReadLog:
    """Reads of one process. A forgotten read is logged again; no read is ever missing."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._seen: OrderedDict[Hashable, datetime] = OrderedDict()
        self._lock = threading.Lock()

    def new(self, read: Hashable) -> bool:
        """Must this read be logged? If so, it counts as logged for some time."""
        now = self._host.now()
        with self._lock:
            last = self._seen.get(read)
            if last is not None and timedelta() <= now - last < REPEAT:
                return False
            self._seen[read] = now
            self._seen.move_to_end(read)
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return True

"""Drafts that came in without a look are looked at in the background, while no page is open.

One thread draws them from a queue of each person, in turns, and lets workers do the work. What is
queued is in memory only: the drafts themselves say that nobody has looked at them, and are queued
again when their uploader next signs in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from engine import FEW_FILES, BatchItem, Engine, Progress, errors, trouble

#: While others wait, so many drafts of one person are looked at in a row.
_IN_A_ROW: Final = 25
#: After workers failed or a session ended, until what it left is queued again.
_PAUSE_SECONDS: Final = 60.0
log = logging.getLogger("medsec")


@dataclass
class Standing:
    """How far the drafts of one person are.

    Args:
        waiting: Not looked at yet.
        outcomes: How many became what, by the states of a batch, since the upload began.
    """

    waiting: int = 0
    looked: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    per_second: float = 0.0
    seconds_left: float | None = None


@dataclass
class _Queue:
    """Drafts of one person.

    Args:
        work: Token for the work, for as long as there is some.
        session: Of whoever sent the newest of them.
    """

    work: str = field(repr=False)
    session: str
    waiting: deque[str] = field(default_factory=deque)
    progress: Progress = field(default_factory=lambda: Progress(0, time.monotonic()))
    outcomes: Counter[str] = field(default_factory=Counter)


class Looking:
    """The queues of this server and the thread that works on them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        self._asked: set[str] = set()  # sessions whose earlier drafts are queued
        self._known: set[str] = set()  # each is queued once; one that failed, after the next start
        self._queued: set[str] = set()  # what waits or is looked at now
        self._again_at = 0.0  # monotonic seconds, after workers failed
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def add(self, token: str, image_ids: Sequence[str], again: bool = False) -> None:
        """Queue drafts for whoever holds this token.

        Args:
            again: They were looked at before, and a person has confirmed them since.

        Raises:
            AccessError: The session has ended.
        """
        caller = self._engine.caller(token, activity=False)
        with self._changed:
            queue = self._queues.get(caller.username)
            if queue is None or queue.session != caller.session_id:
                work = self._engine.batches.work_token(token)
                if queue is None:
                    queue = self._queues[caller.username] = _Queue(work, caller.session_id)
                else:  # an earlier session may have ended: the newest one goes on
                    self._engine.batches.end_work(queue.work)
                    queue.work, queue.session = work, caller.session_id
            new = [i for i in image_ids if again or i not in self._known]
            self._known.update(new)
            self._queued.update(new)
            queue.waiting.extend(new)
            queue.progress.total += len(new)
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="looking", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def begin(self, account: str) -> None:
        """A new upload begins: count anew, unless an earlier one is still being looked at."""
        with self._changed:
            queue = self._queues.get(account)
            if queue is not None and queue.progress.done >= queue.progress.total:
                queue.progress, queue.outcomes = Progress(0, time.monotonic()), Counter()

    def resume(self, token: str) -> None:
        """Queue what an earlier session, or an earlier run of the server, left unlooked at.

        Looks into the catalog once a session. Raises AccessError.
        """
        session = self._engine.caller(token, activity=False).session_id
        with self._changed:
            if session in self._asked or time.monotonic() < self._again_at:
                return
            self._asked.add(session)
        left = self._engine.intakes.unseen(token)
        if left:
            self.add(token, left)

    def queued(self) -> frozenset[str]:
        """Drafts of anybody that wait in a queue or are looked at now."""
        with self._changed:
            return frozenset(self._queued)

    def standing(self, account: str) -> Standing:
        """How far the drafts of this account are."""
        with self._changed:
            queue = self._queues.get(account)
            if queue is None:
                return Standing()
            progress = queue.progress
            return Standing(
                progress.total - progress.done,
                progress.done,
                Counter(queue.outcomes),
                round(progress.per_second, 2),
                progress.left_seconds,
            )

    def stop(self) -> None:
        """Complete the drafts that are being looked at, and drop the queues."""
        with self._changed:
            self._stopped = True
            for queue in self._queues.values():
                queue.waiting.clear()
            self._queued.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not any(q.waiting for q in self._queues.values()):
                    self._changed.wait()
                if self._stopped:
                    return
                account = next(name for name, q in self._queues.items() if q.waiting)
                self._queues.move_to_end(account)  # others come first next time
                queue = self._queues[account]
            self._round(account, queue)

    def _round(self, account: str, queue: _Queue) -> None:
        """Look at the drafts of one person, until there are no more or others wait."""
        drawn: dict[int, str] = {}
        few = len(queue.waiting) <= FEW_FILES
        try:
            items = self._engine.batches.look(queue.work, self._draw(account, queue, drawn), few)
            with closing(items):
                for item in items:
                    self._keep(queue, item, drawn.pop(item.place))
                    if self._stopped:  # the rest is queued again after the next start
                        return
        except errors.EngineError as err:  # the session ended, or there are no workers
            log.warning("%d drafts wait to be looked at: %s", self._give_up(queue, drawn), err.code)
        except Exception as err:  # noqa: BLE001 - others wait behind it
            trouble("looking at drafts failed", err)
            self._give_up(queue, drawn)

    def _draw(self, account: str, queue: _Queue, drawn: dict[int, str]) -> Iterator[str]:
        """Drafts of one person; ``drawn`` gets each by the place at which it was drawn."""
        for place in count():
            with self._changed:
                others = any(q.waiting for name, q in self._queues.items() if name != account)
                if not queue.waiting or (others and place >= _IN_A_ROW):
                    return
                drawn[place] = queue.waiting.popleft()
            yield drawn[place]

    def _keep(self, queue: _Queue, item: BatchItem, image_id: str) -> None:
        with self._changed:
            self._queued.discard(image_id)
            queue.progress.add(item, time.monotonic())
            queue.outcomes[item.state] += 1

    def _give_up(self, queue: _Queue, drawn: dict[int, str]) -> int:
        """What was drawn or waits stays a draft, and is queued again later. Returns how many."""
        with self._changed:
            left = [*drawn.values(), *queue.waiting]
            self._known.difference_update(left)
            self._queued.difference_update(left)
            queue.waiting.clear()
            queue.progress.total = queue.progress.done
            self._asked.discard(queue.session)
            self._again_at = time.monotonic() + _PAUSE_SECONDS
        return len(left)

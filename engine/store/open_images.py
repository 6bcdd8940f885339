"""Opened images: plaintext in memory, bound to one session, for some minutes.

A viewing belongs to the session that opened it; other sessions get NotFound. Memory is limited:
the oldest viewings are closed first.

An image that a session has just sent is kept too, so that opening it decodes nothing again. The
same rules apply, but it only takes memory that no viewing needs, and little.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from engine.errors import NotFound, StorageBusy
from engine.host import Host
from engine.records import Image

#: For all pictures that were just sent.
KEPT_BYTES = 256 << 20
#: Pictures of one group take this share of the memory at most: a study is looked at a few pictures
#: at a time, and must not close what others have open.
GROUP_SHARE = 0.25


@dataclass(frozen=True)
class Group:
    """Pictures that are opened as one, such as a study: they share memory and close together."""

    name: str
    closes_at: datetime


@dataclass(frozen=True)
class OpenImage:
    """One opened picture.

    Args:
        handle: Opaque name; useless in another session.
        subject_id: The image it shows.
        about: The record returned when it was opened, without pixels.
        group: Name of its :class:`Group`; empty by itself.
    """

    handle: str
    session_id: str
    subject_id: str
    image: Image = field(repr=False)
    about: Any = field(repr=False)
    expires_at: datetime
    group: str = ""


@dataclass(frozen=True)
class _Kept:
    """A picture that a session has sent and not opened yet."""

    image: Image = field(repr=False)
    about: str
    expires_at: datetime


class OpenImages:
    """All pictures that are open.

    Args:
        lifetime: From opening to closing, however often it is looked at.
        memory_bytes: For all together.
    """

    def __init__(self, host: Host, lifetime: timedelta, memory_bytes: int) -> None:
        self._host = host
        self.lifetime = lifetime
        self._memory = memory_bytes
        self._open: OrderedDict[str, OpenImage] = OrderedDict()
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._due = host.now()  # when what the timer waits for closes

    def expiry(self) -> datetime:
        """When a viewing opened now expires."""
        return self._host.now() + self.lifetime

    def add(
        self,
        session_id: str,
        handle: str,
        subject_id: str,
        image: Image,
        about: Any,
        group: Group | None = None,
    ) -> OpenImage:
        """Keep an image open.

        Args:
            group: That it belongs to; by itself it closes after ``lifetime``.

        Raises:
            StorageBusy: It alone exceeds the memory limit.
        """
        size = size_bytes(image)
        if size > self._memory:
            raise StorageBusy(
                "This image is larger than the memory for restorations. Raise"
                " MEDSEC_RESTORE_MEMORY_MB."
            )
        closes, name = (group.closes_at, group.name) if group else (self.expiry(), "")
        viewing = OpenImage(handle, session_id, subject_id, image, about, closes, name)
        with self._lock:
            self._sweep()
            self._kept.pop((session_id, subject_id), None)
            if group:
                self._make_room(group.name, size)
            while self._held() + size > self._memory:
                (self._kept or self._open).popitem(last=False)
            self._open[handle] = viewing
            self._wake_up()
        return viewing

    def _make_room(self, group: str, size: int) -> None:
        own = [h for h, v in self._open.items() if v.group == group]
        held = sum(size_bytes(self._open[h].image) for h in own)
        for handle in own:
            if held + size <= self._memory * GROUP_SHARE:
                return
            held -= size_bytes(self._open.pop(handle).image)

    @property
    def held_bytes(self) -> int:
        """Memory of all images that are open or kept; at most ``memory_bytes``."""
        with self._lock:
            return self._held()

    def _held(self) -> int:
        return sum(size_bytes(v.image) for v in self._pictures())

    def _pictures(self) -> list[OpenImage | _Kept]:
        return [*self._open.values(), *self._kept.values()]

    def keep(self, session_id: str, subject_id: str, image: Image, about: str) -> None:
        """Keep a picture for the session that sent it, if there is room beside what is open.

        Args:
            about: Says of which file it is; :meth:`kept` asks for the same.
        """
        size = size_bytes(image)
        with self._lock:
            self._sweep()
            self._kept.pop((session_id, subject_id), None)
            opened = sum(size_bytes(v.image) for v in self._open.values())
            free = min(KEPT_BYTES, self._memory - opened)
            if size > free:
                return
            while sum(size_bytes(k.image) for k in self._kept.values()) + size > free:
                self._kept.popitem(last=False)
            self._kept[session_id, subject_id] = _Kept(image, about, self.expiry())
            self._wake_up()

    def kept(self, session_id: str, subject_id: str, about: str) -> Image | None:
        """A picture that this session sent and that is still kept."""
        with self._lock:
            self._sweep()
            found = self._kept.get((session_id, subject_id))
        return found.image if found is not None and found.about == about else None

    def get(self, session_id: str, handle: str) -> OpenImage:
        """The viewing, if this session opened it and it has not expired.

        Raises:
            NotFound: Otherwise.
        """
        with self._lock:
            self._sweep()
            viewing = self._open.get(handle)
        if viewing is None or viewing.session_id != session_id:
            raise NotFound("This image is no longer open. Open it again.")
        return viewing

    def find(self, session_id: str, subject_id: str, kind: type) -> OpenImage | None:
        """This session's open viewing of an image, if any."""
        with self._lock:
            self._sweep()
            for viewing in self._open.values():
                wanted = (viewing.session_id, viewing.subject_id) == (session_id, subject_id)
                if wanted and isinstance(viewing.about, kind):
                    return viewing
        return None

    def close(self, session_id: str, handle: str) -> None:
        """Close a viewing of this session; those of other sessions are left open."""
        with self._lock:
            viewing = self._open.get(handle)
            if viewing is not None and viewing.session_id == session_id:
                del self._open[handle]

    def close_group(self, session_id: str, group: str) -> None:
        """Close what this session opened as one."""
        with self._lock:
            for handle, viewing in list(self._open.items()):
                if (viewing.session_id, viewing.group) == (session_id, group):
                    del self._open[handle]

    def close_session(self, session_id: str) -> None:
        """Close all viewings of a session."""
        with self._lock:
            for handle in [h for h, v in self._open.items() if v.session_id == session_id]:
                del self._open[handle]
            for place in [p for p in self._kept if p[0] == session_id]:
                del self._kept[place]

    def sessions(self) -> set[str]:
        """Sessions of which something is open or kept."""
        with self._lock:
            return {v.session_id for v in self._open.values()} | {s for s, _ in self._kept}

    def subjects(self, kind: type) -> set[str]:
        """Images that are open as something of this kind."""
        with self._lock:
            return {v.subject_id for v in self._open.values() if isinstance(v.about, kind)}

    def close_subject(self, subject_id: str) -> None:
        """Close an image in all sessions, after it was sealed, withdrawn or erased."""
        with self._lock:
            for handle in [h for h, v in self._open.items() if v.subject_id == subject_id]:
                del self._open[handle]
            for place in [p for p in self._kept if p[1] == subject_id]:
                del self._kept[place]

    def _wake_up(self) -> None:
        """Close expired viewings without further calls; one timer for all."""
        ends = [v.expires_at for v in self._pictures()]
        if not ends:
            return
        due = min(ends)
        if self._timer is not None:
            if due >= self._due:
                return
            self._timer.cancel()
        self._due = due
        left = max(0.0, (due - self._host.now()).total_seconds())
        self._timer = threading.Timer(left + 1, self._sweep_alone)
        self._timer.daemon = True
        self._timer.start()

    def _sweep_alone(self) -> None:
        with self._lock:
            self._timer = None
            self._sweep()
            self._wake_up()

    def _sweep(self) -> None:
        now = self._host.now()
        for handle, viewing in list(self._open.items()):
            if now >= viewing.expires_at:
                del self._open[handle]
        for place, kept in list(self._kept.items()):
            if now >= kept.expires_at:
                del self._kept[place]


def size_bytes(image: Image) -> int:
    """Memory of an opened image: its pixels and its file."""
    return int(image.pixels.nbytes) + len(image.data)

"""Decoded masked images, kept in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from engine.formats import images
from engine.operations.admission import Work
from engine.operations.context import Context
from engine.operations.stored_images import StoredImages, need_of
from engine.records import Caller, Image
from engine.store.open_images import size_bytes

#: Memory set aside; the image that was not asked for the longest goes first.
MASKED_CACHE_BYTES = 256 * 1024 * 1024


class MaskedImages:
    """A cache of masked images: they hold nothing hidden, and rights are checked before."""

    def __init__(self, context: Context, stored: StoredImages) -> None:
        self._admission = context.admission
        self._database = context.database
        self._live = context.live
        self._stored = stored
        self._images: OrderedDict[str, Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, caller: Caller, image_id: str) -> Image:
        """The decoded masked image of a released one. Raises NotFound, MachineOverloaded."""
        row = self._stored.released(self._database.read(), image_id)
        address = row.masked_blob or ""
        with self._lock:
            cached = self._images.get(address)
            if cached is not None:
                self._images.move_to_end(address)
        if cached is None:
            with self._admission.room(Work.PAGE, caller.username, need_of(row, {})):
                cached = images.decode_stored(
                    image_id, self._stored.part(image_id, "masked"), self._live.limits
                )
            with self._lock:
                self._images[address] = cached
                self._images.move_to_end(address)  # two threads may decode the same one
                while self.held_bytes() > MASKED_CACHE_BYTES:
                    self._images.popitem(last=False)
        return cached

    def held_bytes(self) -> int:
        """Memory of what is kept."""
        return sum(size_bytes(i) for i in list(self._images.values()))

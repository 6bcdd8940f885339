"""C-STORE as a user: takes what the engine's queue has for a node there, over one association."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pynetdicom.association import Association

from dimse import sending
from dimse.sending import NotTaken
from engine import Engine, Node, Parcel, Report, errors, trouble

#: What a person is told of an instance that never got its answer.
_CUT = "The association ended before the image was sent."


class Courier:
    """Delivers for :meth:`engine.sendings.start`, until :meth:`stop`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: set[Association] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Cut every association off; what was not answered is sent again another time."""
        with self._lock:
            self._stopped = True
            under_way = list(self._open)
        for assoc in under_way:
            sending.cut(assoc)

    def deliver(self, node: Node, parcels: Sequence[Parcel], report: Report) -> str:
        """Send parcels to a node; answers why those that were not reported could not be tried."""
        kinds = [(parcel.sop_class, parcel.syntax) for parcel in parcels]
        try:
            assoc = sending.associated(self._engine, node, kinds)
        except NotTaken as err:
            return err.why
        with self._lock:
            self._open.add(assoc)
        try:
            for number, parcel in enumerate(parcels):
                if self._stopped or not assoc.is_established:
                    return _CUT
                try:
                    self._send(assoc, parcel, number + 1)
                except NotTaken as err:
                    report(parcel, err.why, not err.for_good)
                    if err.lost:
                        return err.why
                else:
                    report(parcel, "", False)
            return ""
        finally:
            with self._lock:
                self._open.discard(assoc)
            if assoc.is_established:
                assoc.release()

    def _send(self, assoc: Association, parcel: Parcel, message_id: int) -> None:
        """One parcel. Raises NotTaken, also for what goes wrong on this side."""
        try:
            sending.send(assoc, parcel.fetch, parcel.sop_class, parcel.syntax, message_id)
        except NotTaken:
            raise
        except (errors.StorageError, errors.MachineOverloaded) as err:
            raise NotTaken(err.message) from err
        except errors.EngineError as err:  # it does not open, or may not be opened
            raise NotTaken(err.message, for_good=True) from err
        except Exception as err:  # the others must go on
            raise NotTaken(trouble("an image was not sent", err).message) from err

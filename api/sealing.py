"""Images that are sealed beside the page: a person decides, goes on, and is told what came of it.

Their decision is kept with the draft before anything begins. A server that is killed forgets only
that it was to seal: each draft waits in the list with its boxes and its answer. Until sealing has
ended nobody else can open the draft.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from api.fair_pool import jobs
from engine import Detection, Engine, ImageRecord, errors, trouble

#: Outcomes of one person that are remembered.
_MOST: Final = 1000
_STOPPED = "The server was stopped before it was sealed. Seal it again."


@dataclass
class Seal:
    """One image that is sealed beside the page, or was.

    Args:
        title: Whose image it is and what, as its own person reads it; empty once it is sealed, so
            that no name outlives its record here.
        patient_id: Key of the patient, once it is sealed.
        what: What kind of image it is, once it is sealed.
        message: Why it came back; empty where it did not.
    """

    image_id: str
    title: str = field(repr=False)
    patient_id: str = ""
    what: str = ""
    stage: str = "waiting"
    share: float = 0.0
    sealed: bool = False
    message: str = ""

    @property
    def at_work(self) -> bool:
        """Is it being sealed, or does it wait for its turn?"""
        return not self.sealed and not self.message


class Sealing:
    """What people of this server have sealed beside their pages."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._of: dict[str, OrderedDict[str, Seal]] = {}
        self._lock = threading.Lock()

    def add(
        self,
        token: str,
        image_id: str,
        title: str,
        boxes: Sequence[Detection],
        removed: Mapping[int, str],
        confirm: str = "",
    ) -> None:
        """Keep the decision with the draft, and seal it when its turn has come.

        Args:
            boxes, removed, confirm: As of :meth:`engine.service.drafts.Drafts.seal`.

        Raises:
            ReviewNeeded: A person must look, and there is no answer.
            InputError: A box that cannot be, or a removed one without a reason.
            NotFound: No such draft, somebody else works on it, or it is being sealed.
        """
        decide = partial(self.engine.worklist.decide, token, image_id, boxes, removed, confirm)
        work = partial(
            self.engine.drafts.seal, image_id=image_id, detections=boxes, removed=removed,
            confirm=confirm,
        )  # fmt: skip
        self._add(token, Seal(image_id, title), decide, work)

    def add_undoubted(self, token: str, image_id: str, title: str) -> None:
        """As :meth:`add`, for a draft without doubt that nobody looks at; the log says so."""
        work = partial(self.engine.drafts.seal_undoubted, image_id=image_id)
        hold = partial(self.engine.worklist.hold, token, image_id)
        self._add(token, Seal(image_id, title), hold, work)

    def _add(
        self,
        token: str,
        seal: Seal,
        decide: Callable[[], None],
        work: Callable[..., ImageRecord],
    ) -> None:
        account, image_id = self.engine.caller(token).username, seal.image_id
        with self._lock:
            own = self._of.setdefault(account, OrderedDict())
            if image_id in own and own[image_id].at_work:
                raise errors.NotFound("This image is being sealed already.")
            before = own.pop(image_id, None)
            own[image_id] = seal
            for old in [s for s in own.values() if s.sealed][: max(0, len(own) - _MOST)]:
                del own[old.image_id]
        decided = False
        try:
            decide()
            decided = True
            own_token = self.engine.batches.work_token(token)  # the page's may end meanwhile
        except BaseException:
            with self._lock:
                del own[image_id]
                if before is not None:
                    own[image_id] = before
            if decided:  # held, and no work will ever leave it
                self.engine.worklist.release(account, image_id)
            raise

        def tell(stage: str, share: float) -> None:
            seal.stage, seal.share = stage, share

        done = jobs.submit(account, lambda: work(own_token, progress=tell))
        done.add_done_callback(partial(self._done, account, own_token, seal))

    def _done(self, account: str, work: str, seal: Seal, result: Future[ImageRecord]) -> None:
        try:
            record = result.result()
            seal.patient_id, seal.title = record.patient_id, ""
            seal.what = f"{record.modality or record.format} {record.width}×{record.height}"
            seal.sealed = True
        except CancelledError:
            seal.message = _STOPPED
        except errors.EngineError as err:
            seal.message = err.message
        except Exception as err:  # noqa: BLE001 - its person has to be told
            seal.message = trouble("sealing beside the page failed", err).message
        finally:
            self.engine.worklist.release(account, seal.image_id)  # the session may have ended
            self.engine.batches.end_work(work)

    def of(self, account: str) -> list[Seal]:
        """What this person seals and has sealed, the newest last."""
        with self._lock:
            return list(self._of.get(account, {}).values())

    def at_work(self, account: str) -> frozenset[str]:
        """Ids of what this person is having sealed."""
        return frozenset(seal.image_id for seal in self.of(account) if seal.at_work)

    def seen(self, account: str, image_id: str) -> None:
        """Forget an outcome that its person has answered: they opened the image again."""
        with self._lock:
            own = self._of.get(account, OrderedDict())
            if image_id in own and not own[image_id].at_work:
                del own[image_id]


def sealing_of(state: Any) -> Sealing:
    """What is sealed beside the pages of an application with this state."""
    held: Sealing | None = getattr(state, "sealing", None)
    if held is None or held.engine is not state.engine:
        held = state.sealing = Sealing(state.engine)
    return held

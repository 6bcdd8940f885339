"""Restoring a series or a study under one reason: requested once, opened picture by picture."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from engine.errors import NotFound
from engine.host import Host
from engine.operations.context import Context
from engine.operations.guard import Guard
from engine.operations.restorations import Part, Restoration, Restorations
from engine.records import Caller, Image, ImageRecord, Study
from engine.store.open_images import Group


@dataclass(frozen=True)
class StudyRestoration:
    """What a session may open of a study, for minutes; nothing is decrypted before it is asked for.

    Args:
        series_id: Empty for the whole study.
        reason: As the log has it.
        images: The released images as they were when it was requested, in the order of the study.
    """

    handle: str
    study_id: str
    patient_id: str
    series_id: str
    reason: str = field(repr=False)
    images: tuple[ImageRecord, ...]
    expires_at: datetime


@dataclass
class _Held:
    """One of them, whose it is, and what has been opened of it."""

    about: StudyRestoration
    session_id: str
    versions: Mapping[str, int]
    handles: dict[str, str] = field(default_factory=dict)
    turns: dict[str, threading.Lock] = field(default_factory=dict)


class StudyRestorations:
    """Study restorations of all sessions.

    A picture is opened when it is looked at, with every check of a single restoration. Those of
    one study share a bounded part of the memory, so the ones looked at longest ago are closed and
    opened again when they are wanted; the log has each opening.
    """

    def __init__(self, context: Context, guard: Guard, restorations: Restorations) -> None:
        self._guard = guard
        self._host: Host = context.host
        self._live = context.live
        self._open_images = context.open_images
        self._restorations = restorations
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def prepare(
        self, study: Study, images: tuple[ImageRecord, ...], series_id: str, reason: str
    ) -> StudyRestoration:
        """What a session may open once the log has the request and :meth:`begin` was called."""
        minutes = self._live.settings.study_restore_minutes
        return StudyRestoration(
            handle=self._host.token("vs"),
            study_id=study.study_id,
            patient_id=study.patient_id,
            series_id=series_id,
            reason=reason,
            images=images,
            expires_at=self._host.now() + timedelta(minutes=minutes),
        )

    def begin(self, caller: Caller, about: StudyRestoration) -> None:
        """Let the caller's session open it."""
        versions = {image.image_id: image.version for image in about.images}
        with self._lock:
            self._sweep()
            self._held[about.handle] = _Held(about, caller.session_id, versions)

    def of(self, caller: Caller, handle: str) -> StudyRestoration:
        """A study restoration of this session. Raises NotFound where it is over."""
        return self._get(caller, handle).about

    def of_session(self, caller: Caller, study_id: str) -> list[StudyRestoration]:
        """Those of this session for a study, newest first."""
        with self._lock:
            self._sweep()
            held = [h for h in self._held.values() if h.session_id == caller.session_id]
        return [h.about for h in reversed(held) if h.about.study_id == study_id]

    def image(self, caller: Caller, handle: str, image_id: str) -> tuple[Image, Restoration]:
        """A picture of a study restoration, opened where it is not open.

        Raises:
            NotFound: It is over, is not about this image, or the image was changed since.
            PermissionDenied: None of the image's classes is granted to this account.
            SealError: Something does not open or is not the original.
        """
        held = self._get(caller, handle)
        if image_id not in held.versions:
            raise NotFound("There is no such image.")
        # Pictures are asked for ahead of the person: one of them decrypts, the others wait for it.
        with held.turns.setdefault(image_id, threading.Lock()):
            if image_id in held.handles:
                with suppress(NotFound):  # closed to make room, or no longer as it was opened
                    return self._restorations.of(caller, held.handles[image_id])
            group = Group(handle, held.about.expires_at)
            part = Part(held.about.reason, held.versions[image_id], group)
            began = self._host.ticks_ms()
            restoration, image = self._restorations.open(caller, image_id, began, part)
            held.handles[image_id] = restoration.handle
        return image, restoration

    def original(self, caller: Caller, handle: str, image_id: str) -> tuple[bytes, str]:
        """The original file of an image of a study restoration, and its proof; it is not kept.

        Raises:
            NotFound: It is over, is not about this image, or the image was changed since.
            PermissionDenied: Some of the image's classes are not granted to this account.
            SealError: Something does not open or is not the original.
        """
        held = self._get(caller, handle)
        if image_id not in held.versions:
            raise NotFound("There is no such image.")
        group = Group(handle, held.about.expires_at)
        part = Part(held.about.reason, held.versions[image_id], group)
        return self._restorations.once(caller, image_id, "study.export", part)

    def close(self, caller: Caller, handle: str) -> None:
        """Forget a study restoration of this session, and every picture of it."""
        with self._lock:
            held = self._held.get(handle)
            if held is None or held.session_id != caller.session_id:
                return
            del self._held[handle]
        self._open_images.close_group(caller.session_id, handle)

    def _get(self, caller: Caller, handle: str) -> _Held:
        with self._lock:
            self._sweep()
            held = self._held.get(handle)
        if (
            held is None
            or held.session_id != caller.session_id
            or not self._guard.sees(caller, held.about.patient_id)
        ):
            raise NotFound("This restoration has ended. Restore the study again.")
        return held

    def _sweep(self) -> None:
        now = self._host.now()
        for handle in [h for h, held in self._held.items() if now >= held.about.expires_at]:
            del self._held[handle]

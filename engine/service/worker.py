"""One image from its stored original to its sealed files, without a catalog.

The very code of the Engine, with nothing behind it that holds keys or rows: a worker process
gets the address of one encrypted file, the keys of that one image and what is known of its
patient. Its answer goes into the catalog in the server's process. It can be done twice: files
of the answer that was not taken belong to no row and are swept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

from engine.detection import Detector, Guest, Known, Luggage, Profile, guest_sandbox
from engine.errors import EngineError, ReviewNeeded
from engine.formats import images
from engine.formats.images import Limits
from engine.host import Host
from engine.permissions import Role
from engine.records import Caller, Detection, Image, ImageState
from engine.seal.pipeline import Stopwatch, Subject, detection_to_json
from engine.service.guard import log
from engine.service.intake import (
    HARMLESS,
    REASONS,
    Examined,
    Suggestion,
    suggestion,
    with_verdicts,
)
from engine.service.sealing import Prepared, Sealing
from engine.settings import Settings
from engine.vault import open_field

UNEXPECTED = ("unexpected", "Something went wrong: tell the administrator.")
_NOBODY = Caller("batch", Role.OPERATOR, "")


@dataclass(frozen=True)
class Job:
    """What a worker may know of one image. The repr shows no key and no name.

    Args:
        blob: Address of the encrypted original.
        key: Data key of that file.
        subject: Which image is sealed, and under what.
        known: What the patient's record says, to tell a name from a side marker.
        seal: False takes the file in as a draft.
        accept_empty: Release an image in which nothing was found.
        seal_proposals: Seal uncertain boxes instead of asking a person.
    """

    image_id: str
    patient_id: str
    blob: str
    key: bytes = field(repr=False)
    subject: Subject = field(repr=False)
    known: tuple[str, ...] = field(repr=False)
    profile: str
    seal: bool
    accept_empty: bool
    seal_proposals: bool


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Args:
        examined: None where the file could not be read.
        prepared: None where a person must look, nothing is to be sealed, or the file could not
            be read.
        error: Code and sentence of what went wrong.
    """

    examined: Examined | None
    prepared: Prepared | None
    times_ms: Mapping[str, float]
    error: tuple[str, str] | None = None


@dataclass(frozen=True)
class Equipment:
    """What every worker holds: networks, limits, and the folder of encrypted files.

    Args:
        root: The folder, at this path on every machine that works.
        guests: Networks of the hospital's own that the profile names.
    """

    settings: Settings
    profiles: Mapping[str, Profile]
    root: Path
    guests: Sequence[Luggage] = ()

    @classmethod
    def of(
        cls,
        settings: Settings,
        profiles: Mapping[str, Profile],
        root: Path,
        threads: int,
        guests: Sequence[Luggage] = (),
    ) -> Equipment:
        """Without any setting that holds a secret or says where one lies."""
        secret: dict[str, Any] = {
            f.name: None
            for f in fields(settings)
            if str(f.type) in ("Secret | None", "Path | None")
        }
        bare = replace(settings, threads=threads, **secret)
        return cls(bare, dict(profiles), root.resolve(), tuple(guests))

    def __call__(self) -> None:
        """Load it, in a worker process."""
        global _HERE
        detector = Detector.open(self.settings)
        detector.profiles = dict(self.profiles)
        sandbox = guest_sandbox()
        detector.guests = {
            g.record.name: Guest(
                g.record.finds, cache(partial(g.unpack, sandbox, self.settings.threads))
            )
            for g in self.guests
        }
        _HERE = (self.settings, Host(self.root), detector)


_HERE: tuple[Settings, Host, Detector] | None = None


def work(job: Job) -> Outcome:
    """Do a job in a worker process that was equipped."""
    if _HERE is None:
        raise RuntimeError("this worker has no equipment")
    return Workbench(*_HERE, job).work()


class Workbench(Sealing):
    """An Engine for one image, without a catalog."""

    def __init__(self, settings: Settings, host: Host, detector: Detector, job: Job) -> None:
        self.settings, self.host, self.detector = settings, host, detector
        self.limits = Limits.of(settings)
        self._job = job

    def work(self) -> Outcome:
        """Open the original, look, seal, look again, and write the sealed files."""
        job = self._job
        watch = Stopwatch(self.host)
        examined = None
        try:
            stored = self.host.read_blob(job.blob)
            data = open_field(
                job.key, f"image/{job.image_id}/{job.subject.version - 1}/draft", stored
            )
            profile = self.profile(job.profile)
            self._image, examined = self._examine(
                job.patient_id, "", data, profile, watch, lambda stage, share: None
            )
            prepared = self._sealed(examined, profile, watch) if job.seal else None
            return Outcome(examined, prepared, watch.times_ms)
        except ReviewNeeded as err:
            assert examined is not None
            return Outcome(_for_review(examined, err), None, watch.times_ms)
        except EngineError as err:
            return Outcome(examined, None, watch.times_ms, (err.code, err.message))
        except Exception:  # noqa: BLE001 - one of thousands must not end them all
            log.exception("a file of a batch failed")
            return Outcome(None, None, watch.times_ms, UNEXPECTED)

    def _sealed(self, examined: Examined, profile: Profile, watch: Stopwatch) -> Prepared:
        job = self._job
        row = {
            **examined.columns, "image_id": job.image_id, "patient_id": job.patient_id,
            "version": job.subject.version - 1, "times_ms": json.dumps(watch.times_ms),
        }  # fmt: skip
        found = with_verdicts(examined.facts)
        what = [suggestion(d, profile) for d in found]
        wanted, confirm = [d for d, s in zip(found, what, strict=True) if s is Suggestion.SEAL], ""
        reasons = row["reasons"]
        if reasons == '["nothing-found"]' and job.accept_empty:
            confirm = "nothing found; released without review (--accept-empty)"
        elif reasons == '["proposals"]' and job.seal_proposals:
            wanted += [d for d, s in zip(found, what, strict=True) if s is Suggestion.ASK]
            confirm = "uncertain boxes sealed without review (--seal-proposals)"
        if not confirm and json.loads(reasons):
            raise ReviewNeeded("A person must look at this image.", reasons=json.loads(reasons))
        left = {i: HARMLESS for i, s in enumerate(what) if s is Suggestion.LEAVE}
        return self._prepare(
            _NOBODY, row, job.key, examined.facts, job.subject, wanted, left, confirm,
            adopt=True, tell=lambda stage, share: None,
        )  # fmt: skip

    def _known(self, image: Image, patient_id: str) -> Known:
        return Known.of([*self._job.known, *images.identifiers(image)])

    def _in_memory(self, caller: Caller, row: Mapping[str, Any]) -> Image | None:
        return self._image

    def _back_to_review(
        self,
        caller: Caller,
        row: Mapping[str, Any],
        draft_key: bytes,
        facts: dict[str, Any],
        new: Sequence[Detection],
        why: str,
    ) -> NoReturn:
        raise ReviewNeeded(REASONS[why], reasons=[why], found=list(new))


def _for_review(examined: Examined, err: ReviewNeeded) -> Examined:
    """The draft as a person finds it: with why they must look, and what was still seen."""
    reasons = sorted({*json.loads(examined.columns["reasons"]), *err.facts["reasons"]})
    columns = {
        **examined.columns, "state": str(ImageState.REVIEW), "reasons": json.dumps(reasons),
    }  # fmt: skip
    still = [detection_to_json(d) for d in err.facts.get("found", ())]
    return Examined(columns, {**examined.facts, "still_visible": still})

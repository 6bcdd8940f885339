"""Networks: which there are, and how they do in daily work."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from engine.detection import (
    Comparison,
    Detector,
    Drift,
    ModelInfo,
    Profile,
    Side,
    merge,
)
from engine.errors import DetectorError, EngineError, InputError
from engine.formats import images
from engine.formats.views import views_of
from engine.installation import MODEL
from engine.operations.context import Context
from engine.operations.examination import Examiner
from engine.operations.guard import Guard, log, needs
from engine.operations.monthly_drift import monthly_drift
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission
from engine.records import Caller, Detection, Image, ImageState
from engine.seal import pipeline
from engine.store.audit import Event
from engine.store.training_cases import held_out

MOST_COMPARED = 200
EVALUATIONS = MODEL / "evaluations"
EVALUATION_BYTES = 100_000
#: One side of a comparison: its name, the profile, and the detector.
_Looks = tuple[str, Profile, Detector]


@dataclass(frozen=True)
class NetworkEntry:
    """A network with where it is used.

    Args:
        profiles: Names of the profiles that name it.
        info: Version, checksum, licence; None until it was first opened.
        guest: Is it a custom network of the hospital?
    """

    name: str
    finds: tuple[str, ...]
    profiles: tuple[str, ...]
    info: ModelInfo | None
    guest: bool


@dataclass(frozen=True)
class Evaluation:
    """Figures that ``model.evaluate`` wrote.

    Args:
        name: Of the profile or network that was measured.
        networks: SHA-256 of the weights that were measured, by network.
        current: Are these the weights that run now? None where one of them is not open yet.
        added_at: None for those that are shipped.
    """

    name: str
    networks: Mapping[str, str]
    figures: Mapping[str, float]
    current: bool | None
    added_at: datetime | None = None
    added_by: str | None = None


class Models:
    """Networks, their evaluations, drift, and comparison of profiles."""

    def __init__(
        self, context: Context, guard: Guard, examiner: Examiner, stored: StoredImages
    ) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._detector = context.detector
        self._evaluation_rows = context.evaluation_rows
        self._figures = context.figures
        self._host = context.host
        self._live = context.live
        self._training_cases = context.training_cases
        self._versions = context.network_versions
        self._examiner = examiner
        self._guard = guard
        self._stored = stored

    def about(self) -> tuple[ModelInfo, ...]:
        """The networks in use, with version, licence and checksum."""
        return self._detector.models

    @needs(Permission.MANAGE_SETTINGS)
    def networks(self, caller: Caller) -> list[NetworkEntry]:
        """Every network there is, and which of them are active."""
        opened = self._detector.opened
        profiles = self._examiner.profiles()
        return [
            NetworkEntry(
                name,
                tuple(finds),
                tuple(p for p, profile in profiles.items() if name in profile.networks),
                opened.get(name),
                name in self._detector.custom_networks,
            )
            for name, finds in self._detector.finds().items()
        ]

    @needs(Permission.MANAGE_SETTINGS)
    def evaluations(self, caller: Caller) -> list[Evaluation]:
        """Figures of evaluations: the shipped ones, then what an administrator added."""
        shipped = [
            self._evaluation(p.stem, _figures(p.read_bytes()))
            for p in sorted(EVALUATIONS.glob("*.json"))
        ]
        added = [
            replace(
                self._evaluation(name, dict(row.facts)),
                added_at=row.changed_at,
                added_by=row.changed_by,
            )
            for name, row in self._evaluation_rows.all(self._database.read()).items()
        ]
        return shipped + added

    def _evaluation(self, name: str, facts: Mapping[str, Any]) -> Evaluation:
        running = {n: info.sha256 for n, info in self._detector.opened.items()}
        measured = facts["networks"]
        known = all(n in running for n in measured)
        current = None if not known else all(running[n] == s for n, s in measured.items())
        return Evaluation(name, measured, facts["figures"], current)

    @needs(Permission.MANAGE_SETTINGS)
    def add_evaluation(self, caller: Caller, name: str, data: bytes) -> None:
        """Keep what ``python -m model.evaluate --json`` wrote beside a profile or network.

        Raises:
            InputError: Not such a file, or no profile or network of this name.
        """
        if name not in self._examiner.profiles() and name not in self._detector.finds():
            raise InputError("There is no profile or network of this name.")
        facts = _figures(data)
        with self._database.write() as tx:
            before = self._evaluation_rows.all(tx).get(name)
            self._evaluation_rows.put(
                tx, self._audit, caller, name, facts, before.facts if before else None
            )

    @needs(Permission.MANAGE_SETTINGS)
    def drift(self, caller: Caller) -> list[Drift]:
        """Each month and profile beside the months before, newest first.

        Months of fewer than ``SMALLEST_GROUP`` patients are left out.
        """
        return monthly_drift(self._figures)

    @needs(Permission.MANAGE_SETTINGS)
    def compare(self, caller: Caller, first: str, second: str, limit: int = 20) -> Comparison:
        """Run two profiles in the shadow on what waits to be sealed and on cases that were kept
        because something was missed; nothing of them is changed.

        What people boxed says what should have been found. Only counts come out.

        Args:
            limit: Drafts at most, and cases at most.

        Raises:
            InputError: No such profile, or there is nothing to compare on.
        """
        one, other = self._examiner.profile(first), self._examiner.profile(second)
        now = self._detector.running(self._detector.own)
        comparison, looked_at = self._compared((first, one, now), (second, other, now), limit)
        detail = {"first": first, "second": second, "images": looked_at}
        self._audit.record(caller, Event("profile.compare", detail=detail))
        return comparison

    @needs(Permission.MANAGE_SETTINGS)
    def compare_version(
        self, caller: Caller, name: str, profile: str, limit: int = 20
    ) -> Comparison:
        """The version of MedSec's own network that is in force beside a learned one, as
        :meth:`compare` does with two profiles. Of kept cases, only those count from which no
        version is learned.

        Raises:
            NotFound: No such version.
            InputError: No such profile, or there is nothing to compare on.
        """
        looks = self._examiner.profile(profile)
        now = self._detector.running(self._detector.own)
        other = self._detector.running(self._versions.version(name))
        sides = (now.version, looks, now), (name, looks, other)
        comparison, looked_at = self._compared(*sides, limit, learned=True)
        detail = {"first": now.version, "second": name, "profile": profile, "images": looked_at}
        self._audit.record(caller, Event("network.compare", detail=detail))
        return comparison

    def _compared(
        self, first: _Looks, second: _Looks, limit: int, *, learned: bool = False
    ) -> tuple[Comparison, int]:
        """Counts, and how many images there were. Raises InputError where there are none."""
        one, other = (Side(name, self._examiner.padding(p)) for name, p, _ in (first, second))
        comparison, looked_at = Comparison(one, other), 0
        for image, truth in self._material(min(limit, MOST_COMPARED), learned=learned):
            looked_at += 1
            found = self._found_by(image, first[1], one, first[2])
            seen = self._found_by(image, second[1], other, second[2])
            if found is not None and seen is not None:
                comparison.add(found, seen, truth)
        if not looked_at:
            raise InputError("There are no drafts to compare on.")
        return comparison, looked_at

    def _material(self, limit: int, *, learned: bool) -> Iterator[tuple[Image, list[Detection]]]:
        """Images to compare on, one at a time, each with the boxes that people made."""
        states = [ImageState.DRAFT, ImageState.REVIEW]
        for record in self._catalog.search(states=states, limit=limit):
            try:
                draft = self._stored.draft(self._database.read(), record.image_id)
                image = self._stored.draft_image(draft)
            except EngineError as err:
                log.warning("not compared: %s", err.code)  # sealed or discarded meanwhile
                continue
            boxes = [Detection.from_json(d) for d in draft.facts["detections"]]
            yield image, [d for d in boxes if d.source == "person"]
        for case in self._training_cases.cases()[-limit:]:
            try:
                opened = self._training_cases.opened(case)
                if learned and not held_out(opened.group):
                    continue
                image = images.decode(opened.name, opened.original, self._live.limits)
            except EngineError as err:
                log.warning("not compared: %s", err.code)
                continue
            yield image, [Detection.from_json(d) for d in opened.after]

    def _found_by(
        self, image: Image, profile: Profile, side: Side, detector: Detector
    ) -> list[Detection] | None:
        """What a profile would find; None where it fails."""
        began = self._host.ticks_ms()
        try:
            found = merge(
                pipeline.look(
                    views_of(image),
                    lambda view: detector.detect(
                        view.picture, view.frames, profile, scene=view.scene
                    ),
                ),
                profile.iou,
            )
        except DetectorError:
            side.failed += 1
            return None
        side.times_ms.append(self._host.ticks_ms() - began)
        return found


def _figures(data: bytes) -> dict[str, Any]:
    """What ``model.evaluate`` wrote, checked. Raises InputError."""
    try:
        written: Any = json.loads(data[: EVALUATION_BYTES + 1])  # what is longer is cut, no JSON
        figures = {str(k)[:100]: float(v) for k, v in written["figures"].items()}
        networks = {str(k)[:100]: str(v)[:64] for k, v in written["networks"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise InputError(
            "The file is not the output of python -m model.evaluate --json. Upload that file."
        ) from err
    return {
        "figures": {k: v for k, v in figures.items() if math.isfinite(v)},
        "networks": networks,
    }

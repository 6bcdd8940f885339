"""Detection alone: what would be found in a file. Needs no keys and keeps nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine.detection import Detector, Profile, merge
from engine.errors import InputError
from engine.formats import images
from engine.formats.images import Limits
from engine.formats.views import views_of
from engine.seal import pipeline
from engine.settings import Settings


class Finder:
    """A detector with one profile, for many files.

    Args:
        profile: Name of a specialty profile; None looks for every class there is.
        detector: That of an open engine, with the profiles in force and the hospital's own
            networks; by default the shipped ones.

    Raises:
        InputError: There is no such profile.
        SettingsError: A profile is not valid.
    """

    def __init__(
        self, settings: Settings, profile: str | None = None, detector: Detector | None = None
    ) -> None:
        self._detector = detector or Detector.open(settings)
        self._limits = Limits.of(settings)
        profiles = self._detector.profiles
        if profile is not None and profile not in profiles:
            raise InputError(
                f"There is no such profile. Use one of: {', '.join(sorted(profiles))}."
            )
        self.profile = profiles[profile] if profile else _everything(profiles)

    def find(self, name: str, data: bytes, *, proposals: bool = False) -> list[dict[str, Any]]:
        """Regions of a file in its own pixels, before padding.

        Args:
            proposals: Also those that are too uncertain to be sealed without a person.

        Returns:
            Per region class, x1, y1, x2, y2 (exclusive), confidence, frame, frame_end, source.

        Raises:
            InputError: The file cannot be read.
            DetectorError: A network failed.
        """
        image = images.decode(name, data, self._limits)
        found = merge(
            pipeline.look(
                views_of(image),
                lambda view: self._detector.detect(
                    view.picture, view.frames, self.profile, scene=view.scene
                ),
            ),
            self.profile.iou,
        )
        return [d.to_json() for d in found if proposals or self.profile.seals(d)]


def _everything(profiles: dict[str, Profile]) -> Profile:
    """Every class there is: the general profile, and the networks of those that know more.

    A second network for a class that the general profile has already finds hardly more and
    masks more in vain (model/CARD.md); specialties that want one say so.
    """
    general = profiles.get("general", next(iter(profiles.values())))
    more = [p for p in profiles.values() if set(p.classes) - set(general.classes)]
    return replace(
        general,
        name="everything",
        title="Everything",
        classes=tuple(dict.fromkeys(c for p in (general, *more) for c in p.classes)),
        networks=tuple(dict.fromkeys(n for p in (general, *more) for n in p.networks)),
        class_confidence={c: p.sealed_from(c) for p in (*more, general) for c in p.classes},
    )

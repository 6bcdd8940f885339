"""Finding what must not be seen: profiles say what, networks say where.

Promises that a network named by a profile runs or an error is raised; nothing is skipped
in silence. Refuses unknown profile keys, unknown networks and unrecorded weights.
"""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from engine.detect.films import Eyes, search_film
from engine.detect.frame_tracking import BLOCK_PX, Tracks, Watch
from engine.detect.looking import (
    FINDS,
    GLANCED,
    NEED_STROKES,
    NETWORKS,
    Ask,
    Looking,
    NetworksApart,
    NetworksHere,
    findings,
)
from engine.detect.networks import Finding, ModelInfo, Network
from engine.detect.own_versions import LEARNING, MissingVersion, OwnVersion, shipped_name
from engine.detect.standing import Standing, standing_in
from engine.detect.text_verdict import Judgement, Known
from engine.errors import DetectorError, SettingsError
from engine.geometry import Region, areas_px, intersections_px
from engine.installation import MODEL
from engine.records import Detection
from engine.settings import Settings

PROFILES = MODEL / "profiles"

STAGE = "looking for text, codes and faces"
RING_PX = 3  # around a mask, whose tone is painted over it for the second look
TRIAL_PX = 640  # of pictures that a learned version is tried on
FILM_FRAMES = 5  # from here on all frames are looked at together first

Frame = Callable[[int], np.ndarray]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Profile:
    """What is looked for in the images of one specialty, and how.

    Args:
        name: Short, as in the file's name.
        title: For people.
        classes: Labels that are sealed; all else that a network finds is left out.
        networks: Names of those that run.
        confidence: Boxes of at least this confidence are sealed.
        proposal_confidence: Boxes from here up to ``confidence`` make a person look.
        iou: Boxes of a class that overlap more are merged.
        padding: Share of a box's longer side; None takes the setting.
        padding_min_px: Padding at least; None takes the setting.
        rescan: Look at the masked image a second time.
        description: A sentence on what it is for and what it cannot do.
        class_confidence: Where a class is sealed from another confidence than ``confidence``.
        harmless_text: ``visible`` proposes to leave text that identifies nobody (side markers,
            scales, technique factors) as it is; ``sealed`` seals all text.
        small_doubt: Proposals that together cover at most this share of a picture in which
            something was found with certainty are sealed without asking; 0 asks always.
        diagnostic_regions: Parts of a picture, as shares of its width and height (x1, y1, x2,
            y2), in which a person is asked about every proposal.
        release_at_most: Images without doubt leave without a person once their stream has shown
            that at most this share of its images has a miss; 0 leaves it to the uploader.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    networks: tuple[str, ...]
    confidence: float = 0.25
    proposal_confidence: float = 0.10
    iou: float = 0.45
    padding: float | None = None
    padding_min_px: int | None = None
    rescan: bool = True
    description: str = ""
    class_confidence: Mapping[str, float] = field(default_factory=dict)
    harmless_text: str = "sealed"
    small_doubt: float = 0.01
    diagnostic_regions: tuple[tuple[float, float, float, float], ...] = ()
    release_at_most: float = 0.0

    def __post_init__(self) -> None:
        own = tuple(self.class_confidence.values())
        shares = (self.confidence, self.proposal_confidence, self.iou, self.padding or 0.0, *own)
        shares += (self.small_doubt, self.release_at_most)
        shares += tuple(side for part in self.diagnostic_regions for side in part)
        if not all(0.0 <= share <= 1.0 for share in shares) or (self.padding_min_px or 0) < 0:
            raise SettingsError(f"The profile {self.name!r} has a number that is out of range.")
        if self.proposal_confidence > min(self.confidence, *own, 1.0):
            raise SettingsError(
                f"The profile {self.name!r} would seal what it is less certain of than a proposal."
            )
        if set(self.class_confidence) - set(self.classes):
            raise SettingsError(
                f"The profile {self.name!r} has a confidence for a class that it does not seal."
            )
        if self.harmless_text not in ("sealed", "visible"):
            raise SettingsError(
                f"Harmless text of the profile {self.name!r} is either sealed or visible."
            )
        if any(x1 >= x2 or y1 >= y2 for x1, y1, x2, y2 in self.diagnostic_regions):
            raise SettingsError(f"A diagnostic region of the profile {self.name!r} is empty.")
        if not self.classes or not self.networks:
            raise SettingsError(f"The profile {self.name!r} names no classes or no networks.")

    def sealed_from(self, label: str) -> float:
        """Confidence from which a box of this class is sealed; below it is a proposal."""
        return self.class_confidence.get(label, self.confidence)

    def seals(self, detection: Detection) -> bool:
        """Is a found box certain enough to be sealed without asking?"""
        return detection.confidence >= self.sealed_from(detection.label)

    @classmethod
    def from_table(
        cls,
        name: str,
        table: Mapping[str, Any],
        settings: Settings | None = None,
        networks: Collection[str] | None = None,
    ) -> Profile:
        """Build a profile from a TOML table or a catalog row.

        Args:
            settings: Where thresholds come from that the table leaves out; by default the
                defaults.
            networks: Names that it may use; by default those of ``NETWORKS``.

        Raises:
            SettingsError: A key is unknown, missing, of the wrong type or out of range.
        """
        settings = settings or Settings()
        kinds: dict[str, type | tuple[type, ...]] = {
            "title": str, "description": str, "classes": list, "networks": list,
            "confidence": (int, float), "proposal_confidence": (int, float),
            "iou": (int, float), "padding": (int, float), "padding_min_px": int, "rescan": bool,
            "class_confidence": dict, "harmless_text": str, "small_doubt": (int, float),
            "diagnostic_regions": list, "release_at_most": (int, float),
        }  # fmt: skip
        values: dict[str, Any] = {
            key: getattr(settings, key) for key in ("confidence", "proposal_confidence", "iou")
        }
        for key, value in table.items():
            if key not in kinds:
                raise SettingsError(f"The profile {name!r} has an unknown key {key!r}.")
            right = isinstance(value, kinds[key]) and (key == "rescan" or value is not True)
            if key == "diagnostic_regions":
                right = right and all(map(_is_part, value))
                value = [tuple(part) for part in value] if right else value
            elif isinstance(value, list):
                right = right and all(isinstance(v, str) for v in value)
            if isinstance(value, dict):
                right = right and all(type(v) in (int, float) for v in value.values())
            if not right:
                raise SettingsError(f"The profile {name!r} has a wrong value for {key!r}.")
            values[key] = tuple(value) if isinstance(value, list) else value
        missing = {"title", "classes", "networks"} - set(values)
        if missing:
            raise SettingsError(f"The profile {name!r} lacks {sorted(missing)}.")
        unknown = sorted(set(values["networks"]) - set(networks or NETWORKS))
        if unknown:
            raise SettingsError(f"The profile {name!r} names networks that nobody made: {unknown}.")
        return cls(name=name, **values)


def _is_part(value: object) -> bool:
    """Four numbers, as a diagnostic region is written."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(type(v) in (int, float) for v in value)
    )


def load_profiles(folder: Path, settings: Settings | None = None) -> dict[str, Profile]:
    """Read every ``*.toml`` in a folder; the file's name is the profile's.

    Raises:
        SettingsError: A file cannot be read, or a profile is not valid.
    """
    profiles = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise SettingsError(f"The profile {path.stem!r} cannot be read: {err}.") from err
        profiles[path.stem] = Profile.from_table(path.stem, table, settings)
    if not profiles:
        raise SettingsError("There is no profile: install MedSec again.")
    return profiles


def merge(detections: Iterable[Detection], threshold: float = 0.45) -> list[Detection]:
    """Non-maximum suppression by class that loses no pixel.

    From the most certain down, a box that overlaps a kept one of its label and its frames by
    more than ``threshold`` (IoU), or lies wholly inside it, is dropped. Where the two come
    from different networks, the kept box grows to hold both: each network may have seen an
    end of a line that the other cut off.

    Args:
        detections: Any order, any labels.
        threshold: IoU from 0 to 1.

    Returns:
        Most certain first. ``source`` is the network that was most certain.
    """
    kept: list[Detection] = []
    sources: list[str] = []
    # Per label and range of frames: where in ``kept`` its boxes are, and the boxes themselves.
    rows: dict[tuple[str, int, int], tuple[list[int], np.ndarray]] = {}
    for d in sorted(detections, key=lambda d: (-d.confidence, d.label, d.region)):
        group = (d.label, d.region.frame, d.region.frame_end)
        places, boxes = rows.setdefault(group, ([], np.empty((16, 4))))
        hit = _first_alike(boxes[: len(places)], np.array(d.region.xyxy, float), threshold)
        if hit is None:
            if len(places) == len(boxes):
                boxes = np.concatenate([boxes, np.empty_like(boxes)])
                rows[group] = (places, boxes)
            boxes[len(places)] = d.region.xyxy
            places.append(len(kept))
            kept.append(d)
            sources.append(d.source)
        elif d.source != sources[places[hit]]:
            i = places[hit]
            kept[i] = replace(kept[i], region=kept[i].region.hull(d.region))
            boxes[hit] = kept[i].region.xyxy
    return kept


def _first_alike(kept: np.ndarray, box: np.ndarray, threshold: float) -> int | None:
    """The first of some boxes that holds a box wholly or overlaps it by more than an IoU.

    Args:
        kept: Shape (N, 4), float64, as ``box``: x1, y1, x2, y2 in px.
    """
    inner, area = intersections_px(box, kept), areas_px(box)
    both = areas_px(kept) + area - inner
    hits = np.flatnonzero((inner == area) | (inner > threshold * both))
    return int(hits[0]) if len(hits) else None


@dataclass(frozen=True)
class CustomNetworkSource:
    """A network of the hospital's own: what it finds, and how it is opened."""

    finds: tuple[str, ...]
    open: Callable[[], Network]


@dataclass(frozen=True)
class _Manner:
    """How one picture or film is looked at.

    Args:
        hidden: At the second look, what is masked; None at the first.
        scene: See :meth:`Detector.detect`.
    """

    profile: Profile
    hidden: Sequence[Region] | None = None
    scene: bool = True


class Detector:
    """Runs the networks of a profile and merges what they find. Safe in several threads.

    Networks are opened on first use and kept; each serialises its own inference.

    Args:
        apart: Run MedSec's own networks in a process without keys; else in this one.
    """

    def __init__(
        self, settings: Settings, profiles: Mapping[str, Profile], apart: bool = False
    ) -> None:
        self._settings = settings
        self.profiles = dict(profiles)
        self._apart = apart
        self._chosen: list[Looking] = []  # at most one; copies of this detector share it
        #: Networks of the hospital's own, by the name that profiles use.
        self.custom_networks: Mapping[str, CustomNetworkSource] = {}
        #: The learned version of MedSec's own network that is in force; None is the shipped one.
        self.own: OwnVersion | None = None
        #: One that looks in the shadow: what it finds changes nothing.
        self.candidate: OwnVersion | None = None
        self._choosing = threading.Lock()

    @classmethod
    def open(cls, settings: Settings, profiles_folder: Path | None = None) -> Detector:
        """Read the profiles. Weights are read when a network is first needed.

        Raises:
            SettingsError: A profile is not valid, the settings name one that is not there, or
                they ask for a GPU without the packages for it.
        """
        from engine.detect.yolo import refuse_missing_gpu_packages

        refuse_missing_gpu_packages(settings)
        profiles = load_profiles(profiles_folder or PROFILES, settings)
        if settings.profile not in profiles:
            raise SettingsError(
                f"MEDSEC_PROFILE names the profile {settings.profile!r}, which is not there."
            )
        return cls(settings, profiles, apart=True)

    @property
    def looking(self) -> Looking:
        """Where MedSec's own networks run: in a process without keys, unless a GPU is used."""
        from engine.detect.yolo import on_gpu

        with self._choosing:
            if not self._chosen:
                apart = self._apart and not on_gpu(self._settings)
                self._chosen.append(
                    NetworksApart(self._settings.threads) if apart else NetworksHere(self._settings)
                )
            return self._chosen[0]

    @property
    def version(self) -> str:
        """The name of the version of MedSec's own network that is in force."""
        return shipped_name() if self.own is None else self.own.name

    def running(self, own: OwnVersion | None) -> Self:
        """This detector with a version of MedSec's own network, whatever is in force later."""
        other = copy(self)
        other.own = own
        return other

    @property
    def keyless(self) -> bool:
        """Do MedSec's own networks run in a process without keys?"""
        try:
            return isinstance(self.looking, NetworksApart)
        except DetectorError:  # the settings ask for a GPU that is not there
            return False

    def try_version(self, version: OwnVersion) -> None:
        """Run a version on trial pictures, where the networks run. Raises DetectorError."""
        noise = np.random.default_rng(0).integers(0, 256, (TRIAL_PX, TRIAL_PX, 3), np.uint8)
        for picture in (np.full((TRIAL_PX, TRIAL_PX, 3), 114, np.uint8), noise, noise[:200]):
            ask = Ask((LEARNING,), 0.05, weigh_text=False, own=version)
            self.looking.look(ask, np.ascontiguousarray(picture))

    def finds(self) -> dict[str, tuple[str, ...]]:
        """Every network that a profile may name, with the classes that it finds."""
        return FINDS | {name: network.finds for name, network in self.custom_networks.items()}

    @property
    def opened(self) -> dict[str, ModelInfo]:
        """Networks that were opened so far, by the name that profiles use."""
        opened = self.looking.opened
        if self.own is not None and LEARNING in opened:
            opened[LEARNING] = self.own.info
        return opened

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The networks of the profile that uploads start with, and all others in use."""
        for name in self.profiles[self._settings.profile].networks:
            if name not in self.custom_networks:
                self.looking.open(name)
        return tuple(self.opened.values())

    def detect(
        self,
        frame: Frame,
        frames: int,
        profile: Profile,
        progress: Progress | None = None,
        scene: bool = True,
    ) -> list[Detection]:
        """Look at every frame with every network of the profile.

        Args:
            frame: Gives frame ``i`` as a person sees it: shape (H, W, 3), uint8, RGB.
            frames: How many there are, at least 1.
            profile: What to look for.
            progress: Told the stage and the share done, 0 to 1.
            scene: May it show a scene, with small faces in it, by what its file says?

        Returns:
            Boxes of the profile's classes with at least its ``proposal_confidence``, before
            padding, inside the image, most certain first. What stays in place over frames is
            one detection with a range of frames.

        Raises:
            DetectorError: A network is missing, altered or failed.
        """
        return self._search(frame, frames, _Manner(profile, scene=scene), progress)

    def standing(
        self, pictures: Sequence[np.ndarray], profile: Profile, scene: bool
    ) -> tuple[Standing, ...]:
        """Text that MedSec's own networks see in the mean of the pictures of a series, and that
        stands in nearly all of them.

        Args:
            pictures: As for :func:`engine.detect.standing.standing_in`.
            scene: As in :meth:`detect`.

        Raises:
            DetectorError: A network is missing, altered or failed.
        """
        networks = tuple(name for name in profile.networks if name in GLANCED)
        if "text" not in profile.classes or not networks:
            return ()
        few = replace(profile, networks=networks)

        def look(picture: np.ndarray) -> list[Detection]:
            found = self.detect(lambda _: picture, 1, few, scene=scene)
            return [d for d in found if d.label == "text" and profile.seals(d)]

        return standing_in(pictures, look)

    def _search(
        self,
        frame: Frame,
        frames: int,
        manner: _Manner,
        progress: Progress | None = None,
    ) -> list[Detection]:
        """See :meth:`detect` and :meth:`rescan`."""
        profile = manner.profile
        if isinstance(self.own, MissingVersion):
            raise DetectorError(
                "The version of MedSec's network that is in force is missing or altered. An"
                " administrator has to roll back.",
                version=self.own.name,
            )
        for name in profile.networks:
            if name not in self.custom_networks:
                self.looking.open(name)
        if frames < 1:
            raise ValueError(f"an image has at least one frame, not {frames}")

        def tell(share: float) -> None:
            if progress:
                progress(STAGE, share)

        def shown(i: int) -> np.ndarray:
            return _checked(frame(i))

        if frames >= FILM_FRAMES:
            eyes = self._eyes(manner)
            return search_film(shown, frames, eyes, profile.iou, tell)
        watch, tracks = Watch(), Tracks(profile.iou)
        for i in range(frames):
            tell(i / frames)
            picture = shown(i)
            areas = watch.news(picture, tracks.standing)
            found = [d for area in areas for d in self._look(picture, area, i, manner)]
            tracks.advance(i, areas, found)
        tell(1.0)
        return tracks.close()

    def _eyes(self, manner: _Manner) -> Eyes:
        """How a film is looked at. At the second look, networks that see the same as the first
        time are asked only where masks begin."""
        profile = manner.profile
        sampled = [name for name in profile.networks if name not in GLANCED]
        smooth = tuple(name for name in sampled if name not in NEED_STROKES)
        strokes = tuple(name for name in sampled if name in NEED_STROKES)

        def look(picture: np.ndarray, area: Region, i: int) -> list[Detection]:
            return self._look(picture, area, i, manner)

        def sample(picture: np.ndarray, areas: Sequence[Region], i: int) -> list[Detection]:
            found = []
            if smooth:
                whole = Region(0, 0, picture.shape[1], picture.shape[0])
                few = replace(manner, profile=replace(profile, networks=smooth))
                found += self._look(picture, whole, i, few)
            if strokes:
                few = replace(manner, profile=replace(profile, networks=strokes))
                found += [d for a in areas for d in self._look(picture, a, i, few)]
            return found

        def seen(picture: np.ndarray, area: Region) -> list[Finding] | None:
            ask = replace(self._ask(manner), whole_px=max(picture.shape[:2]))
            return self.looking.glance(ask, np.ascontiguousarray(picture[area.slices[1:]]))

        def glance(picture: np.ndarray, area: Region) -> list[Region]:
            height, width = picture.shape[:2]
            boxes = (f.shifted(area.x1, area.y1).xyxy for f in seen(picture, area) or ())
            return [r for box in boxes if (r := Region.around(box, width, height))]

        # Nobody can glance for a network of the hospital's own.
        blind = any(name in self.custom_networks for name in profile.networks)
        blank = np.zeros((BLOCK_PX, BLOCK_PX, 3), np.uint8)
        blind = blind or seen(blank, Region(0, 0, BLOCK_PX, BLOCK_PX)) is None
        hidden = manner.hidden
        starts = None if hidden is None else {region.frame for region in hidden}
        return Eyes(look, sample, None if blind else glance, profile.seals, starts)

    def rescan(
        self,
        frame: Frame,
        frames: int,
        hidden: Sequence[Region],
        profile: Profile,
        scene: bool = True,
    ) -> list[Detection]:
        """Look at the masked image for what is still to be seen outside the masks.

        Masks are painted over in the tone around them first, so that neither their edges nor
        their mark is taken for text. Networks that can look at other sizes than the first time
        do so.

        Args:
            frame: Gives frame ``i`` of the *masked* image, as in :meth:`detect`.
            hidden: The regions that are masked, as they were masked.
            scene: As in :meth:`detect`.

        Returns:
            What should have been sealed: as :meth:`detect`, with at least the profile's
            ``confidence``, without what lies mostly under ``hidden`` on all its frames.
        """

        def without_masks(i: int) -> np.ndarray:
            picture = frame(i).copy()
            for region in hidden:
                if region.frame <= i < region.frame_end:
                    picture[region.slices[1:]] = _surroundings(picture, region)
            return picture

        manner = _Manner(profile, hidden, scene)
        return [
            d
            for d in self._search(without_masks, frames, manner)
            if profile.seals(d) and d.region.hidden_share(hidden) < 0.5
        ]

    def judge(
        self, picture: np.ndarray, regions: Sequence[Region], known: Known
    ) -> list[Judgement]:
        """Which boxes of text name somebody? See :class:`engine.detect.text_verdict.Judge`.

        Args:
            picture: Shape (H, W, 3), uint8, RGB.
            regions: Boxes in it, before padding.

        Raises:
            DetectorError: The reader is missing, altered or failed.
        """
        return self.looking.judge(_checked(picture), regions, known)

    def _ask(self, manner: _Manner) -> Ask:
        profile, again = manner.profile, manner.hidden is not None
        own = tuple(name for name in profile.networks if name not in self.custom_networks)
        text = "text" in profile.classes
        floor = profile.proposal_confidence
        return Ask(own, floor, text, again, self.own, scene=manner.scene)

    def _look(
        self, picture: np.ndarray, area: Region, index: int, manner: _Manner
    ) -> list[Detection]:
        """What the networks see in one area of a frame, merged."""
        profile = manner.profile
        part = np.ascontiguousarray(picture[area.slices[1:]])
        floor = profile.proposal_confidence
        ask = replace(self._ask(manner), whole_px=max(picture.shape[:2]))
        own = ask.networks

        def custom(name: str) -> list[tuple[str, Finding]]:
            network = self.custom_networks[name].open()
            return findings(name, lambda: network.look(part, floor))

        with ThreadPoolExecutor(max_workers=1) as lane:
            others = [lane.submit(custom, n) for n in profile.networks if n not in own]
            found = self.looking.look(ask, part) if own else []
            for other in others:
                found += other.result()
        height, width = picture.shape[:2]
        detections = [
            Detection(region, finding.label, finding.confidence, name)
            for name, finding in found
            if finding.label in profile.classes
            and (
                region := Region.around(
                    finding.shifted(area.x1, area.y1).xyxy, width, height, index
                )
            )
        ]
        return merge(detections, profile.iou)


def _checked(picture: np.ndarray) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"expected (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
    return picture


def _surroundings(picture: np.ndarray, region: Region) -> np.ndarray:
    """The median colour of the pixels just outside a region."""
    left, top, right, bottom = region.padded(0.0, RING_PX).xyxy
    beside = picture[region.y1 : region.y2]
    strips = (
        picture[top : region.y1, left:right],
        picture[region.y2 : bottom, left:right],
        beside[:, left : region.x1],
        beside[:, region.x2 : right],
    )
    values = np.concatenate([strip.reshape(-1, 3) for strip in strips])
    return np.median(values, axis=0) if len(values) else np.zeros(3)

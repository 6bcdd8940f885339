"""Drafts of one series, whose pictures are laid over one another to see what stands in all of them.

The server says which files belong together (:class:`SeriesFinder`); whoever looks at one of them
opens a sample of them all (:class:`SeriesLook`). What stands is kept only while a batch runs: it
shows what is written in the pictures.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from engine.detection import FEWEST_STANDING, Detector, Profile, Standing
from engine.errors import EngineError, MachineOverloaded
from engine.formats import images
from engine.formats.views import View, views_of
from engine.operations.context import Context, WorkerContext
from engine.operations.guard import log
from engine.operations.stored_images import OPEN_STATES
from engine.records import Detection, Image
from engine.store.database import Cursor
from engine.vault import open_field

#: Files that stand for a series: of more, the noise of the mean hardly becomes less.
MOST_FILES = 32
#: Pictures that are held at a time, all together.
MOST_BYTES = 48_000_000

StandingByView = Mapping[str, Sequence[Standing]]


@dataclass(frozen=True)
class SeriesFile:
    """An encrypted original. The repr shows no key."""

    image_id: str
    version: int
    blob: str
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class SeriesFiles:
    """Originals of one series that are not sealed, of one frame and of one size.

    Args:
        count: For how many the files stand.
    """

    series_id: str
    files: tuple[SeriesFile, ...]
    count: int


class SeriesFinder:
    """Which drafts belong together. Remembers what it found: make one for each piece of work."""

    def __init__(self, context: Context) -> None:
        self._catalog = context.catalog
        self._hierarchy = context.hierarchy
        self._studies = context.studies
        self._found: dict[str, SeriesFiles] = {}

    def of(self, tx: Cursor, image_id: str, known: int = 0) -> SeriesFiles | None:
        """Files that tell what stands in the series of a draft.

        They stand for a power of two of its drafts, so that a series that is still growing is not
        looked at anew with each that arrives.

        Args:
            known: For how many stood what is known already.

        Returns:
            None where there are too few, or no more than are known, or they are so large that too
            few can be laid over one another.
        """
        series_id, together = self._studies.drafts_beside(tx, image_id, OPEN_STATES)
        count = 1 << max(0, len(together).bit_length() - 1)
        if len(together) < FEWEST_STANDING or count <= known:
            return None
        before = self._found.get(series_id)
        if before is not None and before.count >= count:
            return before
        chosen = together[: count : max(1, count // MOST_FILES)]
        rows = [row for row, _ in self._catalog.many(tx, chosen)]
        if any(row.width * row.height * FEWEST_STANDING > MOST_BYTES for row in rows):
            return None
        files = []
        for row in rows:
            try:
                key = self._hierarchy.image_key(tx, row.image_id)
            except EngineError:  # erased meanwhile
                continue
            files.append(SeriesFile(row.image_id, row.version, row.draft_blob or "", key))
        self._found[series_id] = SeriesFiles(series_id, tuple(files), count)
        return self._found[series_id]


class SeriesLook:
    """What stands in all pictures of a series. Safe in several threads."""

    def __init__(self, context: WorkerContext) -> None:
        self._host = context.host
        self._live = context.live
        self._lock = threading.Lock()
        #: By series, profile and version of MedSec's network: for how many, and what stands.
        self._known: dict[tuple[str, str, str], tuple[int, StandingByView]] = {}

    def forget(self) -> None:
        """Drop what is known: the work is over."""
        with self._lock:
            self._known.clear()

    def seen(
        self,
        series: SeriesFiles | None,
        image: Image,
        views: Sequence[View],
        profile: Profile,
        detector: Detector,
    ) -> list[Detection]:
        """Text that stands in a series and is in this image of it, in stored pixels.

        Args:
            views: Of the image. What stands in one that it does not have is taken to be in it.

        Raises:
            DetectorError: A network failed.
            MachineOverloaded: There is no memory or no process to open the others.
        """
        if series is None or image.frames != 1:
            return []
        by_name = {view.name: view for view in views}
        found: list[Detection] = []
        for name, lines in self._standing(series, profile, detector).items():
            view = by_name.get(name)
            shown = None if view is None else view.picture(0)
            there = [line.detection for line in lines if shown is None or line.in_picture(shown)]
            found += (view or views[0]).found(there)
        boxes = [(d, d.region.clipped(image.width, image.height)) for d in found]
        return [replace(d, region=region) for d, region in boxes if region is not None]

    def _standing(
        self, series: SeriesFiles, profile: Profile, detector: Detector
    ) -> StandingByView:
        key = (series.series_id, profile.name, detector.version)
        with self._lock:
            count, known = self._known.get(key, (0, {}))
        if count >= series.count:
            return known
        shown, scene = self._pictures(series)
        known = {
            name: standing
            for name, pictures in shown.items()
            if (standing := detector.standing(pictures, profile, scene))
        }
        with self._lock:
            self._known[key] = series.count, known
        return known

    def _pictures(self, series: SeriesFiles) -> tuple[dict[str, list[np.ndarray]], bool]:
        """Pictures of the files by the way of showing them, and whether they may show a scene.

        One that is sealed or erased meanwhile, or that cannot be opened, says nothing.
        """
        by_name: dict[str, list[np.ndarray]] = defaultdict(list)
        scene, held = False, 0
        for file in series.files:
            try:
                image = self._opened(file)
                views = views_of(image)
            except MachineOverloaded:
                raise
            except EngineError as err:
                log.info("a file says nothing of its series: %s", err.code)
                continue
            for view in views:
                picture = view.picture(0)
                grey = bool((picture == picture[..., :1]).all())
                picture = picture[..., 0].copy() if grey else picture
                if by_name[view.name] and by_name[view.name][0].shape != picture.shape:
                    continue
                by_name[view.name].append(picture)
                scene = scene or view.scene
                held += picture.nbytes
            if held > MOST_BYTES:
                break
        return by_name, scene

    def _opened(self, file: SeriesFile) -> Image:
        context = f"image/{file.image_id}/{file.version}/draft"
        data = open_field(file.key, context, self._host.read_blob(file.blob))
        return images.decode("", data, self._live.limits)

"""Drafts of one series, whose pictures are laid over one another to see what stands in all of them.

The server says which files belong together (:class:`SeriesFinder`); whoever looks at one of them
opens a sample of them all (:class:`SeriesLook`). What stands is kept only while a batch runs: it
shows what is written in the pictures.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from engine.detection import FEWEST_STANDING, Detector, Profile, Standing
from engine.errors import DetectorError, EngineError
from engine.formats import images
from engine.formats.views import View, views_of
from engine.operations.context import Context, WorkerContext
from engine.operations.guard import log
from engine.operations.stored_images import OPEN_STATES
from engine.records import Detection, Image
from engine.store.database import Cursor
from engine.store.studies import SeriesOfSize
from engine.tracing import unexpected
from engine.vault import open_field

#: Where a box comes from that only the series shows.
SERIES = "series"
#: Files that stand for a series: of more, the noise of the mean hardly becomes less.
MOST_FILES = 32
#: Pictures that are held at a time, all together.
MOST_BYTES = 48_000_000
#: Series that are known at a time: a batch goes through one after the other.
_MOST_KNOWN = 4


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

    of: SeriesOfSize
    files: tuple[SeriesFile, ...] = field(repr=False)
    count: int


@dataclass
class _Found:
    """What was found last, and how many more may ask before it is looked for again."""

    files: SeriesFiles | None
    asked: int


class SeriesFinder:
    """Which drafts belong together. Remembers what it found: make one for each piece of work."""

    def __init__(self, context: Context) -> None:
        self._catalog = context.catalog
        self._hierarchy = context.hierarchy
        self._studies = context.studies
        self._found: dict[SeriesOfSize, _Found] = {}

    def of(self, tx: Cursor, image_id: str, known: int = 0) -> SeriesFiles | None:
        """Files that tell what stands in the series of a draft.

        They stand for a power of two of its drafts, so that a series that is still growing is not
        looked at anew with each that arrives. What was found stays where drafts are sealed since.

        Args:
            known: For how many stood what is known already.

        Returns:
            None where there are too few, or no more than are known, or they are so large that too
            few can be laid over one another.
        """
        series = self._studies.series_of_draft(tx, image_id)
        if series is None or series.width * series.height * FEWEST_STANDING > MOST_BYTES:
            return None
        found = self._found.get(series)
        if found is None or not found.asked:
            before = found.files if found else None
            files = self._files(tx, series, before)
            found = self._found[series] = _Found(files, files.count if files else FEWEST_STANDING)
            while len(self._found) > _MOST_KNOWN:
                del self._found[next(iter(self._found))]
        found.asked -= 1
        files = found.files
        return files if files is not None and files.count > known else None

    def _files(
        self, tx: Cursor, series: SeriesOfSize, before: SeriesFiles | None
    ) -> SeriesFiles | None:
        together = self._studies.drafts_of(tx, series, OPEN_STATES)
        count = 1 << max(0, len(together).bit_length() - 1)
        if count < FEWEST_STANDING or (before is not None and before.count >= count):
            return before
        files = []
        for row, _ in self._catalog.many(tx, together[: count : max(1, count // MOST_FILES)]):
            try:
                key = self._hierarchy.image_key(tx, row.image_id)
            except EngineError:  # erased meanwhile
                continue
            files.append(SeriesFile(row.image_id, row.version, row.draft_blob or "", key))
        return SeriesFiles(series, tuple(files), count)


@dataclass(frozen=True)
class _Stands:
    """What stands in a series, by the way of showing it.

    Args:
        wanted: For how many drafts the files stood that were to be opened.
        count: The same, or 0 where too few opened to say anything.
    """

    wanted: int
    count: int
    lines: Mapping[str, Sequence[Standing]] = field(repr=False)


class SeriesLook:
    """What stands in all pictures of a series. Safe in several threads."""

    def __init__(self, context: WorkerContext) -> None:
        self._host = context.host
        self._live = context.live
        self._lock = threading.Lock()
        #: By series, profile and version of MedSec's network, the last used at the end.
        self._known: dict[tuple[SeriesOfSize, str, str], _Stands] = {}

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
    ) -> tuple[list[Detection], int]:
        """Text that stands in a series and may be in this image of it, in stored pixels.

        Args:
            views: Of the image. What stands in one that it does not have is taken to be in it.

        Returns:
            Boxes of source ``SERIES``, and for how many drafts the files stood; 0 where too few
            opened to say anything.

        Raises:
            DetectorError: A network failed.
        """
        if series is None or (image.width, image.height) != (series.of.width, series.of.height):
            return [], 0
        stands = self._stands(series, profile, detector)
        by_name = {view.name: view for view in views}
        found: list[Detection] = []
        for name, lines in stands.lines.items():
            view = by_name.get(name)
            shown = None if view is None else view.picture(0)
            there = [line.detection for line in lines if shown is None or line.in_picture(shown)]
            found += (view or views[0]).found(there)
        boxes = [(d, d.region.clipped(image.width, image.height)) for d in found]
        inside = [replace(d, region=box, source=SERIES) for d, box in boxes if box is not None]
        return inside, stands.count

    def _stands(self, series: SeriesFiles, profile: Profile, detector: Detector) -> _Stands:
        key = (series.of, profile.name, detector.version)
        with self._lock:
            known = self._known.pop(key, None)
            if known is not None:
                self._known[key] = known
        if known is not None and known.wanted >= series.count:
            return known
        shown, scene, opened = self._pictures(series)
        try:
            lines = {
                name: standing
                for name, pictures in shown.items()
                if (standing := detector.standing(pictures, profile, scene))
            }
        except EngineError:
            raise
        except Exception as err:
            raise DetectorError(
                "The images of a series could not be laid over one another: look at each."
            ) from err
        count = series.count if opened >= FEWEST_STANDING else 0
        stands = _Stands(series.count, count, lines)
        with self._lock:
            self._known[key] = stands
            while len(self._known) > _MOST_KNOWN:
                del self._known[next(iter(self._known))]
        return stands

    def _pictures(self, series: SeriesFiles) -> tuple[dict[str, list[np.ndarray]], bool, int]:
        """Pictures of the files by the way of showing them, whether they may show a scene, and how
        many files opened.

        One that is sealed or erased meanwhile, or that cannot be opened, says nothing; whatever is
        wrong with it is no reason not to look at the others.
        """
        by_name: dict[str, list[np.ndarray]] = defaultdict(list)
        scene, held, opened = False, 0, 0
        for file in series.files:
            try:
                shown = [(view, _shown(view)) for view in views_of(self._opened(file))]
            except EngineError as err:
                log.info("a file says nothing of its series: %s", err.code)
                continue
            except Exception as err:  # noqa: BLE001 - see above
                unexpected("a file says nothing of its series", err, logging.WARNING)
                continue
            for view, picture in shown:
                if by_name[view.name] and by_name[view.name][0].shape != picture.shape:
                    continue
                by_name[view.name].append(picture)
                scene = scene or view.scene
                held += picture.nbytes
            opened += 1
            if held > MOST_BYTES:
                break
        return by_name, scene, opened

    def _opened(self, file: SeriesFile) -> Image:
        context = f"image/{file.image_id}/{file.version}/draft"
        data = open_field(file.key, context, self._host.read_blob(file.blob))
        return images.decode("", data, self._live.limits)


def _shown(view: View) -> np.ndarray:
    """Shape (H, W, 3), or (H, W) where it is grey."""
    picture = view.picture(0)
    grey = bool((picture == picture[..., :1]).all())
    return picture[..., 0].copy() if grey else picture

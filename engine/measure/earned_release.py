"""May images of a stream be released without a person? From a ledger of looks, and nothing else.

A stream is a kind of image: one profile, one device with one software version, looked at by one
version of the detector. It is *learning* until the bound on the share of images with a miss
(``release_bound``) is low enough, then *trusted*; a miss, drift or an administrator makes it
*suspended*, until both all its looks and those since then alone say the same again.

What keeps the bound honest:

- Only images count that a person looks at whatever the outcome: all images before the stream is
  trusted, and random samples afterwards. A miss counts wherever it was found.
- Clean looks count in the order in which the images came in. One that nobody has decided holds back
  those behind it, so leaving difficult images for later gains nothing.
- The order is that of the ledger, never that of a clock.
- A flag counts at the place of its image, however late it comes.
- What nobody looks at stops release: while many samples wait, new images wait too.

The ledger is read from the log by ``store.release_ledger``; nothing here knows where it comes from.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from engine.measure.release_bound import CONFIDENCE, at_most, upper_bound

#: A finer stream than the device's begins with this many images of its own.
FEWEST_IMAGES = 30
#: Samples that wait for a person while release goes on.
MOST_SAMPLES_WAITING = 10
#: Parts of a name that a coarser stream leaves out, in this order. A device, its software and the
#: kind of object are never left out: what was learned of one says nothing of another.
COARSER = ("size", "image type")

Parts = tuple[tuple[str, str], ...]


class Trust(StrEnum):
    LEARNING = "learning"
    TRUSTED = "trusted"
    SUSPENDED = "suspended"


class Route(StrEnum):
    """What was decided about an image when it came in."""

    PERSON = "person"
    SAMPLE = "sample"  # it could have been released, and was drawn for a person
    ITSELF = "itself"


class Look(StrEnum):
    """What is known of the detector's first answer once a draft is sealed."""

    NOBODY = "nobody"  # sealed by itself
    UNSEEN = "unseen"  # decided by somebody who was not shown the picture
    CLEAN = "clean"
    MISSED = "missed"  # boxes were added that it would not have hidden


class LedgerKind(StrEnum):
    """What a line of the ledger says."""

    ARRIVE = "arrive"
    LOOK = "look"  # a person decided it
    RELEASE = "release"  # nobody looked
    FLAG = "flag"  # a miss that somebody saw after the release
    GONE = "gone"  # thrown away, or decided by somebody who was not shown the picture
    SUSPEND = "suspend"


@dataclass(frozen=True)
class StreamName:
    """What the images of a stream have in common.

    Args:
        version: Of the detector with the profile's rule: evidence is never inherited.
        parts: Names and values, such as ``("manufacturer", "ACME")``.
    """

    version: str
    parts: Parts

    @property
    def stream_id(self) -> str:
        """A short name for the log, 16 hexadecimal digits."""
        text = json.dumps([self.version, self.parts])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def finer_to_coarser(self) -> tuple[StreamName, ...]:
        """This name, then without each of ``COARSER`` that it has."""
        names = [self]
        for part in COARSER:
            kept = tuple(p for p in names[-1].parts if p[0] != part)
            if kept != names[-1].parts:
                names.append(StreamName(self.version, kept))
        return tuple(names)


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One line of the ledger.

    Args:
        kind: Decides which of the others are there.
        at: For people to read; nothing is ordered by it.
        stream: Of ``ARRIVE`` and ``SUSPEND``.
        whole: The image's name before it was put into a stream, of ``ARRIVE``.
        empty: Nothing was found, of ``ARRIVE``.
        missed: Of ``LOOK``.
        why: Of ``SUSPEND``.
        doubted: Of ``SUSPEND``: released images that it puts in doubt, in the order of risk.
        shadow: It is about a version of the detector that looked in the shadow.
    """

    kind: LedgerKind
    image_id: str = ""
    at: datetime | None = None
    stream: StreamName | None = None
    whole: StreamName | None = None
    route: Route = Route.PERSON
    empty: bool = False
    missed: bool = False
    why: str = ""
    doubted: tuple[str, ...] = ()
    shadow: bool = False

    @property
    def subject(self) -> str:
        """The image, as one version looked at it."""
        return shadow_of(self.image_id) if self.shadow else self.image_id


def shadow_of(image_id: str) -> str:
    """An image as the version in the shadow looked at it, in the ledger."""
    return f"{image_id}/shadow"


@dataclass(slots=True)
class _Image:
    """An image in its place. ``clean`` is None until a person decided it."""

    image_id: str
    route: Route
    empty: bool
    epoch: int  # suspensions of its stream before it came
    clean: bool | None = None
    gone: bool = False
    counted: bool = False
    released: bool = False
    released_at: datetime | None = None


@dataclass
class _Tally:
    """Looks that count, and misses among them."""

    clean: int = 0
    misses: int = 0

    @property
    def looks(self) -> int:
        return self.clean + self.misses


@dataclass(frozen=True)
class Standing:
    """A stream at this moment.

    Args:
        images: That came in.
        looks, misses: Observations that count.
        waiting: Images at which a person has still to look.
        released: Images that nobody looked at before their release.
        bound: Upper bound of the share of images with a miss, 0 to 1, at all times.
        why: Of the last suspension, where the stream is suspended.
    """

    name: StreamName
    state: Trust
    images: int
    looks: int
    misses: int
    waiting: int
    released: int
    bound: float
    why: str = ""


class Stream:
    """One stream, line by line."""

    def __init__(self, name: StreamName) -> None:
        self.name = name
        self.images: list[_Image] = []
        #: Why it was suspended, each time.
        self.whys: list[str] = []
        #: Looks and misses after each change, for the curve of the bound.
        self.history: list[tuple[int, int]] = []
        self._all = _Tally()
        #: Since the last suspension.
        self._fresh = _Tally()
        self._epoch = 0
        self._next = 0
        self._samples_waiting = 0

    @property
    def overdue(self) -> bool:
        """Do so many samples wait that nothing more may be released?"""
        return self._samples_waiting > MOST_SAMPLES_WAITING

    def state(self, share: float, confidence: float = CONFIDENCE) -> Trust:
        """Where the stream stands.

        Args:
            share: Of images with a miss, at most; 0 trusts nothing.
        """
        earned = share > 0.0 and all(
            at_most(t.looks, t.misses, share, confidence) for t in (self._all, self._fresh)
        )
        if earned:
            return Trust.TRUSTED
        return Trust.SUSPENDED if self._epoch else Trust.LEARNING

    def standing(self, share: float, confidence: float = CONFIDENCE) -> Standing:
        """The stream's numbers under a profile's rule."""
        state = self.state(share, confidence)
        return Standing(
            self.name,
            state,
            len(self.images),
            self._all.looks,
            self._all.misses,
            sum(i.route is not Route.ITSELF and _undecided(i) for i in self.images),
            sum(i.released for i in self.images),
            upper_bound(self._all.looks, self._all.misses, confidence),
            self.whys[-1] if state is Trust.SUSPENDED else "",
        )

    def released_since(self, image: _Image) -> list[str]:
        """Images that nobody looked at, since the last clean look before one with a miss.

        Returns:
            In the order of risk: where nothing at all is hidden first, then by their distance from
            the image with the miss.
        """
        place = self.images.index(image)
        before = reversed(range(place))
        first = next((i + 1 for i in before if _clean_look(self.images[i])), 0)
        named = [
            (not i.empty, abs(n - place), i.image_id)
            for n, i in enumerate(self.images[first:], first)
            if i.released and _undecided(i)
        ]
        return [image_id for *_, image_id in sorted(named)]

    def saved_since(self, moment: datetime) -> int:
        """Images released without a look since then, as the clock said."""
        times = (i.released_at for i in self.images if i.released)
        return sum(at is not None and at >= moment for at in times)

    def add(self, image: _Image) -> None:
        """An image came in."""
        image.epoch = self._epoch
        self.images.append(image)
        self._samples_waiting += image.route is Route.SAMPLE

    def decided(self, image: _Image, *, missed: bool = False, gone: bool = False) -> None:
        """A person decided an image, flagged it, or threw it away."""
        if image.route is Route.SAMPLE and _undecided(image):
            self._samples_waiting -= 1
        if gone:
            image.gone = image.gone or image.clean is None
        elif missed:
            self._miss(image)
        elif image.clean is None:
            image.clean = True
        self._count()

    def _miss(self, image: _Image) -> None:
        if image.clean is False:
            return
        for tally in self._tallies(image):
            tally.clean -= image.counted
            tally.misses += 1
        image.clean = False
        self.history.append((self._all.looks, self._all.misses))

    def _count(self) -> None:
        """Count clean looks up to the first image that nobody has decided."""
        while self._next < len(self.images):
            image = self.images[self._next]
            if image.route is not Route.ITSELF:
                if _undecided(image):
                    return
                if image.clean:
                    image.counted = True
                    for tally in self._tallies(image):
                        tally.clean += 1
                    self.history.append((self._all.looks, self._all.misses))
            self._next += 1

    def _tallies(self, image: _Image) -> tuple[_Tally, ...]:
        return (self._all, self._fresh) if image.epoch == self._epoch else (self._all,)

    def suspend(self, why: str) -> None:
        """From here on, trust needs looks at images that come in later."""
        self._epoch += 1
        self._fresh = _Tally()
        self.whys.append(why)


class Ledger:
    """All streams, after any number of lines."""

    def __init__(self, entries: Iterable[LedgerLine] = ()) -> None:
        self.streams: dict[StreamName, Stream] = {}
        self._images: dict[str, tuple[Stream, _Image]] = {}
        self._seen: Counter[StreamName] = Counter()
        self._doubted: dict[str, None] = {}
        for entry in entries:
            self.add(entry)

    def stream_for(self, whole: StreamName) -> StreamName:
        """The finest stream that has had enough images; the coarsest where none has."""
        names = whole.finer_to_coarser
        return next((n for n in names[:-1] if self._seen[n] >= FEWEST_IMAGES), names[-1])

    def stream_of(self, image_id: str) -> Stream | None:
        """The stream that an image came into, if any."""
        known = self._images.get(image_id)
        return known and known[0]

    def route_of(self, image_id: str) -> Route | None:
        """What was decided about an image when it came in; None where no rule asked."""
        known = self._images.get(image_id)
        return known and known[1].route

    def undecided(self, image_id: str) -> bool:
        """Is this an image of a stream that no person has decided, flagged or thrown away?"""
        known = self._images.get(image_id)
        return known is not None and _undecided(known[1])

    @property
    def doubted(self) -> list[str]:
        """Released images that a suspension put in doubt and nobody has decided since, in the order
        of risk."""
        return [image_id for image_id in self._doubted if self.undecided(image_id)]

    def decide(self, name: StreamName, share: float, sample: float, drawn: float) -> Route:
        """What becomes of an image without doubt.

        Args:
            share: Of images with a miss, at most.
            sample: Share of those released that goes to a person all the same.
            drawn: By chance, from 0 up to 1.
        """
        stream = self.streams.get(name)
        if stream is None or stream.overdue or stream.state(share) is not Trust.TRUSTED:
            return Route.PERSON
        return Route.SAMPLE if drawn < sample else Route.ITSELF

    def named_by(self, image_id: str) -> Sequence[str]:
        """Images that a miss on this one puts in doubt; see :meth:`Stream.released_since`."""
        stream, image = self._images[image_id]
        return stream.released_since(image)

    def add(self, entry: LedgerLine) -> None:
        """One line more. Lines about images that no stream knows say nothing here."""
        if entry.kind is LedgerKind.ARRIVE:
            self._arrive(entry)
        elif entry.kind is LedgerKind.SUSPEND:
            assert entry.stream is not None
            if entry.stream in self.streams:
                self.streams[entry.stream].suspend(entry.why)
                self._doubted |= dict.fromkeys(entry.doubted)
        elif entry.subject in self._images:
            stream, image = self._images[entry.subject]
            if entry.kind is LedgerKind.RELEASE:
                image.released, image.released_at = True, entry.at
            else:
                missed = entry.missed or entry.kind is LedgerKind.FLAG
                stream.decided(image, missed=missed, gone=entry.kind is LedgerKind.GONE)

    def _arrive(self, entry: LedgerLine) -> None:
        assert entry.stream is not None
        assert entry.whole is not None
        if entry.subject in self._images:
            return
        stream = self.streams.setdefault(entry.stream, Stream(entry.stream))
        image = _Image(entry.subject, entry.route, entry.empty, 0)
        stream.add(image)
        self._images[entry.subject] = stream, image
        self._seen.update(entry.whole.finer_to_coarser)


def _clean_look(image: _Image) -> bool:
    """Was nothing missed, in one that a person had to look at whatever the outcome?"""
    return image.clean is True and image.route is not Route.ITSELF


def _undecided(image: _Image) -> bool:
    return image.clean is None and not image.gone

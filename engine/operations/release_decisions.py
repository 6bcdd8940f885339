"""The one place that decides whether an image may be released without a person.

An image comes in: is there doubt, is there a rule, is its stream trusted, was it drawn as a sample?
What was decided is a line of the ledger and is not decided again, so trying twice gains nothing. It
is looked up once more when the image is released: a stream may have been suspended meanwhile. What
people decide afterwards comes back as evidence. The rules are ``engine.measure.earned_release``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from engine.detection import Profile
from engine.errors import NotFound, ReviewNeeded, SealBroken
from engine.installation import MODEL, version
from engine.metrics import (
    Ledger,
    LedgerKind,
    LedgerLine,
    Look,
    Parts,
    Route,
    Standing,
    Stream,
    StreamName,
    Trust,
    upper_bound,
)
from engine.operations.context import Context
from engine.operations.examination import Examined, Examiner
from engine.operations.guard import log
from engine.operations.shadow import Shadow
from engine.records import Caller, ImageState
from engine.store.audit import Event
from engine.store.catalog import ImageRow
from engine.store.database import Cursor

#: Why a person has to look, that a rule of a profile can answer. All other doubt stays.
ANSWERED = ((), ("nothing-found",))
#: Of a curve that is shown.
CURVE_POINTS = 200
#: Said instead of a person's reason.
RELEASED_EMPTY = "nothing found; released without review under the profile's rule"
#: What a seal says to the ledger. A decision without a look at the picture is no evidence.
_SAID = {
    Look.NOBODY: LedgerKind.RELEASE,
    Look.UNSEEN: LedgerKind.GONE,
    Look.CLEAN: LedgerKind.LOOK,
    Look.MISSED: LedgerKind.LOOK,
}
#: Values of a profile that change nothing about what is found and sealed.
_WORDS = ("title", "description", "release_at_most")


@dataclass(frozen=True)
class ReleaseRule:
    """What a worker is told of a profile's rule. The server decides again at its answer.

    Args:
        version: Of the detector with the profile's values.
        trusted: Streams that are trusted now.
    """

    version: str
    trusted: frozenset[StreamName]

    def allows(self, examined: Examined) -> bool:
        """May an image be sealed now, to be released if the server still says so?"""
        whole = stream_name(self.version, examined)
        return examined.reasons in ANSWERED and not self.trusted.isdisjoint(whole.finer_to_coarser)


def stream_name(rule_version: str, examined: Examined) -> StreamName:
    """What an image has in common with others like it; see ``docs/earned-release.md``."""
    device = (p for p in _parts(examined.facts["device"]) if p[0] != "layout")
    return StreamName(rule_version, (("profile", examined.columns["profile"]), *device))


def _parts(said: Iterable[Sequence[str]]) -> Parts:
    return tuple((name, value) for name, value in said)


def _named(ledger: Ledger, stream_id: str) -> Stream:
    """Raises NotFound."""
    for name, stream in ledger.streams.items():
        if name.stream_id == stream_id:
            return stream
    raise NotFound("There is no such stream.")


class ReleaseDecisions:
    """Decides about images, and takes in what people decide."""

    def __init__(self, context: Context) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._custom_networks = context.custom_networks
        self._database = context.database
        self._detector = context.detector
        self._examiner = Examiner(context)
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._ledger = context.release_ledger
        self._live = context.live
        self._open_images = context.open_images

    def rule_version(self, profile: Profile, detector: str = "") -> str:
        """Of everything that decides what is found and sealed, 16 hexadecimal digits.

        Args:
            detector: The version of MedSec's own network that looked; by default the one in force.
        """
        networks = self._custom_networks.records()
        weights = {n: networks[n].sha256 for n in profile.networks if n in networks}
        values = {k: v for k, v in asdict(profile).items() if k not in _WORDS}
        recorded = hashlib.sha256((MODEL / "SHA256SUMS").read_bytes()).hexdigest()
        padding = self._examiner.padding(profile)
        own = detector or self._detector.version
        text = json.dumps([version(), recorded, own, weights, values, padding], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def rule(self, profile: Profile) -> ReleaseRule | None:
        """For workers of a batch; None where the profile has no rule."""
        if not profile.release_at_most:
            return None
        try:
            with self._ledger.reading(self._database.read()) as ledger:
                trusted = frozenset(
                    name
                    for name, stream in ledger.streams.items()
                    if stream.state(profile.release_at_most) is Trust.TRUSTED
                )
        except SealBroken as err:
            log.error("earned release: %s", err.code)
            trusted = frozenset()
        return ReleaseRule(self.rule_version(profile), trusted)

    def arrive(self, tx: Cursor, caller: Caller, image_id: str, examined: Examined) -> None:
        """An image came in: decide about it, where its profile has a rule that can."""
        profile = self._examiner.profile(examined.columns["profile"])
        if not profile.release_at_most or examined.reasons not in ANSWERED:
            return
        # The version that looked, also where another came in force since.
        looked = self.rule_version(profile, examined.facts["detector"])
        whole = stream_name(looked, examined)
        try:
            with self._ledger.reading(tx) as ledger:
                name = ledger.stream_for(whole)
                share, sample = profile.release_at_most, self._live.settings.release_sample
                route = ledger.decide(name, share, sample, self._drawn())
        except SealBroken as err:  # people go on; nothing is released
            log.error("earned release: %s", err.code)
            return
        line = LedgerLine(
            LedgerKind.ARRIVE,
            image_id,
            stream=name,
            whole=whole,
            route=route,
            empty=bool(examined.reasons),
        )
        self._ledger.append(tx, self._audit, caller, line, {"stream": name.stream_id})

    def arrive_in_shadow(
        self, tx: Cursor, caller: Caller, image_id: str, examined: Examined
    ) -> None:
        """An image came in at which a version looked in the shadow too.

        It counts for that version where a person looks whatever either of them says: while the
        device's stream of the version in force is not trusted. Afterwards those in doubt would be
        looked at more often than others.
        """
        shadow = Shadow.of(examined.facts)
        profile = self._examiner.profile(examined.columns["profile"])
        share = profile.release_at_most
        if shadow is None or shadow.failed or not share or shadow.reasons not in ANSWERED:
            return
        if profile.harmless_text != "sealed":  # nobody reads what a version in the shadow found
            return
        in_force = self.rule_version(profile, examined.facts["detector"])
        whole = stream_name(self.rule_version(profile, shadow.version), examined)
        try:
            with self._ledger.reading(tx) as ledger:
                known = ledger.streams.get(ledger.stream_for(stream_name(in_force, examined)))
                if known is not None and known.state(share) is Trust.TRUSTED:
                    return
                name = ledger.stream_for(whole)
        except SealBroken as err:
            log.error("earned release: %s", err.code)
            return
        line = LedgerLine(
            LedgerKind.ARRIVE,
            image_id,
            stream=name,
            whole=whole,
            empty=bool(shadow.reasons),
            shadow=True,
        )
        self._ledger.append(tx, self._audit, caller, line, {"stream": name.stream_id})

    def _drawn(self) -> float:
        """A number from 0 up to 1 that nobody can know before."""
        return int.from_bytes(self._host.random(7)) / 2**56

    def refuse(self, tx: Cursor, row: ImageRow) -> None:
        """Raises ReviewNeeded where a person must look at a draft before it is released.

        Where the profile has no rule, nothing is refused here.
        """
        if not self.may_go(tx, row):
            raise ReviewNeeded(
                "This image must be reviewed before it is sealed.",
                image_id=row.image_id,
                reasons=list(row.reasons),
            )

    def may_go(self, tx: Cursor, row: ImageRow) -> bool:
        """Does no rule ask for a person's look at this draft, which has no other doubt?"""
        profile = self._examiner.profile(row.profile)
        if not profile.release_at_most or row.reasons not in ANSWERED:
            return True
        try:
            with self._ledger.reading(tx) as ledger:
                stream = ledger.stream_of(row.image_id)
                return (
                    row.version == 0
                    and stream is not None
                    and ledger.route_of(row.image_id) is Route.ITSELF
                    and ledger.undecided(row.image_id)
                    and stream.name.version == self.rule_version(profile)
                    and stream.state(profile.release_at_most) is Trust.TRUSTED
                )
        except SealBroken as err:
            log.error("earned release: %s", err.code)
            return False

    def answered(self, row: ImageRow) -> bool:
        """Can the profile's rule answer this draft's doubt?"""
        return bool(self._examiner.profile(row.profile).release_at_most) and row.reasons in ANSWERED

    def sealed(
        self, tx: Cursor, caller: Caller, row: ImageRow, look: Look, shadow: Look = Look.NOBODY
    ) -> None:
        """A draft was sealed.

        Args:
            shadow: What it says of a version that looked in the shadow.

        Raises:
            ReviewNeeded: Nobody looked, and the rule asks for it.
        """
        if look is Look.NOBODY:
            self.refuse(tx, row)
        if row.version == 0:  # later versions say nothing of the detector's first answer
            line = LedgerLine(_SAID[look], row.image_id, missed=look is Look.MISSED)
            self._note(tx, caller, line)
            kind = LedgerKind.GONE if shadow is Look.NOBODY else _SAID[shadow]
            missed = shadow is Look.MISSED
            self._note(tx, caller, LedgerLine(kind, row.image_id, missed=missed, shadow=True))

    def flagged(self, tx: Cursor, caller: Caller, image_id: str) -> None:
        """Something is visible in a released image."""
        self._note(tx, caller, LedgerLine(LedgerKind.FLAG, image_id))
        self._note(tx, caller, LedgerLine(LedgerKind.FLAG, image_id, shadow=True))

    def gone(self, tx: Cursor, caller: Caller, image_id: str) -> None:
        """An image was erased or thrown away; if undecided, it holds nobody back any more."""
        self._note(tx, caller, LedgerLine(LedgerKind.GONE, image_id))
        self._note(tx, caller, LedgerLine(LedgerKind.GONE, image_id, shadow=True))

    def _note(self, tx: Cursor, caller: Caller, line: LedgerLine) -> None:
        """A line about an image that the ledger knows, and what follows from it."""
        try:
            with self._ledger.reading(tx) as ledger:
                stream = ledger.stream_of(line.subject)
                if stream is None:
                    return
                missed = line.missed or line.kind is LedgerKind.FLAG
                doubted = tuple(ledger.named_by(line.subject)) if missed else ()
                share = self._share(stream)
                before = stream.state(share)
                said = {"stream": stream.name.stream_id}
                self._ledger.append(tx, self._audit, caller, line, said)
                if missed and (before is Trust.TRUSTED or doubted):
                    self._suspend(tx, caller, stream, "missed", doubted)
                elif before is not Trust.TRUSTED and stream.state(share) is Trust.TRUSTED:
                    earned = Event("release.trust", detail=self._numbers(stream))
                    self._audit.append(tx, caller, earned)
        except SealBroken as err:  # a person's work is not lost; nothing is released
            log.error("earned release: %s", err.code)

    def suspend(self, tx: Cursor, caller: Caller, stream_id: str, why: str) -> None:
        """Suspend a stream. Raises NotFound, SealBroken."""
        with self._ledger.reading(tx) as ledger:
            self._suspend(tx, caller, _named(ledger, stream_id), why, ())

    def standings(self, tx: Cursor) -> list[Standing]:
        """Every stream, those with most images first. Raises SealBroken."""
        with self._ledger.reading(tx) as ledger:
            found = [s.standing(self._share(s)) for s in ledger.streams.values()]
        return sorted(found, key=lambda s: -s.images)

    def curve(self, tx: Cursor, stream_id: str) -> list[tuple[int, float]]:
        """Looks and bound of a stream, at most ``CURVE_POINTS`` of them, the last one among them.

        Raises:
            NotFound: No such stream.
            SealBroken: A line of the ledger was altered.
        """
        with self._ledger.reading(tx) as ledger:
            history = list(_named(ledger, stream_id).history)
        step = max(1, len(history) // CURVE_POINTS)
        chosen = history[len(history) % step - 1 :: step] if history else []
        return [(looks, upper_bound(looks, misses)) for looks, misses in chosen]

    def saved(self, tx: Cursor, since: datetime) -> tuple[int, float | None]:
        """Images released without a look since then, and the largest bound of their streams.

        Raises:
            SealBroken: A line of the ledger was altered.
        """
        with self._ledger.reading(tx) as ledger:
            counts = [(s.saved_since(since), s) for s in ledger.streams.values()]
        bounds = [s.standing(self._share(s)).bound for n, s in counts if n]
        return sum(n for n, _ in counts), max(bounds, default=None)

    def earned(self, tx: Cursor, image_ids: Collection[str]) -> tuple[int, float | None]:
        """How many of these images a rule released, and the largest bound of their streams now.

        Raises:
            SealBroken: A line of the ledger was altered.
        """
        with self._ledger.reading(tx) as ledger:
            own = [i for i in image_ids if ledger.route_of(i) is Route.ITSELF]
            streams = {s.name: s for s in map(ledger.stream_of, own) if s is not None}
        bounds = [s.standing(self._share(s)).bound for s in streams.values()]
        return len(own), max(bounds, default=None)

    def changed_device(self, tx: Cursor, caller: Caller, parts: Parts) -> None:
        """Less is sealed on a device's images from now on: what it earned is suspended.

        Raises:
            SealBroken: A line of the ledger was altered.
        """
        device = {p for p in parts if p[0] != "layout"}
        with self._ledger.reading(tx) as ledger:
            for name, stream in list(ledger.streams.items()):
                same = device >= {p for p in name.parts if p[0] != "profile"}
                if same and stream.state(self._share(stream)) is Trust.TRUSTED:
                    self._suspend(tx, caller, stream, "a rule of the device ended", ())

    def doubted(self, tx: Cursor) -> dict[str, int]:
        """Released images that a suspension put in doubt, each with its place in the order of
        risk."""
        try:
            with self._ledger.reading(tx) as ledger:
                return {image_id: n for n, image_id in enumerate(ledger.doubted)}
        except SealBroken as err:
            log.error("earned release: %s", err.code)
            return {}

    def drifted(self, tx: Cursor, caller: Caller, profile: str, month: str) -> None:
        """Suspend what is trusted of a profile whose images changed; once for each month."""
        why = _drift_in(month)
        with self._ledger.reading(tx) as ledger:
            for stream in self._trusted(ledger, why):
                if dict(stream.name.parts)["profile"] == profile:
                    self._suspend(tx, caller, stream, why, ())

    def asks_for_drift(self, tx: Cursor, month: str) -> bool:
        """Is anything trusted that drift in this month would suspend?"""
        with self._ledger.reading(tx) as ledger:
            return bool(self._trusted(ledger, _drift_in(month)))

    def _trusted(self, ledger: Ledger, why: str) -> list[Stream]:
        """Streams that are trusted and were not suspended for a reason before."""
        return [
            stream
            for stream in ledger.streams.values()
            if stream.state(self._share(stream)) is Trust.TRUSTED and why not in stream.whys
        ]

    def _suspend(
        self, tx: Cursor, caller: Caller, stream: Stream, why: str, doubted: tuple[str, ...]
    ) -> None:
        said = {**self._numbers(stream), "images": list(doubted)}
        line = LedgerLine(LedgerKind.SUSPEND, stream=stream.name, why=why, doubted=doubted)
        self._ledger.append(tx, self._audit, caller, line, said)
        if self._live.settings.release_withdraw:
            for image_id in doubted:
                self._withdraw(tx, caller, image_id)

    def _withdraw(self, tx: Cursor, caller: Caller, image_id: str) -> None:
        row = self._catalog.row(tx, image_id)
        if row.state != ImageState.RELEASED:
            return
        key = self._hierarchy.image_key(tx, image_id)
        tag = self._catalog.change(tx, key, image_id, state=str(ImageState.WITHDRAWN))
        withdrawn = Event(
            "image.withdraw",
            patient_id=row.patient_id,
            image_id=image_id,
            detail={"tag": tag, "why": "release-suspended"},
        )
        self._audit.append(tx, caller, withdrawn)
        self._open_images.close_subject(image_id)

    def _share(self, stream: Stream) -> float:
        """What the rule of the stream's profile allows now; 0 where there is none any more."""
        name = dict(stream.name.parts)["profile"]
        profile = self._examiner.profiles().get(name)
        return profile.release_at_most if profile else 0.0

    def _numbers(self, stream: Stream) -> dict[str, Any]:
        """A stream's figures, for the log."""
        standing = stream.standing(self._share(stream))
        return {
            "stream": stream.name.stream_id,
            "looks": standing.looks,
            "misses": standing.misses,
            "bound": round(standing.bound, 6),
            "at_most": self._share(stream),
        }


def _drift_in(month: str) -> str:
    """Why a stream is suspended; the month as in 2026-12."""
    return f"drift in {month}"

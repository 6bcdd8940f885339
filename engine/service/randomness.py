"""Does what is stored look random? Measured on stored regions and on encryptions made for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from engine import metrics
from engine.errors import NotFound
from engine.metrics import SMALLEST_GROUP
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.measured_numbers import MeasuredNumbers
from engine.permissions import Permission
from engine.records import Caller
from engine.store.audit import Event
from engine.vault import RegionIdentity, encrypt, without_header

SAMPLE_IMAGES = 200
SAMPLE_BYTES = 64 << 20
TRIALS = 16
_TRIAL_BYTES = 1 << 16


_IV_BYTES, _TAG_BYTES = 16, 32


@dataclass(frozen=True)
class Randomness:
    """What was measured, as it was measured; each figure is defined in :mod:`engine.metrics`.

    Args:
        images, regions, size_bytes: What the stored sample was made of.
        chi_square_p: P-value of each stored region of at least 1,280 bytes.
        correlation_z: Correlation of neighbouring bytes of each, in standard deviations
            (``r * sqrt(n)``).
        plaintext_npcr, plaintext_uaci: Percent, of each trial: one bit of the plaintext changed,
            encrypted anew with a fresh IV as in earnest; ciphertext only.
        key_npcr, key_uaci: Percent, of each trial: one bit of the key changed, same IV.
        npcr_low, uaci_low, uaci_high: What 99.9 % of independent random strings of that length
            stay above, or within.
        trial_bytes: Length of the ciphertext of a trial.
    """

    images: int
    regions: int
    size_bytes: int
    chi_square_p: tuple[float, ...]
    correlation_z: tuple[float, ...]
    plaintext_npcr: tuple[float, ...]
    plaintext_uaci: tuple[float, ...]
    key_npcr: tuple[float, ...]
    key_uaci: tuple[float, ...]
    npcr_low: float
    uaci_low: float
    uaci_high: float
    trial_bytes: int


class RandomnessTests:
    """Measures whether ciphertext looks random."""

    def __init__(self, context: Context, guard: Guard, numbers: MeasuredNumbers) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._host = context.host
        self._guard = guard
        self._numbers = numbers

    @needs(Permission.STATISTICS)
    def measure(self, caller: Caller) -> Randomness:
        """Measure a random sample of stored regions, and encryptions of an invented plaintext.

        Nothing is decrypted. Who may not see single images gets a sample of those images that
        :mod:`engine.measure.disclosure` allows, and none of fewer than five.
        """
        sealed = self._sample(caller)
        plain = [_trial(self._host.random, bit) for bit in range(TRIALS)]
        keyed = [_key_trial(self._host.random, bit) for bit in range(TRIALS)]
        length = _TRIAL_BYTES + _IV_BYTES
        self._audit.record(caller, Event("statistics.randomness", detail={"images": len(sealed)}))
        regions = [data for some in sealed for data in some]
        long = [data for data in regions if len(data) >= metrics.CHI_SQUARE_MIN_BYTES]
        low, high = metrics.uaci_band_percent(length)
        return Randomness(
            images=len(sealed),
            regions=len(regions),
            size_bytes=sum(map(len, regions)),
            chi_square_p=tuple(metrics.chi_square_uniformity(data).p_value for data in long),
            correlation_z=tuple(
                metrics.neighbour_correlation(data) * math.sqrt(len(data) - 1) for data in long
            ),
            plaintext_npcr=tuple(d.npcr_percent for d in plain),
            plaintext_uaci=tuple(d.uaci_percent for d in plain),
            key_npcr=tuple(d.npcr_percent for d in keyed),
            key_uaci=tuple(d.uaci_percent for d in keyed),
            npcr_low=metrics.npcr_lowest_percent(length),
            uaci_low=low,
            uaci_high=high,
            trial_bytes=length,
        )

    def _sample(self, caller: Caller) -> list[list[bytes]]:
        """IV, ciphertext and tag of every region of some released images, chosen at random."""
        kept = self._numbers.all()
        single = self._numbers.of(caller).single
        ids = sorted(kept.rows.tags if single else kept.told)
        only = self._guard.open_patients(caller) if single else None
        if only is not None:
            theirs = self._numbers.images_of(only)
            ids = [image_id for image_id in ids if image_id in theirs]
        if not single and len(ids) < SMALLEST_GROUP:
            return []
        order = sorted((self._host.random(8), image_id) for image_id in ids)
        tx, sealed, size = self._database.read(), [], 0
        for _, image_id in order[:SAMPLE_IMAGES]:
            if size > SAMPLE_BYTES:
                break
            try:
                container = self._host.read_blob(self._catalog.row(tx, image_id).sealed_blob or "")
            except NotFound:
                continue  # erased meanwhile
            size += len(container)
            sealed.append(
                [
                    without_header(container[start : start + region.size_bytes])
                    for region, start in self._catalog.regions(tx, image_id)
                ]
            )
        return sealed


def _identity() -> RegionIdentity:
    return RegionIdentity("im_trial", "rg_trial", "text", 0, 0, 256, 256, 0, 1, 1)


#: Smooth like a picture, and nobody's.
_PLAINTEXT = bytes((x + y) // 2 for y in range(256) for x in range(256))


def _ciphertext(sealed: bytes) -> bytes:
    return without_header(sealed)[_IV_BYTES:-_TAG_BYTES]


def _trial(randomness: Callable[[int], bytes], bit: int) -> metrics.Difference:
    key = randomness(32)
    return metrics.plaintext_sensitivity(
        lambda plaintext: _ciphertext(encrypt(key, _identity(), plaintext, randomness, "trial")),
        _PLAINTEXT,
        bit * 8 * (_TRIAL_BYTES // TRIALS),
    )


def _key_trial(randomness: Callable[[int], bytes], bit: int) -> metrics.Difference:
    iv = randomness(_IV_BYTES)
    return metrics.key_sensitivity(
        lambda key, plaintext: _ciphertext(
            encrypt(key, _identity(), plaintext, lambda count: iv[:count], "trial")
        ),
        randomness(32),
        _PLAINTEXT,
        bit * 256 // TRIALS,
    )

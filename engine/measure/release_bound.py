"""How large can the share of images with a miss be? A bound that holds however often one looks.

A bound from a textbook holds for one look at a number of images that was fixed before. Here every
image is a look, and release begins at the first one at which the bound is low enough: such a bound
would be wrong far more often than it says. This one is wrong with at most the stated probability
in the whole life of a stream.

For a share p, let M(p) be the likelihood ratio of the looks so far, averaged over all shares r
below p:

    M(p) = average over r < p of (r/p)^k ((1-r)/(1-p))^(n-k)    (n looks, k of them misses)

weighted by Jeffreys' prior Beta(1/2, 1/2), cut off at p. If each image is missed with probability
p or more, given all that came before, a factor has an expectation of at most 1: it falls with the
probability m of a miss, as r/p < 1 < (1-r)/(1-p), and is m r/p + (1-m)(1-r)/(1-p) = 1 at m = p. So
M(p) is a non-negative supermartingale that begins at 1, and by Ville's inequality it ever reaches
1/alpha with a probability of at most alpha. The bound is the largest p that M has not reached.

That the shares may differ from image to image does not matter, as long as none is below p. Where
the share was low and rises, the bound says what was learned before: this is why samples go on.

Source: Robbins 1970, "Statistical methods related to the law of the iterated logarithm", Ann. Math.
Stat. 41; Howard, Ramdas, McAuliffe, Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", Ann. Stat. 49 (arXiv 1810.08240), section 3 (beta-binomial mixture);
Waudby-Smith, Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86.
"""

from __future__ import annotations

import math
from functools import lru_cache

import scipy  # its parts load when they are first used, which takes a third of a start

CONFIDENCE = 0.95
_PRIOR = 0.5  # both parameters of the beta distribution, after Jeffreys 1946


def log_evidence(looks: int, misses: int, share: float) -> float:
    """log M(p): how much better shares below p explain the looks than p itself.

    Args:
        share: p, above 0 and below 1.

    Returns:
        0 for no looks; minus infinity where p is far below the share that was seen.

    Raises:
        ValueError: A number is out of its range.
    """
    _refuse(looks, misses)
    if not 0.0 < share < 1.0:
        raise ValueError(f"a share is above 0 and below 1, not {share}")
    a, b = misses + _PRIOR, looks - misses + _PRIOR
    below = scipy.special.betainc(a, b, share)
    if below == 0.0:
        return -math.inf
    return float(
        math.log(below)
        + scipy.special.betaln(a, b)
        - math.log(scipy.special.betainc(_PRIOR, _PRIOR, share))
        - scipy.special.betaln(_PRIOR, _PRIOR)
        - misses * math.log(share)
        - (looks - misses) * math.log1p(-share)
    )


@lru_cache(maxsize=65536)
def at_most(looks: int, misses: int, share: float, confidence: float = CONFIDENCE) -> bool:
    """Is the bound at most this share? Quicker than to compute the bound.

    Raises:
        ValueError: A number is out of its range.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence is above 0 and below 1, not {confidence}")
    # At the share that was seen and below it, no p is ruled out: M is at most 1.
    seen = misses < looks * share
    return seen and log_evidence(looks, misses, share) >= -math.log1p(-confidence)


def upper_bound(looks: int, misses: int, confidence: float = CONFIDENCE) -> float:
    """The largest share of images with a miss that the looks leave possible.

    Args:
        looks: Images that a person looked at, in the order in which they came in.
        misses: Those of them in which the detector's first answer missed something.
        confidence: Probability that the bound is right at all times together.

    Returns:
        0 to 1; 1 before the first look.

    Raises:
        ValueError: A number is out of its range.
    """
    _refuse(looks, misses)
    if misses == looks:
        return 1.0
    enough = -math.log1p(-confidence)
    low, high = max(misses / looks, 1e-12), 1.0 - 1e-12
    # M is at most 1 at the share that was seen, and grows from there without limit.
    root = scipy.optimize.brentq(
        lambda p: log_evidence(looks, misses, p) - enough, low, high, xtol=1e-12
    )
    return float(root)


def looks_needed(share: float, misses: int = 0, confidence: float = CONFIDENCE) -> int:
    """The fewest looks, with this many misses among them, that bring the bound to a share."""
    low, high = 0, 64
    while not at_most(high, misses, share, confidence):
        low, high = high, high * 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if at_most(middle, misses, share, confidence) else (middle, high)
    return high


def _refuse(looks: int, misses: int) -> None:
    if not 0 <= misses <= looks:
        raise ValueError(f"{misses} misses in {looks} looks")

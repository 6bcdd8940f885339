"""Front door of :mod:`engine.detect`: what the other packages use of it.

Networks, profiles, and what is known of how well they do.
"""

from __future__ import annotations

from engine.detect.custom_network import Shape
from engine.detect.custom_networks import (
    GuestRecord,
    Guests,
    Luggage,
    SentNetwork,
    guest_sandbox,
)
from engine.detect.detector import (
    Detector,
    Guest,
    Profile,
    merge,
)
from engine.detect.drift import (
    Drift,
    Month,
    compared,
)
from engine.detect.networks import ModelInfo
from engine.detect.profile_comparison import (
    Comparison,
    Side,
)
from engine.detect.profile_store import (
    ProfileEntry,
    Profiles,
)
from engine.detect.text_verdict import (
    UNKNOWN,
    Judgement,
    Known,
)

__all__ = [
    "UNKNOWN",
    "Comparison",
    "Detector",
    "Drift",
    "Guest",
    "GuestRecord",
    "Guests",
    "Judgement",
    "Known",
    "Luggage",
    "ModelInfo",
    "Month",
    "Profile",
    "ProfileEntry",
    "Profiles",
    "SentNetwork",
    "Shape",
    "Side",
    "compared",
    "guest_sandbox",
    "merge",
]

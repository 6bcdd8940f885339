"""Front door of :mod:`engine.detect`: what the other packages use of it.

Networks, profiles, and what is known of how well they do.
"""

from __future__ import annotations

from engine.detect.custom_network import Shape
from engine.detect.custom_networks import (
    CustomNetworkRecord,
    CustomNetworkStore,
    PackedModel,
    SentNetwork,
    custom_network_sandbox,
)
from engine.detect.detector import (
    CustomNetworkSource,
    Detector,
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
    "CustomNetworkRecord",
    "CustomNetworkSource",
    "CustomNetworkStore",
    "Detector",
    "Drift",
    "Judgement",
    "Known",
    "ModelInfo",
    "Month",
    "PackedModel",
    "Profile",
    "ProfileEntry",
    "Profiles",
    "SentNetwork",
    "Shape",
    "Side",
    "compared",
    "custom_network_sandbox",
    "merge",
]

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
from engine.detect.learned_files import SUFFIX as NETWORK_SUFFIX
from engine.detect.learned_files import (
    LearnedFile,
    NetworkCard,
    SetFigures,
    read_learned,
)
from engine.detect.network_versions import (
    NetworkVersions,
    SentVersion,
    ShadowCounts,
    VersionStanding,
)
from engine.detect.networks import ModelInfo
from engine.detect.own_versions import (
    LEARNING,
    LEARNT,
    LICENCE,
    MissingVersion,
    OwnVersion,
    shipped_name,
    version_name,
)
from engine.detect.profile_comparison import (
    Comparison,
    Side,
)
from engine.detect.profile_store import (
    ProfileEntry,
    Profiles,
)
from engine.detect.standing import FEWEST as FEWEST_STANDING
from engine.detect.standing import Standing
from engine.detect.text_verdict import (
    UNKNOWN,
    Judgement,
    Known,
)

__all__ = [
    "FEWEST_STANDING",
    "LEARNING",
    "LEARNT",
    "LICENCE",
    "NETWORK_SUFFIX",
    "UNKNOWN",
    "Comparison",
    "CustomNetworkRecord",
    "CustomNetworkSource",
    "CustomNetworkStore",
    "Detector",
    "Drift",
    "Judgement",
    "Known",
    "LearnedFile",
    "MissingVersion",
    "ModelInfo",
    "Month",
    "NetworkCard",
    "NetworkVersions",
    "OwnVersion",
    "PackedModel",
    "Profile",
    "ProfileEntry",
    "Profiles",
    "SentNetwork",
    "SentVersion",
    "SetFigures",
    "ShadowCounts",
    "Shape",
    "Side",
    "Standing",
    "VersionStanding",
    "compared",
    "custom_network_sandbox",
    "merge",
    "read_learned",
    "shipped_name",
    "version_name",
]

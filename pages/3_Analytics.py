"""Numbers of all sealed images, without a patient in sight; every chart says what it shows."""

from __future__ import annotations

from engine import Permission
from ui import analytics, state

analytics.page(state.page("Analytics", Permission.STATISTICS))

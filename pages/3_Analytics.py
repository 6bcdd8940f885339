"""Analytics: statistics of all sealed images, without patient data."""

from __future__ import annotations

from engine import Permission
from ui import analytics, state

analytics.page(state.page("Analytics", Permission.STATISTICS))

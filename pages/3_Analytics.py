"""Numbers of all sealed images, without a patient in sight; every chart says what it shows."""

from __future__ import annotations

import streamlit as st

from engine import Permission
from ui import analytics, state

token = state.page("Analytics", Permission.STATISTICS)
statistics = state.engine().statistics(token)
analytics.totals(statistics)
if statistics.totals["images"]:
    analytics.charts(analytics.filtered(statistics))
else:
    st.info(
        "Nothing to show: no image has been sealed yet, or so few patients' that they could be"
        " recognised.",
        icon=":material/monitoring:",
    )

"""The charts of the Analytics page and the filters in front of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from engine import Statistics
from ui import charts as drawn
from ui import panes, state


def totals(statistics: Statistics) -> None:
    """Counts and sums over everything."""
    of = statistics.totals
    panes.figures(
        [
            ("Sealed images", f"{of['images']:.0f}"),
            ("Sealed regions", f"{of['regions']:.0f}"),
            ("Originals", panes.size(of["original_bytes"])),
            ("Stored for them", panes.size(of["stored_bytes"])),
        ]
    )


def filtered(statistics: Statistics) -> Statistics:
    """The images that the visitor wants to see; regions stay, they do not say whose they are."""
    modalities = sorted(statistics.images["modality"].unique())
    if len(modalities) < 2:
        return statistics
    chosen = st.multiselect("Modality", modalities, default=modalities)
    kept = statistics.images[statistics.images["modality"].isin(chosen)]
    if len(chosen) < len(modalities):
        st.caption(
            f"{len(kept)} of {len(statistics.images)} images. Charts of regions show all of them."
        )
    return replace(statistics, images=kept)


def charts(statistics: Statistics) -> None:
    """Every chart with its heading, its one sentence, and what is to be seen in words."""
    images, regions = statistics.images, statistics.regions
    what, trust, work = st.tabs(["Privacy", "Detection", "Work"], key="analytics-tabs")
    with what:
        _chart(drawn.entropy, images)
        _chart(drawn.similarity, images)
    with trust:
        threshold = st.slider(
            "Threshold to try", 0.0, 1.0, state.engine().settings.confidence, 0.01, key="threshold"
        )
        _chart(drawn.thresholds, regions, threshold)
        _chart(drawn.confidence, regions, threshold)
    with work:
        _chart(drawn.volumes, images)
        _chart(drawn.stage_times, images)
        _chart(drawn.storage, images)


def _chart(draw: Callable, *values: object) -> None:
    figure = draw(*values, dark=st.context.theme.type == "dark")
    words = figure.layout.meta
    with st.container(border=True):
        st.header(words["title"])
        st.write(words["explains"])
        st.plotly_chart(figure, theme=None, config=drawn.CONFIG, key=f"chart-{draw.__name__}")
        with st.expander("In words"):
            st.write(words["describes"])

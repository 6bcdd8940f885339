"""The Analytics page: filters, charts and tables to download.

Filters select whole months, modalities and classes only. Anything finer could reveal groups of
few patients to accounts without access to single images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from engine import Statistics
from ui import charts as drawn
from ui import cipher_charts, state, widgets
from ui.query_params import asked, asked_list, tell


@dataclass(frozen=True)
class Choice:
    """The chosen filters; None means no filter."""

    modalities: list[str] | None
    labels: list[str] | None
    since: datetime | None
    until: datetime | None

    def of(self, whole: Statistics) -> Statistics:
        return whole.only(self.modalities, self.since, self.until, self.labels)

    def query(self) -> str:
        """The filters as a query string for the download links."""
        pairs: list[tuple[str, str]] = [("modality", m) for m in self.modalities or ()]
        pairs += [("label", name) for name in self.labels or ()]
        days = (("since", self.since), ("until", self.until))
        return urlencode(pairs + [(name, day.isoformat()) for name, day in days if day])


def page(token: str) -> None:
    """Filters, counts, charts, tables."""
    whole = state.engine().statistics.tables(token)
    if whole.images.empty:
        st.info(
            "No data yet: no image has been sealed, or the images belong to so few patients that"
            " they could be recognised." + _withheld(whole),
            icon=":material/monitoring:",
        )
        return
    if not whole.single:
        st.caption(
            "Months and modalities are shown in groups of at least five patients; smaller groups"
            " stay hidden until they have grown. Values are shuffled within each column, so that"
            " no row describes one image." + _withheld(whole)
        )
    choice = _choose(whole)
    shown = choice.of(whole)
    totals(shown)
    charts(token, shown)
    _take_away(choice)


def _withheld(whole: Statistics) -> str:
    """How many images are not shown, and why."""
    if not whole.withheld:
        return ""
    return (
        f" Shown: {widgets.counted(len(whole.images), 'image')}. Up to {whole.withheld:,} more are"
        " withheld, and those of the newest patients, because fewer than five patients have images"
        " of their month and modality so far."
    )


def totals(statistics: Statistics) -> None:
    """Counts, sums and throughput of the selected images."""
    of, speed = statistics.totals, statistics.throughput
    widgets.figures(
        [
            ("Sealed images", f"{of['images']:,.0f}"),
            ("Sealed regions", f"{of['regions']:,.0f}"),
            ("Originals", widgets.size(of["original_bytes"])),
            ("Stored", widgets.size(of["stored_bytes"])),
        ]
    )
    if speed is not None:
        st.caption(
            f"Throughput of one busy worker: {speed.images_per_second:.2f} images and"
            f" {widgets.size(speed.bytes_per_second)} per second."
        )


# --- what to show -----------------------------------------------------------------------------


def _choose(whole: Statistics) -> Choice:
    """Filters kept in the URL; a click on a bar of a chart sets them too."""
    days = whole.images["uploaded_at"]
    months = [f"{m}" for m in pd.period_range(days.min(), days.max(), freq="M")]
    labels = sorted(whole.regions["label"].unique()) if len(whole.regions) else []
    with st.container(border=True):
        first, second, third, fourth = st.columns([2, 2, 1, 1])
        modalities = _several(
            "Modality", "modality", sorted(whole.images["modality"].unique()), first
        )
        classes = _several("Class (charts of regions only)", "class", labels, second)
        since, until = _month("From", "from", months, third), _month("To", "to", months, fourth)
        st.caption("Click a bar in *Images over time*, *Storage* or *Regions* to filter by it.")
    return Choice(
        modalities or None,
        classes or None,
        datetime.strptime(since, "%Y-%m") if since else None,  # noqa: DTZ007 (UTC, as stored)
        _end_of(until) if until else None,
    )


def _several(label: str, name: str, options: Sequence[str], where: Any) -> list[str]:
    chosen: list[str] = where.multiselect(
        label,
        options,
        default=[o for o in asked_list(name) if o in options],
        placeholder="All",
        key=f"analytics-{name}-{state.turn('analytics')}",
    )
    tell(name, ",".join(chosen))
    return chosen


def _month(label: str, name: str, months: Sequence[str], where: Any) -> str | None:
    chosen: str | None = where.selectbox(
        label,
        months,
        index=months.index(asked(name)) if asked(name) in months else None,
        placeholder="Any",
        key=f"analytics-{name}-{state.turn('analytics')}",
    )
    tell(name, chosen)
    return chosen


def _end_of(month: str) -> datetime:
    begins = datetime.strptime(month, "%Y-%m")  # noqa: DTZ007 (UTC, as stored)
    return (begins + timedelta(days=32)).replace(day=1) - timedelta(microseconds=1)


def _pick(event: Any) -> None:
    """Make the clicked bars the filter of all charts."""
    points = event.selection.points if event is not None else []
    chosen = [p["customdata"] for p in points if p.get("customdata")]
    if not chosen:
        return
    for name in {name for data in chosen for name in dict(data)}:
        values = sorted({dict(data)[name] for data in chosen if name in dict(data)})
        if name == "month":
            tell("from", values[0])
            tell("to", values[-1])
        else:
            tell(name, ",".join(values))
    state.renew("analytics")  # new widgets read the URL; the chart selection is cleared
    st.rerun()


# --- charts -----------------------------------------------------------------------------------


def charts(token: str, statistics: Statistics) -> None:
    """All charts, each with heading, explanation and a description in words."""
    images, regions = statistics.images, statistics.regions
    privacy, detection, work, random = st.tabs(
        ["Privacy", "Detection", "Work", "Randomness"], key="analytics-tabs"
    )
    with privacy:
        _chart(drawn.entropy, images)
        _chart(drawn.similarity, images)
    with detection:
        threshold = st.slider(
            "Threshold to try", 0.0, 1.0, state.engine().settings.confidence, 0.01, key="threshold"
        )
        _chart(drawn.thresholds, regions, threshold)
        _chart(drawn.confidence, regions, threshold)
        _chart(drawn.classes, regions, pick=True)
    with work:
        _chart(drawn.volumes, images, pick=True)
        _chart(drawn.stage_times, images)
        _chart(drawn.storage, images, pick=True)
    with random:
        _randomness(token)


def _randomness(token: str) -> None:
    """Randomness tests, run on request because they read a sample of stored files."""
    st.write(
        "Measures up to 200 randomly chosen stored images, and encryptions of a made-up plaintext."
        " Nothing is decrypted. Good figures show that nothing obvious is wrong; they do not prove"
        " that a cipher is secure."
    )
    if st.button("Measure now", icon=":material/science:"):
        with widgets.banner(), st.spinner("Reading stored files …"):
            state.keep("randomness", state.engine().randomness.measure(token))
    measured = state.recall("randomness")
    if measured is not None:
        st.caption(
            f"{measured.regions:,} regions of {measured.images:,} images,"
            f" {widgets.size(measured.size_bytes)}. Regions under 1,280 bytes are not tested."
        )
        for draw in cipher_charts.CIPHER_CHARTS:
            _chart(draw, measured)


def _chart(draw: Callable, *values: object, pick: bool = False) -> None:
    figure = draw(*values, dark=st.context.theme.type == "dark")
    words = figure.layout.meta
    key = f"chart-{draw.__name__}-{state.turn('analytics')}"
    with st.container(border=True):
        st.header(words["title"])
        st.write(words["explains"])
        if pick:
            figure.update_layout(clickmode="event+select", dragmode=False)
            _pick(
                st.plotly_chart(
                    figure, theme=None, config=drawn.CONFIG, key=key, on_select="rerun",
                    selection_mode="points",
                )
            )  # fmt: skip
        else:
            st.plotly_chart(figure, theme=None, config=drawn.CONFIG, key=key)
        with st.expander("In words"):
            st.write(words["describes"])


def _take_away(choice: Choice) -> None:
    st.header("Tables")
    st.caption("The data behind the charts, with the current filters. Every download is logged.")
    with st.container(horizontal=True):
        for table in ("images", "regions"):
            for format, name in (("csv", "CSV"), ("parquet", "Parquet")):
                query = "&".join(filter(None, [f"format={format}", choice.query()]))
                st.link_button(
                    f"{table.capitalize()}, {name}",
                    f"/api/statistics/{table}/?{query}",
                    icon=":material/download:",
                )

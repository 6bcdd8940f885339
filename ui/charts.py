"""Plotly figures from tables: no Streamlit, and no numbers that are not in the tables.

Figures are sent to the browser. Charts of many images therefore hold percentiles and counts
only, never rows, minima or maxima. The caller suppresses small groups beforehand.

Every figure carries three texts in ``figure.layout.meta``: ``title`` for a heading,
``explains``, what the chart shows, and ``describes``, its data in words for users who cannot
see it. Show it with ``st.plotly_chart(figure, theme=None, config=CONFIG)``
and ``dark=st.context.theme.type == "dark"``.

Tables are pandas DataFrames. A missing column raises ``ValueError``; missing values (NaN) are
skipped.

``images``, one row per image:

=================================  =====================================================
``uploaded_at``                    datetime, UTC
``modality``                       text
``size_bytes``, ``stored_bytes``   original file; all that is stored for it
``entropy_original_bits``          bits per byte, with ``entropy_masked_bits``,
                                   ``entropy_sealed_bits``, ``entropy_sealed_expected_bits``
``entropy_sealed_low_bits``        optional, with ``entropy_sealed_high_bits``: the band in
                                   which 99.9 % of random bytes of that length lie
``ssim``, ``histogram_correlation``  -1 to 1
``psnr_db``                        dB; infinite where nothing differs
``average_hash_distance_bits``     0 to 64, with ``perceptual_hash_distance_bits``
``*_ms``                           one column per stage, in the order of the work
=================================  =====================================================

``regions``, one row per region: ``label``, ``confidence`` (0 to 1), ``area_px``,
``entropy_before_bits``, ``entropy_after_bits``, ``expected_bits`` (bits per byte), and
optionally ``expected_low_bits``, ``expected_high_bits``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ui import widgets
from ui.chart_style import (
    CONFIG,
    DASHES,
    GREY,
    OTHER,
    PALETTE,
    SYMBOLS,
    TEXT,
    band,
    empty,
    fill,
    finish,
    grouped,
    need,
    summary,
    threshold_line,
)

__all__ = ["CHARTS", "CONFIG", "classes", "confidence", "entropy", "image_regions", "similarity",
           "stage_times", "storage", "thresholds", "volumes"]  # fmt: skip


def entropy(images: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Entropy of original, masked and sealed data, and its distance from random bytes."""
    title = "Entropy"
    explains = (
        "Shannon entropy per byte (box: middle half of the images, whiskers: 90 %): sealed data"
        " should be as unpredictable as random bytes of the same length, which reach slightly less"
        " than 8 bits."
    )
    names = {
        "entropy_original_bits": "Original",
        "entropy_masked_bits": "Masked",
        "entropy_sealed_bits": "Sealed",
        "entropy_sealed_expected_bits": "Random bytes",
    }
    images = need(images, names)
    table = images[list(names)].dropna(how="all")
    if table.empty:
        return empty(title, explains, "No image has been measured yet.", dark)
    figure = make_subplots(rows=2, cols=1, row_heights=[0.68, 0.32], vertical_spacing=0.28)
    for column, name in names.items():
        colour = GREY if column == "entropy_sealed_expected_bits" else PALETTE[0]
        summary(figure, name, table[column], row=1, colour=colour)
    medians = table.median().dropna()
    described = "; ".join(f"{names[c].lower()} {median:.3f}" for c, median in medians.items())
    describes = f"Median bits per byte of {len(table)} images: {described}."
    expected = images["entropy_sealed_expected_bits"]
    distance = (images["entropy_sealed_bits"] - expected).dropna()
    summary(figure, "Sealed minus<br>random", distance, row=2)
    unit = "bits per byte"
    if len(distance) and {"entropy_sealed_low_bits", "entropy_sealed_high_bits"} <= {*images}:
        low, high = images["entropy_sealed_low_bits"], images["entropy_sealed_high_bits"]
        edges = (low - expected).median(), (high - expected).median()
        band(figure, *edges, row=2)
        unit += "; shaded: 99.9 %<br>of random bytes (median band)"
        reach = 1.3 * max(map(abs, (*edges, *distance.quantile([0.05, 0.95]))))
        figure.update_xaxes(range=[-reach, reach], row=2, col=1)
        inside = images["entropy_sealed_bits"].between(low, high).sum()
        describes += (
            f" {inside} of {len(distance)} sealed images lie in the band that holds 99.9 % of"
            " random data of their length."
        )
    figure.update_xaxes(range=[0, 8.2], title="bits per byte", row=1, col=1)
    figure.update_xaxes(title=unit, exponentformat="none", nticks=5, row=2, col=1)
    figure.update_yaxes(autorange="reversed")
    return finish(figure, title, explains, describes, 400, dark)


def similarity(images: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Original against masked picture: SSIM, histogram, PSNR, hash distances."""
    title = "Similarity of masked and original"
    explains = (
        "How similar the masked picture is to the original: high similarity means that little was"
        " covered, low similarity that much was covered; neither is good or bad in itself."
    )
    panels = (
        ("1 = identical", {"ssim": "SSIM", "histogram_correlation": "Histogram<br>correlation"}),
        ("dB, higher = more similar", {"psnr_db": "PSNR"}),
        (
            "differing bits of 64",
            {
                "average_hash_distance_bits": "Average hash",
                "perceptual_hash_distance_bits": "Perceptual hash",
            },
        ),
    )
    columns = [column for _, names in panels for column in names]
    images = need(images, columns)
    table = images[columns].astype(float).dropna(how="all")
    if table.empty:
        return empty(title, explains, "No image has been compared yet.", dark)
    equal = np.isinf(table["psnr_db"])
    figure = make_subplots(rows=3, cols=1, row_heights=[0.4, 0.2, 0.4], vertical_spacing=0.2)
    described = []
    for row, (unit, names) in enumerate(panels, 1):
        for column, name in names.items():
            finite = table[column].replace([np.inf, -np.inf], np.nan)
            summary(figure, name, finite, row=row)
            if finite.notna().any():
                described.append(f"{name.replace('<br>', ' ')} {finite.median():.3g}")
        figure.update_xaxes(title=unit, row=row, col=1)
    lowest = table[["ssim", "histogram_correlation"]].quantile(0.05).min()
    figure.update_xaxes(range=[min(0.0, 1.1 * lowest), 1.02], row=1, col=1)
    figure.update_xaxes(range=[-1, 65], row=3, col=1)
    figure.update_yaxes(autorange="reversed")
    describes = f"Medians of {len(table)} images: {', '.join(described)}."
    if equal.any():
        describes += f" {equal.sum()} unchanged images have infinite PSNR and are not drawn."
        figure.add_annotation(
            text=f"{equal.sum()} unchanged (infinite): not drawn",
            xref="x2 domain",
            yref="y2 domain",
            x=1,
            y=1,
            yanchor="bottom",
            xanchor="right",
            showarrow=False,
            font={"size": 12},
        )
    return finish(figure, title, explains, describes, 520, dark)


def confidence(
    regions: pd.DataFrame,
    threshold: float,
    proposal_threshold: float | None = None,
    dark: bool = False,
) -> go.Figure:
    """Confidence by class, with the threshold at which boxes are sealed."""
    title = "Confidence by class"
    explains = (
        "Confidence of the detector for each box: boxes right of the line are sealed automatically,"
        " boxes between the two lines need review."
        if proposal_threshold is not None
        else "Confidence of the detector for each box: boxes right of the line are sealed"
        " automatically."
    )
    regions = need(regions, ["label", "confidence"])
    table = grouped(regions.dropna(subset=["confidence"]), "label")
    if table.empty:
        return empty(title, explains, "No region has been found yet.", dark)
    figure = go.Figure()
    groups = table.groupby("label")["confidence"]
    order = groups.size().sort_values(ascending=False)
    for label, size in order.items():
        summary(figure, f"{label} ({size})", groups.get_group(label))
    threshold_line(figure, threshold, "sealed", dark)
    if proposal_threshold is not None:
        threshold_line(figure, proposal_threshold, "proposed", dark, dash="dot")
    figure.update_xaxes(range=[0, 1.02], title="confidence")
    figure.update_yaxes(autorange="reversed")
    described = ", ".join(
        f"{label} {groups.get_group(label).median():.2f} of {size}" for label, size in order.items()
    )
    describes = f"Median confidence and number of boxes: {described}."
    return finish(figure, title, explains, describes, 150 + 48 * len(order), dark)


def classes(regions: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Number of sealed regions of each class."""
    title = "Regions"
    explains = "Number of sealed regions of each class."
    regions = need(regions, ["label", "confidence"])
    table = grouped(regions.dropna(subset=["confidence"]), "label")
    if table.empty:
        return empty(title, explains, "No region has been sealed yet.", dark)
    counts = table["label"].value_counts()
    figure = go.Figure()
    figure.add_bar(
        x=counts,
        y=counts.index,
        orientation="h",
        marker=fill(0),
        text=[f"{count:,}" for count in counts],
        textposition="outside",
        cliponaxis=False,
        customdata=[_picked("class", label) for label in counts.index],
        hovertemplate="%{x} regions<extra>%{y}</extra>",
        showlegend=False,
    )
    most = int(counts.max())
    figure.update_xaxes(range=[0, 1.25 * most], title="regions", dtick=_step(most))
    figure.update_yaxes(autorange="reversed")
    described = ", ".join(f"{label} {count:,}" for label, count in counts.items())
    describes = f"{len(table):,} regions: {described}."
    return finish(figure, title, explains, describes, 130 + 44 * len(counts), dark)


def _step(most: int) -> int | None:
    """From mark to mark on an axis of counts: there is no half image. None leaves it to Plotly."""
    return 1 if most <= 5 else None


def _picked(column: str, value: object, month: Any = None) -> dict[str, str]:
    """The filter that a click on a bar sets; ``other`` and ``unknown`` are no filter."""
    picked = {} if value in (OTHER, "unknown") else {column: str(value)}
    return picked if month is None else {**picked, "month": f"{month:%Y-%m}"}


def thresholds(regions: pd.DataFrame, threshold: float, dark: bool = False) -> go.Figure:
    """How many boxes of each class would be sealed at another threshold."""
    title = "What another threshold would seal"
    explains = (
        "Number of boxes at or above each confidence: where a curve is steep near the line, a small"
        " change of the threshold seals many more or many fewer boxes."
    )
    regions = need(regions, ["label", "confidence"])
    table = grouped(regions.dropna(subset=["confidence"]), "label")
    if table.empty:
        return empty(title, explains, "No region has been found yet.", dark)
    steps = np.linspace(0, 1, 101)
    figure = go.Figure()
    described = []
    for i, (label, values) in enumerate(table.groupby("label")["confidence"]):
        ranked = np.sort(values.to_numpy())
        kept = ranked.size - np.searchsorted(ranked, steps - 1e-9)
        figure.add_scatter(
            x=steps,
            y=kept,
            name=str(label),
            mode="lines+markers",
            line={"color": PALETTE[i], "dash": DASHES[i], "width": 2},
            marker={"symbol": SYMBOLS[i], "size": 8, "maxdisplayed": 11},
            hovertemplate="%{y} boxes from %{x:.2f}<extra>" + str(label) + "</extra>",
        )
        now = ranked.size - int(np.searchsorted(ranked, threshold - 1e-9))
        described.append(f"{label} {now} of {ranked.size}")
    threshold_line(figure, threshold, "sealed", dark)
    figure.update_xaxes(range=[0, 1.02], title="threshold")
    most = int(table["label"].value_counts().max())
    figure.update_yaxes(rangemode="tozero", title="boxes", dtick=_step(most))
    describes = f"Sealed at the threshold of {threshold:g}: {', '.join(described)}."
    return finish(figure, title, explains, describes, 380, dark)


def stage_times(images: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Median, 95th and 99th percentile of every stage."""
    title = "Time per stage"
    explains = (
        "Time of each stage, rounded for people who see no single images: half of the images took"
        " no longer than the circle, 95 % no longer than the square, 99 % no longer than the"
        " diamond."
    )
    columns = [column for column in images.columns if str(column).endswith("_ms")]
    table = images[columns].dropna(axis=1, how="all")
    if table.empty:
        return empty(title, explains, "No time has been measured yet.", dark)
    columns = list(table.columns)
    names = [str(column).removesuffix("_ms") for column in columns]
    rows = [widgets.stage(name) for name in names]
    # Linear interpolation between ranks, as engine.metrics.percentiles does.
    ranks = table.quantile([0.5, 0.95, 0.99])
    figure = go.Figure()
    for i, column in enumerate(columns):
        figure.add_scatter(
            x=ranks[column],
            y=[rows[i]] * 3,
            mode="lines",
            line={"color": GREY, "width": 2},
            hoverinfo="skip",
            showlegend=False,
        )
    for i, (share, name) in enumerate(((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))):
        figure.add_scatter(
            x=ranks.loc[share],
            y=rows,
            name=name,
            mode="markers",
            marker={"symbol": SYMBOLS[i], "size": 11, "color": PALETTE[i]},
            hovertemplate="%{x:.1f} ms<extra>%{y}, " + name + "</extra>",
        )
    described = ", ".join(
        f"{row.lower()} {ranks[c][0.5]:.1f}" for row, c in zip(rows, columns, strict=True)
    )
    describes = f"Median milliseconds over {len(table)} images: {described}."
    figure.update_xaxes(rangemode="tozero", title="milliseconds")
    figure.update_yaxes(autorange="reversed")
    return finish(figure, title, explains, describes, 170 + 36 * len(rows), dark)


def volumes(images: pd.DataFrame, by: str = "modality", dark: bool = False) -> go.Figure:
    """Images over time, stacked by a column of text."""
    title = "Images over time"
    images = need(images, ["uploaded_at", by])
    table = grouped(images.dropna(subset=["uploaded_at"]), by)
    if table.empty:
        return empty(
            title, f"Uploaded images over time, by {by}.", "No image has been uploaded yet.", dark
        )
    uploaded = pd.to_datetime(table["uploaded_at"], utc=True).dt.tz_localize(None)
    span = uploaded.max() - uploaded.min()
    # Who sees groups only is told months, as their first moments: a day would be invented.
    whole_months = (uploaded == uploaded.dt.to_period("M").dt.start_time).all()
    period, unit, width = (
        ("M", "month", "M1")
        if whole_months
        else ("D", "day", 86_400_000)
        if span <= pd.Timedelta(days=62)
        else ("W", "week", 7 * 86_400_000)
        if span <= pd.Timedelta(days=366)
        else ("M", "month", "M1")
    )
    counts = table.groupby([uploaded.dt.to_period(period).dt.start_time, by]).size()
    counts = counts.unstack(fill_value=0)
    figure = go.Figure()
    for i, column in enumerate(counts.columns):
        figure.add_bar(
            x=counts.index,
            y=counts[column],
            name=str(column),
            xperiod=width,
            xperiodalignment="middle",
            marker=fill(i),
            customdata=[_picked(by, column, month) for month in counts.index],
            hovertemplate="%{y} in the "
            + unit
            + (" %{x|%Y-%m}" if period == "M" else " of %{x|%Y-%m-%d}")
            + "<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.25)
    most = int(counts.sum(axis=1).max())
    figure.update_yaxes(rangemode="tozero", title=f"images per {unit}", dtick=_step(most))
    figure.update_xaxes(title="uploaded (UTC)")
    if len(counts.index) <= _FEW_PERIODS:  # an axis of one month would show its milliseconds
        ends = counts.index.to_period(period).end_time
        figure.update_xaxes(
            tickvals=counts.index + (ends - counts.index) / 2,
            ticktext=[_period(start, period) for start in counts.index],
        )
    described = ", ".join(f"{column} {counts[column].sum()}" for column in counts.columns)
    return finish(
        figure,
        title,
        f"Number of images uploaded per {unit}, by {by}.",
        f"{len(table)} images since {_period(uploaded.min(), period)}: {described}.",
        380,
        dark,
    )


def _period(start: pd.Timestamp, period: str) -> str:
    """A month, or the day on which a day or a week begins."""
    return f"{start:%Y-%m}" if period == "M" else f"{start:%Y-%m-%d}"


#: Up to so many bars each gets its own mark on the axis.
_FEW_PERIODS = 6


def storage(images: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Bytes of the uploaded files and of everything stored for them, by modality."""
    title = "Storage"
    explains = (
        "Megabytes uploaded, and megabytes stored for them: masked files, pictures and sealed"
        " regions together."
    )
    images = need(images, ["modality", "size_bytes", "stored_bytes"])
    table = grouped(images.dropna(subset=["size_bytes", "stored_bytes"]), "modality")
    if table.empty:
        return empty(title, explains, "Nothing is stored yet.", dark)
    sums = table.groupby("modality")[["size_bytes", "stored_bytes"]].sum() / 1e6
    sums = sums.sort_values("size_bytes", ascending=False)
    figure = go.Figure()
    for i, (column, name) in enumerate((("size_bytes", "uploaded"), ("stored_bytes", "stored"))):
        figure.add_bar(
            x=sums[column],
            y=sums.index.astype(str),
            name=name,
            orientation="h",
            marker=fill(i),
            text=[f"{value:,.1f}" for value in sums[column]],
            textposition="outside",
            cliponaxis=False,
            customdata=[_picked("modality", kind) for kind in sums.index],
            hovertemplate="%{x:,.1f} MB<extra>%{y}, " + name + "</extra>",
        )
    figure.update_layout(barmode="group")
    # Space for the number beside the longest bar, also on a phone.
    figure.update_xaxes(range=[0, 1.3 * sums.max().max()], title="MB (10<sup>6</sup> bytes)")
    figure.update_yaxes(autorange="reversed")
    came, stored = sums["size_bytes"].sum(), sums["stored_bytes"].sum()
    describes = f"{len(table)} images: {came:,.1f} MB uploaded, {stored:,.1f} MB stored."
    return finish(figure, title, explains, describes, 150 + 64 * len(sums), dark)


def image_regions(regions: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Entropy of the regions of one image; only for accounts with access to its metrics."""
    title = "Entropy of each region"
    explains = (
        "Shannon entropy per byte of the original and of the encrypted content of each box,"
        " compared with random bytes of that length."
    )
    before, after, expected = "entropy_before_bits", "entropy_after_bits", "expected_bits"
    regions = need(regions, ["label", before, after, expected])
    if regions.empty:
        return empty(title, explains, "Nothing was sealed in this image.", dark)
    rows = [f"{i} {label}" for i, label in enumerate(regions["label"], 1)]
    figure = go.Figure()
    for i, (column, name) in enumerate(((before, "original"), (after, "sealed"))):
        figure.add_bar(
            x=regions[column],
            y=rows,
            name=name,
            orientation="h",
            marker=fill(i),
            hovertemplate="%{x:.3f} bits per byte<extra>%{y}, " + name + "</extra>",
        )
    band = {}
    if {"expected_low_bits", "expected_high_bits"} <= {*regions.columns}:
        band["error_x"] = {
            "type": "data",
            "array": regions["expected_high_bits"] - regions[expected],
            "arrayminus": regions[expected] - regions["expected_low_bits"],
            "width": 8,
            "color": TEXT[dark],
        }
    figure.add_scatter(
        x=regions[expected],
        y=rows,
        name="random bytes of that length",
        mode="markers",
        marker={"symbol": "line-ns", "size": 22, "line": {"width": 2, "color": TEXT[dark]}},
        hovertemplate="%{x:.3f} bits per byte<extra>%{y}, random bytes</extra>",
        **band,
    )
    figure.update_layout(barmode="group")
    figure.update_xaxes(range=[0, 8.2], title="bits per byte")
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5])
    described = "; ".join(
        f"{row}: {b:.2f} before, {a:.2f} sealed, {e:.2f} expected"
        for row, b, a, e in zip(
            rows, regions[before], regions[after], regions[expected], strict=True
        )
    )
    describes = f"Bits per byte of {len(rows)} regions. {described}."
    return finish(figure, title, explains, describes, 170 + 48 * len(rows), dark)


#: All charts, for pages that list them and for the test that checks their texts.
CHARTS = (
    entropy,
    similarity,
    confidence,
    thresholds,
    classes,
    stage_times,
    volumes,
    storage,
    image_regions,
)

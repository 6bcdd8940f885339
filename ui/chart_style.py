"""The common style of all charts: palette, patterns, fonts, boxes, lines, empty figures.

Nothing here depends on what a chart shows. Colour is never the only cue: series also differ in
pattern, dash or symbol, and rows have names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

#: For ``st.plotly_chart(config=...)``: no toolbar, follows the width of the page.
CONFIG = {"displayModeBar": False, "displaylogo": False, "responsive": True}

#: At least 3:1 against the light and the dark background alike; the first four stay apart
#: by 10 (CIEDE2000) or more under protanopia, deuteranopia and tritanopia.
PALETTE = ("#0078B4", "#D25A00", "#69965A", "#AC5280", "#A6761D", "#7F7F7F")
GREY = PALETTE[-1]
PATTERNS = ("", "/", ".", "x", "-", "+")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
OTHER = "other"
#: Text and grid on a light (False) and on a dark (True) page.
TEXT = {False: "#15232B", True: "#E4ECF0"}
GRID = {False: "#DCE4E8", True: "#31424C"}


def need(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Check that the table has the columns; an empty table gets them.

    Raises:
        ValueError: Columns are missing; the message lists them.
    """
    columns = list(columns)
    if table.empty:
        return pd.DataFrame(columns=columns, dtype=float)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"the table lacks the columns {', '.join(missing)}")
    return table


def grouped(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The table with the rarest groups merged into ``other``, at most six in all."""
    names = table[column].fillna("unknown").astype(str)
    common = names.value_counts()
    if len(common) > len(PALETTE):
        names = names.where(names.isin(common.index[: len(PALETTE) - 1]), OTHER)
    return table.assign(**{column: names})


def summary(
    figure: go.Figure,
    name: str,
    values: pd.Series,
    row: int | None = None,
    colour: str = PALETTE[0],
) -> None:
    """A horizontal box plot: quartiles, median, and whiskers at the 5th and 95th percentile.

    Only these five numbers are in the figure. Percentiles are interpolated linearly.
    """
    values = values.dropna()
    ranks = values.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).tolist() if len(values) else [None] * 5
    figure.add_trace(
        go.Box(
            y=[name],
            orientation="h",
            lowerfence=[ranks[0]],
            q1=[ranks[1]],
            median=[ranks[2]],
            q3=[ranks[3]],
            upperfence=[ranks[4]],
            name=name.replace("<br>", " "),
            marker_color=colour,
            line_width=2,
            width=0.55,
            xhoverformat=".4~g",
            showlegend=False,
        ),
        **({} if row is None else {"row": row, "col": 1}),
    )


def band(figure: go.Figure, low: float, high: float, row: int) -> None:
    """A shaded range with dashed borders."""
    figure.add_vrect(
        x0=low,
        x1=high,
        fillcolor=GREY,
        opacity=0.3,
        line={"color": GREY, "dash": "dash", "width": 2},
        layer="below",
        row=row,
        col=1,
    )


def threshold_line(
    figure: go.Figure, value: float, name: str, dark: bool, dash: str = "dash"
) -> None:
    """A line across the figure, named in the legend."""
    figure.add_vline(
        x=value,
        line={"color": TEXT[dark], "dash": dash, "width": 2},
        name=f"{name} at {value:g} or more",
        showlegend=True,
    )


def fill(i: int) -> dict[str, Any]:
    """The marker of the i-th bar: its own colour and pattern."""
    return {
        "color": PALETTE[i],
        "pattern": {
            "shape": PATTERNS[i],
            "bgcolor": PALETTE[i],
            "fgcolor": "rgba(255,255,255,0.7)",
            "size": 8,
            "solidity": 0.2,
        },
    }


def finish(
    figure: go.Figure, title: str, explains: str, describes: str, height: int, dark: bool
) -> go.Figure:
    """Apply the common style and store the three texts of a figure.

    The page shows the title as a heading, which wraps and which screen readers find.
    """
    text, grid = TEXT[dark], GRID[dark]
    figure.update_layout(
        template="none",
        meta={"title": title, "explains": explains, "describes": describes},
        font={"family": FONTS, "size": 13, "color": text},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"font": {"family": FONTS, "size": 13}},
        height=height,
        margin={"l": 8, "r": 24, "t": 24, "b": 8, "autoexpand": True},
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1.01,
            "yanchor": "bottom",
            "xanchor": "left",
            "traceorder": "normal",
            "itemclick": False,
            "itemdoubleclick": False,
        },
    )
    axis = {
        "automargin": True,
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "fixedrange": True,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def empty(title: str, explains: str, sentence: str, dark: bool) -> go.Figure:
    """A figure without data that says why."""
    figure = go.Figure()
    figure.add_annotation(
        text=sentence, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 15}
    )
    finish(figure, title, explains, sentence, 160, dark)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure

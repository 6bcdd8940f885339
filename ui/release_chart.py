"""The curve of a stream's bound, as a Plotly figure in the style of the others."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from ui.chart_style import PALETTE, TEXT, empty, finish

TITLE = "The bound over time"
EXPLAINS = (
    "Upper bound of the share of images with a miss after each look, right at all times together"
    " with a confidence of 95 %. Under the line of the profile the stream is trusted."
)


def release_bound(
    curve: Sequence[tuple[int, float]], at_most: float, dark: bool = False
) -> go.Figure:
    """How the bound of a stream came down with its looks, and the share that its profile allows.

    Args:
        curve: Number of looks, and the bound from 0 to 1.
        at_most: 0 where the profile has no rule any more.
    """
    if not curve:
        return empty(TITLE, EXPLAINS, "No person has looked at an image of this stream yet.", dark)
    looks, bounds = zip(*curve, strict=True)
    figure = go.Figure()
    figure.add_scatter(
        x=looks,
        y=[100 * b for b in bounds],
        name="bound",
        mode="lines",
        line={"color": PALETTE[0], "width": 2},
        hovertemplate="%{x} looks: at most %{y:.2f} %<extra></extra>",
        showlegend=True,
    )
    describes = f"After {looks[-1]:,} looks the bound is {bounds[-1]:.2%}."
    if at_most:
        figure.add_hline(
            y=100 * at_most,
            line={"color": TEXT[dark], "dash": "dash", "width": 2},
            name=f"allowed: {at_most:.3g}",
            showlegend=True,
        )
        describes += f" The profile allows {at_most:.2%}."
    figure.update_xaxes(title="looks")
    figure.update_yaxes(rangemode="tozero", title="images with a miss, % at most")
    return finish(figure, TITLE, EXPLAINS, describes, 320, dark)

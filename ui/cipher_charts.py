"""Charts of randomness tests of sealed data; conventions as in :mod:`ui.charts`.

Each takes ``measured``, an object with the fields of the engine's ``Randomness``.
"""

from __future__ import annotations

import itertools
from statistics import NormalDist
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ui.chart_style import PALETTE, SYMBOLS, TEXT, empty, fill, finish

__all__ = ["CIPHER_CHARTS", "neighbours", "sensitivity", "uniformity"]

_NOTHING = "No stored region is long enough to be tested yet."
_NPCR_IDEAL = 100 * 255 / 256
_UACI_IDEAL = 100 * (256**2 - 1) / (3 * 256) / 255


def uniformity(measured: Any, dark: bool = False) -> go.Figure:
    """P-values of the chi-square test of stored regions, against a uniform distribution."""
    title = "Are all byte values equally frequent?"
    explains = (
        "Pearson's chi-square test of each stored region against equally frequent bytes. For random"
        " data the p-values are spread evenly: bars should be near the line, and a tall first bar"
        " would be a bad sign."
    )
    values = np.asarray(measured.chi_square_p, float)
    if not values.size:
        return empty(title, explains, _NOTHING, dark)
    counts, edges = np.histogram(values, bins=10, range=(0, 1))
    expected = values.size / 10
    figure = go.Figure()
    figure.add_bar(
        x=(edges[:-1] + edges[1:]) / 2, y=counts, width=0.09, name="regions", marker=fill(0),
        hovertemplate="%{y} regions<extra>p about %{x:.2f}</extra>",
    )  # fmt: skip
    _line(figure, [0, 1], [expected] * 2, "expected for random bytes", dark)
    figure.update_xaxes(range=[0, 1], title="p-value", dtick=0.1)
    figure.update_yaxes(rangemode="tozero", title="regions")
    low = int((values < 0.01).sum())
    describes = (
        f"{values.size} regions of {measured.images} images; {low} have a p-value under 0.01;"
        f" for random data {values.size / 100:.1f} are expected."
    )
    return finish(figure, title, explains, describes, 320, dark)


def neighbours(measured: Any, dark: bool = False) -> go.Figure:
    """Correlation of neighbouring bytes of stored regions, in standard deviations."""
    title = "Do neighbouring bytes resemble each other?"
    explains = (
        "Correlation of each byte with the next, in standard deviations of random bytes of the same"
        " length. Most bars should lie between -2 and 2, like the curve; unencrypted pictures lie"
        " far to the right."
    )
    values = np.asarray(measured.correlation_z, float)
    if not values.size:
        return empty(title, explains, _NOTHING, dark)
    edges = np.linspace(-4, 4, 17)
    counts, _ = np.histogram(np.clip(values, -4, 4), bins=edges)
    normal = NormalDist()
    expected = [values.size * (normal.cdf(b) - normal.cdf(a)) for a, b in itertools.pairwise(edges)]
    middle = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure()
    figure.add_bar(
        x=middle, y=counts, width=0.45, name="regions", marker=fill(0),
        hovertemplate="%{y} regions<extra>about %{x:.2f} standard deviations</extra>",
    )  # fmt: skip
    _line(figure, middle, expected, "expected for random bytes", dark)
    figure.update_xaxes(
        range=[-4.2, 4.2],
        title="standard deviations (the outermost bars include all values beyond)",
    )
    figure.update_yaxes(rangemode="tozero", title="regions")
    inside = int((np.abs(values) < 2).sum())
    describes = (
        f"{inside} of {values.size} regions lie within 2 standard deviations; for random"
        f" data {0.9545 * values.size:.1f} are expected."
    )
    return finish(figure, title, explains, describes, 320, dark)


def sensitivity(measured: Any, dark: bool = False) -> go.Figure:
    """NPCR and UACI when one bit of the plaintext or of the key changes."""
    title = "Effect of one changed bit"
    explains = (
        "One bit of a made-up plaintext is changed and encrypted again with a fresh IV, as in"
        " normal use; or one bit of the key is changed, with the same IV. Every point should lie in"
        " the shaded band of independent random strings. With a fixed IV, CBC would spread a change"
        " of the plaintext forward only."
    )
    panels = (
        ("differing bytes (NPCR), %", measured.plaintext_npcr, measured.key_npcr, _NPCR_IDEAL,
         measured.npcr_low, 2 * _NPCR_IDEAL - measured.npcr_low),
        ("mean difference (UACI), %", measured.plaintext_uaci, measured.key_uaci, _UACI_IDEAL,
         measured.uaci_low, measured.uaci_high),
    )  # fmt: skip
    figure = make_subplots(rows=2, cols=1, vertical_spacing=0.32)
    described = []
    for row, (unit, plain, key, ideal, low, high) in enumerate(panels, 1):
        for i, (name, values) in enumerate((("plaintext bit", plain), ("key bit", key))):
            figure.add_scatter(
                x=values, y=[name] * len(values), mode="markers", name=name, showlegend=False,
                marker={"symbol": SYMBOLS[i], "size": 9, "color": PALETTE[i]},
                hovertemplate="%{x:.3f} %<extra>%{y}</extra>", row=row, col=1,
            )  # fmt: skip
        figure.add_vrect(
            x0=low, x1=high, fillcolor="#7F7F7F", opacity=0.25, line_width=0, layer="below",
            row=row, col=1,
        )  # fmt: skip
        figure.add_vline(
            x=ideal, line={"color": TEXT[dark], "dash": "dash", "width": 1}, row=row, col=1
        )
        reach = max(abs(v - ideal) for v in (*plain, *key, low, high)) * 1.25
        figure.update_xaxes(range=[ideal - reach, ideal + reach], title=unit, row=row, col=1)
        described.append(
            f"{unit.split(',')[0]} {min((*plain, *key)):.3f} to {max((*plain, *key)):.3f} %,"
            f" ideal {ideal:.4f} %"
        )
    describes = (
        f"{len(measured.plaintext_npcr)} trials each with {measured.trial_bytes:,} bytes: "
        + "; ".join(described)
        + "."
    )
    return finish(figure, title, explains, describes, 400, dark)


def _line(figure: go.Figure, x: Any, y: Any, name: str, dark: bool) -> None:
    figure.add_scatter(
        x=list(x), y=list(y), mode="lines", name=name, hoverinfo="skip",
        line={"color": TEXT[dark], "dash": "dash", "width": 2},
    )  # fmt: skip


CIPHER_CHARTS = (uniformity, neighbours, sensitivity)

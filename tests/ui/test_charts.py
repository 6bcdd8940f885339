"""Every chart shows what its table holds, explains itself, and sends no rows to a browser."""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from engine.metrics import percentiles
from ui import chart_style, charts, cipher_charts

MODALITIES = ("CT", "MR", "US", "CR", "DX", "MG", "OT", "XA")
LABELS = ("text", "barcode", "face", "marker", "thorax", "stamp", "tattoo")


def images(count: int = 300, days: float = 40) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    expected = 7.99 + rng.random(count) / 1000
    return pd.DataFrame(
        {
            "uploaded_at": pd.Timestamp("2026-03-01")
            + pd.to_timedelta(rng.random(count) * days, "D"),
            "modality": rng.choice(MODALITIES, count),
            "size_bytes": rng.integers(10**5, 10**7, count),
            "stored_bytes": rng.integers(10**5, 10**7, count),
            "entropy_original_bits": rng.uniform(4, 6, count),
            "entropy_masked_bits": rng.uniform(3, 6, count),
            "entropy_sealed_bits": expected + rng.normal(0, 0.0004, count),
            "entropy_sealed_expected_bits": expected,
            "entropy_sealed_low_bits": expected - 0.001,
            "entropy_sealed_high_bits": expected + 0.0008,
            "ssim": rng.uniform(0.8, 1, count),
            "psnr_db": rng.uniform(20, 40, count),
            "histogram_correlation": rng.uniform(0.9, 1, count),
            "average_hash_distance_bits": rng.integers(0, 20, count),
            "perceptual_hash_distance_bits": rng.integers(0, 20, count),
            "detect_ms": rng.gamma(4, 30, count),
            "seal_ms": rng.gamma(2, 2, count),
        }
    )  # fmt: skip


def regions(count: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    return pd.DataFrame(
        {
            "label": rng.choice(LABELS, count),
            "confidence": rng.uniform(0.1, 1, count),
            "area_px": rng.integers(100, 9000, count),
            "entropy_before_bits": rng.uniform(1, 6, count),
            "entropy_after_bits": rng.uniform(7.7, 7.9, count),
            "expected_bits": np.full(count, 7.8),
        }
    )


Chart = Callable[..., go.Figure]

#: Each chart with the table it takes and what else it needs.
WAYS: dict[str, tuple[Callable[[int], pd.DataFrame], dict[str, float]]] = {
    "entropy": (images, {}),
    "similarity": (images, {}),
    "confidence": (regions, {"threshold": 0.25, "proposal_threshold": 0.1}),
    "thresholds": (regions, {"threshold": 0.25}),
    "classes": (regions, {}),
    "stage_times": (images, {}),
    "volumes": (images, {}),
    "storage": (images, {}),
    "image_regions": (regions, {}),
}
each = pytest.mark.parametrize("chart", charts.CHARTS, ids=lambda c: c.__name__)


def draw(chart: Chart, count: int, **changes: object) -> go.Figure:
    table, needs = WAYS[chart.__name__]
    return chart(table(count), **{**needs, **changes})


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_the_list_of_charts_is_complete():
    assert {chart.__name__ for chart in charts.CHARTS} == set(WAYS)
    assert set(WAYS) | {"CHARTS", "CONFIG"} == set(charts.__all__)


@each
@pytest.mark.parametrize("count", [0, 1, 5, 300])
@pytest.mark.parametrize("dark", [False, True])
def test_every_chart_explains_itself_in_one_sentence(chart, count, dark):
    figure = draw(chart, count, dark=dark)
    meta = figure.layout.meta
    assert meta["title"]
    assert "." not in meta["title"]
    assert meta["explains"].endswith(".")
    assert ". " not in meta["explains"]
    assert 30 < len(meta["explains"]) < 260
    assert meta["describes"].endswith(".")
    assert "nan" not in meta["describes"].lower().split()
    figure.to_json(validate=True)


@each
def test_without_data_a_sentence_says_so(chart):
    figure = draw(chart, 0)
    assert not figure.data
    (note,) = figure.layout.annotations
    assert note.text == figure.layout.meta["describes"]
    assert len(note.text.split()) > 3


@each
def test_a_table_without_columns_is_no_data_either(chart):
    _, needs = WAYS[chart.__name__]
    assert not chart(pd.DataFrame([]), **needs).data


@each
def test_rows_with_nothing_measured_are_no_data(chart):
    table, needs = WAYS[chart.__name__]
    blank = table(4)
    for column in blank.columns:
        if blank[column].dtype.kind in "fiM":
            blank[column] = pd.Series([pd.NaT if blank[column].dtype.kind == "M" else math.nan] * 4)
    if chart is charts.image_regions:
        return  # a region that was sealed is shown even where a number is missing
    assert not chart(blank, **needs).data


@each
def test_a_missing_column_is_named(chart):
    if chart is charts.stage_times:
        return  # takes the stages that there are
    _, needs = WAYS[chart.__name__]
    with pytest.raises(ValueError, match="lacks the columns"):
        chart(pd.DataFrame({"other": [1]}), **needs)


@each
def test_text_can_be_read_on_both_pages(chart):
    for dark, page in ((False, "#fbfcfd"), (True, "#0f171c")):
        figure = draw(chart, 20, dark=dark)
        assert contrast(figure.layout.font.color, page) > 4.5
        assert figure.layout.font.size >= 12
        assert "system-ui" in figure.layout.font.family
        assert "http" not in figure.layout.font.family
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_marks_can_be_seen_on_both_pages():
    for colour in chart_style.PALETTE:
        for page in ("#ffffff", "#fbfcfd", "#0f171c", "#18242b"):
            assert contrast(colour, page) >= 3, (colour, page)


# Machado, Oliveira, Fernandes 2009, severity 1.0, for linear RGB.
RECEPTORS = {
    "all": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip


@pytest.mark.parametrize("eyes", RECEPTORS)
def test_the_first_colours_are_told_apart_by_all_eyes(eyes):
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in chart_style.PALETTE[:4]])
    linear = np.where(rgb > 10.31, ((rgb / 255 + 0.055) / 1.055) ** 2.4, rgb / 255 / 12.92)
    seen = np.clip(linear @ np.array(RECEPTORS[eyes]).T, 0, 1)
    shown = np.where(seen > 0.0031308, 1.055 * seen ** (1 / 2.4) - 0.055, 12.92 * seen)
    lab = rgb2lab(shown)
    for a, b in itertools.combinations(range(4), 2):
        names = chart_style.PALETTE[a], chart_style.PALETTE[b]
        assert deltaE_ciede2000(lab[a], lab[b]) >= 10, names


@each
def test_no_two_series_differ_by_colour_alone(chart):
    looks = []
    for trace in draw(chart, 300).data:
        if trace.type == "bar":
            looks.append(("bar", trace.marker.pattern.shape))
        elif trace.type == "scatter" and trace.showlegend is not False:
            looks.append(("scatter", trace.line.dash, trace.marker.symbol))
        elif trace.type == "box":
            looks.append(("box", trace.y[0]))  # rows with names
    assert len(looks) == len(set(looks)) > 0


@each
def test_a_chart_of_many_images_is_small_and_holds_no_rows(chart):
    if chart is charts.image_regions:
        return  # one image, for who may see its metrics
    table, needs = WAYS[chart.__name__]
    data = table(10_000)
    figure = chart(data, **needs)
    text = figure.to_json()
    assert len(text) < 40_000
    numbers: set[float] = set()

    def gather(node: object) -> None:
        if isinstance(node, dict):
            for value in node.values():
                gather(value)
        elif isinstance(node, list):
            for value in node:
                gather(value)
        elif isinstance(node, float):
            numbers.add(node)

    gather(json.loads(text))
    for column in data.select_dtypes("float"):
        # A median or a percentile may be one of the values: five a class at most.
        assert len(numbers & set(data[column])) <= 30, column
        assert not {data[column].min(), data[column].max()} & numbers, column


def test_entropy_boxes_are_the_percentiles_of_the_table():
    table = images(301)
    figure = charts.entropy(table)
    boxes = {trace.name: trace for trace in figure.data}
    for name, column in (("Original", "entropy_original_bits"), ("Sealed", "entropy_sealed_bits")):
        box = boxes[name]
        found = [box.lowerfence[0], box.q1[0], box.median[0], box.q3[0], box.upperfence[0]]
        assert found == pytest.approx(np.percentile(table[column], [5, 25, 50, 75, 95]))
    assert boxes["Sealed minus random"].median[0] == pytest.approx(
        (table["entropy_sealed_bits"] - table["entropy_sealed_expected_bits"]).median()
    )


def test_entropy_shows_the_band_and_counts_who_lies_in_it():
    table = images(300)
    figure = charts.entropy(table)
    (shape,) = figure.layout.shapes
    assert (shape.x0, shape.x1) == pytest.approx((-0.001, 0.0008))
    inside = (
        (table["entropy_sealed_bits"] >= table["entropy_sealed_low_bits"])
        & (table["entropy_sealed_bits"] <= table["entropy_sealed_high_bits"])
    ).sum()
    assert 0 < inside < 300
    assert f"{inside} of 300 sealed images lie in the band" in figure.layout.meta["describes"]
    low, high = figure.layout.xaxis2.range
    assert low < -0.001 < 0.0008 < high


def test_entropy_without_a_band_claims_none():
    table = images(300).drop(columns=["entropy_sealed_low_bits", "entropy_sealed_high_bits"])
    figure = charts.entropy(table)
    assert not figure.layout.shapes
    assert "band" not in figure.layout.meta["describes"]
    assert "shaded" not in figure.layout.xaxis2.title.text


def test_images_without_regions_do_not_count_as_sealed():
    table = images(10)
    sealed = [c for c in table.columns if "sealed" in c]
    table.loc[:3, sealed] = math.nan
    assert " of 6 sealed images" in charts.entropy(table).layout.meta["describes"]


def test_infinite_psnr_is_counted_and_not_drawn():
    table = images(50)
    table.loc[:4, "psnr_db"] = math.inf
    figure = charts.similarity(table)
    assert "5 unchanged (infinite): not drawn" in [a.text for a in figure.layout.annotations]
    assert "5 unchanged images have infinite PSNR" in figure.layout.meta["describes"]
    box = next(trace for trace in figure.data if trace.name == "PSNR")
    assert box.median[0] == pytest.approx(table["psnr_db"][5:].median())


def test_similarity_of_unchanged_images_only_can_be_drawn():
    table = images(3).assign(psnr_db=math.inf, ssim=1.0, histogram_correlation=1.0)
    figure = charts.similarity(table)
    box = next(trace for trace in figure.data if trace.name == "PSNR")
    assert box.median == (None,)


def test_confidence_draws_its_lines_and_one_row_per_class():
    table = regions(200)
    figure = charts.confidence(table, threshold=0.3, proposal_threshold=0.12)
    assert [(s.x0, s.name) for s in figure.layout.shapes] == [
        (0.3, "sealed at 0.3 or more"),
        (0.12, "proposed at 0.12 or more"),
    ]
    assert figure.layout.shapes[0].line.dash != figure.layout.shapes[1].line.dash
    rows = [trace.y[0] for trace in figure.data]
    assert len(rows) == 6  # seven classes: the two rarest are joined
    assert sum(int(row.split("(")[1].rstrip(")")) for row in rows) == 200
    assert sum(row.startswith("other") for row in rows) == 1
    common = table["label"].value_counts().index[0]
    box = next(t for t in figure.data if t.name.startswith(common))
    assert box.median[0] == pytest.approx(
        table.loc[table["label"] == common, "confidence"].median()
    )


def test_confidence_with_one_line_speaks_of_one():
    figure = charts.confidence(regions(20), threshold=0.25)
    assert len(figure.layout.shapes) == 1
    assert "two lines" not in figure.layout.meta["explains"]


def test_thresholds_counts_what_would_be_sealed():
    table = pd.DataFrame({"label": ["a"] * 4 + ["b"], "confidence": [0.1, 0.25, 0.25, 0.9, 0.5]})
    a, b = charts.thresholds(table, threshold=0.25).data
    at = {round(x, 2): y for x, y in zip(a.x, a.y, strict=True)}
    # a box that reaches the threshold exactly is sealed
    assert [at[x] for x in (0.0, 0.1, 0.11, 0.25, 0.26, 0.9, 0.91)] == [4, 4, 3, 3, 1, 1, 0]
    assert b.y[50] == 1
    assert b.y[51] == 0
    describes = charts.thresholds(table, threshold=0.25).layout.meta["describes"]
    assert "a 3 of 4, b 1 of 1" in describes


def test_stage_times_are_the_engines_percentiles():
    table = images(123)
    table["never_ms"] = math.nan
    figure = charts.stage_times(table)
    points = {trace.name: trace for trace in figure.data if trace.name}
    for i, column in enumerate(("detect_ms", "seal_ms")):
        expected = percentiles(table[column])
        found = tuple(points[name].x[i] for name in ("median", "95 %", "99 %"))
        assert found == pytest.approx(expected[1:])
    assert list(points["median"].y) == ["Detect", "Seal"]


@pytest.mark.parametrize(("days", "unit"), [(40, "day"), (200, "week"), (900, "month")])
def test_volumes_counts_every_image_once(days, unit):
    table = images(400, days)
    figure = charts.volumes(table)
    assert figure.layout.yaxis.title.text == f"images per {unit}"
    assert sum(sum(trace.y) for trace in figure.data) == 400
    counts = table["modality"].value_counts()
    drawn = {trace.name: sum(trace.y) for trace in figure.data}
    assert len(drawn) == 6
    for name, count in drawn.items():
        assert count == (counts[5:].sum() if name == "other" else counts[name])


@pytest.mark.parametrize(("images", "step"), [(1, 1), (5, 1), (6, None)])
def test_axes_of_few_images_show_no_half_ones(images, step):
    day = pd.Timestamp("2026-03-01 12:00")
    table = pd.DataFrame({"uploaded_at": [day] * images, "modality": ["CT"] * images})
    assert charts.volumes(table).layout.yaxis.dtick == step
    boxes = pd.DataFrame({"label": ["text"] * images, "confidence": [0.9] * images})
    assert charts.classes(boxes).layout.xaxis.dtick == step
    assert charts.thresholds(boxes, 0.25).layout.yaxis.dtick == step


def test_volumes_of_months_alone_name_no_day():
    """As those who see groups only get them."""
    table = images(30)
    table["uploaded_at"] = pd.Timestamp("2026-11-01")
    figure = charts.volumes(table)
    assert figure.layout.yaxis.title.text == "images per month"
    assert figure.layout.xaxis.ticktext == ("2026-11",)
    assert figure.layout.meta["describes"].startswith("30 images since 2026-11: ")


def test_volumes_takes_times_with_a_zone_and_other_columns():
    table = images(30).assign(profile="general")
    table["uploaded_at"] = table["uploaded_at"].dt.tz_localize("UTC")
    (trace,) = charts.volumes(table, by="profile").data
    assert trace.name == "general"
    assert sum(trace.y) == 30


def test_storage_sums_megabytes():
    table = pd.DataFrame(
        {
            "modality": ["CT", "CT", None],
            "size_bytes": [1_000_000, 2_500_000, 500_000],
            "stored_bytes": [2_000_000, 1_000_000, 400_000],
        }
    )
    came, stored = charts.storage(table).data
    assert list(came.y) == ["CT", "unknown"]
    assert list(came.x) == [3.5, 0.5]
    assert list(stored.x) == [3.0, 0.4]
    assert "4.0 MB uploaded, 3.4 MB stored" in charts.storage(table).layout.meta["describes"]


def test_regions_of_an_image_are_drawn_as_they_are():
    table = regions(3).assign(expected_low_bits=7.7, expected_high_bits=7.85)
    before, after, expected = charts.image_regions(table).data
    assert list(before.x) == list(table["entropy_before_bits"])
    assert list(after.x) == list(table["entropy_after_bits"])
    assert list(expected.x) == [7.8] * 3
    assert list(expected.error_x.array) == pytest.approx([0.05] * 3)
    assert list(expected.error_x.arrayminus) == pytest.approx([0.1] * 3)
    assert [row.split()[0] for row in before.y] == ["1", "2", "3"]  # equal classes stay apart
    assert charts.image_regions(regions(3)).data[2].error_x.array is None


def measured(count: int = 400, **changes: object) -> SimpleNamespace:
    rng = np.random.default_rng(3)
    fields = {
        "images": 90, "regions": count, "size_bytes": 10_000_000,
        "chi_square_p": tuple(rng.uniform(0, 1, count)),
        "correlation_z": tuple(rng.normal(0, 1, count)),
        "plaintext_npcr": (99.61, 99.6), "plaintext_uaci": (33.4, 33.5),
        "key_npcr": (99.62, 99.6), "key_uaci": (33.46, 33.5),
        "npcr_low": 99.5, "uaci_low": 33.2, "uaci_high": 33.7, "trial_bytes": 65_552,
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize("draw", cipher_charts.CIPHER_CHARTS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("dark", [False, True])
def test_charts_of_ciphertext_say_what_they_show_and_what_is_expected(draw, dark):
    figure = draw(measured(), dark=dark)
    meta = figure.layout.meta
    assert meta["explains"].endswith(".")
    assert meta["describes"].endswith(".")
    figure.to_json(validate=True)
    if draw is not cipher_charts.sensitivity:
        nothing = draw(measured(0), dark=dark)
        assert not nothing.data
        assert "long enough" in nothing.layout.meta["describes"]


def test_the_p_values_are_counted_and_the_bad_ones_named():
    values = (0.001, 0.005, *(0.5,) * 8)
    bars, line = cipher_charts.uniformity(measured(10, chi_square_p=values)).data
    assert list(bars.y) == [2, 0, 0, 0, 0, 8, 0, 0, 0, 0]
    assert list(line.y) == [1, 1]
    described = cipher_charts.uniformity(measured(10, chi_square_p=values)).layout.meta["describes"]
    assert "2 have a p-value under 0.01; for random data 0.1" in described


def test_no_correlation_is_hidden_beyond_the_edge():
    bars, line = cipher_charts.neighbours(measured(3, correlation_z=(50.0, -9.0, 0.1))).data
    assert (bars.y[0], bars.y[-1], sum(bars.y)) == (1, 1, 3)
    assert sum(line.y) == pytest.approx(3, abs=0.01)


def test_a_bar_knows_what_a_click_on_it_chooses():
    table = images(400, 900)
    for trace in charts.volumes(table).data:
        chosen = trace.customdata[0]
        assert chosen.get("modality", "other") == trace.name
        assert re.fullmatch(r"\d{4}-\d{2}", chosen["month"])
    (bars,) = charts.classes(regions(200)).data
    chosen = dict(zip(bars.y, bars.customdata, strict=True))
    assert chosen.pop("other") == {}  # "other" is no class
    assert all(data == {"class": label} for label, data in chosen.items())


def test_charts_know_nothing_of_streamlit_or_the_engines_inside():
    for module in (charts, chart_style, cipher_charts):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        names = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([a.name for a in node.names] + [getattr(node, "module", "") or ""])
        }
        assert not any(name.split(".")[0] in ("streamlit", "engine") for name in names)
    assert sys.modules["ui.charts"] is charts

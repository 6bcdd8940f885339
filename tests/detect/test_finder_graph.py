"""The finder's graph as it is rewritten, against the vendor's."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import pytest

from engine.detect import text
from engine.detect.finder_graph import rewrite
from engine.detect.networks import CpuModel, batch, read_weights
from engine.errors import DetectorError


def page() -> np.ndarray:
    """Lines of several sizes and tones, one of them turned, with the strip below."""
    picture = np.full((416, 480, 3), 70, np.uint8)
    for i, tone in enumerate((255, 160, 110, 20)):
        place = (20, 50 + 80 * i)
        cv2.putText(picture, f"NOWAK JAN {i}", place, 0, 0.5 + 0.3 * i, (tone,) * 3, 1 + i // 2)
    cv2.putText(picture[:, 400:], "1979", (5, 200), 0, 0.7, (230,) * 3, 2)
    return np.vstack([picture, text.reference(picture)])


def heat(rewritten: bool, shown: np.ndarray) -> np.ndarray:
    weights = read_weights(text.FINDER, text.FINDER_SHA256)
    model = CpuModel(weights, 2, precision="f32", rewrite=rewrite if rewritten else None)
    return model(batch(shown, 127.5, 1 / 127.5))[0]


@pytest.mark.parametrize("turned", [False, True])  # rows and columns are laid out apart
def test_the_rewritten_finder_computes_the_same_map(turned: bool) -> None:
    shown = page()
    if turned:
        shown = np.ascontiguousarray(shown.transpose(1, 0, 2))
    vendor, ours = heat(False, shown), heat(True, shown)
    assert vendor.shape == ours.shape == (1, 1, *shown.shape[:2])
    assert vendor.max() > 0.9  # there is text to lose
    np.testing.assert_allclose(ours, vendor, rtol=0, atol=1e-4)


def test_another_network_is_refused_and_not_half_rewritten() -> None:
    reader = read_weights(text.READER, text.READER_SHA256)
    with pytest.raises(DetectorError, match="not the one that this version knows"):
        CpuModel(reader, 1, rewrite=rewrite)


def test_the_graph_has_no_transposed_convolution_any_more() -> None:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    model: Any = openvino.Core().read_model(
        model=read_weights(text.FINDER, text.FINDER_SHA256), weights=b""
    )
    names = model.outputs[0].get_names()
    rewrite(model)
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert "ConvolutionBackpropData" not in kinds
    assert kinds.count("DepthToSpace") == 1
    assert model.outputs[0].get_names() == names

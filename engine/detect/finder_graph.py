"""PP-OCR's finder, written so that it costs less and computes the same.

The vendor's file stays as it is. After it was read, two parts of its graph are replaced by
equal ones; what comes out differs by rounding only.

- *Head.* Two transposed convolutions enlarge the map by two each, and a sigmoid follows at full
  size. Their kernels are as large as their strides, so that no two outputs share a kernel's place:
  both are products of matrices at a quarter of the size, of which the 16 results are laid out at
  the end. At full size there is one channel, and the runtime computes 16 for it.
- *Gates.* ``y + y * g`` passes twice over a map; ``y * (g + 1)`` once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import DetectorError

GATES = 8  # in the neck, one for each of its eight maps


def rewrite(model: Any) -> None:
    """Replace head and gates of an ``openvino.Model`` in place.

    Raises:
        DetectorError: Another network than the one that this was written for.
    """
    _rewrite_gates(model)
    _rewrite_head(model)
    model.validate_nodes_and_infer_types()


def _rewrite_gates(model: Any) -> None:
    from openvino import opset13 as ops

    found = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Add":
            continue
        y, product = _source(node, 0), _source(node, 1)
        if product.get_type_name() != "Multiply" or _source(product, 0) is not y:
            continue
        gate = ops.add(product.input_value(1), np.float32(1.0))
        node.output(0).replace(ops.multiply(node.input_value(0), gate).output(0))
        found += 1
    if found != GATES:
        raise _unknown()


def _rewrite_head(model: Any) -> None:
    from openvino import opset13 as ops

    (result,) = model.get_results()
    kinds = ("Sigmoid", "Add", "ConvolutionBackpropData", "Relu", "Add", "ConvolutionBackpropData")
    chain, node = [], result
    for kind in kinds:
        node = _source(node, 0)
        if node.get_type_name() != kind:
            raise _unknown()
        chain.append(node)
    sigmoid, add_last, last, _, add_first, first = chain
    kernels = [_constant(node, 1) for node in (first, last)]  # (inputs, outputs, 2, 2)
    channels = len(kernels[0])
    if [k.shape for k in kernels] != [(channels, channels, 2, 2), (channels, 1, 2, 2)] or any(
        node.get_attributes()["strides"] != [2, 2] for node in (first, last)
    ):
        raise _unknown()
    # The first one's four places, then 24 channels each.
    spread = kernels[0].transpose(2, 3, 1, 0).reshape(4 * channels, channels)
    # From each place to four of the 16, which are counted row by row.
    laid = np.zeros((2, 2, 2, 2, 4, channels), np.float32)  # rows, rows, columns, columns
    for i in range(2):
        for j in range(2):
            laid[i, :, j, :, 2 * i + j] = kernels[1][:, 0].transpose(1, 2, 0)
    inner = np.tile(_constant(add_first, 1).reshape(-1), 4)
    outer = np.full(16, _constant(add_last, 1).reshape(()), np.float32)

    def product(value: Any, weights: np.ndarray, bias: np.ndarray) -> Any:
        kernel = ops.constant(np.ascontiguousarray(weights[:, :, None, None]))
        found = ops.convolution(value, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
        return ops.add(found, ops.constant(bias.reshape(1, -1, 1, 1)))

    small = ops.relu(product(first.input_value(0), spread, inner))
    small = ops.sigmoid(product(small, laid.reshape(16, 4 * channels), outer))
    whole = ops.depth_to_space(small, "blocks_first", 4)
    names = sigmoid.output(0).get_names()
    sigmoid.output(0).replace(whole.output(0))
    whole.output(0).set_names(names)


def _source(node: Any, at: int) -> Any:
    """The node that an input comes from, past those that change nothing."""
    source = node.input_value(at).get_node()
    while source.get_type_name() == "Identity":
        source = source.input_value(0).get_node()
    return source


def _constant(node: Any, at: int) -> np.ndarray:
    source = _source(node, at)
    if source.get_type_name() != "Constant":
        raise _unknown()
    return np.array(source.data, np.float32)


def _unknown() -> DetectorError:
    return DetectorError("A network is not the one that this version knows. Reinstall MedSec.")

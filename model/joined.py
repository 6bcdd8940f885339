"""A learned version sees what the shipped network sees, and what was learned besides.

Fine-tuning on a hundred images forgets: lines of five pixels that only the shipped network found
were lost, at every learning rate and share of old weights that was tried. So a version is both
networks in one file. They look at the same picture, and their boxes are put beside one another.
"""

from __future__ import annotations

import onnx
from onnx import compose, helper

#: In front of the names of what was learned.
PREFIX = "learned/"


def joined(shipped: bytes, tuned: bytes) -> bytes:
    """Two exports of the same network as one: one input, the boxes of both.

    Raises:
        SystemExit: They do not fit together.
    """
    first = onnx.load_model_from_string(shipped)
    second = compose.add_prefix(onnx.load_model_from_string(tuned), PREFIX)
    picture, other = first.graph.input[0].name, second.graph.input[0].name
    if [o.version for o in first.opset_import] != [o.version for o in second.opset_import]:
        raise SystemExit("The two networks were not exported alike.")
    for node in second.graph.node:
        for place, name in enumerate(node.input):
            if name == other:
                node.input[place] = picture
    outputs = [first.graph.output[0].name, second.graph.output[0].name]
    graph = first.graph
    graph.node.extend(second.graph.node)
    graph.node.append(helper.make_node("Concat", outputs, ["both"], name="both", axis=2))
    graph.initializer.extend(second.graph.initializer)
    graph.value_info.extend(second.graph.value_info)
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    both = helper.make_tensor_value_info("both", onnx.TensorProto.FLOAT, [1, classes, "anchors"])
    del graph.output[:]
    graph.output.append(both)
    onnx.checker.check_model(first)
    return first.SerializeToString()


def learned_part(version: bytes) -> bytes:
    """The weights of a version that were learned, under the names of the network, to go on from."""
    network = onnx.load_model_from_string(version)
    kept = [i for i in network.graph.initializer if i.name.startswith(PREFIX)]
    if not kept:
        raise SystemExit("This version has no learned part.")
    for tensor in kept:
        tensor.name = tensor.name.removeprefix(PREFIX)
    graph = helper.make_graph([], "learned", [], [], kept)
    return helper.make_model(graph).SerializeToString()

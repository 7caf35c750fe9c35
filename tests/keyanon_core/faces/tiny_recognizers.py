"""Recognizers as small as they come: the network answers with what it was shown, reduced, and a one.

The one is there because vectors come at length 1: over it, the rest are the very numbers that the network was fed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tiny_recognizer(
    file: Path,
    side: int | str = 112,
    *,
    pool: int = 1,
    rows_first: bool = False,
    batch: int | str = "n",
    before: Sequence[onnx.NodeProto] = (),
    weights: Sequence[onnx.TensorProto] = (),
) -> Path:
    """Write the file of a network that averages tiles of pool x pool px. before: nodes from the input "picture" to "ready",
    if any; weights: what they use.
    """
    shape = [batch, side, side, 3] if rows_first else [batch, 3, side, side]
    nodes = [*before]
    fed = "ready" if before else "picture"
    if rows_first:
        nodes.append(helper.make_node("Transpose", [fed], ["turned"], perm=[0, 3, 1, 2]))
        fed = "turned"
    nodes += [
        helper.make_node("AveragePool", [fed], ["tiles"], kernel_shape=[pool, pool], strides=[pool, pool]),
        helper.make_node("Flatten", ["tiles"], ["row"]),
        helper.make_node("Concat", ["row", "one"], ["vector"], axis=1),
    ]
    return write(file, nodes, shape, [numpy_helper.from_array(np.ones((1, 1), np.float32), "one"), *weights])


def write(
    file: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    kind: int = TensorProto.FLOAT,
    further_inputs: Sequence[str] = (),
) -> Path:
    """Write a network from "picture" to "vector"."""
    inputs = [helper.make_tensor_value_info("picture", kind, shape)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in further_inputs]
    graph = helper.make_graph(
        nodes, "tiny", inputs, [helper.make_tensor_value_info("vector", TensorProto.FLOAT, None)], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file

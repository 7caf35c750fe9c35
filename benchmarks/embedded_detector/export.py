"""Writes the second embedded detector's weights as the ONNX file that the package ships: batch norms folded, weights in float16.

python export.py detector.safetensors ../../keyanon_core/embedded_detector/scenes.onnx
"""

import hashlib
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from network import FaceNetwork
from onnx import helper, numpy_helper
from safetensors.torch import load_file


def main(source: Path, target: Path) -> None:
    model = FaceNetwork().eval()
    model.load_state_dict(load_file(source))
    axes = {"pixels": {2: "h", 3: "w"}, "heat": {2: "h4", 3: "w4"}, "rest": {2: "h4", 3: "w4"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, 64, 64),),
            str(target),
            input_names=["pixels"],
            output_names=["heat", "rest"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    graph = onnx.load(str(target))
    casts, kept = [], []
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 256:
            kept.append(tensor)
            continue
        kept.append(numpy_helper.from_array(values.astype(np.float16), tensor.name + ".half"))
        casts.append(helper.make_node("Cast", [tensor.name + ".half"], [tensor.name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.initializer[:], graph.graph.node[:]
    graph.graph.initializer.extend(kept)
    graph.graph.node.extend(nodes)
    for node in graph.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(graph)
    onnx.save(graph, str(target))
    print(f"{target.name}: {target.stat().st_size} bytes, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

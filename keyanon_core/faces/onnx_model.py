"""Networks in ONNX Runtime, on the CPU. An `OnnxModel` is fully convolutional: shown a picture of any size, it answers with maps
of cells.
"""

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.errors import FaceModelError
from keyanon_core.faces.detection import Pixels

if TYPE_CHECKING:
    import onnx

Map = npt.NDArray[np.float32]
Cells = npt.NDArray[np.int64]
STRIDE = 32  # px; the networks' input sides are multiples of it
CELL = 4  # px; one output cell
MAX_LOG_SIZE = 8.0  # clamps exp() of a size: e^8 cells are wider than any input


class OnnxModel:
    """One network. Its one input is (1, 3, H, W) float32 RGB in [0, 255]; `outputs` are the names of its maps."""

    def __init__(self, model: "onnx.ModelProto", outputs: list[str], threads: int) -> None:
        self.session = open_session(model, threads)
        self._outputs = outputs

    def __call__(self, pixels: Pixels) -> list[Map]:
        """The maps (C, H / CELL, W / CELL) for (h, w, 3) uint8, padded with black to the stride."""
        height, width = pixels.shape[:2]
        padded = np.zeros((-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE, 3), np.float32)
        padded[:height, :width] = pixels
        blob = np.ascontiguousarray(padded.transpose(2, 0, 1))[None]
        (name,) = (value.name for value in self.session.get_inputs())
        return [answer[0] for answer in self.session.run(self._outputs, {name: blob})]


def open_session(model: "onnx.ModelProto", threads: int) -> Any:
    """An onnxruntime.InferenceSession of a model, on so many threads of the CPU; the model's inputs become those that are given.
    Raises what ONNX Runtime raises of a model that it can not run.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # it warns about every unused initialiser; errors are raised
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    _declare_weights_constant(model.graph)
    weights, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(
        weights, options, providers, enable_fallback=0
    )  # it would print, and try the same again


def peaks(heat: Map, lowest: float) -> tuple[Cells, Cells]:
    """Rows and columns of the cells of a heatmap (1, h, w) that no neighbour exceeds, from the score `lowest` on.

    Raises FaceModelError for a map that holds what is no number: no comparison finds a face there.
    """
    if not np.isfinite(heat).all():
        raise FaceModelError("a detection network's map of scores holds what is not a number")
    row, column = np.nonzero((heat[0] >= lowest) & (heat[0] >= cv2.dilate(heat[0], np.ones((3, 3), np.uint8))))
    return row, column


def _declare_weights_constant(graph: "onnx.GraphProto") -> None:
    """Take the weights out of the graph's inputs, where some files list them so that a caller could replace them: ONNX Runtime
    folds, fuses and lays out afresh only what can not change, and is twice as fast then.
    """
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)

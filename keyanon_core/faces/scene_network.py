"""This project's own detecting network, for what CenterFace can not see.

It was trained on composed scenes (`benchmarks/embedded_detector`): faces of 13 to 190 px, turned by any angle, cut, half hidden,
dark, blurred, grey, masked. Two networks that learned from different pictures do not miss the same faces.
"""

import hashlib
from pathlib import Path

import numpy as np

from keyanon_core.errors import FaceModelError
from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.landmarks import FIVE_IN_BOX, MAX_SPREAD, spread
from keyanon_core.faces.looks import Candidates
from keyanon_core.faces.onnx_model import CELL, MAX_LOG_SIZE, OnnxModel, peaks

WEIGHTS = Path(__file__).parents[1] / "embedded_detector" / "scenes.onnx"
SHA256 = "ce8f9532ff1c23aafa9613128c58509d28d0e4c73dfb48cebdee25cf60d1e558"


class SceneNetwork:
    """A `looks.Network`. Its landmarks turn along with a face; its boxes are upright boxes about the turned face."""

    def __init__(self, threads: int = 1) -> None:
        """Raises FaceModelError when the package's own file is missing or changed."""
        import onnx

        weights = WEIGHTS.read_bytes() if WEIGHTS.is_file() else b""
        self.digest = hashlib.sha256(weights).hexdigest()
        if self.digest != SHA256:
            raise FaceModelError(f"{WEIGHTS.name} is missing or is not the one that came with keyanon; reinstall it")
        self.model = OnnxModel(onnx.load_from_string(weights), ["heat", "rest"], threads)

    def __call__(self, pixels: Pixels, lowest: float) -> Candidates:
        heat, rest = self.model(pixels)
        row, column = peaks(heat, lowest)
        said = rest[:, row, column].T.astype(np.float64)
        size = np.exp(np.minimum(said[:, :2], MAX_LOG_SIZE)) * CELL
        centre = (np.stack([column, row], -1) + 0.5 + said[:, 2:4]) * CELL - 0.5
        landmarks = centre[:, None] + said[:, 4:].reshape(-1, 5, 2) * size.max(1)[:, None, None]
        boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
        # Of a face whose middle lies beyond the border it knows the box, not how the face stands: upright, until a closer look.
        upright = boxes[:, None, :2] + FIVE_IN_BOX * size[:, None]
        ratio = spread(landmarks) / spread(upright)
        landmarks = np.where(((ratio > 1 / MAX_SPREAD) & (ratio < MAX_SPREAD))[:, None, None], landmarks, upright)
        return Candidates(boxes, landmarks, heat[0, row, column].astype(np.float64))

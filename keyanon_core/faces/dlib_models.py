"""The dlib models that come inside the `face-recognition-models` wheel (CC0): where their files are, and that they are
the right ones.
"""

import hashlib
import importlib.util
from pathlib import Path

from keyanon_core.errors import FaceModelError

SHAPE_PREDICTOR = "shape_predictor_68_face_landmarks.dat"
RECOGNIZER = "dlib_face_recognition_resnet_model_v1.dat"
SHA256 = {
    SHAPE_PREDICTOR: "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
    RECOGNIZER: "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
}


def dlib_model(name: str) -> Path:
    """Path of one of the files in SHA256, after its digest was checked: dlib's reader trusts what it is given.

    Found without importing the package, which fails on current setuptools. Raises FaceModelError naming the remedy.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    path = Path(spec.origin).parent / "models" / name if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise FaceModelError(f"{name} is missing: pip install face-recognition-models==0.3.0")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256[name]:
        raise FaceModelError(
            f"{name}: sha256 {digest} is not the published one; reinstall face-recognition-models==0.3.0"
        )
    return path

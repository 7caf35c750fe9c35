"""Does the prior repeat the people it was trained on? Made faces are compared with all training faces, and so are real
strangers, who give the scale.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.evaluation import nearest
from keyanon_core.faces.detection import Face, Pixels, Recognizer
from keyanon_core.training.bank import FaceBank
from keyanon_core.training.settings import PriorSettings

COPY_DISTANCE: Final = 0.3  # identity distance below which two pictures show one person in one pose, not two people
COPY_CORRELATION: Final = 0.95  # of reduced grey pixels, above which they are one picture
REDUCED_SIDE: Final = 16  # px of the pictures that are correlated

Crops = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Nearest:
    """The nearest training face of each of n faces. distance: of identities, (n,). correlation: of reduced grey pixels, (n,)."""

    distance: npt.NDArray[np.float32]
    correlation: npt.NDArray[np.float32]

    @property
    def copies(self) -> int:
        """Faces that are a training portrait by identity and by pixels both."""
        return int(((self.distance < COPY_DISTANCE) & (self.correlation > COPY_CORRELATION)).sum())


def nearest_training_faces(crops: Crops, bank: FaceBank, prior: PriorSettings, recognizer: Recognizer) -> Nearest:
    """crops: (n, 3, S, S) in [-1, 1], aligned to the prior's template."""
    trained = np.flatnonzero(bank.weight > 0)
    pixels = np.clip(np.rint((crops.transpose(0, 2, 3, 1) + 1) * 127.5), 0, 255).astype(np.uint8)
    landmarks = np.array(prior.template) * prior.side
    low, high = landmarks.min(0), landmarks.max(0)
    face = Face((float(low[0]), float(low[1]), float(high[0]), float(high[1])), landmarks, 1.0)
    embedded = recognizer.embed([(np.ascontiguousarray(one), face) for one in pixels])
    _, distance = nearest(embedded, bank.embedding[trained])
    edge = (prior.bank_side - prior.side) // 2
    inner = slice(edge, edge + prior.side)
    references = np.stack([_reduced(bank.faces[index, inner, inner]) for index in trained])
    _, apart = nearest(np.stack([_reduced(one) for one in pixels]), references)
    return Nearest(np.asarray(distance, np.float32), np.asarray(1 - apart**2 / 2, np.float32))


def _reduced(face: Pixels) -> npt.NDArray[np.float32]:
    """Unit vectors of zero mean: half the squared distance of two is 1 minus their correlation."""
    grey = cv2.cvtColor(np.ascontiguousarray(face), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (REDUCED_SIDE, REDUCED_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    centred = small - small.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-6), np.float32)

"""A bank of drawn faces, small enough to train on in a test."""

from pathlib import Path

import cv2
import numpy as np

from keyanon_core.faces.landmarks import MEAN_SHAPE
from keyanon_core.training.bank import FaceBank, FaceBankWriter, StoredFace
from keyanon_core.training.settings import Augmentation, Optimization, PriorSettings, TrainingSettings

SIDE = 16
FACES = 12


def settings(**prior: object) -> TrainingSettings:
    """Of a network of some thousand weights."""
    chosen = {"side": SIDE, "space_to_depth": 4, "channels": (32,), "attention_levels": 1, **prior}
    return TrainingSettings(PriorSettings(**chosen), Augmentation(), Optimization(batch=8, seed=3))  # type: ignore[arg-type]


def write_bank(directory: Path, side: int = SIDE, held_out: int = 2) -> FaceBank:
    """FACES drawn faces of different colours; the first `held_out` are not trained on."""
    bank_side = settings(side=side).prior.bank_side
    shape = ((MEAN_SHAPE - 0.5) * 0.82 * side + bank_side / 2).astype(np.float32)
    rng = np.random.default_rng(0)
    with FaceBankWriter(directory, bank_side) as writer:
        for index in range(FACES):
            face = np.full((bank_side, bank_side, 3), rng.integers(60, 200, 3), np.uint8)
            cv2.fillConvexPoly(face, cv2.convexHull(shape).astype(np.int32), [int(v) for v in rng.integers(60, 200, 3)])
            writer.add(
                f"face {index}",
                StoredFace(
                    face=face,
                    covered=np.ones((bank_side, bank_side), np.bool_),
                    shape=shape,
                    embedding=rng.standard_normal(128).astype(np.float32),
                    chroma=20.0,
                    detail=0.2,
                    tone=40.0,
                    enlargement=1.0,
                ),
            )
        kept = np.arange(FACES) < held_out
        writer.close(np.where(kept, 0.0, 1.0), kept)
    return FaceBank.open(directory)

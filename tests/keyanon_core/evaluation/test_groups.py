"""Labels of groups come from the picture, or from what a user says of it."""

import numpy as np

from keyanon_core.evaluation.groups import UNKNOWN, labels_of, skin_tone_of
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Pixels


def test_labels_come_from_the_picture_or_from_the_users_column(models: FaceModels, astronaut: Pixels) -> None:
    (face,) = models.detector.detect(astronaut)
    assert skin_tone_of(astronaut, face.landmarks) in ("light", "intermediate")
    assert skin_tone_of(np.repeat(astronaut[..., :1], 3, axis=2), face.landmarks) == "grey"
    assert labels_of(["1", "2", "3", "1"], {"1": "old", "9": "young"}) == ["old", UNKNOWN, UNKNOWN, "old"]

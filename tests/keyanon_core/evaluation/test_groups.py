"""Every group has its own figure, and one too small has none."""

import numpy as np
import pytest

from keyanon_core.evaluation.groups import MIN_FACES, UNKNOWN, Group, by_group, labels_of, skin_tone_of
from keyanon_core.evaluation.intervals import mean_of, proportion, quantity, share_of
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Pixels

LABELS = ["b"] * MIN_FACES + ["a"] * (MIN_FACES - 1) + ["c"] * (MIN_FACES + 5)


def test_each_groups_rows_and_no_others_make_its_figure() -> None:
    order = np.random.default_rng(0).permutation(len(LABELS))
    labels = [LABELS[at] for at in order]
    outcomes = np.array([label == "b" for label in labels])
    groups = by_group(outcomes, labels, share_of)
    assert groups == [
        Group("a", MIN_FACES - 1, None),
        Group("b", MIN_FACES, proportion(MIN_FACES, MIN_FACES)),
        Group("c", MIN_FACES + 5, proportion(0, MIN_FACES + 5)),
    ]
    rows = np.stack([outcomes * 1.0, np.arange(len(labels))], axis=1)
    paired = by_group(rows, labels, lambda one: quantity(one, lambda drawn: float(drawn[:, 0].mean())), smallest=1)
    assert [one.figure.value for one in paired if one.figure] == [0, 1, 0]
    assert by_group(np.zeros(1), ["x"], mean_of, smallest=1)[0].figure == mean_of([0])
    assert by_group(np.zeros(0), [], mean_of) == []


def test_what_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="3 values have 2 labels"):
        by_group(np.zeros(3), ["a", "b"], mean_of)
    with pytest.raises(ValueError, match="not 0"):
        by_group(np.zeros(1), ["a"], mean_of, smallest=0)


def test_labels_come_from_the_picture_or_from_the_users_column(models: FaceModels, astronaut: Pixels) -> None:
    (face,) = models.detector.detect(astronaut)
    assert skin_tone_of(astronaut, face.landmarks) in ("light", "intermediate")
    assert skin_tone_of(np.repeat(astronaut[..., :1], 3, axis=2), face.landmarks) == "grey"
    assert labels_of(["1", "2", "3", "1"], {"1": " old ", "2": " ", "9": "young"}) == ["old", UNKNOWN, UNKNOWN, "old"]

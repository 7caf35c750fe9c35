"""Clusters of faces: those of average linkage over all of them, however they are divided; strangers stay apart."""

import numpy as np
import pytest
from scipy.cluster import hierarchy

from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation import same_people
from keyanon_core.evaluation.same_people import cluster, nearest_people


def _faces(people: int, of_each: int, noise: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    means = random.normal(size=(people, 32))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    faces = np.repeat(means, of_each, axis=0) + noise * random.normal(size=(people * of_each, 32)) / np.sqrt(32)
    return faces.astype(np.float32)


@pytest.mark.parametrize("within", [0.2, 0.6, 1.0, 1.3])
def test_parts_that_are_clustered_alone_give_what_all_faces_together_give(
    within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_people, "ROWS_AT_ONCE", 7)
    faces = np.random.default_rng(1).permutation(_faces(9, 5, 0.5))
    whole = hierarchy.fcluster(hierarchy.linkage(faces.astype(np.float64), "average"), within, "distance")
    found = cluster(faces, within)
    assert np.array_equal(found.labels[:, None] == found.labels, whole[:, None] == whole)
    assert list(dict.fromkeys(found.labels.tolist())) == list(range(found.labels.max() + 1))
    for face in range(len(faces)):
        others = (found.labels == found.labels[face]) & (np.arange(len(faces)) != face)
        apart = np.linalg.norm(faces[others].astype(np.float64) - faces[face], axis=1)
        assert found.spread[face] == pytest.approx(apart.mean() if others.any() else 0.0)


def test_people_are_found_and_those_who_are_nearly_one_are_named() -> None:
    faces = _faces(6, 4, 0.1)
    faces[20:] = faces[:4] + 0.05  # the last is nearly the first
    found = cluster(faces, 0.25)
    assert found.labels.tolist() == np.repeat(np.arange(6), 4).tolist()
    ((one, other, apart),) = nearest_people(faces, found.labels, 0.5)
    assert (one, other) == (0, 5)
    assert apart == pytest.approx(0.05 * np.sqrt(32), rel=0.01)


def test_none_and_one_face_and_a_distance_that_joins_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster(np.zeros((0, 8), np.float32), 0.4).labels.tolist() == []
    assert cluster(np.ones((1, 8), np.float32), 0.4).labels.tolist() == [0]
    monkeypatch.setattr(same_people, "MAX_TOGETHER", 10)
    with pytest.raises(EvaluationError, match="12 faces hang together"):
        cluster(np.zeros((12, 8), np.float32), 0.4)

"""Which faces are of one person, as a recognizer sees it: clusters that no two faces of are linked but by what is near.

Average linkage (Sokal and Michener 1958) cut at a distance: two clusters are joined while their faces lie, in the mean, within
it. Whatever is joined so has a pair within it: so the faces are divided first into parts that no such pair connects, and a part
is clustered by itself. Of all pairs at once nothing is held, of a part's pairs their distances.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.cluster import hierarchy
from scipy.sparse import csgraph
from scipy.spatial import distance

from keyanon_core.errors import EvaluationError

SHARE_OF_THRESHOLD: Final = 2 / 3
"""Of a recognizer's own bound of one person: farther apart, in the mean, two groups of faces stay two people. Who is split has
two pseudonyms, and a user who looks joins them; two people who are joined have one, and are erased together."""

MAX_TOGETHER: Final = 12_000  # faces of one part: 600 MB of distances, and as much again while it is clustered
ROWS_AT_ONCE: Final = 128

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clusters:
    """labels: (n,) int64, the person of each face, numbered in the order of their first faces. spread: (n,) float64, mean
    distance of a face from the others of its person, 0 for one that is alone."""

    labels: npt.NDArray[np.int64]
    spread: npt.NDArray[np.float64]


def cluster(vectors: Vectors, within: float) -> Clusters:
    """Which of n faces are of one person. vectors: (n, d) identity vectors. within: Euclidean distance.

    Raises EvaluationError when more than MAX_TOGETHER faces hang together: the distance joins strangers.
    """
    labels, spread = np.zeros(len(vectors), np.int64), np.zeros(len(vectors))
    people = 0
    for part in _parts(vectors, within):
        if len(part) > MAX_TOGETHER:
            raise EvaluationError(
                f"{len(part)} faces hang together at a distance of {within:g}, as strangers do; give a smaller --threshold"
            )
        of_part = np.zeros(len(part), np.int64)
        if len(part) > 1:
            tree = hierarchy.linkage(distance.pdist(vectors[part].astype(np.float64)), "average")
            of_part = hierarchy.fcluster(tree, within, "distance").astype(np.int64) - 1
        for person in range(int(of_part.max()) + 1):
            faces = part[of_part == person]
            labels[faces] = people
            spread[faces] = _spread(vectors[faces].astype(np.float64))
            people += 1
    _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return Clusters(np.argsort(np.argsort(first))[numbers], spread)


def nearest_people(vectors: Vectors, labels: npt.NDArray[np.int64], within: float) -> list[tuple[int, int, float]]:
    """Pairs of people whose mean faces lie within a distance, the nearest first."""
    people = int(labels.max(initial=-1)) + 1
    counts = np.bincount(labels, minlength=people)
    sums = np.stack([np.bincount(labels, column, people) for column in vectors.T.astype(np.float64)], axis=1)
    means = sums / np.maximum(counts, 1)[:, None]
    found: list[tuple[int, int, float]] = []
    for start in range(0, people, ROWS_AT_ONCE):
        apart = distance.cdist(means[start : start + ROWS_AT_ONCE], means)
        for one, other in np.argwhere(apart <= within).tolist():
            if start + one < other:
                found.append((start + one, other, float(apart[one, other])))
    return sorted(found, key=lambda pair: pair[2])


def _spread(faces: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(k,): mean distance of each of k faces (k, d) from the others."""
    blocks = (faces[start : start + ROWS_AT_ONCE] for start in range(0, len(faces), ROWS_AT_ONCE))
    return np.concatenate([distance.cdist(block, faces).sum(1) for block in blocks]) / max(len(faces) - 1, 1)


def _parts(vectors: Vectors, within: float) -> list[npt.NDArray[np.int64]]:
    """The faces divided so that no pair of two parts is within the distance."""
    count = len(vectors)
    if not count:
        return []
    exact = vectors.astype(np.float64)
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, count, ROWS_AT_ONCE):
        near = np.argwhere(distance.cdist(exact[start : start + ROWS_AT_ONCE], exact[start:]) <= within) + start
        rows.append(near[:, 0])
        columns.append(near[:, 1])
    ends = np.concatenate(rows), np.concatenate(columns)
    graph = sparse.coo_array((np.ones(len(ends[0]), np.bool_), ends), (count, count))
    _, part = csgraph.connected_components(graph, directed=False)
    order = np.argsort(part, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(part[order])) + 1)

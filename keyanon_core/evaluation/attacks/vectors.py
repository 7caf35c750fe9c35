"""How alike vectors are that are known on some of their coordinates only."""

import numpy as np

from keyanon_core.evaluation.trial import Bits, Stack


def cosines(first: Stack, its_cells: Bits, second: Stack, their_cells: Bits) -> Stack:
    """(n, m) cosine of each of n vectors with each of m, over the coordinates that both have; 0 where there are none.

    first, its_cells: (n, D); second, their_cells: (m, D).
    """
    a, b = np.where(its_cells, first, 0.0), np.where(their_cells, second, 0.0)
    norms = (np.square(a) @ their_cells.T.astype(np.float64)) * (its_cells.astype(np.float64) @ np.square(b).T)
    return np.asarray(np.divide(a @ b.T, np.sqrt(norms), out=np.zeros_like(norms), where=norms > 0))


def negative_distances(first: Stack, second: Stack) -> Stack:
    """(n, m): minus the Euclidean distance of each of (n, d) from each of (m, d)."""
    return np.asarray(-np.linalg.norm(first[:, None] - second[None], axis=2))


def standardized(values: Stack) -> Stack:
    """(n, d), each column of mean 0 and, where it varies, variance 1."""
    spread = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0))

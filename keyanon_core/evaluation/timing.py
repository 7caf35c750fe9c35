"""What a prior costs: time for its evaluations."""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from keyanon_core.known_path import zero_path
from keyanon_core.priors import Prior

ROUNDS: Final = 3


def milliseconds_per_evaluation(priors: Sequence[Prior], faces: int = 8, seconds: float = 2.0) -> list[float]:
    """Of each prior's denoiser, for one face: median over calls with so many faces.

    The priors take turns, ROUNDS of them, each for so many seconds and one call at least, so that a noisy machine is noisy for
    all. The first call of a turn does not count.
    """
    calls: list[list[float]] = [[] for _ in priors]
    for _ in range(ROUNDS):
        for prior, times in zip(priors, calls, strict=True):
            state = torch.randn((faces, *prior.latent_shape), dtype=torch.float64)
            mask = torch.ones((faces, 1, *prior.latent_shape[1:]), dtype=torch.float64)
            known, t = zero_path(state, prior.alpha_bar, prior.grid_ends[0]), sum(prior.grid_ends) // 2
            prior.eps(state, t, known, mask)
            turn, until = list[float](), time.perf_counter() + seconds
            while not turn or time.perf_counter() < until:
                started = time.perf_counter()
                prior.eps(state, t, known, mask)
                turn.append(time.perf_counter() - started)
            times += turn
    return [1000 * float(np.median(times)) / faces for times in calls]

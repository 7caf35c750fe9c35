"""What a keyed transform leaves of the vector it is given: nothing, if its result can not be told from noise of the same length.

`exact` without inversion hands K the pixels of a face themselves, and Phi can be undone without the key. So what K leaves of
them is what an attacker has. The ideal is a Haar-random rotation, whose results are uniform on the sphere whatever the
vector was: `sphere` draws from it, and every statistic here is compared with its own value there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from keyanon_core.transforms import Vector, keyed_transform

Sampler = Callable[[int, Vector], Vector]
"""Result number k for a source (n,), both of rms 1."""


@dataclass(frozen=True)
class Traces:
    """What of some sources is left in some results. In the brackets: what the sphere gives.

    kurtosis: mean fourth moment of a result (3 n / (n + 2)). neighbours: mean correlation of cells side by side (0).
    low_frequencies: power of a result's lowest 1/64 of its spectrum over that of white noise (1). magnitude_rank: mean rank of a
    result's own source when sources are ordered by the distance of sorted magnitudes, over the middle (1). projection: rms of
    the projections on the own source, times sqrt(n) (1). others: the same on the other sources (1).
    """

    kurtosis: float
    neighbours: float
    low_frequencies: float
    magnitude_rank: float
    projection: float
    others: float


def keyed(kind: str) -> Sampler:
    """Results of a transform under keys 0, 1, ...."""
    return lambda key, source: unit(keyed_transform(kind, key.to_bytes(32, "little"), len(source)).forward(source)[0])


def sphere(key: int, source: Vector) -> Vector:
    """Uniform on the sphere of the source's dimension."""
    return unit(np.random.default_rng(key).normal(size=len(source)))


def unit(values: Vector) -> Vector:
    """(n,) scaled to rms 1."""
    return np.asarray(values / np.sqrt(np.mean(np.square(values))))


def traces(sources: Sequence[Vector], shape: tuple[int, int, int], sampler: Sampler, keys: int) -> Traces:
    """sources: m vectors (n,) with n = C h w, channel by channel; shape: (C, h, w), a box of cells. keys: results of each one."""
    known = np.stack([unit(source) for source in sources])
    magnitudes = np.sort(np.abs(known), axis=1)
    n, middle = known.shape[1], (len(known) + 1) / 2
    found: list[tuple[float, float, float, float, float, float]] = []
    for own, source in enumerate(known):
        for key in range(keys):
            result = sampler(own * keys + key, source)
            off = np.linalg.norm(magnitudes - np.sort(np.abs(result)), axis=1)
            projections = np.square(known @ result) / n
            found.append(
                (
                    float(np.mean(result**4)),
                    _neighbours(result.reshape(shape)),
                    _low_frequencies(result.reshape(shape)),
                    float(1 + (off < off[own]).sum()) / middle,
                    float(projections[own]),
                    float(np.delete(projections, own).mean()),
                )
            )
    means = np.mean(found, axis=0)
    return Traces(*(float(value) for value in means[:4]), *(float(np.sqrt(value)) for value in means[4:]))


def _neighbours(box: npt.NDArray[np.float64]) -> float:
    """Mean product of cells side by side, and one above the other, of a box (C, h, w) of rms 1."""
    return float(np.concatenate([(box[..., 1:] * box[..., :-1]).ravel(), (box[:, 1:] * box[:, :-1]).ravel()]).mean())


def _low_frequencies(box: npt.NDArray[np.float64]) -> float:
    """Power in the lowest eighth of either axis, over its share of the spectrum."""
    _, height, width = box.shape
    power = np.square(np.abs(np.fft.fft2(box, norm="ortho"))).mean(0)
    low = (np.abs(np.fft.fftfreq(height)) < 1 / 16)[:, None] & (np.abs(np.fft.fftfreq(width)) < 1 / 16)
    return float(power[low].mean() / power.mean())


def normality(noise: Vector) -> float:
    """p-value of D'Agostino and Pearson's test (Biometrika 60(3), 1973), by skewness and kurtosis, that the coordinates (n,), 20
    or more, are of one normal distribution, whatever its mean and width. On the sphere it is below 1 % once in 100 times for n in
    thousands, and twice for n = 48.
    """
    return float(stats.normaltest(noise).pvalue)


def distance_from_sphere(source: Vector, sampler: Sampler, keys: int) -> float:
    """Kolmogorov-Smirnov distance between the cosines of results to their source, and what they are on the sphere.

    About 1.4 sqrt(2 / keys) is chance. What a few coordinates keep of a vector shows here first: of one coordinate K can turn
    the sign alone.
    """
    known = unit(source)
    ours, ideal = (np.sort([known @ one(key, known) / len(known) for key in range(keys)]) for one in (sampler, sphere))
    grid = np.concatenate([ours, ideal]) + 1e-9
    below = [np.searchsorted(cosines, grid, side="right") / keys for cosines in (ours, ideal)]
    return float(np.abs(below[0] - below[1]).max())


def hard_sources(n: int) -> dict[str, Vector]:
    """Vectors (n,) that a rotation with structure would give away: one coordinate, one colour, two colours, a ramp."""
    spike, halves = np.zeros(n), np.ones(n)
    spike[n // 2] = 1.0
    halves[: n // 2] = -0.5
    return {"one coordinate": spike, "one colour": np.ones(n), "two colours": halves, "ramp": np.linspace(-1, 1.1, n)}

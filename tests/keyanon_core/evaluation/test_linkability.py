"""Linkability at chance, at full linkage and between, against hand-computed shares and what two normal distributions have."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.stats import norm

from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation.intervals import proportion
from keyanon_core.evaluation.linkability import MIN_SCORES, d_sys, linkability, local, maximal_linkability


def test_shares_by_hand() -> None:
    mated, non_mated = np.array([0.6, 0.3, 0.1, 0.0]), np.array([0.2, 0.3, 0.5, 0.0])
    # likelihood ratios 3, 1, 1/5 and nothing: 2 * 3 / 4 - 1, and 0 where non-mated is as likely
    np.testing.assert_allclose(local(mated, non_mated), [0.5, 0, 0, 0], atol=1e-15)
    assert d_sys(mated, non_mated) == pytest.approx(0.6 * 0.5)
    assert maximal_linkability(mated, non_mated) == pytest.approx(math.log2(0.6 + 0.3 + 0.5))
    assert local(non_mated, mated)[2] == pytest.approx(0.4 / 0.6), "which of the two is mated matters to D_sys"
    apart = np.eye(2)
    assert d_sys(*apart) == 1 and maximal_linkability(*apart) == 1
    assert d_sys(mated, mated) == 0 and maximal_linkability(mated, mated) == pytest.approx(0)


@settings(deadline=None)
@given(arrays(np.float64, (2, 6), elements=st.floats(0.0, 1.0)).filter(lambda both: both.sum(1).min() > 0.1))
def test_one_measure_bounds_the_other(both: np.ndarray) -> None:
    mated, non_mated = both / both.sum(1, keepdims=True)
    variation = np.abs(mated - non_mated).sum() / 2
    assert variation / 2 - 1e-9 <= d_sys(mated, non_mated) <= variation + 1e-9
    assert maximal_linkability(mated, non_mated) == pytest.approx(math.log2(1 + variation), abs=1e-9)
    finer = np.repeat(both / both.sum(1, keepdims=True), 2, axis=1) / 2
    assert d_sys(*finer) == pytest.approx(float(d_sys(mated, non_mated))), "cutting a bin in half changes nothing"


@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 4000), (4000, 60), (800, 800)])
@pytest.mark.parametrize("mated_are", ["nearer", "farther"])
def test_scores_that_do_not_overlap_link_fully(n: int, m: int, mated_are: str) -> None:
    rng = np.random.default_rng(1)
    away = 1.0 if mated_are == "farther" else -1.0
    found = linkability(rng.random(n) + away, rng.random(m))
    for value in (found.d_sys.value, found.maximal.value, found.plain_d_sys, found.plain_maximal, found.d_sys.high):
        assert value == pytest.approx(1)
    few = min(n, m)
    assert found.d_sys.low == proportion(few, few).low and found.d_sys.n == few
    assert found.maximal.low == math.log2(1 + proportion(few, few).low)
    assert found.p_value < 0.001 and sorted(set(found.local)) == [0, 1]
    bins = len(found.local)
    assert bins == 2 * round(few ** (1 / 3)) and found.local.sum() == bins / 2
    assert (found.local[bins // 2 :] == (mated_are == "farther")).all()


@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 4000), (500, 500), (2000, 2000)])
def test_scores_of_one_distribution_do_not_link(n: int, m: int) -> None:
    rng, found = np.random.default_rng(2), []
    for _ in range(40):
        found.append(linkability(rng.normal(size=n), rng.normal(size=m)))
    assert sum(one.p_value > 0.025 for one in found) >= 36
    for one in found:
        assert (one.d_sys.low == 0) == (one.maximal.low == 0) == (one.p_value > 0.025)
        assert one.d_sys.value < one.plain_d_sys and one.maximal.value < one.plain_maximal
    plain, chance = (np.mean([getattr(one, name) for one in found]) for name in ("plain_d_sys", "chance_d_sys"))
    assert plain == pytest.approx(chance, rel=0.25), "what chance adds is what permutations say"
    assert np.mean([one.d_sys.value for one in found]) < 0.65 * plain


def test_what_is_said_of_chance_is_what_it_adds() -> None:
    """The docstring's 0.13, 0.06 and 0.03."""
    rng = np.random.default_rng(3)
    for size, added in ((60, 0.13), (500, 0.06), (2000, 0.03)):
        assert linkability(rng.normal(size=size), rng.normal(size=size)).chance_d_sys == pytest.approx(added, abs=0.01)


@pytest.mark.parametrize("apart", [0.5, 1.0, 2.0, 4.0])
def test_two_normal_distributions_link_as_far_as_they_overlap(apart: float) -> None:
    def mean_local(score: float) -> float:
        mated, non_mated = norm.pdf(score), norm.pdf(score, apart)
        return float(mated * max(mated - non_mated, 0) / (mated + non_mated))

    truth = quad(mean_local, -8, 8 + apart, limit=200)[0]
    bits = math.log2(2 * norm.cdf(apart / 2))
    rng = np.random.default_rng(4)
    found = [linkability(rng.normal(size=300), rng.normal(apart, 1, 600)) for _ in range(40)]
    assert sum(one.d_sys.low <= truth <= one.d_sys.high for one in found) >= 32
    assert sum(one.maximal.low <= bits <= one.maximal.high for one in found) >= 32
    assert np.mean([one.d_sys.value for one in found]) == pytest.approx(truth, abs=0.02)
    assert np.mean([one.maximal.value for one in found]) == pytest.approx(bits, abs=0.02)


def test_neither_an_outlier_nor_another_unit_hides_a_link() -> None:
    rng = np.random.default_rng(5)
    mated, non_mated = rng.random(200), rng.random(300) + 0.9
    plain = linkability(mated, non_mated)
    for change in (np.exp, lambda one: 1e-6 * one + 7, lambda one: one**9):
        changed = linkability(change(mated), change(non_mated))
        assert changed.d_sys == plain.d_sys and changed.maximal == plain.maximal
    assert plain.d_sys.low > 0.75
    assert linkability(np.append(mated, 1e12), non_mated).d_sys.low > 0.7


def test_equal_scores_stay_together() -> None:
    mated, non_mated = np.repeat([1.0, 2.0], [30, 70]), np.repeat([1.0, 2.0], [60, 40])
    found = linkability(mated, non_mated)
    assert found.plain_d_sys == pytest.approx(0.7 * (0.7 - 0.4) / (0.7 + 0.4))
    assert found.plain_maximal == pytest.approx(math.log2(1.3))
    # shares of the two scores: 0.45 and 0.55, whose middles, 0.225 and 0.725, lie in the third and the eighth of ten bins
    assert np.flatnonzero(found.local).tolist() == [7] and len(found.local) == 10
    constant = linkability(np.ones(50), np.ones(50))
    assert constant.plain_d_sys == constant.d_sys.value == constant.chance_d_sys == 0 and constant.p_value == 1
    assert (constant.d_sys.low, constant.d_sys.high) == (0, proportion(0, 50).high)
    assert constant.maximal.high == math.log2(1 + proportion(0, 50).high)


def test_edges_say_which_scores_a_bin_holds() -> None:
    rng = np.random.default_rng(6)
    mated, non_mated = rng.normal(size=200), rng.normal(1, 1, 300)
    found = linkability(mated, non_mated)
    assert len(found.edges) == len(found.local) + 1 and (np.diff(found.edges) > 0).all()
    assert found.edges[0] == min(mated.min(), non_mated.min()) and found.edges[-1] == max(mated.max(), non_mated.max())
    shares = [np.histogram(scores, found.edges)[0] / len(scores) for scores in (mated, non_mated)]
    np.testing.assert_allclose(local(*shares), found.local)
    assert d_sys(*shares) == pytest.approx(found.plain_d_sys)
    np.testing.assert_allclose(
        sum(shares) / 2, 1 / len(found.local), atol=0.01, err_msg="bins hold alike much of both together"
    )
    few = linkability(np.repeat([1.0, 2.0], 20), np.repeat([2.0, 3.0], 20))
    assert few.edges[0] == 1 and few.edges[-1] == 3 and (np.diff(few.edges) >= 0).all()
    shares = [
        np.histogram(scores, np.unique(few.edges))[0] / 40
        for scores in (np.repeat([1.0, 2.0], 20), np.repeat([2.0, 3.0], 20))
    ]
    assert d_sys(*shares) == pytest.approx(few.plain_d_sys) == pytest.approx(0.5)


def test_it_is_the_same_each_time_and_refuses_what_says_nothing() -> None:
    rng = np.random.default_rng(7)
    scores = rng.normal(size=MIN_SCORES), rng.normal(size=MIN_SCORES)
    assert linkability(*scores).d_sys == linkability(*scores).d_sys
    for short in ((scores[0][1:], scores[1]), (scores[0], scores[1][1:])):
        with pytest.raises(EvaluationError, match=f"takes {MIN_SCORES} mated"):
            linkability(*short)
    with pytest.raises(EvaluationError, match="not finite"):
        linkability(np.append(scores[0], math.nan), scores[1])

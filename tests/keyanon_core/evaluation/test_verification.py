"""Error rates and ranks, by hand-computed values, at the ties where strict and not strict differ, and at chance."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation import verification
from keyanon_core.evaluation.intervals import NOTHING, proportion
from keyanon_core.evaluation.verification import (
    equal_error_rate,
    identification,
    tar_at_far,
    threshold_at_far,
    verified,
)

TEN = np.arange(1, 11) / 10  # impostor pairs at 0.1, 0.2, ..., 1.0


@pytest.mark.parametrize(
    ("far", "threshold"), [(0.1, 0.2), (0.19, 0.2), (0.2, 0.3), (0.3, 0.4), (0.95, 1.0), (1, math.inf)]
)
def test_a_threshold_verifies_as_many_impostors_as_the_far_allows_and_no_more(far: float, threshold: float) -> None:
    assert threshold_at_far(TEN[::-1], far) == threshold
    assert verified(TEN, threshold).mean() == math.floor(far * 10 + 1e-9) / 10


@pytest.mark.parametrize(
    ("m", "far", "allowed"), [(100, 0.29, 29), (100, 0.07, 7), (1000, 0.001, 1), (3000, 0.001, 3), (49, 1 / 49, 1)]
)
def test_shares_that_floating_point_can_not_write_count_as_what_they_mean(m: int, far: float, allowed: int) -> None:
    assert threshold_at_far(np.arange(m), far) == allowed


def test_a_far_that_no_pair_can_show_is_refused() -> None:
    with pytest.raises(
        EvaluationError, match=r"FAR of 0\.001 .* 999 impostor pairs: it takes 1000 or more, or a FAR of 0\.001"
    ):
        tar_at_far([0.1], np.arange(999), 0.001)
    with pytest.raises(EvaluationError, match="0 impostor pairs: it takes 10 or more, or a FAR of 1 or above"):
        threshold_at_far([], 0.1)
    for far in (0, -0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match="above 0"):
            threshold_at_far(TEN, far)


def test_equally_distant_impostors_are_verified_together_or_not_at_all() -> None:
    assert threshold_at_far([1, 2, 2, 2, 3, 4, 4, 4, 4, 4], 0.3) == 2
    assert threshold_at_far([1, 2, 2, 2, 3, 4, 4, 4, 4, 4], 0.4) == 3
    assert threshold_at_far([5, 5, 5, 5], 0.5) == 5 and not verified([5, 5, 5, 5], 5).any()


def test_tar_counts_what_lies_below_the_threshold() -> None:
    tar, threshold = tar_at_far([0.05, 0.1, 0.19, 0.2, 0.7], TEN, 0.1)
    assert (tar, threshold) == (proportion(3, 5), 0.2), (
        "a genuine pair at the threshold is no more verified than an impostor"
    )
    assert tar_at_far([0.05, 9.0], TEN, 1)[0].value == 1
    assert tar_at_far([], TEN, 0.1) == (NOTHING, 0.2)
    with pytest.raises(EvaluationError, match="not finite"):
        tar_at_far([0.1, math.nan], TEN, 0.1)


def test_equal_error_rates_by_hand() -> None:
    assert equal_error_rate([1, 2, 3, 6], [4, 5, 7, 8]).value == pytest.approx(0.25), (
        "one of four crosses over on either side"
    )
    assert equal_error_rate([1, 2], [3, 4]).value == 0 and equal_error_rate([3, 4], [1, 2]).value == 1
    assert equal_error_rate([5, 5], [5, 5]).value == pytest.approx(0.5), (
        "a recognizer that always says the same is chance"
    )
    # thresholds 1, 2, 3, ...: rejected 1, 1/2, 1/2, 0 and falsely verified 0, 0, 1/3, 1/3: they cross between 3 and infinity
    assert equal_error_rate([1, 3], [2, 4, 5]).value == pytest.approx(1 / 3)
    # rejected 1, 2/3, 1/3, 1/3, 0 and falsely verified 0, 0, 0, 1/2, 1/2, from 3 to 4 through (1/3, 1/3)
    assert equal_error_rate([1, 2, 4], [3, 5]).value == pytest.approx(1 / 3)


def test_an_equal_error_rate_knows_how_few_pairs_of_either_kind_it_has() -> None:
    none = equal_error_rate(np.zeros(20), np.ones(400))
    assert (none.value, none.low, none.n) == (0, 0, 20)
    assert none.high == pytest.approx(1 - 0.0125 ** (1 / 20)) and none == equal_error_rate(np.zeros(400), np.ones(20))
    quarter = equal_error_rate([1, 2, 3, 6], [4, 5, 7, 8])
    assert (quarter.low, quarter.high) == (
        pytest.approx(1 - (1 - 0.0125) ** (1 / 4)),
        proportion(1, 4, 0.975).high,
    )
    third = equal_error_rate([1, 3], [2, 4, 5])  # 2/3 of a pair: from none to one
    assert (third.low, third.high, third.n) == (0, proportion(1, 2, 0.975).high, 2)
    assert equal_error_rate([], [1.0]) is NOTHING and equal_error_rate([1.0], []) is NOTHING


def test_equal_error_rates_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(3)
    held = 0
    truth = 0.5 * math.erfc(1 / math.sqrt(2))  # two standard deviations apart
    for _ in range(60):
        estimate = equal_error_rate(rng.normal(0, 1, 300), rng.normal(2, 1, 500))
        assert estimate.value == pytest.approx(truth, abs=0.05)
        held += estimate.low <= truth <= estimate.high
    assert held >= 55


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=12),
    st.lists(st.integers(0, 12), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_rates_are_those_that_a_count_gives(genuine: list[int], impostor: list[int], twelfths: int) -> None:
    far = max(twelfths / 12, 1 / len(impostor))
    tar, threshold = tar_at_far(genuine, impostor, far)
    candidates = [t for t in [*impostor, math.inf] if sum(one < t for one in impostor) <= far * len(impostor) + 1e-6]
    assert threshold == max(candidates)
    assert tar.value == sum(one < threshold for one in genuine) / len(genuine)
    rate = equal_error_rate(genuine, impostor)
    rates = [
        (sum(g >= t for g in genuine) / len(genuine), sum(i < t for i in impostor) / len(impostor))
        for t in [*sorted({*genuine, *impostor}), math.inf]
    ]
    assert max(min(pair) for pair in rates) - 1e-12 <= rate.value <= min(max(pair) for pair in rates) + 1e-12
    assert rate.low <= rate.value <= rate.high


def test_ranks_by_hand() -> None:
    gallery = np.array([[0.0], [1.0], [2.0], [4.0]])
    probes = np.array([[0.1], [0.1], [0.1], [0.1], [3.0], [3.0], [0.5]])
    found = identification(probes, gallery, np.array([0, 1, 2, 3, 2, 1, 1]))
    assert found.ranks.tolist() == [1, 2, 3, 4, 1.5, 3, 1.5], "those equally near share the mean of their ranks"
    assert found.rank1 == proportion(1, 7), "one of two equally near is not recognised"
    assert found.mean_rank_over_middle.value == pytest.approx(16 / 7 / 2.5)
    assert found.mean_rank_over_middle.n == 7


@pytest.mark.parametrize("limit", [verification.MAX_DISTANCES, 100, 1])
def test_ranks_agree_with_all_distances_however_they_are_cut(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(verification, "MAX_DISTANCES", limit)
    rng = np.random.default_rng(4)
    gallery = rng.standard_normal((40, 16)).astype(np.float32) + 50  # far from zero: squares lose small distances
    own = rng.integers(0, 40, 31)
    probes = gallery[own] + rng.standard_normal((31, 16)).astype(np.float32)
    every = np.linalg.norm(probes[:, None].astype(float) - gallery[None].astype(float), axis=2)
    expected = 1 + (every < every[np.arange(31), own][:, None]).sum(1)
    assert expected.max() > 1 and (expected == 1).any()
    assert identification(probes, gallery, own).ranks.tolist() == expected.tolist()


def test_pictures_that_are_twice_in_a_gallery_are_equally_near() -> None:
    rng = np.random.default_rng(5)
    gallery = np.repeat(rng.standard_normal((7, 128)) * 100, 2, axis=0)
    assert identification(gallery, gallery, np.arange(14)).ranks.tolist() == [1.5] * 14


def test_strangers_are_at_chance_and_the_same_faces_are_found() -> None:
    rng = np.random.default_rng(6)
    gallery, own = rng.standard_normal((200, 32)), np.arange(200)
    chance = identification(rng.standard_normal((200, 32)), gallery, own)
    assert chance.rank1.low <= 1 / 200 <= chance.rank1.high
    assert chance.mean_rank_over_middle.low <= 1 <= chance.mean_rank_over_middle.high
    same = identification(gallery, gallery, own)
    assert same.rank1.value == 1 and same.mean_rank_over_middle.value == pytest.approx(2 / 201)


def test_sets_that_do_not_fit_are_refused() -> None:
    three, own = np.zeros((3, 2)), np.arange(3)
    for probes, gallery in ((three, three[:, :1]), (three, three[:0]), (three[0], three), (three, three[0])):
        with pytest.raises(ValueError, match="m >= 1"):
            identification(probes, gallery, own)
    for rows in (own[:2], own.astype(float), own[:, None]):
        with pytest.raises(ValueError, match=r"\(n,\) integers"):
            identification(three, three, rows)
    for rows in (own + 1, own - 1):
        with pytest.raises(ValueError, match="0 to 2"):
            identification(three, three, rows)
    with pytest.raises(EvaluationError, match="row 1"):
        identification(np.array([[0, 0], [math.nan, 0]]), three, own[:2])
    empty = identification(three[:0], three, own[:0])
    assert empty.rank1 is NOTHING and empty.ranks.shape == (0,)

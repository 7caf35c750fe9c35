"""Estimates say what chance leaves open, by hand-computed intervals and by how often the truth lies in them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation.intervals import NOTHING, Estimate, mean_of, median_of, proportion, quantity, share_of


@pytest.mark.parametrize("n", [1, 7, 60, 1600])
def test_none_and_all_of_n_leave_what_the_rule_of_clopper_and_pearson_leaves(n: int) -> None:
    none, every = proportion(0, n), proportion(n, n)
    assert (none.value, none.low, every.value, every.high) == (0, 0, 1, 1)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / n)) and every.low == pytest.approx(0.025 ** (1 / n))
    assert none.n == every.n == n


def test_a_proportion_is_as_in_the_tables() -> None:
    estimate = proportion(3, 10)
    assert (estimate.value, estimate.n) == (0.3, 10)
    assert (estimate.low, estimate.high) == (pytest.approx(0.06674, abs=1e-5), pytest.approx(0.65245, abs=1e-5))
    assert proportion(3, 10, confidence=0.99).low < estimate.low
    assert share_of([True, False, True, True]) == proportion(3, 4)
    with pytest.raises(ValueError, match="11 of 10"):
        proportion(11, 10)
    with pytest.raises(ValueError, match="-1 of 10"):
        proportion(-1, 10)
    with pytest.raises(ValueError, match="bool"):
        share_of(np.array([1, 0, 2]))  # type: ignore[arg-type]


def test_a_mean_has_students_interval() -> None:
    estimate = mean_of([1, 2, 3, 4])
    reach = 3.182446 * math.sqrt(5 / 3) / 2  # t of 3 degrees of freedom at 97.5 %, in the tables
    assert (estimate.value, estimate.n) == (2.5, 4)
    assert (estimate.low, estimate.high) == (pytest.approx(2.5 - reach), pytest.approx(2.5 + reach))
    assert mean_of([2.0]) == Estimate(2.0, -math.inf, math.inf, 1)


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (50, 18)])
def test_a_medians_interval_ends_at_the_values_that_the_tables_name(n: int, k: int) -> None:
    """Tables of the sign test, two-sided 5 %."""
    values = np.random.default_rng(n).permutation(n) + 1.0
    assert median_of(values) == Estimate((n + 1) / 2, k, n + 1 - k, n)


def test_five_values_bound_no_median() -> None:
    assert median_of([5, 1, 2, 4, 3]) == Estimate(3, -math.inf, math.inf, 5)
    assert "too few" in str(median_of([5, 1, 2, 4, 3]))


@pytest.mark.parametrize(("estimator", "truth"), [(mean_of, 1.0), (median_of, math.log(2))])
def test_the_truth_lies_in_the_interval_as_often_as_it_says(estimator, truth) -> None:  # type: ignore[no-untyped-def]
    samples = np.random.default_rng(1).exponential(size=(400, 60))
    held = sum(one.low <= truth <= one.high for one in map(estimator, samples))
    assert 0.90 < held / 400 < 0.99


def test_a_statistic_of_rows_keeps_pairs_together_and_is_the_same_each_time() -> None:
    x = np.random.default_rng(2).normal(size=80)
    rows = np.stack([x, x + 3], axis=1)
    paired = quantity(rows, lambda drawn: float((drawn[:, 1] - drawn[:, 0]).mean()))
    assert (paired.value, paired.low, paired.high) == (pytest.approx(3), pytest.approx(3), pytest.approx(3))
    assert paired.n == 80
    first = quantity(rows, lambda drawn: float(drawn[:, 0].mean()))
    assert first == quantity(rows, lambda drawn: float(drawn[:, 0].mean()))
    student = mean_of(x)
    assert (first.low, first.high) == (pytest.approx(student.low, abs=0.04), pytest.approx(student.high, abs=0.04))
    assert quantity([4.0], np.mean) == Estimate(4.0, -math.inf, math.inf, 1)
    with pytest.raises(EvaluationError, match="of 80 rows is nan"):
        quantity(rows, lambda drawn: math.nan)


@pytest.mark.parametrize("estimator", [mean_of, median_of, lambda values: quantity(values, np.mean)])
def test_nothing_gives_nothing_and_says_so_and_no_figure_is_made_of_what_is_no_number(estimator) -> None:  # type: ignore[no-untyped-def]
    assert estimator([]) is NOTHING
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(EvaluationError, match=r"1 of 3 values are not finite, the first in row 2"):
            estimator([1.0, 2.0, bad])
    with pytest.raises(ValueError, match="values are"):
        estimator(3.0)


def test_values_in_rows_have_no_mean_or_median_of_their_own() -> None:
    for estimator in (mean_of, median_of):
        with pytest.raises(ValueError, match=r"\(n,\), not \(2, 2\)"):
            estimator([[1, 2], [3, 4]])


def test_an_estimate_goes_into_json_and_says_what_it_is() -> None:
    assert proportion(0, 0) is NOTHING and share_of([]) is NOTHING
    assert json.loads(json.dumps(NOTHING.to_dict(), allow_nan=False)) == dict.fromkeys(("value", "low", "high")) | {
        "n": 0
    }
    assert mean_of([2.0]).to_dict() == {"value": 2.0, "low": None, "high": None, "n": 1}
    assert Estimate(0.5, 0.25, 0.75, 9).to_dict() == {"value": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    assert str(NOTHING) == "none (n = 0)" and str(Estimate(0.5, 0.25, 0.75, 9)) == "0.5 [0.25, 0.75] (n = 9)"
    assert not NOTHING.bounded and Estimate(0.5, 0.25, 0.75, 9).bounded
    assert Estimate(0.5, 0.25, 0.75, 9).times(4) == Estimate(2, 1, 3, 9) and NOTHING.times(2).n == 0
    for factor in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="above 0"):
            proportion(1, 2).times(factor)


@pytest.mark.parametrize(
    "figures",
    [
        (math.nan, 0, 1, 3),
        (math.nan, math.nan, math.nan, 3),
        (0.5, 0, 1, 0),
        (0.5, math.nan, 1, 3),
        (0.5, 0, math.nan, 3),
        (math.inf, 0, 1, 3),
        (0.5, 0, 1, -1),
    ],
)
def test_an_estimate_that_contradicts_itself_is_refused(figures: tuple[float, float, float, int]) -> None:
    with pytest.raises(ValueError, match=r"can not be|does not fit"):
        Estimate(*figures)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_figure_lies_in_its_interval(values: list[float]) -> None:
    for estimate in (mean_of(values), median_of(values)):
        assert estimate.low <= estimate.value <= estimate.high and estimate.n == len(values)

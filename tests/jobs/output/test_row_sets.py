"""Sets of row numbers behave as sets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.output.row_sets import RowSet
from jobs.sources.source import unfinished

numbers = st.sets(st.integers(0, 3000))


@given(numbers, numbers, st.sets(st.integers(-5, 10_000)))
def test_a_row_set_is_the_set_of_its_numbers(first: set[int], second: set[int], asked: set[int]) -> None:
    rows = RowSet(first)
    assert rows == first and list(rows) == sorted(first)
    rows.add(np.array(sorted(second), np.int64))
    both = first | second
    assert rows == both and len(rows) == len(both) and RowSet(rows) == both
    assert [one in rows for one in asked] == [one in both for one in asked] == rows.has(asked).tolist()
    assert rows.isdisjoint(asked) == both.isdisjoint(asked)
    assert rows != both | {4000} and rows.numbers().tolist() == sorted(both)


@given(numbers, numbers, st.integers(0, 4000))
def test_of_row_sets_as_of_other_sets(first: set[int], second: set[int], total: int) -> None:
    rows, others = RowSet(first), RowSet(second)
    assert rows.without(others).tolist() == sorted(first - second)
    assert np.flatnonzero(rows.among(total)).tolist() == [one for one in sorted(first) if one < total]
    assert unfinished(4000, rows).tolist() == unfinished(4000, first).tolist() == (~rows.among(4000)).tolist()
    assert rows.free(total).tolist() == [one for one in range(total + len(first)) if one not in first][:total]
    both = RowSet(rows)
    both.add(others)
    assert both == first | second and RowSet.of(both.among(total)) == {one for one in first | second if one < total}
    assert rows == first and others == second

"""Sets of names that hold no name."""

from hypothesis import given
from hypothesis import strategies as st

from jobs.output.name_sets import NameSet

NAMES = st.lists(st.text(max_size=4))


@given(NAMES, NAMES, NAMES)
def test_it_lacks_what_was_never_put_in_and_nothing_else(first: list[str], then: list[str], asked: list[str]) -> None:
    names = NameSet()
    names.add(first)
    assert names.lacks(first + asked) == [one for one in asked if one not in first]
    names.add(iter(then))
    assert names.lacks(asked + then) == [one for one in asked if one not in first + then]


def test_a_name_that_is_no_utf_8_is_one_of_its_own() -> None:
    names = NameSet()
    assert names.lacks(["\udcff"]) == ["\udcff"] and names.lacks([]) == []
    names.add(["\udcff"])
    assert names.lacks(["\udcff", "\udcfe", "ÿ"]) == ["\udcfe", "ÿ"]

"""Sets of names that hold no name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.output import name_sets
from jobs.output.name_sets import NameSet

NAMES = st.lists(st.text(max_size=4))


def sized(names: list[str]) -> list[tuple[str, int]]:
    return [(name, at) for at, name in enumerate(names)]


@given(NAMES, NAMES, NAMES)
def test_what_was_never_put_in_is_a_stray_and_nothing_else(first: list[str], then: list[str], asked: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(name_sets, "_AT_ONCE", 3)
        names = NameSet()
        names.add(first)
        assert list(names.strays(sized(first + asked))) == [one for one in sized(first + asked) if one[0] not in first]
        names.add(iter(then))
        assert list(names.strays(sized(asked + then))) == [
            one for one in sized(asked + then) if one[0] not in first + then
        ]


def test_a_name_that_is_no_utf_8_is_one_of_its_own() -> None:
    names = NameSet()
    assert list(names.strays(sized(["\udcff"]))) == [("\udcff", 0)] and list(names.strays([])) == []
    names.add(["\udcff"])
    assert list(names.strays(sized(["\udcff", "\udcfe", "ÿ"]))) == [("\udcfe", 1), ("ÿ", 2)]

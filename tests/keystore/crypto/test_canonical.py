"""Two ways to the same bytes: the quick one may be taken where values are texts and whole numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystore.crypto.canonical import are_plain, canonical_flat, canonical_json, canonical_sorted

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(-(2**63), 2**64 - 1), st.none())))
def test_a_flat_object_has_the_same_bytes_either_way(value: dict[str, str | int | None]) -> None:
    assert canonical_flat(value) == canonical_json(value)


@pytest.mark.parametrize("text", ['\x00\x1f\x7f\b\f\n\r\t"\\/', "é\u2028\u2029😀", ""])
def test_every_escape_is_the_same(text: str) -> None:
    assert canonical_flat({text: text}) == canonical_json({text: text})


def test_what_is_no_text_is_refused_either_way() -> None:
    for way in (canonical_flat, canonical_json):
        with pytest.raises(ValueError):
            way({"a": "\ud800"})


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_plain_floats_have_the_same_bytes_either_way(numbers: list[float]) -> None:
    plain = [one for one in numbers if are_plain([one])]
    assert canonical_sorted(plain) == canonical_json(plain)
    assert are_plain(numbers) == (len(plain) == len(numbers))


@pytest.mark.parametrize("edge", [1e-4, 1e16])
def test_the_edges_of_what_is_plain_are_written_the_same(edge: float) -> None:
    beside = [edge, math.nextafter(edge, 0), math.nextafter(edge, 1e300)]
    for one in (*beside, *(-one for one in beside), 0.0, -0.0):
        assert not are_plain([one]) or canonical_sorted(one) == canonical_json(one)
    assert [are_plain([one]) for one in beside] == ([True, False, True] if edge < 1 else [False, True, False])
    assert are_plain([0.0, -0.0]), "most of a face that was not turned"
    for one in (math.nan, math.inf, -math.inf):
        assert not are_plain([one])
        with pytest.raises(ValueError):
            canonical_json(one)

"""Two ways to the same bytes: the quick one may be taken where values are texts and whole numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystore.crypto.canonical import canonical_flat, canonical_json

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

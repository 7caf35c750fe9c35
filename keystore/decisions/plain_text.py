"""What other people wrote, so that it can be shown: nothing in it repaints what stands around it."""

from __future__ import annotations

import unicodedata

_KEPT_CONTROLS = "\n\t"
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: object) -> str:
    """`text` with control, format and unassigned characters written as escapes, newline and tab kept."""
    return "".join(
        character
        if character in _KEPT_CONTROLS or unicodedata.category(character) not in _UNSHOWN
        else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )

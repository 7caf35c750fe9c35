"""Who is who: names brought to one form, so that `Alice` and `alice ` are one person, and salted commitments that stand for them.

The log and the state tables hold only commitments, HMAC-SHA256(salt, name); salt and name are in one table, and
deleting a row there
leaves a log that still verifies and names nobody.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata

from keystore.errors import ApprovalError

MAX_PERSON_CHARACTERS = 200
NAME_SALT_BYTES = 32
_COMMITMENT_LABEL = b"keyanon name v1\n"
# Categories that can not be seen or have no agreed meaning: control, format, surrogate, private, unassigned, line separators.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Invisible though their category says letter or mark (Unicode Default_Ignorable_Code_Point).
_INVISIBLE = frozenset(
    [
        0x034F,
        0x115F,
        0x1160,
        0x17B4,
        0x17B5,
        0x180B,
        0x180C,
        0x180D,
        0x180F,
        0x3164,
        0xFFA0,
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)
# Scripts whose letters look alike; a word that mixes them is made to be mistaken for another.
_LOOKALIKE_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK")


def normalise_name(name: str) -> str:
    """Return the one form of a person's name: NFKC, whitespace collapsed, casefolded. Raises ApprovalError for a
    name that hides something."""
    for character in name:
        if unicodedata.category(character) in _REFUSED_CATEGORIES or ord(character) in _INVISIBLE:
            raise ApprovalError(
                "name", f"a name holds the invisible or control character U+{ord(character):04X}; write it without"
            )
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    words = folded.split()
    normal = " ".join(words)
    if not any(character.isalnum() for character in normal):
        raise ApprovalError("name", "a person needs a name with at least one letter or digit")
    if len(normal) > MAX_PERSON_CHARACTERS:
        raise ApprovalError("name", f"a name is longer than {MAX_PERSON_CHARACTERS} characters")
    for word in words:
        scripts = {
            script
            for script in _LOOKALIKE_SCRIPTS
            if any(unicodedata.name(letter, "").startswith(script) for letter in word)
        }
        if len(scripts) > 1:
            raise ApprovalError(
                "name",
                f"a name mixes {' and '.join(sorted(scripts))} letters in one word, which can not be told apart by eye",
            )
    return normal


def name_commitment(salt: bytes, normal_name: str) -> str:
    """Return the 64 hexadecimal digits that stand for a person in the log."""
    return hmac.new(salt, _COMMITMENT_LABEL + normal_name.encode(), hashlib.sha256).hexdigest()

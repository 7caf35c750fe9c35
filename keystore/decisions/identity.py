"""Who is who: one form for each name, a keyed index under which a person is found again, and salted commitments for the log.

Embedded mode takes a person's name from the operating system or from `--as`. Two names that a reader could take for one must
not be two people, so names come from an allow-list (Latin letters, digits, single separators), and the index is over the
*skeleton* of a name, in which look-alikes are one (after Unicode Technical Standard 39, section 4): `a1ice` can not join
where `alice` is on file.

The log and the state tables hold only commitments, HMAC-SHA256(salt, name); salt and name are in one table, and deleting them
there leaves a log that still verifies and names nobody. The index, HMAC-SHA256(key, issuer and skeleton), stays behind: it
tells nobody a name without the keystore's own key, and it is what keeps an erased person from coming back as somebody new.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata

from keystore.crypto.canonical import canonical_json
from keystore.errors import ApprovalError

MAX_PERSON_CHARACTERS = 200
NAME_SALT_BYTES = 32
EMBEDDED_ISSUER = "operating system"
_COMMITMENT_LABEL = b"keyanon name v1\n"
# After NFKC and casefolding: ASCII, and the letters of Latin-1 and Latin Extended-A.
_LETTERS = "0-9a-zß-öø-ÿā-ķĺ-ňŋ-ž"
_NAME = re.compile(f"[{_LETTERS}]+(?:(?:\\. |[ ._'@-])[{_LETTERS}]+)*")
_LETTER = re.compile(f"[{_LETTERS}]")
_SEPARATORS = " ._'@-"
# Letters that decomposition leaves whole, and those that one reads as another in some typeface.
_READ_AS = str.maketrans(
    {
        "æ": "ae",
        "œ": "oe",
        "ø": "o",
        "đ": "d",
        "ð": "d",
        "ħ": "h",
        "ı": "l",
        "ĳ": "lj",
        "ł": "l",
        "ŋ": "n",
        "ŧ": "t",
        "þ": "p",
        "ß": "ss",
        "0": "o",
        "1": "l",
        "i": "l",
        **dict.fromkeys(_SEPARATORS),
    }
)
_READ_TOGETHER = (("rn", "m"), ("vv", "w"))


def normalise_name(name: str) -> str:
    """Return the one form of a person's name: NFKC, casefolded, spaces collapsed.

    Raises ApprovalError for a name outside of the allow-list: letters and digits of the Latin script, and between two of them one
    space, full stop (or full stop and space), underscore, apostrophe, at sign or hyphen.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).replace("i\u0307", "i")
    normal = " ".join(word for word in folded.split(" ") if word)
    if len(normal) > MAX_PERSON_CHARACTERS:
        raise ApprovalError("name", f"a name is longer than {MAX_PERSON_CHARACTERS} characters")
    for character in normal:
        if not _LETTER.fullmatch(character) and character not in _SEPARATORS:
            raise ApprovalError(
                "name",
                f"a name holds the character U+{ord(character):04X}; names are written in Latin letters and digits, so that "
                "no two of them look alike",
            )
    if not _NAME.fullmatch(normal):
        raise ApprovalError(
            "name",
            "a name begins and ends with a letter or a digit, and has one space, full stop, underscore, apostrophe, at sign or "
            "hyphen between two of them",
        )
    return normal


def skeleton(normal_name: str) -> str:
    """Return what a reader may take a name for: two names with one skeleton are never two people."""
    decomposed = unicodedata.normalize("NFD", normal_name)
    plain = "".join(one for one in decomposed if unicodedata.category(one) != "Mn").translate(_READ_AS)
    for together, read in _READ_TOGETHER:
        plain = plain.replace(together, read)
    return plain


def person_tag(key: bytes, issuer: str, normal_name: str) -> str:
    """Return under what a person is filed for good: a keyed hash of who vouches for the name and of its skeleton."""
    subject = {"issuer": issuer, "subject": skeleton(normal_name), "type": "keyanon person v1"}
    return hmac.new(key, canonical_json(subject), hashlib.sha256).hexdigest()


def name_commitment(salt: bytes, normal_name: str) -> str:
    """Return the 64 hexadecimal digits that stand for a person in the log."""
    return hmac.new(salt, _COMMITMENT_LABEL + normal_name.encode(), hashlib.sha256).hexdigest()

"""The closed list of legal bases that a request may name, each written as `CODE`, or `CODE: the law, order or contract`.

The code says what kind of right is claimed; whether it is there is for the people who approve. What was filed before there was a
list is read as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from keystore.errors import PolicyError

LEGAL_BASES: Mapping[str, str] = MappingProxyType(
    {
        "consent": "The people shown agreed to this purpose (GDPR Art. 6(1)(a)).",
        "contract": "A contract with the person shown needs it (GDPR Art. 6(1)(b)).",
        "court-order": "A court or another judicial authority ordered it.",
        "criminal-investigation": "A competent authority looks into an offence (Directive 2016/680 Art. 8).",
        "legal-obligation": "A law obliges the controller to it (GDPR Art. 6(1)(c)).",
        "legitimate-interests": "Interests that those of the people shown do not override (GDPR Art. 6(1)(f)).",
        "own-data": "The person shown asks for their own picture (GDPR Art. 15, Directive 2016/680 Art. 14).",
        "public-task": "A law gives the controller a task in the public interest that needs it (GDPR Art. 6(1)(e)).",
        "vital-interests": "Life or health depends on it (GDPR Art. 6(1)(d)).",
    }
)


def written(code: str, words: str) -> str:
    """Return a legal basis as a request writes it."""
    return f"{code}: {words}" if words.strip() else code


def check_legal_basis(text: str, allowed: Collection[str]) -> None:
    """Raise PolicyError where a legal basis does not begin with a code of the list."""
    code = text.partition(":")[0]
    if code not in allowed:
        raise PolicyError(
            "legal_basis",
            f"the legal basis begins with none of those that the policy knows; write CODE, or CODE: the law or order, with "
            f"one of {', '.join(sorted(allowed))}",
        )

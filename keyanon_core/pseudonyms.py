"""One person, one face: whose carrier decides a face, and which of a person's carriers holds.

A subject (a person of a data set) has a pseudonym secret of 32 random bytes, and under it numbered carriers. The gate judges them
once for each subject: the first that passes is settled, and from then on every picture of the subject is made on it
(`keyanon_core.carriers`). A secret opens no record. Who holds it can make its subject's carriers, and so tell whether a
published face is that subject's; hence it is a secret.
"""

import secrets
from dataclasses import dataclass
from typing import Final, Protocol

from keyanon_core.keys import derived

SECRET_BYTES: Final = 32
MAX_CARRIERS: Final = 32  # numbers that a carrier may have, from 0


@dataclass(frozen=True, repr=False)
class Pseudonym:
    """secret: 32 bytes. number: of the carrier that holds; None until one is settled."""

    secret: bytes
    number: int | None = None


class Pseudonyms(Protocol):
    """Whoever keeps the pseudonyms of one data set. A call that gets no answer raises, and decides nothing."""

    def of(self, subject: str) -> Pseudonym:
        """The pseudonym of a subject, made at the first ask."""

    def settle(self, subject: str, number: int) -> int:
        """Settle a subject's carrier unless one is settled already; returns the number that holds from now on."""


class EphemeralPseudonyms:
    """Pseudonyms of one process, under a secret that is thrown away with it: no later run makes the same faces."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._numbers: dict[str, int] = {}

    def of(self, subject: str) -> Pseudonym:
        return Pseudonym(derived(self._secret, "pseudonym", subject.encode()), self._numbers.get(subject))

    def settle(self, subject: str, number: int) -> int:
        return self._numbers.setdefault(subject, number)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("EphemeralPseudonyms hold a secret and are never pickled; make them where they are used")


def carrier_key(secret: bytes, number: int) -> bytes:
    """The 32-byte key of one of a subject's carriers (HKDF-SHA256). Raises WrongKeyError for a secret of another length and
    ValueError for a number outside [0, MAX_CARRIERS).
    """
    if not 0 <= number < MAX_CARRIERS:
        raise ValueError(f"carrier number {number} must lie in [0, {MAX_CARRIERS})")
    return derived(secret, "carrier", number.to_bytes(4))

"""Pseudonyms where pictures are worked on: asked of whoever keeps them, once for a block, remembered for the next ones.

What travels to a process is where to ask. Secrets come to it by a connection of its own, and leave it in sealed records alone.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Final

from jobs.errors import MachineError, PseudonymsRefusedError, UnansweredError
from jobs.output.keys import PseudonymDoor, alive
from keyanon_core.pseudonyms import EphemeralPseudonyms, Pseudonym
from keystore.errors import KeystoreError

REMEMBERED: Final = 1000  # subjects, beside those of the block in hand


class ThrownAway:
    """The door of a sample: each process has secrets of its own, which end with it."""

    def __init__(self) -> None:
        self._pseudonyms = EphemeralPseudonyms()

    def secrets(self, subjects: Collection[str]) -> dict[str, tuple[bytes, int | None]]:
        found = {subject: self._pseudonyms.of(subject) for subject in subjects}
        return {subject: (one.secret, one.number) for subject, one in found.items()}

    def settle(self, subject: str, number: int) -> int:
        return self._pseudonyms.settle(subject, number)

    def __reduce__(self) -> tuple[object, ...]:
        return ThrownAway, ()


class AskedPseudonyms:
    """`keyanon_core.pseudonyms.Pseudonyms` of a process."""

    def __init__(self, door: PseudonymDoor) -> None:
        self._door = door
        self._known: dict[str, Pseudonym] = {}

    def expect(self, subjects: Collection[str]) -> None:
        """Ask at once for the pseudonyms of pictures that are about to be worked on; of a subject whose carrier was not settled
        yet, again. Raises UnansweredError, PseudonymsRefusedError."""
        settled = {subject: one for subject, one in self._known.items() if one.number is not None}
        asked = sorted(set(subjects) - settled.keys())
        with _answering():
            found = self._door.secrets(asked) if asked else {}
        here = {subject: settled.pop(subject) for subject in subjects if subject in settled}
        self._known = dict(list(settled.items())[-REMEMBERED:]) | here
        self._known |= {subject: Pseudonym(*found[subject]) for subject in asked}

    def of(self, subject: str) -> Pseudonym:
        """See `Pseudonyms`; of those that were expected."""
        return self._known[subject]

    def settle(self, subject: str, number: int) -> int:
        """See `Pseudonyms`. Raises UnansweredError, PseudonymsRefusedError."""
        with _answering():
            held = self._door.settle(subject, number)
        self._known[subject] = Pseudonym(self._known[subject].secret, held)
        return held

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("pseudonyms hold secrets and are never pickled; what travels is their door")


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """No answer of a door is a verdict on a row."""
    try:
        with alive():
            yield
    except MachineError as error:
        raise UnansweredError(str(error)) from error
    except KeystoreError as error:
        raise PseudonymsRefusedError(f"pseudonyms are refused: {error}") from error

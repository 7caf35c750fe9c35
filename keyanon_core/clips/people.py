"""Which tracklets of a clip are one person's, by their identity vectors: who left and came back, or is seen after a cut.

The tracklets are asked in the order in which they begin, whether they go on with one of the people so far. A person is never in
two tracklets at one time, whatever the vectors say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from keyanon_core.clips.association import Detections, Embedding, Floats, SamePerson

SAMPLES: Final = 16  # identity vectors of a person that are compared one by one
MAX_PEOPLE: Final = 1000  # at least so many are asked about a tracklet; of more, those with the most vectors
AGREEING_SHARE: Final = (
    0.25  # of the samples, with the other side's mean, that make one person where the means do not agree
)


@dataclass(frozen=True, eq=False)
class _Looks:
    """Identity vectors: their sum, how many they are, and some of them."""

    total: Floats
    count: int
    samples: list[Embedding]

    @cached_property
    def mean(self) -> Embedding:
        return np.asarray(self.total / self.count, np.float32)

    def joined(self, other: "_Looks") -> "_Looks":
        return _Looks(self.total + other.total, self.count + other.count, _thinned(self.samples + other.samples))


@dataclass(eq=False)
class _Person:
    tracklets: list[list[int]]
    looks: _Looks
    end: int  # the last frame so far


def people(tracklets: Sequence[list[int]], detections: Detections, same_person: SamePerson) -> list[list[list[int]]]:
    """The tracklets of each person, in order of time; tracklets without vectors are people of their own.

    tracklets: rows of the detections, in the order in which they begin.
    """
    found: list[list[list[int]]] = []
    known: list[_Person] = []
    for tracklet in tracklets:
        begin, end = (int(detections.frames[tracklet[side]]) for side in (0, -1))
        looks = _looks(tracklet, detections)
        person = _same(known, looks, begin, same_person) if looks else None
        if person and looks:
            person.tracklets.append(tracklet)
            person.looks, person.end = person.looks.joined(looks), end
            continue
        found.append([tracklet])
        if looks:
            known = _best_known([*known, _Person(found[-1], looks, end)])
    return found


def _best_known(known: list[_Person]) -> list[_Person]:
    """All, or those with the most vectors where they are twice as many as are asked: false detections are people too."""
    if len(known) < 2 * MAX_PEOPLE:
        return known
    return sorted(known, key=lambda person: -person.looks.count)[:MAX_PEOPLE]


def _same(known: Sequence[_Person], looks: _Looks, begin: int, same_person: SamePerson) -> _Person | None:
    """Who has these looks and was not seen from frame `begin` on: who agrees best, and of equals the one seen last."""
    best: tuple[bool, float, int] | None = None
    chosen = None
    for person in known:
        if person.end < begin and (agreement := _agreement(person.looks, looks, same_person)):
            rank = (*agreement, person.end)
            if best is None or rank > best:
                best, chosen = rank, person
    return chosen


def _looks(tracklet: Sequence[int], detections: Detections) -> _Looks | None:
    vectors = [vector for row in tracklet if (vector := detections.embeddings[row]) is not None]
    return _Looks(np.sum(vectors, axis=0, dtype=np.float64), len(vectors), _thinned(vectors)) if vectors else None


def _thinned(vectors: Sequence[Embedding]) -> list[Embedding]:
    """SAMPLES of them at most, evenly."""
    chosen = np.linspace(0, len(vectors) - 1, min(SAMPLES, len(vectors))).round().astype(int)
    return [vectors[number] for number in chosen]


def _agreement(first: _Looks, second: _Looks, same_person: SamePerson) -> tuple[bool, float] | None:
    """Whether the means are one person's, and the share of the samples that are; None where these are two people."""
    one, other = first.mean, second.mean
    means = bool(same_person(one, other))
    forward = [same_person(sample, other) for sample in first.samples] if first.count > 1 else [means]
    backward = [same_person(one, sample) for sample in second.samples] if second.count > 1 else [means]
    share = max(sum(forward) / len(forward), sum(backward) / len(backward))
    return (means, share) if means or share >= AGREEING_SHARE else None

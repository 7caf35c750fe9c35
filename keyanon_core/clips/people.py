"""Which tracklets of a clip are one person's, by their identity vectors: who left and came back, or is seen after a cut.

The tracklets are asked in the order in which they begin, whether they go on with one of the people so far. A person is never in
two tracklets at one time, whatever the vectors say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from keyanon_core.clips.association import Detections, Embedding, Floats, SamePerson

SAMPLES: Final = 16  # identity vectors of a person that are compared one by one
AGREEING_SHARE: Final = (
    0.25  # of the samples, with the other side's mean, that make one person where the means do not agree
)


@dataclass
class _Looks:
    """Identity vectors: their sum, how many they are, and some of them."""

    total: Floats
    count: int
    samples: list[Embedding]

    @property
    def mean(self) -> Embedding:
        return np.asarray(self.total / self.count, np.float32)

    def joined(self, other: "_Looks") -> "_Looks":
        return _Looks(self.total + other.total, self.count + other.count, _thinned(self.samples + other.samples))


@dataclass
class _Person:
    tracklets: list[list[int]]
    looks: _Looks | None
    end: int  # the last frame so far


def people(tracklets: Sequence[list[int]], detections: Detections, same_person: SamePerson) -> list[list[list[int]]]:
    """The tracklets of each person, in order of time; tracklets without vectors are people of their own.

    tracklets: rows of the detections, in the order in which they begin.
    """
    found: list[_Person] = []
    for tracklet in tracklets:
        looks = _looks(tracklet, detections)
        person = looks and _same(found, looks, int(detections.frames[tracklet[0]]), same_person)
        if not person:
            person = _Person([], looks, 0)
            found.append(person)
        elif person.looks and looks:
            person.looks = person.looks.joined(looks)
        person.tracklets.append(tracklet)
        person.end = int(detections.frames[tracklet[-1]])
    return [person.tracklets for person in found]


def _same(found: Sequence[_Person], looks: _Looks, begin: int, same_person: SamePerson) -> _Person | None:
    """Who has these looks and was not seen from frame `begin` on: who agrees best, and of equals the one seen last."""
    best: tuple[bool, float, int] | None = None
    chosen = None
    for person in found:
        if person.looks and person.end < begin and (agreement := _agreement(person.looks, looks, same_person)):
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
    forward = [same_person(sample, other) for sample in first.samples]
    backward = [same_person(one, sample) for sample in second.samples]
    means = bool(same_person(one, other))
    share = max(sum(forward) / len(forward), sum(backward) / len(backward))
    return (means, share) if means or share >= AGREEING_SHARE else None

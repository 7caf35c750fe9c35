"""What an anonymized clip comes to, against its source of which is known who is where.

A clip gives more away than pictures do: one frame with the source's face is enough, two people under one pseudonym are mixed up,
and a face that flickers is hard to look at. So leaks are counted by frames, pseudonyms by how they hold over time, and flicker by
what a face changes from frame to frame beside what its source does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from keyanon_core.clips.association import overlaps
from keyanon_core.clips.tracking import NOBODY
from keyanon_core.evaluation.likeness import peak_signal_to_noise
from keyanon_core.evaluation.verification import verified
from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.masks import Bits

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

LEAST_OVERLAP: Final = 0.3  # IoU of a detection's box and the one of a face that is known to be there


def whose(found: Floats, known: Floats) -> Numbers:
    """(m,) which of the n faces of a frame each detection is of, NOBODY for one that is of none: that of the largest overlap.

    found: (m, 4) boxes (x0, y0, x1, y1) of the detections. known: (n, 4) of the faces that are there.
    """
    if not len(found) or not len(known):
        return np.full(len(found), NOBODY, np.int64)
    shared = overlaps(found.reshape(-1, 2, 2), known.reshape(-1, 2, 2))
    return np.where(shared.max(1) >= LEAST_OVERLAP, shared.argmax(1), NOBODY)


def frames_showing(frames: Numbers, distances: Floats, threshold: float) -> Numbers:
    """The frames, rising, in which a source's face is shown: in which one of m faces is its source's by a recognizer.

    frames: (m,) of each face. distances: (m,) of its identity vector from that of the source at the same place. threshold: below
    which two faces are one person's.
    """
    return np.unique(frames[verified(distances, threshold)])


@dataclass(frozen=True)
class Switches:
    """faces: that were known to be somebody's. switched: how often a person went on under another track than before (the identity
    switches of Bernardin and Stiefelhagen, EURASIP JIVP 2008). mixed: tracks that were more than one person's.
    """

    faces: int
    switched: int
    mixed: int


def identity_switches(frames: Numbers, people: Numbers, tracks: Numbers) -> Switches:
    """frames, people, tracks: (m,) of m faces in any order; people NOBODY for those that are nobody's."""
    known = people != NOBODY
    order = np.lexsort((frames[known], people[known]))
    people, tracks = people[known][order], tracks[known][order]
    switched = (people[1:] == people[:-1]) & (tracks[1:] != tracks[:-1])
    pairs = np.unique(np.stack([tracks, people], 1), axis=0)
    mixed = np.unique(pairs[:, 0], return_counts=True)[1] > 1
    return Switches(len(people), int(switched.sum()), int(mixed.sum()))


def likeness_to_first(frames: Numbers, people: Numbers, vectors: Floats, mean: Floats) -> Floats:
    """Cosines about the recognizer's mean of people's faces to the one that each showed first, without that one: 1 where a
    pseudonym looks the same through the clip, 0 for strangers.

    frames, people: (m,). vectors: (m, d) identity vectors. mean: (d,) of all faces. Returns (m - p,) for p people, by person and
    frame.
    """
    order = np.lexsort((frames, people))
    people, about = people[order], vectors[order] - mean
    directions = about / np.linalg.norm(about, axis=1, keepdims=True)
    _, first, person = np.unique(people, return_index=True, return_inverse=True)
    cosines = (directions * directions[first][person]).sum(1)
    return np.asarray(np.delete(cosines, first), np.float64)


@dataclass(frozen=True)
class Flicker:
    """Grey levels that the pixels of an aligned face change by from frame to frame, in the mean: in the clip, and its source."""

    published: float
    source: float

    @property
    def ratio(self) -> float:
        """1 for a face that changes as its source does. Infinite where only the source stands still, NaN where both do."""
        if self.source == 0:
            return math.inf if self.published else math.nan
        return self.published / self.source


def flicker(frames: Numbers, published: Pixels, source: Pixels, masks: Bits) -> Flicker:
    """Of one person, over the pairs of frames that follow each other, inside the masks of both. NaN where there is no such pixel.

    frames: (n,) rising. published, source: (n, S, S, 3) crops, both aligned by the source's face. masks: (n, S, S).
    """
    follows = np.flatnonzero(np.diff(frames) == 1)
    inside = masks[follows] & masks[follows + 1]
    if not inside.any():
        return Flicker(math.nan, math.nan)
    changes = [np.abs(crops[follows + 1].astype(np.int16) - crops[follows])[inside] for crops in (published, source)]
    return Flicker(*(float(change.mean(dtype=np.float64)) for change in changes))


def decibels_inside(restored: Pixels, source: Pixels, masks: Bits) -> Floats:
    """(k,) PSNR in dB of those of n frames in which anything is masked, inside the mask. Infinite for equal ones.

    restored, source: (n, H, W, 3). masks: (n, H, W). Raises ValueError for frames that do not fit.
    """
    some = [
        peak_signal_to_noise(back, shown, mask)
        for back, shown, mask in zip(restored, source, masks, strict=True)
        if mask.any()
    ]
    return np.array(some, np.float64)


@dataclass(frozen=True)
class ClipTimes:
    """base: s, of a clip's times. frames: s of each. duration: s."""

    base: Fraction
    frames: tuple[Fraction, ...]
    duration: Fraction


@dataclass(frozen=True)
class TimesKept:
    """same_base: whether the time base is the source's. frames: how many more there are than in the source. shift: s, the largest
    of a frame; NaN where there are not as many. duration: s that the clip lasts longer.
    """

    same_base: bool
    frames: int
    shift: float
    duration: float


def times_kept(published: ClipTimes, source: ClipTimes) -> TimesKept:
    """How far a clip's times are its source's."""
    more = len(published.frames) - len(source.frames)
    shifts = [abs(one - other) for one, other in zip(published.frames, source.frames, strict=False)]
    shift = math.nan if more else float(max(shifts, default=0))
    return TimesKept(published.base == source.base, more, shift, float(published.duration - source.duration))


def equal_packets(published: Sequence[bytes], source: Sequence[bytes]) -> float:
    """Share of a track's packets that are the source's to the bit, at the same place; of the longer one, so that 1 says that all
    are, and no more. NaN for two tracks of none.
    """
    longer = max(len(published), len(source))
    equal = sum(one == other for one, other in zip(published, source, strict=False))
    return equal / longer if longer else math.nan

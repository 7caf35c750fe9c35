"""Who is who in a clip, and where in every frame: tracks of the faces that a detector found in single frames.

A detector misses a face here and there, and one frame without it shows the source. So a track has no gaps that its scene could
explain, and begins and ends somewhat outside of what was seen. One track is one person, who may leave and come back, so that
the person looks the same through the clip. What a detector saw is never lost, not even where it saw wrong; what it saw in a frame
or two of a clip stands for nobody.

`association` makes tracklets by place, `people` joins them by identity vectors, `trajectory` smooths and fills them.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self, overload

import numpy as np
import numpy.typing as npt

from keyanon_core.clips.association import (
    MAX_GAP_SECONDS,
    SAME_TIME,
    Detections,
    Flags,
    Floats,
    Numbers,
    SamePerson,
    overlaps,
    tracklets,
)
from keyanon_core.clips.people import people
from keyanon_core.clips.trajectory import Trajectory, smoothed, trajectory
from keyanon_core.faces.detection import LANDMARK_COUNT, Face

NOBODY: Final = -1  # the track of a face that stands for nobody
LEAST_SEEN: Final = 3  # frames in which somebody was seen, or all of a shorter clip
COVERED: Final = 0.5  # IoU with another track's detection at which a face that was not detected is that one
JOINED_SIZES: Final = 2.0  # of the face: the farthest that the same person goes unseen and is filled in between
STAYED_SECONDS: Final = (
    3.0  # that the same person may be unseen at one place, turned aside perhaps, and is filled in between
)
STAYED_SIZES: Final = 0.5  # of the face: one place


@dataclass(frozen=True)
class SeenFace:
    """A detection. face: in px of the upright frame. embedding: (d,) float32 identity vector, None where none was computed."""

    face: Face
    embedding: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TrackedFace:
    """track: number of the person's track in its clip, from 0, or NOBODY. face: smoothed, in px of its frame; its score is that
    of the detection nearest in time. filled: no detector saw it in this frame.
    """

    track: int
    face: Face
    filled: bool = False


@dataclass(frozen=True, eq=False)
class SeenFrames:
    """The m detections of n frames, as arrays: of an hour of video there are hundreds of thousands.

    counts: (n,) detections of each frame. points: (m, 7, 2) px: two corners of the box, five landmarks. scores: (m,).
    embeddings: m identity vectors (d,) float32, None where none was computed.
    """

    counts: Numbers
    points: Floats
    scores: Floats
    embeddings: Sequence[npt.NDArray[np.float32] | None]

    @classmethod
    def of(cls, frames: Sequence[Sequence[SeenFace]]) -> Self:
        """From the detections of each frame."""
        seen = [face for frame in frames for face in frame]
        boxes = np.array([one.face.box for one in seen], np.float64).reshape(-1, 2, 2)
        landmarks = np.array([one.face.landmarks for one in seen], np.float64).reshape(-1, LANDMARK_COUNT, 2)
        return cls(
            np.array([len(frame) for frame in frames], np.int64),
            np.concatenate([boxes, landmarks], 1),
            np.array([one.face.score for one in seen], np.float64),
            [one.embedding for one in seen],
        )


@dataclass(frozen=True, eq=False)
class TrackedFrames(Sequence[list[TrackedFace]]):
    """The faces of each of n frames, made when they are asked for. bounds: (n + 1,) rows at which the frames begin. tracks,
    points, scores, filled: of each row, as of `TrackedFace` and `SeenFrames`.
    """

    bounds: Numbers
    tracks: Numbers
    points: Floats
    scores: Floats
    filled: Flags

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, at: int) -> list[TrackedFace]: ...
    @overload
    def __getitem__(self, at: slice) -> list[list[TrackedFace]]: ...
    def __getitem__(self, at: int | slice) -> list[TrackedFace] | list[list[TrackedFace]]:
        numbers = range(len(self))[at]
        if isinstance(numbers, range):
            return [self._frame(number) for number in numbers]
        return self._frame(numbers)

    @property
    def somebody(self) -> bool:
        """Whether there is a face in any of them."""
        return len(self.tracks) > 0

    def _frame(self, number: int) -> list[TrackedFace]:
        return [self._face(row) for row in range(int(self.bounds[number]), int(self.bounds[number + 1]))]

    def _face(self, row: int) -> TrackedFace:
        x0, y0, x1, y1 = self.points[row, :2].ravel().tolist()
        face = Face((x0, y0, x1, y1), self.points[row, 2:], float(self.scores[row]))
        return TrackedFace(int(self.tracks[row]), face, bool(self.filled[row]))


def track_faces(
    seen: SeenFrames,
    times: npt.NDArray[np.float64],
    size: tuple[int, int],
    same_person: SamePerson,
    cuts: Collection[int] = (),
    least_seen: int = LEAST_SEEN,
) -> TrackedFrames:
    """The faces of every frame: first those that were detected in it, in the order given, then those filled in, by track.

    seen: of the frames in the order in which they are seen. times: (n,) s of each frame, rising, at any rate. size: (width,
    height) px. same_person: the recognizer's word on whether two identity vectors (d,) are one person's. cuts: frames at which
    another scene begins; nothing is associated by place, filled or smoothed across them. least_seen: frames in which a person was
    seen, or all of fewer, who is not NOBODY. A person is in a frame once at most.
    Equal input gives equal tracks. Raises ValueError.
    """
    times, n = np.asarray(times, np.float64), len(seen.counts)
    if times.shape != (n,):
        raise ValueError(f"{n} frames and times of shape {times.shape}; give one time in seconds for each frame")
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ValueError("the frames' times do not rise; give the frames in the order in which they are seen")
    if not len(seen.points):
        return _tracked(n, np.zeros(0, np.int64), np.zeros(0, np.int64), seen.points, seen.scores, 0)
    bounds = np.array(sorted({0, *(cut for cut in cuts if 0 < cut < n), n}), np.int64)
    detections = _detections(seen, times, bounds)
    stretches = [
        [np.array(rows) for rows in _joined(person, detections, size)]
        for person in people(tracklets(detections, same_person), detections, same_person)
    ]
    order = np.concatenate([rows for person in stretches for rows in person])
    lengths = [len(rows) for person in stretches for rows in person]
    points = smoothed(detections, order, np.repeat(np.arange(len(lengths)), lengths))
    ways = [
        (track, trajectory(rows, detections, points, times, size, within))
        for track, person in zip(_numbers(stretches, min(least_seen, n)), stretches, strict=True)
        for rows, within in zip(person, _rooms(person, detections, bounds), strict=True)
    ]
    return _put(n, ways, detections, points, seen.scores)


def _detections(seen: SeenFrames, times: Floats, bounds: Numbers) -> Detections:
    of_frame = np.repeat(np.arange(len(seen.counts)), seen.counts)
    scenes = np.searchsorted(bounds, of_frame, side="right")
    return Detections(seen.points, of_frame, times[of_frame], scenes, seen.embeddings)


def _numbers(people: Sequence[Sequence[Numbers]], least: int) -> list[int]:
    """The tracks of people: a number for each who was seen in so many frames. people: the stretches of each."""
    numbers = itertools.count()
    return [next(numbers) if sum(map(len, stretches)) >= least else NOBODY for stretches in people]


def _joined(person: Sequence[list[int]], detections: Detections, size: tuple[int, int]) -> list[list[int]]:
    """A person's tracklets; where one soon follows another nearby, which place alone had not told, or later at the same place,
    the two as one.
    """
    result: list[list[int]] = []
    for rows in person:
        if result and _goes_on(result[-1][-1], rows[0], detections, size):
            result[-1] += rows
        else:
            result.append(list(rows))
    return result


def _goes_on(last: int, first: int, detections: Detections, size: tuple[int, int]) -> bool:
    """Whether one person, last seen in one row, was there all the time until another. size: (width, height) px of the frame."""
    if detections.scenes[first] != detections.scenes[last]:
        return False
    gap = detections.times[first] - detections.times[last] - SAME_TIME
    way = float(np.linalg.norm(detections.centres[first] - detections.centres[last]))
    sizes = way / min(detections.sizes[first], detections.sizes[last])
    boxes = detections.points[[last, first], :2]
    inside = bool((boxes > 0).all() and (boxes < np.array(size) - 1).all())  # who is at the border may have left
    stayed = inside and gap <= STAYED_SECONDS and sizes <= STAYED_SIZES
    return stayed or bool(gap <= MAX_GAP_SECONDS and sizes <= JOINED_SIZES)


def _rooms(person: Sequence[Numbers], detections: Detections, bounds: Numbers) -> Iterator[tuple[int, int]]:
    """For each stretch of a person, the frames from which to before which it may reach: its scene, and half the way to the
    stretches before and after it.
    """
    ends = [(int(detections.frames[rows[0]]), int(detections.frames[rows[-1]])) for rows in person]
    for number, (rows, (first, last)) in enumerate(zip(person, ends, strict=True)):
        scene = detections.scenes[rows[0]]
        begin, end = int(bounds[scene - 1]), int(bounds[scene])
        if number:
            begin = max(begin, (ends[number - 1][1] + first) // 2 + 1)
        if number + 1 < len(ends):
            end = min(end, (last + ends[number + 1][0]) // 2 + 1)
        yield begin, end


def _put(
    n: int, ways: Sequence[tuple[int, Trajectory]], detections: Detections, points: Floats, scores: Floats
) -> TrackedFrames:
    """The faces in their n frames, but for the filled ones that another track's detection covers."""
    tracks = np.zeros(len(scores), np.int64)
    for track, way in ways:
        tracks[way.nearest] = track
    numbers = np.concatenate([np.full(way.filled.sum(), track) for track, way in ways])
    frames = np.concatenate([way.frames[way.filled] for _, way in ways])
    places = np.concatenate([way.points[way.filled] for _, way in ways])
    nearest = np.concatenate([way.nearest[way.filled] for _, way in ways])
    order = np.lexsort((numbers, frames))
    seen_there = [
        rows[~_covered(int(frames[rows[0]]), places[rows, :2], detections, points)]
        for rows in np.split(order, np.flatnonzero(np.diff(frames[order])) + 1)
        if len(rows)
    ]
    filled = np.concatenate([np.zeros(0, np.int64), *seen_there])
    return _tracked(
        n,
        np.concatenate([detections.frames, frames[filled]]),
        np.concatenate([tracks, numbers[filled]]),
        np.concatenate([points, places[filled]]),
        np.concatenate([scores, scores[nearest[filled]]]),
        len(filled),
    )


def _covered(frame: int, boxes: Floats, detections: Detections, points: Floats) -> Flags:
    """Which boxes (m, 2, 2) in a frame a detection covers."""
    there = slice(*np.searchsorted(detections.frames, (frame, frame + 1)))
    return np.asarray((overlaps(boxes, points[there, :2]) > COVERED).any(1))


def _tracked(n: int, frames: Numbers, tracks: Numbers, points: Floats, scores: Floats, filled: int) -> TrackedFrames:
    """The faces in the order of their frames. filled: how many, the last ones, no detector saw."""
    order = np.argsort(frames, kind="stable")
    bounds = np.searchsorted(frames[order], np.arange(n + 1))
    return TrackedFrames(bounds, tracks[order], points[order], scores[order], order >= len(order) - filled)

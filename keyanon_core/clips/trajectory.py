"""The way of one face through the frames of a scene: smoothed, without gaps, and somewhat longer than it was seen.

Smoothing is a straight line fitted about each detection, weighted by a Gaussian in time: it has no phase, keeps a steady motion
as it is up to both ends, and takes frames at whatever times they are. It moves nothing so far that a mask would miss the face.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from keyanon_core.clips.association import MAX_GAP_SECONDS, SAME_TIME, Detections, Flags, Floats, Numbers

SMOOTHING_SECONDS: Final = 0.08  # sigma of the Gaussian
WINDOW_SIGMAS: Final = 3.0
MAX_SHIFT: Final = 0.1  # by smoothing: of the face's size for a point, and of the box's own sides for its corners
EXTENSION_SECONDS: Final = 0.3  # at most, that a face is taken to be there before it is first and after it is last seen
VELOCITY_SECONDS: Final = 0.3  # of detections that tell where it came from and goes to
MAX_SPEED: Final = 3.0  # sizes of the face a second, of one that is not seen


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A face in each of m frames in a row. points: (m, 7, 2) as of `Detections`. nearest: (m,) rows of the detections that are
    nearest in time. filled: (m,) whether the face was not detected.
    """

    frames: Numbers
    points: Floats
    nearest: Numbers
    filled: Flags


def smoothed(detections: Detections, order: Numbers, owners: Numbers) -> Floats:
    """The points (n, 7, 2) of all detections, smoothed in time.

    order: (n,) rows by tracklet, and by time within one. owners: (n,) numbers of the tracklets of the rows in this order.
    """
    times = detections.times[order] / SMOOTHING_SECONDS
    points = detections.points[order].reshape(len(order), -1)
    weight, first, second = np.ones(len(order)), np.zeros(len(order)), np.zeros(len(order))
    sums, moments = np.zeros_like(points), np.zeros_like(points)
    for step in range(1, len(order)):
        lags = times[step:] - times[:-step]
        near = (owners[step:] == owners[:-step]) & (lags <= WINDOW_SIGMAS)
        if not near.any():
            break
        weights = np.where(near, np.exp(-0.5 * np.square(np.where(near, lags, 0))), 0)
        change = weights[:, None] * (points[step:] - points[:-step])
        for side, sign in ((slice(None, -step), 1), (slice(step, None), -1)):
            weight[side] += weights
            first[side] += sign * weights * lags
            second[side] += weights * lags**2
            sums[side] += sign * change
            moments[side] += lags[:, None] * change
    spread = (weight * second - first**2)[:, None]
    shift = np.divide(
        second[:, None] * sums - first[:, None] * moments, spread, out=np.zeros_like(points), where=spread > 1e-9
    )
    result = np.empty_like(detections.points)
    result[order] = detections.points[order] + _bounded(detections.points[order], shift.reshape(-1, 7, 2))
    return result


def _bounded(points: Floats, shift: Floats) -> Floats:
    """Shifts (n, 7, 2) of a face's points, all made smaller by one factor where one of them is too large."""
    sides = points[:, 1] - points[:, 0]
    size = np.sqrt(np.prod(sides, axis=1))
    farthest = np.sqrt(np.square(shift).sum(-1)).max(1) / size
    of_sides = np.abs(shift[:, :2] / sides[:, None]).max((1, 2))
    return np.asarray(shift * (MAX_SHIFT / np.maximum(np.maximum(farthest, of_sides), MAX_SHIFT))[:, None, None])


def trajectory(
    rows: Numbers,
    detections: Detections,
    points: Floats,
    times: Floats,
    size: tuple[int, int],
    within: tuple[int, int],
) -> Trajectory:
    """The way of a face that was detected in these rows (k,), rising in time. It goes on for as many frames as it was seen in,
    and no longer than EXTENSION_SECONDS: what was seen once is hardly there for long.

    points: of all detections, smoothed. times: s, of all frames. size: (width, height) px of a frame. within: the frames from
    the first to before the second, in which it may be.
    """
    seen = detections.frames[rows]
    begin = np.searchsorted(times, times[seen[0]] - EXTENSION_SECONDS - SAME_TIME)
    end = np.searchsorted(times, times[seen[-1]] + EXTENSION_SECONDS + SAME_TIME)
    earlier = np.arange(seen[0] - 1, max(begin, within[0], seen[0] - len(rows)) - 1, -1)
    later = np.arange(seen[-1] + 1, min(end, within[1], seen[-1] + 1 + len(rows)))
    before = _extension(rows[::-1], detections, points, times[earlier], size)
    after = _extension(rows, detections, points, times[later], size)
    between, nearest = _interpolated(rows, detections, points, times)
    frames = np.arange(seen[0] - len(before), seen[-1] + 1 + len(after))
    return Trajectory(
        frames,
        np.concatenate([before[::-1], between, after]),
        np.concatenate([np.repeat(rows[:1], len(before)), nearest, np.repeat(rows[-1:], len(after))]),
        ~np.isin(frames, seen),
    )


def _interpolated(rows: Numbers, detections: Detections, points: Floats, times: Floats) -> tuple[Floats, Numbers]:
    """The points in each frame from the first to the last detection, and the rows that are nearest."""
    seen = detections.frames[rows]
    frames = np.arange(seen[0], seen[-1] + 1)
    left = np.searchsorted(seen, frames, side="right") - 1
    right = np.minimum(left + 1, len(rows) - 1)
    lasting = np.where(right > left, times[seen[right]] - times[seen[left]], 1.0)
    share = (times[frames] - times[seen[left]]) / lasting
    weights = share[:, None, None]
    between = (1 - weights) * points[rows[left]] + weights * points[rows[right]]
    return between, rows[np.where(share > 0.5, right, left)]


def _extension(rows: Numbers, detections: Detections, points: Floats, times: Floats, size: tuple[int, int]) -> Floats:
    """The points at times that go on from the last of the rows, up to where the face is outside the frame."""
    last = rows[-1]
    way = _velocity(rows, detections, points) * (times - detections.times[last])[:, None]
    moved = points[last] + way[:, None]
    outside = ((moved[:, 1] < 0) | (moved[:, 0] > np.array(size) - 1)).any(-1)
    return np.asarray(moved[: np.argmax(outside)] if outside.any() else moved, np.float64)


def _velocity(rows: Numbers, detections: Detections, points: Floats) -> Floats:
    """(2,) px / s of the face about the last of the rows, by least squares and no more than it may have."""
    since = detections.times[rows] - detections.times[rows[-1]]
    recent = np.abs(since) <= VELOCITY_SECONDS + SAME_TIME
    if recent.sum() < 2:
        recent = (np.abs(since) <= MAX_GAP_SECONDS + SAME_TIME) & (np.arange(len(rows)) >= len(rows) - 2)
    if recent.sum() < 2:
        return np.zeros(2)
    moments = since[recent] - since[recent].mean()
    velocity = moments @ points[rows[recent], :2].mean(1) / np.square(moments).sum()
    most = MAX_SPEED * detections.sizes[rows[-1]]
    return np.asarray(velocity * min(1.0, most / max(float(np.linalg.norm(velocity)), most)))

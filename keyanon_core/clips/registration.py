"""Where a face lies in the frames of a clip, to a tenth of a pixel: what a detector says trembles, and its picture does not.

From frame to frame the pixels of a face are followed by their own looks (Lucas and Kanade, IJCAI 1981, in pyramids: Bouguet,
2000). That tells how a face moved, but not where it is; detections tell where it is, each for itself. So a row of frames begins
and ends where its detections say, and goes from the one to the other as the pixels do.
"""

import math
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.faces.alignment import Affine, chip
from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.masks import Bits

SIDE: Final = 128  # px of the chips that pixels are followed in
CORNERS: Final = 80  # of a chip, that are followed
FEWEST: Final = 10  # that agree on a motion
WITHIN: Final = 0.75  # px, by which what agrees may differ
LARGEST: Final = 5.0  # px between two frames; more is another scene, or somebody else before the face
RIM: Final = 8  # px of a face's outline, where what is behind it is seen to move
FEWEST_FRAMES: Final = 3  # in a row: its ends stay where they are

Motion = npt.NDArray[np.float64]
"""(4,) of a similarity near to none, about the middle of a chip: px right, px down, logarithm of the enlargement, radians."""


def steadied(
    pictures: Sequence[Pixels], affines: Sequence[Affine], masks: Sequence[Bits], frames: Sequence[int]
) -> list[Affine]:
    """The maps of one face into its crop, without their trembling. Where it is not followed they stay as they are.

    pictures: (H, W, 3), of each map. affines: (2, 3) picture -> crop. masks: (S, S), where in the crop the face is. frames:
    numbers, rising; what does not follow each other is taken apart. No map moves a pixel of the crop by more than LARGEST / SIDE
    of its side, nor at all where a row of frames begins or ends, from which the pieces before and after go on.
    """
    side = len(masks[0])
    chips = [
        cv2.cvtColor(chip(picture, affine * (SIDE / side), SIDE), cv2.COLOR_RGB2GRAY)
        for picture, affine in zip(pictures, affines, strict=True)
    ]
    motions = [
        _motion(chips[at], chips[at + 1], masks[at]) if frames[at + 1] == frames[at] + 1 else None
        for at in range(len(chips) - 1)
    ]
    result, begin = list(affines), 0
    for end in [*(at + 1 for at, motion in enumerate(motions) if motion is None), len(chips)]:
        if end - begin >= FEWEST_FRAMES:
            steps = [motion for motion in motions[begin : end - 1] if motion is not None]
            for at, trembling in enumerate(_quick(np.cumsum([np.zeros(4), *steps], axis=0)), start=begin):
                result[at] = _without(affines[at], trembling, side)
        begin = end
    return result


def _motion(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], mask: Bits) -> Motion | None:
    """From one chip, (SIDE, SIDE) grey levels, to the next; None where the pixels do not tell. mask: (S, S), where in the first
    one the face is."""
    within = cv2.resize(mask.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    inside = cv2.erode(within, np.ones((2 * RIM + 1,) * 2, np.uint8), borderValue=0)
    corners = cv2.goodFeaturesToTrack(first, CORNERS, 0.01, SIDE / 25, mask=inside)
    if corners is None or len(corners) < FEWEST:
        return None
    there, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(second, first, there, None)
    same = np.linalg.norm((back - corners)[:, 0], axis=1) < WITHIN
    kept = same & (found[:, 0] > 0) & (found_back[:, 0] > 0)
    if kept.sum() < FEWEST:
        return None
    middle = (SIDE - 1) / 2
    matrix, agree = cv2.estimateAffinePartial2D(
        corners[kept, 0] - middle, there[kept, 0] - middle, method=cv2.RANSAC, ransacReprojThreshold=WITHIN
    )
    if matrix is None or agree.sum() < max(FEWEST, kept.sum() / 2):
        return None
    along, across = matrix[0, 0], matrix[1, 0]
    motion = np.array([matrix[0, 2], matrix[1, 2], math.log(math.hypot(along, across)), math.atan2(across, along)])
    return motion if _size(motion) <= LARGEST else None


def _quick(way: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What a way (n, 4) has beside the straight line between its ends, bounded."""
    trembling = way - np.linspace(way[0], way[-1], len(way))
    sizes = np.array([_size(one) for one in trembling])
    bounded: npt.NDArray[np.float64] = trembling * (LARGEST / np.maximum(sizes, LARGEST))[:, None]
    return bounded


def _size(motion: Motion) -> float:
    """px that it moves a chip's corner by, at most."""
    return float(np.hypot(*motion[:2]) + np.hypot(*motion[2:]) * SIDE / math.sqrt(2))


def _without(affine: Affine, trembling: Motion, side: int) -> Affine:
    """The map into a crop in which the face lies where it would without the motion."""
    right, down, enlarged, turned = trembling
    factor, middle = math.exp(-enlarged), (side - 1) / 2
    turn = factor * np.array([[math.cos(turned), math.sin(turned)], [-math.sin(turned), math.cos(turned)]])
    shift = np.array([right, down]) * side / SIDE
    back: Affine = turn @ affine
    back[:, 2] += middle - turn @ (middle + shift)
    return back

"""A face in a clip is followed by its pixels, where what a detector says of it trembles."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from keyanon_core.clips.registration import LARGEST, SIDE, steadied

CROP, FRAMES = 64, 12  # px; frames
FACE = np.zeros((CROP, CROP), np.bool_)
FACE[12:56, 14:50] = True

MIDDLE = np.array([32.0, 34.0])

Affine = npt.NDArray[np.float64]


def looks(seed: int = 1) -> npt.NDArray[np.uint8]:
    """(160, 160, 3) of something with corners."""
    noise = np.random.default_rng(seed).uniform(0, 255, (160, 160, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return np.asarray(np.clip((soft - 127) * 6 + 127, 0, 255), np.uint8)


def at(x: float, y: float, degrees: float = 0.0, enlarged: float = 1.0) -> Affine:
    """A map from a picture into a crop whose middle lies there."""
    turn = cv2.getRotationMatrix2D((x, y), degrees, enlarged)
    turn[:, 2] += (CROP - 1) / 2 - np.array([x, y])
    return np.asarray(turn, np.float64)


def trembling(affine: Affine, rng: np.random.Generator, px: float) -> Affine:
    moved = affine.copy()
    moved[:, 2] += rng.uniform(-px, px, 2)
    return moved


def errors(affines: list[Affine], truth: list[Affine]) -> npt.NDArray[np.float64]:
    """(n,) px of the crop that the middle of the face lies elsewhere."""
    places = [np.linalg.solve(one[:, :2], MIDDLE - one[:, 2]) for one in truth]
    shown = [one[:, :2] @ place + one[:, 2] for one, place in zip(affines, places, strict=True)]
    return np.array([np.linalg.norm(place - MIDDLE) for place in shown])


def test_a_still_face_whose_detections_tremble_lies_still_between_the_ends_of_its_row() -> None:
    rng, truth = np.random.default_rng(3), [at(80, 80)] * FRAMES
    told = [truth[0], *(trembling(one, rng, 1.5) for one in truth[1:-1]), truth[-1]]
    steady = steadied([looks()] * FRAMES, told, [FACE] * FRAMES, range(FRAMES))
    assert errors(told, truth).max() > 1.0 and errors(steady, truth).max() < 0.15
    assert np.array_equal(steady[0], told[0]) and np.allclose(steady[-1], told[-1]), (
        "the pieces beside go on from there"
    )


def test_detections_that_tremble_by_turn_and_size_lie_still_from_edge_to_edge() -> None:
    rng, truth = np.random.default_rng(6), at(80, 80)
    others = [at(80, 80, rng.uniform(-1, 1), rng.uniform(0.993, 1.007)) for _ in range(FRAMES - 2)]
    steady = steadied([looks()] * FRAMES, [truth, *others, truth], [FACE] * FRAMES, range(FRAMES))
    edges = np.array([[14, 12], [50, 12], [14, 56], [50, 56]])
    places = np.linalg.solve(truth[:, :2], (edges - truth[:, 2]).T)

    def farthest(affines: list[Affine]) -> float:
        return max(float(np.linalg.norm((one[:, :2] @ places).T + one[:, 2] - edges, axis=1).max()) for one in affines)

    assert farthest(others) > 0.5 and farthest(steady) < 0.15


def test_a_face_that_moves_and_turns_is_followed() -> None:
    rng = np.random.default_rng(4)
    ways = [(80 + 9 * np.sin(k / 2), 80 + 5 * np.cos(k / 3), 4 * np.sin(k / 2.5), 1 + k / 90) for k in range(FRAMES)]
    pictures, truth = [], []
    for x, y, degrees, enlarged in ways:  # the picture moves under the map that stands for where the face is
        move = cv2.getRotationMatrix2D((80, 80), degrees, enlarged)
        move[:, 2] += (x - 80, y - 80)
        pictures.append(cv2.warpAffine(looks(), move, (160, 160), borderMode=cv2.BORDER_REFLECT))
        whole = np.vstack([move, [0, 0, 1]])
        truth.append(at(80, 80) @ np.linalg.inv(whole))
    told = [truth[0], *(trembling(one, rng, 0.7) for one in truth[1:-1]), truth[-1]]
    steady = steadied(pictures, told, [FACE] * FRAMES, range(FRAMES))
    assert errors(steady, truth).max() < 0.25 and errors(told, truth).max() > 0.6


def test_what_is_behind_a_face_does_not_move_it() -> None:
    """A face that stands still in its crop before a background that runs."""
    pictures = []
    for number in range(FRAMES):
        picture = np.roll(looks(7), 2 * number, axis=1)
        picture[48 + 12 : 48 + 56, 48 + 14 : 48 + 50] = looks(8)[12:56, 14:50]
        pictures.append(picture)
    truth = [np.array([[1.0, 0, -48.0], [0, 1.0, -48.0]])] * FRAMES
    told = [truth[0], *(trembling(one, np.random.default_rng(5), 1.0) for one in truth[1:-1]), truth[-1]]
    assert errors(steadied(pictures, told, [FACE] * FRAMES, range(FRAMES)), truth).max() < 0.2


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 9, 10, 11, 12], [0, 2, 4, 6, 8, 10, 12, 14]], ids=["gap", "gaps"])
def test_rows_of_frames_are_apart(numbers: list[int]) -> None:
    told = [trembling(at(80, 80), np.random.default_rng(number), 1.5) for number in numbers]
    steady = steadied([looks()] * 8, told, [FACE] * 8, numbers)
    ends = [0, 3, 4, 7] if numbers[1] == 1 else list(range(8))
    for end in ends:
        assert np.allclose(steady[end], told[end])
    assert numbers[1] != 1 or errors(steady[1:3], told[1:3]).min() > 0.05


@pytest.mark.parametrize("what", ["flat", "another scene", "two frames", "one frame", "no face"])
def test_where_pixels_tell_nothing_detections_are_believed(what: str) -> None:
    count = {"two frames": 2, "one frame": 1}.get(what, FRAMES)
    pictures = [looks(number) if what == "another scene" else looks() for number in range(count)]
    if what == "flat":
        pictures = [np.full_like(looks(), 90)] * count
    mask = np.zeros_like(FACE) if what == "no face" else FACE
    told = [trembling(at(80, 80), np.random.default_rng(number), 1.5) for number in range(count)]
    for one, other in zip(steadied(pictures, told, [mask] * count, range(count)), told, strict=True):
        assert np.array_equal(one, other)


def test_no_map_is_moved_further_than_it_may() -> None:
    truth = [at(80, 80)] * FRAMES
    told = [
        at(80 + 2.0 * min(k, FRAMES - 1 - k), 80) for k in range(FRAMES)
    ]  # a detector that goes astray, and comes back
    steady = steadied([looks()] * FRAMES, told, [FACE] * FRAMES, range(FRAMES))
    moved = errors(steady, told)
    assert errors(told, truth).max() > 9 and moved.max() == pytest.approx(LARGEST * CROP / SIDE, abs=0.2)

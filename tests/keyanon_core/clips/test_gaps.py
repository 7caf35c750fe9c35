"""Faces of a piece in the frames in which no search found them."""

import numpy as np

from keyanon_core.clips.gaps import unseen_between
from keyanon_core.faces.detection import Face
from tests.keyanon_core.pictures.told_models import face_at

SIZE = (300, 100)
TIMES = np.arange(9) / 25


def there(frame: int, x: float, score: float = 0.9) -> Face:
    return face_at(x, 50, score=score).moved(frame * SIZE[1], frame)


def test_a_face_is_in_the_frames_between_where_it_stands_and_in_none_before_or_after() -> None:
    filled = unseen_between([there(6, 80, score=0.3), there(2, 80), there(3, 80)], TIMES, SIZE)
    assert [face.frame for face in filled] == [4, 5]
    for face in filled:
        assert np.allclose(face.box, there(face.frame, 80).box) and np.allclose(
            face.landmarks, there(face.frame, 80).landmarks
        )
    assert [face.score for face in filled] == [0.9, 0.3], "the nearest one's"


def test_a_face_that_moves_is_on_its_way_by_the_frames_times() -> None:
    times = np.array([0, 1, 2, 7, 8]) / 25
    filled = unseen_between([there(0, 80), there(1, 82), there(4, 96)], times, SIZE)
    assert [
        (face.frame, round(float(face.landmarks[:, 0].mean() - there(0, 80).landmarks[:, 0].mean()), 6))
        for face in filled
    ] == [
        (2, 4.0),
        (3, 14.0),
    ]


def test_two_faces_apart_are_no_face_between() -> None:
    assert unseen_between([there(2, 50), there(6, 250)], TIMES, SIZE) == []
    assert unseen_between([there(2, 50), there(2, 250)], TIMES, SIZE) == unseen_between([], TIMES, SIZE) == []
    assert unseen_between([there(0, 50), there(1, 50)], np.array([0, 2.0]), SIZE) == [], "nor is there a frame"

"""Faces in frames of a clip, one below the other: no frame knows of another."""

import numpy as np
import pytest

from keyanon_core.faces.detection import Face
from keyanon_core.faces.landmarks import template_in_box
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.strips import frames_of, in_frame, look_at_frames, moved, outline

HEIGHT, WIDTH, FRAMES = 40, 60, 4
STRIP = np.random.default_rng(4).integers(0, 256, (FRAMES * HEIGHT, WIDTH, 3), dtype=np.uint8)
EMPTY = PictureMask((0, 0, 0, 0), np.zeros((0, 0), np.bool_))


def face(x0: float, y0: float, x1: float, y1: float, frame: int = 0) -> Face:
    return Face((x0, y0, x1, y1), template_in_box((x0, y0, x1, y1)), 0.9, frame)


class WholeBoxes:
    """A parser for which a face is its box, as far as the picture goes."""

    name, digest = "boxes", "0" * 64

    def mask(self, pixels: np.ndarray, face: Face, regions: frozenset[str]) -> PictureMask:
        full = np.zeros(pixels.shape[:2], np.bool_)
        x0, y0, x1, y1 = (max(round(value), 0) for value in face.box)
        full[y0:y1, x0:x1] = True
        return PictureMask.from_full(full)


def test_frames_lie_one_below_the_other() -> None:
    frames = list(frames_of(STRIP, HEIGHT))
    assert len(frames) == FRAMES and np.array_equal(np.concatenate(frames), STRIP)
    assert all(np.shares_memory(frame, STRIP) for frame in frames)


def test_a_detector_sees_one_frame_at_a_time_and_its_faces_lie_in_the_strip() -> None:
    seen = []

    def look(pixels: np.ndarray) -> list[Face]:
        seen.append(pixels)
        return [face(5, 6, 25, 30)] * (len(seen) - 1)

    found = look_at_frames(look, STRIP, HEIGHT)
    assert np.array_equal(np.concatenate(seen), STRIP) and {one.shape for one in seen} == {(HEIGHT, WIDTH, 3)}
    assert [one.frame for one in found] == [1, 2, 2, 3, 3, 3]
    for one in found:
        assert one.box == (5, 6 + one.frame * HEIGHT, 25, 30 + one.frame * HEIGHT)
        assert np.allclose(one.moved(-one.frame * HEIGHT, 0).landmarks, face(5, 6, 25, 30).landmarks)


def test_a_plain_picture_is_a_strip_of_one_frame() -> None:
    whole = face(5, 6, 25, 30)
    assert look_at_frames(lambda pixels: [whole], STRIP, len(STRIP)) == [whole]


@pytest.mark.parametrize("frame", range(FRAMES))
def test_the_frame_of_a_face_is_a_picture_of_its_own(frame: int) -> None:
    top, alone = frame * HEIGHT, face(5, 6, 25, 30)
    pixels, inside = in_frame(STRIP, alone.moved(top, frame), HEIGHT)
    assert np.array_equal(pixels, STRIP[top : top + HEIGHT])
    assert (inside.box, inside.frame) == (alone.box, 0) and np.allclose(inside.landmarks, alone.landmarks)
    assert in_frame(pixels, alone, HEIGHT) == (pixels, alone), "a plain picture is its frame"


@pytest.mark.parametrize("frame", range(FRAMES))
@pytest.mark.parametrize("box", [(10, -15, 30, 12), (10, 25, 30, 60), (-5, -50, 90, 90), (10, 10, 30, 30)])
def test_a_mask_is_that_of_the_frame_alone_and_reaches_no_other(frame: int, box: tuple[int, int, int, int]) -> None:
    top, regions = frame * HEIGHT, frozenset({"face"})
    alone = WholeBoxes().mask(STRIP[top : top + HEIGHT], face(*box), regions)
    inside = outline(WholeBoxes(), STRIP, face(*box).moved(top, frame), regions, HEIGHT)
    full = inside.full(STRIP.shape)
    assert np.array_equal(full[top : top + HEIGHT], alone.full((HEIGHT, WIDTH))) and full.sum() == alone.count > 0


def test_masks_are_moved_and_moved_back() -> None:
    mask = PictureMask((3, 4, 6, 9), np.ones((5, 3), np.bool_))
    assert moved(mask, 40).window == (3, 44, 6, 49) and moved(moved(mask, 40), -40) == mask
    assert moved(EMPTY, 40) == EMPTY


def test_an_empty_mask_survives_its_bytes() -> None:
    assert PictureMask.from_bytes(EMPTY.to_bytes()) == EMPTY and EMPTY.count == 0


def test_the_frame_of_a_face_survives_its_dict() -> None:
    assert Face.from_dict(face(1, 2, 30, 40, frame=3).to_dict()).frame == 3
    assert "frame" not in face(1, 2, 30, 40).to_dict(), "faces of pictures are written as ever"

"""What the frames of a clip show of somebody holds still, and comes back all the same."""

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from keyanon_core.clips.frames import Strip
from keyanon_core.faces.masks import PictureMask
from keyanon_core.pictures import steady
from keyanon_core.pictures.crops import AlignedFace, Crop
from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture
from keyanon_core.pictures.settings import PictureTask
from keyanon_core.pictures.steady import hold_still
from tests.keyanon_core.pictures.told_models import StripOf, face_at

SIDE, HEIGHT = 16, 32  # px: of a crop, and of a frame
FRAMES = 6


def picture_of(
    shades: list[float | None], subjects: list[str | None], frames: list[int] | None = None
) -> OpenedPicture:
    """A strip of frames in each of which one face of 16 x 16 px shows one shade."""
    pixels = np.full((HEIGHT * FRAMES, SIDE * 2, 3), 50, np.uint8)
    file = StripOf(Strip(pixels, HEIGHT, tuple(range(FRAMES))))
    picture = OpenedPicture(PictureTask("1", b""), pixels, pixels.copy(), file, "latent")
    for index, (shade, subject) in enumerate(zip(shades, subjects, strict=True)):
        frame = index if frames is None else frames[index]
        top = frame * HEIGHT + 8
        mask = PictureMask((8, top, 8 + SIDE, top + SIDE), np.ones((SIDE, SIDE), np.bool_))
        affine = np.array([[1.0, 0.0, -8.0], [0.0, 1.0, -float(top)]])
        inside = np.ones((SIDE, SIDE), np.bool_)
        crop = Crop(np.zeros((3, SIDE, SIDE)), inside, np.zeros_like(inside))
        detected = face_at(16, 16).moved(frame * HEIGHT, frame)
        face = FaceAtWork(AlignedFace(detected, affine, mask, crop), index, picture, subject=subject)
        face.shown = None if shade is None else np.full((3, SIDE, SIDE), shade, np.float32)
        picture.faces.append(face)
    return picture


def shades_of(picture: OpenedPicture) -> npt.NDArray[np.float64]:
    """What the middle of each face shows, as crops do."""
    middles = [face.detected.frame * HEIGHT + HEIGHT // 2 for face in picture.faces]
    return np.array([picture.result[middle, 16, 0] / 127.5 - 1 for middle in middles])


def test_a_face_is_the_mean_of_what_the_frames_around_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "FRAMES", 1.0)
    shades = [-0.5, 0.5, -0.5, 0.5, -0.5, 0.5]
    picture = picture_of(list(shades), ["a"] * FRAMES)
    hold_still(picture, None)
    weights = np.exp(-0.5 * np.square(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES))))
    assert shades_of(picture) == pytest.approx(weights @ shades / weights.sum(1), abs=0.01)
    assert picture.result[:8].max() == 50, "nothing outside of the masks"


def test_over_a_piece_little_is_left_of_what_flickers() -> None:
    shades = [0.4 * (-1) ** number for number in range(FRAMES)]
    picture = picture_of(list(shades), ["a"] * FRAMES)
    hold_still(picture, None)
    shown = shades_of(picture)
    assert max(abs(one - other) for one, other in pairwise(shown)) < 0.02 and abs(shown).max() < 0.02


def test_people_are_not_mixed_and_who_stands_for_nobody_is_left_alone() -> None:
    picture = picture_of([-0.5, 0.5, -0.3, 0.7, 0.2, None], ["a", "b", "a", "b", None, "a"])
    hold_still(picture, None)
    shown = shades_of(picture)
    assert shown[[0, 2]] == pytest.approx(-0.4, abs=0.02) and shown[[1, 3]] == pytest.approx(0.6, abs=0.02)
    assert (picture.result[4 * HEIGHT :] == 50).all(), "nothing was made of these two"


def test_a_painted_face_is_painted_still_and_in_nobodys_mean() -> None:
    picture = picture_of([-0.5, 0.5, -0.5, -0.5, -0.5, -0.5], ["a"] * FRAMES)
    picture.faces[1].paint()
    painted = picture.result[HEIGHT : 2 * HEIGHT].copy()
    hold_still(picture, None)
    assert np.array_equal(picture.result[HEIGHT : 2 * HEIGHT], painted)
    assert np.delete(shades_of(picture), 1) == pytest.approx(-0.5, abs=0.01)


def test_what_lies_outside_a_mask_has_no_part_in_another_frames_face() -> None:
    picture = picture_of([-0.5, -0.5], ["a", "a"])
    first = picture.faces[0]
    assert first.shown is not None
    first.crop.mask[:, :10] = False
    first.shown[:, :, :10] = 1.0  # surroundings, which are the source's
    hold_still(picture, None)
    assert shades_of(picture)[1] == pytest.approx(-0.5, abs=0.01)
    assert picture.result[HEIGHT + 8 : HEIGHT + 24, 8:24].max() < 100


def test_two_frames_far_apart_do_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "FRAMES", 0.2)
    picture = picture_of([-0.5, 0.5], ["a", "a"], frames=[0, 5])
    hold_still(picture, None)
    assert shades_of(picture) == pytest.approx([-0.5, 0.5], abs=0.01)


def test_one_face_alone_is_left_as_it_was_pasted() -> None:
    picture = picture_of([0.5], ["a"])
    hold_still(picture, None)
    assert (picture.result == 50).all()


def test_a_face_is_shown_where_its_pixels_say_that_it_lies() -> None:
    """Frames of one picture that stands still, of which detections say that it trembles."""
    picture, rng = picture_of([0.0] * FRAMES, ["a"] * FRAMES), np.random.default_rng(3)
    looks = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT, SIDE * 2, 3)).astype(np.float32), (0, 0), 1.2)
    picture.source[:] = np.tile(np.clip((looks - 127) * 4 + 127, 0, 255).astype(np.uint8), (FRAMES, 1, 1))
    slope = np.broadcast_to(np.linspace(-0.8, 0.8, SIDE), (3, SIDE, SIDE))
    for number, face in enumerate(picture.faces):
        face.shown = slope.astype(np.float32)
        if 0 < number < FRAMES - 1:  # between the ends, where its neighbours go on
            face.affine[0, 2] += rng.choice([-0.25, 0.25])
    told = [face.affine[0, 2] for face in picture.faces]
    hold_still(picture, None)
    shown = np.array([picture.result[number * HEIGHT + 16, 12:20, 0] for number in range(FRAMES)], np.float64)
    assert np.ptp(told) > 0.4 and np.abs(shown - shown[0]).max() < 2, "as told it would be 3 grey levels"

"""Crops and paint in strips: a face of a frame is worked on as if its frame were a picture of its own."""

import numpy as np
import pytest

from keyanon_core.errors import PictureError
from keyanon_core.faces.detection import Face
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.strips import moved
from keyanon_core.pictures.crops import align_faces, cut_crop
from keyanon_core.pictures.painting import paint_all, paint_over, paint_partly_seen
from keyanon_core.priors import Prior
from tests.keyanon_core.pictures.told_models import Told, face_at

HEIGHT, WIDTH, FRAMES, SIDE = 120, 160, 3, 32
STRIP = np.random.default_rng(5).integers(0, 256, (FRAMES * HEIGHT, WIDTH, 3), dtype=np.uint8)
AFFINE = np.array([[0.3125, -0.0625, 2.0], [0.0625, 0.3125, -1.0]])  # whose shifts are exact
PLACES = {"inside": (60, 60), "top": (60, 8), "bottom": (60, 112), "corner": (4, 116)}
REGIONS = frozenset({"face"})


def mask_of(x0: int, y0: int, x1: int, y1: int) -> PictureMask:
    return PictureMask((x0, y0, x1, y1), np.ones((y1 - y0, x1 - x0), np.bool_))


@pytest.mark.parametrize("frame", range(FRAMES))
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("rows", [(0, 50), (40, 90), (70, 120), (0, 120)])
def test_a_crop_is_to_the_bit_that_of_the_frame_alone(frame: int, inner: bool, rows: tuple[int, int]) -> None:
    top = frame * HEIGHT
    own, other = mask_of(30, rows[0], 61, rows[1]), mask_of(61, rows[0], 83, rows[1])
    beyond = [mask_of(0, 0, WIDTH, HEIGHT)] * FRAMES
    elsewhere = [moved(mask, at * HEIGHT) for at, mask in enumerate(beyond) if at != frame]
    shifted = AFFINE.copy()
    shifted[:, 2] -= AFFINE[:, 1] * top

    alone = cut_crop(STRIP[top : top + HEIGHT], AFFINE, own, [other], SIDE, inner=inner)
    within = cut_crop(
        STRIP, shifted, moved(own, top), [moved(other, top), *elsewhere], SIDE, inner=inner, frame_height=HEIGHT
    )

    assert np.array_equal(within.mask, alone.mask) and alone.mask.any() and np.array_equal(within.rim, alone.rim)
    assert np.array_equal(within.values, alone.values)


@pytest.mark.parametrize("frame", range(FRAMES))
@pytest.mark.parametrize("place", PLACES)
def test_a_face_is_aligned_as_in_its_frame_alone(prior: Prior, frame: int, place: str) -> None:
    top, there = frame * HEIGHT, face_at(*PLACES[place])
    (alone,) = align_faces(STRIP[top : top + HEIGHT], [there], Told(), REGIONS, prior)
    aligned = align_faces(
        STRIP,
        [face_at(*PLACES[place]).moved(at * HEIGHT, at) for at in range(FRAMES)],
        Told(),
        REGIONS,
        prior,
        frame_height=HEIGHT,
    )
    within = aligned[frame]
    assert moved(within.mask, -top) == alone.mask
    assert np.array_equal(within.crop.mask, alone.crop.mask)
    assert np.abs(within.crop.values - alone.crop.values).max() < 1e-4


def partly_seen(prior: Prior, faces: list[Face], told: Told | None = None) -> tuple[list[int], np.ndarray]:
    painted = STRIP.copy()
    return paint_partly_seen([painted], faces, told or Told(), REGIONS, prior, HEIGHT), painted


def test_faces_that_are_seen_stay_and_nothing_is_painted(prior: Prior) -> None:
    faces = [face_at(60, 60).moved(at * HEIGHT, at) for at in range(FRAMES)]
    stay, painted = partly_seen(prior, faces)
    assert stay == [0, 1, 2] and np.array_equal(painted, STRIP)


def test_a_face_of_which_a_few_pixels_are_seen_is_painted_over_in_its_frame(prior: Prior) -> None:
    faces = [face_at(60, 60), face_at(-53, -53, side=110).moved(HEIGHT, 1), face_at(60, 60).moved(2 * HEIGHT, 2)]
    stay, painted = partly_seen(prior, faces)
    assert stay == [0, 2]
    changed = (painted != STRIP).any(axis=2)
    corner = painted[HEIGHT : HEIGHT + 2, :2]
    assert changed[HEIGHT : HEIGHT + 2, :2].all() and changed.sum() == 4, "of the second frame alone"
    assert (corner == corner[0, 0]).all(), "one colour"


def test_a_face_whose_landmarks_are_no_faces_is_painted_over(prior: Prior) -> None:
    there = face_at(60, 60)
    stay, painted = partly_seen(prior, [Face(there.box, np.full((5, 2), 60.0), 0.9)])
    assert stay == [] and (painted[42:78, 42:78] == painted[60, 60]).all()
    assert np.array_equal(painted[HEIGHT:], STRIP[HEIGHT:])


def test_a_face_that_does_not_touch_its_frame_is_left_out(prior: Prior) -> None:
    outside, inside = face_at(60, -80).moved(HEIGHT, 1), face_at(60, 60).moved(HEIGHT, 1)
    stay, painted = partly_seen(prior, [outside, inside], RefusesOutside())
    assert stay == [1] and np.array_equal(painted, STRIP), "the frame above is not its frame"


class RefusesOutside(Told):
    """As the real parsers do."""

    def mask(self, pixels: np.ndarray, face: Face, regions: frozenset[str]) -> PictureMask:
        if face.box[3] <= 0:
            raise PictureError("face_outside", "nowhere")
        return super().mask(pixels, face, regions)


def test_of_a_face_that_no_parser_outlines_all_of_its_box_in_its_frame_is_painted_over_in_every_strip() -> None:
    source = STRIP.copy()
    strips, wanted = [source, 255 - source], np.zeros(STRIP.shape[:2], np.bool_)
    faces = [face_at(x, y).moved(HEIGHT, 1) for x, y in ((WIDTH - 6, HEIGHT - 4), (7, 3), (60, -20))]
    wanted[HEIGHT : HEIGHT + 23, :27] = wanted[2 * HEIGHT - 24 : 2 * HEIGHT, WIDTH - 26 :] = True
    paint_all(strips, faces, RefusesAll(), REGIONS, HEIGHT, boxes=False)
    for painted, before in zip(strips, (STRIP, 255 - STRIP), strict=True):
        assert np.array_equal((painted != before).any(axis=2), wanted)


class RefusesAll(Told):
    """As a parser that sees no face in a box."""

    def mask(self, pixels: np.ndarray, face: Face, regions: frozenset[str]) -> PictureMask:
        raise PictureError("face_not_outlined", "no face")


def test_paint_is_the_colour_around_and_hides_every_pixel() -> None:
    picture = np.full((60, 60, 3), (10, 200, 90), np.uint8)
    picture[20:40, 20:40] = np.random.default_rng(1).integers(0, 256, (20, 20, 3))
    paint_over(picture, mask_of(20, 20, 40, 40))
    assert (picture == (10, 200, 90)).all()
    paint_over(picture, mask_of(0, 0, 60, 60))
    assert (picture == 128).all(), "grey where nothing lies around"

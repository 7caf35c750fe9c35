"""The embedded parser: masks that follow the face, its turn and its regions, and that fail to the covering side."""

import numpy as np
import pytest

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.evaluation import landmarks_inside
from keyanon_core.faces.detection import Face
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.parsing import DEFAULT_REGIONS, REGIONS


@pytest.fixture(scope="module")
def found(models, hopper):
    (face,) = models.detector.detect(hopper)
    return hopper, face


def test_the_default_mask_covers_the_face_and_little_else(models, found):
    pixels, face = found
    mask = models.parser.mask(pixels, face, DEFAULT_REGIONS)
    x0, y0, x1, y1 = face.box
    area = (x1 - x0) * (y1 - y0)
    assert 0.6 * area < mask.count < 1.7 * area
    assert landmarks_inside(face, mask, pixels.shape) == 1.0
    points = models.parser._predictor.points(pixels, face)
    full = mask.full(pixels.shape)
    rows, columns = np.rint(points[:, 1]).astype(int), np.rint(points[:, 0]).astype(int)
    assert full[rows, columns].all(), "all 68 landmarks lie in the mask"
    brow, lip = points[17:27].mean(0), points[48:60].mean(0)
    forehead = brow + 0.35 * (brow - lip)
    assert full[round(forehead[1]), round(forehead[0])], "the forehead is part of the face"


@pytest.mark.parametrize("degrees", [-120, -60, 60, 180])
def test_the_mask_turns_with_the_face(degrees, models, found, turned):
    import cv2

    pixels, face = found
    full = models.parser.mask(pixels, face, DEFAULT_REGIONS).full(pixels.shape)
    picture, affine = turned(pixels, degrees)
    (there,) = models.detector.detect(picture)
    mask = models.parser.mask(picture, there, DEFAULT_REGIONS).full(picture.shape)
    expected = cv2.warpAffine(full.astype(np.uint8), affine, picture.shape[1::-1]).astype(bool)
    assert (mask & expected).sum() / (mask | expected).sum() > 0.85


def test_regions_lie_where_they_belong(models, found):
    pixels, face = found
    masks = {name: models.parser.mask(pixels, face, frozenset([name])) for name in REGIONS}
    skin, of = masks["skin"], {name: mask.full(pixels.shape) for name, mask in masks.items()}
    for name in ("brows", "eyes", "nose", "mouth", "lips"):
        inside = (of[name] & of["skin"]).sum()
        assert inside > 0.98 * masks[name].count
        assert masks[name].count < 0.25 * skin.count
    eyes = Face(face.box, np.repeat(face.landmarks[:2], [3, 2], axis=0), 1.0)
    assert (
        landmarks_inside(eyes, masks["eyes"], pixels.shape)
        == landmarks_inside(eyes, masks["glasses"], pixels.shape)
        == 1.0
    )
    assert (
        landmarks_inside(eyes, masks["nose"], pixels.shape)
        == landmarks_inside(eyes, masks["lips"], pixels.shape)
        == 0.0
    )
    assert not (of["eyes"] & of["lips"]).any() and not (of["brows"] & of["nose"]).any()
    assert (of["ears"] & ~of["skin"]).sum() > 0.5 * masks["ears"].count
    both = models.parser.mask(pixels, face, frozenset(["eyes", "lips"]))
    assert both.count == masks["eyes"].count + masks["lips"].count


@pytest.mark.parametrize("regions", [frozenset(), frozenset(["hair"]), frozenset(["skin", "nostril"])])
def test_unknown_regions_are_refused(regions, models, found):
    with pytest.raises(FaceModelError, match="choose"):
        models.parser.mask(*found, regions)


def test_a_face_the_predictor_does_not_believe_is_still_covered(models, coffee):
    """Five landmarks on a cup of coffee: the 68 points can only be wrong, and the mean shape stands in."""
    box = (200.0, 100.0, 320.0, 240.0)
    from keyanon_core.faces.landmarks import template_in_box

    for landmarks in (template_in_box(box), np.full((5, 2), 260.0), np.full((5, 2), np.nan)):
        mask = models.parser.mask(coffee, Face(box, landmarks, 0.4), DEFAULT_REGIONS)
        upright = Face(box, template_in_box(box), 0.4)
        assert landmarks_inside(upright, mask, coffee.shape) == 1.0
        assert mask.count > 0.5 * 120 * 140


def test_masks_end_at_the_border_and_cost_the_face_only(models, found):
    pixels, face = found
    x0, _, x1, _ = face.box
    cut = np.ascontiguousarray(pixels[:, round((x0 + x1) / 2) :])
    (half,) = models.detector.detect(cut)
    mask = models.parser.mask(cut, half, DEFAULT_REGIONS)
    assert mask.window[0] == 0 and mask.count > 0
    wide = np.zeros((200, 100_000, 3), np.uint8)
    wide[:, 500:700] = 90
    mask = models.parser.mask(
        wide, Face((510.0, 20.0, 610.0, 140.0), face.landmarks * 0.3 + [480, 0], 0.9), DEFAULT_REGIONS
    )
    assert isinstance(mask, PictureMask) and mask.window[2] - mask.window[0] < 400


def test_a_tiny_face_has_a_mask(models):
    pixels = np.full((20, 20, 3), 128, np.uint8)
    mask = models.parser.mask(pixels, Face((5.0, 5.0, 9.0, 10.0), np.full((5, 2), 7.0), 0.4), DEFAULT_REGIONS)
    assert 12 <= mask.count <= 60


def test_a_face_outside_the_picture_is_refused(models, found):
    pixels, face = found
    away = Face((-900.0, -900.0, -800.0, -780.0), face.landmarks - 5000, 0.9)
    with pytest.raises(PictureError) as error:
        models.parser.mask(pixels, away, DEFAULT_REGIONS)
    assert error.value.reason == "face_outside"

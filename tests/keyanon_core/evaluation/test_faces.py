"""What is measured of faces: on a photograph of one face, against what was done to it."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from keyanon_core.errors import PictureError
from keyanon_core.evaluation.faces import (
    CROP_SIDE,
    EXACT_DB,
    FACE_METRICS,
    INCEPTION,
    SOURCE,
    VIEW_SIDE,
    FaceInVersion,
    FaceMeasurer,
    embedded,
    face_view,
    masked_view,
    sheet,
)
from keyanon_core.faces import Face, FaceModels
from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.mirrored import Mirrored
from keyanon_core.imaging import decode_picture


@pytest.fixture(scope="module")
def measured(models: FaceModels, astronaut: Pixels) -> dict[str, FaceInVersion]:
    """The same picture; one whose face is grey; one that is a little brighter everywhere; one of noise. The place of Inception is
    taken by the mean colour of what it is shown, that of LPIPS by how far two of these lie apart.
    """

    def mean_colours(crops: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        return np.stack(crops).reshape(len(crops), CROP_SIDE**2, 3).mean(1).astype(np.float32)

    def between(first: Sequence[Pixels], second: Sequence[Pixels]) -> npt.NDArray[np.float64]:
        return np.abs(mean_colours(first) - mean_colours(second)).max(1).astype(np.float64)

    measurer = FaceMeasurer(models, [Mirrored(models.recognizer)], mean_colours, between)
    faces, masks = measurer.faces_of(astronaut)
    grey = astronaut.copy()
    x0, y0, x1, y1 = masks[0].window
    grey[y0:y1, x0:x1][masks[0].bits] = 128
    versions = {
        "same": astronaut,
        "grey": grey,
        "brighter": np.clip(astronaut.astype(int) + 3, 0, 255).astype(np.uint8),
        "noise": np.random.default_rng(0).integers(0, 255, astronaut.shape).astype(np.uint8),
    }
    found = measurer.measure(astronaut, faces, masks, versions)
    assert [one.version for one in found] == [SOURCE, *versions], "one face, in every version"
    return {one.version: one for one in found}


def test_a_picture_that_is_its_source_changes_nothing(measured: dict[str, FaceInVersion]) -> None:
    values = measured["same"].values
    assert set(FACE_METRICS) <= set(values)
    expected = {"found": 1, "landmark_shift": 0, "landmark_shift_68": 0, "yaw": 0, "mask_iou": 1, "changed_face": 0}
    expected |= {"same_outside": 1, "mae_face": 0, "ssim_face": 1, "seam_colour": 1}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert (values["psnr_face"], values["psnr_picture"]) == (EXACT_DB, EXACT_DB)
    assert (values["distance:dlib-resnet-v1"], values["accepted:dlib-resnet-v1"]) == (0, 1)


def test_a_face_that_is_gone_is_not_found_and_all_around_it_stays(measured: dict[str, FaceInVersion]) -> None:
    values = measured["grey"].values
    assert (values["found"], values["same_outside"]) == (0, 1)
    assert np.isnan([values["landmark_shift"], values["yaw"], values["mask_iou"]]).all(), (
        "not found: nothing is known of it"
    )
    assert values["changed_face"] > 0.9 and values["psnr_face"] < 20 < values["psnr_picture"] + 5
    assert values["accepted:dlib-resnet-v1"] == 0


def test_a_picture_that_only_looks_stored_anew_left_its_face_as_it_was(measured: dict[str, FaceInVersion]) -> None:
    values = measured["brighter"].values
    assert values["changed_face"] == 0 and values["same_outside"] < 0.2
    assert values["psnr_face"] == pytest.approx(20 * np.log10(255 / 3), abs=0.1)


def test_a_recognizer_beside_that_of_the_models_gives_distances_and_no_verdict(
    measured: dict[str, FaceInVersion],
) -> None:
    values = measured["grey"].values
    assert values["distance:dlib-resnet-v1-mirrored"] > 0.6
    assert "accepted:dlib-resnet-v1-mirrored" not in values, "its threshold is not known"
    assert set(measured["grey"].vectors) == {"dlib-resnet-v1", "dlib-resnet-v1-mirrored", "texture", INCEPTION}


def test_features_are_of_the_face_with_its_surroundings(measured: dict[str, FaceInVersion]) -> None:
    colours = {name: face.vectors[INCEPTION] for name, face in measured.items()}
    np.testing.assert_array_equal(colours["same"], colours[SOURCE])
    np.testing.assert_allclose(colours["brighter"] - colours[SOURCE], 3, atol=1)
    assert np.abs(colours["grey"] - colours[SOURCE]).max() > 5
    distances = {name: face.values["lpips_face"] for name, face in measured.items() if name != SOURCE}
    assert distances["same"] == 0 and distances["grey"] == np.abs(colours["grey"] - colours[SOURCE]).max()


def test_the_source_has_vectors_and_no_values(measured: dict[str, FaceInVersion]) -> None:
    assert measured[SOURCE].values == {} and measured[SOURCE].tone == "light"
    assert decode_picture(measured[SOURCE].view).shape == (VIEW_SIDE, VIEW_SIDE, 3)


def test_what_can_not_be_measured_is_said(models: FaceModels, astronaut: Pixels, coffee: Pixels) -> None:
    measurer = FaceMeasurer(models)
    with pytest.raises(PictureError, match="no face was found"):
        measurer.faces_of(coffee)
    faces, masks = measurer.faces_of(astronaut)
    with pytest.raises(PictureError, match="smaller is 256 x 256 px and the source 512 x 512"):
        measurer.measure(astronaut, faces, masks, {"smaller": astronaut[::2, ::2]})


def test_of_a_sliver_of_a_face_all_is_told_that_can_be(models: FaceModels, astronaut: Pixels) -> None:
    """A face behind another one, or cut by the border, costs no other face of its picture its figures."""
    measurer = FaceMeasurer(models)
    faces, masks = measurer.faces_of(astronaut)
    x0, y0, _, _ = masks[0].window
    sliver = PictureMask((x0, y0, x0 + 2, y0 + 20), np.ones((20, 2), np.bool_))
    values = measurer.measure(astronaut, faces, [sliver], {"same": astronaut})[1].values
    assert np.isnan(values["ssim_face"]) and (values["psnr_face"], values["changed_face"]) == (EXACT_DB, 0)


def test_a_face_that_a_recognizer_refuses_costs_no_other_one_its_vector(astronaut: Pixels) -> None:
    def look(views: Sequence[tuple[Pixels, Face]]) -> npt.NDArray[np.float32]:
        scores = np.array([face.score for _, face in views], np.float32)
        if (scores < 0).any():
            raise PictureError("degenerate_landmarks", "no face")
        return np.stack([scores, 1 / scores], axis=1)

    faces = [Face((0.0, 0.0, 9.0, 9.0), np.zeros((5, 2)), score) for score in (1.0, -1.0, 0.0, 2.0)]
    with np.errstate(divide="ignore"):
        found = embedded(look, [(astronaut, face) for face in faces])
    assert [None if one is None else one.tolist() for one in found] == [[1, 1], None, None, [2, 0.5]]


def test_a_view_shows_the_face_where_the_picture_ends_too(astronaut: Pixels) -> None:
    """A large face is reduced, a small one enlarged; what lies beyond the border is grey."""
    corner = Face((-40.0, -40.0, 40.0, 40.0), np.zeros((5, 2)), 1.0)
    view = decode_picture(face_view(astronaut, corner))
    assert np.abs(view[:20, :20].astype(int) - 128).max() < 8
    half = 112 / 1.7  # with its margins, 224 px
    large = Face((300 - half, 180 - half, 300 + half, 180 + half), np.zeros((5, 2)), 1.0)
    reduced = cv2.resize(astronaut[68:292, 188:412], (VIEW_SIDE, VIEW_SIDE), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(decode_picture(face_view(astronaut, large)) - reduced).mean() < 6


def test_a_view_inside_the_mask_shows_nothing_of_what_lies_around_it() -> None:
    random = np.random.default_rng(0)
    first, second, third = random.integers(0, 256, (3, 200, 160, 3), np.uint8)
    inside = np.zeros((200, 160), np.bool_)
    inside[70:120, 50:100] = True
    first[inside] = second[inside]
    face, mask = Face((40.0, 60.0, 110.0, 130.0), np.zeros((5, 2)), 1.0), PictureMask.from_full(inside)
    views = [masked_view(pixels, face, mask) for pixels in (first, second, third)]
    assert views[0] == views[1] != views[2]
    assert abs(decode_picture(views[0])[:5].astype(int) - 128).max() <= 2


def test_a_sheet_has_all_its_tiles_row_by_row_and_is_as_large_as_it_may_be() -> None:
    tiles = [np.full((16, 32, 3), 30 * index, np.uint8) for index in range(1, 6)]
    shown = decode_picture(sheet(tiles, 3, 100_000))
    assert shown.shape == (32, 96, 3)
    means = shown.reshape(2, 16, 3, 32, 3).mean((1, 3, 4)).ravel()
    np.testing.assert_allclose(means, [30, 60, 90, 120, 150, 255], atol=2)
    assert decode_picture(sheet(tiles[:2], 3, 100_000)).shape == (16, 64, 3)
    noise = [np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)]
    best, least = sheet(noise, 1, 100_000), sheet(noise, 1, 0)
    assert len(least) < len(best) and len(least) <= len(sheet(noise, 1, len(best) - 1)) < len(best)
    for wrong in ([], [tiles[0], noise[0]]):
        with pytest.raises(ValueError, match="tiles of one size"):
            sheet(wrong, 3, 1000)

"""What a picture shows of a face on a carrier: the detail of the carrier's own face, the light of the picture."""

import secrets
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from keyanon_core.pictures import own_faces
from keyanon_core.pictures.own_faces import FEATURES, HEAD, OwnFaces
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure

Crop = npt.NDArray[np.float64]
PROCEDURE = Procedure(payload_share=0.2)
KEYS = [bytes([number]) * 32 for number in range(4)]


@pytest.fixture
def faces(prior: Prior) -> OwnFaces:
    return OwnFaces(prior, PROCEDURE)


@pytest.fixture(scope="module")
def mask(prior: Prior) -> npt.NDArray[np.bool_]:
    mask = np.zeros((prior.side, prior.side), np.uint8)
    cv2.ellipse(mask, (64, 72), (44, 54), 0, 0, 360, 1, -1)
    return mask.astype(np.bool_)


def flat(*colour: float) -> Crop:
    """(1, 3, S, S) of one colour."""
    return np.broadcast_to(np.array(colour)[None, :, None, None], (1, 3, 128, 128)).copy()


def detail(crop: Crop, mask: npt.NDArray[np.bool_]) -> Crop:
    fine = np.stack([channel - cv2.GaussianBlur(channel, (0, 0), 6) for channel in crop])
    return np.asarray(fine[:, mask].ravel())


def likeness(one: Crop, other: Crop, mask: npt.NDArray[np.bool_]) -> float:
    return float(np.corrcoef(detail(one, mask), detail(other, mask))[0, 1])


def test_two_pictures_of_a_subject_show_one_face_in_their_own_light(
    faces: OwnFaces, mask: npt.NDArray[np.bool_]
) -> None:
    noise = np.random.default_rng(4).uniform(-0.2, 0.2, (1, 3, 128, 128))
    dark, light = flat(-0.5, -0.6, -0.7) + noise, flat(0.3, 0.2, 0.1) + noise[..., ::-1]
    (first,), (second,) = (faces.shown(KEYS[:1], crop, mask[None]) for crop in (dark, light))
    (stranger,) = faces.shown(KEYS[1:2], light, mask[None])
    middle = cv2.erode(mask.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(np.bool_)
    assert likeness(first, second, middle) > 0.95 and likeness(second, stranger, middle) < 0.7
    for shown, crop in ((first, dark), (second, light)):
        assert np.abs(shown[:, mask].mean(1) - crop[0][:, mask].mean(1)).max() < 0.05, "its own light"
        assert np.array_equal(shown[:, ~mask], crop[0][:, ~mask])


def test_a_plain_crop_has_no_detail_up_to_the_edge_of_its_mask(faces: OwnFaces, mask: npt.NDArray[np.bool_]) -> None:
    dark, light = flat(-0.3, -0.2, -0.1), flat(0.3, 0.2, 0.1)
    added = [faces.shown(KEYS[:1], crop, mask[None]) - crop for crop in (dark, light)]
    assert np.abs(added[0] - added[1]).max() < 1e-6 < np.abs(added[0]).max(), "the carrier's alone, in any light"


def test_a_face_without_a_carrier_is_shown_as_it_was_made(faces: OwnFaces, mask: npt.NDArray[np.bool_]) -> None:
    crops = np.random.default_rng(4).uniform(-1, 1, (3, 3, 128, 128))
    shown = faces.shown([None, KEYS[0], None], crops, np.stack([mask] * 3))
    assert np.array_equal(shown[[0, 2]], crops[[0, 2]]) and not np.array_equal(shown[1], crops[1])
    assert np.abs(shown).max() <= 1


def test_a_face_with_no_pixel_where_heads_are_stays_as_it_is(faces: OwnFaces, prior: Prior) -> None:
    corner = np.zeros((1, prior.side, prior.side), np.bool_)
    corner[:, :4, :4] = True
    assert np.array_equal(faces.shown(KEYS[:1], flat(0.1, 0.2, 0.3), corner), flat(0.1, 0.2, 0.3))


def test_what_is_no_number_stays_none(
    faces: OwnFaces, mask: npt.NDArray[np.bool_], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_faces, "own_faces", lambda *args: _torch_nan())
    assert np.isnan(faces.shown(KEYS[:1], flat(0.1, 0.2, 0.3), mask[None])).any(), "the face is refused later"


def _torch_nan() -> object:
    import torch

    return torch.full((1, 3, 128, 128), float("nan"), dtype=torch.float64)


def test_a_carriers_face_is_made_once_and_the_oldest_is_forgotten(
    prior: Prior, faces: OwnFaces, mask: npt.NDArray[np.bool_], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_faces, "REMEMBERED", 2)

    def made_for(*keys: bytes) -> int:
        before = prior.nfe
        faces.shown(keys, np.concatenate([flat(0, 0, 0)] * len(keys)), np.stack([mask] * len(keys)))
        return (prior.nfe - before) // PROCEDURE.steps

    assert made_for(KEYS[0], KEYS[0]) == 1
    assert made_for(KEYS[0], KEYS[1]) == 1
    assert made_for(KEYS[0]) == 0
    assert made_for(KEYS[2]) == 1, "the second is forgotten now, which was not asked for last"
    assert made_for(KEYS[0], KEYS[2]) == 0
    assert made_for(*KEYS) == 2, "more than are remembered"
    assert made_for(*KEYS) == 0


def test_a_carriers_face_is_the_same_on_every_machine(prior: Prior, mask: npt.NDArray[np.bool_]) -> None:
    first, second = (OwnFaces(prior, PROCEDURE).shown(KEYS[:2], _two(), np.stack([mask] * 2)) for _ in range(2))
    alone = OwnFaces(prior, PROCEDURE).shown(KEYS[1:2], _two()[1:], mask[None])
    assert np.array_equal(first, second) and np.abs(alone - first[1:]).max() < 1e-3


def _two() -> Crop:
    return np.concatenate([flat(0.1, 0.0, -0.1), flat(0.2, 0.1, 0.0)])


@pytest.mark.parametrize(("turned", "side"), [(0, 128), (20, 128), (0, 256)])
def test_the_outline_of_a_head_holds_its_landmarks(prior: Prior, turned: float, side: int) -> None:
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), turned, 1.0)
    template = prior.landmark_template * side / prior.side @ matrix[:, :2].T + matrix[:, 2]
    outline, features = (ellipse.within(template, side) for ellipse in (HEAD, FEATURES))
    assert outline.shape == (side, side) and 0.5 < outline.mean() < 0.7
    assert 0.3 < features.mean() < outline.mean() - 0.1 and all(features[round(y), round(x)] for x, y in template)
    assert all(outline[round(y), round(x)] for x, y in template)
    assert not outline[:: side - 1, :: side - 1].any(), "the corners are no head"


@pytest.fixture(autouse=True)
def _no_random_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No secret of a picture is drawn here: what is shown follows from carriers alone."""

    def refuse(size: int) -> bytes:
        raise AssertionError("a key was drawn")

    monkeypatch.setattr(secrets, "token_bytes", refuse)
    yield

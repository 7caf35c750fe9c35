"""A piece of a clip has a key for each person who is in it: one opens that person's faces, and nothing of anybody else's.

A picture whose faces have subjects of their own is worked on as a piece of one frame.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from keyanon_core.errors import SidecarError, WrongKeyError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Pixels
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import PictureResult, PictureTask
from keyanon_core.priors import Prior, load_prior
from keyanon_core.pseudonyms import EphemeralPseudonyms
from keyanon_core.sidecar import Sidecar, open_source
from tests.keyanon_core.diffusion.tiny_priors import pixel_prior
from tests.keyanon_core.pictures.photographs import settings
from tests.keyanon_core.pictures.test_painting import grey_picture
from tests.keyanon_core.pictures.told_models import LEFT, RIGHT, Told, face_at

AGAIN, LATER = face_at(250, 50), face_at(50, 150)  # ann's second face, and one that only the second search finds
FACES, SUBJECTS = [LEFT, RIGHT, AGAIN], ["ann", "bob", "ann"]
WHOSE = {"ann": [0, 2], "bob": [1], "": [3]}


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_prior(pixel_prior(tmp_path_factory.mktemp("tiny"), "inpaint"))


def made(prior: Prior, name: str = "1", subjects: Sequence[str] | None = SUBJECTS, **changes: object) -> PictureResult:
    """Every face's way back is tried as it is made."""
    chosen = settings(**{"payload_share": 0.5, "check_every": 1, **changes})
    told = Told(again={1: [[LATER], []]})
    anonymizer = PictureAnonymizer(prior, FaceModels(told, told, told), chosen, EphemeralPseudonyms())
    (result,) = anonymizer([PictureTask(name, grey_picture(), list(FACES), subjects=subjects, is_part=True)])
    assert result.status == "anonymized", result.reason
    return result


@pytest.fixture(scope="module")
def lossless(prior: Prior) -> PictureResult:
    return made(prior, fidelity="lossless")


@pytest.fixture(scope="module")
def latent(prior: Prior) -> PictureResult:
    return made(prior, fidelity="latent")


def by_part(result: PictureResult) -> dict[str | None, PictureKey]:
    return {key.part: key for key in result.keys}


def restored(prior: Prior, result: PictureResult, *keys: PictureKey) -> Pixels:
    first, *others = keys
    return PictureRecoverer(prior).recover(result.encoded or b"", result.sidecar or b"", first, *others).pixels


def inside(key: PictureKey, pixels: Pixels) -> np.ndarray:
    return np.any([face.mask.full(pixels.shape) for face in key.faces], axis=0)


@pytest.mark.parametrize("fidelity", ["lossless", "latent"])
def test_one_key_restores_the_faces_of_its_person_and_leaves_the_others_as_published(
    prior: Prior, fidelity: str, request: pytest.FixtureRequest
) -> None:
    result: PictureResult = request.getfixturevalue(fidelity)
    published, source = decode_picture(result.encoded or b""), decode_picture(grey_picture())
    assert {part: [face.index for face in key.faces] for part, key in by_part(result).items()} == WHOSE
    together = restored(prior, result, *result.keys)
    for key in result.keys:
        back = restored(prior, result, key)
        own = inside(key, back)
        assert np.array_equal(back[~own], published[~own])
        assert np.array_equal(back[own], together[own]) and not np.array_equal(back[own], published[own])
        if fidelity == "lossless":
            assert np.array_equal(back[own], source[own])


def test_no_key_of_a_piece_is_derived_from_what_another_holds(lossless: PictureResult) -> None:
    keys = lossless.keys
    assert len({key.image_key for key in keys}) == len({key.record_id for key in keys}) == 3
    carriers = {part: {face.carrier_key for face in key.faces} for part, key in by_part(lossless).items()}
    assert carriers["ann"].isdisjoint(carriers["bob"]) and len(carriers["ann"]) == 1 and carriers[""] == {None}
    assert [key.payload_share for key in keys] == [0.5, 0.5, 1.0]


def test_the_key_of_one_opens_nothing_of_another_whatever_faces_it_is_said_to_be_of(
    prior: Prior, lossless: PictureResult, latent: PictureResult
) -> None:
    for result in (lossless, latent):
        keys = by_part(result)
        claimed = replace(keys["ann"], faces=keys["bob"].faces)
        with pytest.raises(WrongKeyError, match="commitment differs"):
            restored(prior, result, claimed)
    keys, sidecar = by_part(lossless), Sidecar.from_bytes(lossless.sidecar or b"")
    (face,) = keys["bob"].faces
    for key in (keys["ann"], keys[""]):
        for record_id in (key.record_id, keys["bob"].record_id):
            with pytest.raises(WrongKeyError):
                open_source(sidecar.faces[1].source or b"", face.mask, key.face_key(face), record_id, 1)


def test_what_an_attacker_solves_with_the_key_of_one_is_not_the_face_of_another(
    prior: Prior, latent: PictureResult
) -> None:
    keys, recoverer = by_part(latent), PictureRecoverer(prior)
    right = restored(prior, latent, keys["bob"])
    claimed = replace(keys["ann"], faces=keys["bob"].faces)
    wrong = recoverer.recover(latent.encoded or b"", latent.sidecar or b"", claimed, check_key=False).pixels
    own = inside(keys["bob"], right)
    apart = np.abs(wrong[own].astype(float) - right[own]).mean()
    assert apart > 20, "the solution under another's key is as far off as a stranger's"


def test_a_key_of_another_piece_is_refused(prior: Prior, lossless: PictureResult) -> None:
    other = made(prior, "2", fidelity="lossless")
    for keys in ([other.keys[0]], [lossless.keys[0], other.keys[1]]):
        with pytest.raises(SidecarError, match="the sidecar belongs to record"):
            restored(prior, lossless, *keys)
    same_name = made(prior, fidelity="lossless")
    with pytest.raises(WrongKeyError, match="commitment differs"):
        restored(prior, lossless, same_name.keys[1])
    beyond = replace(lossless.keys[1], faces=(replace(lossless.keys[1].faces[0], index=4),))
    with pytest.raises(SidecarError, match="the sidecar belongs to record"):
        restored(prior, lossless, beyond)


def test_a_changed_sidecar_is_refused_with_the_key_of_any_person(prior: Prior, lossless: PictureResult) -> None:
    sidecar = Sidecar.from_bytes(lossless.sidecar or b"")
    first, *others = sidecar.faces
    changed = replace(sidecar, faces=(replace(first, source=b"changed"), *others)).to_bytes()
    with pytest.raises(SidecarError, match="was changed after it was published"):
        PictureRecoverer(prior).recover(lossless.encoded or b"", changed, by_part(lossless)["bob"])


def test_a_photograph_has_one_key_of_all_its_faces(prior: Prior) -> None:
    result = made(prior, subjects=None, fidelity="lossless")
    assert result.further_keys == () and result.key is not None
    assert (result.key.part, [face.index for face in result.key.faces]) == (None, [0, 1, 2, 3])
    assert Sidecar.from_bytes(result.sidecar or b"").record_id == result.key.record_id
    with pytest.raises(SidecarError, match="the sidecar belongs to record"):
        restored(prior, result, replace(result.key, faces=result.key.faces[:3]))


def test_a_piece_with_one_key_of_everybody_as_earlier_versions_made_it_comes_back(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PictureTask, "part_of", lambda self, index: None)
    result = made(prior, fidelity="lossless")
    (key,) = result.keys
    assert (key.part, len(key.faces), key.payload_share) == (None, 4, 0.5)
    back = restored(prior, result, key)
    own = inside(key, back)
    assert np.array_equal(back[own], decode_picture(grey_picture())[own])

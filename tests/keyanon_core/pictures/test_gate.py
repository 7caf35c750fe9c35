"""The anonymity gate: what passes, what it costs, and that nothing but a distant face ever does."""

import math
from collections import deque

import numpy as np
import pytest

from keyanon_core.errors import PictureError
from keyanon_core.faces import FaceModels
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.attempts import _early_checks, _next_batch
from keyanon_core.pictures.gate import EASED, AnonymityGate, asked_distance
from keyanon_core.pictures.opened import OpenedPicture, Part
from keyanon_core.pictures.settings import PictureTask
from keyanon_core.priors import Prior
from keyanon_core.pseudonyms import Pseudonym
from tests.keyanon_core.pictures.photographs import STEPS, settings

QUICK = {"steps": 1, "fidelity": "lossless", "gate_threshold": 0.5}


def opened(anonymizer: PictureAnonymizer, encoded: bytes) -> OpenedPicture:
    picture = anonymizer._open(PictureTask("a", encoded))
    assert isinstance(picture, OpenedPicture)
    return picture


@pytest.mark.parametrize("distance", [math.nan, math.inf, -math.inf])
def test_a_distance_that_is_no_number_never_passes(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch, distance: float
) -> None:
    monkeypatch.setattr(models.recognizer, "distance", lambda before, after: distance)
    (result,) = PictureAnonymizer(prior, models, settings(max_attempts=2, **QUICK))([PictureTask("a", astronaut)])
    assert (result.status, result.encoded) == ("quarantined", None)
    assert result.reason.startswith("still_recognizable")


def test_a_face_that_the_recognizer_gives_no_answer_for_never_passes(
    prior: Prior, models: FaceModels, group: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(views: object, *, coarse: bool = False) -> None:
        raise PictureError("degenerate_landmarks", "no face")

    monkeypatch.setattr(models.recognizer, "embed", refuse)
    (result,) = PictureAnonymizer(prior, models, settings(max_attempts=1, **QUICK))([PictureTask("g", group)])
    assert result.reason.startswith("still_recognizable")


def test_one_face_without_an_answer_costs_its_neighbours_nothing(
    prior: Prior, models: FaceModels, astronaut: bytes, group: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = models.recognizer.embed
    bad: list[np.ndarray] = []

    def refuse_one(views: list, *, coarse: bool = False) -> np.ndarray:
        if any(view[0] is pixels for view in views for pixels in bad):
            raise PictureError("degenerate_landmarks", "no face")
        return embed(views)

    anonymizer = PictureAnonymizer(prior, models, settings(**{**QUICK, "gate_threshold": 0.01, "max_attempts": 1}))
    one, other = opened(anonymizer, astronaut), opened(anonymizer, group)
    bad.append(one.result)
    monkeypatch.setattr(models.recognizer, "embed", refuse_one)
    anonymizer.attempts.run([*one.faces, *other.faces])
    assert one.failure.startswith("still_recognizable")
    assert other.failure == ""
    assert all(math.isfinite(face.distance) for face in other.faces)


def test_only_early_looks_are_coarse(
    models: FaceModels, astronaut: bytes, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    embed = models.recognizer.embed
    monkeypatch.setattr(
        models.recognizer, "embed", lambda views, coarse=False: (asked.append(coarse), embed(views, coarse=coarse))[1]
    )
    picture = opened(PictureAnonymizer(prior, models, settings()), astronaut)
    gate = AnonymityGate(models.recognizer, 0.9, 2)
    gate.measure(picture.faces)
    assert asked == [False, False]
    gate.hopeless(picture.faces, np.stack([face.crop.values for face in picture.faces]), 0.1)
    assert asked == [False, False, True]


def test_the_bound_is_a_share_of_the_strangers_distance(prior: Prior, models: FaceModels, astronaut: bytes) -> None:
    anonymizer = PictureAnonymizer(prior, models, settings())
    (face,) = opened(anonymizer, astronaut).faces
    gate = AnonymityGate(models.recognizer, 0.9, 2)
    gate.measure([face])
    assert face.distance == 0
    assert face.source_embedding is not None
    bound = 0.9 * models.recognizer.stranger_distance(face.source_embedding)
    for distance, passes in ((bound, True), (bound - 1e-6, False), (0.0, False), (math.nan, False), (math.inf, False)):
        face.distance = distance
        assert gate.passes(face) is passes
    face.source_embedding, face.distance = None, bound
    assert not gate.passes(face)


@pytest.mark.parametrize(("inversion", "psi"), [("none", 0), ("ddim", STEPS)])
def test_a_key_given_up_early_costs_less_and_the_next_one_is_tried(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch, inversion: str, psi: int
) -> None:
    anonymizer = PictureAnonymizer(prior, models, settings(gate_threshold=0.3, max_attempts=4, inversion=inversion))
    monkeypatch.setattr(AnonymityGate, "hopeless", lambda self, faces, crops, margin: [True] * len(faces))
    first_check = min(anonymizer.attempts.checks)
    assert first_check < STEPS
    (face,) = opened(anonymizer, astronaut).faces
    before = prior.nfe
    anonymizer.attempts.run([face])
    # Psi at most once, two keys given up, and the third taken to the end whatever an early look says.
    assert prior.nfe - before == psi + 2 * first_check + STEPS
    assert (face.attempt, face.picture.failure) == (2, "")
    assert (face.walker, face.noise) == (None, None)


def test_an_early_look_lets_no_face_pass(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    anonymizer = PictureAnonymizer(prior, models, settings(gate_threshold=5.0, max_attempts=2))
    monkeypatch.setattr(AnonymityGate, "hopeless", lambda self, faces, crops, margin: [False] * len(faces))
    (face,) = opened(anonymizer, astronaut).faces
    anonymizer.attempts.run([face])
    assert face.picture.failure.startswith("still_recognizable")


def test_early_looks_are_true_to_the_end(prior: Prior, models: FaceModels, group: bytes) -> None:
    """What is given up early at the default's margins is far from passing."""
    anonymizer = PictureAnonymizer(prior, models, settings(gate_threshold=0.0))
    picture = opened(anonymizer, group)
    anonymizer.attempts.run(picture.faces)
    gate = AnonymityGate(models.recognizer, 0.935, 2)
    sources = np.stack([face.crop.values for face in picture.faces])
    latents = np.stack([face.latent for face in picture.faces if face.latent is not None])
    for face in picture.faces:
        face.source_embedding = None  # as when a first key is looked at
    assert gate.hopeless(picture.faces, sources, 0.15) == [True] * 4
    looked_at = gate.hopeless(picture.faces, latents, 0.15)
    assert not any(hopeless and gate.passes(face) for hopeless, face in zip(looked_at, picture.faces, strict=True))


def test_what_a_face_comes_to_under_several_keys_does_not_depend_on_its_neighbours(
    prior: Prior, models: FaceModels, astronaut: bytes, group: bytes
) -> None:
    anonymizer = PictureAnonymizer(prior, models, settings(face_batch=4, gate_threshold=0.95, max_attempts=6))
    alone, beside, others = (opened(anonymizer, encoded) for encoded in (astronaut, astronaut, group))
    alone.parts[None] = beside.parts[None] = Part(bytes(range(32)))
    anonymizer.attempts.run(list(alone.faces))
    anonymizer.attempts.run([*others.faces, *beside.faces])
    first, second = alone.faces[0], beside.faces[0]
    assert (first.attempt, alone.failure) == (second.attempt, beside.failure)
    if first.latent is not None and second.latent is not None:
        assert np.abs(first.latent - second.latent).max() <= 2 / anonymizer.attempts.levels
    assert first.distance == pytest.approx(second.distance, abs=1e-3, nan_ok=True)


def test_each_further_key_is_asked_for_less_and_the_second_half_is_not_looked_at_early(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    (face,) = opened(PictureAnonymizer(prior, models, settings()), astronaut).faces
    gate = AnonymityGate(models.recognizer, 0.9, 5)
    gate.measure([face])
    assert face.source_embedding is not None
    strangers = models.recognizer.stranger_distance(face.source_embedding)
    unsettled, settled = Pseudonym(bytes(32)), Pseudonym(bytes(32), 0)
    for attempt, pseudonym, eased, early in (
        (0, None, 0.0, True),
        (1, None, 0.25, True),
        (2, unsettled, 0.5, False),
        (4, None, 1.0, False),
        (0, settled, 1.0, True),
    ):
        face.attempt, face.pseudonym = attempt, pseudonym
        bound = max(0.9 * (1 - (1 - EASED) * eased) * strangers, models.recognizer.threshold)
        face.distance = bound + 1e-6
        assert gate.passes(face)
        face.distance -= 2e-6
        assert not gate.passes(face)
        assert gate.looks_early(face) is early
    face.attempt = 0
    assert not AnonymityGate(models.recognizer, 0.9, 1).looks_early(face)  # the only key is taken to the end


def test_no_key_is_eased_to_what_is_the_same_person_but_a_user_may_ask_for_less() -> None:
    eased = asked_distance(0.9, 9, 10, strangers=0.76, same_person=0.6)
    assert 0.9 * EASED * 0.76 < eased == 0.6
    assert asked_distance(0.9, 0, 10, strangers=0.76, same_person=0.6) == pytest.approx(0.9 * 0.76)
    assert asked_distance(0.1, 9, 10, strangers=0.76, same_person=0.6) == pytest.approx(0.1 * 0.76)


@pytest.mark.parametrize("keys", [2, 3, 32])
def test_the_last_key_is_eased_in_full_and_an_only_one_not_at_all(keys: int) -> None:
    assert asked_distance(0.9, keys - 1, keys, strangers=1.0, same_person=0.1) == pytest.approx(0.9 * EASED)
    assert asked_distance(0.9, 0, 1, strangers=1.0, same_person=0.1) == pytest.approx(0.9)


def test_faces_wait_until_a_batch_is_full_and_the_nearest_to_the_end_goes_first() -> None:
    def waiting(*counts: int) -> list[deque]:
        return [deque(f"{stage}{i}" for i in range(count)) for stage, count in enumerate(counts)]

    assert _next_batch(waiting(9, 4, 3), 4) == ["10", "11", "12", "13"]  # type: ignore[comparison-overlap]
    assert _next_batch(waiting(9, 4, 5), 4) == ["20", "21", "22", "23"]  # type: ignore[comparison-overlap]
    assert _next_batch(waiting(0, 2, 3), 4) == ["10", "11"]  # type: ignore[comparison-overlap]


def test_batches_stay_full_while_keys_are_given_up(
    prior: Prior, models: FaceModels, group: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four faces, of which every second one is given up at each look: no evaluation of one face alone while others wait."""
    anonymizer = PictureAnonymizer(prior, models, settings(face_batch=2, gate_threshold=0.3, max_attempts=4))
    turns = iter(range(1000))
    monkeypatch.setattr(AnonymityGate, "hopeless", lambda self, faces, c, m: [next(turns) % 2 == 0 for _ in faces])
    sizes: list[int] = []
    eps = prior.eps
    monkeypatch.setattr(prior, "eps", lambda w, *rest, **how: (sizes.append(len(w)), eps(w, *rest, **how))[1])
    anonymizer.attempts.run(opened(anonymizer, group).faces)
    alone = sum(size == 1 for size in sizes)
    assert max(sizes) == 2
    assert alone < len(sizes) / 3


@pytest.mark.parametrize(
    ("change", "threshold", "expected"),
    [
        ({"steps": 12, "inversion": "ddim"}, 0.935, {5: 0.095, 8: 0.045}),
        ({"steps": 4}, 0.935, {2: 0.070, 3: 0.021}),
        ({"steps": 12}, 0.935, {6: 0.070, 9: 0.021}),
        ({"steps": 4}, 0.06, {3: 0.021}),
        ({"steps": 2, "fidelity": "lossless"}, 0.935, {1: 0.070}),
        ({"steps": 1, "fidelity": "lossless"}, 0.935, {}),
        ({"steps": 12, "method": "paper-inpaint"}, 0.935, {}),
        ({"steps": 12}, 0.0, {}),
    ],
)
def test_early_looks_come_at_shares_of_the_steps(
    change: dict[str, object], threshold: float, expected: dict[int, float]
) -> None:
    assert _early_checks(settings(**change), threshold) == expected

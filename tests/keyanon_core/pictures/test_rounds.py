"""Searches of the result and what follows from them, with face models that see what a test says, and a prior of 16 px."""

import hashlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keyanon_core.errors import FaceModelError, KeyanonError, PictureError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.given import GivenFaces
from keyanon_core.keys import source_hmac
from keyanon_core.pictures import anonymizer as module
from keyanon_core.pictures.anonymizer import MAX_ROUNDS, PictureAnonymizer
from keyanon_core.pictures.opened import OpenedPicture
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import PictureResult, PictureTask
from keyanon_core.priors import Prior, load_prior
from tests.keyanon_core.diffusion.tiny_priors import pixel_prior
from tests.keyanon_core.pictures.photographs import pixels_of, settings
from tests.keyanon_core.pictures.told_models import AWAY, BELOW, LEFT, RIGHT, Told, face_at


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_prior(pixel_prior(tmp_path_factory.mktemp("tiny"), "inpaint"))


def a_picture(number: int) -> bytes:
    """300 x 200 px of noise; its first value tells which one it is."""
    pixels = np.random.default_rng(number).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    pixels[0, 0] = number
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@pytest.fixture
def run(prior: Prior) -> Callable[..., list[PictureResult]]:
    def anonymize(told: Told, tasks: Sequence[PictureTask], **changes: object) -> list[PictureResult]:
        chosen = settings(**{"steps": 1, "fidelity": "lossless", **changes})
        return PictureAnonymizer(prior, FaceModels(told, told, told), chosen)(tasks)

    return anonymize


Run = Callable[..., list[PictureResult]]


def tasks(*numbers: int) -> list[PictureTask]:
    return [PictureTask(str(number), a_picture(number)) for number in numbers]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PictureError("too_many_faces", "4001 faces"), "too_many_faces: 4001 faces"),
        (FaceModelError("not a number"), "unusable: not a number"),
    ],
)
def test_a_picture_that_can_not_be_searched_is_quarantined_alone(run: Run, error: KeyanonError, reason: str) -> None:
    told = Told({1: [LEFT], 2: [LEFT], 3: error, 4: [LEFT]}, {2: [error], 4: [[RIGHT], error]})
    one, two, three, four = run(told, tasks(1, 2, 3, 4))
    assert (one.status, one.reason) == ("anonymized", "")
    for result, faces in ((two, 1), (three, 0), (four, 2)):
        assert (result.status, result.reason, result.faces) == ("quarantined", reason, faces)
        assert (result.encoded, result.sidecar, result.key) == (None, None, None)


@pytest.mark.parametrize("found", range(MAX_ROUNDS + 1))
def test_faces_are_taken_up_as_long_as_rounds_are_left_and_the_last_search_must_find_none(run: Run, found: int) -> None:
    others = [RIGHT, BELOW, AWAY]
    told = Told({1: [LEFT]}, {1: [[LEFT, face] for face in others[:found]] + [[LEFT]]})
    (result,) = run(told, tasks(1))
    assert told.log == [("detect", 1)] + [("look_again", 1)] * min(found + 1, MAX_ROUNDS)
    if found == MAX_ROUNDS:
        assert result.status == "quarantined" and result.encoded is None
        assert result.reason == f"unanonymized_face: after {MAX_ROUNDS} rounds the result still shows a face in no mask"
        return
    assert (result.status, result.faces) == ("anonymized", 1 + found)
    assert result.key is not None and result.encoded is not None and result.sidecar is not None
    assert [face.box for face in result.key.faces] == [face.box for face in [LEFT, *others[:found]]]
    source, published = pixels_of(a_picture(1)), pixels_of(result.encoded)
    for face in result.key.faces:
        assert (source != published).any(axis=2)[face.mask.full(source.shape)].mean() > 0.9
    back = PictureRecoverer(None).recover(result.encoded, result.sidecar, result.key)
    assert np.array_equal(back.pixels, source)


def test_one_pictures_rounds_do_not_search_the_others_again_for_nothing(run: Run) -> None:
    told = Told({1: [LEFT], 2: [LEFT]}, {2: [[RIGHT], []]})
    one, two = run(told, tasks(1, 2))
    assert (one.faces, two.faces) == (1, 2)
    assert told.log == [("detect", 1), ("detect", 2), ("look_again", 1), ("look_again", 2), ("look_again", 2)]


def test_a_face_seen_twice_in_a_search_is_taken_up_once(run: Run) -> None:
    told = Told({1: [LEFT]}, {1: [[face_at(151, 51, score=0.3), RIGHT], []]})
    (result,) = run(told, tasks(1))
    assert result.faces == 2 and result.key is not None and result.key.faces[1].box == RIGHT.box


def test_a_found_face_that_can_not_be_outlined_quarantines_the_picture(run: Run) -> None:
    for fault in ("refused", "empty"):
        told = Told({1: [LEFT], 2: [LEFT]}, {1: [[RIGHT], []]}, **{fault: [RIGHT]})
        one, two = run(told, tasks(1, 2))
        reason = "face_outside" if fault == "refused" else "empty_mask"
        expected = f"unanonymized_face: the result shows a face that can not be outlined ({reason})"
        assert (one.status, one.reason, one.faces, one.encoded) == ("quarantined", expected, 1, None)
        assert two.status == "anonymized"


def test_a_detected_face_without_a_pixel_of_its_own_quarantines_the_picture(run: Run) -> None:
    (result,) = run(Told({1: [LEFT, RIGHT]}, empty=[RIGHT]), tasks(1))
    assert result.status == "quarantined"
    assert result.reason == "empty_mask: face 1 has no pixel of its own to anonymize"


@pytest.mark.parametrize("across", [92, 100])  # at the rim of the left face's mask, and beyond it in its crop
def test_only_faces_whose_crops_a_new_one_changes_are_made_again_under_another_key(run: Run, across: int) -> None:
    beside = face_at(across, 50)  # its mask lies in the crop of the left face alone
    told = Told({1: [LEFT, AWAY]}, {1: [[beside], []]})
    (result,) = run(told, tasks(1))
    assert result.key is not None
    assert [(face.box, face.attempt) for face in result.key.faces] == [(LEFT.box, 1), (AWAY.box, 0), (beside.box, 0)]
    assert result.metrics["attempts"] == 4.0


def test_a_picture_that_failed_the_gate_is_not_searched(run: Run) -> None:
    told = Told({1: [LEFT]}, measured=0.0)
    (result,) = run(told, tasks(1), gate_threshold=0.5, max_attempts=2)
    assert result.status == "quarantined" and result.reason.startswith("still_recognizable") and result.faces == 1
    assert told.log == [("detect", 1)]


@pytest.mark.parametrize("found", [False, True])
def test_a_picture_without_a_face_is_searched_again_only_where_it_would_be_published(run: Run, found: bool) -> None:
    told = Told({1: []}, {1: [[LEFT] if found else [], []]})
    (result,) = run(told, tasks(1))
    assert (result.status, result.encoded, told.log) == ("no_face", None, [("detect", 1)])
    assert result.reason.startswith("no_face: no face was found")
    (result,) = run(told, tasks(1), no_face="pass")
    assert told.log[1:3] == [("detect", 1), ("look_again", 1)]
    assert (result.status, result.faces) == (("anonymized", 1) if found else ("no_face", 0))
    assert result.encoded is not None
    assert np.array_equal(pixels_of(result.encoded), pixels_of(a_picture(1))) is not found


def test_a_picture_with_no_given_face_is_searched_and_not_published_without_one(run: Run) -> None:
    told = Told(again={1: [[]], 2: [[LEFT], []]})
    one, two = run(told, tasks(1, 2), faces="given")
    assert (one.status, one.encoded) == ("no_face", None)
    assert (two.status, two.faces) == ("anonymized", 1)
    assert ("detect", 1) not in told.log and told.log.count(("look_again", 1)) == 1


def test_kept_faces_are_counted_and_the_others_anonymized(run: Run) -> None:
    keep = GivenFaces(keep=(RIGHT.box,))
    told = Told({1: [LEFT, RIGHT]}, {1: [[RIGHT, LEFT]]})
    (result,) = run(told, [PictureTask("1", a_picture(1), given=keep)])
    assert (result.status, result.faces, result.kept) == ("anonymized", 1, 1)
    told = Told({1: []}, {1: [[RIGHT]]})  # the second search alone sees it
    (result,) = run(told, [PictureTask("1", a_picture(1), given=keep)], no_face="pass")
    assert (result.status, result.faces, result.kept) == ("no_face", 0, 1)
    assert result.reason.startswith("kept: ") and result.encoded is not None
    told = Told({1: [RIGHT]})
    (result,) = run(told, [PictureTask("1", a_picture(1), given=keep)])
    assert (result.status, result.kept) == ("no_face", 1) and result.encoded is not None


def test_pictures_are_held_up_to_a_number_of_pixels_and_come_back_in_their_order(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GATHERED_PIXELS", 2 * 200 * 300)
    told = Told({number: [LEFT] for number in (1, 3, 4, 5)} | {2: []})
    results = run(told, tasks(1, 2, 3, 4, 5))
    assert [result.image_id for result in results] == ["1", "2", "3", "4", "5"]
    assert [result.status for result in results] == ["anonymized", "no_face", *["anonymized"] * 3]
    first, then = [*zip(["detect"] * 3, (1, 2, 3), strict=True)], [("look_again", 1), ("look_again", 3)]
    assert told.log == [*first, *then, ("detect", 4), ("detect", 5), ("look_again", 4), ("look_again", 5)]
    assert run(told, []) == []


def test_a_result_names_what_it_was_made_from_and_what_it_became(run: Run) -> None:
    (result,) = run(Told({1: [LEFT, RIGHT]}), tasks(1))
    assert result.key is not None and result.encoded is not None and result.sidecar is not None
    key = result.key
    assert key.source_sha256 == hashlib.sha256(a_picture(1)).hexdigest()
    assert key.output_sha256 == hashlib.sha256(result.encoded).hexdigest()
    assert key.sidecar_sha256 == hashlib.sha256(result.sidecar).hexdigest()
    assert result.source_hmac == source_hmac(key.image_key, a_picture(1))
    assert result.metrics["attempts"] == 2.0 and result.metrics["min_distance"] == 1.0
    assert result.metrics["max_enlargement"] > 1 and result.metrics["mean_noise_rms"] > 0


def test_neither_a_picture_nor_what_is_measured_of_it_shows_in_a_repr(prior: Prior, run: Run) -> None:
    told = Told({1: [LEFT]})
    (task,) = tasks(1)
    anonymizer = PictureAnonymizer(prior, FaceModels(told, told, told), settings(steps=1, fidelity="lossless"))
    picture = anonymizer._open(task)
    assert isinstance(picture, OpenedPicture)
    anonymizer.attempts.run(picture.faces)
    assert picture.faces[0].latent is not None
    assert "=" not in repr([picture, *picture.faces]), "no field at all"
    (result,) = run(told, [task])
    for secret in ("encoded=", "sidecar=", "metrics="):
        assert secret not in repr([task, result])


@pytest.mark.parametrize("by_task", [True, False])
def test_a_permanent_picture_has_no_key(run: Run, by_task: bool) -> None:
    task = PictureTask("1", a_picture(1), permanent=by_task)
    (result,) = run(Told({1: [LEFT]}), [task], reversible=by_task)
    assert (result.status, result.faces) == ("anonymized", 1) and result.encoded is not None
    assert (result.sidecar, result.key, result.source_hmac) == (None, None, None)


def test_output_is_encoded_as_the_settings_say(run: Run, tmp_path: Path) -> None:
    for chosen, name in (("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")):
        (result,) = run(Told({1: [LEFT]}), tasks(1), output_format=chosen)
        assert result.encoded is not None and Image.open(BytesIO(result.encoded)).format == name

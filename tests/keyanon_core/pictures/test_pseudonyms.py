"""Pictures of one person under one pseudonym: whose face carries it, which carrier holds, and what comes back."""

import pickle
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from keyanon_core.errors import KeyanonError, WrongKeyError
from keyanon_core.faces import FaceModels
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.gate import AnonymityGate
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.opened import FaceAtWork
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask, chosen_sidecar_bits
from keyanon_core.priors import Prior
from keyanon_core.pseudonyms import EphemeralPseudonyms, Pseudonym, carrier_key
from tests.keyanon_core.pictures.photographs import pixels_of, settings

SUBJECT = "person 7"


class Told(EphemeralPseudonyms):
    """Whose secrets are known to a test, and which says that another has settled a carrier first."""

    def __init__(self, holds: int | None = None) -> None:
        super().__init__()
        self.holds, self.offered = holds, list[int]()

    def settle(self, subject: str, number: int) -> int:
        self.offered.append(number)
        return super().settle(subject, number if self.holds is None else self.holds)


def _anonymizer(
    prior: Prior, models: FaceModels, pseudonyms: EphemeralPseudonyms, **changes: object
) -> PictureAnonymizer:
    anonymizer = PictureAnonymizer(prior, models, settings(**{"payload_share": 0.2, "steps": 4, **changes}), pseudonyms)
    anonymizer.way_back.take_for_tried()
    return anonymizer


def _key(result: PictureResult) -> PictureKey:
    assert result.key is not None, result.reason
    return result.key


def _moved(encoded: bytes) -> bytes:
    """Another picture of the same person: turned, cut and darkened."""
    picture = Image.open(BytesIO(encoded)).convert("RGB").rotate(4, Image.Resampling.BICUBIC).crop((40, 10, 460, 430))
    buffer = BytesIO()
    picture.point([value * 9 // 10 for value in range(256)] * 3).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_face_that_its_sidecar_would_tell_gets_another_key(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sidecar holds is another face than the picture shows, and as public."""
    judged: list[int] = []

    def hopeless(gate: AnonymityGate, faces: list[FaceAtWork], crops: np.ndarray, margin: float) -> list[bool]:
        if margin:
            return [False] * len(faces)
        judged.extend(face.attempt for face in faces)
        return [face.attempt == 0 for face in faces]

    monkeypatch.setattr(AnonymityGate, "hopeless", hopeless)
    (result,) = _anonymizer(prior, models, Told())([PictureTask("1", astronaut, subject=SUBJECT)])
    assert judged[:2] == [0, 1] and _key(result).faces[0].attempt >= 1
    (result,) = PictureAnonymizer(prior, models, settings(steps=4))([PictureTask("1", astronaut)])
    assert result.status == "anonymized" and len(judged) == len(set(judged)), "without a carrier both are one"


def test_two_pictures_of_one_person_share_a_carrier_and_no_key_and_both_come_back(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    pseudonyms = Told()
    anonymizer = _anonymizer(prior, models, pseudonyms)
    sources = [astronaut, _moved(astronaut)]
    results = anonymizer([PictureTask(str(i), source, subject=SUBJECT) for i, source in enumerate(sources)])
    keys = [_key(result) for result in results]
    secret = pseudonyms.of(SUBJECT).secret
    assert {key.faces[0].carrier_key for key in keys} == {carrier_key(secret, 0)}
    assert pseudonyms.of(SUBJECT).number == 0
    assert len({key.image_key for key in keys}) == len({key.face_key(key.faces[0]) for key in keys}) == 2
    for source, result, key in zip(sources, results, keys, strict=True):
        assert key.payload_share == key.procedure.payload_share == 0.2
        assert result.encoded is not None
        assert result.sidecar is not None
        recoverer = PictureRecoverer(prior)
        recovered = recoverer.recover(result.encoded, result.sidecar, key)
        inside = key.faces[0].mask.full(recovered.pixels.shape)
        error = (recovered.pixels[inside].astype(float) - pixels_of(source)[inside]) / 255
        # The crop is smaller than the photograph's face: what is lost on the way to it and back is not the carrier's.
        assert np.square(error).mean() < 10**-2.5
        other = replace(key, faces=(replace(key.faces[0], carrier_key=carrier_key(secret, 1)),))
        with pytest.raises(WrongKeyError, match="its commitment differs"):
            recoverer.recover(result.encoded, result.sidecar, other)
    assert carrier_key(secret, 0).hex() not in repr(keys)


def test_another_data_set_gives_another_carrier_and_a_picture_of_nobody_none(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    first, second = (_anonymizer(prior, models, EphemeralPseudonyms()) for _ in range(2))
    (one,), (other, nobody) = (
        first([PictureTask("a", astronaut, subject=SUBJECT)]),
        second([PictureTask("a", astronaut, subject=SUBJECT), PictureTask("b", astronaut)]),
    )
    assert _key(one).faces[0].carrier_key != _key(other).faces[0].carrier_key
    assert (_key(nobody).faces[0].carrier_key, _key(nobody).payload_share) == (None, 1.0)


def test_who_comes_second_goes_over_to_the_carrier_that_holds(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    pseudonyms = Told(holds=5)
    (result,) = _anonymizer(prior, models, pseudonyms)([PictureTask("a", astronaut, subject=SUBJECT)])
    face = _key(result).faces[0]
    assert (pseudonyms.offered, face.attempt) == ([0], 1)
    assert face.carrier_key == carrier_key(pseudonyms.of(SUBJECT).secret, 5)


def test_a_settled_carrier_stays_whatever_the_gate_says_and_an_unsettled_one_is_chosen_by_it(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    never = {"gate_threshold": 2.0, "max_attempts": 3, "steps": 4}
    pseudonyms = Told()
    turned_back = _anonymizer(prior, models, pseudonyms, **never)
    (result,) = turned_back([PictureTask("a", astronaut, subject=SUBJECT)])
    assert result.reason.startswith("still_recognizable")
    assert pseudonyms.offered == []  # none that did not pass
    pseudonyms.settle(SUBJECT, 9)
    tried: list[bytes | None] = []
    begin = turned_back.attempts._begin
    turned_back.attempts._begin = lambda batch: (tried.extend(f.carrier_key for f in batch), begin(batch))[1]  # type: ignore[method-assign]
    (result,) = turned_back([PictureTask("a", astronaut, subject=SUBJECT)])
    assert result.reason.endswith("under 3 keys on its subject's settled carrier")
    assert tried == [carrier_key(pseudonyms.of(SUBJECT).secret, 9)] * 3


def test_no_answer_about_a_subject_is_no_verdict_on_its_picture(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(subject: str) -> Pseudonym:
        raise KeyanonError("nobody answers")

    pseudonyms = EphemeralPseudonyms()
    monkeypatch.setattr(pseudonyms, "of", away)
    with pytest.raises(KeyanonError, match="nobody answers"):
        _anonymizer(prior, models, pseudonyms)([PictureTask("a", astronaut, subject=SUBJECT)])


def test_the_largest_face_carries_the_pseudonym(prior: Prior, models: FaceModels, group: bytes) -> None:
    (result,) = _anonymizer(prior, models, EphemeralPseudonyms())([PictureTask("g", group, subject=SUBJECT)])
    faces = _key(result).faces
    largest = max(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))
    assert [face for face in faces if face.carrier_key is not None] == [largest]
    assert len(faces) == 4


def test_settings_that_would_not_keep_a_face_are_refused(prior: Prior, models: FaceModels) -> None:
    for fidelity in ("image", "auto"):
        with pytest.raises(KeyanonError, match="rides on a carrier"):
            AnonymizeSettings(payload_share=0.2, fidelity=fidelity, output_format="png")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="go together"):
        PictureAnonymizer(prior, models, settings(payload_share=0.2))
    with pytest.raises(ValueError, match="go together"):
        PictureAnonymizer(prior, models, settings(), EphemeralPseudonyms())


def test_what_rides_is_stored_finer() -> None:
    assert AnonymizeSettings().sidecar_bits == 11.5
    assert AnonymizeSettings(payload_share=0.25).sidecar_bits == chosen_sidecar_bits(0.25) == 13.5
    assert AnonymizeSettings(payload_share=0.25, sidecar_bits=10).sidecar_bits == 10
    assert chosen_sidecar_bits(0.05) <= 16


def test_secrets_show_nowhere() -> None:
    assert repr(Pseudonym(b"s" * 32, 3)).startswith("<")
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(EphemeralPseudonyms())

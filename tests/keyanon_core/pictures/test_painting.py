"""What is painted over in a piece of a clip: nothing of it is published, in no form, and nothing of it comes back.

A picture whose faces have subjects of their own is worked on as a piece of one frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import cycle

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from keyanon_core.faces import FaceModels, PictureMask
from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures import anonymizer
from keyanon_core.pictures.anonymizer import MAX_PAINTED_ROUNDS, MAX_ROUNDS, REMADE_ROUNDS, PictureAnonymizer
from keyanon_core.pictures.opened import OpenedPicture
from keyanon_core.pictures.own_faces import OwnFaces
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import PictureResult, PictureTask
from keyanon_core.priors import Prior, load_prior
from keyanon_core.sidecar import Sidecar, decode_surroundings
from tests.keyanon_core.diffusion.tiny_priors import pixel_prior
from tests.keyanon_core.pictures.photographs import settings
from tests.keyanon_core.pictures.told_models import LEFT, RIGHT, Told, face_at

CUT = face_at(76, -53, side=110)  # above LEFT: two rows of it are seen, too little for a key
MAGENTA = (255, 0, 255)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_prior(pixel_prior(tmp_path_factory.mktemp("tiny"), "inpaint"))


def grey_picture(kind: str = "PNG", others: Sequence[Face] = ()) -> bytes:
    """300 x 200 px, grey but for LEFT, RIGHT and others, which are of noise, and what is seen of CUT, which is magenta."""
    pixels = np.full((200, 300, 3), 120, np.uint8)
    pixels[:16, :16] = 1
    for face in (LEFT, RIGHT, *others):
        x0, y0, x1, y1 = map(int, face.box)
        pixels[y0:y1, x0:x1] = np.random.default_rng(3).integers(0, 256, (y1 - y0, x1 - x0, 3))
    pixels[:2, 21:131] = MAGENTA
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def made(prior: Prior, told: Told, faces: list[Face], encoded: bytes | None = None, **changes: object) -> PictureResult:
    chosen = settings(**{"steps": 1, "fidelity": "lossless", **changes})
    task = PictureTask(
        "1", encoded or grey_picture(), faces, subjects=[str(at) for at in range(len(faces))], is_part=True
    )
    (result,) = PictureAnonymizer(prior, FaceModels(told, told, told), chosen)([task])
    assert result.status == "anonymized", result.reason
    return result


def magenta(pixels: npt.NDArray[np.generic]) -> float:
    """How much of it there is, in grey levels."""
    values = pixels.astype(float)
    return float((np.minimum(values[..., 0], values[..., 2]) - values[..., 1]).max())


@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "found afterwards"])
def test_what_a_painted_face_hid_is_in_nobodys_surroundings(prior: Prior, tracked: bool) -> None:
    told = Told(again={1: [[]] if tracked else [[CUT], []]})
    result = made(prior, told, [LEFT, CUT] if tracked else [LEFT])
    assert result.faces == 1 and result.encoded is not None and result.sidecar is not None and result.key is not None
    (face,) = Sidecar.from_bytes(result.sidecar).faces
    assert face.surroundings is not None
    assert magenta(decode_picture(result.encoded)[:5, 16:140]) < 30
    assert magenta((decode_surroundings(face.surroundings, prior.side).transpose(1, 2, 0) + 1) * 127.5) < 30
    back = PictureRecoverer(None).recover(result.encoded, result.sidecar, result.key).pixels
    source = decode_picture(grey_picture())
    assert np.array_equal(back[30:70, 30:70], source[30:70, 30:70]) and magenta(back[:5, 16:140]) < 30


def test_a_piece_is_held_still_before_it_is_published(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[tuple[bytes, list[bool]]] = []

    def holding(picture: OpenedPicture, _: OwnFaces | None) -> None:
        before.append((picture.encoded, [one.first is not None for one in picture.seams.values()]))

    monkeypatch.setattr(anonymizer, "hold_still", holding)
    made(prior, Told(), [LEFT])
    assert before == [(b"", [True])], "and what its neighbours begin or end with is known"


def test_in_the_last_round_whatever_is_found_is_painted(prior: Prior) -> None:
    others = [face_at(150, 50), face_at(250, 50), face_at(150, 150)]
    told = Told(again={1: [[face] for face in others] + [[]]})
    result = made(prior, told, [LEFT])
    assert result.faces == 3, "of three found one after the other the third is painted"
    assert result.encoded is not None
    assert (decode_picture(result.encoded)[132:168, 132:168] == 120).all()


class UpperHalf(Told):
    """A parser that outlines of faces no more than the upper half."""

    def mask(self, pixels: Pixels, face: Face, regions: frozenset[str]) -> PictureMask:
        x0, y0, x1, y1 = face.box
        return super().mask(pixels, replace(face, box=(x0, y0, x1, (y0 + y1) / 2)), regions)


@pytest.mark.parametrize("rounds", [3, 4])
def test_what_is_found_again_where_it_was_painted_is_painted_by_its_box(prior: Prior, rounds: int) -> None:
    others = [face_at(250, 50), face_at(250, 150)]
    told = UpperHalf(again={1: [[face] for face in [*others, *[RIGHT] * (rounds - 2)]] + [[]]})
    result = made(prior, told, [LEFT])
    assert result.faces == 3 and result.encoded is not None
    shown = decode_picture(result.encoded)
    assert np.ptp(shown[30:50, 130:170], axis=(0, 1)).max() == 0
    assert (np.ptp(shown[50:70, 130:170], axis=(0, 1)).max() == 0) == (rounds == 4), "its outline first"


@pytest.mark.parametrize("doubtful, rounds", [("paint", MAX_PAINTED_ROUNDS), ("quarantine", MAX_ROUNDS)])
def test_a_piece_that_does_not_stop_showing_faces_is_quarantined(prior: Prior, doubtful: str, rounds: int) -> None:
    told = Told(again={1: [[face_at(20 + 25 * (at % 11), 20 + 60 * (at // 11), side=24)] for at in range(20)]})
    chosen = settings(steps=1, fidelity="lossless", doubtful=doubtful)
    task = PictureTask("1", grey_picture(), [LEFT], subjects=["0"], is_part=True)
    (result,) = PictureAnonymizer(prior, FaceModels(told, told, told), chosen)([task])
    assert result.status == "quarantined" and result.reason.startswith(f"unanonymized_face: after {rounds} rounds ")
    assert [search for search, _ in told.log] == ["look_again"] * rounds


@pytest.mark.parametrize("rounds, painted", [(REMADE_ROUNDS - 1, False), (REMADE_ROUNDS, True)])
def test_what_is_beside_painted_faces_is_painted_before_it_shows_others_for_ever(
    prior: Prior, rounds: int, painted: bool
) -> None:
    beside = [face_at(82 - 12 * at, 80, side=10) for at in range(rounds)]
    told = Told(again={1: [[face] for face in beside] + [[]]})
    result = made(prior, told, [LEFT, RIGHT], grey_picture(others=beside))
    assert [[face.mask.count > 0 for face in key.faces] for key in result.keys][:2] == [[not painted], [True]]
    assert result.encoded is not None
    shown = decode_picture(result.encoded)
    assert (np.ptp(shown[32:68, 32:68], axis=(0, 1)).max() == 0) == painted, "RIGHT is not beside them"


def test_a_face_of_which_another_leaves_too_little_is_painted_where_it_was_missed(prior: Prior) -> None:
    hidden = replace(RIGHT, landmarks=RIGHT.landmarks + np.array([0, 30]))  # below its box, all of which is RIGHT's
    told = Told(again={1: [[hidden], []]})
    result = made(prior, told, [LEFT, RIGHT])
    assert result.faces == 2 and result.encoded is not None and result.sidecar is not None
    back = PictureRecoverer(None).recover(result.encoded, result.sidecar, *result.keys).pixels
    assert np.ptp(back[30:70, 130:170], axis=(0, 1)).max() == 0, "nor does what it hid come back"


def test_a_face_that_nobody_outlines_is_painted_by_its_box(prior: Prior) -> None:
    told = Told(again={1: [[RIGHT], []]}, refused=[RIGHT])
    result = made(prior, told, [LEFT])
    assert result.faces == 1 and result.encoded is not None
    assert (decode_picture(result.encoded)[30:70, 130:170] == 120).all()


@dataclass
class Nearby(Told):
    """A recognizer that tells these distances, one after the other, of one face."""

    distances: Iterator[float] = field(default_factory=lambda: cycle([0.0]))

    def distance(self, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
        return next(self.distances)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("distances", [[0.0], [1.0, 0.0]], ids=["at once", "as its file shows it"])
def test_a_face_that_no_key_hides_is_painted_in_what_is_published_and_does_not_come_back(
    prior: Prior, kind: str, distances: list[float]
) -> None:
    if kind == "PNG" and len(distances) > 1:
        distances = [0.0]  # its file shows what was measured
    told = Nearby(again={1: [[]]}, distances=cycle(distances))
    result = made(prior, told, [RIGHT], grey_picture(kind), max_attempts=3, gate_threshold=0.9)
    assert result.encoded is not None and result.sidecar is not None and result.key is not None
    shown = decode_picture(result.encoded)[34:66, 134:166].astype(int)
    assert shown.std() < 4 and abs(shown.mean() - 120) < 25, "one colour, that of what is around"
    back = PictureRecoverer(None).recover(result.encoded, result.sidecar, result.key)
    assert np.array_equal(back.pixels, decode_picture(result.encoded)) and result.metrics == {}


def test_its_piece_is_quarantined_where_that_is_asked(prior: Prior) -> None:
    told = Nearby(again={1: [[]]})
    chosen = settings(steps=1, fidelity="lossless", max_attempts=3, gate_threshold=0.9, doubtful="quarantine")
    task = PictureTask("1", grey_picture(), [RIGHT], subjects=["0"], is_part=True)
    (result,) = PictureAnonymizer(prior, FaceModels(told, told, told), chosen)([task])
    assert result.status == "quarantined" and result.reason.startswith("still_recognizable: ")


class NearOnTheLeft(Told):
    """A recognizer to which what lies left of x = 170 px stays like its source."""

    def embed(self, views: Sequence[tuple[Pixels, Face]], *, coarse: bool = False) -> npt.NDArray[np.float32]:
        return np.array([[face.landmarks[:, 0].mean()] for _, face in views], np.float32)

    def distance(self, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
        return float(first[0] >= 170)


def test_a_painted_face_is_not_brought_back_with_its_neighbour(prior: Prior) -> None:
    """In a JPEG a face's recovery takes along the pixels beside it that encoding changed."""
    told = NearOnTheLeft(again={1: [[]]})
    result = made(prior, told, [RIGHT, face_at(192, 50)], grey_picture("JPEG"), max_attempts=1, gate_threshold=0.9)
    assert result.key is not None and result.encoded is not None and result.sidecar is not None
    assert [[face.mask.count > 0 for face in key.faces] for key in result.keys] == [[False], [True]]
    back = PictureRecoverer(None).recover(result.encoded, result.sidecar, *result.keys).pixels
    assert back[34:66, 134:166].astype(int).std() < 4


def test_a_part_of_a_clip_without_anybody_is_published_and_a_clip_without_is_not(prior: Prior) -> None:
    task = PictureTask("1", grey_picture(), [], subjects=[], is_part=True)
    told = Told(again={1: [[]]})
    chosen = settings(steps=1, fidelity="lossless")
    anonymizer = PictureAnonymizer(prior, FaceModels(told, told, told), chosen)
    (part,) = anonymizer([task])
    (alone,) = anonymizer([PictureTask("1", grey_picture(), [], subjects=[])])
    assert part.status == alone.status == "no_face" and part.encoded is not None and alone.encoded is None

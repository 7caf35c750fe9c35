"""Two pieces of a clip that are made apart from each other show the same where the one ends and the other begins."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from keyanon_core.clips.frames import Strip
from keyanon_core.errors import PictureError
from keyanon_core.faces.detection import Face
from keyanon_core.pictures.crops import align_faces
from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture, Seams
from keyanon_core.pictures.own_faces import OwnFaces
from keyanon_core.pictures.seams import Slide, seams_of, slides
from keyanon_core.pictures.settings import PictureTask
from keyanon_core.pictures.steady import hold_still
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keyanon_core.pseudonyms import Pseudonym
from tests.keyanon_core.pictures.told_models import StripOf, Told, face_at, plain_photograph

WIDTH, HEIGHT, FRAMES = 120, 100, 3
REGIONS = frozenset({"face"})
SECRET = b"s" * 32


def frame(number: int) -> npt.NDArray[np.uint8]:
    return np.asarray(plain_photograph(WIDTH, HEIGHT, 40 + number))


def piece(
    prior: Prior,
    begin: int,
    people: dict[str, list[Face]],
    following: dict[str, Face] | None = None,
    parser: Told | None = None,
) -> OpenedPicture:
    """Three frames from one on. people: where each is in them, the last ones of which they are in."""
    strip = Strip(np.concatenate([frame(begin + at) for at in range(FRAMES)]), HEIGHT, (0, 1, 2), frame(begin + FRAMES))
    at = [(FRAMES - len(faces) + n, name, face) for name, faces in people.items() for n, face in enumerate(faces)]
    faces = [face.moved(number * HEIGHT, number) for number, _, face in at]
    task = PictureTask("1", b"", faces, subjects=[name for _, name, _ in at], following=following or {})
    picture = OpenedPicture(task, strip.pixels, strip.pixels.copy(), StripOf(strip), "latent")
    parser = parser or Told()
    aligned = align_faces(strip.pixels, faces, parser, REGIONS, prior, frame_height=HEIGHT)
    for index, (one, (_, name, _)) in enumerate(zip(aligned, at, strict=True)):
        pseudonym = Pseudonym(SECRET, 0)
        picture.faces.append(FaceAtWork(one, index, picture, subject=name, pseudonym=pseudonym))
    picture.seams = seams_of(picture, parser, REGIONS, prior)
    return picture


@pytest.fixture(scope="module")
def own_faces(prior: Prior) -> OwnFaces:
    return OwnFaces(prior, Procedure(payload_share=0.2))


def test_a_piece_ends_with_the_crop_that_the_next_begins_with(prior: Prior) -> None:
    way = [face_at(50 + 2 * number, 50) for number in range(2 * FRAMES)]
    first = piece(prior, 0, {"a": way[:FRAMES]}, {"a": way[FRAMES]})
    second = piece(prior, FRAMES, {"a": way[FRAMES:]})
    end, begin = first.seams["a"].following, second.seams["a"].first
    assert end is not None and begin is not None and second.seams["a"].following is None
    assert np.array_equal(end.values, begin.values) and np.array_equal(end.mask, begin.mask)


def test_both_show_one_face_there_whatever_their_keys(prior: Prior, own_faces: OwnFaces) -> None:
    way = [face_at(50, 50)] * (2 * FRAMES)
    pieces = [piece(prior, 0, {"a": way[:FRAMES]}, {"a": way[FRAMES]}), piece(prior, FRAMES, {"a": way[FRAMES:]})]
    shades = iter(np.linspace(-0.6, 0.6, 2 * FRAMES))
    for picture in pieces:
        for face in picture.faces:
            face.shown = np.full((3, prior.side, prior.side), next(shades), np.float32)
        hold_still(picture, own_faces)
    shown = [picture.result[at * HEIGHT :][40:60, 40:60].astype(float) for picture in pieces for at in range(FRAMES)]
    steps = [float(np.abs(one - other).mean()) for one, other in pairwise(shown)]
    means = [np.full(3, 127.5 * (1 + np.linspace(-0.6, 0.6, 6)[part].mean())) for part in (slice(0, 3), slice(3, 6))]
    assert steps[FRAMES - 1] < 0.25 * np.abs(means[0] - means[1]).mean(), "apart they would be so far from each other"
    assert steps[FRAMES - 1] < 2 * max(steps[:2])


def test_who_comes_late_goes_or_is_elsewhere_has_a_seam_at_one_end_or_none(prior: Prior) -> None:
    here, there = face_at(35, 50, 30), face_at(90, 50, 30)
    picture = piece(
        prior,
        0,
        {"whole": [here] * FRAMES, "late": [there] * 1},
        {"whole": here.moved(60, 0), "late": there, "another": face_at(35, 15, 20)},
    )
    whole, late = picture.seams["whole"], picture.seams["late"]
    assert whole.first is not None and whole.following is None, "it is elsewhere: a cut"
    assert late.first is None and late.following is not None
    assert set(picture.seams) == {"whole", "late"}


def test_faces_that_can_not_be_outlined_after_a_piece_cost_it_nothing(prior: Prior) -> None:
    after = face_at(50, 50)
    picture = piece(prior, 0, {"a": [face_at(50, 50)] * FRAMES}, {"a": after}, Told(refused=[after]))
    assert picture.seams["a"].first is not None and picture.seams["a"].following is None
    with pytest.raises(PictureError):
        Told(refused=[after]).mask(frame(0), after, REGIONS)


def test_a_crop_slides_from_the_one_end_to_the_other() -> None:
    def end(value: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        inside = np.zeros((4, 4))
        inside[:, :2] = [1.0, 0.5]
        return np.full((3, 4, 4), value), inside

    crop = np.full((3, 4, 4), 0.2)
    both = Slide(end(-1.0), end(1.0))
    for share in (0.0, 0.25, 1.0):
        slid = both.slid(crop, share)
        assert slid[:, :, 0] == pytest.approx(2 * share - 1) and slid[:, :, 1] == pytest.approx(share - 0.4)
        assert (slid[:, :, 2:] == 0.2).all() and (crop == 0.2).all()
    for alone in (Slide(end(-1.0), None), Slide(None, end(-1.0))):
        for share in (0.0, 0.3, 1.0):
            assert alone.slid(crop, share)[:, :, 0] == pytest.approx(-1.0)
    assert np.array_equal(Slide(None, None).slid(crop, 0.5), crop)


def test_who_has_no_carrier_and_what_is_no_number_do_not_slide(
    prior: Prior, own_faces: OwnFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    seams = piece(prior, 0, {"a": [face_at(50, 50)] * FRAMES}).seams
    assert slides(seams, {}, own_faces) == {} == slides({"a": Seams(None, None)}, {"a": SECRET}, own_faces)
    assert slides(seams, {"a": SECRET}, own_faces)["a"].first is not None
    monkeypatch.setattr(OwnFaces, "among", lambda self, keys, crops, masks: np.full_like(crops, np.nan))
    (slide,) = slides(seams, {"a": SECRET}, own_faces).values()
    assert slide.first is None and slide.following is None

"""What is measured of a prior: crops in batches, time in turns, and figures out of outcomes that are written down by hand."""

import math

import numpy as np
import pytest

from keyanon_core.errors import ConvergenceError
from keyanon_core.evaluation import measure_crops, recovery
from keyanon_core.evaluation.faces import VIEW_SIDE, FaceMeasurer
from keyanon_core.evaluation.prior_quality import Outcome, Subject, distances_of, figures_of, try_prior
from keyanon_core.evaluation.timing import ROUNDS, milliseconds_per_evaluation
from keyanon_core.faces import Face, FaceModels, PictureMask
from keyanon_core.faces.detection import Pixels
from keyanon_core.imaging import encode_picture
from keyanon_core.pictures.crops import Crop
from keyanon_core.pictures.settings import AnonymizeSettings
from keyanon_core.priors import Prior, load_prior
from keyanon_core.procedure import Procedure
from keyanon_core.training.measures import EIGHT_BIT_RMS
from tests.keyanon_core.diffusion.tiny_priors import pixel_prior

SUBJECT = Subject(
    "a", b"", Face((0, 0, 1, 1), np.zeros((5, 2)), 1.0), PictureMask((0, 0, 1, 1), np.ones((1, 1), bool)), {}
)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_prior(pixel_prior(tmp_path_factory.mktemp("tiny"), "inpaint"))


def outcome(reason: str = "", **values: float) -> Outcome:
    return Outcome(SUBJECT, reason, values, {}, [])


def test_a_crop_that_can_not_be_solved_costs_no_other_its_figures(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.ones((16, 16), np.bool_)
    mask[:4] = False
    crops = [Crop(np.full((3, 16, 16), level), mask, np.zeros_like(mask)) for level in (0.1, 0.2, 0.3, 0.4, 0.5)]

    def failing(prior: Prior, crops: np.ndarray, masks: np.ndarray, procedure: Procedure) -> np.ndarray:
        if (crops == 0.2).any():
            raise ConvergenceError("0.2 is not solved")
        assert masks.shape == (len(crops), 16, 16)
        return crops[:, 0, 0, 0]

    monkeypatch.setattr(recovery, "measure_recovery", failing)
    measured = [(list(places), list(of)) for places, of in measure_crops(prior, crops, Procedure(steps=2), together=3)]
    assert measured == [([0], [0.1]), ([2], [0.3]), ([3, 4], [0.4, 0.5])]


def test_priors_take_turns_and_each_is_called_in_every_turn(prior: Prior) -> None:
    before = prior.nfe
    of_one = milliseconds_per_evaluation([prior, prior], faces=2, seconds=0)
    assert len(of_one) == 2 and min(of_one) > 0
    assert prior.nfe - before == 2 * ROUNDS * 2 * 2, "of 2 faces: one call that does not count, and one that does"


def test_figures_are_of_what_is_known_of_each_face() -> None:
    made = [
        outcome(**{"found": 1, "first key": 1, "identity distance": 0.8, "colour before": 2, "colour after": 3}),
        outcome(**{"found": 0, "first key": 0, "identity distance": 0.6, "colour before": 4, "colour after": 6}),
        outcome(**{"found": 1, "first key": 1, "identity distance": math.nan, "colour before": 12, "colour after": 15}),
        outcome("still_recognizable: no key passed", **{"first key": 0}),
        outcome("corrupt: cut", **{"sidecar": 60, "8 bits": 40, "rms of zT": 1}),
    ]
    figures = figures_of(made)
    known = {name: value for name, value in figures.items() if not math.isnan(value)}
    error = 2 / 10 ** (40 / 20) / EIGHT_BIT_RMS
    assert known == pytest.approx(
        {
            "faces": 5,
            "quarantined": 2,
            "found, share": 2 / 3,
            "first key passes, share": 1 / 2,
            "identity distance": 0.7,
            "identity distance, min": 0.6,
            "seam colour, ratio of medians": 1.5,
            "seam colour, ratio of means": 4 / 3,
            "recovered faces": 1,
            "from the sidecar, dB": 60,
            "from the sidecar, min dB": 60,
            "from 8 bits, dB": 40,
            "from 8 bits, min dB": 40,
            "gain": error,
            "gain, all faces together": error,
            "rms of zT": 1,
        }
    )
    assert all(map(math.isnan, distances_of(made).values())), "no vectors"


def test_distances_are_of_the_faces_that_have_vectors() -> None:
    sources = np.random.default_rng(1).standard_normal((6, 2)).astype(np.float32)
    seen = [Outcome(SUBJECT, "", {}, {"texture": (row, row + 1)}, []) for row in sources]
    found = distances_of([*seen, outcome("corrupt: cut")])
    assert found["Frechet, texture, all"] == pytest.approx(2, rel=1e-4)
    assert math.isnan(found["Frechet, identity, all"])


@pytest.mark.slow
def test_a_prior_is_tried_on_pictures_by_the_path_of_a_job(
    prior: Prior, models: FaceModels, astronaut: Pixels, hopper: Pixels, keys_drawn_alike: None
) -> None:
    settings = AnonymizeSettings(fidelity="lossless", output_format="png", steps=2)
    subjects = []
    for name, pixels in (("astronaut", astronaut), ("hopper", hopper)):
        (face,) = models.detector.detect(pixels)
        mask = models.parser.mask(pixels, face, settings.regions)
        subjects.append(Subject(name, encode_picture(pixels, "png"), face, mask, {}))
    trial = try_prior(prior, settings, subjects, FaceMeasurer(models), recovered=1)
    first, second = trial.outcomes
    assert [one.subject for one in trial.outcomes] == subjects and first.reason == second.reason == ""
    assert first.values["sidecar"] > first.values["8 bits"] > 20 and "sidecar" not in second.values
    assert min(one.values["identity distance"] for one in trial.outcomes) > 0.5
    assert [len(first.vectors[space][1]) for space in ("identity", "texture")] == [128, 192]
    assert {view.shape for one in trial.outcomes for view in one.views} == {(VIEW_SIDE, VIEW_SIDE, 3)}
    assert trial.unsolved == 0 and trial.most_iterations > 0 and prior.networks.physical_batch is None
    assert not math.isnan(figures_of(trial.outcomes)["seam step, ratio of means"])

"""The parts of a training: what is drawn, how a network begins, what is minimised, and what is published."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from keyanon_core.errors import KeyanonError, PriorError
from keyanon_core.faces.landmarks import MEAN_SHAPE
from keyanon_core.known_path import KnownPath
from keyanon_core.priors import Prior, load_prior
from keyanon_core.schedule import half_log_snr
from keyanon_core.training.bank import ABOUT_FILE, FaceBank, cut_face, sampling_weights
from keyanon_core.training.denoiser import as_prior, denoiser_from, new_denoiser
from keyanon_core.training.examples import MIRRORED_LANDMARKS, Examples, held_out_crops
from keyanon_core.training.measures import measure_inversion, sample_faces
from keyanon_core.training.memorisation import nearest_training_faces
from keyanon_core.training.objective import clean_crop, training_loss
from keyanon_core.training.publishing import write_prior
from keyanon_core.training.settings import PriorSettings
from tests.keyanon_core.training.tiny_bank import FACES, SIDE, settings, write_bank


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> FaceBank:
    return write_bank(tmp_path_factory.mktemp("bank"))


def network_of(prior: PriorSettings) -> torch.nn.Module:
    torch.manual_seed(0)
    return new_denoiser(prior).eval()


def test_an_example_depends_on_seed_step_and_slot_alone(bank):
    examples = Examples(bank, settings())
    whole = examples.batch(5, range(8))
    halves = [examples.batch(5, range(4)), Examples(bank, settings()).batch(5, range(4, 8))]
    for part in ("crops", "masks", "noise", "timesteps"):
        torch.testing.assert_close(
            getattr(whole, part), torch.cat([getattr(half, part) for half in halves]), rtol=0, atol=0
        )
    assert not torch.equal(whole.crops, examples.batch(6, range(8)).crops)
    assert not torch.equal(whole.noise[0], whole.noise[1])
    levels = half_log_snr(settings().prior.alpha_bar)
    walked = np.diff(levels[whole.timesteps].numpy())  # 8 noise levels, evenly over all there are
    np.testing.assert_allclose(walked[walked < 0], float(levels[-1] - levels[0]) / 8, atol=0.4)
    assert (walked < 0).sum() >= 6


def test_examples_are_faces_with_masks(bank):
    batch = Examples(bank, settings()).batch(0, range(8))
    assert batch.crops.shape == batch.noise.shape == (8, 3, SIDE, SIDE) and batch.masks.shape == (8, 1, SIDE, SIDE)
    assert batch.crops.dtype == torch.float32 and float(batch.crops.abs().max()) <= 1
    assert set(batch.masks.unique().tolist()) <= {0.0, 1.0}
    assert bool((batch.masks.sum((1, 2, 3)) > 0).all())
    assert Examples(bank, settings(conditioning="none")).batch(0, range(8)).masks.min() == 1


def test_a_held_out_face_is_never_drawn(tmp_path):
    bank = write_bank(tmp_path, held_out=FACES - 1)
    only = bank.faces[FACES - 1]
    colours = {tuple(int(v) for v in only[row, column]) for row, column in ((0, 0), (len(only) // 2, len(only) // 2))}
    still = replace(settings().augmentation, contrast=(1.0, 1.0), brightness=0.0, tint=0.0, grey=0.0)
    batch = Examples(bank, replace(settings(), augmentation=still)).batch(0, range(8))
    seen = np.rint((batch.crops[:, :, SIDE // 2, SIDE // 2].numpy() + 1) * 127.5)
    assert all(min(np.abs(pixel - colour).max() for colour in colours) <= 1 for pixel in seen)
    with pytest.raises(ValueError, match="held out"):
        Examples(write_bank(tmp_path / "none", held_out=FACES), settings())


def test_mirroring_swaps_the_sides_of_a_face():
    assert MIRRORED_LANDMARKS[MIRRORED_LANDMARKS].tolist() == list(range(68))
    mirrored = (MEAN_SHAPE * [-1, 1] + [1.002, 0])[MIRRORED_LANDMARKS]
    np.testing.assert_allclose(mirrored, MEAN_SHAPE, atol=0.02)


def test_a_face_is_cut_as_the_job_aligns_it(models, astronaut):
    prior = PriorSettings(side=64, space_to_depth=4)
    (face,) = models.detector.detect(astronaut)
    stored = cut_face(astronaut, face, models, models.parser._predictor, prior)
    assert stored.face.shape == (80, 80, 3) and stored.covered.all() and stored.chroma > 6
    eyes = stored.shape[36:48].reshape(2, 6, 2).mean(1)
    np.testing.assert_allclose(eyes, prior.bank_template[:2], atol=3)
    corner = cut_face(
        np.ascontiguousarray(astronaut[60:]),
        models.detector.detect(astronaut[60:])[0],
        models,
        models.parser._predictor,
        prior,
    )
    assert not corner.covered.all() and len({tuple(pixel) for pixel in corner.face[~corner.covered]}) == 1


def test_grey_blurred_and_common_faces_are_drawn_less():
    chroma, detail = np.array([20.0, 1.0, 20.0, 20.0, 20.0]), np.array([0.2, 0.2, 0.02, 0.2, 0.2])
    tone = np.array([50.0, np.nan, 50.0, 50.0, -10.0])
    weight = sampling_weights(chroma, detail, tone, colour=5.0, rare_tone=2.0)
    np.testing.assert_allclose(weight / weight[0], [1, 0.2, 0.01, 1, 2])


def test_a_damaged_bank_is_refused(tmp_path):
    write_bank(tmp_path)
    (tmp_path / ABOUT_FILE).write_bytes(b"no archive")
    with pytest.raises(KeyanonError, match="delete it and run again"):
        FaceBank.open(tmp_path)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(PriorError, match="does not fit"):
        new_denoiser(PriorSettings(side=30, space_to_depth=4))
    with pytest.raises(PriorError, match="multiples"):
        new_denoiser(PriorSettings(channels=(50,), attention_levels=0))


def test_a_network_for_larger_blocks_begins_where_the_smaller_one_was():
    """What the old network says of a crop, the new one says of the crop enlarged."""
    old, new = settings(prediction="sample").prior, settings(prediction="sample", side=2 * SIDE, space_to_depth=8).prior
    prior = as_prior(network_of(old), old, "old")
    wider = as_prior(denoiser_from(prior, new).eval(), new, "new")
    generator = torch.Generator().manual_seed(1)
    w, clean = torch.randn(2, 2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    mask = (torch.rand(2, 1, SIDE, SIDE, generator=generator) < 0.5).double()
    said = clean_of(prior, w * mask, clean * (1 - mask), mask, 500)
    enlarged = [
        torch.repeat_interleave(torch.repeat_interleave(x, 2, 2), 2, 3) for x in (w * mask, clean * (1 - mask), mask)
    ]
    expected = torch.repeat_interleave(torch.repeat_interleave(said, 2, 2), 2, 3)
    torch.testing.assert_close(clean_of(wider, *enlarged, 500), expected, atol=1e-4, rtol=0)


def clean_of(prior: Prior, w: torch.Tensor, clean: torch.Tensor, mask: torch.Tensor, t: int) -> torch.Tensor:
    """x0 inside the mask, out of the noise that a prior predicts."""
    ab = float(prior.alpha_bar[t])
    eps = prior.eps(w, t, KnownPath(clean, None, prior.alpha_bar, 0), mask)
    return mask * (w - (1 - ab) ** 0.5 * eps) / ab**0.5


def test_a_network_may_change_what_it_predicts_and_what_it_is_given():
    old = settings(prediction="sample", conditioning="none").prior
    prior = as_prior(network_of(old), old, "old")
    new = settings(prediction="v_prediction", conditioning="inpaint").prior
    changed = denoiser_from(prior, new).eval()
    crop = torch.randn(2, 3, SIDE, SIDE)
    shown = torch.nn.functional.pixel_unshuffle(crop, 4)
    more = torch.cat([shown, torch.randn(2, shown.shape[1] * 4 // 3, *shown.shape[2:])], 1)
    with torch.no_grad():
        torch.testing.assert_close(
            changed(more, 900).sample, -prior.networks.denoiser.network(shown, 900).sample, atol=1e-5, rtol=0
        )
    with pytest.raises(PriorError, match="do not fit"):
        denoiser_from(prior, replace(new, channels=(64,)))


def test_a_network_with_a_finer_level_keeps_the_inner_ones(tmp_path):
    old = settings(side=2 * SIDE, channels=(32, 64), prediction="sample").prior
    new = replace(old, space_to_depth=2, channels=(32, 32, 64))
    prior = as_prior(network_of(old), old, "old")
    grown = denoiser_from(prior, new).eval()
    known, weights = prior.networks.denoiser.network.state_dict(), grown.state_dict()
    kept = {name: weight for name, weight in weights.items() if "down_blocks.2." in name}
    assert kept
    for name, weight in kept.items():
        torch.testing.assert_close(weight, known[name.replace("down_blocks.2.", "down_blocks.1.")], rtol=0, atol=0)
    for name in (
        "mid_block.resnets.0.conv1.weight",
        "up_blocks.0.resnets.0.conv1.weight",
        "time_embedding.linear_2.weight",
    ):
        torch.testing.assert_close(weights[name], known[name], rtol=0, atol=0)
    write_prior(grown, new, tmp_path / "prior", "grown", "Apache-2.0")
    published = load_prior(tmp_path / "prior")
    assert published.latent_shape == prior.latent_shape
    further = denoiser_from(published, new).state_dict()  # a grown prior can be trained on
    assert all(
        torch.equal(further[name], weight) for name, weight in published.networks.denoiser.network.state_dict().items()
    )
    with pytest.raises(PriorError, match="do not fit"):
        denoiser_from(prior, replace(new, layers_per_block=2))
    with pytest.raises(PriorError, match="do not fit"):
        denoiser_from(prior, replace(new, channels=(32, 64, 64)))


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("conditioning", ["inpaint", "none"])
def test_the_prior_in_use_is_the_network_that_was_trained(bank, prediction, conditioning):
    chosen = settings(prediction=prediction, conditioning=conditioning)
    network = network_of(chosen.prior)
    batch = replace(Examples(bank, chosen).batch(1, range(2)), timesteps=torch.tensor([400, 400]))
    alpha_bar = chosen.prior.alpha_bar
    with torch.no_grad():
        trained = clean_crop(network, batch, alpha_bar, chosen).double() * batch.masks
    ab, mask = float(alpha_bar[400]), batch.masks.double()
    state = (ab**0.5 * batch.crops + (1 - ab) ** 0.5 * batch.noise).double() * mask
    used = clean_of(as_prior(network, chosen.prior, "p"), state, batch.crops.double() * (1 - mask), mask, 400)
    torch.testing.assert_close(used, trained, atol=1e-4, rtol=0)


def test_the_loss_is_the_error_inside_the_mask(bank):
    chosen = settings(prediction="sample")
    batch = Examples(bank, chosen).batch(0, range(8))

    class Oracle(torch.nn.Module):
        """Predicts the crop, and outside the mask nonsense."""

        def __init__(self, off: float) -> None:
            super().__init__()
            self.off = off

        def forward(self, shown, timesteps):
            wrong = batch.crops + self.off * batch.masks + 9 * (1 - batch.masks)
            return type("Out", (), {"sample": torch.nn.functional.pixel_unshuffle(wrong, 4)})

    alpha_bar = chosen.prior.alpha_bar
    assert float(training_loss(Oracle(0.0), batch, alpha_bar, chosen)) == 0
    snr = (alpha_bar / (1 - alpha_bar))[batch.timesteps]
    weights = (snr**0.4).clamp(0.2, 8.0)
    assert float(training_loss(Oracle(0.5), batch, alpha_bar, chosen)) == pytest.approx(0.25 * float(weights.mean()))


def test_steps_lower_the_loss(bank):
    chosen = settings()
    network = network_of(chosen.prior).train()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    examples = Examples(bank, chosen)
    losses = []
    for step in range(40):
        loss = training_loss(network, examples.batch(step, range(8)), chosen.prior.alpha_bar, chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-8:]) < 0.5 * np.mean(losses[:4])


def test_a_published_prior_is_the_network_and_replaces_the_one_before(tmp_path):
    chosen = settings().prior
    network, target = network_of(chosen), tmp_path / "prior"
    write_prior(network_of(replace(chosen, channels=(64,))), chosen, target, "old", "none")
    (target / "MODEL_CARD.md").write_text("a card")
    write_prior(network, chosen, target, "tiny", "Apache-2.0")
    loaded, mine = load_prior(target), as_prior(network, chosen, "tiny")
    assert (loaded.name, loaded.licence, loaded.side, loaded.grid_ends) == ("tiny", "Apache-2.0", SIDE, chosen.grid)
    np.testing.assert_allclose(loaded.alpha_bar, chosen.alpha_bar, rtol=1e-5)
    np.testing.assert_allclose(loaded.landmark_template, np.array(chosen.template) * SIDE)
    w, mask = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64), torch.ones(1, 1, SIDE, SIDE, dtype=torch.float64)
    path = KnownPath(torch.zeros_like(w), None, mine.alpha_bar, 0)
    torch.testing.assert_close(loaded.eps(w, 300, path, mask), mine.eps(w, 300, path, mask), atol=0.02, rtol=0)
    assert (target / "MODEL_CARD.md").read_text() == "a card"
    assert [entry.name for entry in tmp_path.iterdir()] == ["prior"]


def test_measures_of_held_out_faces(bank, keys_drawn_alike):
    chosen = settings().prior
    prior = as_prior(network_of(chosen), chosen, "tiny")
    crops, masks = held_out_crops(bank, SIDE, 5)
    assert crops.shape == (2, 3, SIDE, SIDE) and masks.shape == (2, SIDE, SIDE) and masks.any((1, 2)).all()
    measured = measure_inversion(prior, crops, masks)
    assert measured.recovered_db > 0 and measured.residual <= 3e-6 and measured.iterations >= 1
    assert measured.gain == pytest.approx(10 ** (-measured.recovered_db / 20) * 2 / (2 / 255 / 12**0.5), rel=0.5)
    assert sample_faces(prior, 2).shape == (2, 3, SIDE, SIDE)


def test_a_training_portrait_is_found_out(models, astronaut, hopper, tmp_path):
    from keyanon_core.training.bank import FaceBankWriter

    prior = PriorSettings(side=128)
    stored = [
        cut_face(p, models.detector.detect(p)[0], models, models.parser._predictor, prior) for p in (astronaut, hopper)
    ]
    with FaceBankWriter(tmp_path, prior.bank_side) as writer:
        for name, face in zip(("trained", "stranger"), stored, strict=True):
            writer.add(name, face)
        writer.close(np.array([1.0, 0.0]), np.array([False, True]))
    edge = (prior.bank_side - prior.side) // 2
    crops = np.stack([face.face[edge:-edge, edge:-edge].transpose(2, 0, 1) / 127.5 - 1.0 for face in stored])
    found = nearest_training_faces(crops, FaceBank.open(tmp_path), prior, models.recognizer)
    assert found.copies == 1 and found.distance[0] < 0.2 < 0.6 < found.distance[1]
    assert found.correlation[0] > 0.99 > 0.95 > found.correlation[1]

"""The methods on the kinds of prior they are for: what recovery gives back, what it costs, and what it does not depend on."""

import itertools
import re
from pathlib import Path

import pytest
import torch

from keyanon_core.errors import ConvergenceError
from keyanon_core.keys import KeyStream, subkey
from keyanon_core.known_path import KnownPath
from keyanon_core.methods import Anonymized, anonymize, exact, paper_inpaint, recover
from keyanon_core.methods.exact import TOLERANCES
from keyanon_core.priors import Prior, load_prior
from keyanon_core.procedure import SHOWN_NOISE, Procedure
from keyanon_core.schedule import ddim_coefficients, lambda_grid
from keyanon_core.solver import DEFAULT_MAX_ITERATIONS
from keyanon_core.transforms import apply_forward, masked_transforms
from tests.keyanon_core.diffusion.tiny_priors import (
    ROUGH,
    a_key,
    dit_prior,
    ellipse,
    kl_prior,
    ldm_prior,
    pixel_prior,
    psnr,
)

STEPS = 6
KINDS = ("pixel", "inpaint", "ldm", "kl", "dit")

BATCH_TOLERANCE = 1e-4
"""Largest difference of a face's latent in another batch: float32 kernels sum in another order for another batch.
It is far below the rounding of a float16 sidecar (5e-4 at 1), which recovery survives at more than 60 dB."""


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prior]:
    root = tmp_path_factory.mktemp("priors")
    torch.set_num_threads(1)
    makers = {"ldm": ldm_prior, "kl": kl_prior, "dit": dit_prior}
    made = {kind: load_prior(make(root / kind)) for kind, make in makers.items()}
    made["pixel"] = load_prior(pixel_prior(root / "pixel"))
    made["inpaint"] = load_prior(pixel_prior(root / "inpaint", "inpaint"))
    return made


def problem(prior: Prior, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[bytes]]:
    """Smooth latents, their known region, masks of different sizes, and keys."""
    c, h, w = prior.latent_shape
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randn(batch, c, 4, 4, generator=generator, dtype=torch.float64) * 0.5
    z = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear")
    mask = torch.cat([ellipse(h, 0.8 - 0.15 * (i % 3)) for i in range(batch)]).double()
    return z, z * (1 - mask), mask, [a_key(i) for i in range(batch)]


def of_paper(prior: Prior) -> str:
    """That of the paper's methods which is for a prior."""
    return "paper-inpaint" if prior.conditioning == "inpaint" else "paper"


def run(
    prior: Prior, method: str, transform: str, steps: int = STEPS, inversion: str = ""
) -> tuple[Anonymized, torch.Tensor, torch.Tensor]:
    z, known, mask, keys = problem(prior)
    done = anonymize(prior, z, known, mask, keys, Procedure(method, transform, inversion, steps))
    return done, z, mask


@pytest.mark.parametrize(("transform", "inversion"), [("sign", "ddim"), ("rotation", "ddim"), ("rotation", "none")])
@pytest.mark.parametrize("kind", KINDS)
def test_exact_recovers_every_kind_of_prior_to_float_precision(
    priors: dict[str, Prior], kind: str, transform: str, inversion: str
) -> None:
    prior = priors[kind]
    procedure = Procedure("exact", transform, inversion, STEPS)
    done, z, mask = run(prior, "exact", transform, inversion=inversion)
    before = prior.nfe
    again = recover(prior, done.latent, mask, [a_key(0), a_key(1)], done.scale, procedure)
    assert prior.nfe - before == sum(sum(step.per_face_iterations) for step in again.steps), "nothing beside the solver"
    assert again.nfe == max(map(sum, zip(*(step.per_face_iterations for step in again.steps), strict=True)))
    assert psnr(again.latent, z, mask) > (95 if inversion == "ddim" else 80)  # what the tolerances leave
    if inversion == "none":
        transforms = masked_transforms(transform, [a_key(0), a_key(1)], mask, z.shape[1])
        keyed, _ = apply_forward(z * mask, mask, transforms, prior.temperature * procedure.gain)
        assert again.keyed_noise is not None and psnr(again.keyed_noise, keyed, mask) > 60
    assert psnr(done.latent, z, mask) < 30
    assert torch.equal(again.latent * (1 - mask), z * (1 - mask))
    phases = ["phi"] * STEPS + (["psi"] * STEPS if inversion == "ddim" else [])
    assert [step.phase for step in again.steps] == phases
    first, last = TOLERANCES[inversion]
    allowed = torch.linspace(first, last, STEPS, dtype=torch.float64).tolist() * (2 if inversion == "ddim" else 1)
    assert all(step.residual <= most * (1 + 1e-9) for step, most in zip(again.steps, allowed, strict=True))
    assert all(step.iterations >= 1 for step in again.steps)


@pytest.mark.parametrize(
    ("method", "inversion", "nfe"), [("exact", "none", 12), ("exact", "ddim", 24), ("the paper's", "ddim", 24)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_anonymizing_costs_an_evaluation_a_step_and_leaves_the_known_region(
    priors: dict[str, Prior], kind: str, method: str, inversion: str, nfe: int
) -> None:
    prior = priors[kind]
    method = "exact" if method == "exact" else of_paper(prior)
    before = prior.nfe
    done, z, mask = run(prior, method, "rotation", steps=12, inversion=inversion)
    assert done.nfe == nfe
    assert prior.nfe - before == nfe * len(z)
    rounding = 1e-7 if method == "paper" else 1e-12  # it runs in float32
    assert torch.allclose(done.latent * (1 - mask), z * (1 - mask), rtol=0, atol=rounding)
    assert done.scale.shape == done.noise_rms.shape == (2,)
    gain = Procedure(method, inversion=inversion, steps=12).gain
    assert (gain > 1) == (inversion == "none")
    assert torch.allclose(done.scale * gain, done.noise_rms)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transform", ["sign", "rotation"])
def test_the_papers_methods_run_on_every_kind_and_recover_less_than_exact(
    priors: dict[str, Prior], kind: str, transform: str
) -> None:
    prior = priors[kind]
    done, z, mask = run(prior, of_paper(prior), transform)
    keys = [a_key(0), a_key(1)]
    again = recover(prior, done.latent, mask, keys, done.scale, Procedure(of_paper(prior), transform, steps=STEPS))
    assert bool(torch.isfinite(again.latent).all())
    assert again.nfe == 2 * STEPS and again.steps == []
    assert psnr(done.latent, z, mask) + 1 < psnr(again.latent, z, mask) < 100


def test_what_paper_was_before_is_its_equations_written_out(priors: dict[str, Prior]) -> None:
    """Eq. 5 up, Eq. 3 and 6 at the top, Eq. 4 down with Eq. 7 after each step, for one face, in plain loops. Of such faces there
    are records, on unconditional priors, too."""
    prior = priors["ldm"]
    z, known, mask, keys = (x[:1] for x in problem(prior))
    nothing = KnownPath(torch.zeros_like(z), None, prior.alpha_bar)
    grid = lambda_grid(prior.alpha_bar, 5)
    trail = [z]
    for s, t in itertools.pairwise(grid):
        k = ddim_coefficients(prior.alpha_bar, s, t)
        trail.append(k.a * trail[-1] + k.c * prior.eps(trail[-1], s, nothing, mask))
    inside = mask.expand_as(z) != 0
    x = trail[-1].clone()
    x[inside] *= torch.from_numpy(KeyStream(subkey(keys[0], "transform")).signs(int(inside.sum())))
    for i in range(5, 0, -1):
        k = ddim_coefficients(prior.alpha_bar, grid[i], grid[i - 1])
        x = k.a * x + k.c * prior.eps(x, grid[i], nothing, mask)
        x = mask * x + (1 - mask) * trail[i - 1]
    procedure = Procedure("paper-inpaint", "sign", steps=5)
    done = paper_inpaint.anonymize(prior, z, known, mask, keys, procedure)
    assert torch.allclose(done.latent, x, atol=1e-9)
    again = recover(prior, done.latent, mask, keys, done.scale, procedure)
    assert psnr(done.latent, z, mask) + 1 < psnr(again.latent, z, mask)


@pytest.mark.parametrize("kind", ["pixel", "inpaint"])
def test_exact_depends_on_nothing_that_recovery_does_not_hold(priors: dict[str, Prior], kind: str) -> None:
    """Pixels of z outside the mask, and of z_known inside it, are not looked at."""
    prior = priors[kind]
    z, known, mask, keys = problem(prior)
    done = anonymize(prior, z, known, mask, keys, Procedure(steps=4))
    other = anonymize(prior, z + (1 - mask) * 9, known + mask * 9, mask, keys, Procedure(steps=4))
    assert torch.equal(done.latent, other.latent)


@pytest.mark.parametrize("kind", ["pixel", "inpaint"])
def test_a_wrong_key_gives_another_face(priors: dict[str, Prior], kind: str) -> None:
    prior = priors[kind]
    done, z, mask = run(prior, "exact", "rotation")
    wrong = recover(prior, done.latent, mask, [a_key(8), a_key(9)], done.scale, Procedure(steps=STEPS), tolerance=1e-4)
    assert psnr(wrong.latent, z, mask) < psnr(done.latent, z, mask) + 3
    swapped = recover(
        prior, done.latent, mask, [a_key(1), a_key(0)], done.scale, Procedure(steps=STEPS), tolerance=1e-4
    )
    assert psnr(swapped.latent, z, mask) < 30


@pytest.mark.parametrize("kind", ["pixel", "inpaint"])
def test_a_face_does_not_depend_on_its_neighbours_or_its_place(priors: dict[str, Prior], kind: str) -> None:
    prior = priors[kind]
    z, known, mask, keys = problem(prior, 5)
    physical = prior.networks.physical_batch
    try:
        prior.networks.physical_batch = 4
        together = anonymize(prior, z, known, mask, keys, Procedure(steps=STEPS))
        order = [3, 0]
        apart = anonymize(prior, z[order], known[order], mask[order], [keys[i] for i in order], Procedure(steps=STEPS))
        assert float((together.latent[order] - apart.latent).abs().max()) < BATCH_TOLERANCE
        again = recover(prior, together.latent[3:4], mask[3:4], keys[3:4], together.scale[3:4], Procedure(steps=STEPS))
        assert psnr(again.latent, z[3:4], mask[3:4]) > 80
    finally:
        prior.networks.physical_batch = physical


def early_view(prior: Prior, keys: list[bytes]) -> torch.Tensor:
    """What the network is shown in the second of two steps up: the masked coordinates, and the known region's path.

    In the first step, at the clean end, the path has no noise; after the second the keyed transform comes.
    """
    z, known, mask, _ = problem(prior, len(keys))
    shown: list[torch.Tensor] = []
    hook = prior.networks.denoiser.network.register_forward_pre_hook(
        lambda module, inputs: shown.append(inputs[0].clone())
    )
    try:
        anonymize(prior, z, known, mask, keys, Procedure(inversion="ddim", steps=2))
    finally:
        hook.remove()
    return shown[1][: len(keys)]


@pytest.mark.parametrize("inversion", ["none", "ddim"])
@pytest.mark.parametrize("kind", ["pixel", "inpaint"])
def test_phi_walked_in_pieces_beside_others_is_phi_in_one(priors: dict[str, Prior], kind: str, inversion: str) -> None:
    prior = priors[kind]
    z, known, mask, keys = problem(prior, 3)
    whole = anonymize(prior, z, known, mask, keys, Procedure(inversion=inversion, steps=STEPS))
    walker = exact.begin(prior, z, known, mask, keys, Procedure(inversion=inversion, steps=STEPS)).advance(2)
    assert walker.taken == 2
    last, first = (walker.of(torch.tensor(faces)).advance(4) for faces in ([2], [0, 1]))
    walker = exact.Walker.together([last, first]).advance(STEPS)
    assert "tensor" not in repr(walker), "its noise may be the source"
    done = walker.finish(whole.nfe)
    for part in ("latent", "clean", "scale", "noise_rms"):
        difference = getattr(done, part) - getattr(whole, part)[[2, 0, 1]]
        assert float(difference.abs().max()) < BATCH_TOLERANCE
    assert (done.noise is None) == (whole.noise is None) == (kind == "pixel" or inversion == "none")
    with pytest.raises(ValueError, match="same step"):
        exact.Walker.together([last, walker])


def test_the_predicted_face_comes_nearer_to_the_end_with_each_step(priors: dict[str, Prior]) -> None:
    prior = priors["inpaint"]
    z, known, mask, keys = problem(prior)
    walker = exact.begin(prior, z, known, mask, keys, Procedure(steps=STEPS))
    whole = walker.advance(STEPS).finish(0)
    off = [float((walker.advance(taken).predicted - whole.clean).square().mean()) for taken in (0, 2, 4, STEPS)]
    assert off == sorted(off, reverse=True)
    assert off[-1] == 0
    outside = (walker.predicted - known) * (1 - mask)
    assert float(outside.abs().max()) < 1e-12


def test_known_noise_follows_the_key(priors: dict[str, Prior]) -> None:
    """The unconditional prior's surroundings are noised under each face's own key, and its masked part is not."""
    prior = priors["pixel"]
    _, _, mask, _ = problem(prior)
    outside = torch.nn.functional.pixel_unshuffle((1 - mask).expand(-1, 3, -1, -1), 2) != 0
    one, again, swapped, other = (
        early_view(prior, [a_key(i) for i in numbers]) for numbers in ((0, 1), (0, 1), (1, 0), (0, 8))
    )
    assert torch.equal(one, again)
    assert torch.equal(one[~outside], swapped[~outside]), "no key touches the masked coordinates before the transform"
    change = (one - other)[1][outside[1]]
    assert float((change != 0).double().mean()) > 0.99
    noise = (one - swapped)[0][outside[0]]  # the difference of two independent noises over one clean region
    assert float((noise != 0).double().mean()) > 0.99
    assert torch.equal(one[0], other[0]), "a face's noise does not depend on its neighbour's key"
    assert not torch.allclose(one[0][outside[0]], one[1][outside[0]])
    first, middle = (float(prior.alpha_bar[t]) for t in lambda_grid(prior.alpha_bar, 2)[:2])
    deviation = (2 * ((1 - middle) - middle / first * (1 - first))) ** 0.5
    assert float(noise.double().square().mean().sqrt()) == pytest.approx(deviation, rel=0.2)


def test_an_inpainting_prior_is_shown_the_known_region_without_noise(priors: dict[str, Prior]) -> None:
    assert torch.equal(*(early_view(priors["inpaint"], [a_key(i), a_key(i + 1)]) for i in (0, 5)))


@pytest.mark.parametrize("conditioning", ["none", "inpaint"])
def test_a_prior_that_can_not_be_inverted_says_so_with_the_numbers(tmp_path: Path, conditioning: str) -> None:
    """Anonymizing is explicit and works with any prior; only the way back tells."""
    prior = load_prior(pixel_prior(tmp_path, conditioning, output=ROUGH))
    done, _, mask = run(prior, "exact", "rotation")
    assert bool(torch.isfinite(done.latent).all())
    with pytest.raises(ConvergenceError) as error:
        recover(prior, done.latent, mask, [a_key(0), a_key(1)], done.scale, Procedure(steps=STEPS))
    assert re.search(
        rf"phi step from timestep \d+ to \d+ .*face\(s\) \[\d.*of {DEFAULT_MAX_ITERATIONS} .*tolerance [1-3]\.\de-05",
        str(error.value),
    )


def test_another_key_needs_the_noise_latent_only_once(priors: dict[str, Prior]) -> None:
    prior = priors["inpaint"]
    z, known, mask, _ = problem(prior)
    others = [a_key(8), a_key(9)]
    first, _, _ = run(prior, "exact", "rotation", inversion="ddim")
    procedure = Procedure(inversion="ddim", steps=STEPS)
    anew = anonymize(prior, z, known, mask, others, procedure)
    before = prior.nfe
    again = anonymize(prior, z, known, mask, others, procedure, noise=first.noise)
    assert (prior.nfe - before, again.nfe) == (len(z) * STEPS, STEPS)
    for part in ("latent", "clean", "scale", "noise_rms"):
        torch.testing.assert_close(getattr(again, part), getattr(anew, part), rtol=0, atol=0)
    assert "noise=" not in repr(first)


@pytest.mark.parametrize(
    ("kind", "method", "inversion"),
    [
        ("pixel", "exact", "ddim"),
        ("pixel", "paper", "ddim"),
        ("inpaint", "paper-inpaint", "ddim"),
        ("inpaint", "exact", "none"),
    ],
)
def test_noise_that_depends_on_the_key_or_is_the_source_does_not_serve_for_another(
    priors: dict[str, Prior], kind: str, method: str, inversion: str
) -> None:
    done, z, mask = run(priors[kind], method, "rotation", inversion=inversion)
    assert done.noise is None
    procedure = Procedure(method, inversion=inversion, steps=STEPS)
    with pytest.raises(ValueError, match="noise latent"):
        anonymize(priors[kind], z, z * (1 - mask), mask, [a_key(0), a_key(1)], procedure, noise=z * mask)


def test_a_step_that_can_not_be_solved_fails_with_numbers(priors: dict[str, Prior]) -> None:
    prior = priors["pixel"]
    done, _, mask = run(prior, "exact", "rotation")
    with pytest.raises(
        ConvergenceError, match=r"phi step from timestep \d+ to \d+ .*face\(s\) \[0, 1\].*\[2, 2\] of 2"
    ):
        recover(
            prior,
            done.latent,
            mask,
            [a_key(0), a_key(1)],
            done.scale,
            Procedure(steps=STEPS),
            tolerance=1e-12,
            max_iterations=2,
        )
    broken = done.latent.clone()
    broken[1] = float("nan")
    with pytest.raises(ConvergenceError, match=r"\[0, 1\].*nan"):
        recover(prior, broken, mask, [a_key(0), a_key(1)], done.scale, Procedure(steps=STEPS))


def test_arguments_that_do_not_fit_together_are_refused(priors: dict[str, Prior]) -> None:
    prior = priors["pixel"]
    z, known, mask, keys = problem(prior)
    with pytest.raises(ValueError, match="unknown method"):
        Procedure("magic")
    with pytest.raises(ValueError, match="unknown transform"):
        Procedure(transform="magic")
    with pytest.raises(ValueError, match="unknown inversion"):
        Procedure(inversion="magic")
    for grid in ((5, 3, 900), (-1, 3), (0, 3, 9)):
        with pytest.raises(ValueError, match="must rise"):
            Procedure(steps=1, grid=grid)
    with pytest.raises(ValueError, match="timestep 1000 is not in"):
        recover(prior, z, mask, keys, torch.ones(2), Procedure(grid=(0, 1000)))
    with pytest.raises(ValueError, match="1 face keys need"):
        anonymize(prior, z, known, mask, keys[:1])
    with pytest.raises(ValueError, match="zeros and ones"):
        anonymize(prior, z, known, mask * 0.5, keys)
    with pytest.raises(ValueError, match="empty"):
        anonymize(prior, z, known, mask * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1), keys, Procedure(steps=2))
    with pytest.raises(ValueError, match="too small for a rotation to hide"):
        few = torch.zeros_like(mask)
        few[:, :, :2, :2] = 1
        anonymize(prior, z, known, few, keys, Procedure(steps=2))
    with pytest.raises(ValueError, match="as many scales"):
        recover(prior, z, mask, keys, torch.ones(1))
    with pytest.raises(ValueError, match="1 face keys need"):
        recover(prior, z, mask, keys[:1], torch.ones(2))
    with pytest.raises(ValueError, match="zeros and ones"):
        recover(prior, z, mask * 0.5, keys, torch.ones(2))


def test_an_inpainting_network_is_shown_noisy_then_known_then_mask(tmp_path: Path) -> None:
    prior = load_prior(pixel_prior(tmp_path, "inpaint"))
    shown: list[torch.Tensor] = []
    prior.networks.denoiser.network.register_forward_pre_hook(lambda m, a: shown.append(a[0]))
    z, clean, mask, _ = problem(prior)
    w = torch.randn(z.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    eps = prior.eps(w, 400, KnownPath(clean, None, prior.alpha_bar), mask)
    unshuffle = torch.nn.functional.pixel_unshuffle
    noisy, known, area = shown[0].split([12, 12, 4], 1)
    assert torch.allclose(noisy, unshuffle(w * mask, 2).float())
    assert torch.allclose(known, unshuffle(z * (1 - mask), 2).float())
    assert torch.equal(area, unshuffle(mask, 2).float())
    assert bool((eps[mask.expand_as(eps) == 0] == 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_at_the_clean_end_is_what_the_procedure_says_and_comes_back(
    priors: dict[str, Prior], kind: str
) -> None:
    prior, z, known, mask, keys = priors[kind], *problem(priors[kind])
    of_schedule = anonymize(prior, z, known, mask, keys, Procedure(steps=STEPS))
    end = prior.alpha_bar[prior.grid(Procedure(steps=STEPS))[0]]
    same = Procedure(steps=STEPS, clean_noise=float(1 - end) ** 0.5)
    torch.testing.assert_close(anonymize(prior, z, known, mask, keys, same).latent, of_schedule.latent)
    shown = Procedure(steps=STEPS).shown()
    assert shown.clean_noise == SHOWN_NOISE < same.clean_noise
    less = anonymize(prior, z, known, mask, keys, shown)
    torch.testing.assert_close(
        less.clean, of_schedule.clean, rtol=0, atol=5e-3
    )  # the known path begins where the grid does
    grain, more = ((done.latent - done.clean).square().mean() for done in (less, of_schedule))
    assert grain < more
    again = recover(prior, less.latent, mask, keys, less.scale, shown)
    assert psnr(again.latent, z, mask) > 60


@pytest.mark.parametrize(
    "change", [{"clean_noise": 0.0}, {"clean_noise": 1.0}, {"clean_noise": 0.1, "inversion": "ddim"}]
)
def test_a_noise_at_the_clean_end_that_no_procedure_has_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="clean end"):
        Procedure(**change)  # type: ignore[arg-type]
    assert Procedure(inversion="ddim").shown() == Procedure(inversion="ddim")

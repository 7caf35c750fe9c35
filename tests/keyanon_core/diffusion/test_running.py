"""In which format networks multiply, and that nothing travels between the steps of a walk.

There is no GPU here: what would travel is seen on torch's fake tensors, which have a device and a shape and no values.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from keyanon_core.errors import DeviceError
from keyanon_core.known_path import KnownPath
from keyanon_core.methods import anonymize, recover
from keyanon_core.methods.exact import Walk, Walker
from keyanon_core.priors import Prior, load_prior
from keyanon_core.procedure import Procedure
from tests.keyanon_core.diffusion.tiny_priors import a_key, dit_prior, ellipse, ldm_prior, pixel_prior, psnr

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ldm_prior(tmp_path_factory.mktemp("ldm"))


Format = tuple[str, str, torch.dtype]  # of convolutions and of products, where they are float32, and of the weights


def flags() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.fixture
def formats() -> Iterator[dict[str, list[Format]]]:
    """What each call of a denoiser, an encoder or a decoder multiplied in."""
    seen: dict[str, list[Format]] = {"PlainUNet": [], "Encoder": [], "Decoder": []}

    def look(module: torch.nn.Module, _: Any) -> None:
        if (kind := type(module).__name__) in seen:
            seen[kind].append((*flags(), next(module.parameters()).dtype))

    hook = register_module_forward_pre_hook(look)
    yield seen
    hook.remove()


@pytest.fixture
def unchanged() -> Iterator[None]:
    before = flags(), torch.backends.cudnn.allow_tf32
    assert before[0][0] == "tf32", "torch's own default, which float32 has to switch off"
    yield
    assert (flags(), torch.backends.cudnn.allow_tf32) == before


STRICT: Format = ("ieee", "ieee", torch.float32)
TF32: Format = ("tf32", "tf32", torch.float32)
BFLOAT16: Format = ("ieee", "ieee", torch.bfloat16)


@pytest.mark.parametrize(
    ("precision", "coarse", "fine"),
    [("float32", STRICT, STRICT), ("tf32", TF32, TF32), ("bfloat16", BFLOAT16, STRICT)],
)
@pytest.mark.parametrize(
    ("procedure", "fine_before", "coarse_steps"),
    [
        (Procedure(steps=4), 0, 2),
        (Procedure(steps=5), 0, 2),
        (Procedure(steps=4, inversion="ddim"), 4, 0),
        (Procedure("paper", "sign", steps=3), 6, 0),
    ],
)
def test_the_steps_that_recovery_forgives_are_taken_in_the_precision_that_was_asked_for(
    unchanged: None,
    ldm: Path,
    formats: dict[str, list[Format]],
    precision: Any,
    coarse: Format,
    fine: Format,
    procedure: Procedure,
    fine_before: int,
    coarse_steps: int,
) -> None:
    prior = load_prior(ldm)
    prior.networks.precision = precision  # no machine without a GPU may ask for tf32
    steps = formats["PlainUNet"]
    crop = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, dtype=torch.float64) - 0.5, (32, 32), mode="bilinear")
    mask = prior.latent_mask(ellipse(32))
    z = prior.encode(crop)
    done = anonymize(prior, z, z * (1 - mask), mask, [a_key(1)], procedure)
    after = procedure.evaluations - fine_before - coarse_steps
    assert steps == [fine] * fine_before + [coarse] * coarse_steps + [fine] * after
    steps.clear()
    back = recover(prior, done.latent, mask, [a_key(1)], done.scale, procedure)
    prior.decode(back.latent)
    assert set(steps) == set(formats["Encoder"]) == set(formats["Decoder"]) == {STRICT}
    assert prior.networks.precision == precision


def test_what_was_made_in_bfloat16_comes_back_by_a_prior_that_knows_of_float32_alone(
    embedded: Prior, astronaut_face: torch.Tensor
) -> None:
    coarse = load_prior("embedded", precision="bfloat16")
    mask, keys = ellipse(128).double(), [a_key(3)]
    of_face = (astronaut_face, astronaut_face * (1 - mask), mask, keys)
    made = {prior.networks.precision: anonymize(prior, *of_face) for prior in (embedded, coarse)}
    apart = psnr(made["bfloat16"].latent, made["float32"].latent, mask)
    assert 40 < apart < 80, "half of it was computed in bfloat16"
    done = made["bfloat16"]
    backs = [recover(prior, done.latent, mask, keys, done.scale) for prior in (embedded, coarse)]
    assert torch.equal(backs[0].latent, backs[1].latent)
    assert psnr(backs[0].latent, astronaut_face, mask) > 60


@pytest.mark.parametrize(("asked", "named"), [("tf32", "no TF32"), ("float16", "unknown precision")])
def test_a_format_that_is_not_there_is_refused(ldm: Path, asked: str, named: str) -> None:
    with pytest.raises(DeviceError, match=named):
        load_prior(ldm, precision=asked)


def test_auto_takes_bfloat16_where_the_hardware_multiplies_it(ldm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr("keyanon_core.precision.multiplies_bfloat16", lambda device, has=has: has)
        assert load_prior(ldm, precision="auto").networks.precision == ("bfloat16" if has else "float32")


class Journeys(TorchDispatchMode):
    """Counts tensors that go from one device to another."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wanted = (kwargs or {}).get("device")
        if wanted is not None and args and isinstance(args[0], torch.Tensor):
            self.count += torch.device(wanted).type != args[0].device.type
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("conditioning", ["none", "inpaint"])
def test_a_walk_on_a_gpu_stays_there_from_its_first_step_to_its_last(tmp_path: Path, conditioning: str) -> None:
    prior = load_prior(pixel_prior(tmp_path, conditioning))
    shapes: list[torch.Size] = []

    def answer(_: torch.nn.Module, shown: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        assert shown.device.type == timesteps.device.type == "cuda"
        shapes.append(shown.shape)
        return shown[:, :12] * 0.1

    networks = prior.networks
    networks.denoiser, networks.device = replace(networks.denoiser, predict=answer), torch.device("cuda")
    networks.physical_batch = 4
    procedure = Procedure(grid=prior.grid(Procedure(steps=5)))
    numbers: Any = prior.alpha_bar.tolist()  # a fake tensor has no values to take coefficients from
    prior.alpha_bar, prior.schedule = numbers, replace(prior.schedule, alpha_bar=numbers)
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = torch.zeros(3, 3, 16, 16, dtype=torch.float64, device="cuda")
        mask = torch.ones(3, 1, 16, 16, dtype=torch.float64, device="cuda")
        walk = Walk.around(prior, state, mask, [a_key(i) for i in range(3)], procedure)
        scale = torch.ones(3, dtype=torch.float64)
        walker = Walker(walk, 0, state, state, scale, scale, None)
        with Journeys() as journeys:
            walker = walker.advance(3)
        assert journeys.count == 0
        walker = Walker.together([walker.of(torch.tensor([one])) for one in (2, 0)])
        with Journeys() as journeys:
            done = walker.advance(5).finish(5)
            prior.decode(done.latent)
        assert journeys.count == 0
    assert done.latent.device.type == "cuda" and done.latent.dtype == torch.float64
    assert len(shapes) == 5 and shapes[-1][0] == 2


def test_a_prepared_known_region_is_what_the_network_would_be_shown_anyway(tmp_path: Path) -> None:
    prior = load_prior(pixel_prior(tmp_path, "inpaint"))
    z, mask = torch.rand(3, 3, 16, 16, dtype=torch.float64) - 0.5, ellipse(16).double().expand(3, -1, -1, -1)
    known = KnownPath(z * (1 - mask), None, prior.alpha_bar)
    prepared = prior.shown(known, mask)
    assert torch.equal(prior.eps(z * mask, 300, prepared, mask), prior.eps(z * mask, 300, known, mask))
    some = torch.tensor([2, 0])
    expected = prior.eps((z * mask)[some], 300, known.of(some), mask[some])
    for chosen in (prepared.of(some), KnownPath.together([prepared.of(some[:1]), prepared.of(some[1:])])):
        assert chosen.shown is not None
        assert torch.equal(prior.eps((z * mask)[some], 300, chosen, mask[some]), expected)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_a_compiled_denoiser_says_the_same_and_recovery_does_without_it(tmp_path: Path) -> None:
    dit_prior(tmp_path)  # of all kinds the one that compiles fastest
    plain, compiled = load_prior(tmp_path), load_prior(tmp_path)
    compiled.networks.compile(compiled.latent_shape)
    assert compiled.networks.is_compiled and not plain.networks.is_compiled
    mask, keys = ellipse(16).double(), [a_key(1)]
    z = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    made = [anonymize(prior, z, z * (1 - mask), mask, keys) for prior in (plain, compiled)]
    assert torch.allclose(made[0].latent, made[1].latent, atol=1e-4)
    assert not torch.equal(made[0].latent, made[1].latent), "it was compiled"
    backs = [recover(prior, made[1].latent, mask, keys, made[1].scale) for prior in (plain, compiled)]
    assert torch.equal(backs[0].latent, backs[1].latent)
    assert psnr(backs[0].latent, z, mask) > 80


def test_where_nothing_can_be_compiled_a_run_ends_before_its_first_face(
    ldm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **_: fails)
    prior = load_prior(ldm)
    with pytest.raises(DeviceError, match="can not be compiled"):
        prior.networks.compile(prior.latent_shape)

"""What is loaded as a prior, and everything that is refused, each with the file and the remedy in its message."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel, VQModel
from safetensors.torch import load_file, save_file

from keyanon_core.errors import PriorError
from keyanon_core.known_path import KnownPath
from keyanon_core.priors import Prior, load_prior
from keyanon_core.priors.declaration import Declaration, parse_declaration
from keyanon_core.priors.schedules import read_schedule
from tests.keyanon_core.diffusion.tiny_priors import (
    SCHEDULER,
    declare,
    dit_prior,
    kl_prior,
    ldm_prior,
    pixel_prior,
    save,
    scheduler,
    write_json,
)  # fmt: skip

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("priors")
    pixel_prior(root / "pixel")
    ldm_prior(root / "ldm")
    kl_prior(root / "kl")
    dit_prior(root / "dit")
    return root


@pytest.fixture
def pixel(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "pixel", tmp_path / "prior"))


@pytest.fixture
def ldm(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "ldm", tmp_path / "prior"))


def whole(prior: Prior, value: float = 0.3) -> tuple[torch.Tensor, KnownPath, torch.Tensor]:
    c, h, w = prior.latent_shape
    z = torch.full((2, c, h, w), value, dtype=torch.float64) + torch.linspace(0, 1, w, dtype=torch.float64)
    return z, KnownPath(torch.zeros_like(z), None, prior.alpha_bar), torch.ones(2, 1, h, w, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "side", "latent"),
    [("pixel", 16, (3, 16, 16)), ("ldm", 32, (3, 8, 8)), ("kl", 16, (4, 8, 8)), ("dit", 16, (3, 16, 16))],
)
def test_each_kind_loads_encodes_predicts_and_decodes(
    made: Path, kind: str, side: int, latent: tuple[int, ...]
) -> None:
    prior = load_prior(made / kind)
    assert (prior.side, prior.latent_shape) == (side, latent)
    crop = torch.zeros(2, 3, side, side, dtype=torch.float64)
    z = prior.encode(crop)
    assert z.shape == (2, *latent) and z.dtype == torch.float64
    eps = prior.eps(z, 500, KnownPath(torch.zeros_like(z), None, prior.alpha_bar), torch.ones_like(z[:, :1]))
    assert eps.shape == z.shape and eps.dtype == torch.float64 and bool(torch.isfinite(eps).all())
    assert prior.decode(z).shape == crop.shape
    assert prior.nfe == 2
    assert prior.landmark_template.shape == (5, 2)


def test_digest_names_every_file_that_is_read(ldm: Path) -> None:
    prior = load_prior(ldm)
    expected = {
        str(path.relative_to(ldm)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in ldm.rglob("*")
        if path.is_file()
    }
    assert prior.files == expected
    scheduler(ldm, beta_end=0.0196, prediction_type="epsilon")
    assert load_prior(ldm).digest != prior.digest


def test_half_precision_files_are_computed_in_float32(pixel: Path) -> None:
    path = pixel / "unet" / WEIGHTS
    save_file({k: v.half() for k, v in load_file(path).items()}, path)
    prior = load_prior(pixel)
    assert next(prior.networks.denoiser.network.parameters()).dtype == torch.float32


def test_vq_latents_are_not_scaled_by_the_default_of_another_model(made: Path) -> None:
    prior = load_prior(made / "ldm")
    assert prior.networks.autoencoder is not None
    network: Any = prior.networks.autoencoder.network
    assert network.config.scaling_factor == 0.18215  # the trap is set
    crop = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = network.encode(crop.float()).latents.double()
    assert torch.allclose(prior.encode(crop), expected, atol=1e-6)


def test_vq_decoding_does_not_quantise(made: Path) -> None:
    prior = load_prior(made / "ldm")
    assert prior.networks.autoencoder is not None
    network: Any = prior.networks.autoencoder.network
    z = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        plain = network.decode(z.float(), force_not_quantize=True).sample.double()
        snapped = network.decode(z.float()).sample.double()
    assert not torch.allclose(plain, snapped, atol=1e-3)  # the trap is set
    assert torch.allclose(prior.decode(z), plain, atol=1e-6)


def test_kl_latents_are_the_mode_scaled_by_the_configuration(made: Path) -> None:
    prior = load_prior(made / "kl")
    assert prior.networks.autoencoder is not None
    network: Any = prior.networks.autoencoder.network
    crop = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        mode = network.encode(crop.float()).latent_dist.mode().double()
    assert torch.allclose(prior.encode(crop), 0.5 * mode, atol=1e-6)
    assert torch.equal(prior.encode(crop), prior.encode(crop))


def test_dit_is_asked_for_its_null_class(made: Path) -> None:
    prior = load_prior(made / "dit")
    seen: dict[str, torch.Tensor] = {}
    prior.networks.denoiser.network.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    z, known, mask = whole(prior)
    prior.eps(z, 999, known, mask)
    assert seen["class_labels"].tolist() == [5, 5]
    assert seen["timestep"].tolist() == [999, 999]


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_eps_follows_from_each_prediction_type(pixel: Path, prediction: str) -> None:
    scheduler(pixel, prediction_type=prediction)
    declare(pixel, crop_side=16, space_to_depth=2)
    prior = load_prior(pixel)
    z, known, mask = whole(prior)
    ab = float(prior.alpha_bar[300])
    with torch.no_grad():
        shown = torch.nn.functional.pixel_unshuffle(z, 2).float()
        raw = torch.nn.functional.pixel_shuffle(prior.networks.denoiser(shown, torch.full((2,), 300)), 2).double()
    expected = {
        "epsilon": raw,
        "sample": (z - ab**0.5 * raw) / (1 - ab) ** 0.5,
        "v_prediction": ab**0.5 * raw + (1 - ab) ** 0.5 * z,
    }[prediction]
    assert torch.allclose(prior.eps(z, 300, known, mask), expected, atol=1e-5)


def test_timesteps_stay_whole_numbers_whatever_the_network_computes_in(pixel: Path) -> None:
    prior = load_prior(pixel, precision="bfloat16")
    seen: list[torch.Tensor] = []
    prior.networks.denoiser.network.register_forward_pre_hook(lambda m, a: seen.append(a[1]))
    z, known, mask = whole(prior)
    prior.eps(z, 999, known, mask)
    assert seen[0].dtype == torch.long and seen[0].tolist() == [999, 999]


def test_masks_of_a_latent_prior_mark_every_cell_a_masked_pixel_touches(made: Path) -> None:
    prior = load_prior(made / "ldm")
    crop_mask = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    crop_mask[0, 0, 7, 8] = True
    assert prior.latent_mask(crop_mask).nonzero().tolist() == [[0, 0, 1, 2]]


def test_a_padded_batch_has_few_physical_sizes_and_the_same_results(made: Path) -> None:
    prior = load_prior(made / "ldm")
    sizes: list[int] = []
    prior.networks.denoiser.network.register_forward_pre_hook(lambda m, a: sizes.append(len(a[0])))
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64)
    known, mask = KnownPath(torch.zeros_like(z), None, prior.alpha_bar), torch.ones(5, 1, 8, 8, dtype=torch.float64)
    as_given = prior.eps(z, 10, known, mask)
    prior.networks.physical_batch = 4
    assert torch.allclose(prior.eps(z, 10, known, mask), as_given, atol=1e-5)
    assert torch.allclose(prior.eps(z[:3], 10, known.of(torch.arange(3)), mask[:3]), as_given[:3], atol=1e-5)
    assert sizes == [5, 4, 1, 4]
    assert prior.nfe == 13


def test_template_defaults_to_ffhq_and_may_be_declared(pixel: Path) -> None:
    template = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]
    declare(pixel, crop_side=16, space_to_depth=2, landmark_template=template, name="mine")
    prior = load_prior(pixel)
    assert np.allclose(prior.landmark_template, np.array(template) * 16)
    assert prior.name == "mine"
    declare(pixel, crop_side=16, space_to_depth=2)
    assert np.allclose(load_prior(pixel).landmark_template[0], [192.98 / 32, 239.95 / 32])


def test_a_declaration_is_written_as_it_is_read() -> None:
    template = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    whole = Declaration("mine", "MIT", 16, 2, "inpaint", template, 0.5, (1, 99), 0.75, {"none": 3, "ddim": 8})
    for declared in (whole, Declaration()):
        read = parse_declaration(json.loads(json.dumps(declared.to_json())), "here")
        assert np.array_equal(read.landmark_template, declared.landmark_template)
        assert replace(read, landmark_template=template) == replace(declared, landmark_template=template)


def test_attention_names_of_old_checkpoints_are_understood(ldm: Path) -> None:
    z, known, mask = whole(load_prior(ldm))
    expected = load_prior(ldm).eps(z, 10, known, mask)
    for folder in ("unet", "vqvae"):
        path = ldm / folder / WEIGHTS
        old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        renamed = {}
        for key, tensor in load_file(path).items():
            for new, name in old.items():
                key = key.replace(new, name)
            renamed[key] = tensor
        assert any(".proj_attn." in key for key in renamed)
        save_file(renamed, path)
    assert torch.equal(load_prior(ldm).eps(z, 10, known, mask), expected)


def test_a_flat_directory_and_sharded_weights_load(pixel: Path) -> None:
    z, known, mask = whole(load_prior(pixel))
    expected = load_prior(pixel).eps(z, 10, known, mask)
    tensors = load_file(pixel / "unet" / WEIGHTS)
    half = dict(list(tensors.items())[::2])
    rest = {k: v for k, v in tensors.items() if k not in half}
    save_file(half, pixel / "unet" / "part-1.safetensors")
    save_file(rest, pixel / "unet" / "part-2.safetensors")
    names = dict.fromkeys(half, "part-1.safetensors") | dict.fromkeys(rest, "part-2.safetensors")
    write_json(pixel / "unet" / f"{WEIGHTS}.index.json", {"weight_map": names})
    (pixel / "unet" / WEIGHTS).unlink()
    for path in (pixel / "unet").iterdir():
        path.rename(pixel / path.name)
    (pixel / "unet").rmdir()
    assert torch.equal(load_prior(pixel).eps(z, 10, known, mask), expected)


# What is refused


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_pickled_weights_are_refused_and_never_opened(pixel: Path) -> None:
    (pixel / "unet" / WEIGHTS).rename(pixel / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(PriorError, match=r"diffusion_pytorch_model\.bin: pickled.*convert"):
        load_prior(pixel)
    for name in ("model.ckpt", "model.pt", "model.pth"):
        for old in (pixel / "unet").glob("*model.*"):
            old.rename(pixel / "unet" / name)
        with pytest.raises(PriorError, match=f"{name}: pickled"):
            load_prior(pixel)


def test_unknown_classes_are_refused(pixel: Path) -> None:
    edit(pixel / "unet" / "config.json", _class_name="UNet2DConditionModel")
    with pytest.raises(PriorError, match=r"config\.json: class 'UNet2DConditionModel'"):
        load_prior(pixel)


@pytest.mark.parametrize("component", ["safety_checker", "../outside", "/etc", "a/b", ".."])
def test_components_that_are_unknown_or_outside_are_refused(ldm: Path, component: str) -> None:
    name = "SafetyChecker" if component == "safety_checker" else "UNet2DModel"
    edit(ldm / "model_index.json", **{component: ["somewhere", name]})
    with pytest.raises(PriorError, match=r"model_index\.json: component"):
        load_prior(ldm)


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/x.safetensors", "weights.bin"])
def test_shards_outside_or_of_another_format_are_refused(pixel: Path, name: str) -> None:
    (pixel / "unet" / WEIGHTS).unlink()
    write_json(pixel / "unet" / f"{WEIGHTS}.index.json", {"weight_map": {"conv_in.weight": name}})
    with pytest.raises(PriorError, match="not a safetensors file in this folder"):
        load_prior(pixel)


def test_weights_that_do_not_fit_the_configuration_are_refused(pixel: Path) -> None:
    path = pixel / "unet" / WEIGHTS
    good = load_file(path)
    save_file({k: v for k, v in good.items() if k != "conv_in.bias"}, path)
    with pytest.raises(PriorError, match=r"missing, the first is conv_in\.bias"):
        load_prior(pixel)
    save_file({**good, "extra": torch.zeros(1)}, path)
    with pytest.raises(PriorError, match="not in the network, the first is extra"):
        load_prior(pixel)
    save_file({**good, "conv_in.bias": torch.zeros(3)}, path)
    with pytest.raises(PriorError, match=r"of another shape, the first is conv_in\.bias"):
        load_prior(pixel)


def test_damaged_weights_are_refused(pixel: Path) -> None:
    path = pixel / "unet" / WEIGHTS
    good = load_file(path)
    damaged = good["conv_in.bias"].clone()
    damaged[0] = float("nan")
    save_file({**good, "conv_in.bias": damaged}, path)
    with pytest.raises(PriorError, match=r"conv_in\.bias holds values that are not finite"):
        load_prior(pixel)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PriorError, match="not a safetensors file"):
        load_prior(pixel)
    path.unlink()
    with pytest.raises(PriorError, match=f"0 safetensors files, expected {WEIGHTS}"):
        load_prior(pixel)


@pytest.mark.parametrize(
    ("said", "clean"), [({}, 1.0), ({"set_alpha_to_one": True}, 1.0), ({"set_alpha_to_one": False}, None)]
)
def test_a_clean_end_without_noise_is_for_method_paper_alone(said: dict[str, bool], clean: float | None) -> None:
    config = {name: value for name, value in SCHEDULER.items() if name != "set_alpha_to_one"}
    schedule, usual = read_schedule({**config, **said}, "here"), read_schedule(SCHEDULER, "there")
    assert torch.equal(schedule.alpha_bar, usual.alpha_bar)
    assert float(schedule.as_diffusers.clean) == (clean or float(usual.as_diffusers.alpha_bar[0])) > 0.998


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"prediction_type": "flow"}, "prediction_type 'flow'"),
        ({"_class_name": "EulerDiscreteScheduler"}, "EulerDiscreteScheduler"),
        ({"beta_schedule": "mystery"}, "mystery"),
        ({"trained_betas": [0.0, 0.1, 0.2]}, r"from 1\.0"),
        ({"trained_betas": [0.1, 0.2, 1.0]}, r"to 0\.0"),
        ({"beta_start": "x"}, "betas"),
        ({"clip_sample": True, "clip_sample_range": "x"}, "betas"),
    ],
)
def test_schedules_without_an_inverse_are_refused(pixel: Path, changes: dict[str, Any], message: str) -> None:
    scheduler(pixel, **changes)
    with pytest.raises(PriorError, match=f"scheduler_config.json.*{message}"):
        load_prior(pixel)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "format"),
        ({"speed": 1}, "unknown field"),
        ({"crop_side": "16"}, "crop_side"),
        ({"crop_side": True}, "crop_side"),
        ({"space_to_depth": 0}, "space_to_depth"),
        ({"conditioning": "text"}, "conditioning"),
        ({"conditioning": ["inpaint"]}, "conditioning"),
        ({"landmark_template": [[1, 2]]}, "landmark_template"),
        ({"landmark_template": "eyes"}, "landmark_template"),
        ({"landmark_template": [[float("nan"), 0]] * 5}, "landmark_template"),
        ({"latent_scaling": -1}, "latent_scaling"),
        ({"name": 3}, "name"),
        ({"grid": [5, 5]}, "grid"),
        ({"grid": [0, 1000]}, "grid"),
        ({"grid": "all"}, "grid"),
        ({"temperature": 0.1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"min_steps": 0}, "min_steps"),
        ({"min_steps": 8.0}, "min_steps"),
        ({"min_steps": {"none": 0}}, "min_steps"),
        ({"min_steps": {"psi": 8}}, "min_steps"),
        ({"min_steps": [8]}, "min_steps"),
        ({"crop_side": 18}, "does not fit"),
        ({"space_to_depth": 4}, "does not fit"),
        ({"conditioning": "inpaint"}, "needs a denoiser of 28 -> 12"),
    ],
)
def test_bad_declarations_are_refused(pixel: Path, fields: dict[str, Any], message: str) -> None:
    declare(pixel, **{"crop_side": 16, "space_to_depth": 2, **fields})
    with pytest.raises(PriorError, match=message):
        load_prior(pixel)


def test_files_that_are_not_json_are_refused(pixel: Path) -> None:
    for content in ("{", "[]", ""):
        (pixel / "keyanon_prior.json").write_text(content)
        with pytest.raises(PriorError, match=r"keyanon_prior\.json"):
            load_prior(pixel)


def test_incomplete_directories_are_refused(pixel: Path, tmp_path: Path) -> None:
    (pixel / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(PriorError, match="found 1, 0 and 0"):
        load_prior(pixel)
    with pytest.raises(PriorError, match="found 0, 0 and 0"):
        load_prior(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")
    with pytest.raises(PriorError, match="no such prior"):
        load_prior(tmp_path / "nowhere")


def test_networks_with_no_unconditional_use_are_refused(pixel: Path) -> None:
    config = json.loads((pixel / "unet" / "config.json").read_text())
    network = UNet2DModel.from_config({**config, "num_class_embeds": 3})
    network.save_pretrained(pixel / "unet")
    with pytest.raises(PriorError, match="class-conditional"):
        load_prior(pixel)


def test_autoencoders_that_always_quantise_are_refused(ldm: Path) -> None:
    edit(ldm / "vqvae" / "config.json", lookup_from_codebook=True)
    with pytest.raises(PriorError, match="quantises"):
        load_prior(ldm)


# The hub


def test_a_hub_id_is_taken_from_the_local_cache(made: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(made / "ldm", repository / "snapshots" / "0123abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    prior = load_prior("someone/tiny", cache_dir=tmp_path, offline=True)
    assert prior.digest == load_prior(made / "ldm").digest


def test_a_hub_id_that_can_not_be_reached_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PriorError, match=r"someone/absent: .*hub could not be reached.*give its directory"):
        load_prior("someone/absent", cache_dir=tmp_path, offline=True)


def test_only_json_and_safetensors_are_asked_of_the_hub(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(made / "ldm")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_prior("someone/tiny@v1")
    assert (asked["repository"], asked["revision"]) == ("someone/tiny", "v1")
    assert asked["allow_patterns"] == ["*.json", "*.safetensors"]


@pytest.mark.slow
def test_the_exact_architecture_of_ldm_celebahq_256_loads(tmp_path: Path) -> None:
    """274 M random parameters; one evaluation, to prove shapes and the loader, not quality."""
    save(
        UNet2DModel,
        tmp_path / "unet",
        sample_size=64,
        in_channels=3,
        out_channels=3,
        block_out_channels=(224, 448, 672, 896),
        layers_per_block=2,
        attention_head_dim=32,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=32,
        norm_eps=1e-5,
    )
    save(
        VQModel,
        tmp_path / "vqvae",
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        num_vq_embeddings=8192,
        latent_channels=3,
        sample_size=256,
    )
    scheduler(tmp_path)
    prior = load_prior(tmp_path)
    shutil.rmtree(tmp_path / "unet")  # a gigabyte
    assert (prior.side, prior.latent_shape, prior.conditioning) == (256, (3, 64, 64), "none")
    unet_parameters = sum(p.numel() for p in prior.networks.denoiser.network.parameters())
    assert round(unet_parameters / 1e6) == 274
    z = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    eps = prior.eps(z, 999, KnownPath(z, None, prior.alpha_bar), torch.ones(1, 1, 64, 64, dtype=torch.float64))
    assert eps.shape == z.shape and bool(torch.isfinite(eps).all())

"""Priors with random weights in a few kilobytes, in the layouts that real ones have; masks and keys to use them with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DModel, VQModel

from keyanon_core.keys import face_key

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "timestep_values": None,
}


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def declare(root: Path, **fields: Any) -> None:
    write_json(root / "keyanon_prior.json", {"format": 1, **fields})


def scheduler(root: Path, **changes: Any) -> None:
    write_json(root / "scheduler" / "scheduler_config.json", {**SCHEDULER, **changes})


SMOOTH = 0.1
"""Scale of an untrained denoiser's last layer. A trained one answers smoothly to its input; an untrained one does when its
output is small. Every inverse converges then, which a prior of one's own need not do."""

ROUGH = 30.0
"""A scale at which the denoiser answers to a change of its input with a larger one: a step's inverse does not contract."""


def save(build: Callable[..., Any], folder: Path, seed: int = 1, output: float = SMOOTH, **config: Any) -> Any:
    torch.manual_seed(seed)
    network = build(**config)
    for name, parameter in network.named_parameters():
        if name.startswith(("conv_out", "proj_out_2")):
            parameter.data *= output
    network.save_pretrained(folder)
    return network


def tiny_unet(folder: Path, in_channels: int, out_channels: int, size: int, output: float = SMOOTH) -> Any:
    return save(
        UNet2DModel,
        folder,
        output=output,
        sample_size=size,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )


def pixel_prior(
    root: Path,
    conditioning: str = "none",
    side: int = 16,
    block: int = 2,
    prediction: str = "sample",
    output: float = SMOOTH,
) -> Path:
    """UNet2DModel on space-to-depth pixels, as the embedded prior."""
    channels = 3 * block**2
    shown = channels if conditioning == "none" else 2 * channels + block**2
    tiny_unet(root / "unet", shown, channels, side // block, output)
    scheduler(root, prediction_type=prediction)
    declare(root, name="tiny", crop_side=side, space_to_depth=block, conditioning=conditioning)
    return root


def ldm_prior(root: Path, prediction: str = "epsilon", output: float = SMOOTH, cells: int = 8) -> Path:
    """The shape of CompVis/ldm-celebahq-256 in small: `unet`, `vqvae`, `scheduler`, no keyanon_prior.json, old config keys.
    cells: of the latent, a quarter of the picture's side.
    """
    tiny_unet(root / "unet", 3, 3, cells, output)
    save(
        VQModel,
        root / "vqvae",
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        num_vq_embeddings=16,
        norm_num_groups=4,
        latent_channels=3,
    )
    for folder in ("unet", "vqvae"):
        path = root / folder / "config.json"
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        write_json(path, {**config, "_diffusers_version": "0.1.2", "an_old_key": 1})
    scheduler(root, prediction_type=prediction)
    write_json(
        root / "model_index.json",
        {
            "_class_name": "LDMPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
            "vqvae": ["diffusers", "VQModel"],
        },
    )
    return root


def kl_prior(root: Path, output: float = SMOOTH) -> Path:
    tiny_unet(root / "unet", 4, 4, 8, output)
    save(
        AutoencoderKL,
        root / "vae",
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
    )
    scheduler(root, prediction_type="v_prediction")
    return root


def dit_prior(root: Path) -> Path:
    network = save(
        DiTTransformer2DModel,
        root / "transformer",
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        out_channels=6,
        num_layers=1,
        sample_size=16,
        patch_size=4,
        num_embeds_ada_norm=5,
        norm_num_groups=1,
    )
    assert network is not None
    scheduler(root)
    return root


def ellipse(side: int, rows: float = 0.8, columns: float = 0.66, down: float = 0.12) -> torch.Tensor:
    """(1, 1, side, side) bool."""
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return ((x / columns) ** 2 + ((y - down) / rows) ** 2 < 1)[None, None]


def a_key(number: int, transform: str = "rotation") -> bytes:
    return face_key(bytes([number]) * 32, 0, 0, transform)


def psnr(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> float:
    """dB over the masked values of all faces, peak to peak 2."""
    error = ((a - b).square() * mask).sum() / (mask.sum() * a.shape[1])
    return float(10 * torch.log10(4 / error.clamp_min(1e-30)))

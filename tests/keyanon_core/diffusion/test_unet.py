"""The network in torch alone is diffusers' own, name by name, and says what it says but for rounding."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from keyanon_core.errors import PriorError
from keyanon_core.priors import load_prior
from keyanon_core.priors.unet import PLAIN, PlainUNet, is_plain
from tests.keyanon_core.diffusion.tiny_priors import pixel_prior, write_json

EMBEDDED = Path(str(files("keyanon_core"))) / "embedded_prior" / "unet"
CONFIG: dict[str, Any] = json.loads((EMBEDDED / "config.json").read_text())
DEEPER = {
    **CONFIG,
    "block_out_channels": [32, 64, 64],
    "layers_per_block": 2,
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "time_embedding_dim": None,
}
BEYOND = {
    "act_fn": "gelu",
    "add_attention": False,
    "attn_norm_num_groups": 8,
    "center_input_sample": True,
    "class_embed_type": "identity",
    "downsample_padding": 0,
    "downsample_type": "resnet",
    "dropout": 0.1,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 1.4,
    "mid_block_type": None,
    "num_class_embeds": 3,
    "resnet_time_scale_shift": "scale_shift",
    "time_embedding_type": "fourier",
    "upsample_type": "resnet",
}


@pytest.mark.parametrize("config", [CONFIG, DEEPER], ids=["embedded", "deeper"])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["float64", "float32", "bfloat16"]
)
def test_it_says_what_the_original_says(config: dict[str, Any], dtype: torch.dtype) -> None:
    """But for rounding: in which order products are summed is the processor's choice, and another one's for another layout."""
    assert is_plain(config)
    torch.manual_seed(5)
    theirs: Any = UNet2DModel.from_config(config)
    ours = PlainUNet(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for network in (theirs, ours):
        network.eval().requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)
    side = 4 * 2 ** len(config["block_out_channels"])
    shown = torch.randn(2, config["in_channels"], side, side).to(dtype, memory_format=torch.channels_last)
    timesteps = torch.tensor([0, 999])
    with torch.inference_mode():
        said, original = ours(shown, timesteps), theirs(shown, timesteps).sample
    roundings = 4 if dtype == torch.bfloat16 else 32
    rounding = roundings * torch.finfo(dtype).eps * float(original.abs().max())
    assert float((said - original).abs().max()) <= rounding
    assert said.dtype == dtype and bool(said.float().std() > 0)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_what_it_does_not_do_is_left_to_the_original(name: str) -> None:
    assert not is_plain({**CONFIG, name: BEYOND[name]})
    assert not is_plain({key: value for key, value in CONFIG.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("in_channels", 0),
        ("in_channels", True),
        ("out_channels", "48"),
        ("layers_per_block", [1, 1, 1, 1]),
        ("norm_num_groups", None),
        ("norm_eps", "small"),
        ("attention_head_dim", 24),
        ("block_out_channels", []),
        ("block_out_channels", 64),
        ("block_out_channels", [64, 128, 192]),
        ("down_block_types", ["DownBlock2D"] * 3 + ["KDownBlock2D"]),
        ("up_block_types", ["UpBlock2D"] * 3 + [["UpBlock2D"]]),
    ],
)
def test_sizes_that_it_can_not_read_are_left_to_the_original(name: str, value: Any) -> None:
    assert not is_plain({**CONFIG, name: value})


def test_a_prior_that_needs_no_more_is_loaded_without_diffusers(tmp_path: Path) -> None:
    config = pixel_prior(tmp_path) / "unet" / "config.json"
    assert isinstance(load_prior(tmp_path).networks.denoiser.network, PlainUNet)
    write_json(config, {**json.loads(config.read_text()), "freq_shift": 1})
    assert isinstance(load_prior(tmp_path).networks.denoiser.network, UNet2DModel)


@pytest.mark.parametrize(("name", "value"), [("norm_num_groups", 3), ("time_embedding_dim", -1)])
def test_a_network_that_can_not_be_is_an_error_of_the_prior(tmp_path: Path, name: str, value: Any) -> None:
    config = pixel_prior(tmp_path) / "unet" / "config.json"
    write_json(config, {**json.loads(config.read_text()), name: value})
    with pytest.raises(PriorError, match="unet"):
        load_prior(tmp_path)

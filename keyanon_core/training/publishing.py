"""A trained denoiser as a prior's directory in diffusers format."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, UNet2DModel
from torch import nn

from keyanon_core.priors.declaration import DECLARATION_FILE, DECLARATION_FORMAT
from keyanon_core.training.settings import PriorSettings


def write_prior(network: nn.Module, settings: PriorSettings, directory: Path, name: str, licence: str) -> None:
    """Write `unet/` (float16 safetensors), `scheduler/` and the declaration, then put them in the place of what was there.

    A model card that was there stays. A crash leaves the old prior or the new one, never parts of both.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        made, old = Path(scratch) / "made", Path(scratch) / "old"
        half: Any = UNet2DModel.from_config(network.config)
        half.load_state_dict({key: value.detach().cpu() for key, value in network.state_dict().items()})
        half.half().save_pretrained(made / "unet")
        for weights in (made / "unet").glob("*.safetensors"):
            weights.chmod(0o644)  # written readable by its owner only; a prior holds no secret
        DDIMScheduler(
            num_train_timesteps=settings.timesteps,
            beta_start=settings.beta_start,
            beta_end=settings.beta_end,
            beta_schedule="scaled_linear",
            prediction_type=settings.prediction,
            set_alpha_to_one=False,
            clip_sample=False,
        ).save_pretrained(made / "scheduler")
        declared = {
            "format": DECLARATION_FORMAT,
            "name": name,
            "licence": licence,
            "crop_side": settings.side,
            "space_to_depth": settings.space_to_depth,
            "conditioning": settings.conditioning,
            "landmark_template": [list(point) for point in settings.template],
            "grid": list(settings.grid),
            "temperature": settings.temperature,
        }
        (made / DECLARATION_FILE).write_text(json.dumps(declared, indent=2) + "\n", encoding="utf-8")
        if directory.exists():
            for card in directory.glob("*.md"):
                shutil.copy2(card, made / card.name)
            directory.rename(old)
        made.rename(directory)

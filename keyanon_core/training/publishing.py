"""A trained denoiser as a prior's directory in diffusers format.

A directory can not be replaced by another in one step, so the old prior waits under a name of its own, `.NAME.previous`, until
the new one is in its place. Whatever fails or is killed in between, one of the two names holds a whole prior, and the next
`write_prior` puts it back first.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, UNet2DModel
from torch import nn

from keyanon_core.priors.declaration import DECLARATION_FILE
from keyanon_core.training.settings import PriorSettings


def write_prior(network: nn.Module, settings: PriorSettings, directory: Path, name: str, licence: str) -> None:
    """Write `unet/` (float16 safetensors), `scheduler/` and the declaration, then put them in the place of what was there.

    A model card that was there stays. After an error the old prior is in its place, or the new one, never parts of both;
    after a crash the next call repairs it. Raises OSError when something can not be written.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    previous = _put_back(directory)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        made = Path(scratch) / "made"
        half: Any = UNet2DModel.from_config(network.config)
        half.load_state_dict({key: value.detach().cpu() for key, value in network.state_dict().items()})
        half.half().save_pretrained(made / "unet")
        for weights in (made / "unet").glob("*.safetensors"):
            weights.chmod(0o644)  # written readable by its owner only; a prior holds no secret
        DDIMScheduler(**settings.scheduler).save_pretrained(made / "scheduler")
        declared = settings.declaration(name, licence).to_json()
        (made / DECLARATION_FILE).write_text(json.dumps(declared, indent=2) + "\n", encoding="utf-8")
        if directory.exists():
            for card in directory.glob("*.md"):
                shutil.copy2(card, made / card.name)
        if previous.exists():  # a crash came after the new one was in its place
            previous.rename(Path(scratch) / "older")  # at once, so that what bears the name is always whole
        try:
            if directory.exists():
                directory.rename(previous)
            made.rename(directory)
        finally:
            _put_back(directory)
        if previous.exists():
            previous.rename(Path(scratch) / "old")


def _put_back(directory: Path) -> Path:
    """Where `directory` waits while it is replaced; moved back when it was left there."""
    previous = directory.with_name(f".{directory.name}.previous")
    if previous.exists() and not directory.exists():
        previous.rename(directory)
    return previous

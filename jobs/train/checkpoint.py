"""What a training must remember to go on as if it had not been stopped: one safetensors file, never a pickle."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

STATE_FILE: Final = "training.safetensors"
_PROGRESS: Final = "progress"  # metadata: step, spent, and the averaging's own counters


@dataclass
class TrainingState:
    """Network, averaged weights and optimizer, changed in place. step: steps done; spent: seconds of training, all attempts."""

    network: nn.Module
    averaged: EMAModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    spent: float = 0.0

    def save(self, folder: Path) -> None:
        """Write STATE_FILE into an existing folder."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        averaged: dict[str, Any] = self.averaged.state_dict()
        shadows: list[Tensor] = averaged.pop("shadow_params")
        tensors |= {f"averaged.{index}": tensor for index, tensor in enumerate(shadows)}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
        progress = {"step": self.step, "spent": self.spent, "averaged": averaged}
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            folder / STATE_FILE,
            {_PROGRESS: json.dumps(progress)},
        )

    def restore(self, folder: Path, device: torch.device) -> None:
        """Take everything from what `save` wrote, for a network and an optimizer of the same shape."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "averaged": {}, "optimizer": {}}
        with safe_open(folder / STATE_FILE, "pt", device=str(device)) as file:
            progress = json.loads(file.metadata()[_PROGRESS])
            for key in file.keys():  # noqa: SIM118  the file is no mapping
                part, _, name = key.partition(".")
                parts[part][name] = file.get_tensor(key)
        self.network.load_state_dict(parts["network"])
        shadows = [parts["averaged"][str(index)] for index in range(len(parts["averaged"]))]
        self.averaged.load_state_dict({**progress["averaged"], "shadow_params": shadows})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in parts["optimizer"].items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.spent = int(progress["step"]), float(progress["spent"])

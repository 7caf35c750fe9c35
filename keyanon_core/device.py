"""Where networks compute: the CPU or an NVIDIA GPU."""

from typing import Final

import torch

from keyanon_core.errors import DeviceError

AUTO: Final = "auto"


def usable_device(name: str | torch.device = AUTO) -> torch.device:
    """The device of that name, which this process can use; "auto": a GPU where there is one, else the CPU.

    Raises DeviceError with the remedy.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == AUTO else name)
    except RuntimeError as error:
        raise DeviceError(f"device {name!r} is none; give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= there:
            why = f"torch {torch.__version__} finds {there} GPU(s)"
            if torch.version.cuda is None:
                why = f"torch {torch.__version__} was built without CUDA"
            raise DeviceError(f"device {name} can not be used here: {why}; mend that, or give device cpu")
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """True where the hardware itself does: emulated, bfloat16 is several times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())

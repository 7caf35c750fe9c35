"""In which format a network multiplies: strict float32, TF32 or bfloat16.

A solved step needs strict float32, because its fixed point is only as sharp as the network. Explicit steps may be coarser, in
bfloat16 those alone that recovery forgives (`exact.COARSE_SHARE`). torch allows TF32 in convolutions unless it is told not to,
so float32 is said here, not assumed.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final, Literal

import torch

from keyanon_core.device import multiplies_bfloat16
from keyanon_core.errors import DeviceError

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "tf32", "bfloat16")
STRICT: Final[Precision] = "float32"
FINE: Final[dict[Precision, Precision]] = {"float32": "float32", "tf32": "tf32", "bfloat16": "float32"}
"""By what a run's coarse steps multiply in: what its other explicit steps do."""
TF32_CAPABILITY: Final = (8, 0)  # NVIDIA's compute capability from which tensor cores take TF32 (Ampere)


def chosen_precision(asked: str, device: torch.device) -> Precision:
    """The format asked for; "auto": bfloat16 where the hardware multiplies it, else float32. Raises DeviceError."""
    if asked == "auto":
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    if asked == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= TF32_CAPABILITY):
        raise DeviceError(f"device {device} has no TF32; give precision float32, bfloat16 or auto")
    for precision in PRECISIONS:
        if precision == asked:
            return precision
    raise DeviceError(f"unknown precision {asked!r}; choose auto, {' or '.join(PRECISIONS)}")


@contextlib.contextmanager
def multiplying(precision: Precision) -> Iterator[None]:
    """float32 is multiplied strictly inside the `with` block, or in TF32. torch's flags, which are the whole process's, are
    afterwards as they were. What multiplies in bfloat16 has weights in it.
    """
    backends: list[Any] = [torch.backends.cuda.matmul]
    value: Any
    if hasattr(torch.backends.cudnn, "conv"):  # torch 2.9; older and newer flags must not be mixed
        backends += [torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
        flag, value = "fp32_precision", "tf32" if precision == "tf32" else "ieee"
    else:
        backends.append(torch.backends.cudnn)
        flag, value = "allow_tf32", precision == "tf32"
    before = [getattr(backend, flag) for backend in backends]
    try:
        for backend in backends:
            setattr(backend, flag, value)
        yield
    finally:
        for backend, kept in zip(backends, before, strict=True):
            setattr(backend, flag, kept)

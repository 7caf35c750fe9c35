"""In which format a network multiplies: strict float32, TF32 or bfloat16.

Explicit steps may be taken in any of them; a solved step needs strict float32, because its fixed point is only as sharp as the
network. torch allows TF32 in convolutions unless it is told not to, so float32 is said here, not assumed.
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
def multiplying(precision: Precision, device: torch.device) -> Iterator[None]:
    """Networks with float32 weights multiply in this format inside the `with` block. torch's flags, which are the whole
    process's, are afterwards as they were.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_tf32(allowed=precision == "tf32"))
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        yield


@contextlib.contextmanager
def _tf32(*, allowed: bool) -> Iterator[None]:
    backends: list[Any] = [torch.backends.cuda.matmul]
    value: Any
    if hasattr(torch.backends.cudnn, "conv"):  # torch 2.9; older and newer flags must not be mixed
        backends += [torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
        flag, value = "fp32_precision", "tf32" if allowed else "ieee"
    else:
        backends.append(torch.backends.cudnn)
        flag, value = "allow_tf32", allowed
    before = [getattr(backend, flag) for backend in backends]
    try:
        for backend in backends:
            setattr(backend, flag, value)
        yield
    finally:
        for backend, kept in zip(backends, before, strict=True):
            setattr(backend, flag, kept)

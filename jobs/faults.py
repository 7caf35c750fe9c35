"""Whose fault a failure is. Pure functions: they look at an error and touch nothing.

A fault of the row follows this row wherever it is worked on: the row is quarantined. A fault of the machine says nothing
about the row that met it: it is tried again in another process, and when that does not help either, the run ends and may
be started again. A fault of the run would meet every row alike: the run ends at once.
"""

import errno
import logging
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

from jobs.errors import MachineError, PseudonymsRefusedError
from keyanon_core.errors import DeviceError, FaceModelError, KeyanonError, NotReversibleError, PictureError, PriorError

logger = logging.getLogger("keyanon.stages")


class FaultKind(StrEnum):
    """What a failure is to blame on."""

    ROW = "row"
    MACHINE = "machine"
    RUN = "run"


OF_THE_RUN: Final = (PriorError, DeviceError, FaceModelError, NotReversibleError, PseudonymsRefusedError)
# By name, because this module is read by processes that never load torch.
_MACHINE_TYPES: Final = frozenset({"OutOfMemoryError", "AcceleratorError"})
_MEMORY_TYPES: Final = frozenset({"OutOfMemoryError"})
_MEMORY_WORDS: Final = (
    "out of memory",  # torch, for CUDA and HIP
    "insufficient memory",  # OpenCV
    "not enough memory",  # torch, for the CPU
    "allocate memory",  # "can't", "cannot" and "failed to": torch, onnxruntime, libc
    "bad_alloc",  # C++, by what()
    "bad allocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
_MACHINE_WORDS: Final = ("cuda error", "cuda failure", "cudnn", "cublas", "cusolver", "hip error", "nccl error")
_NATIVE_LIBRARIES: Final = frozenset({"cv2", "onnxruntime"})  # whose errors are no RuntimeErrors

# Error numbers that speak of the one file that was asked for; all others speak of the machine.
_ERRNOS_OF_A_FILE: Final = frozenset(
    {
        errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
        errno.EINVAL, errno.EILSEQ, errno.ENXIO, errno.EFBIG, errno.EOVERFLOW,
    }
)  # fmt: skip
# Further ones that speak of the place where something is written: it stays as it is until people mend it.
_ERRNOS_OF_A_PLACE: Final = _ERRNOS_OF_A_FILE | {
    errno.EEXIST, errno.ENOTEMPTY, errno.EROFS, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPROTO,
}  # fmt: skip
# How object stores tell of themselves rather than of the object: they set no error number.
_STORE_WORDS: Final = (
    "network_connection", "slow_down", "internal_failure", "service_unavailable", "request_timeout", "throttl",
    "http status 5", "curlcode", "timed out", "connection reset", "connection refused", "couldn't resolve",
)  # fmt: skip


def kind_of(error: BaseException) -> FaultKind:
    """Whose fault `error` is when it was raised while rows were worked on, which opens no file of a row."""
    if isinstance(error, OSError) and error.errno is not None:
        return FaultKind.MACHINE
    if any(_is_of_the_machine(link) for link in _chain(error)):
        return FaultKind.MACHINE
    if any(isinstance(link, OF_THE_RUN) for link in _chain(error)):
        return FaultKind.RUN
    return FaultKind.ROW


def kind_of_reading(error: BaseException) -> FaultKind:
    """Whose fault `error` is when it was raised while a row's own file was read."""
    return FaultKind.MACHINE if any(_is_of_the_machine(link) for link in _chain(error)) else FaultKind.ROW


def kind_of_writing(error: BaseException) -> FaultKind:
    """Whose fault `error` is when it was raised while an output was written: of the machine what may pass, a full disk or a
    server that fails; of the run what its place does not allow."""
    return FaultKind.MACHINE if any(_may_pass(link) for link in _chain(error)) else FaultKind.RUN


def is_short_of_memory(error: BaseException) -> bool:
    """True for faults of the machine that fewer rows at a time may avoid."""
    return any(_is_short_of_memory(link) for link in _chain(error))


def reason_of(error: BaseException) -> str:
    """The reason for a row that met a fault of its own.

    Only errors that keyanon raised on purpose are quoted: the message of any other could hold anything, a key included.
    """
    if isinstance(error, PictureError):
        return f"{error.reason}: {error}"
    if isinstance(error, KeyanonError):
        return f"unusable: {error}"
    logger.error("one picture was quarantined: %s", describe(error))
    return f"internal_error: {describe(error)}"


def describe(error: BaseException) -> str:
    """Type, place and, of a system call, the error's name: what may be shown of an error whose message may not."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (
        f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else "unknown place"
    )
    number = error.errno if isinstance(error, OSError) else None
    named = f" {errno.errorcode.get(number, number)}" if number is not None else ""
    return f"{type(error).__name__}{named} at {place}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, as a traceback shows them."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _is_of_the_machine(error: BaseException) -> bool:
    if isinstance(error, MachineError) or _is_short_of_memory(error) or _is_named(error, _MACHINE_TYPES):
        return True
    if isinstance(error, OSError):
        if error.errno is not None:
            return error.errno not in _ERRNOS_OF_A_FILE
        return _says(error, _STORE_WORDS)
    return _is_native(error) and _says(error, _MACHINE_WORDS)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _ERRNOS_OF_A_PLACE:
        return False
    return _is_of_the_machine(error)


def _is_short_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _is_named(error, _MEMORY_TYPES):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return _is_native(error) and _says(error, _MEMORY_WORDS)


def _is_native(error: BaseException) -> bool:
    """True for errors as libraries outside of Python raise them, whose message alone tells their kind."""
    return isinstance(error, RuntimeError) or type(error).__module__.split(".")[0] in _NATIVE_LIBRARIES


def _is_named(error: BaseException, names: frozenset[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return any(word in message for word in words)

"""Whose fault an error is: the errors are those that the libraries raise, where they can be had without the fault."""

import errno
import json
from collections.abc import Callable

import cv2
import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch

from jobs.errors import ConfigError, DefectError, JobError, LeaseError, MachineError, PublishError, SourceError
from jobs.exit_codes import ExitCode, exit_code_of
from jobs.faults import FaultKind, describe, is_short_of_memory, kind_of, kind_of_reading, kind_of_writing, reason_of
from keyanon_core.errors import (
    ConvergenceError,
    FaceModelError,
    KeyanonError,
    NotReversibleError,
    PictureError,
    PriorError,
)
from keystore.errors import KeystoreError, StorageError

ROW, MACHINE, RUN = FaultKind.ROW, FaultKind.MACHINE, FaultKind.RUN
TOO_MUCH = 1 << 50  # bytes: more than any machine has


def raised(action: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


def chained(outer: Exception, inner: Exception) -> BaseException:
    def action() -> None:
        raise outer from inner

    return raised(action)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PictureError("corrupt", "broken"), ROW),
        (KeyanonError("refused"), ROW),
        (ConvergenceError("stayed at 0.1"), ROW),
        (ZeroDivisionError(), ROW),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), ROW),
        (ValueError("out of memory"), ROW),  # a message, not a fault
        (raised(lambda: torch.zeros(2) + torch.zeros(3)), ROW),
        (raised(lambda: cv2.resize(np.zeros((0, 0)), (2, 2))), ROW),
        (OSError("image file is truncated"), ROW),  # Pillow's own, of no system call
        (MemoryError(), MACHINE),
        (raised(lambda: np.zeros(TOO_MUCH)), MACHINE),
        (raised(lambda: torch.zeros(TOO_MUCH)), MACHINE),
        (raised(lambda: pa.allocate_buffer(TOO_MUCH)), MACHINE),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), MACHINE),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), MACHINE),
        (RuntimeError("CUDA error: device-side assert triggered"), MACHINE),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), MACHINE),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), MACHINE),
        (cv2.error("(-4:Insufficient memory) Failed to allocate 40000000000 bytes"), MACHINE),
        (
            onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 8"
            ),
            MACHINE,
        ),
        *((OSError(number, "x"), MACHINE) for number in (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOMEM)),
        (FileNotFoundError(errno.ENOENT, "x"), MACHINE),  # a file of keyanon's own: rows are worked on from memory
        (MachineError("gone"), MACHINE),
        (PriorError("not the prior of the run"), RUN),
        (FaceModelError("weights are missing"), RUN),
        (NotReversibleError("came back at 12 dB"), RUN),
        # What an error was made of counts as much as what it was made into.
        (chained(PictureError("corrupt", "can not be decoded"), MemoryError()), MACHINE),
        (chained(PriorError("can not be read"), OSError(errno.EIO, "x")), MACHINE),
        (chained(PriorError("does not exist"), OSError(errno.ENOENT, "x")), RUN),
        (chained(RuntimeError("the batch failed"), NotReversibleError("x")), RUN),
    ],
)
def test_every_error_has_one_kind(error: BaseException, kind: FaultKind) -> None:
    assert kind_of(error) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(errno.ENOENT, "x"), ROW),
        (PermissionError(errno.EACCES, "x"), ROW),
        (OSError(errno.ELOOP, "x"), ROW),
        (pa.ArrowInvalid("Parquet magic bytes not found"), ROW),
        (OSError("Corrupt snappy compressed data"), ROW),
        (OSError(errno.EIO, "x"), MACHINE),
        (OSError(errno.EMFILE, "x"), MACHINE),
        (raised(lambda: pa.allocate_buffer(TOO_MUCH)), MACHINE),
        (
            OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 28, Timeout was reached"),
            MACHINE,
        ),
        (OSError("AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate."), MACHINE),
        (OSError("AWS Error NO_SUCH_KEY during GetObject operation"), ROW),
    ],
)
def test_a_file_that_can_not_be_read_differs_from_a_disk_that_can_not(error: BaseException, kind: FaultKind) -> None:
    assert kind_of_reading(error) is kind


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, MACHINE) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)),
        *(
            (number, RUN)
            for number in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EXDEV, errno.EEXIST, errno.EPROTO)
        ),
    ],
)
def test_a_place_that_does_not_allow_it_differs_from_a_disk_that_can_not_now(number: int, kind: FaultKind) -> None:
    assert kind_of_writing(OSError(number, "x")) is kind
    assert kind_of_writing(chained(ValueError("x"), OSError(number, "x"))) is kind


def test_errors_that_led_to_each_other_have_a_kind_too() -> None:
    first, second = ValueError("x"), PriorError("y")
    first.__cause__, second.__cause__ = second, first
    assert kind_of(first) is RUN and kind_of_reading(first) is ROW and not is_short_of_memory(first)


def test_only_a_want_of_memory_is_answered_by_fewer_rows() -> None:
    assert is_short_of_memory(MemoryError()) and is_short_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_short_of_memory(chained(ValueError("x"), MemoryError()))
    assert not is_short_of_memory(RuntimeError("CUDA error: unspecified launch failure"))
    assert not is_short_of_memory(OSError(errno.EIO, "x"))


def test_reasons_quote_only_what_keyanon_wrote(caplog: pytest.LogCaptureFixture) -> None:
    assert reason_of(PictureError("corrupt", "its header is broken")) == "corrupt: its header is broken"
    assert reason_of(KeyanonError("the face is no face")) == "unusable: the face is no face"
    assert not caplog.records
    secret = raised(lambda: {}["canary"])
    assert "canary" not in reason_of(secret) and reason_of(secret).startswith(
        "internal_error: KeyError at test_faults.py:"
    )
    assert "KeyError at test_faults.py:" in caplog.text and "canary" not in caplog.text
    assert describe(raised(lambda: json.loads("{"))).startswith("JSONDecodeError at decoder.py:"), "where it arose"
    assert describe(OSError(errno.ENOSPC, "canary")) == "OSError ENOSPC at unknown place"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MachineError("no memory"), ExitCode.TRY_AGAIN),
        (LeaseError("another run is writing"), ExitCode.TRY_AGAIN),
        (SourceError("no picture"), ExitCode.INPUT),
        (PublishError("not empty"), ExitCode.INPUT),
        (PriorError("no prior"), ExitCode.INPUT),
        (StorageError("no keystore"), ExitCode.INPUT),
        (KeystoreError("not approved"), ExitCode.REFUSED),
        (ConfigError("no such setting"), ExitCode.USAGE),
        (NotReversibleError("12 dB"), ExitCode.NOT_CONVERGED),
        (DefectError("ZeroDivisionError at x.py:1"), ExitCode.UNEXPECTED),
        (ZeroDivisionError(), ExitCode.UNEXPECTED),
    ],
)
def test_exit_codes_tell_try_again_from_mend_the_input_and_ask_people(error: Exception, code: ExitCode) -> None:
    assert exit_code_of(error) is code
    assert issubclass(MachineError, JobError) and ExitCode.TRY_AGAIN == 75

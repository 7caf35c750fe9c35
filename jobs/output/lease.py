"""The lease of an output: two attempts of a run can not both write (invariant I5).

The driver holds a lock on `_keyanon/lease`, which the operating system takes back the moment the process ends, however
it ends. Only the driver makes results visible. The file names the attempt: workers compare it before they stage a block, so
that a straggler of a dead attempt ends early; that it can do no harm rests on its folder being its own (`jobs.output.staging`).
"""

import fcntl
import json
import os
import socket
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from jobs.errors import LeaseError
from jobs.output.layout import LEASE_FILE
from keystore.storage import durable

_PATIENCE_SECONDS: Final = 1.0  # with a lock that may be `living_holder`'s look
_LOOK_SECONDS: Final = 0.05


@dataclass(frozen=True)
class LeaseToken:
    """What a worker needs to see whether its attempt still holds the output."""

    path: Path
    attempt: str

    def check(self) -> None:
        """Raise LeaseError when another attempt holds the output, or nobody does any more."""
        try:
            holder = json.loads(self.path.read_text(encoding="utf-8")).get("attempt")
        except (OSError, ValueError, AttributeError) as error:
            raise LeaseError(f"{self.path} can not be read ({type(error).__name__}); nothing was published") from error
        if holder != self.attempt:
            raise LeaseError(f"another attempt holds {self.path}; this one publishes nothing more")


class Lease:
    """Of a directory, held within a `with` block."""

    def __init__(self, directory: Path) -> None:
        self.token = LeaseToken(directory / LEASE_FILE, uuid.uuid4().hex)
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lease. Raises LeaseError when a living process has it, OSError when the file can not be written."""
        path = self.token.path
        durable.make_directory(path.parent, 0o755)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            holder = os.read(descriptor, 4096).decode("utf-8", "replace").strip()
            os.close(descriptor)
            raise LeaseError(
                f"another run is writing there and holds {path} ({holder}); wait for it, or choose another output"
            ) from error
        try:
            # In place, not by rename: the lock belongs to this file.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(said_of_holder(self.token.attempt)) + "\n").encode(), 0)
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)  # and with it the lock, which this process would keep
            raise
        self._descriptor = descriptor
        return self

    def check(self) -> None:
        """Raise LeaseError unless this attempt may go on publishing."""
        self.token.check()

    def commit(self, adds: list[str], drops: list[str] | None = None) -> None:
        """Row shards were published, others are about to be removed: while the lock is held nobody need be told."""

    def withdraw(self) -> None:
        """Let the workers of this attempt find no holder, while the lock is still held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            self.withdraw()
            os.close(self._descriptor)
            self._descriptor = None


def said_of_holder(attempt: str) -> dict[str, Any]:
    """What a lease tells people of who takes it now."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"attempt": attempt, "host": socket.gethostname(), "pid": os.getpid(), "since": since}


def living_holder(directory: Path) -> dict[str, Any] | None:
    """What the holder of a directory's lease says of itself; None where no living process has it. Raises OSError."""
    try:
        descriptor = os.open(directory / LEASE_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        text = os.read(descriptor, 4096).decode("utf-8", "replace")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _said(text)
        return None
    finally:
        os.close(descriptor)


def _said(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:  # it has taken the lock, and not yet written who it is
        return {}
    return said if isinstance(said, dict) else {}


def _lock(descriptor: int) -> None:
    """Take the lock. Raises BlockingIOError where another process has it for longer than a look takes."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_SECONDS)

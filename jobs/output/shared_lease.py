"""The lease of an output in a bucket, where no operating system takes a dead process's lock away.

The holder writes `_keyanon/lease` anew every few seconds, each time only over what it wrote itself. Who wants the output
watches: a lease that changes has a living holder, one that stays the same for LEASE_SECONDS has none and is taken over. Clocks of
two machines are never compared. The lease spares work and tells people; that a holder which was only stopped does no harm
when it goes on rests on the segments (`jobs.output.segments`).
"""

import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from jobs.errors import LeaseError, MachineError
from jobs.output.layout import LEASE
from jobs.output.lease import Lease, LeaseToken, living_holder, said_of_holder
from jobs.output.segments import Segments
from jobs.storage.local import LocalStore
from jobs.storage.store import ChangedError, Seen, Store

LEASE_SECONDS: Final = 20.0  # without a sign of life, after which a holder is taken for dead
RENEWAL_SECONDS: Final = 4.0
_LOOK_SECONDS: Final = 0.5  # between looks at another's lease

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedToken:
    """What a worker needs to see whether its attempt still holds the output."""

    store: Store
    attempt: str

    def check(self) -> None:
        """Raise LeaseError when another attempt holds the output, or nobody does any more; MachineError."""
        try:
            holder = _holder(self.store.see(LEASE)).get("attempt")
        except OSError as error:
            raise LeaseError(
                f"{self.store.full(LEASE)} can not be read ({error.strerror}); nothing was published"
            ) from error
        if holder != self.attempt:
            raise LeaseError(f"another attempt holds {self.store}; this one publishes nothing more")


class SharedLease:
    """Held within a `with` block, and renewed by a thread."""

    def __init__(self, store: Store) -> None:
        self.token = SharedToken(store, uuid.uuid4().hex)
        self._store, self._version = store, ""
        self._hurried = store.in_a_hurry()  # a renewal that hangs is begun anew while it is of use, and holds nobody up
        self._said: dict[str, Any] = {}
        self._beat, self._renewed = 0, 0.0  # how often, and when by `time.monotonic` the last renewal was begun
        self._over = threading.Event()
        self._renewing = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="keyanon-lease", daemon=True)
        self._segments: Segments | None = None

    def __enter__(self) -> Self:
        """Take the lease, at the latest after LEASE_SECONDS, and fence off earlier attempts.

        Raises:
            LeaseError: a living process has it. PublishError: the segments are damaged. OSError, MachineError.
        """
        self._store.check()
        free = self._await_free()
        self._renewed, self._said = time.monotonic(), said_of_holder(self.token.attempt)
        try:
            self._version = self._store.replace(LEASE, self._content(), free)
        except ChangedError as error:
            raise LeaseError(f"another run has just begun to write to {self._store}; wait for it") from error
        self._thread.start()
        try:
            self._segments = Segments.read(self._store, self.token.attempt)
            self._segments.append([])
        except BaseException:
            self._release()
            raise
        return self

    def check(self) -> None:
        """Raise LeaseError unless this attempt may go on publishing, MachineError."""
        if self._over.is_set() or time.monotonic() - self._renewed > LEASE_SECONDS:
            raise LeaseError(f"the lease of {self._store} could not be renewed; this attempt publishes nothing more")
        self.token.check()

    def commit(self, adds: list[str], drops: list[str] | None = None) -> None:
        """Make row shards visible, and others not any more. Raises LeaseError: another attempt began; OSError, MachineError."""
        if self._segments is None:
            raise LeaseError(f"the lease of {self._store} is not held")
        self._segments.append(adds, drops)

    def withdraw(self) -> None:
        """Let the workers of this attempt find no holder."""
        self._release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        with self._renewing:
            if self._over.is_set():
                return
            self._over.set()
            try:
                self._hurried.replace(LEASE, b"{}\n", self._version)
            except (OSError, MachineError) as error:  # whoever comes next waits until it has expired
                logger.debug("the lease could not be given back: %s", type(error).__name__)

    def _await_free(self) -> str | None:
        """The version of the lease to write over; None when there is none."""
        found, lives = _watch(self._store)
        if lives:
            holder = {name: _holder(found).get(name) for name in ("host", "pid")}
            raise LeaseError(
                f"another run is writing to {self._store} ({holder}); wait for it, or choose another output"
            )
        return None if found is None else found.version

    def _content(self) -> bytes:
        return (json.dumps({**self._said, "beat": self._beat}) + "\n").encode()

    def _renew(self) -> None:
        while not self._over.wait(RENEWAL_SECONDS):
            with self._renewing:
                if self._over.is_set():
                    return
                try:
                    self._renew_once()
                except (OSError, MachineError) as error:  # tried again; `check` counts the time
                    logger.warning("the lease of %s could not be renewed: %s", self._store, type(error).__name__)

    def _renew_once(self) -> None:
        self._beat += 1
        begun = time.monotonic()
        try:
            self._version = self._hurried.replace(LEASE, self._content(), self._version)
        except ChangedError:
            seen = self._hurried.see(LEASE)
            if seen is None or _holder(seen).get("attempt") != self.token.attempt:
                self._over.set()
                return
            # It is a renewal of ours, whose answer was lost.
            self._version = self._hurried.replace(LEASE, self._content(), seen.version)
        self._renewed = begun


HeldLease = Lease | SharedLease
Token = LeaseToken | SharedToken


def lease_of(store: Store) -> HeldLease:
    """The lease that fits where an output lies."""
    return Lease((store.root / LEASE).parent) if isinstance(store, LocalStore) else SharedLease(store)


def holder_of(store: Store) -> dict[str, Any] | None:
    """What the living holder of an output's lease says of itself; None where there is none. Of a bucket it takes up to
    LEASE_SECONDS to know. Raises OSError, MachineError."""
    if isinstance(store, LocalStore):
        return living_holder((store.root / LEASE).parent)
    found, lives = _watch(store)
    return _holder(found) if lives else None


def _watch(store: Store) -> tuple[Seen | None, bool]:
    """The lease as it was seen last, and whether it was renewed meanwhile, as a living holder does."""
    first = found = store.see(LEASE)
    deadline = time.monotonic() + LEASE_SECONDS
    while found is not None and _holder(found):
        if first is not None and found.version != first.version:
            return found, True
        if time.monotonic() > deadline:
            break
        time.sleep(_LOOK_SECONDS)
        found = store.see(LEASE)
    return found, False


def _holder(seen: Seen | None) -> dict[str, object]:
    """What a lease says of its holder; {} when it has none."""
    try:
        said = json.loads(seen.content) if seen is not None else {}
    except ValueError:
        return {"attempt": None}  # of something that is not ours: as held, until it has been the same for long enough
    return said if isinstance(said, dict) else {"attempt": None}
